"""The C library with hand-made graphs in the place of networks: arguments, files, matrices, iterations, threads."""

import ctypes
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from capi_support import Failed, Library, host, laplacian, missing, product, run, stand_in_library, write_artefact

pytestmark = [
    pytest.mark.embed,
    pytest.mark.skipif(bool(missing("g++", "gcc")), reason="no C and C++ compiler (g++, gcc) here"),
]


@pytest.fixture(scope="module")
def library(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(stand_in_library(tmp_path_factory.mktemp("stand_in"), library=library))


@pytest.fixture(scope="module")
def folder(library: Library) -> Path:
    return library.folder


def fails(status: str, call: object, *words: str) -> None:
    """The call ends with this status and one sentence that holds the words."""
    with pytest.raises(Failed) as failure:
        call()  # type: ignore[operator]
    sentence = failure.value.sentence
    assert failure.value.status == status, sentence
    assert sentence.endswith(".") and "\n" not in sentence
    for word in words:
        assert word in sentence


# ---- files


def test_a_missing_folder_and_a_missing_file(library: Library, tmp_path: Path) -> None:
    fails("FILE", lambda: library.load(tmp_path / "nowhere"), "nowhere")
    path = write_artefact(tmp_path / "a.sciops", "operator")
    (path / "model.float64.pt2").unlink()
    fails("FILE", lambda: library.load(path), "model.float64.pt2")


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 65535, 65536, 65537, 200000])
def test_checksums_are_sha256(library: Library, tmp_path: Path, size: int) -> None:
    path = write_artefact(tmp_path / "a.sciops", "operator")
    manifest = json.loads((path / "manifest.json").read_text())
    data = np.random.default_rng(size).bytes(size)
    (path / "extra").write_bytes(data)
    manifest["files"]["extra"] = hashlib.sha256(data).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    with library.load(path):
        pass
    (path / "extra").write_bytes(data + b"\0")
    fails("CHECKSUM", lambda: library.load(path), "extra")


def test_a_tampered_package_is_never_opened(library: Library, tmp_path: Path) -> None:
    path = write_artefact(tmp_path / "a.sciops", "operator")
    (path / "model.float32.pt2").write_text("unopenable")  # the backend would fail with status BACKEND
    fails("CHECKSUM", lambda: library.load(path))


def test_files_outside_the_folder_are_refused(library: Library, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    path = write_artefact(tmp_path / "a.sciops", "operator")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../secret"] = hashlib.sha256(b"x").hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    fails("FILE", lambda: library.load(path), "outside")


def test_other_versions_are_refused(library: Library, tmp_path: Path) -> None:
    fails("VERSION", lambda: library.load(write_artefact(tmp_path / "a", "operator", schema=2)), "schema 2")
    fails(
        "VERSION",
        lambda: library.load(write_artefact(tmp_path / "b", "operator", versions={"torch": "2.12.1"})),
        "2.12",
    )
    with library.load(write_artefact(tmp_path / "c", "operator", versions={"torch": "2.13.7+cpu"})):
        pass


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", '{"format": "sciops"', '{"format": "other"}', '{"a": 1} x', '{"a": tru}', '{"a": "\\x"}',
    '{"a": "\\ud800"}', '{"a": 1e}', '{"a": +1}', '{"a" 1}', "[" * 100000, '{"a": "b\nc"}', '{"format": 5}',
])  # fmt: skip
def test_what_is_no_manifest_is_refused(library: Library, tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    fails("FILE", lambda: library.load(tmp_path))


@pytest.mark.parametrize(
    "key", ["name", "kind", "ndim", "precisions", "shape", "entries", "versions", "files", "schema"]
)
def test_a_manifest_without_a_key_is_refused(library: Library, tmp_path: Path, key: str) -> None:
    path = write_artefact(tmp_path / "a", "multigrid")
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest[key]
    (path / "manifest.json").write_text(json.dumps(manifest))
    fails("FILE", lambda: library.load(path), key)


def test_the_manifest_is_read_in_full(library: Library, tmp_path: Path) -> None:
    path = write_artefact(
        tmp_path / "a", "operator", remarks=['tab\t \\ / " “é” 😀', 1.5e-300, -0.0, True, None, [[]], {}]
    )
    (path / "manifest.json").write_text(json.dumps(json.loads((path / "manifest.json").read_text()), ensure_ascii=True))
    with library.load(path) as model:
        assert model.describe() == json.loads((path / "manifest.json").read_text())
        assert model.channels() == (2, 1) and not model.is_linear()
    with library.load(write_artefact(tmp_path / "b", "multigrid")) as model:
        assert model.channels() == (1, 1) and model.is_linear()


def test_the_missing_backend_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "libsciops.so").write_bytes((folder / "libsciops.so").read_bytes())
    alone = Library(tmp_path)
    path = write_artefact(tmp_path / "a", "operator")
    fails("BACKEND", lambda: alone.load(path), "libsciops_torch.so")
    (tmp_path / "libsciops_torch.so").write_bytes((folder / "libsciops_torch.so").read_bytes())
    with alone.load(path):  # a failure is not for ever
        pass


def test_a_package_without_the_entry(library: Library, tmp_path: Path) -> None:
    fails("BACKEND", lambda: library.load(write_artefact(tmp_path / "a", "operator", "unopenable")), "no such entry")


def test_precisions_that_are_not_there(library: Library, tmp_path: Path) -> None:
    path = write_artefact(tmp_path / "a", "operator")
    fails("VALUE", lambda: library.load(path, precision=16), "16 bits")
    fails("VALUE", lambda: library.load(path, threads=-1), "threads")


# ---- operators


@pytest.mark.parametrize("bits", [32, 64])
def test_an_operator_answers_in_its_precision(library: Library, tmp_path: Path, bits: int) -> None:
    x = np.random.default_rng(0).random((2, 5, 7))
    with library.load(write_artefact(tmp_path / "a", "operator"), bits) as model:
        u, found = model.solve(x)
    narrow = x.astype(f"float{bits}")
    np.testing.assert_array_equal(u[0], (2 * narrow[0] + narrow[1]).astype(np.float64))
    assert (found.outside, found.channel) == (0.0, -1)


def test_inputs_beyond_the_training_range_are_reported(library: Library, tmp_path: Path) -> None:
    x = np.full((2, 4, 4), 1.0)
    x[0, 1, 2], x[1] = 2.5, 1e9  # the range of the second channel is unknown
    with library.load(write_artefact(tmp_path / "a", "operator")) as model:
        assert model.solve(x)[1].outside == pytest.approx(0.25)
        x[0, 0, 0] = -3.0
        found = model.solve(x)[1]
    assert found.outside == pytest.approx(1.5) and found.channel == 0


def test_grids_are_checked(library: Library, tmp_path: Path) -> None:
    shape = {"dynamic": True, "multiple": [8, 1], "remainder": [1, 0], "minimum": [9, 4], "maximum": [None, 64]}
    with library.load(write_artefact(tmp_path / "a", "operator", shape=shape)) as model:
        assert model.accepts(9, 4) and model.accepts(8 * 100 + 1, 64)
        for wrong in ((16, 8), (1, 8), (9, 65), (9, 3), (9,), (9, 9, 9), (9, 0), (9, -4), (1, 2, 3, 4)):
            assert not model.accepts(*wrong)
            if min(wrong) > 0:
                fails("SHAPE", lambda wrong=wrong: model.solve(np.zeros((2, *wrong))))
    with library.load(write_artefact(tmp_path / "b", "operator", shape={"dynamic": False})) as model:
        assert model.accepts(16, 16) and not model.accepts(16, 17)
    free = {"dynamic": True, "multiple": [1, 1], "remainder": [0, 0], "minimum": [2, 2], "maximum": [None, None]}
    with library.load(write_artefact(tmp_path / "c", "operator", shape=free)) as model:
        assert model.accepts(2**20, 2**20)
        for wrong in ((2**32, 2**32), (2**40, 2), (2**62, 2)):  # 2^64 points would be none
            assert not model.accepts(*wrong) and b"2^40 points" in library.c.sciops_last_error()


def test_values_are_checked(library: Library, tmp_path: Path) -> None:
    x = np.ones((2, 4, 4))
    x[1, 3, 3] = np.inf
    with library.load(write_artefact(tmp_path / "a", "operator")) as model:
        fails("VALUE", lambda: model.solve(x), "'f'")
        fails("KIND", lambda: model.setup(laplacian(8, 8)), "sciops_solve")
        c = library.c
        assert c.sciops_solve(model.handle, 2, None, None, None, None) == 6
        assert b"null pointer" in c.sciops_last_error()
    with library.load(write_artefact(tmp_path / "b", "operator", "nan")) as model:
        fails("NONFINITE", lambda: model.solve(np.ones((2, 4, 4))), "finite")
    with library.load(write_artefact(tmp_path / "c", "operator", "fail")) as model:
        fails("BACKEND", lambda: model.solve(np.ones((2, 4, 4))), "told to fail")
    with library.load(write_artefact(tmp_path / "d", "operator", "wrong_shape")) as model:
        fails("BACKEND", lambda: model.solve(np.ones((2, 4, 4))), "1 x 1 x 4 x 3")
    with library.load(write_artefact(tmp_path / "e", "direction")) as model:
        fails("KIND", lambda: model.solve(np.ones((1, 4, 4))), "sciops_setup")


# ---- matrices


def test_matrices_are_checked(library: Library, tmp_path: Path) -> None:
    good = laplacian(12, 10)
    with library.load(write_artefact(tmp_path / "a", "multigrid")) as model:
        fails("VALUE", lambda: model.setup(-good), "-A")
        for place, value, words in (
            ((0, 3, 4), np.nan, ("diagonal", "(3, 4)")),
            ((1, 3, 4), np.inf, ("axis 0", "(3, 4)")),
            ((2, 3, 4), -1.0, ("axis 1", "negative")),
            ((0, 3, 4), 0.0, ("diagonal is zero",)),
        ):
            bad = good.copy()
            bad[place] = value
            fails("VALUE", lambda bad=bad: model.setup(bad), *words)
        fails("VALUE", lambda: model.setup(0 * good), "no unknown")
        fails("SHAPE", lambda: model.setup(laplacian(1, 10)))
        with model.setup(good) as f:
            r = np.ones((12, 10))
            r[5, 5] = np.nan
            fails("VALUE", lambda: f(r), "residual")


def test_couplings_beyond_the_box_count_for_nothing(library: Library, tmp_path: Path) -> None:
    good = laplacian(16, 12)
    wild = good.copy()
    wild[1, -1], wild[2, :, -1] = 7.0, 7.0
    r = np.random.default_rng(1).standard_normal((16, 12))
    with (
        library.load(write_artefact(tmp_path / "a", "multigrid")) as model,
        model.setup(good) as f,
        model.setup(wild) as g,
    ):
        np.testing.assert_array_equal(f(r), g(r))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("shape", [(16, 16), (15, 17), (33, 8), (5, 5), (101, 3)])
def test_the_recursion_is_the_one_that_was_meant(
    library: Library, tmp_path: Path, shape: tuple[int, int], bits: int
) -> None:
    """The stand-in is B = D⁻¹ + P A_c⁻¹ Pᵀ with injection P and diagonal coarse matrices: written out here."""
    matrix = laplacian(*shape, coefficient=np.random.default_rng(2).random(shape) + 0.5)
    r = np.random.default_rng(3).standard_normal(shape)

    def cycle(diagonal: np.ndarray, r: np.ndarray, finest: bool) -> np.ndarray:
        if r.size <= 100 or max(r.shape) <= 2:
            return r / diagonal
        z = r / diagonal
        z[::2, ::2] += cycle(diagonal[::2, ::2], r[::2, ::2], False)
        return z

    if np.prod(shape) <= 100:  # a dense solve
        dense = np.stack([product(matrix, e.reshape(shape)).ravel() for e in np.eye(r.size)])
        expected = np.linalg.solve(dense, r.ravel()).reshape(shape)
    else:
        expected = cycle(matrix[0], r, True)
    with library.load(write_artefact(tmp_path / "a", "multigrid"), bits) as model, model.setup(matrix) as f:
        z = f(r)
        small = f(1e-200 * r)
    bound = {32: 2e-5, 64: 1e-12}[bits]
    assert np.abs(z - expected).max() < bound * np.abs(expected).max()
    np.testing.assert_allclose(small, 1e-200 * z, rtol=1e-5 if bits == 32 else 1e-13)


@pytest.mark.parametrize("behaviour", ["good", "spill"])
@pytest.mark.parametrize("kind", ["multigrid", "direction"])
def test_cells_that_are_no_unknowns_stay_zero(library: Library, tmp_path: Path, kind: str, behaviour: str) -> None:
    hole = np.ones((16, 14))
    hole[4:7, 5:9] = 0
    matrix = laplacian(16, 14, coefficient=hole)
    r = np.random.default_rng(4).standard_normal(hole.shape)
    with library.load(write_artefact(tmp_path / "a", kind, behaviour)) as model, model.setup(matrix) as f:
        z = f(r)
        np.testing.assert_array_equal(z, f(np.where(hole > 0, r, 1e9)))
    assert (z[hole == 0] == 0).all() and (z[hole > 0] != 0).any()


def test_networks_that_fail_say_so(library: Library, tmp_path: Path) -> None:
    matrix = laplacian(16, 16)
    with library.load(write_artefact(tmp_path / "a", "multigrid", "fail")) as model:
        fails("BACKEND", lambda: model.setup(matrix), "told to fail")
    with library.load(write_artefact(tmp_path / "b", "multigrid", "wrong_shape")) as model:
        fails("BACKEND", lambda: model.setup(matrix)(np.ones((16, 16))))
    with library.load(write_artefact(tmp_path / "c", "direction", "nan")) as model, model.setup(matrix) as f:
        fails("NONFINITE", lambda: f(np.ones((16, 16))), "finite")


# ---- iterations


@pytest.mark.parametrize("kind", ["multigrid", "direction"])
@pytest.mark.parametrize("safeguard", [0, 1])
def test_systems_are_solved(library: Library, tmp_path: Path, kind: str, safeguard: int) -> None:
    matrix = laplacian(24, 17, coefficient=np.exp(np.random.default_rng(5).standard_normal((24, 17))))
    truth = np.random.default_rng(6).standard_normal((24, 17))
    with library.load(write_artefact(tmp_path / "a", kind)) as model, model.setup(matrix) as f:
        b = product(matrix, truth)
        x, report, status = f.fcg(b, tolerance=1e-11, safeguard=safeguard)
        assert status == "OK" and report.residual <= 1e-11
        assert np.abs(x - truth).max() < 1e-8
        again, second, _ = f.fcg(b, x, tolerance=1e-8)
        assert second.iterations == 0
        np.testing.assert_array_equal(again, x)
        x, report, status = f.fcg(b, maxiter=3, tolerance=1e-11)
        assert status == "NOT_CONVERGED" and report.iterations == 3
        assert report.residual == pytest.approx(np.linalg.norm(b - product(matrix, x)) / np.linalg.norm(b))
        huge, _, status = f.fcg(1e300 * b, tolerance=1e-11)
        assert status == "OK"
        np.testing.assert_allclose(huge * 1e-300, truth, rtol=0, atol=1e-8)
        zero, report, status = f.fcg(0 * b)
        assert status == "OK" and report.iterations == 0 and not zero.any()
        fails("VALUE", lambda: f.fcg(np.full_like(b, np.nan)), "right-hand side")
        fails("VALUE", lambda: f.fcg(b, np.full_like(b, np.inf)), "start")


def test_a_linear_preconditioner_needs_a_window_of_one(library: Library, tmp_path: Path) -> None:
    """Flexible with any window and ordinary conjugate gradients make the same iterates up to rounding."""
    matrix = laplacian(20, 20)
    b = np.random.default_rng(7).standard_normal((20, 20))
    with library.load(write_artefact(tmp_path / "a", "multigrid"), 64) as model, model.setup(matrix) as f:
        counts = {window: f.fcg(b, window=window, tolerance=1e-9)[1].iterations for window in (1, 2, 30)}
    assert len(set(counts.values())) == 1
    size = 400
    dense = np.stack([product(matrix, e.reshape(20, 20)).ravel() for e in np.eye(size)])
    with library.load(write_artefact(tmp_path / "b", "multigrid"), 64) as model, model.setup(matrix) as f:
        B = np.stack([f(e.reshape(20, 20)).ravel() for e in np.eye(size)])
    x, r, p, rz, count = np.zeros(size), b.ravel().copy(), None, 1.0, 0
    while np.linalg.norm(r) > 1e-9 * np.linalg.norm(b):
        z = B @ r
        p, rz = z if p is None else z + (r @ z) / rz * p, r @ z
        q = dense @ p
        x, r, count = x + rz / (p @ q) * p, r - rz / (p @ q) * q, count + 1
    assert abs(counts[1] - count) <= 1


def test_a_network_that_answers_nothing_finite_does_not_stop_the_solve(library: Library, tmp_path: Path) -> None:
    matrix = laplacian(16, 16)
    b = np.random.default_rng(8).standard_normal((16, 16))
    with library.load(write_artefact(tmp_path / "a", "direction", "nan")) as model, model.setup(matrix) as f:
        x, report, status = f.fcg(b)
    assert status == "OK" and report.fallbacks == report.iterations > 0
    assert np.linalg.norm(b - product(matrix, x)) <= 1.01e-8 * np.linalg.norm(b)


def test_null_spaces(library: Library, tmp_path: Path) -> None:
    """Two rooms without walls to the outside: a constant each is free, and b need not be compatible."""
    a = np.ones((20, 12))
    a[9] = 0
    matrix = laplacian(20, 12, coefficient=a, walls=False)
    truth = np.random.default_rng(9).standard_normal(a.shape) * (a > 0)
    truth[:9] -= truth[:9].mean()
    truth[10:] -= truth[10:].mean()
    b = product(matrix, truth)
    b[:9] += 3.0
    b[9] = 5.0  # no unknowns there
    with library.load(write_artefact(tmp_path / "a", "multigrid")) as model, model.setup(matrix) as f:
        x, _, status = f.fcg(b, tolerance=1e-11, null_space=1)
    assert status == "OK"
    assert np.abs(x - truth).max() < 1e-8


def test_a_matrix_that_is_not_positive_is_noticed(library: Library, tmp_path: Path) -> None:
    matrix = laplacian(16, 16)
    matrix[0] -= 3.0  # below the smallest eigenvalue by far
    with library.load(write_artefact(tmp_path / "a", "direction")) as model, model.setup(matrix) as f:
        fails("VALUE", lambda: f.fcg(np.ones((16, 16))), "not positive definite")


# ---- threads and traps


@pytest.mark.parametrize("kind", ["multigrid", "direction"])
def test_threads_share_a_model(library: Library, tmp_path: Path, kind: str) -> None:
    matrix = laplacian(40, 40)
    residuals = np.random.default_rng(10).standard_normal((64, 40, 40))
    with library.load(write_artefact(tmp_path / "a", kind)) as model, model.setup(matrix) as f:
        serial = [f(r) for r in residuals]
        with ThreadPoolExecutor(8) as pool:
            parallel = list(pool.map(f, residuals))
            messages = list(pool.map(lambda k: _message(library, tmp_path / f"no {k}"), range(64)))
    np.testing.assert_array_equal(serial, parallel)
    assert all(f"no {k}/" in message for k, message in enumerate(messages))  # each thread has its own


def _message(library: Library, path: Path) -> str:
    with pytest.raises(Failed) as failure:
        library.load(path)
    return failure.value.sentence


@pytest.mark.parametrize("kind", ["operator", "direction"])
def test_trapping_hosts_survive_a_network_that_overflows(folder: Path, tmp_path: Path, kind: str) -> None:
    program = host(tmp_path, folder)
    path = write_artefact(tmp_path / "a", kind, "overflow")
    assert "calls 20" in run(str(program), str(path), "16", "20", "traps")
    with pytest.raises(AssertionError):  # the traps of this host are real
        run(str(program), str(path), "16", "20", "overflow")


def test_null_pointers(library: Library) -> None:
    c = library.c
    assert c.sciops_load(None, None, None) == 6
    assert c.sciops_load(b"x", None, None) == 6
    assert c.sciops_setup(None, 2, None, None, None) == 6
    assert c.sciops_apply(None, None, None) == 6
    assert c.sciops_fcg(None, None, None, None, None) == 6
    assert c.sciops_channels(None, None, None) == 6
    assert c.sciops_accepts(None, 2, None) == 0 and c.sciops_is_linear(None) == 0
    assert c.sciops_describe(None) == b"" and c.sciops_version()
    c.sciops_free(None)
    c.sciops_preconditioner_free(None)
    assert ctypes.c_char_p(c.sciops_last_error()).value

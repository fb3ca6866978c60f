"""Exported models in C: the answers of Python, symmetric and positive cycles, threads, traps, memory, load time."""

import multiprocessing
import os
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from capi_support import CAPI, Failed, Library, host, laplacian, missing, product, rough, run

from sciops.embed.artifact import Artifact

pytestmark = [
    pytest.mark.embed,
    pytest.mark.skipif(bool(missing("g++", "gcc")), reason="no C and C++ compiler (g++, gcc) here"),
]

ROUNDING = {32: 2e-5, 64: 1e-13}
"""Differences between two orders of the same sums, relative to the largest value."""


@pytest.fixture(scope="module")
def c(library: Path) -> Library:
    return Library(library)


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (64, 24), (9, 9), (128, 128)])
def test_multigrid_is_that_of_python(c: Library, multigrid_2d: Path, shape: tuple[int, int]) -> None:
    matrix, r = rough(*shape), np.random.default_rng(1).standard_normal(shape)
    for bits in Artifact.load(multigrid_2d).manifest.precisions:
        expected = Artifact.load(multigrid_2d, bits).preconditioner(matrix)(r)
        with c.load(multigrid_2d, bits) as model, model.setup(matrix) as f:
            z = f(r)
        assert np.abs(z - expected).max() < ROUNDING[bits] * np.abs(expected).max()


def test_multigrid_in_three_dimensions(c: Library, multigrid_3d: Path) -> None:
    shape = (12, 9, 14)
    matrix, r = rough(*shape), np.random.default_rng(2).standard_normal(shape)
    expected = Artifact.load(multigrid_3d).preconditioner(matrix)(r)
    with c.load(multigrid_3d) as model, model.setup(matrix) as f:
        assert model.is_linear()
        z = f(r)
        truth = np.where(matrix[0] > 0, np.random.default_rng(3).standard_normal(shape), 0)
        x, report, status = f.fcg(product(matrix, truth), tolerance=1e-11)
    assert np.abs(z - expected).max() < ROUNDING[model_bits(multigrid_3d)] * np.abs(expected).max()
    assert status == "OK" and report.iterations < 40
    assert np.abs(x - truth).max() < 1e-6


def model_bits(path: Path) -> int:
    return Artifact.load(path).precision


def test_the_cycle_is_symmetric_and_positive(c: Library, multigrid_2d: Path) -> None:
    shape = (20, 15)
    matrix = rough(*shape)
    unknown = np.flatnonzero(matrix[0] > 0)
    with c.load(multigrid_2d) as model, model.setup(matrix) as f:
        B = np.stack([f(e.reshape(shape)).ravel() for e in np.eye(matrix[0].size)])[np.ix_(unknown, unknown)]
    root = np.sqrt(matrix[0].ravel()[unknown])
    B = root[:, None] * B * root  # about the identity
    assert np.abs(B - B.T).max() < ROUNDING[model_bits(multigrid_2d)] * np.abs(B).max()
    assert np.linalg.eigvalsh(0.5 * (B + B.T)).min() > 0


@pytest.mark.parametrize("n", [64, 128])
def test_a_cycle_in_single_precision_serves_a_solve_in_double(c: Library, multigrid_2d: Path, n: int) -> None:
    matrix = laplacian(n, n)
    b = np.random.default_rng(4).standard_normal((n, n))
    with c.load(multigrid_2d, 32) as model, model.setup(matrix) as f:
        x, report, status = f.fcg(b, tolerance=1e-11)
    assert status == "OK" and report.fallbacks == 0 and report.iterations < 25
    assert np.linalg.norm(b - product(matrix, x)) < 1.1e-11 * np.linalg.norm(b)


def test_neumann_walls_and_sides(c: Library, multigrid_2d: Path) -> None:
    matrix = laplacian(40, 56, walls=False)
    b = np.random.default_rng(5).standard_normal((40, 56))
    with c.load(multigrid_2d) as model, model.setup(matrix) as f:
        x, report, status = f.fcg(b, tolerance=1e-10, null_space=1)
    assert status == "OK" and report.iterations < 25 and abs(x.mean()) < 1e-10
    assert np.linalg.norm(b - b.mean() - product(matrix, x)) < 1e-8 * np.linalg.norm(b)


def test_directions_are_those_of_python(c: Library, direction_2d: Path) -> None:
    artifact = Artifact.load(direction_2d)
    for shape in [(32, 32), (64, 64), (64, 32)]:
        if artifact.manifest.accepts(shape):
            continue
        matrix, r = rough(*shape), np.random.default_rng(6).standard_normal(shape)
        expected = artifact.preconditioner(matrix)(r)
        with c.load(direction_2d) as model, model.setup(matrix) as f:
            assert not model.is_linear()
            z = f(r)
            b = np.where(matrix[0] > 0, r, 0)
            _, _, status = f.fcg(b, tolerance=1e-8, maxiter=2000, safeguard=1)
        assert np.abs(z - expected).max() < 1e-4 * np.abs(expected).max()
        assert status == "OK"


@pytest.mark.parametrize("fixture", ["operator_2d", "stepper_2d"])
def test_operators_are_those_of_python(c: Library, fixture: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(fixture)
    for bits in Artifact.load(path).manifest.precisions:
        artifact = Artifact.load(path, bits)
        manifest = artifact.manifest
        native = tuple(manifest.grid["shape"])
        shapes = [native, tuple(2 * n for n in native), tuple(n + 8 for n in native)]
        tried = 0
        with c.load(path, bits) as model:
            for shape in shapes:
                assert model.accepts(*shape) == (manifest.accepts(shape) is None)
                if manifest.accepts(shape):
                    continue
                x = np.random.default_rng(7).random((len(manifest.inputs), *shape))
                u, found = model.solve(x, len(manifest.outputs))
                expected = artifact.solve(x)
                assert np.abs(u - expected).max() < 10 * ROUNDING[bits] * np.abs(expected).max()
                assert found.outside == pytest.approx(artifact.outside(x)[0], abs=1e-6)
                tried += 1
        assert tried > 0


def test_threads_agree_with_one(c: Library, multigrid_2d: Path) -> None:
    matrix = rough(48, 40)
    residuals = np.random.default_rng(8).standard_normal((48, 48, 40))
    with c.load(multigrid_2d) as model, model.setup(matrix) as f, ThreadPoolExecutor(8) as pool:
        serial = [f(r) for r in residuals]
        np.testing.assert_array_equal(serial, list(pool.map(f, residuals)))
        results = list(pool.map(lambda r: f.fcg(r, tolerance=1e-9)[1].iterations, residuals[:8]))
        assert results == [f.fcg(r, tolerance=1e-9)[1].iterations for r in residuals[:8]]


def test_the_number_of_threads_of_a_call_changes_nothing_else(c: Library, operator_2d: Path) -> None:
    artifact = Artifact.load(operator_2d)
    x = np.random.default_rng(9).random((len(artifact.manifest.inputs), *artifact.manifest.grid["shape"]))
    answers = []
    for threads in (1, 2):
        with c.load(operator_2d, threads=threads) as model:
            answers.append(model.solve(x, len(artifact.manifest.outputs))[0])
    assert np.abs(answers[0] - answers[1]).max() < 1e-5 * np.abs(answers[0]).max()


def test_no_python_at_run_time(library: Path) -> None:
    for name in ("libsciops.so", "libsciops_torch.so"):
        text = run("ldd", str(library / name))
        assert "libpython" not in text and "not found" not in text
    assert "torch" not in run("ldd", str(library / "libsciops.so"))


def test_loading_takes_less_than_two_seconds(library: Path, multigrid_2d: Path, tmp_path: Path) -> None:
    program = host(tmp_path, library)
    best = min(_numbers(run(str(program), str(multigrid_2d), "32", "1"))["load_seconds"] for _ in range(2))
    assert best < 2.0


def test_traps_survive_real_networks(library: Path, multigrid_2d: Path, tmp_path: Path) -> None:
    program = host(tmp_path, library)
    run(str(program), str(multigrid_2d), "48", "20", "traps")
    with pytest.raises(AssertionError):  # the traps of this host are real
        run(str(program), str(multigrid_2d), "48", "20", "overflow")


@pytest.mark.parametrize(("fixture", "n"), [("multigrid_2d", 24), ("direction_2d", 24), ("operator_2d", 33)])
def test_a_thousand_calls_leak_nothing(
    library: Path, fixture: str, n: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Under LeakSanitizer, leaks with a frame in torch or OpenMP left out; and memory in use stops growing."""
    path = request.getfixturevalue(fixture)
    program = host(tmp_path, library, "-fsanitize=leak")
    (tmp_path / "torch").write_text("leak:libtorch_cpu.so\nleak:libgomp.so\nleak:libc10.so\n")
    environment = os.environ | {
        "LSAN_OPTIONS": f"suppressions={tmp_path / 'torch'}:print_suppressions=0", "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    found = _numbers(run(str(program), str(path), str(n), "1000", env=environment))
    assert found["calls"] == 1000
    # One tensor of n x n left behind per call would be 750 times 2.3 KiB and more.
    assert found["final_kib"] - found["settled_kib"] < 1000


def without_memory(folder: Path, direction: Path) -> None:
    """Set-up and application in a process that may not grow; both work again once it may."""
    matrix, r = laplacian(2200, 2200), np.ones((2200, 2200))

    with Library(folder).load(direction) as model, model.setup(matrix) as f:
        before = resource.getrlimit(resource.RLIMIT_AS)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        # Enough for the z that is asked for here
        resource.setrlimit(resource.RLIMIT_AS, (size + 3 * r.nbytes // 2, before[1]))
        try:
            for call in (lambda: model.setup(matrix), lambda: f(r)):
                with pytest.raises(Failed, match="MEMORY: There is not enough memory for this grid; use a smaller one"):
                    call()
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
        with model.setup(laplacian(12, 12)) as small:
            assert np.isfinite(small(np.ones((12, 12)))).all()


def test_memory_that_is_not_there_is_one_sentence(library: Path, direction_2d: Path) -> None:
    """In a process of its own: one that has held larger arrays finds room among what it has freed."""
    process = multiprocessing.get_context("spawn").Process(target=without_memory, args=(library, direction_2d))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_a_tampered_package_is_refused(c: Library, multigrid_2d: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sciops"
    shutil.copytree(multigrid_2d, copy)
    package = next(copy.glob("model.*.pt2"))
    data = bytearray(package.read_bytes())
    data[len(data) // 2] ^= 1
    package.write_bytes(data)
    with pytest.raises(Exception, match="CHECKSUM"):
        c.load(copy)


def _numbers(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in (line.split() for line in text.splitlines())}


# ---- examples


@pytest.fixture(scope="module")
def examples(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    flags = [f"-I{CAPI / 'include'}", f"-L{library}", "-lsciops", "-lm", f"-Wl,-rpath,{library}"]
    for name in ("poisson", "operator", "time_loop", "latency"):
        source = str(CAPI / "examples" / f"{name}.c")
        run("gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", source, *flags, "-o", str(folder / name))
    return folder


def test_poisson_in_c(examples: Path, multigrid_2d: Path) -> None:
    assert "order of convergence 2.0" in run(str(examples / "poisson"), str(multigrid_2d), "128")


def test_poisson_in_fortran(examples: Path, library: Path, multigrid_2d: Path) -> None:
    if missing("gfortran"):
        pytest.skip("no gfortran here")
    program = examples / "poisson_fortran"
    run("gfortran", "-std=f2018", "-Wall", "-O2", "-ffpe-trap=invalid,zero,overflow", f"-J{examples}",
        str(CAPI / "fortran" / "sciops.f90"), str(CAPI / "examples" / "poisson.f90"), f"-L{library}", "-lsciops",
        f"-Wl,-rpath,{library}", "-o", str(program))  # fmt: skip
    ours = run(str(program), str(multigrid_2d), "64")
    theirs = run(str(examples / "poisson"), str(multigrid_2d), "64")
    assert "order of convergence" in ours

    def errors(text: str) -> list[float]:
        return [float(line.rpartition("error")[2]) for line in text.splitlines() if "error" in line]

    np.testing.assert_allclose(errors(ours), errors(theirs), rtol=1e-3)
    broken = examples / "nowhere.sciops"
    with pytest.raises(AssertionError, match="sciops: There is no artefact"):
        run(str(program), str(broken))

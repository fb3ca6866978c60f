"""Generation: the same bits however it is run, killed and resumed; verification; what `info` says."""

import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from data_samples import recipe

from sciops.core.errors import DataError, UsageError
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.data.generate import _require_solved, generate, make_chunk
from sciops.data.info import describe, table
from sciops.data.open import open_dataset
from sciops.data.stored import StoredDataset
from sciops.data.verify import verify

DARCY = "sciops.problems.darcy.Darcy"
ROOT = Path(__file__).parents[2]


def darcy(**more):
    """Enough batches that a run can be killed between them."""
    settings = {
        "problem": {"class_path": DARCY, "init_args": {"modes": 16}},
        "shape": (24, 24),
        "splits": {"train": 24, "test": 6},
        "batch": 2,
    }
    return recipe("flow", **(settings | more))


def arrays(path):
    """Every array of a file with its type and bytes."""
    found = {}
    with h5py.File(path) as file:

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                values = item[()]
                found[name] = (str(item.dtype), values.tolist() if values.dtype == object else values.tobytes())

        file.visititems(visit)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    generate(darcy(), folder, quiet=True)
    return folder


def test_two_workers_give_the_bits_of_one(whole, tmp_path):
    paths = generate(darcy(), tmp_path, workers=2, quiet=True)
    for split, path in paths.items():
        assert arrays(path) == arrays(whole / "data" / split / "flow.hdf5")
    assert (tmp_path / "stats.yaml").read_text() == (whole / "stats.yaml").read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_and_resume_loses_and_repeats_nothing(whole, tmp_path, workers):
    out = tmp_path / "out"
    options = {"workers": workers, "quiet": True}
    process = multiprocessing.get_context("fork").Process(target=generate, args=(darcy(), out), kwargs=options)
    process.start()
    parts = out / "train.parts"
    deadline = time.monotonic() + 60
    while process.is_alive() and time.monotonic() < deadline and len(list(parts.glob("*.npz"))) < 3:
        time.sleep(0.002)
    process.kill()
    process.join()
    time.sleep(0.5)  # pool workers notice that their parent is gone
    finished = {p.name: p.stat().st_mtime_ns for p in parts.glob("*.npz")}
    assert 3 <= len(finished) < 15 and not list(out.glob("data/*/*.hdf5"))
    time.sleep(0.3)
    assert {p.name for p in parts.glob("*.npz")} == set(finished)  # no orphan goes on writing

    # What a kill in the middle of writing leaves behind.
    (parts / f".000009.npz.tmp-{process.pid}").write_bytes(b"half")
    stale = out / "data" / "train" / f".flow.hdf5.tmp-{process.pid}"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"half")
    paths = generate(darcy(), out, quiet=True)
    for split, path in paths.items():
        assert arrays(path) == arrays(whole / "data" / split / "flow.hdf5")
    assert StoredDataset(paths["train"]).cases().ids.tolist() == list(range(24))
    assert sorted(p.name for p in out.iterdir()) == ["data", "stats.yaml"] and not stale.exists()


def test_a_finished_dataset_is_kept(whole, capsys):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    generate(darcy(), whole)
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()} == before


def test_resume_does_not_solve_finished_cases_again(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "copy")
    (tmp_path / "copy" / "data" / "test" / "flow.hdf5").unlink()
    made = []
    import sciops.data.generate as module

    original = module.make_chunk
    monkeypatch.setattr(module, "make_chunk", lambda r, p, ids, d: made.extend(ids) or original(r, p, ids, d))
    generate(darcy(), tmp_path / "copy", quiet=True)
    assert made == [24, 25, 26, 27, 28, 29]


def test_a_damaged_part_is_named(tmp_path, monkeypatch):
    import sciops.data.generate as module

    monkeypatch.setattr(module, "_assemble", lambda *_: None)
    with pytest.raises(DataError):  # stops before assembling, with all parts there: no file for the statistics
        generate(recipe(splits={"train": 4}), tmp_path, quiet=True)
    monkeypatch.undo()
    part = tmp_path / "train.parts" / "000001.npz"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(DataError, match=r"000001\.npz cannot be read .* delete it and run the same command again"):
        generate(recipe(splits={"train": 4}), tmp_path, quiet=True)
    part.unlink()
    assert len(StoredDataset(generate(recipe(splits={"train": 4}), tmp_path, quiet=True)["train"])) == 4


def test_another_recipe_is_not_mixed_in(whole, tmp_path):
    with pytest.raises(UsageError, match="was made from another recipe named flow"):
        generate(darcy(root_seed=1), whole, quiet=True)
    folder = tmp_path / "train.parts"
    folder.mkdir()
    (folder / "recipe").write_text("other")
    with pytest.raises(UsageError, match="unfinished parts of another recipe"):
        generate(darcy(), tmp_path, quiet=True)
    small = recipe(splits={"train": 2})
    generate(small, tmp_path / "again", quiet=True)
    changed = recipe(splits={"train": 2}, root_seed=5)
    path = generate(changed, tmp_path / "again", resume=False, quiet=True)["train"]
    assert StoredDataset(path).header.root_seed == 5


def test_progress_lines_when_not_on_a_terminal(tmp_path, capsys):
    generate(recipe(), tmp_path)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("generate small: 9/9 cases")


def test_bad_requests(tmp_path):
    with pytest.raises(UsageError, match="workers must be at least 1"):
        generate(recipe(), tmp_path, workers=0)
    with pytest.raises(UsageError, match="workers=1 with device=cuda"):
        generate(recipe(), tmp_path, workers=2, device="cuda")
    with pytest.raises(DataError, match=r"reference of case 0 .* (loosen|tolerance)"):
        generate(darcy(reference={"tol": 1e-18}), tmp_path, quiet=True)
    assert not list(tmp_path.rglob("*.hdf5"))


def test_a_reference_that_missed_its_tolerance_is_not_stored():
    made = darcy()
    problem = made.make_problem()
    solution = problem.reference(problem.sample(made.seeds([4]), made.solve_grid), 1e-10)
    _require_solved(made, [4], solution)
    solution.stats["residual"] = torch.tensor([1e-6])
    with pytest.raises(DataError, match=r"case 4 has residual 1.0e-06, far above reference.tol 1e-10"):
        _require_solved(made, [4], solution)
    solution.status[0] = Status.DIVERGED
    with pytest.raises(DataError, match=r"case 4 ended with status diverged"):
        _require_solved(made, [4], solution)


@pytest.mark.parametrize(
    "layout, condition, k",
    [("node", "dirichlet", 2), ("node", "dirichlet", 3), ("cell", "neumann", 3), ("periodic", "periodic", 2)],
)
def test_refined_references_keep_the_shared_points(layout, condition, k):
    made = recipe(
        arguments={"ndim": 2, "condition": condition, "modes": 4},
        shape=(9, 8),
        layout=layout,
        reference={"refine": k},
        dtype="float64",
    )
    plain = recipe(
        arguments={"ndim": 2, "condition": condition, "modes": 4}, shape=(9, 8), layout=layout, dtype="float64"
    )
    problem = made.make_problem()
    fine, coarse = make_chunk(made, problem, [0, 1]), make_chunk(plain, problem, [0, 1])
    # The random forcing and its exact solution are functions: the same at the same points of both grids. The
    # zero-mean constant of Neumann and periodic problems is that of the grid's own quadrature.
    assert np.abs(fine.inputs - coarse.inputs).max() <= 1e-12 * np.abs(coarse.inputs).max()
    shift = (fine.outputs - coarse.outputs).mean((-1, -2), keepdims=True)
    assert np.abs(fine.outputs - coarse.outputs - shift).max() <= 1e-12 * np.abs(coarse.outputs).max()


def test_refined_boundary_data_belongs_to_the_stored_grid():
    arguments = {"ndim": 2, "exact_solution": "sin(a*x)*exp(y)", "parameters": {"a": [1.0, 2.0]}}
    made = recipe(arguments=arguments, shape=(6, 5), reference={"refine": 2}, dtype="float64")
    plain = recipe(arguments=arguments, shape=(6, 5), dtype="float64")
    fine, coarse = (make_chunk(r, r.make_problem(), [3]) for r in (made, plain))
    assert fine.boundary.keys() == coarse.boundary.keys()
    for name, values in coarse.boundary.items():
        assert np.allclose(fine.boundary[name], values, rtol=1e-13, atol=1e-15)


MINE = """
from dataclasses import dataclass
from sciops.problems.poisson import Poisson


@dataclass(frozen=True)
class Mine(Poisson):
    \"\"\"−Δu = f, in a file of the user's own.\"\"\"
"""


def test_a_problem_of_the_users_own_file(tmp_path):
    (tmp_path / "my_pde.py").write_text(MINE)
    named = {"class_path": f"{tmp_path}/my_pde.py:Mine", "init_args": {"modes": 8}}
    made = recipe("own", problem=named, splits={"train": 4})
    path = generate(made, tmp_path / "out", workers=2, quiet=True)["train"]
    assert type(StoredDataset(path).problem).__name__ == "Mine"  # loaded here already, by our own recipe
    assert verify(path, k=2).passed
    program = (
        "import sys; from sciops.data.open import open_dataset; from sciops.core.errors import UsageError\n"
        "try: open_dataset(sys.argv[1])\n"
        "except UsageError as error: print(error)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert "my_pde.py" in result.stdout and "import" in result.stdout, result.stderr
    problem = made.make_problem()
    assert open_dataset({"path": str(path), "problem": named})["train"].problem == problem
    assert StoredDataset(path, problem).problem == problem


# ---- verification


def test_verify_rebuilds_to_the_last_bit(whole):
    result = verify(whole / "data" / "train" / "flow.hdf5", k=5)
    assert result.passed and result.same_machine and result.difference == (0.0,) * 5
    assert "equal bits" in str(result) and "passed" in str(result)


@pytest.mark.parametrize("member", ["t0_fields/u", "t0_fields/a"])
def test_verify_sees_one_flipped_bit(whole, tmp_path, member):
    path = shutil.copy(whole / "data" / "test" / "flow.hdf5", tmp_path / "flow.hdf5")
    with h5py.File(path, "r+") as file:
        value = file[member][2, 7, 9]
        file[member][2, 7, 9] = np.nextafter(value, np.float32(np.inf))
    result = verify(path, k=6)
    assert not result.passed and [i for i, d in zip(result.ids, result.difference, strict=True) if d > 0] == [26]
    assert "FAILED for case(s) 26" in str(result)


def test_verify_elsewhere_allows_rounding_but_no_more(whole, tmp_path):
    path = shutil.copy(whole / "data" / "test" / "flow.hdf5", tmp_path / "flow.hdf5")
    with h5py.File(path, "r+") as file:
        file["sciops"].attrs["versions"] = '{"torch": "0.0"}'
        file["t0_fields/u"][2] *= np.float32(1 + 2e-7)
    result = verify(path, k=6)
    assert result.passed and not result.same_machine and max(result.difference) > 0
    with h5py.File(path, "r+") as file:
        file["t0_fields/u"][2] *= np.float32(1.001)
    assert not verify(path, k=6).passed


def test_verify_checks_the_seeds(whole, tmp_path):
    path = shutil.copy(whole / "data" / "test" / "flow.hdf5", tmp_path / "flow.hdf5")
    with h5py.File(path, "r+") as file:
        file["sciops/seed"][1] += 1
    with pytest.raises(DataError, match="seed of case 25 is not the hash"):
        verify(path, k=6)


def test_verify_needs_a_generator(tmp_path):
    from data_samples import moving

    from sciops.data.store import save_dataset

    path = save_dataset(tmp_path / "flow.hdf5", moving())
    with pytest.raises(UsageError, match="was not made by `sciops generate`"):
        verify(path)


# ---- info


def test_info_of_a_file_and_a_folder(whole, shared_data):
    from rich.console import Console

    facts = describe(whole / "data" / "train" / "flow.hdf5")
    assert facts["problem"] == "Darcy" and facts["format"] == "native"
    assert facts["equation"].startswith("−∇·(a ∇u) = f")
    split = facts["splits"]["train"]
    assert split["cases"] == 24 and split["grid"] == "24×24 node"
    assert 0 < split["residual"]["max"] <= 1e-10
    assert 0 < split["label_error"]["min"] <= split["label_error"]["max"] < 1
    assert split["fingerprint"] == StoredDataset(whole / "data" / "train" / "flow.hdf5").fingerprint
    assert facts["label_method"].startswith("Richardson")
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(table(facts))
    text = console.export_text()
    assert "−∇·(a ∇u) = f" in text and "24×24 node" in text and "torch" in text
    assert set(describe(whole)["splits"]) == {"train", "test"}
    foreign = describe(shared_data / "darcy_neuraloperator" / "darcy_test_32.pt")
    assert foreign["format"] == "neuralop" and foreign["views"] == ["data"]
    console.print(table(foreign))


def test_a_stored_case_becomes_its_problem_again(whole):
    cases = StoredDataset(whole / "data" / "test" / "flow.hdf5").cases([1])
    finer = cases.on(Grid.box(47, ndim=2))
    assert finer.provenance == "generated" and finer.ids.tolist() == [25]
    assert torch.equal(finer.input("a")[:, ::2, ::2], cases.input("a"))
    assert set(finer.input("a").unique().tolist()) == {3.0, 12.0}

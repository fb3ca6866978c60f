"""Trajectories from a recipe: generation, resume, verification, reading, and what a broken frame says."""

import shutil

import h5py
import numpy as np
import pytest
import torch
from data_samples import recipe

from sciops.core.errors import DataError
from sciops.data.generate import generate
from sciops.data.stored import StoredDataset
from sciops.data.verify import verify

FLOW = "sciops.problems.navier_stokes.NavierStokes"


def flow(**more):
    settings = {
        "problem": {
            "class_path": FLOW,
            "init_args": {"viscosity": 0.005, "frames": 2, "every": 0.5, "sigma": 26.0, "modes": 15},
        },
        "shape": (12, 12),
        "layout": "periodic",
        "splits": {"train": 3, "test": 2},
        "reference": {"refine": 2},
    }
    return recipe("eddies", **(settings | more))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    return folder, generate(flow(), folder, quiet=True)


def test_frames_are_those_of_the_reference_at_shared_points(made):
    dataset, own = StoredDataset(made[1]["train"]), flow()
    problem = own.make_problem()
    cases, truth = dataset.cases(), dataset.truth()
    assert cases.times == truth.times == (0.0, 0.5, 1.0) and truth.values.shape == (3, 3, 1, 12, 12)
    direct = problem.reference(problem.sample(own.seeds([0, 1, 2]), own.solve_grid))
    assert torch.equal(truth.values, direct.field.values[..., ::2, ::2].float())
    assert torch.equal(cases.inputs.values[:, 0], truth.values[:, 0])
    rounding = (truth.values.double() - direct.field.values[..., ::2, ::2]).norm() / direct.field.values.norm()
    assert dataset.label_error is not None and dataset.residual is None
    assert (dataset.label_error >= direct.stats["label_error"]).all()
    assert (dataset.label_error < direct.stats["label_error"] + 10 * rounding).all()
    assert "3/4 and 1/2 of the points" in dataset.header.label_method


def test_the_file_holds_every_frame_once(made):
    with h5py.File(made[1]["train"]) as file:
        assert list(file["t0_fields"]) == ["vorticity"]
        field = file["t0_fields/vorticity"]
        assert field.shape == (3, 3, 12, 12) and field.chunks == (1, 1, 12, 12)
        assert bool(field.attrs["time_varying"]) and bool(field.attrs["sample_varying"])
        assert file["dimensions/time"][()].tolist() == [0.0, 0.5, 1.0]
        assert file.attrs["viscosity"] == 0.005
        assert all(file[f"boundary_conditions/{a}_periodic"].attrs["bc_type"] == "PERIODIC" for a in "xy")


def test_statistics_know_the_differences_between_frames(made):
    import yaml

    stats = yaml.safe_load((made[0] / "stats.yaml").read_text())
    frames = StoredDataset(made[1]["train"]).truth().values.double()
    assert float(stats["std"]["vorticity"]) == pytest.approx(float(frames.std(correction=0)), rel=1e-4)
    steps = frames.diff(dim=1)
    assert float(stats["rms_delta"]["vorticity"]) == pytest.approx(float(steps.square().mean().sqrt()), rel=1e-4)


def test_verification_rebuilds_trajectories_to_the_bit(made, tmp_path):
    assert all(verify(path, 2).passed and verify(path, 2).tolerance == 0 for path in made[1].values())
    broken = tmp_path / "broken.hdf5"
    shutil.copy(made[1]["train"], broken)
    with h5py.File(broken, "r+") as file:
        file["t0_fields/vorticity"][1, 2, 3, 4] += 1e-6
    assert not verify(broken, 3).passed


def test_batches_resume_and_workers_change_no_bit(made, tmp_path):
    again = generate(flow(batch=1), tmp_path / "single", quiet=True)
    for split in ("train", "test"):
        a, b = (StoredDataset(paths[split]) for paths in (made[1], again))
        assert torch.equal(a.truth().values, b.truth().values)
        assert torch.equal(a.label_error, b.label_error)
    shutil.copytree(made[0], tmp_path / "copy")
    (tmp_path / "copy/data/test/eddies.hdf5").unlink()
    kept = (tmp_path / "copy/data/train/eddies.hdf5").stat().st_mtime_ns
    resumed = generate(flow(), tmp_path / "copy", quiet=True)
    assert resumed["train"].stat().st_mtime_ns == kept
    assert torch.equal(StoredDataset(resumed["test"]).truth().values, StoredDataset(made[1]["test"]).truth().values)


def test_cases_move_to_other_grids_from_their_seeds(made):
    cases = StoredDataset(made[1]["test"]).cases()
    moved = cases.on(cases.domain.resized(24))
    assert moved.provenance == "generated" and moved.times == cases.times
    assert torch.allclose(moved.inputs.values[..., ::2, ::2], cases.inputs.values, atol=1e-6)


def test_a_frame_that_is_not_finite_is_named(made, tmp_path):
    broken = tmp_path / "broken.hdf5"
    shutil.copy(made[1]["train"], broken)
    with h5py.File(broken, "r+") as file:
        file["t0_fields/vorticity"][2, 1, 3, 4] = np.nan
    with pytest.raises(DataError, match=r"case 2 holds NaN or infinity in frame 1 \(t = 0.5\)"):
        StoredDataset(broken).truth()


def test_a_reference_that_leaves_the_finite_numbers_makes_no_file(tmp_path):
    arguments = {"viscosity": 0.0, "frames": 2, "every": 0.5, "sigma": 1e6, "modes": 15, "step_size": 0.25}
    wild = flow(problem={"class_path": FLOW, "init_args": arguments}, splits={"train": 1})
    with pytest.raises(DataError, match="case 0 ended with status nonfinite"):
        generate(wild, tmp_path, quiet=True)
    assert not list(tmp_path.glob("data/*/*.hdf5"))

"""PDEBench layouts S and G, read from files written by the format sheet, and layout S written by us."""

import h5py
import numpy as np
import pytest
import torch
from data_samples import moving, recipe
from test_well import write_well

from sciops.core.errors import DataError, UsageError
from sciops.data.convert import convert
from sciops.data.generate import generate
from sciops.data.open import open_dataset
from sciops.data.pdebench import write_pdebench
from sciops.data.store import save_dataset
from sciops.data.stored import StoredDataset

RNG = np.random.default_rng(1)


def centres(n, length=1.0):
    return ((np.arange(n) + 0.5) * length / n).astype(np.float32)


def write_darcy(path, n=20, size=8):
    with h5py.File(path, "w") as file:
        file["nu"] = RNG.random((n, size, size), dtype=np.float32)
        file["tensor"] = RNG.random((n, 1, size, size), dtype=np.float32)
        file["x-coordinate"] = file["y-coordinate"] = centres(size)
        file["t-coordinate"] = np.array([0.0, 1.0], dtype=np.float32)
        file.attrs["beta"] = 0.1
    return path


def test_darcy(tmp_path):
    path = write_darcy(tmp_path / "2D_DarcyFlow_beta0.1_Train.hdf5")
    dataset = open_dataset(path)["all"]
    assert dataset.grid.describe() == "8×8 cell" and dataset.grid.upper == (1.0, 1.0)
    with h5py.File(path) as file:
        assert np.array_equal(dataset.cases().input("nu").numpy(), file["nu"][()])
        assert np.array_equal(dataset.truth().channel("tensor").numpy(), file["tensor"][()])
    assert dataset.header.parameters == {"beta": 0.1} and dataset.truth().times == (0.0,)
    assert [v.value for v in dataset.problem.views()] == ["data"]


@pytest.mark.parametrize("layout, upper", [("cell", 2.0), ("periodic", 2.1)])
def test_one_dimensional_trajectories_drop_the_extra_time(tmp_path, layout, upper):
    path = tmp_path / "1D_Advection_Sols_beta0.4.hdf5"
    values = RNG.random((12, 7, 10), dtype=np.float32)
    with h5py.File(path, "w") as file:
        file["tensor"], file["x-coordinate"] = values, centres(10, 2.0)
        file["t-coordinate"] = np.linspace(0, 2, 8)
    dataset = open_dataset({"path": str(path), "layout": layout})["all"]
    assert dataset.truth().times == pytest.approx(np.linspace(0, 2, 8)[:7])
    assert np.array_equal(dataset.truth().values[:, :, 0].numpy(), values)
    assert np.array_equal(dataset.cases().input("tensor").numpy(), values[:, 0])
    assert dataset.grid.upper[0] == pytest.approx(upper)
    assert np.allclose(dataset.grid.axis(0).numpy(), centres(10, 2.0))


def test_compressible_flow(tmp_path):
    path = tmp_path / "2D_CFD.hdf5"
    values = {name: RNG.random((3, 2, 6, 4), dtype=np.float32) for name in ("Vx", "Vy", "density", "pressure")}
    with h5py.File(path, "w") as file:
        for name, array in values.items():
            file[name] = array
        file["x-coordinate"], file["y-coordinate"] = centres(6), centres(4)
        file["t-coordinate"] = np.array([0, 0.05, 0.1])
        file.attrs["eta"] = file.attrs["zeta"] = 0.01
    dataset = open_dataset(path)["all"]
    assert dataset.header.outputs == ("density", "pressure", "Vx", "Vy")
    for name, array in values.items():
        assert np.array_equal(dataset.truth().channel(name).numpy(), array)
    assert dataset.truth([2, 0]).values.shape == (2, 2, 4, 6, 4)


def write_groups(path, n=24):
    values = RNG.random((n, 5, 6, 4, 2), dtype=np.float32)
    with h5py.File(path, "w") as file:
        for i in range(n):
            group = file.create_group(f"{i:04d}")
            group.create_dataset("data", data=values[i], compression="lzf")
            group["grid/x"], group["grid/y"], group["grid/t"] = centres(6, 2) - 1, centres(4, 2) - 1, np.arange(5.0)
            group.attrs["config"] = "sim:\n  seed: 1\n"
    return values


def test_groups(tmp_path):
    path = tmp_path / "2D_diff-react_NA_NA.h5"
    values = write_groups(path)
    dataset = open_dataset(path)["all"]
    assert len(dataset) == 24 and dataset.grid.lower == (-1.0, -1.0) and dataset.grid.upper == (1.0, 1.0)
    assert np.array_equal(dataset.truth([23, 4]).values.movedim(2, -1).numpy(), values[[23, 4]])
    assert np.array_equal(dataset.cases([7]).inputs.values[:, 0].movedim(1, -1).numpy(), values[[7], 0])


def test_published_splits_take_the_first_tenth_or_the_last(tmp_path):
    single, groups = write_darcy(tmp_path / "s.hdf5"), tmp_path / "g.h5"
    write_groups(groups)
    for path, test in ((single, [0, 1]), (groups, [22, 23])):
        splits = open_dataset({"path": str(path), "split": "pdebench"})
        whole = open_dataset(path)["all"]
        assert torch.equal(splits["test"].truth().values, whole.truth(test).values)
        rest = [i for i in range(len(whole)) if i not in test]
        assert torch.equal(splits["train"].truth().values, whole.truth(rest).values)
        assert set(splits) == {"train", "test"}


ROUND_TRIPS = {
    "cell": recipe("cells", {"ndim": 2, "condition": "neumann", "modes": 4}, (8, 6), "cell"),
    "node": recipe("nodes"),
    "boundary": recipe("walls", {"ndim": 2, "exact_solution": "sin(a*x)*y", "parameters": {"a": [1.0, 2.0]}}),
    "periodic": recipe("rings", {"ndim": 1, "condition": "periodic", "modes": 4}, (16,), "periodic", dtype="float64"),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_native_to_pdebench_to_native(name, tmp_path):
    native = generate(ROUND_TRIPS[name], tmp_path / "made", quiet=True)["train"]
    other = convert(native, tmp_path / "other.hdf5", "pdebench")
    back = convert(other, tmp_path / "back.hdf5", "native")
    same(StoredDataset(native), open_dataset(other)["train"])
    same(StoredDataset(native), StoredDataset(back))
    with h5py.File(other) as file, h5py.File(native) as source:
        assert all(isinstance(file[key], h5py.Dataset) for key in file)  # the layout has no groups
        assert np.array_equal(file["tensor"][:, 0], source["t0_fields/u"][()])
        assert np.array_equal(file["nu"][()], source["t0_fields/f"][()])
        assert np.array_equal(file["x-coordinate"][()], source["dimensions/x"][()])


def test_time_dependent_round_trip(tmp_path):
    native = save_dataset(tmp_path / "flow.hdf5", moving(), "flow", "train")
    other = convert(native, tmp_path / "other.hdf5", "pdebench")
    same(StoredDataset(native), StoredDataset(convert(other, tmp_path / "back.hdf5", "native")))
    with h5py.File(other) as file:
        assert set(file) >= {"density", "pressure", "Vx", "Vy", "x-coordinate", "y-coordinate", "t-coordinate"}
        assert file["density"].shape == (4, 3, 6, 5)


def same(a, b):
    """Arrays, coordinates and attributes are equal."""
    assert a.header == b.header
    assert a.fingerprint == b.fingerprint and a.problem == b.problem and a.grid == b.grid
    left, right = a.cases(), b.cases()
    for mine, theirs in [
        (left.inputs.values, right.inputs.values),
        (a.truth().values, b.truth().values),
        (left.ids, right.ids),
        (left.seeds, right.seeds),
        (a.residual, b.residual),
        (a.label_error, b.label_error),
    ]:
        assert (mine is None and theirs is None) or (mine.dtype == theirs.dtype and torch.equal(mine, theirs))
    for name in ("params", "boundary"):
        mine, theirs = getattr(left, name), getattr(right, name)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_foreign_pdebench_becomes_native_and_well(tmp_path):
    source = write_darcy(tmp_path / "darcy.hdf5")
    foreign = open_dataset(source)["all"]
    native = StoredDataset(convert(source, tmp_path / "native.hdf5", "native"))
    assert torch.equal(native.truth().values, foreign.truth().values)
    assert native.header.parameters == {"beta": 0.1} and native.grid == foreign.grid
    plain = convert(source, tmp_path / "plain.hdf5", "well")
    read = open_dataset({"path": str(plain), "inputs": ["nu"], "outputs": ["tensor"]})["train"]
    assert torch.equal(read.cases().inputs.values, foreign.cases().inputs.values)
    assert not list(tmp_path.glob(".*"))


def test_what_the_layouts_cannot_hold_is_refused(tmp_path):
    well = open_dataset(write_well(tmp_path / "mixed.hdf5"))["train"]
    with pytest.raises(UsageError, match="holds one output or density, pressure"):
        write_pdebench(tmp_path / "a.hdf5", well)
    with pytest.raises(UsageError, match=r"must be called \*\.hdf5"):
        write_pdebench(tmp_path / "a.h5", moving())
    assert not (tmp_path / "a.hdf5").exists()
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["velocity"], file["force"] = np.zeros((1, 2, 4, 4, 2)), np.zeros((1, 4, 4, 2))
    with pytest.raises(DataError, match="incompressible-flow layout"):
        open_dataset(tmp_path / "v.h5")
    with h5py.File(tmp_path / "n.hdf5", "w") as file:
        file["tensor"] = np.zeros((2, 3, 4))
    with pytest.raises(DataError, match="no x-coordinate"):
        open_dataset(tmp_path / "n.hdf5")

"""Files of The Well that sciops did not write, and the way to the native file and back."""

import h5py
import numpy as np
import pytest
import torch
import yaml
from well_checks import check_well

from sciops.core.errors import DataError, UsageError
from sciops.data.convert import convert
from sciops.data.open import open_dataset
from sciops.data.stats import compute_stats, write_stats
from sciops.data.well import open_well

N, T, X, Y = 3, 4, 6, 5


def write_well(path, x=None, kinds=("PERIODIC", "WALL"), time=None, grid_type="cartesian", with_motion=True):
    """A file with scalar, vector and tensor fields, some constant in cases, time or one axis."""
    rng = np.random.default_rng(0)
    x = np.arange(X, dtype=np.float32) / X if x is None else x
    y = (np.arange(Y, dtype=np.float32) + 0.5) / Y
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        file.attrs["dataset_name"], file.attrs["grid_type"] = "mixed", grid_type
        file.attrs["n_spatial_dims"], file.attrs["n_trajectories"] = 2, N
        file.attrs["simulation_parameters"] = np.array(["nu"], dtype=text)
        file.attrs["nu"] = 0.25
        dims = file.create_group("dimensions")
        dims.attrs["spatial_dims"] = np.array(["x", "y"], dtype=text)
        time = np.linspace(0, 1.5, T) if time is None else time
        for name, values in (("time", time), ("x", x), ("y", y)):
            dataset = dims.create_dataset(name, data=values)
            dataset.attrs["sample_varying"], dataset.attrs["time_varying"] = values.ndim == 2, name == "time"
        conditions = file.create_group("boundary_conditions")
        for axis, size, kind in zip("xy", (X, Y), kinds, strict=True):
            group = conditions.create_group(f"{axis}_side")
            group.attrs["bc_type"], group.attrs["associated_dims"] = kind, np.array([axis], dtype=text)
            group.attrs["associated_fields"] = np.array([], dtype=text)
            group.attrs["sample_varying"] = group.attrs["time_varying"] = False
            mask = np.zeros(size, dtype=bool)
            mask[[0, -1]] = True
            group["mask"] = mask
        scalars = file.create_group("scalars")
        scalars.attrs["field_names"] = np.array(["nu"], dtype=text)
        scalars["nu"] = 0.25
        scalars["nu"].attrs["sample_varying"] = scalars["nu"].attrs["time_varying"] = False
        fields = {
            0: {"mask": ((X, Y), False, False, [True, True]), "profile": ((N, Y), True, False, [False, True])},
            1: {"velocity": ((N, T, X, Y, 2), True, True, [True, True])},
            2: {"stress": ((N, T, X, Y, 2, 2), True, True, [True, True])},
        }
        for order, table in fields.items():
            table = table if with_motion or order == 0 else {}
            group = file.create_group(f"t{order}_fields")
            group.attrs["field_names"] = np.array(list(table), dtype=text)
            for name, (shape, sampled, timed, varying) in table.items():
                dataset = group.create_dataset(name, data=rng.random(shape, dtype=np.float32), compression="lzf")
                dataset.attrs["sample_varying"], dataset.attrs["time_varying"] = sampled, timed
                dataset.attrs["dim_varying"] = varying
    return path


def test_components_become_channels(tmp_path):
    path = write_well(tmp_path / "mixed.hdf5")
    check_well(path)
    dataset = open_well(path)
    moving = ("velocity_x", "velocity_y", "stress_xx", "stress_xy", "stress_yx", "stress_yy")
    assert dataset.header.inputs == ("mask", "profile", *moving) and dataset.header.outputs == moving
    truth, inputs = dataset.truth(), dataset.cases().inputs
    with h5py.File(path) as file:
        velocity, stress = file["t1_fields/velocity"][()], file["t2_fields/stress"][()]
        mask, profile = file["t0_fields/mask"][()], file["t0_fields/profile"][()]
    assert np.array_equal(truth.channel("velocity_y").numpy(), velocity[..., 1])
    assert np.array_equal(truth.channel("stress_xy").numpy(), stress[..., 0, 1])
    assert np.array_equal(inputs.channel("velocity_x")[:, 0].numpy(), velocity[:, 0, ..., 0])
    assert np.array_equal(inputs.channel("mask")[2, 0].numpy(), mask)
    assert np.array_equal(inputs.channel("profile")[1, 0].numpy(), np.broadcast_to(profile[1], (X, Y)))
    assert truth.times == (0.0, 0.5, 1.0, 1.5)
    assert dataset.header.parameters == {"nu": 0.25}


def test_grid_is_read_off_coordinates_and_boundaries(tmp_path):
    grid = open_well(write_well(tmp_path / "a.hdf5")).grid
    assert grid.layout == ("periodic", "cell")
    assert grid.lower == (0.0, 0.0) and grid.upper == (1.0, 1.0)
    nodes = write_well(tmp_path / "b.hdf5", x=np.linspace(-1, 2, X), kinds=("WALL", "WALL"))
    dataset = open_well(nodes)
    assert dataset.grid.layout == ("node", "cell")
    assert (dataset.grid.lower[0], dataset.grid.upper[0]) == (-1.0, 2.0)
    assert torch.allclose(dataset.grid.axis(0), torch.linspace(-1, 2, X, dtype=torch.float64))
    assert dataset.problem.boundary.uniform == "dirichlet"


def test_well_to_native_to_well_keeps_every_member(tmp_path):
    source = write_well(tmp_path / "mixed.hdf5")
    native = convert(source, tmp_path / "native.hdf5", "native")
    check_well(native)
    back = convert(native, tmp_path / "back.hdf5", "well")
    assert members(source) == members(back)
    foreign, own = open_well(source), open_dataset(native)["train"]
    assert torch.equal(foreign.truth().values, own.truth().values)
    assert torch.equal(foreign.cases().inputs.values, own.cases().inputs.values)
    assert foreign.grid == own.grid and foreign.problem == own.problem
    assert own.cases().ids.tolist() == [0, 1, 2]


def test_native_to_well_drops_nothing_but_the_group(native, tmp_path):
    source = native / "data" / "test" / "small.hdf5"
    plain = convert(source, tmp_path / "plain.hdf5", "well")
    check_well(plain)
    kept = {k: v for k, v in members(source).items() if not k.startswith("sciops")}
    assert members(plain) == kept
    with pytest.raises(UsageError, match=r"only time-constant fields \(f, u\).*inputs and outputs"):
        open_well(plain)
    dataset = open_dataset({"path": str(plain), "inputs": ["f"], "outputs": ["u"], "split": "test"})["test"]
    assert torch.equal(dataset.truth().values, open_dataset(source)["test"].truth().values)


def members(path):
    """Every member with its type, values and attributes, as comparable values."""
    table = {}

    def attributes(item):
        return {k: (np.asarray(v).dtype.kind, np.asarray(v).tolist()) for k, v in item.attrs.items()}

    with h5py.File(path) as file:
        table[""] = attributes(file)

        def visit(name, item):
            values = (str(item.dtype), item[()].tolist()) if isinstance(item, h5py.Dataset) else None
            table[name] = (values, attributes(item))

        file.visititems(visit)
    return table


def test_statistics_of_tensors_are_per_component(tmp_path):
    path = write_well(tmp_path / "mixed.hdf5")
    write_stats(tmp_path / "stats.yaml", [path, path])
    stats = yaml.safe_load((tmp_path / "stats.yaml").read_text())
    with h5py.File(path) as file:
        velocity, stress = (file[k][()].astype(np.float64) for k in ("t1_fields/velocity", "t2_fields/stress"))
    assert np.allclose(stats["mean"]["velocity"], velocity.mean((0, 1, 2, 3)), rtol=1e-4)
    assert np.allclose(stats["std"]["stress"], stress.std((0, 1, 2, 3)), rtol=1e-4)
    assert np.allclose(
        stats["rms_delta"]["velocity"], np.sqrt((np.diff(velocity, axis=1) ** 2).mean((0, 1, 2, 3))), rtol=1e-4
    )
    exact = compute_stats([path])
    assert np.allclose(exact["std_delta"]["stress"], np.diff(stress, axis=1).std((0, 1, 2, 3)), rtol=1e-10)


def test_what_no_grid_describes_is_refused(tmp_path):
    uneven = np.array([0, 0.1, 0.3, 0.6, 0.7, 1.0])
    with pytest.raises(DataError, match="'x' is not equally spaced"):
        open_well(write_well(tmp_path / "a.hdf5", x=uneven))
    with pytest.raises(DataError, match="spherical grid"):
        open_well(write_well(tmp_path / "b.hdf5", grid_type="spherical"))
    times = np.linspace(0, 1, T)[None] * np.arange(1, N + 1)[:, None]
    with pytest.raises(DataError, match="time axis differs"):
        open_well(write_well(tmp_path / "c.hdf5", time=times))
    with pytest.raises(UsageError, match="no field 'speed'"):
        open_well(write_well(tmp_path / "d.hdf5"), inputs=["mask"], outputs=["speed"])

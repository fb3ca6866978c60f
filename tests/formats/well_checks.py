"""The checks of The Well's own format checker, written anew from the format's description.

The published checker is a script of the repository and is not in the `the_well` wheel, so its conditions are
restated here; the loader of the wheel is used as it is.
"""

from pathlib import Path

import h5py
import numpy as np

BOOL = (bool, np.bool_)


def check_well(path: Path) -> None:
    """Assert everything that The Well demands of one HDF5 file."""
    with h5py.File(path, "r") as file:
        _root(file)
        axes = _dimensions(file)
        for order in range(3):
            _fields(file, axes, order)
        _scalars(file)
        _boundaries(file, axes)


def _flag(item, name: str) -> bool:
    assert name in item.attrs, f"{item.name} lacks {name}"
    assert isinstance(item.attrs[name], BOOL), f"{item.name}: {name} is not a bool"
    return bool(item.attrs[name])


def _strings(item, name: str) -> list[str]:
    assert name in item.attrs, f"{item.name} lacks {name}"
    values = item.attrs[name]
    assert isinstance(values, list | np.ndarray), f"{item.name}: {name} is not a list"
    assert all(isinstance(v, str) for v in values), f"{item.name}: {name} holds other things than strings"
    return list(values)


def _root(file) -> None:
    assert int(file.attrs["n_spatial_dims"]) > 0
    assert isinstance(file.attrs["n_trajectories"], int | np.integer)
    for name in ("dataset_name", "grid_type"):
        assert isinstance(file.attrs[name], str)
    for name in _strings(file, "simulation_parameters"):
        assert name in file.attrs
        assert name in file["scalars"]
    for group in ("dimensions", "scalars", "boundary_conditions", "t0_fields", "t1_fields", "t2_fields"):
        assert group in file, f"no group {group}"


def _dimensions(file) -> list[str]:
    group = file["dimensions"]
    axes = _strings(group, "spatial_dims")
    assert len(axes) == file.attrs["n_spatial_dims"]
    _flag(group["time"], "sample_varying")
    for axis in axes:
        _flag(group[axis], "sample_varying")
        _flag(group[axis], "time_varying")
    return axes


def _fields(file, axes: list[str], order: int) -> None:
    group = file[f"t{order}_fields"]
    for name in _strings(group, "field_names"):
        dataset = group[name]
        lead: list[int] = []
        if _flag(dataset, "sample_varying"):
            lead.append(int(file.attrs["n_trajectories"]))
        if _flag(dataset, "time_varying"):
            lead.append(file["dimensions/time"].shape[-1])
        varying = dataset.attrs["dim_varying"]
        assert isinstance(varying, list | np.ndarray) and isinstance(varying[0], BOOL)
        assert len(varying) == len(axes)
        space = [file["dimensions"][a].shape[-1] for a, v in zip(axes, varying, strict=True) if v]
        assert dataset.shape == (*lead, *space, *(len(axes),) * order), f"{dataset.name} has shape {dataset.shape}"


def _scalars(file) -> None:
    group = file["scalars"]
    for name in _strings(group, "field_names"):
        flags = _flag(group[name], "sample_varying"), _flag(group[name], "time_varying")
        assert len(group[name].shape) == sum(flags), f"scalar {name} has shape {group[name].shape}"


def _boundaries(file, axes: list[str]) -> None:
    for group in file["boundary_conditions"].values():
        assert group.attrs["bc_type"] in ("WALL", "OPEN", "PERIODIC")
        lead = _flag(group, "sample_varying") + _flag(group, "time_varying")
        _strings(group, "associated_fields")
        names = _strings(group, "associated_dims")
        assert names and set(names) <= set(axes)
        sizes = tuple(file["dimensions"][a].shape[-1] for a in names)
        assert group["mask"].dtype == bool and group["mask"].shape[lead:] == sizes

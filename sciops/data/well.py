"""Reading files in The Well's layout that sciops did not write: t0, t1 and t2 fields on cartesian grids.

Channels are scalars: vectors become name_x, name_y, …, tensors name_xy, …. Fields that are constant in time
are inputs; fields that vary in time are outputs, and their first frame is an input too. Coordinates decide
the layout: periodic axes by the boundary conditions, cell centres when the box then starts at 0, else nodes.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sciops.core.errors import DataError, UsageError
from sciops.core.grid import Grid
from sciops.data.contents import Contents
from sciops.data.hdf5 import atomic, file_hash, open_hdf5, readable, text, text_list, uniform_axis
from sciops.data.header import Header
from sciops.data.native import channel_sources
from sciops.data.store import write_own_group
from sciops.data.stored import StoredDataset


def open_well(
    path: str | Path,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    layout: Sequence[str] | str | None = None,
    split: str = "",
) -> StoredDataset:
    """One file of The Well as a lazy data-only dataset.

    inputs, outputs: channel names; needed when no field varies in time, because then nothing in the file says
    which fields are the answer. layout: overrides what the coordinates suggest.
    """
    return StoredDataset(path, contents=partial(well_contents, options=(inputs, outputs, layout, split)))


def well_contents(file: h5py.File, path: Path, options: tuple[Any, ...] = ()) -> Contents:
    """Contents of a Well file under the options of `open_well`."""
    header = well_header(file, path, *options)
    return Contents(header, int(file.attrs["n_trajectories"]), channel_sources(file, path))


def is_well(file: h5py.File) -> bool:
    return "t0_fields" in file and "dimensions" in file


def well_header(
    file: h5py.File,
    path: Path,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    layout: Sequence[str] | str | None = None,
    split: str = "",
) -> Header:
    """The facts of a Well file in sciops words; DataError when no Grid or no common time axis describes it."""
    kind = text(file.attrs["grid_type"])
    if kind != "cartesian":
        raise DataError(f"{path} lives on a {kind} grid; sciops grids are cartesian, so interpolate the file first.")
    sources = channel_sources(file, path)
    varying = [name for name, source in sources.items() if source.time_varying]
    constant = [name for name, source in sources.items() if not source.time_varying]
    if inputs is None or outputs is None:
        if not varying:
            raise UsageError(
                f"{path} holds only time-constant fields ({', '.join(constant) or 'none'}), so nothing says which "
                f"is the answer; give inputs and outputs by name."
            )
        inputs, outputs = inputs or [*constant, *varying], outputs or varying
    for name in (*inputs, *outputs):
        if name not in sources:
            raise UsageError(f"{path} has no field '{name}'; it holds {', '.join(sources)}.")
    grid = _grid(file, path, layout)
    times = _times(file, path) if any(sources[name].time_varying for name in outputs) else (0.0,)
    kinds = ["periodic" if k == "periodic" else "dirichlet" for k in grid.layout]
    parameters = {
        name: float(file.attrs[name])
        for name in text_list(file.attrs["simulation_parameters"])
        if np.ndim(file.attrs[name]) == 0
    }
    return Header(
        name=text(file.attrs["dataset_name"]),
        grid=grid,
        problem={
            "class_path": "sciops.core.problem.DataOnly",
            "init_args": {
                "input_names": list(inputs),
                "output_names": list(outputs),
                "ndim": grid.ndim,
                "wall": kinds[0] if len(set(kinds)) == 1 else kinds,
            },
        },
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        split=split or (path.parent.name if path.parent.name in ("train", "valid", "test") else "train"),
        times=times,
        parameters=parameters,
    )


def add_sciops_group(source: Path, target: Path, header: Header) -> Path:
    """Make a native file of a Well file: every member is kept bit for bit, /sciops is added."""
    with atomic(target) as temporary, readable(source), open_hdf5(source) as old, h5py.File(temporary, "w") as new:
        copy_members(old, new)
        count = int(old.attrs["n_trajectories"])
        own = write_own_group(new, header.stamped())
        own.create_dataset("case_id", data=np.arange(count))
        own.create_dataset("split", data=np.array([header.split] * count, dtype=h5py.string_dtype()))
        own.attrs["fingerprint"] = file_hash(source)
    return target


def strip_sciops_group(source: Path, target: Path) -> Path:
    """The same file without /sciops: plain The Well."""
    with atomic(target) as temporary, readable(source), open_hdf5(source) as old, h5py.File(temporary, "w") as new:
        copy_members(old, new)
    return target


def copy_members(old: h5py.File, new: h5py.File) -> None:
    """Copy root attributes and all members but /sciops, filters and attributes included."""
    for name, value in old.attrs.items():
        new.attrs.create(name, value, dtype=old.attrs.get_id(name).dtype)
    for name in old:
        if name != "sciops":
            old.copy(name, new)


def _grid(file: h5py.File, path: Path, layout: Sequence[str] | str | None) -> Grid:
    axes = text_list(file["dimensions"].attrs["spatial_dims"])
    periodic = set()
    for group in file["boundary_conditions"].values():
        if text(group.attrs["bc_type"]).upper() == "PERIODIC":
            periodic |= set(text_list(group.attrs["associated_dims"]))
    asked = [layout] * len(axes) if isinstance(layout, str) else layout
    shape, lower, upper, kinds = [], [], [], []
    for j, axis in enumerate(axes):
        dataset = file[f"dimensions/{axis}"]
        if bool(dataset.attrs["sample_varying"]):
            raise DataError(f"{path}: axis {axis} differs between trajectories; sciops cases share one grid.")
        first, last, h = uniform_axis(dataset[()], axis, path)
        if asked is not None:
            kind = asked[j]
        elif axis in periodic:
            kind = "periodic"
        else:
            kind = "cell" if abs(first - h / 2) < 1e-2 * h else "node"
        shape.append(dataset.shape[0])
        lower.append(_tidy(first - h / 2 if kind == "cell" else first, h))
        upper.append(_tidy({"cell": last + h / 2, "node": last, "periodic": last + h}[kind], h))
        kinds.append(kind)
    return Grid(tuple(shape), tuple(lower), tuple(upper), tuple(kinds))


def _tidy(value: float, h: float) -> float:
    """Undo float32 rounding of a box end when a short decimal lies within a thousandth of a cell."""
    short = round(value, 6)
    return short if abs(short - value) < 1e-3 * h else value


def _times(file: h5py.File, path: Path) -> tuple[float, ...]:
    dataset = file["dimensions/time"]
    times = np.asarray(dataset[()], dtype=np.float64)
    if bool(dataset.attrs["sample_varying"]):
        if np.ptp(times, axis=0).max() > 1e-6 * max(1.0, float(np.abs(times).max())):
            raise DataError(f"{path}: the time axis differs between trajectories; sciops fields share one time axis.")
        times = times[0]
    return tuple(times.tolist())

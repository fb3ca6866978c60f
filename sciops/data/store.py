"""Writing the native file: HDF5 in The Well's layout with one extra group, /sciops.

    /            dataset_name, grid_type, n_spatial_dims, n_trajectories, simulation_parameters
    /dimensions  time, x, y, z            /boundary_conditions  one subgroup per axis (WALL | PERIODIC)
    /scalars     constants and per-case scalar parameters
    /t0_fields   one dataset per channel, (N, [T,] *s), chunk = one case and one frame
    /sciops      schema, problem (YAML), inputs, outputs, layout, lower, upper, root_seed, solver (YAML),
                 versions (JSON), label_method, split; case_id, seed, residual, label_error, split per case;
                 params/<name>, boundary/<face>

Steady fields are stored once (time_varying = False) with a two-entry time axis, which The Well's own loader
returns as constant fields. An input channel with an output's name is that output's first frame.
Cost: one pass, memory of one chunk. Files are complete or absent: temporary name, fsync, rename.
"""

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sciops.core.boundary import axis_names
from sciops.core.dataset import Dataset
from sciops.core.errors import DataError, UsageError
from sciops.core.problem import Problem
from sciops.data.chunk import Chunk, chunks_of
from sciops.data.hdf5 import atomic, names
from sciops.data.header import SCHEMA, Header, header_of

PER_CASE = ("seeds", "residual", "label_error")
MEMBER = {"seeds": "seed", "residual": "residual", "label_error": "label_error"}


def write_native(
    path: Path, header: Header, chunks: Iterable[Chunk], count: int, problem: Problem, compression: str = "gzip"
) -> Path:
    """Write `count` cases, in the order in which the chunks bring them, to `path`.

    compression: gzip (level 4, readable everywhere) | lzf (faster, h5py only) | none.
    """
    if compression not in ("gzip", "lzf", "none"):
        raise UsageError(f"compression must be gzip, lzf or none; got '{compression}'.")
    if header.problem["class_path"].startswith("__main__."):
        raise UsageError(
            f"Problem {header.problem['class_path']} lives in __main__, which a file cannot name; "
            f"move the class to a module of its own."
        )
    header = header.stamped()
    with atomic(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        _write_header(file, header, count, problem)
        done = 0
        for chunk in chunks:
            chunk.require_finite(str(path))
            if done == 0:
                _create(file, header, chunk, count, compression)
            _fill(file, header, chunk, done)
            done += len(chunk)
        if done != count:
            raise DataError(f"{path}: expected {count} cases but {done} were made; nothing was written.")
        file["sciops"].attrs["fingerprint"] = _fingerprint(file, header)
    return Path(path)


def save_dataset(path: str | Path, dataset: Dataset, name: str = "", split: str = "") -> Path:
    """Write any dataset as a native file, streaming."""
    header = header_of(dataset, name, split)
    if len(dataset) == 0:
        raise UsageError("A dataset without cases cannot be written.")
    return write_native(Path(path), header, chunks_of(dataset), len(dataset), dataset.problem)


def stored_inputs(header: Header) -> list[str]:
    """Inputs that need an array of their own."""
    return [name for name in header.inputs if name not in header.outputs]


def _write_header(file: h5py.File, header: Header, count: int, problem: Problem) -> None:
    grid = header.grid
    axes = axis_names(grid.ndim)
    file.attrs["dataset_name"] = header.name
    file.attrs["grid_type"] = "cartesian"
    file.attrs["n_spatial_dims"] = grid.ndim
    file.attrs["n_trajectories"] = count
    file.attrs["simulation_parameters"] = names(list(header.parameters))
    for name, value in header.parameters.items():
        file.attrs[name] = value

    dimensions = file.create_group("dimensions")
    dimensions.attrs["spatial_dims"] = names(list(axes))
    # The Well's loader needs two time entries even for fields that do not vary in time.
    times = [0.0, 1.0] if header.steady else list(header.times)
    _varying(dimensions.create_dataset("time", data=np.array(times)), sample=False, time=True)
    for j, axis in enumerate(axes):
        _varying(dimensions.create_dataset(axis, data=grid.axis(j).numpy()), sample=False, time=False)

    conditions = file.create_group("boundary_conditions")
    for axis, size, kinds in zip(axes, grid.shape, problem.boundary.kinds, strict=True):
        periodic = kinds[0] == "periodic"
        group = conditions.create_group(f"{axis}_{'periodic' if periodic else 'wall'}")
        group.attrs["bc_type"] = "PERIODIC" if periodic else "WALL"
        group.attrs["kinds"] = names(list(kinds))
        group.attrs["associated_dims"] = names([axis])
        group.attrs["associated_fields"] = names([])
        _varying(group, sample=False, time=False)
        mask = np.zeros(size, dtype=bool)
        mask[[0, -1]] = True
        group.create_dataset("mask", data=mask)

    scalars = file.create_group("scalars")
    scalars.attrs["field_names"] = names(list(header.parameters))
    for name, value in header.parameters.items():
        _varying(scalars.create_dataset(name, data=value), sample=False, time=False)
    for order in range(3):
        file.create_group(f"t{order}_fields").attrs["field_names"] = names([])

    write_own_group(file, header)


def write_own_group(file: h5py.File, header: Header) -> h5py.Group:
    """Create /sciops with everything that is not per case."""
    import yaml

    grid = header.grid
    own = file.create_group("sciops")
    own.attrs["schema"] = SCHEMA
    own.attrs["problem"] = yaml.safe_dump(header.problem, sort_keys=False)
    own.attrs["solver"] = yaml.safe_dump(header.solver, sort_keys=False)
    own.attrs["versions"] = json.dumps(header.versions)
    own.attrs["created"] = header.created
    own.attrs["inputs"], own.attrs["outputs"] = names(header.inputs), names(header.outputs)
    own.attrs["layout"] = names(grid.layout)
    own.attrs["lower"], own.attrs["upper"] = np.array(grid.lower), np.array(grid.upper)
    own.attrs["times"] = np.array(header.times)
    own.attrs["label_method"] = header.label_method
    if header.root_seed is not None:
        own.attrs["root_seed"] = header.root_seed
    if header.generation_seconds is not None:
        own.attrs["generation_seconds"] = header.generation_seconds
    own.attrs["split"] = header.split
    return own


def _varying(item: Any, sample: bool, time: bool) -> None:
    item.attrs["sample_varying"], item.attrs["time_varying"] = sample, time


def _create(file: h5py.File, header: Header, first: Chunk, count: int, compression: str) -> None:
    """Allocate every per-case dataset from the shapes and types of the first chunk."""
    filters: dict[str, Any] = {"shuffle": True}
    if compression != "none":
        filters |= {"compression": compression, "compression_opts": 4 if compression == "gzip" else None}
    space = header.grid.shape
    fields = file["t0_fields"]
    for name in [*stored_inputs(header), *header.outputs]:
        varies = name in header.outputs and not header.steady
        dtype = (first.outputs if name in header.outputs else first.inputs).dtype
        shape = (count, len(header.times), *space) if varies else (count, *space)
        chunk = (1, 1, *space) if varies else (1, *space)
        dataset = fields.create_dataset(name, shape, dtype, chunks=chunk, **filters)
        dataset.attrs["dim_varying"] = np.ones(len(space), dtype=bool)
        _varying(dataset, sample=True, time=varies)
    fields.attrs["field_names"] = names([*stored_inputs(header), *header.outputs])

    own, scalars = file["sciops"], file["scalars"]
    own.create_dataset("case_id", (count,), np.int64)
    own.create_dataset("split", (count,), h5py.string_dtype())
    for attribute in PER_CASE:
        if getattr(first, attribute) is not None:
            own.create_dataset(MEMBER[attribute], (count,), getattr(first, attribute).dtype)
    for group, table in (("params", first.params), ("boundary", first.boundary)):
        for name, array in table.items():
            own.create_dataset(f"{group}/{name}", (count, *array.shape[1:]), array.dtype)
    per_case = [k for k, v in first.params.items() if v.ndim == 1 and k not in header.parameters]
    for name in per_case:
        _varying(scalars.create_dataset(name, (count,), first.params[name].dtype), sample=True, time=False)
    scalars.attrs["field_names"] = names([*header.parameters, *per_case])


def _fill(file: h5py.File, header: Header, chunk: Chunk, start: int) -> None:
    rows = slice(start, start + len(chunk))
    fields, own, scalars = file["t0_fields"], file["sciops"], file["scalars"]
    for name in stored_inputs(header):
        fields[name][rows] = chunk.inputs[:, header.inputs.index(name)]
    for j, name in enumerate(header.outputs):
        fields[name][rows] = chunk.outputs[:, 0, j] if header.steady else chunk.outputs[:, :, j]
    own["case_id"][rows] = chunk.ids
    own["split"][rows] = header.split
    for attribute in PER_CASE:
        if MEMBER[attribute] in own:
            own[MEMBER[attribute]][rows] = getattr(chunk, attribute)
    for name, array in chunk.params.items():
        own[f"params/{name}"][rows] = array
        if name in scalars and bool(scalars[name].attrs["sample_varying"]):
            scalars[name][rows] = array
    for name, array in chunk.boundary.items():
        own[f"boundary/{name}"][rows] = array


def _fingerprint(file: h5py.File, header: Header) -> str:
    """SHA-256 of inputs then outputs in (n, t, c, *s) order: the same as a MemoryDataset of the same data."""
    digest = sha256()
    fields = file["t0_fields"]
    count = int(file.attrs["n_trajectories"])
    for channels, steady in ((header.inputs, True), (header.outputs, header.steady)):
        for i in range(count):
            parts = []
            for name in channels:
                value = fields[name][i]
                if name in header.outputs and not header.steady:
                    parts.append(value[:1] if steady else value)
                else:
                    parts.append(value[None])
            digest.update(np.stack(parts, axis=1).tobytes())
    return digest.hexdigest()[:16]

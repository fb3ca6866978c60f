"""PDEBench files: reading layouts S (one array per variable) and G (one group per case), writing layout S.

Layout S: `tensor` (N, T, *s), or `nu` (N, *s) + `tensor` (N, 1, *s) for steady flow, or one (N, T, *s) array per
variable of compressible flow; `x-coordinate`, … are cell centres; `t-coordinate` may have one entry too many.
Layout G: `/0000`, …: `data` (T, *s, C), `grid/x`, …, `grid/t`. Layout V (velocity, particles, force) is refused.
Time-dependent files give the first frame as input and the whole trajectory as output.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sciops.core.boundary import AXES
from sciops.core.dataset import Dataset
from sciops.core.errors import DataError, UsageError
from sciops.core.grid import Grid
from sciops.data.chunk import chunks_of
from sciops.data.contents import Contents, Source
from sciops.data.hdf5 import atomic, open_hdf5, text, uniform_axis
from sciops.data.header import Header, check_schema, from_plain, header_of, to_plain
from sciops.data.native import PER_CASE
from sciops.data.stored import StoredDataset

FLOW = ("density", "pressure", "Vx", "Vy", "Vz")
OWN = "sciops-"


def layout_of(file: h5py.File) -> str | None:
    """S, G or V if the file looks like one of PDEBench's layouts, else None."""
    if "tensor" in file or all(name in file for name in FLOW[:3]):
        return "S"
    if "velocity" in file and ("force" in file or "particles" in file):
        return "V"
    if len(file) and all(name.isdigit() and "data" in file[name] for name in file):
        return "G"
    return None


def open_pdebench(path: str | Path, layout: str = "cell", wall: str = "dirichlet") -> StoredDataset:
    """One PDEBench file as a lazy data-only dataset (or as the problem that a sciops-written file names).

    layout: cell | periodic, per file, since PDEBench does not record boundary conditions.
    """
    with open_hdf5(path) as file:
        kind = layout_of(file)
    if kind == "V":
        raise DataError(
            f"{path} is PDEBench's incompressible-flow layout (velocity, particles, force), which is not read; "
            f"export the variables you need to one (N, T, X, Y) array per variable."
        )
    if kind is None:
        raise DataError(f"{path} has none of PDEBench's arrays (tensor; density, pressure, Vx; groups with data).")
    if kind == "G":
        return GroupedDataset(path, contents=partial(_grouped, layout=layout, wall=wall))
    return StoredDataset(path, contents=partial(_single, layout=layout, wall=wall))


# ---- layout S


def _single(file: h5py.File, path: Path, layout: str, wall: str) -> Contents:
    axes = [axis for axis in AXES if f"{axis}-coordinate" in file]
    if not axes:
        raise DataError(f"{path} has no x-coordinate, so its grid is unknown; add the coordinates of the cell centres.")
    if "sciops" in file.attrs:
        return _single_own(file, path)
    names = ["tensor"] if "tensor" in file else [name for name in FLOW if name in file]
    shape = file[names[0]].shape
    steady = "nu" in file and shape[1] == 1
    outputs, inputs = tuple(names), tuple(["nu"] if steady else names)
    header = _foreign(path, file, [file[f"{a}-coordinate"][()] for a in axes], layout, wall, inputs, outputs)
    times = (0.0,)
    if not steady:
        stored = np.asarray(file["t-coordinate"][()] if "t-coordinate" in file else range(shape[1]), dtype=np.float64)
        if len(stored) < shape[1]:
            raise DataError(f"{path}: t-coordinate has {len(stored)} entries for {shape[1]} frames.")
        times = tuple(stored[: shape[1]].tolist())
    sources = {name: Source(name, time_varying=True) for name in names}
    if steady:
        sources["nu"] = Source("nu")
    return Contents(replace(header, times=times), shape[0], sources)


def _single_own(file: h5py.File, path: Path) -> Contents:
    """A layout S file that sciops wrote: everything comes back as it was."""
    try:
        table = json.loads(text(file.attrs["sciops"]))
    except ValueError:
        raise DataError(f"{path}: its sciops attribute is not JSON; convert the file again.") from None
    check_schema(table.get("schema"), path)
    header = from_plain(table["header"], path)
    members = table["members"]
    sources = {name: Source(members[name], time_varying=name in header.outputs) for name in members}

    def own(prefix: str) -> dict[str, str]:
        start = OWN + prefix
        return {name.removeprefix(start): name for name in file if name.startswith(start)}

    per_case = {name: OWN + name for name in PER_CASE if OWN + name in file}
    count = file[next(iter(members.values()))].shape[0]
    return Contents(header, count, sources, per_case, own("params-"), own("boundary-"), table["fingerprint"])


def write_pdebench(path: str | Path, dataset: Dataset) -> Path:
    """Write layout S; the file must be called *.hdf5, because PDEBench's loader tells its layouts by the name.

    Coordinates are written as they are: PDEBench itself assumes cell centres, so other programs will take node
    values for cell values unless the data is on a cell grid. One output becomes `tensor` (several must be
    compressible-flow variables); the first input of steady data becomes `nu`, further ones keep their names.
    What PDEBench has no place for goes to the attribute `sciops` and to arrays named sciops-*, so that
    reading the file back gives the same dataset. Types are kept: PDEBench's own files are float32.
    """
    path = Path(path)
    if path.suffix != ".hdf5":
        raise UsageError(f"PDEBench layout S files must be called *.hdf5; got {path.name}.")
    header = header_of(dataset, "", "")
    members = _members(header)
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        for j, axis in enumerate(AXES[: header.grid.ndim]):
            file[f"{axis}-coordinate"] = header.grid.axis(j).numpy()
        file["t-coordinate"] = np.array(header.times)
        for name, value in header.parameters.items():
            file.attrs[name] = value
        done, count = 0, len(dataset)
        for chunk in chunks_of(dataset):
            rows = slice(done, done + len(chunk))
            arrays = {members[n]: chunk.outputs[:, :, j] for j, n in enumerate(header.outputs)}
            arrays |= {members[n]: chunk.inputs[:, j] for j, n in enumerate(header.inputs) if n not in header.outputs}
            own = {"case_id": chunk.ids, "seed": chunk.seeds} | {n: getattr(chunk, n) for n in PER_CASE[2:]}
            arrays |= {OWN + n: v for n, v in own.items() if v is not None}
            arrays |= {f"{OWN}params-{n}": v for n, v in chunk.params.items()}
            arrays |= {f"{OWN}boundary-{n}": v for n, v in chunk.boundary.items()}
            for name, array in arrays.items():
                if done == 0:
                    file.create_dataset(name, (count, *array.shape[1:]), array.dtype)
                file[name][rows] = array
            done += len(chunk)
        table = {
            "schema": 1,
            "header": to_plain(header.stamped()),
            "members": members,
            "fingerprint": dataset.fingerprint,
        }
        file.attrs["sciops"] = json.dumps(table)
    return path


def _members(header: Header) -> dict[str, str]:
    """Channel → name of its array."""
    outputs = header.outputs
    if len(outputs) == 1:
        members = {outputs[0]: "tensor"}
    elif outputs == FLOW[: len(outputs)] and len(outputs) >= 3:
        members = {name: name for name in outputs}
    else:
        raise UsageError(
            f"PDEBench layout S holds one output or {', '.join(FLOW)}; this dataset has {', '.join(outputs)}."
        )
    others = [name for name in header.inputs if name not in outputs]
    if others and header.steady:
        members[others.pop(0)] = "nu"
    taken = {"tensor", "nu", *(f"{axis}-coordinate" for axis in (*AXES, "t"))}
    for name in others:
        members[name] = f"{OWN}input-{name}" if name in taken else name
    return members


# ---- layout G


class GroupedDataset(StoredDataset):
    """Layout G: member names are `data` in the group of each case, channels are the last axis."""

    def _rows(self, source: Source, rows: list[int], frames: slice) -> np.ndarray:
        names = sorted(self.file)
        return np.stack([self.file[names[i]][source.member][frames] for i in rows])

    def _shape(self, file: h5py.File, source: Source) -> tuple[int, ...]:
        return (self.count, *file[min(file)][source.member].shape)

    def _first(self, source: Source) -> str:
        return f"{min(self.file)}/{source.member}"


def _grouped(file: h5py.File, path: Path, layout: str, wall: str) -> Contents:
    first = file[min(file)]
    shape = first["data"].shape
    axes = AXES[: len(shape) - 2]
    channels = tuple(f"u{k}" for k in range(shape[-1])) if shape[-1] > 1 else ("u",)
    coordinates = [first[f"grid/{axis}"][()] for axis in axes]
    header = _foreign(path, file, coordinates, layout, wall, channels, channels)
    times = np.asarray(first["grid/t"][()], dtype=np.float64)[: shape[0]]
    sources = {name: Source("data", (k,), time_varying=True) for k, name in enumerate(channels)}
    return Contents(replace(header, times=tuple(times.tolist())), len(file), sources)


# ---- shared


def _foreign(
    path: Path,
    file: h5py.File,
    coordinates: Sequence[np.ndarray],
    layout: str,
    wall: str,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
) -> Header:
    """Header of a file that sciops did not write; coordinates are cell centres."""
    if layout not in ("cell", "periodic"):
        raise UsageError(f"layout of a PDEBench file must be cell or periodic; got '{layout}'.")
    lower, upper = [], []
    for axis, x in zip(AXES, coordinates, strict=False):
        first, last, h = uniform_axis(x, f"{axis}-coordinate", path)
        shift = h / 2 if layout == "cell" else 0.0
        lower.append(round(first - shift, 6))
        upper.append(round(last - shift + h if layout == "periodic" else last + shift, 6))
    ndim = len(coordinates)
    grid = Grid(tuple(len(x) for x in coordinates), tuple(lower), tuple(upper), (layout,) * ndim)
    init: dict[str, Any] = {
        "input_names": list(inputs),
        "output_names": list(outputs),
        "ndim": ndim,
        "wall": "periodic" if layout == "periodic" else wall,
    }
    numbers = {k: float(v) for k, v in file.attrs.items() if np.ndim(v) == 0 and np.asarray(v).dtype.kind in "fiu"}
    spec = {"class_path": "sciops.core.problem.DataOnly", "init_args": init}
    return Header(path.stem, grid, spec, inputs, outputs, "all", parameters=numbers)

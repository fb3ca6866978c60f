"""A lazy dataset over one HDF5 file, whatever its layout: the formats only say where each channel lives."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.dataset import Dataset, Index
from sciops.core.errors import DataError, UsageError
from sciops.core.field import Field
from sciops.core.problem import Problem
from sciops.data.contents import Contents, Source
from sciops.data.hdf5 import file_hash, open_hdf5, readable
from sciops.data.header import require_usable
from sciops.data.native import native_contents


class StoredDataset(Dataset):
    """One HDF5 file, read lazily: the handle opens at the first read in each process and is never pickled.

    Every value read is checked to be finite. `problem` overrides the one that the file names (needed when
    that class lives outside sciops and its module is not imported). Cost: O(cases read).
    """

    def __init__(
        self,
        path: str | Path,
        problem: Problem | None = None,
        contents: Callable[[h5py.File, Path], Contents] | None = None,
    ) -> None:
        self.path = Path(path)
        self._handle: h5py.File | None = None
        self._process = -1
        with readable(self.path), open_hdf5(self.path) as file:
            self.contents = (contents or native_contents)(file, self.path)
            self.header, self.count = self.contents.header, self.contents.count
            self._ids = self._vector(file, "case_id", np.int64)
            self._seeds = self._vector(file, "seed", np.int64)
            self.residual = self._vector(file, "residual", np.float64)
            self.label_error = self._vector(file, "label_error", np.float64)
            self._check_members(file)
        self.grid = self.header.grid
        self.generation_seconds = self.header.generation_seconds
        self.problem = problem or self.header.make_problem()
        require_usable(self.problem, self.grid)
        wanted = tuple(c.name for c in self.problem.inputs), tuple(c.name for c in self.problem.outputs)
        if wanted != (self.header.inputs, self.header.outputs):
            raise UsageError(
                f"{self.path} holds inputs {list(self.header.inputs)} and outputs {list(self.header.outputs)}, but "
                f"{type(self.problem).__name__} has {list(wanted[0])} and {list(wanted[1])}; give another problem."
            )

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None, "_process": -1}

    @property
    def file(self) -> h5py.File:
        """The handle of this process; one inherited through fork is left alone and a new one opened."""
        if self._handle is None or self._process != os.getpid():
            self._handle, self._process = open_hdf5(self.path), os.getpid()
        return self._handle

    def close(self) -> None:
        """Close the handle; the next read opens it again."""
        if self._handle is not None and self._process == os.getpid():
            self._handle.close()
        self._handle = None

    def cases(self, index: Index = slice(None)) -> Cases:
        rows = rows_of(index, self.count)
        inputs = torch.stack([self._read(name, rows, first_frame=True)[:, 0] for name in self.header.inputs], dim=1)
        params = {name: self._table(member, rows) for name, member in self.contents.params.items()}
        boundary = {name: self._table(member, rows) for name, member in self.contents.boundary.items()}
        return Cases(
            self.problem,
            self.grid,
            Field.steady(inputs, self.grid, self.header.inputs),
            params,
            boundary,
            torch.tensor(rows, dtype=torch.int64) if self._ids is None else self._ids[rows],
            None if self._seeds is None else self._seeds[rows],
            self.header.times,
            provenance="stored",
        )

    def truth(self, index: Index = slice(None)) -> Field:
        rows = rows_of(index, self.count)
        values = torch.stack([self._read(name, rows) for name in self.header.outputs], dim=2)
        return Field(values, self.grid, self.header.outputs, self.header.times)

    def validate(self) -> None:
        """Read everything once; DataError at the first value that is not finite or not readable."""
        for start in range(0, self.count, 16):
            self.cases(slice(start, start + 16))
            self.truth(slice(start, start + 16))

    @property
    def nbytes(self) -> int:
        """Uncompressed size of the channels in use."""
        values = self.grid.size * (len(self.header.inputs) + len(self.header.outputs) * len(self.header.times))
        return self.count * values * self._itemsize

    @property
    def fingerprint(self) -> str:
        return self.contents.fingerprint or file_hash(self.path)

    def _rows(self, source: Source, rows: list[int], frames: slice) -> np.ndarray:
        """Raw values (n, …) of a member that varies with the case."""
        dataset = self.file[source.member]
        return read_rows(dataset, rows, (frames,) if source.time_varying else ())

    def _read(self, name: str, rows: list[int], first_frame: bool = False) -> Float[Tensor, "n t *s"]:
        source = self.contents.sources[name]
        steps = len(self.header.times)
        frames = slice(0, 1 if first_frame else steps)
        with readable(self.path):
            if source.sample_varying:
                values = self._rows(source, rows, frames)
            else:
                values = self.file[source.member][(frames,) if source.time_varying else ()]
                values = np.broadcast_to(values, (len(rows), *values.shape))
        for component in reversed(source.component):
            values = values[..., component]
        if not source.time_varying:
            values = values[:, None]
        for j, varies in enumerate(source.dim_varying):
            if not varies:
                values = np.expand_dims(values, 2 + j)
        count = 1 if first_frame else steps
        values = np.broadcast_to(values, (len(rows), count, *self.grid.shape))
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        if not finite.all():
            i = int((~finite).argmax())
            bad = int((~np.isfinite(values[i]).reshape(count, -1).all(1)).argmax())
            where = f" in frame {bad} (t = {self.header.times[bad]:g})" if count > 1 else ""
            raise DataError(
                f"{self.path}: field '{name}' of case {rows[i]} holds NaN or infinity{where}; "
                f"generate the file again or remove the case."
            )
        return torch.from_numpy(np.require(values, requirements=["C", "W"]))

    def _table(self, member: str, rows: list[int]) -> Tensor:
        with readable(self.path):
            return torch.from_numpy(np.require(read_rows(self.file[member], rows), requirements=["C", "W"]))

    def _vector(self, file: h5py.File, name: str, dtype: type) -> Tensor | None:
        member = self.contents.per_case.get(name)
        if member is None:
            return None
        values = torch.from_numpy(file[member][()].astype(dtype))
        if values.shape != (self.count,):
            raise DataError(
                f"{self.path}: {member} has shape {tuple(values.shape)} for {self.count} cases; generate it again."
            )
        return values

    def _check_members(self, file: h5py.File) -> None:
        sources = self.contents.sources
        for name in (*self.header.inputs, *self.header.outputs):
            if name not in sources:
                raise DataError(f"{self.path} has no field '{name}'; it holds {', '.join(sources) or 'no fields'}.")
            source = sources[name]
            varies = source.dim_varying or (True,) * self.header.grid.ndim
            space = tuple(n for n, v in zip(self.header.grid.shape, varies, strict=True) if v)
            lead = ((self.count,) if source.sample_varying else ()) + ((-1,) if source.time_varying else ())
            found = self._shape(file, source)
            if len(found) != len(lead) + len(space) + len(source.component) or any(
                want not in (-1, have) for want, have in zip((*lead, *space), found, strict=False)
            ):
                raise DataError(
                    f"{self.path}: field '{name}' has shape {found}, which does not fit {self.count} cases on "
                    f"{self.header.grid.describe()}; generate the file again."
                )
        self._itemsize = file[self._first(sources[self.header.outputs[0]])].dtype.itemsize

    def _first(self, source: Source) -> str:
        return source.member

    def _shape(self, file: h5py.File, source: Source) -> tuple[int, ...]:
        return tuple(file[source.member].shape)


def rows_of(index: Index, count: int) -> list[int]:
    """Row numbers for a slice or a sequence of indices (negative ones count from the end)."""
    if isinstance(index, slice):
        return list(range(count))[index]
    rows = [int(i) for i in index]
    for i in rows:
        if not -count <= i < count:
            raise UsageError(f"Case index {i} is outside the {count} cases of the dataset.")
    return [i % count for i in rows]


def read_rows(dataset: h5py.Dataset, rows: Sequence[int], rest: tuple[slice, ...] = ()) -> np.ndarray:
    """dataset[rows, *rest] for rows in any order, with repeats."""
    if len(rows) == 0:
        return dataset[(slice(0, 1), *rest)][:0]
    if list(rows) == list(range(rows[0], rows[-1] + 1)):
        return dataset[(slice(rows[0], rows[-1] + 1), *rest)]
    # A chunk is one case, so reading cases one by one costs nothing extra.
    return np.stack([dataset[(i, *rest)] for i in rows])

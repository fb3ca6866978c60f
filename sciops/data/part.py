"""Parts and unions of datasets, without copying: published splits, validation shares, many files as one."""

from bisect import bisect_right
from collections.abc import Sequence
from hashlib import sha256
from itertools import accumulate

import torch

from sciops.core.cases import Cases
from sciops.core.dataset import Dataset, Index
from sciops.core.errors import GridMismatch, UsageError
from sciops.core.field import Field
from sciops.data.stored import rows_of


class Part(Dataset):
    """Chosen cases of one or several datasets, in the given order. Reading stays lazy."""

    def __init__(self, sources: Sequence[Dataset], rows: Sequence[int]) -> None:
        first = sources[0]
        for other in sources[1:]:
            if other.grid != first.grid or other.problem.outputs != first.problem.outputs:
                raise GridMismatch(
                    f"Datasets to be joined differ: {first.grid.describe()} against {other.grid.describe()}."
                )
        self.sources, self.rows = list(sources), list(rows)
        self.starts = [0, *accumulate(len(s) for s in sources)]
        self.problem, self.grid = first.problem, first.grid
        self.label_error = self._vector("label_error")
        self.residual = self._vector("residual")

    @classmethod
    def of(cls, dataset: Dataset, rows: Sequence[int] | range) -> "Part":
        """The chosen rows of one dataset."""
        return cls([dataset], rows_of(list(rows), len(dataset)))

    @classmethod
    def joined(cls, datasets: Sequence[Dataset]) -> "Part":
        """All cases of several datasets on one grid, one after the other."""
        return cls(datasets, range(sum(len(d) for d in datasets)))

    def __len__(self) -> int:
        return len(self.rows)

    def cases(self, index: Index = slice(None)) -> Cases:
        parts = [source.cases(rows) for source, rows in self._runs(index)]
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        return Cases(
            first.problem,
            first.domain,
            Field.cat([p.inputs for p in parts]),
            {k: torch.cat([p.params[k] for p in parts]) for k in first.params},
            {k: torch.cat([p.boundary[k] for p in parts]) for k in first.boundary},
            None if first.ids is None else torch.cat([p.ids for p in parts if p.ids is not None]),
            None if first.seeds is None else torch.cat([p.seeds for p in parts if p.seeds is not None]),
            first.times,
            first.provenance,
            None if first.history is None else Field.cat([p.history for p in parts if p.history is not None]),
        )

    def truth(self, index: Index = slice(None)) -> Field:
        return Field.cat([source.truth(rows) for source, rows in self._runs(index)])

    @property
    def fingerprint(self) -> str:
        marks = [s.fingerprint for s in self.sources]
        return sha256(f"{marks}{self.rows}".encode()).hexdigest()[:16]

    def _runs(self, index: Index) -> list[tuple[Dataset, list[int]]]:
        """Consecutive rows of the same source, in the asked order."""
        runs: list[tuple[Dataset, list[int]]] = []
        for i in rows_of(index, len(self)):
            k = bisect_right(self.starts, self.rows[i]) - 1
            if not runs or runs[-1][0] is not self.sources[k]:
                runs.append((self.sources[k], []))
            runs[-1][1].append(self.rows[i] - self.starts[k])
        return runs or [(self.sources[0], [])]

    def _vector(self, name: str) -> torch.Tensor | None:
        values = [getattr(s, name) for s in self.sources]
        if any(v is None for v in values):
            return None
        return torch.cat(values)[self.rows]


def split_off(dataset: Dataset, count: int) -> tuple[Dataset, Dataset]:
    """(all but the last `count` cases, the last `count`): a validation share where a file has none."""
    if not 0 < count < len(dataset):
        raise UsageError(f"Cannot split {count} of {len(dataset)} cases off; give a number between the two.")
    cut = len(dataset) - count
    return Part.of(dataset, range(cut)), Part.of(dataset, range(cut, len(dataset)))


def split_pdebench(dataset: Dataset) -> dict[str, Dataset]:
    """The split of PDEBench's own loaders: the first tenth is the test share in layout S, the last in G."""
    from sciops.data.pdebench import GroupedDataset

    n, share = len(dataset), len(dataset) // 10
    if share == 0:
        raise UsageError(f"split: pdebench needs at least 10 cases; the file has {n}.")
    if isinstance(dataset, GroupedDataset):
        return {"train": Part.of(dataset, range(n - share)), "test": Part.of(dataset, range(n - share, n))}
    return {"train": Part.of(dataset, range(share, n)), "test": Part.of(dataset, range(share))}

"""Cases at several resolutions as batches: each batch on one grid, every case once on every grid an epoch."""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data.distributed import DistributedSampler

from sciops.core.random import case_seed, generator


class Mixed(TorchDataset):
    """The rows of several datasets of batches, one after the other; a list of rows lies in one of them."""

    def __init__(self, parts: Sequence[TorchDataset]) -> None:
        self.parts = list(parts)
        self.sizes = [len(part) for part in self.parts]  # type: ignore[arg-type]

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, rows: list[int]) -> dict[str, Tensor]:
        first = 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            if rows[0] < first + size:
                return part.__getitems__([row - first for row in rows])  # type: ignore[attr-defined]
            first += size
        raise IndexError(f"There is no row {rows[0]} among {first}.")


class Interleaved(DistributedSampler):
    """Batches of rows of `Mixed`, drawn without replacement within each part, the parts in random turns.

    Shuffled, the order follows from (seed, epoch) alone, as that of `Shuffled`; else the parts come one after the
    other. In a distributed run every process takes its share of the same batches (the last ones repeated).
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, seed: int, shuffle: bool) -> None:
        running = dist.is_available() and dist.is_initialized()
        world, rank = (dist.get_world_size(), dist.get_rank()) if running else (1, 0)
        self.sizes, self.batch_size, self.shuffled = list(sizes), batch_size, shuffle
        total = sum(-(-size // batch_size) for size in sizes)
        super().__init__(range(total), world, rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        batches: list[list[int]] = []
        first = 0
        for part, size in enumerate(self.sizes):
            rows = torch.randperm(size, generator=self._random(f"shuffle {part}")) if self.shuffled else None
            order = range(size) if rows is None else rows.tolist()
            numbered = [first + row for row in order]
            batches += [numbered[k : k + self.batch_size] for k in range(0, size, self.batch_size)]
            first += size
        if self.shuffled:
            batches = [batches[k] for k in torch.randperm(len(batches), generator=self._random("turns")).tolist()]
        padded = (batches * -(-self.total_size // len(batches)))[: self.total_size]
        # A generator: after a resume Lightning takes the iterator before it names the epoch.
        yield from padded[self.rank :: self.num_replicas]

    def _random(self, what: str) -> torch.Generator:
        return generator(case_seed(self.seed, self.epoch, what))

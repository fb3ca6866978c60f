"""Lightning data module of systems A x = b without solves: new samples in every batch, the same ones after a resume."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from sciops.core.config import build
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator
from sciops.core.problem import Problem
from sciops.core.random import case_seed, generator
from sciops.data.datamodule import Shuffled
from sciops.data.residual_sources import (
    LOW,
    WEIGHT,
    Manufactured,
    RitzVectors,
    SineModes,
    Source,
    SystemBatch,
    box_operator,
)

KINDS = ("sine", "ritz", "matrices")


class Stream(TorchDataset):
    """Endless samples by number: a batch follows from the number of its first sample, the seed and the name."""

    def __init__(self, source: Source, length: int, seed: int, name: str) -> None:
        self.source, self.length, self.seed, self.name = source, length, seed, name

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, rows: list[int]) -> SystemBatch:
        return self.source.sample(len(rows), generator(case_seed(self.seed, rows[0], self.name)))

    def __getitem__(self, row: int) -> SystemBatch:
        return self.__getitems__([row])


class Onward(Shuffled):
    """Numbers that go on from epoch to epoch, so that no sample comes twice; processes take turns."""

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.total_size
        return iter(range(first + self.rank, first + self.total_size, self.num_replicas))


class ResidualData(LightningDataModule):
    """Batches of systems (`SystemBatch`) for `ConjugateDirectionsModule`.

    source       "sine": the box of `shape` with zero Dirichlet data, exact eigenmodes, the low 55 % nine times larger
                 "ritz": the published route, `vectors` Lanczos steps on the box or on the first matrix of `problem`
                 "matrices": b = A x with random x on `matrices` matrices of `problem` (seeds 0, 1, … of `seed`)
    shape        cells per axis
    problem      {class_path, init_args}, sampled on a grid of the unit box with this `shape` and `layout`
    steps        batches per epoch; every epoch brings new samples
    valid        systems of the validation set, from a stream (and, with "matrices", from matrices) of their own
    manufactured "ritz" only: b = A x instead of b itself, as the energy loss needs x

    Nothing is stored but the matrices (float64). The samples of a batch depend on `seed`, its number and its size.
    """

    def __init__(
        self,
        source: str = "sine",
        shape: Sequence[int] = (64, 64),
        problem: dict[str, Any] | None = None,
        layout: str = "cell",
        matrices: int = 32,
        vectors: int = 500,
        manufactured: bool = False,
        low: float = LOW,
        weight: float = WEIGHT,
        steps: int = 100,
        batch_size: int = 10,
        valid: int = 40,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if source not in KINDS:
            raise UsageError(f"source must be one of {', '.join(KINDS)}; got '{source}'.")
        if min(steps, batch_size, valid, matrices, vectors) < 1 or not shape or min(shape) < 2:
            raise UsageError(
                f"steps, batch_size, valid, matrices and vectors must be 1 or more and shape 2 or more per axis; got "
                f"{steps}, {batch_size}, {valid}, {matrices}, {vectors} and {list(shape)}."
            )
        if source == "matrices" and problem is None:
            raise UsageError("source 'matrices' needs a problem {class_path, init_args} whose matrices it draws.")
        if source == "sine" and problem is not None:
            raise UsageError("source 'sine' knows the empty box alone; leave problem out, or choose matrices or ritz.")
        self.source, self.shape, self.problem, self.layout = source, tuple(shape), problem, layout
        self.matrices, self.vectors, self.manufactured = matrices, vectors, manufactured
        self.low, self.weight = low, weight
        self.steps, self.batch_size, self.valid, self.seed = steps, batch_size, valid, seed
        self.sources: dict[str, Source] = {}

    def setup(self, stage: str | None = None) -> None:
        if self.sources:
            return
        if self.source == "matrices":
            names = ("train", "valid", "test")
            self.sources = {name: Manufactured(self._matrices(name, self.matrices)) for name in names}
            return
        if self.source == "sine":
            source: Source = SineModes(self.shape, self.low, self.weight)
        else:
            A = box_operator(self.shape) if self.problem is None else self._matrices("train", 1)
            source = RitzVectors(A, self.vectors, self.seed, self.low, self.weight, self.manufactured)
        self.sources = dict.fromkeys(("train", "valid", "test"), source)

    def _matrices(self, name: str, count: int) -> LinearOperator:
        assert self.problem is not None
        problem: Problem = build(self.problem, Problem)
        grid = Grid.box(self.shape, ndim=len(self.shape), layout=self.layout)
        seeds = [case_seed(self.seed, i, f"matrix {name}") for i in range(count)]
        return problem.matrix(problem.sample(seeds, grid, torch.float64))

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", self.steps * self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return self._loader("valid", self.valid)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", self.valid)

    def _loader(self, name: str, length: int) -> DataLoader:
        return stream_loader(self.sources[name], length, self.batch_size, self.seed, name, onward=name == "train")


def stream_loader(source: Source, length: int, batch_size: int, seed: int, name: str, onward: bool) -> DataLoader:
    """Batches of a source; `onward`: new ones in every epoch, else always the same."""
    stream = Stream(source, length, seed, name)
    return DataLoader(
        stream,
        batch_size,
        sampler=Onward(stream, seed) if onward else None,
        collate_fn=_as_is,
        # The loader draws a base seed from the global state unless it has a generator of its own.
        generator=generator(seed),
    )


def _as_is(batch: Any) -> Any:
    return batch

"""Lightning data module of matrices from several problems, each with a white right-hand side."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from sciops.core.config import build
from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator
from sciops.core.problem import Problem
from sciops.core.random import case_seed
from sciops.core.stencil_operator import StencilOperator
from sciops.data.residual_data import stream_loader
from sciops.data.residual_sources import Source, SystemBatch


class MixedMatrices(Source):
    """Systems A x = b with A drawn from a stock of stencils on one grid and white b of unit 2-norm, float64.

    Right-hand sides are zero on cells without a row and off the null space of their matrix.
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        self.space = tuple(operators[0].space)
        self.stencils, self.projections = [], []
        for A in operators:
            if tuple(A.space) != self.space:
                raise UsageError(f"All matrices must live on one grid; got {self.space} and {tuple(A.space)}.")
            stencil = A.stencil_operator() if isinstance(A, FaceOperator) else A
            if not isinstance(stencil, StencilOperator) or stencil.radius != 1 or any(stencil.periodic):
                raise UsageError(f"MixedMatrices takes bounded radius-1 stencils; got {type(A).__name__}.")
            for i in range(A.n):
                self.stencils.append(stencil.stencil[i])
                self.projections.append(A.select(torch.tensor([i])))

    def sample(self, n: int, random: torch.Generator, dtype: torch.dtype = torch.float64) -> SystemBatch:
        rows = torch.randint(len(self.stencils), (n,), generator=random).tolist()
        noise = torch.randn((n, *self.space), generator=random, dtype=torch.float64)
        b = torch.cat([self._admissible(self.projections[i], v[None]) for i, v in zip(rows, noise, strict=True)])
        tags = frozenset({"symmetric", "positive"})
        A = StencilOperator(torch.stack([self.stencils[i] for i in rows]), (False,) * len(self.space), tags)
        return SystemBatch(A, b)

    @staticmethod
    def _admissible(A: LinearOperator, b: Tensor) -> Tensor:
        if isinstance(A, FaceOperator):
            b = torch.where(A.active, b, 0.0)
        b = A.project(b)
        return b / b.norm().clamp(min=torch.finfo(b.dtype).tiny)


class SeveralSizes(Source):
    """Batches from one of several stocks, drawn anew each time; of larger grids fewer systems, to the same cost."""

    def __init__(self, stocks: Sequence[MixedMatrices]) -> None:
        self.stocks = sorted(stocks, key=lambda stock: prod(stock.space))
        self.space = self.stocks[0].space

    def sample(self, n: int, random: torch.Generator, dtype: torch.dtype = torch.float64) -> SystemBatch:
        stock = self.stocks[int(torch.randint(len(self.stocks), (1,), generator=random))]
        return stock.sample(max(1, n * prod(self.space) // prod(stock.space)), random, dtype)


class MatrixData(LightningDataModule):
    """Batches of systems (`SystemBatch`) from the matrices of `problems`, for modules that train on matrices.

    problems     list of {class_path, init_args, share}: `share` (default 1) of the stock comes from this problem
    shape        cells per axis of the unit box, or a list of such shapes: each batch is of one of them
    matrices     training stock of a shape, held in float64 as stencils of 3^d entries; a quarter more for validation
    batch_size   systems of the smallest shape; of others so many fewer as they are larger
    steps        batches per epoch; every batch draws matrices and right-hand sides anew
    valid        systems of the validation set, the same in every epoch

    Nothing is solved and nothing stored on disk. All draws follow from `seed`.
    """

    def __init__(
        self,
        problems: list[dict[str, Any]],
        shape: Sequence[int] | Sequence[Sequence[int]] = (64, 64),
        matrices: int = 256,
        steps: int = 100,
        batch_size: int = 8,
        valid: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        one = tuple(m for m in shape if isinstance(m, int))
        self.shapes = [one] if one else [tuple(given) for given in shape if not isinstance(given, int)]
        smallest = min(m for given in self.shapes for m in given)
        if not problems or min(matrices, steps, batch_size, valid) < 1 or smallest < 2:
            raise UsageError(
                f"MatrixData needs problems, and matrices, steps, batch_size, valid of 1 or more; got {len(problems)}, "
                f"{matrices}, {steps}, {batch_size}, {valid}."
            )
        self.problems, self.matrices = problems, matrices
        self.steps, self.batch_size, self.valid, self.seed = steps, batch_size, valid, seed
        self.sources: dict[str, Source] = {}

    def setup(self, stage: str | None = None) -> None:
        if not self.sources:
            self.sources = {
                "train": self._stock("train", self.matrices),
                "valid": self._stock("valid", max(len(self.problems), self.matrices // 4)),
            }

    def _stock(self, name: str, count: int) -> Source:
        stocks = [self._stock_of(shape, name, count) for shape in self.shapes]
        return stocks[0] if len(stocks) == 1 else SeveralSizes(stocks)

    def _stock_of(self, shape: tuple[int, ...], name: str, count: int) -> MixedMatrices:
        grid = Grid.box(shape, ndim=len(shape), layout="cell")
        shares = [float(entry.get("share", 1.0)) for entry in self.problems]
        operators = []
        for k, (entry, share) in enumerate(zip(self.problems, shares, strict=True)):
            problem: Problem = build(_without_share(entry), Problem)
            seeds = [case_seed(self.seed, i, f"{name} {k}") for i in range(max(1, round(count * share / sum(shares))))]
            operators.append(problem.matrix(problem.sample(seeds, grid, torch.float64)))
        return MixedMatrices(operators)

    def train_dataloader(self) -> DataLoader:
        return stream_loader(
            self.sources["train"], self.steps * self.batch_size, self.batch_size, self.seed, "train", onward=True
        )

    def val_dataloader(self) -> DataLoader:
        return stream_loader(self.sources["valid"], self.valid, self.batch_size, self.seed, "valid", onward=False)


def _without_share(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "share"}

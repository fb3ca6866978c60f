"""A dataset is one split: cases, their trusted answers, and how much the answers can be trusted."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.problem import Problem

Index = slice | Sequence[int]


class Dataset(ABC):
    """n cases with truth, read lazily. `label_error`: estimated relative L² error of each truth, or None."""

    problem: Problem
    grid: Grid
    label_error: Float[Tensor, " n"] | None = None
    residual: Float[Tensor, " n"] | None = None
    generation_seconds: float | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def cases(self, index: Index = slice(None)) -> Cases:
        """The chosen cases with their inputs."""

    @abstractmethod
    def truth(self, index: Index = slice(None)) -> Field:
        """The trusted solutions of the chosen cases."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the content; the same data has the same fingerprint on every machine."""


@dataclass
class MemoryDataset(Dataset):
    """A dataset held in memory."""

    stored: Cases
    answers: Field
    label_error: Float[Tensor, " n"] | None = None
    residual: Float[Tensor, " n"] | None = None
    generation_seconds: float | None = None

    def __post_init__(self) -> None:
        if len(self.stored) != self.answers.n:
            raise UsageError(f"Dataset has {len(self.stored)} cases but {self.answers.n} answers.")
        self.problem, self.grid = self.stored.problem, self.stored.domain

    def __len__(self) -> int:
        return len(self.stored)

    def cases(self, index: Index = slice(None)) -> Cases:
        return self.stored[index]

    def truth(self, index: Index = slice(None)) -> Field:
        return self.answers[index]

    @property
    def fingerprint(self) -> str:
        digest = sha256()
        for tensor in (self.stored.inputs.values, self.answers.values):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

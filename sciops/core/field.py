"""Fields: values that know where and when they live, so that mixing grids raises instead of misleading."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import index as as_integer
from typing import SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import GridMismatch, UsageError
from sciops.core.grid import Domain

Index = SupportsIndex | slice | Iterable[int] | Tensor


def selection(index: Index) -> slice | list[int] | Tensor:
    """What keeps the case axis when a tensor is indexed with it: one case stays a batch of one."""
    if isinstance(index, slice):
        return index
    if isinstance(index, Tensor):
        return index.reshape(-1)
    return [as_integer(i) for i in (index if isinstance(index, Iterable) else [index])]


@dataclass(frozen=True, eq=False)
class Field:
    """values[n, t, c, *s] on a domain: n cases, t times (steady fields: t = 1), c named channels, s space.

    Arithmetic demands equal domains, times, channels and numbers of cases, else GridMismatch.
    """

    values: Float[Tensor, "n t c *s"]
    domain: Domain
    channels: tuple[str, ...]
    times: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        expected = (len(self.times), len(self.channels), *self.domain.shape)
        if tuple(self.values.shape[1:]) != expected:
            raise UsageError(
                f"Field values must have shape (n, {', '.join(map(str, expected))}) = (n, t, c, *space) for "
                f"{self.domain.describe()} with channels {list(self.channels)}; got {tuple(self.values.shape)}."
            )

    @classmethod
    def steady(cls, values: Float[Tensor, "n c *s"], domain: Domain, channels: Sequence[str]) -> "Field":
        """A field without time axis."""
        return cls(values.unsqueeze(1), domain, tuple(channels))

    @property
    def n(self) -> int:
        return self.values.shape[0]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Index) -> "Field":
        return replace(self, values=self.values[selection(index)])

    def channel(self, name: str) -> Float[Tensor, "n t *s"]:
        if name not in self.channels:
            raise UsageError(f"Field has channels {list(self.channels)}; got '{name}'.")
        return self.values[:, :, self.channels.index(name)]

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> "Field":
        return replace(self, values=self.values.to(dtype=dtype, device=device))

    def finite(self) -> "list[bool]":
        """Per case: are all values finite?"""
        return torch.isfinite(self.values).flatten(1).all(1).tolist()

    def _compatible(self, other: "Field") -> None:
        for name in ("domain", "times", "channels"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                show = (mine.describe(), theirs.describe()) if name == "domain" else (mine, theirs)
                raise GridMismatch(f"Fields differ in {name}: {show[0]} against {show[1]}; resample one of them first.")

    def __add__(self, other: "Field | float") -> "Field":
        return self._with(other, torch.add)

    def __sub__(self, other: "Field | float") -> "Field":
        return self._with(other, torch.sub)

    def __mul__(self, factor: float) -> "Field":
        return replace(self, values=self.values * factor)

    __rmul__ = __mul__

    def __neg__(self) -> "Field":
        return replace(self, values=-self.values)

    def _with(self, other: "Field | float", operation: object) -> "Field":
        if isinstance(other, Field):
            self._compatible(other)
            if self.n != other.n:
                raise GridMismatch(f"Fields hold different numbers of cases: {self.n} against {other.n}.")
            return replace(self, values=operation(self.values, other.values))  # type: ignore[operator]
        return replace(self, values=operation(self.values, other))  # type: ignore[operator]

    @classmethod
    def cat(cls, fields: Sequence["Field"]) -> "Field":
        """Stack the cases of several fields on one domain."""
        for other in fields[1:]:
            fields[0]._compatible(other)
        return replace(fields[0], values=torch.cat([f.values for f in fields]))

"""Jacobians of which whole blocks vanish: parts of a network that live at some of the points only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Columns `first`, `first` + 1, … of a Jacobian: `values` in the rows `rows`, all of them where that is None, zero
    in the others."""

    rows: Int[Tensor, " m"] | None
    first: int
    values: Float[Tensor, "m p"]

    @property
    def columns(self) -> slice:
        return slice(self.first, self.first + self.values.shape[1])


class Blocks:
    """An M × P matrix as parts that cover its columns, each with rows of its own.

    Products and the Gram matrix touch what is not zero: Σ_k m_k p_k and Σ_kl m_kl p_k p_l operations, m_kl the rows
    that parts k and l share, instead of M P and M P². `add_gram` fills the lower triangle alone, for Cholesky.
    """

    def __init__(self, count: int, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self.shape = (count, sum(part.values.shape[1] for part in self.parts))

    def dense(self) -> Float[Tensor, "M P"]:
        if all(part.rows is None for part in self.parts):
            values = [part.values for part in self.parts]
            return values[0] if len(values) == 1 else torch.cat(values, 1)
        whole = self.parts[0].values.new_zeros(self.shape)
        for part in self.parts:
            whole[slice(None) if part.rows is None else part.rows, part.columns] = part.values
        return whole

    def __mul__(self, scale: float) -> "Blocks":
        return Blocks(self.shape[0], [Part(part.rows, part.first, scale * part.values) for part in self.parts])

    def transposed(self, w: Float[Tensor, " M"]) -> Float[Tensor, " P"]:
        """Jᵀw."""
        return torch.cat([part.values.T @ (w if part.rows is None else w[part.rows]) for part in self.parts])

    def projected(self, basis: Float[Tensor, "K M"]) -> Float[Tensor, "K P"]:
        """Φ J."""
        return torch.cat([(basis if p.rows is None else basis[:, p.rows]) @ p.values for p in self.parts], 1)

    def add_gram(self, whole: Float[Tensor, "P P"]) -> None:
        """Adds JᵀJ, the lower triangle."""
        like = self.parts[0].values
        place = torch.empty(self.shape[0], dtype=torch.long, device=like.device)
        for k, below in enumerate(self.parts):
            whole[below.columns, below.columns] += below.values.T @ below.values
            if below.rows is not None:
                place.fill_(-1)
                place[below.rows] = torch.arange(len(below.rows), device=like.device)
            for right in self.parts[:k]:
                mine, theirs = below.values, right.values
                if below.rows is not None:
                    at = place if right.rows is None else place[right.rows]
                    shared = at >= 0
                    mine, theirs = mine[at[shared]], theirs[shared]
                elif right.rows is not None:
                    mine = mine[right.rows]
                whole[below.columns, right.columns] += mine.T @ theirs


@runtime_checkable
class Blocked(Protocol):
    """A least squares that hands out its rows in pieces (r_i, J_i) of which blocks may vanish; `local` says that they
    do."""

    @property
    def local(self) -> bool: ...

    def local_blocks(self, theta: Tensor) -> list[tuple[Tensor, "Blocks | Tensor"]]: ...

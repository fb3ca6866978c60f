"""Polynomials times cosines and sines: envelope × carrier in weight space, with derivatives of any order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciops.core.errors import UsageError


def chebyshev_table(t: Float[Tensor, " N"], count: int, orders: int) -> Float[Tensor, "m N j"]:
    """T_j^{(m)}(t) for j < count and m ≤ orders by T_{j+1}^{(m)} = 2t T_j^{(m)} + 2m T_j^{(m−1)} − T_{j−1}^{(m)}."""
    columns: list[list[Tensor]] = []  # by degree, then by derivative
    for j in range(count):
        if j == 0:
            columns.append([torch.ones_like(t), *[torch.zeros_like(t)] * orders])
            continue
        # T_1 = t·T_0 lacks the factor 2 of the later steps.
        factor, last = (1.0, None) if j == 1 else (2.0, columns[j - 2])
        column = []
        for m in range(orders + 1):
            value = factor * t * columns[j - 1][m]
            if m:
                value = value + factor * m * columns[j - 1][m - 1]
            column.append(value if last is None else value - last[m])
        columns.append(column)
    return torch.stack([torch.stack(derivative, dim=1) for derivative in zip(*columns, strict=True)])


def modulated(
    x: Float[Tensor, " N"], lower: float, upper: float, cycles: float, count: int, order: int = 0
) -> Float[Tensor, "N c j"]:
    """∂^order of T_j(t) cos 2πνs and T_j(t) sin 2πνs, j < count; c is 2, or 1 (no carrier) where ν = 0.

    s = (x − middle)/L ∈ [−½, ½], t = 2s, ν = `cycles` per length L of the interval. By Leibniz,
    Σ_m (order over m) (2/L)^m T_j^{(m)} · ω^k cos(ωx + kπ/2), k = order − m, ω = 2πν/L. Phases are taken from the
    middle, which halves the rounding of large arguments.
    """
    length = upper - lower
    s = (x - 0.5 * (lower + upper)) / length
    table = chebyshev_table(2.0 * s, count, order)
    if cycles == 0:
        return (table[order] * (2.0 / length) ** order)[:, None]
    omega, phase = 2.0 * math.pi * cycles / length, 2.0 * math.pi * cycles * s
    wave = torch.stack([torch.cos(phase), torch.sin(phase)], dim=1)
    turned = torch.stack([-wave[:, 1], wave[:, 0]], dim=1)  # one derivative, divided by ω
    total = torch.zeros_like(wave[..., None] * table[0][:, None])
    for m in range(order + 1):
        k = order - m
        carrier = (wave, turned)[k % 2] * (-1.0) ** (k // 2)
        factor = math.comb(order, m) * (2.0 / length) ** m * omega**k
        total = total + factor * carrier[..., None] * table[m][:, None]
    return total


@dataclass(frozen=True)
class ModulatedFeatures:
    """φ(x) = Π_p T_{α_p}(t_p) · Π_p {cos, sin}(2πν_p s_p), Σ_p α_p < count_ν, for each wave ν of a list.

    This is the weight-space form of a kernel envelope(length ~ L) × Π cos with frozen frequencies: the span of a block
    holds e^{iδx} times the wave to spectral accuracy for |δ|L of order one, holds polynomial and slow envelopes, and
    is closed under differentiation. The wave 0 is the polynomial block. Columns number Σ_ν 2^(non-zero entries of ν) ·
    C(count_ν − 1 + d, d).

    lower, upper   the box, one entry per axis
    waves          cycles per box length, one tuple of d entries per wave
    counts         polynomials per axis (total degree below it), one number per wave

    Cost and memory O(N n) per derivative. Ill-conditioned where two waves differ by less than about count/2 cycles:
    solve with `numerics.weight_space`.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    waves: tuple[tuple[float, ...], ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.lower) == len(self.upper) or any(len(w) != len(self.lower) for w in self.waves):
            raise UsageError(
                f"ModulatedFeatures needs one entry per axis; got lower={self.lower}, upper={self.upper}, "
                f"waves={self.waves}."
            )
        if len(self.counts) != len(self.waves) or min(self.counts, default=1) < 1:
            raise UsageError(f"ModulatedFeatures needs one count ≥ 1 per wave; got {self.counts} for {self.waves}.")
        if any(nu < 0 for wave in self.waves for nu in wave):
            raise UsageError(f"ModulatedFeatures needs cycles ≥ 0; got waves={self.waves}.")

    @property
    def ndim(self) -> int:
        return len(self.lower)

    @cached_property
    def axes(self) -> list[list[float]]:
        """Distinct ν of each axis."""
        return [sorted({wave[j] for wave in self.waves}) for j in range(self.ndim)]

    @cached_property
    def columns(self) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
        """(wave, carrier per axis: 0 cosine or none, 1 sine; degree per axis) of every feature, degrees rising."""
        found = []
        for b, (wave, count) in enumerate(zip(self.waves, self.counts, strict=True)):
            degrees = sorted((a for a in product(range(count), repeat=self.ndim) if sum(a) < count), key=sum)
            for carrier in product(*(range(2 if nu else 1) for nu in wave)):
                found += [(b, carrier, alpha) for alpha in degrees]
        return found

    @cached_property
    def wave_of(self) -> Int[Tensor, " n"]:
        """Index of each feature's wave."""
        return torch.tensor([b for b, _, _ in self.columns], dtype=torch.int64)

    @cached_property
    def degree_of(self) -> Int[Tensor, " n"]:
        """Total degree of each feature's polynomial."""
        return torch.tensor([sum(alpha) for _, _, alpha in self.columns], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def _most(self) -> int:
        return max(self.counts)

    @cached_property
    def _places(self) -> list[Int[Tensor, " n"]]:
        """Where each feature's factor along an axis stands in that axis' table."""
        places = []
        for j, values in enumerate(self.axes):
            starts, start = {}, 0
            for nu in values:
                starts[nu] = start
                start += self._most * (2 if nu else 1)
            index = [starts[self.waves[b][j]] + c[j] * self._most + alpha[j] for b, c, alpha in self.columns]
            places.append(torch.tensor(index, dtype=torch.int64))
        return places

    def __call__(self, x: Float[Tensor, "N d"], order: Sequence[int]) -> Float[Tensor, "N n"]:
        """∂^order of every feature at the points; differentiable in x."""
        total: Tensor | None = None
        for j, values in enumerate(self.axes):
            ends = (self.lower[j], self.upper[j])
            parts = [modulated(x[:, j], *ends, nu, self._most, order[j]).flatten(1) for nu in values]
            factor = torch.cat(parts, dim=1)[:, self._places[j].to(x.device)]
            total = factor if total is None else total * factor
        assert total is not None
        return total

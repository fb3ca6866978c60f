"""First layers without trained parameters: scaled coordinates, exact periodicity, random Fourier features."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.activations import Sine
from sciops.models.channels import Plan, bend

Carried = tuple[Tensor, Tensor]
"""Values (N, m) and derivative channels (k, N or 1, m); one point where they are the same at all of them."""


class Embedding(nn.Module, ABC):
    """Points (N, d) ↦ features (N, width); `carry` gives their derivatives too.

    Nothing here is trained, so nothing is recorded on the tape of per-sample Jacobians.
    """

    ndim: int
    width: int

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N m"]:
        return self.carry(x, x.new_zeros(0, 1, self.ndim), Plan((), (), (), False))[0]

    @abstractmethod
    def carry(
        self, x: Float[Tensor, "N d"], t: Float[Tensor, "k #N d"], plan: Plan, form: Tensor | None = None
    ) -> Carried:
        """Features and their derivative channels from those of x, `t`."""


class Scaled(Embedding):
    """x̂ = 2 (x − middle) / (upper − lower): the box becomes [−1, 1]^d; x̂ = x where no box is given."""

    def __init__(self, ndim: int, lower: Sequence[float] | None = None, upper: Sequence[float] | None = None) -> None:
        super().__init__()
        low, high = _box(ndim, lower, upper)
        self.ndim = self.width = ndim
        self.register_buffer("middle", (low + high) / 2)
        self.register_buffer("scale", 2 / (high - low))
        self.middle: Tensor
        self.scale: Tensor

    def carry(
        self, x: Float[Tensor, "N d"], t: Float[Tensor, "k #N d"], plan: Plan, form: Tensor | None = None
    ) -> Carried:
        return (x - self.middle) * self.scale, t * self.scale


class Periodic(Embedding):
    """cos(2πk(x_j − lo_j)/L_j), sin(2πk(x_j − lo_j)/L_j), k = 1 … modes, for the periodic axes; x̂ for the others.

    Any function of these features, and every derivative of it, is periodic exactly: no loss on the seam is needed.
    Features per point: 2 · modes · (periodic axes) + (other axes). Fails where the solution is not periodic.
    Reference: Dong & Ni, J. Comput. Phys. 435 (2021) 110242.
    """

    def __init__(self, lower: Sequence[float], upper: Sequence[float], axes: Sequence[int], modes: int = 1) -> None:
        super().__init__()
        d, chosen = len(lower), sorted(set(axes))
        if not chosen or chosen[0] < 0 or chosen[-1] >= d or modes < 1:
            raise UsageError(
                f"Periodic needs axes between 0 and {d - 1} and modes of 1 or more; got {list(axes)}, {modes}."
            )
        low, high = _box(d, lower, upper)
        self.ndim, self.width = d, 2 * modes * len(chosen) + d - len(chosen)
        self.others = Scaled(d, lower, upper)
        self.kept = [j for j in range(d) if j not in chosen]
        frequencies, phases = [], []
        for j in chosen:
            for k in range(1, modes + 1):
                omega = 2 * math.pi * k / float(high[j] - low[j])
                row = torch.zeros(d, dtype=torch.float64)
                row[j] = omega
                frequencies += [row, row]
                phases += [math.pi / 2 - omega * float(low[j]), -omega * float(low[j])]  # cos = sin(· + π/2)
        self.register_buffer("frequencies", torch.stack(frequencies))
        self.register_buffer("phases", torch.tensor(phases, dtype=torch.float64))
        self.frequencies: Tensor
        self.phases: Tensor
        self.sine = Sine()

    def carry(
        self, x: Float[Tensor, "N d"], t: Float[Tensor, "k #N d"], plan: Plan, form: Tensor | None = None
    ) -> Carried:
        z = torch.nn.functional.linear(x, self.frequencies, self.phases)
        waves, slopes = bend(self.sine, plan, z, torch.nn.functional.linear(t, self.frequencies), form)
        if not self.kept:
            return waves, slopes
        value, seeds = self.others.carry(x, t, plan)
        seeds = seeds[..., self.kept].expand(-1, len(x), -1)
        return torch.cat([waves, value[:, self.kept]], 1), torch.cat([slopes.expand(-1, len(x), -1), seeds], 2)


class Fourier(Embedding):
    """cos(B e), sin(B e) with frozen frequencies B ~ N(0, scale²), e an inner embedding: features / 2 rows of B.

    scale is in radians per unit of e (the scaled box has length 2); several scales share the features evenly. It
    widens the band of frequencies that a network sees at the start of training; with too large a scale it oscillates
    between the points. Published sizes: 256 features, scale 1 … 10.
    References: Tancik et al., NeurIPS 33 (2020); Wang, Wang & Perdikaris, CMAME 384 (2021) 113938.
    """

    def __init__(
        self, inner: Embedding, features: int = 256, scale: float | Sequence[float] = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        scales = [float(scale)] if isinstance(scale, int | float) else [float(s) for s in scale]
        if features < 2 * len(scales) or features % (2 * len(scales)):
            raise UsageError(f"features must be a multiple of {2 * len(scales)} (2 per scale); got {features}.")
        self.inner, self.ndim, self.width = inner, inner.ndim, features
        random = torch.Generator().manual_seed(seed)
        B = torch.randn(features // 2, inner.width, generator=random, dtype=torch.float64)
        B = B * torch.tensor(scales, dtype=torch.float64).repeat_interleave(features // 2 // len(scales))[:, None]
        self.register_buffer("frequencies", torch.cat([B, B]))
        phases = torch.zeros(features, dtype=torch.float64)
        phases[: features // 2] = math.pi / 2
        self.register_buffer("phases", phases)
        self.frequencies: Tensor
        self.phases: Tensor
        self.sine = Sine()

    def carry(
        self, x: Float[Tensor, "N d"], t: Float[Tensor, "k #N d"], plan: Plan, form: Tensor | None = None
    ) -> Carried:
        h, t = self.inner.carry(x, t, plan, form)
        z = torch.nn.functional.linear(h, self.frequencies, self.phases)
        return bend(self.sine, plan, z, torch.nn.functional.linear(t, self.frequencies), form)


def embed(
    lower: Sequence[float],
    upper: Sequence[float],
    periodic: Sequence[int] = (),
    modes: int = 1,
    features: int = 0,
    scale: float | Sequence[float] = 1.0,
    seed: int = 0,
) -> Embedding:
    """The first layer of a box: periodic axes exactly, then random Fourier features where features > 0."""
    first = Periodic(lower, upper, periodic, modes) if len(periodic) else Scaled(len(lower), lower, upper)
    return Fourier(first, features, scale, seed) if features else first


def _box(ndim: int, lower: Sequence[float] | None, upper: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    low = [-1.0] * ndim if lower is None else [float(v) for v in lower]
    high = [1.0] * ndim if upper is None else [float(v) for v in upper]
    if len(low) != ndim or len(high) != ndim or any(a >= b for a, b in zip(low, high, strict=False)):
        raise UsageError(f"lower and upper must be {ndim} numbers each with lower < upper; got {low}, {high}.")
    return torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)

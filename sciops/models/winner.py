"""Noise on the first two layers of a SIREN, as large as the spectral centroid of its target asks for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.models.embeddings import Embedding
from sciops.models.siren import Siren
from sciops.numerics.transforms import eigenbasis, solve_poisson


@dataclass(frozen=True)
class CentroidRule:
    """s₀ = s₀max (1 − e^{−a z}), s₁ = b z, with z = ψ/C from the centroid ψ of a signal of C channels."""

    s0_max: float
    a: float
    b: float

    def scales(self, signal: Float[Tensor, "c *s"]) -> tuple[float, float]:
        """(s₀, s₁) for a signal on a grid."""
        z = spectral_centroid(signal) / signal.shape[0]
        return self.s0_max * (1 - math.exp(-self.a * z)), self.b * z


RULES = {"audio": CentroidRule(3500.0, 7.0, 3.0), "image": CentroidRule(50.0, 5.0, 0.4)}
"""Published constants, for coordinates in [−1, 1]: sound of some 10⁵ samples, images of some 10² pixels a side."""


class Winner(Siren):
    """SIREN with N(0, (s₀/ω₀)²) added to the first weights and N(0, (s₁/ω₀)²) to the second ones.

    s₀ is the added angular frequency in radians per unit of x̂ (the box scaled to [−1, 1]^d), s₁ spreads the
    frequencies of the second layer. Biases, deeper layers and the number of parameters stay those of SIREN; s₀ = s₁ = 0
    is SIREN bit by bit. `scales`: (s₀, s₁), from `CentroidRule.scales` for signals or `pde_scales` for equations.
    The tangent kernel of a second-order residual grows like s₀⁴: audio constants make such losses explode.
    Reference: arXiv 2509.09719 (2025).
    """

    def __init__(
        self,
        ndim: int,
        channels: int = 1,
        width: int = 256,
        depth: int = 5,
        omega: float = 30.0,
        scales: Sequence[float] = (0.0, 0.0),
        lower: Sequence[float] | None = None,
        upper: Sequence[float] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        embedding: Embedding | None = None,
    ) -> None:
        if len(scales) != 2 or not all(math.isfinite(s) and s >= 0 for s in scales):
            raise UsageError(f"scales must be (s0, s1), both finite and not negative; got {tuple(scales)}.")
        if scales[1] > 0 and depth < 2:
            raise UsageError("scales: s1 goes to the second hidden layer; give depth 2 or more, or s1 = 0.")
        self.scales = (float(scales[0]), float(scales[1]))
        super().__init__(ndim, channels, width, depth, omega, lower, upper, seed, dtype, embedding)

    def reset(self, random: torch.Generator) -> None:
        super().reset(random)
        with torch.no_grad():
            for W, s in zip(self.weights, self.scales, strict=False):
                if s > 0:
                    W += (s / self.omega) * torch.randn(W.shape, generator=random, dtype=torch.float64).to(W)


def spectral_centroid(signal: Float[Tensor, "c *s"]) -> float:
    """ψ = 2 ⟨Σ f|Y| / Σ|Y|⟩ / C: magnitudes Y of the real FFT along the last axis, f in cycles per sample, 0 … ½, mean
    over rows and channels. A tone in bin m of N samples has ψ = 2m/N; rows without any signal count as 0.

    Raises UsageError for values that are not finite or axes without extent.
    """
    if signal.dim() < 2 or signal.shape[-1] < 2:
        raise UsageError(f"A signal has the shape (channels, *grid) with 2 or more samples; got {tuple(signal.shape)}.")
    if not bool(torch.isfinite(signal).all()):
        raise UsageError("The signal has NaN or infinite values; its spectrum is undefined.")
    Y = torch.fft.rfft(signal.double(), dim=-1).abs()
    f = torch.fft.rfftfreq(signal.shape[-1], dtype=torch.float64).to(Y.device)
    total = Y.sum(-1)
    rows = torch.where(total > 0, (Y @ f) / total.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    return 2 * float(rows.mean()) / signal.shape[0]


def response(source: Float[Tensor, "*s"], spacing: Sequence[float]) -> Float[Tensor, "*s"]:
    """The source divided by the symbol of −Δ, mode by mode: −Δu = f with u = 0 on the faces of a grid of nodes.

    A first guess of where the solution of an elliptic equation has its frequencies, by one sine transform.
    """
    if source.dim() != len(spacing) or min(source.shape) < 3:
        raise UsageError(f"source needs 3 or more nodes on each of {len(spacing)} axes; got {tuple(source.shape)}.")
    inner = source.double()[(slice(1, -1),) * source.dim()]
    lengths = [h * (n - 1) for h, n in zip(spacing, source.shape, strict=True)]
    bases = [
        eigenbasis(("dirichlet", "dirichlet"), "node", n, length, device=source.device)
        for n, length in zip(source.shape, lengths, strict=True)
    ]
    u = torch.zeros_like(source, dtype=torch.float64)
    u[(slice(1, -1),) * source.dim()] = solve_poisson(inner[None], bases, spectral=True)[0]
    return u


def centroid_frequency(u: Float[Tensor, "*s"], spacing: Sequence[float]) -> list[float]:
    """Centroid of |FFT(u)| along each axis in radians per unit length, ω = π · (cycles per sample) · (2/h).

    Rows count by their own magnitude, so that empty parts of the box do not. The last node is left out: where
    u vanishes at both ends of an axis the rest is one period.
    """
    found = []
    for axis, h in enumerate(spacing):
        rows = u.double().movedim(axis, -1)[..., :-1]
        Y = torch.fft.rfft(rows, dim=-1).abs()
        f = torch.fft.rfftfreq(rows.shape[-1], dtype=torch.float64).to(Y.device)
        total = float(Y.sum())
        cycles = float((Y @ f).sum()) / total if total > 0 else 0.0
        found.append(math.pi * cycles * (2 / h))
    return found


def pde_scales(
    source: Float[Tensor, "*s"], spacing: Sequence[float], invert: bool = True, share: float = 0.0
) -> tuple[float, float]:
    """(s₀, s₁) for a second-order elliptic equation with this source on a grid of nodes over the box.

    s₀ is the largest centroid frequency over the axes, in radians per unit of x̂: that of the source divided by the
    symbol (`response`), or with `invert=False` of the values given themselves, a coarse solution or f (which
    overestimates). s₁ = share · z, z = 2·cycles per sample, 0 by default: the noise of signals is too much for
    residuals.
    """
    u = response(source, spacing) if invert else source
    omegas = centroid_frequency(u, spacing)
    half = [0.5 * h * (n - 1) for h, n in zip(spacing, source.shape, strict=True)]
    best = max(range(len(omegas)), key=lambda axis: omegas[axis] * half[axis])
    return omegas[best] * half[best], share * omegas[best] * spacing[best] / math.pi

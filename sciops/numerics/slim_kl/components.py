"""Sums of fixed kernels C = Σ_a θ_a K_a + σ² I of which only the weights θ ≥ 0 are learned."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError


class Components(ABC):
    """A positive semidefinite matrices K_a on the same N points.

    A method needs three things of them, each in one pass: the sum, the products K_a α, and the traces tr(W K_a).
    """

    count: int
    points: int

    @abstractmethod
    def total(self, theta: Float[Tensor, " A"]) -> Float[Tensor, "N N"]:
        """Σ_a θ_a K_a."""

    @abstractmethod
    def traces(self, W: Float[Tensor, "N N"]) -> Float[Tensor, " A"]:
        """tr(W K_a) for a symmetric W; αᵀ K_a α is tr(α αᵀ K_a)."""

    @abstractmethod
    def products(self, alpha: Float[Tensor, "N R"]) -> Float[Tensor, "A N R"]:
        """K_a α."""

    def quadratics(self, alpha: Float[Tensor, "N R"]) -> Float[Tensor, " A"]:
        """Σ_r α_rᵀ K_a α_r."""
        return self.traces(alpha @ alpha.T)


class LowRank(Components):
    """K_a = Φ_a Φ_aᵀ from columns Φ (N, A, r): differentiated features of an equation, or any other.

    Cost O(N² A r) for a sum or all traces, O(N A r) for products; memory of the columns, 8 A N r bytes.
    """

    def __init__(self, columns: Float[Tensor, "N A r"]) -> None:
        if columns.dtype != torch.float64:
            raise UsageError(f"Columns are {columns.dtype}; kernel weights need torch.float64: pass columns.double().")
        if not bool(torch.isfinite(columns).all()):
            raise UsageError("Columns hold values that are not finite; remove points where a feature is not defined.")
        self.points, self.count, self.rank = columns.shape
        self.columns = columns.reshape(self.points, -1).contiguous()

    def total(self, theta: Float[Tensor, " A"]) -> Float[Tensor, "N N"]:
        return (self.columns * theta.repeat_interleave(self.rank)) @ self.columns.T

    def traces(self, W: Float[Tensor, "N N"]) -> Float[Tensor, " A"]:
        return ((W @ self.columns) * self.columns).sum(0).reshape(self.count, self.rank).sum(1)

    def products(self, alpha: Float[Tensor, "N R"]) -> Float[Tensor, "A N R"]:
        blocks = self.columns.reshape(self.points, self.count, self.rank)
        return torch.einsum("nak,akr->anr", blocks, torch.einsum("nak,nr->akr", blocks, alpha))

    def quadratics(self, alpha: Float[Tensor, "N R"]) -> Float[Tensor, " A"]:
        return (self.columns.T @ alpha).square().reshape(self.count, -1).sum(1)


class SpectralMixture(Components):
    """K_a = Π_p exp(−2π²σ²τ_p²) cos(2π μ_{a,p} τ_p), τ = x − x′, on points x (N, P) in units of one sample.

    All components share the envelope E. A product of P cosines is 2^{1−P} times a sum of 2^{P−1} cosines of ±φ_p, so
    K_a = E ∘ F_a F_aᵀ with F_a of 2^P columns: sums and traces are matrix products, exact for any bandwidth, and no
    K_a is stored. Frequencies μ (A, P) in cycles per sample, bandwidth σ likewise.
    Cost O(N² A 2^P) a sum; memory 8 A N 2^P bytes, refused above `limit`.
    """

    limit = 2 << 30

    def __init__(self, x: Float[Tensor, "N P"], frequencies: Float[Tensor, "A P"], bandwidth: float = 1e-3) -> None:
        if x.dtype != torch.float64:
            raise UsageError(f"Points are {x.dtype}; spectral mixtures need torch.float64: pass x.double().")
        size = 8 * len(frequencies) * len(x) * 2 ** x.shape[1]
        if size > self.limit:
            raise UsageError(
                f"{len(frequencies)} components on {len(x)} points of {x.shape[1]} axes need {size >> 20} MiB, above "
                f"{self.limit >> 20} MiB; use fewer components, fewer axes, or more workers."
            )
        self.count, self.points = len(frequencies), len(x)
        self.x, self.frequencies, self.bandwidth = x, frequencies, bandwidth
        self.columns = waves(x, frequencies)
        self.rank = self.columns.shape[1] // self.count
        self.envelope = envelope(x, x, bandwidth)

    def total(self, theta: Float[Tensor, " A"]) -> Float[Tensor, "N N"]:
        return self.envelope * ((self.columns * theta.repeat_interleave(self.rank)) @ self.columns.T)

    def traces(self, W: Float[Tensor, "N N"]) -> Float[Tensor, " A"]:
        W = W * self.envelope
        return ((W @ self.columns) * self.columns).sum(0).reshape(self.count, self.rank).sum(1)

    def products(self, alpha: Float[Tensor, "N R"]) -> Float[Tensor, "A N R"]:
        blocks = self.columns.reshape(self.points, self.count, self.rank)
        parts = [torch.einsum("nak,nm,mak,m->an", blocks, self.envelope, blocks, a) for a in alpha.T]
        return torch.stack(parts, -1)

    def across(self, x: Float[Tensor, "M P"], theta: Float[Tensor, " A"]) -> Float[Tensor, "M N"]:
        """Σ_a θ_a k_a(x, own points)."""
        own = self.columns * theta.repeat_interleave(self.rank)
        return envelope(x, self.x, self.bandwidth) * (waves(x, self.frequencies) @ own.T)


def envelope(x: Float[Tensor, "M P"], y: Float[Tensor, "N P"], bandwidth: float) -> Float[Tensor, "M N"]:
    """Π_p exp(−2π²σ²(x_p − y_p)²)."""
    lag = (x[:, None] - y[None]).square().sum(-1)
    return torch.exp(-2 * math.pi**2 * bandwidth**2 * lag)


def waves(x: Float[Tensor, "N P"], frequencies: Float[Tensor, "A P"]) -> Float[Tensor, "N columns"]:
    """Columns F (N, A·2^P) with F_a F_aᵀ = Π_p cos(2π μ_{a,p}(x_p − x′_p)): products of cosines and sines per axis."""
    columns = torch.ones(len(x), len(frequencies), 1, dtype=x.dtype, device=x.device)
    for axis in range(x.shape[1]):
        phase = 2 * math.pi * x[:, axis, None] * frequencies[None, :, axis]
        pair = torch.stack((phase.cos(), phase.sin()), -1)
        columns = (columns[..., :, None] * pair[..., None, :]).flatten(-2)
    return columns.flatten(1)


def frequency_grid(
    axes: int, count: int | None = None, *, layout: str = "auto", highest: float = 0.5, seed: int = 0
) -> Float[Tensor, "A P"]:
    """Frequencies μ in [0, highest] cycles per sample.

    layout  "uniform" covers the whole box: linspace in 1-D, in P-D the product of equal axes, the smallest with at
            least `count` points; "random" is uniform random; "sobol" a low-discrepancy sequence;
            "auto" is uniform up to 2 axes, where a product grid is dense enough to mean something, and sobol above
    count   500 in 1-D, 100·P in P-D where it is not given
    """
    count = count or (500 if axes == 1 else 100 * axes)
    if layout == "auto":
        layout = "uniform" if axes <= 2 else "sobol"
    if layout == "uniform":
        each = math.ceil(round(count ** (1 / axes), 9))
        axis = torch.linspace(0, highest, each, dtype=torch.float64)
        return torch.cartesian_prod(*[axis] * axes).reshape(-1, axes)
    if layout == "random":
        return highest * torch.rand(count, axes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if layout == "sobol":
        return highest * torch.quasirandom.SobolEngine(axes, scramble=True, seed=seed).draw(count, dtype=torch.float64)
    raise UsageError(f"Frequency layout {layout!r} is not known; use 'auto', 'uniform', 'random' or 'sobol'.")

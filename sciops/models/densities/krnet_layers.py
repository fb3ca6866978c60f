"""The invertible layers of KRnet: each maps (N, k) to (N, k) and log|det| (N,), or back with `inverse=True`."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from sciops.models.densities.base import conditioner

Pair = tuple[Float[Tensor, "N k"], Float[Tensor, " N"]]
STRENGTH, CLIP = 0.6, 5.0


class ActNorm(nn.Module):
    """(x + b) exp(clip(s, −5, 5)) per coordinate; its first batch sets mean 0 and variance 1."""

    def __init__(self, k: int, like: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(like.new_zeros(k))
        self.log_scale = nn.Parameter(like.new_zeros(k))
        self.fresh = False

    def forward(self, x: Float[Tensor, "N k"], inverse: bool = False) -> Pair:
        if self.fresh:
            self.fresh = False
            self.shift.copy_(-x.mean(0))
            self.log_scale.copy_(-x.std(0).clamp(min=1e-6).log())
        log_scale = self.log_scale.clamp(-CLIP, CLIP)
        if inverse:
            return x * (-log_scale).exp() - self.shift, -log_scale.sum().expand(len(x))
        return (x + self.shift) * log_scale.exp(), log_scale.sum().expand(len(x))


class AffineCoupling(nn.Module):
    """x₂ ← x₂ (1 + 0.6 tanh s(x₁)) + exp(clip(γ, −5, 5)) tanh t(x₁), x₁ the first `split` coordinates."""

    def __init__(
        self, k: int, split: int, width: int, activation: str, random: torch.Generator, like: Tensor, zero: bool
    ) -> None:
        super().__init__()
        self.split, moved = split, k - split
        self.network = conditioner(split, 2 * moved, width, 2, activation, random, like, zero)
        self.log_gamma = nn.Parameter(like.new_zeros(moved))

    def forward(self, x: Float[Tensor, "N k"], inverse: bool = False) -> Pair:
        resting, moved = x[:, : self.split], x[:, self.split :]
        s, t = self.network(resting).chunk(2, -1)
        scale = 1 + STRENGTH * torch.tanh(s)
        shift = self.log_gamma.clamp(-CLIP, CLIP).exp() * torch.tanh(t)
        moved = (moved - shift) / scale if inverse else moved * scale + shift
        log_det = scale.log().sum(-1)
        return torch.cat([resting, moved], -1), -log_det if inverse else log_det


class Reverse(nn.Module):
    """The coordinates in reversed order."""

    def forward(self, x: Float[Tensor, "N k"], inverse: bool = False) -> Pair:
        return x.flip(-1), torch.zeros_like(x[:, 0])


class Rotation(nn.Module):
    """x ↦ L U x, L unit lower triangular, U upper triangular; the identity at the start."""

    def __init__(self, k: int, like: Tensor) -> None:
        super().__init__()
        self.lower = nn.Parameter(like.new_zeros(k, k))
        self.upper = nn.Parameter(torch.eye(k, dtype=like.dtype, device=like.device))

    def forward(self, x: Float[Tensor, "N k"], inverse: bool = False) -> Pair:
        low = torch.tril(self.lower, -1) + torch.eye(len(self.lower), dtype=x.dtype, device=x.device)
        up = torch.triu(self.upper)
        log_det = torch.diagonal(up).abs().log().sum().expand(len(x))
        if not inverse:
            return x @ (low @ up).T, log_det
        half = torch.linalg.solve_triangular(low, x.T, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(up, half, upper=True).T, -log_det


class QuadraticCDF(nn.Module):
    """Per coordinate, the CDF of a piecewise linear density on [−a, a], scaled back to [−a, a]; identity outside.

    The mesh has `bins` cells that grow by `ratio` away from zero. The density at its two ends is that of the identity,
    the others are exp of free numbers, scaled so that the mass is one.
    """

    left: Tensor
    widths: Tensor

    def __init__(self, k: int, bins: int, like: Tensor, half_width: float = 50.0, ratio: float = 1.2) -> None:
        super().__init__()
        steps = ratio ** torch.arange(bins // 2, dtype=like.dtype)
        steps = torch.cat([steps.flip(0), steps])
        widths = (steps / steps.sum()).to(like.device)
        self.register_buffer("widths", widths)
        self.register_buffer("left", pad(widths.cumsum(0)[:-1], (1, 0)))
        self.half_width = half_width
        self.raw = nn.Parameter(self._gaussianising(like).expand(k, -1).clone())

    def _gaussianising(self, like: Tensor, scale: float = math.pi / math.sqrt(3), reach: float = 8.0) -> Tensor:
        """Start values that turn a logistic variable of variance 1 into a normal one, as far as the mesh resolves.

        The logit of a uniform variable is logistic, so a flow that starts here starts close to the uniform density.
        g = Φ⁻¹(σ(scale·y)) has the slope scale σ(1 − σ)/φ(g); beyond `reach` the nodes share what is left of the mass.
        """
        nodes = pad(self.widths.double().cpu().cumsum(0), (1, 0))
        y = (2 * nodes - 1) * self.half_width
        tail = torch.sigmoid(-scale * y.abs())  # the smaller tail keeps its digits
        g = torch.special.ndtri(tail)
        slope = scale * tail * (1 - tail) * math.sqrt(2 * math.pi) * torch.exp(g**2 / 2)
        g = torch.where(y < 0, g, -g)
        inner = y.abs() < reach
        # Nodal values whose cells have the mass of g (the values alone overshoot: the slope is convex), held smooth.
        mean = torch.diag(torch.ones(len(y), dtype=y.dtype)) / 2 + torch.diag(torch.ones(len(y) - 1), 1).to(y) / 2
        cells = inner[:-1] & inner[1:]
        rows = torch.cat([mean[:-1][cells], 0.1 * torch.eye(len(y), dtype=y.dtype)])
        right = torch.cat([(g.diff() / y.diff())[cells], 0.1 * torch.where(inner, slope, 1.0)])
        # Normal equations, well conditioned here: a least-squares driver does not repeat its last bit.
        value = torch.linalg.solve(rows.T @ rows, rows.T @ right)[1:-1]
        share = ((self.widths[:-1] + self.widths[1:]) / 2).double().cpu()
        free = 1 - float(self.widths[0] + self.widths[-1]) / 2
        inner = inner[1:-1]
        rest = (free - float((value * share)[inner].sum())) / float(share[~inner].sum())
        return torch.where(inner, value, rest).log().to(like)

    def densities(self) -> Float[Tensor, "k nodes"]:
        """Nodal densities of unit mass on [0, 1], 1 at both ends."""
        inner = torch.exp(self.raw - self.raw.amax(-1, keepdim=True).detach())
        mass = (inner * (self.widths[:-1] + self.widths[1:]) / 2).sum(-1, keepdim=True)
        free = 1 - (self.widths[0] + self.widths[-1]) / 2
        return pad(inner * free / mass, (1, 1), value=1.0)

    def forward(self, x: Float[Tensor, "N k"], inverse: bool = False) -> Pair:
        nodes = self.densities()
        cells = self.widths * (nodes[:, :-1] + nodes[:, 1:]) / 2
        below = pad(cells.cumsum(-1)[:, :-1], (1, 0))
        edge = 2 * self.half_width
        t = (x / edge + 0.5).T.contiguous()  # (k, N)
        inside = (t > 0) & (t < 1)
        safe = torch.where(inside, t, 0.5)
        edges = below if inverse else self.left.expand_as(below)
        cell = torch.searchsorted(edges.detach().contiguous(), safe.detach(), right=True) - 1
        v0, v1, start = nodes.gather(1, cell), nodes.gather(1, cell + 1), below.gather(1, cell)
        left, slope = self.left[cell], (v1 - v0) / self.widths[cell]
        if inverse:
            rise = safe - start
            density = (v0 * v0 + 2 * slope * rise).clamp(min=torch.finfo(x.dtype).tiny).sqrt()
            out = left + 2 * rise / (v0 + density)  # the root that stays finite where the slope vanishes
        else:
            along = safe - left
            density = v0 + slope * along
            out = start + (v0 + slope * along / 2) * along
        y = torch.where(inside, edge * (out - 0.5), edge * (t - 0.5)).T
        log_det = torch.where(inside, density.log(), 0.0).sum(0)
        return y, -log_det if inverse else log_det

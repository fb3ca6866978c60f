"""Periodic evolution equations u_t = L u + N(u) in Fourier space: exponential time differencing of order four."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor

from sciops.core.errors import UsageError

WINDOW = 10
"""Nodes of the polynomial in t through which dense output goes."""


@dataclass(frozen=True)
class Stage:
    """A run of equal steps: `nodes` stored intervals of `steps` steps of size h each, in modes k = 0 … `modes`."""

    h: float
    steps: int
    nodes: int
    modes: int


class ETDRK4:
    """One step of size h for û_k′ = λ_k û_k + N(û)_k: any number of modes, in any shape.

    Cox and Matthews' scheme; its φ-functions lose all digits to cancellation near λh = 0, so they are means over a
    circle of radius 1 around λh (Kassam, Trefethen), exact to rounding for `contour` = 64 points. Order 4 also where
    λh is large; no step limit from λ. Real symbols (diffusion) have real coefficients, computed once for each value of
    λ, so that complex states may be handed over as pairs of real numbers. Cost: four evaluations of N a step.
    Reference: Kassam, Trefethen, SIAM J. Sci. Comput. 26 (2005) 1214–1233.
    """

    def __init__(
        self,
        symbol: Shaped[Tensor, "*k"],
        nonlinear: Callable[[Shaped[Tensor, "..."]], Shaped[Tensor, "..."]],
        h: float,
        contour: int = 64,
    ) -> None:
        self.nonlinear = nonlinear
        real = not symbol.is_complex()
        values, where = torch.unique(symbol, return_inverse=True) if real else (symbol, None)
        angle = 2 * torch.pi * (torch.arange(contour, dtype=torch.float64, device=symbol.device) + 0.5) / contour
        z = (h * values)[..., None] + torch.exp(1j * angle)
        e = torch.exp(z)

        def spread(table: Tensor) -> Tensor:
            return table if where is None else table[where]

        def mean(values: Tensor) -> Tensor:
            centre = h * values.mean(-1)
            return spread(centre.real if real else centre)

        self.whole, self.half = spread(torch.exp(h * values)), spread(torch.exp(h * values / 2))
        self.q = mean((torch.exp(z / 2) - 1) / z)
        self.first = mean((-4 - z + e * (4 - 3 * z + z**2)) / z**3)
        self.middle = 2 * mean((2 + z + e * (z - 2)) / z**3)
        self.last = mean((-4 - 3 * z - z**2 + e * (4 - z)) / z**3)

    def to(self, dtype: torch.dtype) -> "ETDRK4":
        """The same step with coefficients of another precision."""
        for name in ("whole", "half", "q", "first", "middle", "last"):
            setattr(self, name, getattr(self, name).to(dtype))
        return self

    def step(self, v: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        carried = self.half * v
        Nv = self.nonlinear(v)
        a = torch.addcmul(carried, self.q, Nv)
        Na = self.nonlinear(a)
        b = torch.addcmul(carried, self.q, Na)
        Nb = self.nonlinear(b)
        c = torch.addcmul(self.half * a, self.q, 2 * Nb - Nv)
        out = torch.addcmul(self.whole * v, self.first, Nv)
        out.addcmul_(self.middle, Na + Nb)
        return out.addcmul_(self.last, self.nonlinear(c))


@dataclass(frozen=True)
class Trajectory:
    """Fourier coefficients at stored times, and u at any point between them.

    u(x, t) = Re Σ_k c_k(t) e^{2πik(x − lower)/length}, with the one-sided coefficients of `torch.fft.rfft` (norm
    "forward"), those of k > 0 doubled. In t each coefficient is the polynomial through the nearest WINDOW nodes of its
    stage. `stages`: (times (m,), coefficients (m, K)) with m ≥ WINDOW, each ending where the next begins; missing
    high modes are zero. Differentiable in x and t.
    """

    lower: float
    length: float
    stages: tuple[tuple[Tensor, Tensor], ...]

    @property
    def end(self) -> float:
        return float(self.stages[-1][0][-1])

    def coefficients_at(self, t: Float[Tensor, " m"]) -> Complex[Tensor, "m k"]:
        """c_k at times, by interpolation within the stage that holds each of them."""
        low, high = float(t.detach().min()), float(t.detach().max())
        if not (low >= -1e-12 and high <= self.end + 1e-12):
            raise UsageError(f"The trajectory covers t in [0, {self.end:g}]; got {low} to {high}.")
        ends = t.new_tensor([float(times[-1]) for times, _ in self.stages[:-1]])
        owner = torch.bucketize(t.detach().contiguous(), ends)
        widest = max(self.stages[k][1].shape[1] for k in owner.unique().tolist())
        out = self.stages[0][1].new_zeros((len(t), widest))
        for k, (times, coefficients) in enumerate(self.stages):
            mine = (owner == k).nonzero()[:, 0]
            if not len(mine):
                continue
            h = (times[-1] - times[0]) / (len(times) - 1)
            s = (t[mine] - times[0]) / h
            start = (s.floor().long() - (WINDOW // 2 - 1)).clamp(0, len(times) - WINDOW)
            weights = _lagrange(s - start)
            picked = coefficients[start[:, None] + torch.arange(WINDOW, device=t.device)]
            out[mine, : coefficients.shape[1]] = (weights[..., None] * picked).sum(1)
        return out

    def __call__(self, x: Float[Tensor, "N 2"], chunk: int = 1024) -> Float[Tensor, " N"]:
        """u at points (x, t). Points of a tensor grid cost one product of matrices, scattered ones K terms each."""
        if not len(x):
            return x[:, 0]
        if not x.requires_grad:
            times, row = torch.unique(x[:, 1], return_inverse=True)
            places, column = torch.unique(x[:, 0], return_inverse=True)
            if len(times) * len(places) <= 4 * len(x):
                parts = [self._real(self.coefficients_at(t)) for t in times.split(64)]
                return torch.cat([c @ self._waves(places, c.shape[1] // 2).mT for c in parts])[row, column]
        order = torch.argsort(x[:, 1].detach())  # chunks of like times, since late ones have fewer modes
        values = []
        for part in x[order].split(chunk):
            c = self._real(self.coefficients_at(part[:, 1]))
            values.append((c * self._waves(part[:, 0], c.shape[1] // 2)).sum(1))
        return torch.cat(values)[torch.argsort(order)]

    def _waves(self, x: Float[Tensor, " N"], modes: int) -> Float[Tensor, "N m"]:
        """cos and −sin of the first modes."""
        k = torch.arange(modes, dtype=torch.float64, device=x.device)
        angle = 2 * torch.pi * torch.remainder(((x - self.lower) / self.length)[:, None] * k, 1.0)
        return torch.cat([angle.cos(), -angle.sin()], 1)

    @staticmethod
    def _real(c: Complex[Tensor, "m k"]) -> Float[Tensor, "m j"]:
        doubled = torch.cat([c[:, :1], 2 * c[:, 1:]], 1)
        return torch.cat([doubled.real, doubled.imag], 1)


def evolve(
    start: Complex[Tensor, " k"],
    symbol: Callable[[Tensor], Tensor],
    nonlinear: Callable[[int], Callable[[Tensor], Tensor]],
    stages: Sequence[Stage],
    lower: float,
    length: float,
) -> Trajectory:
    """Integrate through the stages, from t = 0, and keep the nodes.

    start      c_k(0), k = 0 … modes of the first stage; modes beyond those of a later stage are dropped
    symbol     wavenumbers 2πk/length (K + 1,) ↦ λ
    nonlinear  K ↦ the function N of K + 1 coefficients

    Modes that stay below rounding during a stage are not kept, so that evaluation does not pay for them.
    """
    kept, v, t = [], start.clone(), 0.0
    for stage in stages:
        if stage.nodes + 1 < WINDOW:
            raise UsageError(f"A stage needs at least {WINDOW - 1} stored intervals; got {stage.nodes}.")
        if stage.modes + 1 > len(v):
            raise UsageError(f"A stage has {stage.modes} modes, more than the {len(v) - 1} that come before it.")
        v = v[: stage.modes + 1]
        k = torch.arange(len(v), dtype=torch.float64, device=v.device)
        scheme = ETDRK4(symbol(2 * torch.pi / length * k), nonlinear(stage.modes), stage.h)
        nodes = [v]
        for _ in range(stage.nodes):
            for _ in range(stage.steps):
                v = scheme.step(v)
            nodes.append(v)
        coefficients = torch.stack(nodes)
        if not bool(torch.isfinite(coefficients.abs()).all()):
            raise UsageError(
                f"The evolution blew up between t = {t:g} and {t + stage.h * stage.steps * stage.nodes:g}."
            )
        sizes = coefficients.abs().amax(0)
        last = int((sizes > 1e-16 * sizes.max()).nonzero().max()) + 1
        times = t + stage.h * stage.steps * torch.arange(stage.nodes + 1, dtype=torch.float64, device=v.device)
        kept.append((times, coefficients[:, :last].clone()))
        t = float(times[-1])
    return Trajectory(lower, length, tuple(kept))


def fast_length(n: int) -> int:
    """The smallest even 2^a 3^b 5^c ≥ n: a length whose transforms are fast."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and n % 2 == 0:
            return n
        n += 1


def _lagrange(s: Float[Tensor, " m"]) -> Float[Tensor, "m w"]:
    """Weights of the nodes 0 … WINDOW−1 in the polynomial through them, at s."""
    nodes = torch.arange(WINDOW, dtype=s.dtype, device=s.device)
    gaps = s[:, None] - nodes
    weights = []
    for j in range(WINDOW):
        others = [i for i in range(WINDOW) if i != j]
        weights.append(torch.prod(gaps[:, others] / (j - nodes[others]), 1))
    return torch.stack(weights, 1)

"""Neural tangent kernels of collocation losses: spectra, balance of the blocks, what gradient descent can learn."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError

Block = tuple[Tensor, Tensor]
"""Residuals r (N,) of one kind of equation at its points and their Jacobian (N, P), not scaled by 1/√N."""

MODES = (10, 50, 200)


class TangentKernel:
    """K = J Jᵀ of the stacked rows √(w_j/N_j) r_j: under gradient flow on ½‖r‖² residuals obey dr/dt = −K r.

    Method: singular values of the stacked J, squared: positive by construction, and small eigenvalues keep digits that
    forming K would lose (λ ≥ 1e-32 λ₁ instead of 1e-16 λ₁). Blocks keep their order.
    `blocks`: name → (r, J), rows not scaled by 1/√N. `weights`: the w_j, 1 where not given.
    Use 300 to 1000 points, the same ones throughout training, so that drift means the network.
    Cost O(N P min(N, P)), memory O(N (N + P)), float64 whatever comes in.
    Reference: Wang, Yu & Perdikaris 2022, J. Comput. Phys. 449 (arXiv 2007.14527).
    """

    def __init__(self, blocks: Mapping[str, Block], weights: Mapping[str, float] | None = None) -> None:
        if not blocks:
            raise UsageError("TangentKernel got no blocks; give at least one name with its residuals and Jacobian.")
        self.blocks = {name: (r.detach().double(), J.detach().double()) for name, (r, J) in blocks.items()}
        shapes = {J.shape[1:] for _, J in self.blocks.values()}
        if len(shapes) > 1 or any(J.shape[:1] != r.shape or len(r) == 0 for r, J in self.blocks.values()):
            raise UsageError("TangentKernel needs r (N,) and J (N, P) with N ≥ 1 per block, and one P for all blocks.")
        if not all(bool(torch.isfinite(part).all()) for block in self.blocks.values() for part in block):
            raise UsageError("TangentKernel got non-finite residuals or Jacobians; diagnose before training diverges.")
        scale = {
            name: math.sqrt((1.0 if weights is None else weights.get(name, 1.0)) / len(r))
            for name, (r, _) in self.blocks.items()
        }
        self.residual = torch.cat([scale[name] * r for name, (r, _) in self.blocks.items()])
        self.jacobian = torch.cat([scale[name] * J for name, (_, J) in self.blocks.items()])
        self._svd: tuple[Tensor, Tensor] | None = None

    @property
    def matrix(self) -> Float[Tensor, "N N"]:
        """K in the order of the blocks."""
        return self.jacobian @ self.jacobian.T

    def _decomposition(self) -> tuple[Tensor, Tensor]:
        if self._svd is None:
            U, singular, _ = torch.linalg.svd(self.jacobian, full_matrices=False)
            self._svd = U, singular.square()
        return self._svd

    @property
    def eigenvalues(self) -> Float[Tensor, " k"]:
        """The min(N, P) largest ones, descending; the others are zero."""
        return self._decomposition()[1]

    @property
    def eigenvectors(self) -> Float[Tensor, "N k"]:
        return self._decomposition()[0]

    def spectrum(self, name: str) -> Float[Tensor, " k"]:
        """Eigenvalues of the block J_j J_jᵀ/N_j alone, descending, without its weight."""
        r, J = self.blocks[name]
        return torch.linalg.svdvals(J).square() / len(r)

    def mean_diagonal(self) -> dict[str, float]:
        """tr(J_j J_jᵀ)/N_j: the mean convergence rate of each block."""
        return {name: float(J.square().sum()) / len(r) for name, (r, J) in self.blocks.items()}

    def projection(self, modes: int) -> float:
        """Share of ‖r‖² on the leading eigenvectors: what gradient descent removes first."""
        total = float(self.residual.square().sum())
        part = float((self.eigenvectors[:, :modes].T @ self.residual).square().sum())
        return part / total if total > 0 else 0.0

    def learnable(self, rate: float, steps: int) -> int:
        """Number of modes that `steps` steps of gradient descent at learning rate `rate` shrink by e or more."""
        return int((self.eigenvalues * rate * steps > 1).sum())

    def drift(self, reference: Float[Tensor, "N N"]) -> float:
        """‖K − K₀‖_F/‖K₀‖_F against the matrix of an earlier moment at the same points."""
        return float((self.matrix - reference).norm() / reference.norm())

    def gradients(self) -> dict[str, Float[Tensor, " P"]]:
        """J_jᵀ r_j/N_j, the gradient of each block's ½ mean r², without its weight."""
        return {name: J.T @ r / len(r) for name, (r, J) in self.blocks.items()}

    def diagnose(self, rate: float = 1e-3, steps: int = 1000, reference: Tensor | None = None) -> "Diagnostics":
        """All numbers of the section at once; `reference` is an earlier `matrix`."""
        spectrum = self.eigenvalues
        first = float(spectrum[0])
        present = [k for k in MODES if k <= len(spectrum)]
        rates = self.mean_diagonal()
        return Diagnostics(
            trace=rates,
            largest={name: float(self.spectrum(name)[0]) for name in self.blocks},
            lambda_max=first,
            decay={k: float(spectrum[k - 1]) / first if first > 0 else 0.0 for k in present},
            participation=participation(spectrum),
            rank_1e6=effective_rank(spectrum, 1e-6),
            rank_1e12=effective_rank(spectrum, 1e-12),
            slope=decay_slope(spectrum),
            projection={k: self.projection(k) for k in present},
            learnable=self.learnable(rate, steps),
            alignment=alignment(list(self.gradients().values())),
            drift=math.nan if reference is None else self.drift(reference),
            weights=trace_weights({name: rates[name] * len(r) for name, (r, _) in self.blocks.items()}),
        )


@dataclass(frozen=True)
class Diagnostics:
    """What one kernel says, for logging. `drift` is NaN without a reference, `slope` with fewer than two modes."""

    trace: dict[str, float]
    """tr K_jj/N_j by block."""
    largest: dict[str, float]
    lambda_max: float
    decay: dict[int, float]
    """λ_k/λ_1 by k."""
    participation: float
    rank_1e6: int
    rank_1e12: int
    slope: float
    projection: dict[int, float]
    learnable: int
    alignment: float
    drift: float
    weights: dict[str, float]
    """tr K/tr K_jj by block."""

    def ratio(self, over: str, under: str) -> float:
        """How many times faster one block converges than another."""
        return self.trace[over] / self.trace[under] if self.trace[under] > 0 else math.inf

    def as_dict(self, prefix: str = "ntk/") -> dict[str, float]:
        """Flat numbers with one key each."""
        flat: dict[str, float] = {}
        for key, value in vars(self).items():
            if isinstance(value, dict):
                flat |= {f"{prefix}{key}/{part}": float(number) for part, number in value.items()}
            else:
                flat[prefix + key] = float(value)
        return flat


def participation(spectrum: Float[Tensor, " k"]) -> float:
    """(Σλ)²/Σλ²: the number of modes that share the trace."""
    square = float(spectrum.square().sum())
    return float(spectrum.sum()) ** 2 / square if square > 0 else 0.0


def effective_rank(spectrum: Float[Tensor, " k"], threshold: float) -> int:
    """Number of eigenvalues above `threshold` times the largest."""
    return int((spectrum > threshold * spectrum[0]).sum())


def decay_slope(spectrum: Float[Tensor, " k"], threshold: float = 1e-12) -> float:
    """s of the least squares fit λ_k ∝ kˢ over the eigenvalues above `threshold`·λ₁; NaN with fewer than two."""
    kept = spectrum[spectrum > threshold * spectrum[0]]
    if len(kept) < 2:
        return math.nan
    x = torch.arange(1, len(kept) + 1, dtype=kept.dtype, device=kept.device).log()
    y, x = kept.log() - kept.log().mean(), x - x.mean()
    return float(x @ y / (x @ x))


def alignment(gradients: Sequence[Float[Tensor, " P"]]) -> float:
    """2‖mean of gₖ/‖gₖ‖‖² − 1: the cosine for two gradients, 1 where all agree; zero gradients are left out.

    Reference: Wang et al. 2025 (arXiv 2502.00604).
    """
    units = [g / g.norm() for g in gradients if float(g.norm()) > 0]
    return 2 * float(torch.stack(units).mean(0).square().sum()) - 1 if units else math.nan


def trace_weights(traces: Mapping[str, float]) -> dict[str, float]:
    """λ_j = Σ_i tr K_ii/tr K_jj: every block then converges at the same mean rate. Blocks without trace get 1."""
    total = sum(traces.values())
    return {name: total / trace if trace > 0 else 1.0 for name, trace in traces.items()}


class RunningWeights:
    """Weights mean_i(d_i)/d_j from mean diagonals d_j of the blocks, as moving averages with factor `momentum`.

    Refresh every 100 to 1000 steps; the numbers carry no gradient. Reference: Wang et al. 2023 (arXiv 2308.08468).
    """

    def __init__(self, momentum: float = 0.9) -> None:
        if not 0 <= momentum < 1:
            raise UsageError(f"RunningWeights got momentum={momentum}; use 0 ≤ momentum < 1.")
        self.momentum = momentum
        self.weights: dict[str, float] = {}

    def update(self, diagonals: Mapping[str, float]) -> dict[str, float]:
        """The new weights; the first call starts the averages."""
        mean = sum(diagonals.values()) / len(diagonals)
        fresh = {name: mean / value if value > 0 else 1.0 for name, value in diagonals.items()}
        m = self.momentum
        self.weights = {name: m * self.weights.get(name, new) + (1 - m) * new for name, new in fresh.items()}
        return dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": dict(self.weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights = dict(state["weights"])

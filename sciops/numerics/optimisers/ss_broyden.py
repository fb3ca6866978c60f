"""Self-scaled Broyden and BFGS: quasi-Newton methods with a dense inverse Hessian, as torch optimisers."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.optimisers.gauss_newton import require_float64
from sciops.numerics.optimisers.line_search import Trial, strong_wolfe


@dataclass(frozen=True)
class Pair:
    """The scalars of one update: s·y, yᵀHy, sᵀH⁻¹s = −α s·g."""

    ys: float
    yHy: float
    sBs: float


def self_scaled(pair: Pair, n: int, first: bool) -> tuple[float, float]:
    """(φ, τ) of H ← (H − Hy yᵀH/yᵀHy + φ yᵀHy v vᵀ)/τ + s sᵀ/s·y, v = s/s·y − Hy/yᵀHy.

    With h = yᵀHy/s·y, b = sᵀBs/s·y, A = hb − 1 ≥ 0: θ lies in the interval of the convergence theory and scales so that
    the spectrum of HB is moved towards 1. φ = 1 and τ = 1 is BFGS.
    Reference: Al-Baali 1998, Comput. Optim. Appl. 9; Urbán, Stefanou & Pons 2025 (arXiv 2405.04230).
    """
    h, b = pair.yHy / pair.ys, pair.sBs / pair.ys
    # Cauchy–Schwarz: A ≥ 0, zero where s and Hy are parallel; the limit A → 0 of every formula is finite.
    A = max(h * b - 1, 1e-300)
    least = min(1.0, h * (1 - math.sqrt(A / (1 + A))))
    theta = max((least - 1) / A, min(1 / least if least > 0 else math.inf, (1 - b) / b))
    sigma = 1 + A * theta
    phi = (1 - theta) / sigma
    if first:
        return phi, h / sigma
    root = sigma ** (1 / (1 - n)) if n > 1 else 1.0
    k = min(1.0, 1 / b)
    return phi, min(k * root, sigma) if theta <= 0 else k * min(root, 1 / theta)


class SSBroyden(torch.optim.Optimizer):
    """min f(θ) by θ ← θ − αH∇f, H a dense approximation of the inverse Hessian that is rescaled at every update.

    Method: strong Wolfe line search for α; the update of H from s and y by `self_scaled`, one rank-two correction in
    place. `method` "bfgs" is φ = τ = 1 with H scaled to s·y/y·y before the first update.
    Use: `optimiser.step(closure)`, the closure zeroes gradients, calls backward and returns the loss; one call makes up
    to `max_iter` iterations on the same loss, so points are redrawn between calls, never inside.
    Cost: one or two evaluations of the closure and 3 passes over H an iteration; memory 8P² bytes (P = 5000: 200 MB).
    `status` after a call: "ok"; "converged" (‖∇f‖∞ ≤ `tolerance`); "stalled" (no lower loss along the direction, nor
    along −∇f after H was reset); "nonfinite" (loss or gradient at θ not finite: θ is unchanged). The loss never rises
    inside a call, so θ is the best iterate. Refuses float32, where differences of gradients are rounding.
    State: `state_dict` holds H and all that the next iteration reads; a resumed run repeats the bits.
    """

    def __init__(
        self,
        params: Iterable[Any],
        method: str = "ss_broyden",
        max_iter: int = 20,
        tolerance: float = 0.0,
        sufficient: float = 1e-4,
        curvature: float = 0.9,
        max_evaluations: int = 25,
    ) -> None:
        if method not in ("ss_broyden", "bfgs"):
            raise UsageError(f"SSBroyden got method {method!r}; use ss_broyden or bfgs.")
        if not 0 < sufficient < curvature < 1:
            raise UsageError(
                f"SSBroyden got sufficient={sufficient} and curvature={curvature}; "
                "choose them with 0 < sufficient < curvature < 1."
            )
        defaults = {
            "method": method,
            "max_iter": max_iter,
            "tolerance": tolerance,
            "sufficient": sufficient,
            "curvature": curvature,
            "max_evaluations": max_evaluations,
        }
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise UsageError(
                f"SSBroyden got {len(self.param_groups)} parameter groups; it has one Hessian for all: give one group."
            )
        self._params: list[Tensor] = self.param_groups[0]["params"]
        for parameter in self._params:
            require_float64(parameter, "SSBroyden")

    @property
    def status(self) -> str:
        return str(self._memory.get("status", "ok"))

    @property
    def iterations(self) -> int:
        """Iterations made since the start."""
        return int(self._memory.get("iterations", 0))

    @property
    def evaluations(self) -> int:
        """Calls of closures since the start."""
        return int(self._memory.get("evaluations", 0))

    @property
    def _memory(self) -> dict[str, Any]:
        # torch saves and restores what hangs on a parameter; the first one stands for all.
        return self.state[self._params[0]]

    def _flat(self) -> Float[Tensor, " P"]:
        return torch.cat([p.detach().reshape(-1) for p in self._params])

    @torch.no_grad()
    def _write(self, theta: Float[Tensor, " P"]) -> None:
        first = 0
        for p in self._params:
            p.copy_(theta[first : first + p.numel()].view_as(p))
            first += p.numel()

    def _evaluate(self, closure: Callable[[], Any]) -> tuple[float, Float[Tensor, " P"]]:
        with torch.enable_grad():
            loss = float(torch.as_tensor(closure()).detach())
        self._memory["evaluations"] = self.evaluations + 1
        # A pure second-derivative residual leaves the output bias without a gradient.
        flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._params]
        return loss, torch.cat([g.detach().reshape(-1) for g in flat])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> float:  # type: ignore[override]
        """Up to `max_iter` iterations; returns the last loss."""
        memory, options = self._memory, self.param_groups[0]
        memory["status"] = "ok"
        theta = self._flat()
        loss, g = self._evaluate(closure)
        for _ in range(options["max_iter"]):
            if not (math.isfinite(loss) and bool(torch.isfinite(g).all())):
                memory["status"] = "nonfinite"
                break
            if float(g.abs().max()) <= options["tolerance"]:
                memory["status"] = "converged"
                break
            found = self._line(closure, theta, loss, g)
            if found is None:
                memory["status"] = "stalled"
                break
            trial, direction = found
            s = trial.length * direction
            theta = theta + s
            self._update(s, trial.gradient - g, -trial.length * float(s @ g))
            memory["last_drop"] = loss - trial.loss
            memory["iterations"] = self.iterations + 1
            loss, g = trial.loss, trial.gradient
        self._write(theta)
        return loss

    def _line(self, closure: Callable[[], Any], theta: Tensor, loss: float, g: Tensor) -> tuple[Trial, Tensor] | None:
        """The line search along −Hg, and along −g where that fails."""
        memory, options = self._memory, self.param_groups[0]
        for direction in self._directions(g):
            slope = float(direction @ g)
            start = Trial(0.0, loss, slope, g)

            def evaluate(length: float, direction: Tensor = direction) -> Trial:
                self._write(theta + length * direction)
                value, gradient = self._evaluate(closure)
                return Trial(length, value, float(gradient @ direction), gradient)

            first = min(1.0, 1 / float(g.norm()))
            if "H" in memory:
                # The last drop foretells the next one: 2Δf/|φ′(0)| is its minimiser on a parabola.
                guess = -2.02 * memory.get("last_drop", math.inf) / slope
                first = guess if 0 < guess < 1 else 1.0
            trial = strong_wolfe(
                evaluate, start, first, options["sufficient"], options["curvature"], options["max_evaluations"]
            )
            if trial.loss < loss:
                return trial, direction
        return None

    def _directions(self, g: Tensor) -> Iterable[Tensor]:
        memory = self._memory
        if "H" in memory:
            yield -(memory["H"] @ g)
            del memory["H"]
        yield -g

    def _update(self, s: Float[Tensor, " P"], y: Float[Tensor, " P"], sBs: float) -> None:
        memory, n = self._memory, len(s)
        ys = float(y @ s)
        if not ys > 1e-16 * float(y.norm() * s.norm()):
            return  # no curvature along s (a search that ended early): the old H stays positive definite
        first = "H" not in memory
        if first:
            memory["H"] = torch.eye(n, dtype=s.dtype, device=s.device)
        H: Tensor = memory["H"]
        if self.param_groups[0]["method"] == "bfgs":
            if first:
                H.mul_(ys / float(y @ y))
            Hy = H @ y
            yHy, phi, tau = float(y @ Hy), 1.0, 1.0
        else:
            Hy = H @ y
            yHy = float(y @ Hy)
            phi, tau = self_scaled(Pair(ys, yHy, sBs), n, first)
        if not (math.isfinite(phi) and math.isfinite(tau) and tau > 0 and yHy > 0):
            del memory["H"]
            return
        # H/τ plus a symmetric form in (Hy, s): one pass over H.
        both = torch.stack([Hy, s], 1)
        middle = torch.tensor(
            [[(phi - 1) / (tau * yHy), -phi / (tau * ys)], [-phi / (tau * ys), phi * yHy / (tau * ys**2) + 1 / ys]],
            dtype=s.dtype,
            device=s.device,
        )
        torch.addmm(H, both @ middle, both.T, beta=1 / tau, out=H)

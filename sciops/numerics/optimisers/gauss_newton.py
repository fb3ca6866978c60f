"""Damped Gauss–Newton for ½‖r(θ)‖², with geodesic acceleration and a line search as options."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.block_jacobian import Blocked
from sciops.numerics.least_squares import Chunked, LeastSquares, Linearisation, MatrixFree
from sciops.numerics.optimisers.normal_equations import DampedNormal, Dual, NystromCG, Primal

FORMS = ("auto", "primal", "woodbury", "cg")

DIRECT = 8000
"""Order of the largest matrix that "auto" factorises; beyond it conjugate gradients."""

CEILING = 1e12
"""Damping at which a step is as good as zero: no descent is left in rounding."""


@dataclass(frozen=True)
class Step:
    """What one step did: losses are ½‖r‖² on the points of that step, `mu` the damping used, `seconds` CPU time.

    `status`: "ok"; "stalled" (no damping tried gave an acceptable loss: θ is back at the best iterate); "nonfinite"
    (the loss or J at θ is not finite: θ is unchanged). `accepted` bold steps may have a higher loss than before.
    """

    loss_before: float
    loss_after: float
    accepted: bool
    mu: float
    norm: float
    seconds: float
    tries: int = 1
    status: str = "ok"


def require_float64(theta: Tensor, method: str) -> None:
    """Refuse parameters in which the method would stop early without a word."""
    if theta.dtype != torch.float64:
        raise UsageError(f"{method} got parameters of {theta.dtype}; it needs torch.float64: convert the model first.")


def half_square(r: Tensor) -> float:
    return 0.5 * float(r @ r)


class GaussNewton:
    """θ ← θ − (JᵀJ + μI)⁻¹Jᵀr, which for a linear equation is the energy natural gradient of its residual.

    Method: one Jacobian a step, its Gram matrix reused for every μ tried; a step is taken if the loss on the same
    points falls, or by `bold`; then μ ← μ/`decrease`, else μ ← μ·`increase` (more after four rejections).
    `bold` b: a step that raises the loss is taken too while (1 − β)ᵇ · loss ≤ the lowest loss on these points, β the
    cosine between this v and that of the step before: along a narrow curved valley, the shape of these losses, it is
    allowed to cut corners. b = 0 never rises; 1 or 2 is usual.
    `accelerate`: geodesic acceleration; the step is v + a/2, v = −(JᵀJ + μI)⁻¹Jᵀr, a = −(JᵀJ + μI)⁻¹Jᵀr_vv with r_vv
    the second directional derivative by central difference (two residuals); refused while ‖a‖ > `ratio`‖v‖.
    `form`: "primal" (Cholesky of JᵀJ), "woodbury" (of JJᵀ), "cg" (Nyström-preconditioned conjugate gradients, products
    only where the problem offers `linearise`), "auto": the smaller matrix, cg where that exceeds 8000.
    `halvings`: a line search over 2⁻ᵏ, k = 0…halvings, by the loss on the same frozen points.
    `memory`: bytes that J may take; beyond it JᵀJ is summed over `chunks` where the problem offers them. Where blocks
    of J vanish and the problem says so (`Blocked`), the primal form leaves them out.
    Cost: O(M P min(M, P)) a step, two to four residuals; memory O(M P + min(M, P)²).
    Fails by "stalled" at the rounding floor. `theta` moves on, `best` is the iterate of the lowest loss on the points
    of the last step (`settle` returns to it). New points make a new function, seen by its loss at θ: the loss may rise
    at that moment, and `best` has to show itself better than θ again (one residual).
    Reference: Marquardt 1963; Transtrum & Sethna 2012 (arXiv 1201.5885); Müller & Zeinhofer 2023 (arXiv 2302.13163).
    """

    def __init__(
        self,
        theta: Float[Tensor, " P"],
        mu: float = 1e-4,
        form: str = "auto",
        accelerate: bool = True,
        halvings: int = 0,
        bold: float = 2.0,
        decrease: float = 5.0,
        increase: float = 2.0,
        floor: float = 1e-18,
        tries: int = 16,
        ratio: float = 2.0,
        reach: float = 0.1,
        memory: float = 4e9,
        rank: int = 200,
        tolerance: float = 1e-8,
        iterations: int = 500,
        seed: int = 0,
    ) -> None:
        require_float64(theta, "GaussNewton")
        if form not in FORMS:
            raise UsageError(f"GaussNewton got form {form!r}; use one of {', '.join(FORMS)}.")
        if not (mu >= 0 and decrease >= 1 and increase > 1 and tries >= 1 and halvings >= 0 and bold >= 0):
            raise UsageError("GaussNewton needs mu, halvings, bold ≥ 0, decrease, tries ≥ 1 and increase > 1.")
        self.theta = theta.detach().clone()
        self.mu, self.form, self.accelerate, self.halvings = mu, form, accelerate, halvings
        self.decrease, self.increase, self.floor, self.tries = decrease, increase, floor, tries
        self.ratio, self.reach, self.memory, self.bold = ratio, reach, memory, bold
        self.rank, self.tolerance, self.iterations, self.seed = rank, tolerance, iterations, seed
        self.steps = 0
        self._velocity: Tensor | None = None
        self._last = math.nan  # the loss at θ by the last step: another one now means other points
        self._bar = math.inf  # the lowest loss of the way on these points
        self._lowest, self._best = math.inf, self.theta

    @property
    def best(self) -> Float[Tensor, " P"]:
        """The iterate of the lowest loss on the points of the last step."""
        return self._best

    def step(self, problem: LeastSquares) -> Step:
        """Lower the loss of `problem` once, trying up to `tries` dampings."""
        start = time.process_time()
        self.steps += 1
        r, normal = self._normal(problem)
        before = half_square(r)

        def done(loss: float, mu: float, norm: float, tried: int, status: str) -> Step:
            seconds = time.process_time() - start
            return Step(before, loss, status == "ok", mu, norm, seconds, tried, status)

        if not math.isfinite(before):
            return done(before, self.mu, 0.0, 0, "nonfinite")
        if not abs(before - self._last) <= 1e-4 * before:
            self._judge_anew(problem, before)
        mu, finite = self.mu, False
        for tried in range(1, self.tries + 1):
            v, move, used = self._move(problem, r, normal, mu)
            if move is not None:
                finite = True
                loss, share = self._search(problem, move, before)
                if loss < before or self._acceptable(loss, v):
                    self.theta, self._velocity, self._last = self.theta + share * move, v, loss
                    self._bar = min(self._bar, loss)
                    if loss < self._lowest:
                        self._lowest, self._best = loss, self.theta
                    # A shortened step says that the model reached too far: the damping stays.
                    self.mu = max(used / self.decrease if share == 1 else used, self.floor)
                    return done(loss, used, share * float(move.norm()), tried, "ok")
            # Rejection after rejection means that μ is orders too small: grow faster from the fifth on.
            mu = max(used * self.increase * 2.0 ** max(0, tried - 4), self.floor)
            if not mu < CEILING:
                break
        self.mu = min(mu, CEILING)
        self.settle()
        return done(self._lowest, self.mu, 0.0, tried, "stalled" if finite else "nonfinite")

    def _judge_anew(self, problem: LeastSquares, before: float) -> None:
        """On other points the best iterate has to show again that it is better than θ."""
        known = self._best
        # Boldness is measured on the way itself: an old best that stays ahead would forbid every corner.
        self._bar, self._lowest, self._best = before, before, self.theta
        if not torch.equal(known, self.theta):
            loss = half_square(problem.residual(known))
            if loss < before:
                self._lowest, self._best = loss, known

    def settle(self) -> None:
        """Go back to `best`, before the answer is read; where points are redrawn every few steps, rather go on."""
        self.theta, self._last, self._bar, self._velocity = self._best, self._lowest, self._lowest, None

    def _acceptable(self, loss: float, v: Tensor) -> bool:
        """Whether a step that raises the loss goes on along the valley."""
        if not (self.bold and self._velocity is not None):
            return False
        cosine = float(v @ self._velocity / (v.norm() * self._velocity.norm()))
        return (1 - cosine) ** self.bold * loss <= self._bar

    def _normal(self, problem: LeastSquares) -> tuple[Tensor, DampedNormal]:
        theta, P = self.theta, len(self.theta)
        if isinstance(problem, MatrixFree) and (self.form == "cg" or (self.form == "auto" and P > DIRECT)):
            products = problem.linearise(theta)
            if self.form == "cg" or len(products.residual) > DIRECT:
                return products.residual, self._cg(products)
        if isinstance(problem, Blocked) and problem.local and self.form in ("auto", "primal") and P <= DIRECT:
            pieces = problem.local_blocks(theta)
            r = torch.cat([part for part, _ in pieces])
            if self.form == "primal" or len(r) >= P:
                return r, Primal.blocked(pieces)
        if isinstance(problem, Chunked) and self.form in ("auto", "primal") and P <= DIRECT:
            rows = len(problem.residual(theta)) if isinstance(problem, LeastSquares) else P
            if rows > P and 8 * rows * P > self.memory:
                return Primal.summed(problem, theta)
        r, J = problem.jacobian(theta)
        form = self.form
        if form == "auto":
            form = "cg" if min(J.shape) > DIRECT else "primal" if len(r) >= P else "woodbury"
        if form == "cg":
            return r, self._cg(Linearisation(r, lambda V: J @ V, lambda W: J.T @ W))
        return r, Primal.of(J) if form == "primal" else Dual(J)

    def _cg(self, products: Linearisation) -> NystromCG:
        # Seeded by the step, so that a resumed run draws the sketch that the run without a break would have drawn.
        random = torch.Generator().manual_seed(self.seed + self.steps)
        return NystromCG(products, self.theta, self.rank, self.tolerance, self.iterations, random)

    def _move(
        self, problem: LeastSquares, r: Tensor, normal: DampedNormal, mu: float
    ) -> tuple[Tensor, Tensor | None, float]:
        """(v, step, damping); no step where it is not finite or its acceleration is too large."""
        solution, used = normal.solve(mu, r)
        v = -solution
        if not bool(torch.isfinite(v).all()):
            return v, None, used
        if not self.accelerate:
            return v, v, used
        ahead, behind = (problem.residual(self.theta + sign * self.reach * v) for sign in (1, -1))
        second = (ahead - 2 * r + behind) / self.reach**2
        a = -normal.solve(used, second)[0]
        # Written so that a non-finite a is refused too.
        return v, (v + 0.5 * a if float(a.norm()) <= self.ratio * float(v.norm()) else None), used

    def _search(self, problem: LeastSquares, move: Tensor, before: float) -> tuple[float, float]:
        """The lowest loss among the fractions 2⁻ᵏ of the move, and the fraction."""
        best, share = math.inf, 1.0
        for k in range(self.halvings + 1):
            loss = half_square(problem.residual(self.theta + 2.0**-k * move))
            if loss < best:
                best, share = loss, 2.0**-k
            elif best < before:
                # Losses along the ray have turned up again below the start: shorter steps gain less.
                break
        return best, share

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, beside the options."""
        return {
            "theta": self.theta.clone(),
            "mu": self.mu,
            "steps": self.steps,
            "velocity": None if self._velocity is None else self._velocity.clone(),
            "last": self._last,
            "bar": self._bar,
            "lowest": self._lowest,
            "best": self._best.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["theta"].shape != self.theta.shape:
            raise UsageError(
                f"GaussNewton has {len(self.theta)} parameters and the state has {len(state['theta'])}; "
                "load it into an optimiser of the same model."
            )
        self.theta = state["theta"].to(self.theta).clone()
        self.mu, self.steps = float(state["mu"]), int(state["steps"])
        velocity = state["velocity"]
        self._velocity = None if velocity is None else velocity.to(self.theta).clone()
        self._last, self._bar, self._lowest = (float(state[name]) for name in ("last", "bar", "lowest"))
        self._best = state["best"].to(self.theta).clone()

"""Cycles that can be made stronger while conjugate gradients run, and what the run says about their spectrum."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from sciops.numerics.compiled.aggregation import AggregationCycle
from sciops.numerics.compiled.conjugate_gradients import Precondition
from sciops.numerics.compiled.islands import BalancedCycle, Islands
from sciops.numerics.compiled.systems import System

LEAST = 1 / 8
"""Lower end of Chebyshev's interval as a share of the upper one."""
MOST, MOST_SWEEPS = 4, 8
"""Most cycles in one application, most sweeps of aggregation before and after the coarse grid."""


class RepeatedCycle:
    """z = q(BA) B r: `times` steps of Chebyshev's iteration for A z = r with the cycle B, from z = 0.

    1 − λ q(λ) is Chebyshev's polynomial of degree `times` for [a, b], b = `largest`, a = LEAST·b: eigenvalues of BA in
    between come near 1, those below a grow by up to times² against them. Linear in r, symmetric, and positive definite
    if B is and BA has no eigenvalue above a + b. The cycles of `BoxHierarchy` have none above 1.
    One application costs `times` cycles and `times` − 1 products with A (`products` counts these); `times` may be
    changed between applications. `most` is their limit. `find` looks for islands that may slow the cycle down.
    Memory: 3 vectors once `times` > 1. Useless where few eigenvalues lie apart, for which every one costs a step.
    Reference: Johnson, Micchelli, Paul, SIAM J. Numer. Anal. 20 (1983) 362.
    """

    def __init__(
        self,
        system: System,
        cycle: Precondition,
        find: Callable[[], Islands | None] | None = None,
        largest: float = 1.0,
        most: int = MOST,
    ) -> None:
        self.system, self.cycle, self.find, self.largest, self.most = system, cycle, find, largest, most
        self.times, self.products = 1, 0
        self._vectors: tuple[np.ndarray, ...] = ()

    def __call__(self, r: np.ndarray, z: np.ndarray) -> None:
        self.cycle(r, z)
        if self.times == 1:
            return
        if not self._vectors:
            self._vectors = tuple(np.empty_like(z) for _ in range(3))
        rest, step, work = self._vectors
        upper, lower = self.largest, LEAST * self.largest
        middle, radius = (upper + lower) / 2, (upper - lower) / 2
        z /= middle
        rest[...], step[...] = r, z
        ratio = radius / middle
        for _ in range(self.times - 1):
            self.system.matvec_dot(step, work)
            rest -= work
            self.cycle(rest, work)
            self.products += 1
            following = 1 / (2 * middle / radius - ratio)
            step *= following * ratio
            work *= 2 * following / radius
            step += work
            z += step
            ratio = following

    def strengthen(self, need: float) -> bool:
        """Make it strong enough for `need` times fewer steps, as far as that goes; False if it stays what it is.

        Aggregation gets more sweeps, of which σ times as many save about a factor σ^0.8 in steps; other cycles are
        repeated, which saves nearly the factor `times`.
        """
        before = self.times, getattr(self.cycle, "sweeps", 0)
        if isinstance(self.cycle, AggregationCycle):
            self.cycle.sweeps = min(MOST_SWEEPS, math.ceil(self.cycle.sweeps * need**1.25))
        else:
            self.times = min(self.most, math.ceil(self.times * need))
        return before != (self.times, getattr(self.cycle, "sweeps", 0))

    def balance(self) -> bool:
        """Put the islands that `find` finds around the cycle, once; False if there are none."""
        found, self.find = None if self.find is None else self.find(), None
        if found is not None:
            self.cycle = BalancedCycle(found, self.cycle)
        return found is not None


def ritz_values(alphas: Sequence[float], betas: Sequence[float]) -> np.ndarray:
    """Eigenvalue estimates of BA, in ascending order, from the steps α and β of conjugate gradients with B.

    T_kk = 1/α_k + β_k/α_{k−1}, T_{k,k+1} = √β_{k+1}/α_k (β_0 = 0): Lanczos's matrix. All lie inside the spectrum; the
    outermost ones converge first. Reference: Golub, Van Loan, Matrix Computations (2013), section 11.3.
    """
    alpha = np.asarray(alphas, dtype=np.float64)
    beta = np.maximum(np.asarray(betas, dtype=np.float64), 0.0)[: alpha.size]
    main = 1 / alpha
    main[1:] += beta[1:] / alpha[:-1]
    side = np.sqrt(beta[1:]) / alpha[:-1]
    return np.linalg.eigvalsh(np.diag(main) + np.diag(side, 1) + np.diag(side, -1))


def steps_left(history: Sequence[float], tol: float, last: int = 3) -> float:
    """Steps from history[-1] to tol at the mean rate of the `last` steps; infinite if the residual does not fall."""
    rate = (history[-1] / history[-1 - last]) ** (1 / last)
    return math.inf if rate >= 1 or tol <= 0 else math.log(tol / history[-1]) / math.log(rate)

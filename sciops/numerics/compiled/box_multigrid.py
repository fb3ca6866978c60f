"""Conjugate gradients with operator-dependent multigrid as a LinearSolver."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator, Status
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.compiled.aggregation import AggregationCycle
from sciops.numerics.compiled.base import CompiledCG
from sciops.numerics.compiled.boxmg import Advice, BoxHierarchy, BoxOptions
from sciops.numerics.compiled.boxmg_matrix import BoxMatrix
from sciops.numerics.compiled.conjugate_gradients import Outcome, Precondition, conjugate_gradients
from sciops.numerics.compiled.islands import BalancedCycle, Islands, Parts, float_in_numbers, stiff_parts
from sciops.numerics.compiled.repeated import RepeatedCycle, ritz_values, steps_left
from sciops.numerics.compiled.systems import FaceSystem, System, faces_of

METHODS = ("auto", "box")
PATIENCE = 28
"""Further steps of aggregation that cost about as much as a set-up and a solve with operator-dependent multigrid."""
SWEEPS = 3
"""Of aggregation on trial: the kernels fuse them, so that a third costs less than the steps that it saves."""
SURE, SOON, LAST = 8, 5, 4
"""Steps after which the rate of a cycle is trusted: of a first one, of one that took over, and after a change."""
BEYOND = 1.35
"""Share of the target that a first cycle may seem to need in all: sweeps can still save what is above 1."""
EARLY, SHORT, AIM = 1.15, 0.9, 0.8
"""Shares of the steps that are left: a cycle that needs more than EARLY of them, or from step SURE on more than SHORT,
is made strong enough for AIM."""
SMALL = 2**16
"""Cells of a 2-D grid up to which islands are looked for at once; on larger ones, when one is felt."""
STILL, APART = 0.6, 0.05
"""A residual that falls by less than STILL in three steps; a Ritz value below APART of the next one."""


@dataclass(frozen=True)
class BoxMultigrid(CompiledCG):
    """Conjugate gradients in float64 with cycles of aggregation or of `BoxHierarchy`, whichever promises to be fast.

    `method="auto"` tries unsmoothed aggregation on face-weight systems first, whose set-up costs next to nothing; where
    its first steps say that it will need many, the iteration goes on from there with operator-dependent multigrid. The
    set-up of that is then part of the first solve. "box" skips the trial; so do systems with stiff parts afloat, where
    aggregation is known to fail.
    Where the weights have a wide gap and stiff parts float, what is nearly constant on those is solved for exactly
    (`islands`): in 3-D and on small 2-D grids always, on large ones when a tiny Ritz value stops the residual. 3-D
    systems with a gap get W-cycles.
    `target`: where the first steps say that the solve to `tol` will take more iterations than that, the cycle gets
    stronger from there on: aggregation by more sweeps, others by repetition, so that one iteration then holds up to
    four cycles (`RepeatedCycle`; `applications` counts a product with A for each). That does not pay for W-cycles
    without islands, which stay as they are. None: one cycle always. `options`: see `BoxOptions`; `advice`: see
    `BoxHierarchy`.
    Takes FaceOperators and symmetric StencilOperators of radius 1 that are not periodic, in 1 to 3 dimensions.
    Cost O(N) for the set-up and for every iteration. Memory: see `BoxHierarchy`.
    Reference: Dendy, J. Comput. Phys. 48 (1982) 366.
    """

    method_choice: Literal["auto", "box"] = "auto"
    options: BoxOptions | None = None
    advice: Advice | None = None
    target: int | None = 20

    def __post_init__(self) -> None:
        if self.method_choice not in METHODS:
            raise UsageError(f"method must be one of {', '.join(METHODS)}; got '{self.method_choice}'.")
        if self.target is not None and self.target < 1:
            raise UsageError(f"target must be a positive number of iterations or None; got {self.target}.")

    @property
    def method(self) -> str:
        return "BoxmgCG"

    def adapt(self, A: LinearOperator) -> LinearOperator:
        """Five- and seven-point stencils as faces where they can be: their products are faster."""
        if isinstance(A, StencilOperator):
            try:
                return faces_of(A)
            except UsageError:
                return A
        return A

    def build(self, system: System, A: LinearOperator, i: int) -> Precondition:
        parts = None
        if self.method_choice == "auto" and isinstance(system, FaceSystem):
            parts = float_in_numbers(system)
            if parts is None:
                first = RepeatedCycle(system, AggregationCycle(system, SWEEPS, 2.0, np.float32))
                return Trial(first, lambda: self._box(system, A, i))
        return self._box(system, A, i, parts)

    def _box(self, system: System, A: LinearOperator, i: int, parts: Parts | None = None) -> RepeatedCycle:
        matrix, options = BoxMatrix.from_operator(A, i), self.options or BoxOptions()
        if self.advice is not None or not isinstance(system, FaceSystem):
            return RepeatedCycle(system, BoxHierarchy(matrix, options, self.advice))
        if matrix.gz == 0 and matrix.unknowns > SMALL:
            return RepeatedCycle(system, BoxHierarchy(matrix, options), lambda: find_islands(system))
        parts = parts or stiff_parts(system)
        if parts is None:
            return RepeatedCycle(system, BoxHierarchy(matrix, options))
        islands = Islands.find(system, parts)
        if islands is not None:
            # The first coarse grid is half of the cost of a V-cycle; visited twice it would save one step in ten.
            cycle = BoxHierarchy(matrix, replace(options, cycle="W", once=1) if matrix.gz else options)
            return RepeatedCycle(system, BalancedCycle(islands, cycle))
        if matrix.gz == 0:
            return RepeatedCycle(system, BoxHierarchy(matrix, options))
        # Repeated, these save less than they cost.
        return RepeatedCycle(system, BoxHierarchy(matrix, replace(options, cycle="W")), most=1)

    def iterate(
        self,
        system: System,
        precondition: Precondition | None,
        b: np.ndarray,
        x0: np.ndarray | None,
        tol: float,
        maxiter: int,
    ) -> Outcome:
        if isinstance(precondition, RepeatedCycle):
            return self._run(system, precondition, b, x0, tol, maxiter)[0]
        assert isinstance(precondition, Trial)
        if precondition.second is not None:
            return self._run(system, precondition.second, b, x0, tol, maxiter)[0]
        out, weak = self._run(system, precondition.first, b, x0, tol, maxiter, patience=PATIENCE)
        if not weak or out.iterations >= maxiter:
            return out
        precondition.second = precondition.make()
        rest = maxiter - out.iterations, out.iterations
        return _joined(out, self._run(system, precondition.second, b, out.x, tol, *rest)[0])

    def _run(
        self,
        system: System,
        cycle: RepeatedCycle,
        b: np.ndarray,
        x0: np.ndarray | None,
        tol: float,
        maxiter: int,
        done: int = 0,
        patience: float = math.inf,
    ) -> tuple[Outcome, bool]:
        """Conjugate gradients under a `Watcher`; also whether that one gave the cycle up."""
        watcher, before = Watcher(cycle, tol, self.target, done, patience), cycle.products
        out = conjugate_gradients(system, cycle, b, x0, tol, maxiter, watcher)
        out.applications += cycle.products - before
        return out, watcher.weak and out.status is Status.MAX_ITER


@dataclass
class Trial:
    """A cheap cycle first; `make` builds the one that takes over, and stays, if the first is seen to be slow."""

    first: RepeatedCycle
    make: Callable[[], RepeatedCycle]
    second: RepeatedCycle | None = None

    def __call__(self, r: np.ndarray, z: np.ndarray) -> None:
        (self.second or self.first)(r, z)


class Watcher:
    """Looks at the residuals of a run: gives the cycle up (`weak`), or makes it stronger for all further steps.

    The first is asked every fourth step, with the rate of the last three: by that, a cycle that may be given up would
    take more than `patience` further steps or, asked in the first half of the target, end far beyond that. The second
    is asked from step SURE on (in one that took over from another cycle: SOON), with the mean rate since the start or
    since the last change: the cycle gets stronger until, by that rate, the run ends within `target` steps, the `done`
    ones before it included.
    """

    def __init__(self, cycle: RepeatedCycle, tol: float, target: int | None, done: int, patience: float) -> None:
        self.cycle, self.tol, self.target, self.done, self.patience = cycle, tol, target, done, patience
        self.weak, self.changed = False, 0

    def __call__(self, out: Outcome) -> bool:
        n = out.iterations - self.changed
        if n < LAST:
            return False
        if n % 4 == 0 and self._hopeless(out):
            self.weak = True
        elif self.target is not None and not self._outlier(out) and n >= self._patient():
            self._strengthen(out, self.target - self.done - out.iterations)
        return self.weak

    def _hopeless(self, out: Outcome) -> bool:
        """Will a cycle that may be given up cost more than another one, or miss the target that this one could meet?"""
        left = steps_left(out.history, self.tol, 3)
        missed = self.target is not None and out.iterations + left > BEYOND * self.target >= 2 * BEYOND * out.iterations
        return left * self.cycle.times > self.patience or (missed and self.patience < math.inf)

    def _patient(self) -> int:
        return LAST if self.changed else SOON if self.done else SURE

    def _outlier(self, out: Outcome) -> bool:
        """Does the residual stand still because of a single tiny eigenvalue? Islands, if there are any, lift it."""
        if out.history[-1] < min(STILL * out.history[-4], out.history[-2]):
            return False
        lowest = ritz_values(out.alphas, out.betas)[:2]
        found = bool(lowest[0] < APART * lowest[-1])
        if found and self.cycle.balance():
            self.changed = out.iterations
        return found or out.history[-1] > out.history[-2]

    def _strengthen(self, out: Outcome, room: int) -> None:
        left = steps_left(out.history, self.tol, out.iterations - self.changed)
        enough = (EARLY if out.iterations < SURE else SHORT) * room
        if room > 0 and left > enough and self.cycle.strengthen(left / max(AIM * room, 1.0)):
            self.changed = out.iterations


def find_islands(system: FaceSystem) -> Islands | None:
    """The islands of the levelled weights, if these have a gap and something floats."""
    parts = stiff_parts(system)
    return None if parts is None else Islands.find(system, parts)


def _joined(first: Outcome, second: Outcome) -> Outcome:
    second.iterations += first.iterations
    second.applications += first.applications
    second.history = first.history + second.history[1:]
    return second

"""Problems that move: a state, a step, frames at stated times."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.core.solver import Solution

Step = Callable[[Tensor, float], Tensor]
"""state (n, k, *s), time t ↦ state at t + dt."""

PIECE = 8
"""Steps between two looks at the clock."""


class Evolution(Problem, ABC):
    """∂_t U = F(U, t; inputs) on a box in space, U(0) from the inputs; outputs at the asked times `cases.times`.

    The domain of cases and fields is space alone; time is the axis t of `Field`. The state U (n, k, *s) may hold more
    than the outputs (a wave: displacement and velocity); `frame` reads the outputs off it.

    A subclass writes `stepper` and `largest_step`, `sample` sets `Cases.times`, and `reference` answers at these times.
    Where cases carry a `history` (frames up to now), solvers start from its last frame at its last time, else from the
    inputs at t = 0. Whoever cannot restart from frames (state beyond the outputs) overrides `start`.
    """

    linear = False

    @abstractmethod
    def initial(self, cases: Cases) -> Float[Tensor, "n k *s"]:
        """U(0) on the grid of the cases, from their inputs."""

    @abstractmethod
    def stepper(self, cases: Cases, dt: float) -> Step:
        """One step of the classical scheme on the grid of the cases: everything that depends on dt is set up once."""

    @abstractmethod
    def largest_step(self, cases: Cases) -> float:
        """The largest dt with which `stepper` is stable here (a little below the bound), inf if there is none."""

    def frame(self, cases: Cases, state: Float[Tensor, "n k *s"]) -> Float[Tensor, "n c *s"]:
        """The outputs of a state; here the state itself."""
        return state

    def start(self, cases: Cases) -> tuple[Float[Tensor, "n k *s"], float]:
        """State and time from which a solver begins."""
        if cases.history is not None:
            return cases.history.values[:, -1], cases.history.times[-1]
        return self.initial(cases), 0.0

    def step(self, cases: Cases, state: Float[Tensor, "n k *s"], t: float, dt: float) -> Float[Tensor, "n k *s"]:
        """U(t + dt) by one step; a loop over many steps keeps `stepper` instead."""
        return self.stepper(cases, dt)(state, t)

    def propagator(self, cases: Cases, dt: float, steps: int) -> Step:
        """`steps` steps at once; override where a state is better kept in another form between them."""
        step = self.stepper(cases, dt)

        def repeated(state: Tensor, t: float) -> Tensor:
            for k in range(steps):
                state = step(state, t + k * dt)
            return state

        return repeated

    def evolve(self, cases: Cases, dt: float, seconds: float | None = None) -> Solution:
        """Frames at `cases.times` with steps of at most dt, shortened so that they end on every frame.

        Cases that leave the finite numbers get NONFINITE and advice; the others go on. Stats: `steps`, `dt`.
        After `seconds` it stops: the frames that it has not reached repeat its last state, and the status is BUDGET.
        Raises UsageError where a time lies before the start.
        """
        deadline = None if seconds is None else perf_counter() + seconds
        state, t = self.start(cases)
        if min(cases.times) < t - 1e-12:
            raise UsageError(f"Frames are asked at {min(cases.times):g}, before the start at t = {t:g}.")
        frames, steps, used, late = [], 0, 0.0, False
        size = 0.0
        kept: dict[int, Step] = {}  # propagators of this step size, by the number of steps
        for end in cases.times:
            count = max(1, round_up((end - t) / dt)) if end > t + 1e-12 and not late else 0
            h = (end - t) / count if count else size
            if abs(size - h) > 1e-12 * h:
                size, kept = h, {}
            done = 0
            while done < count:
                if deadline is not None and _past(deadline, state):
                    late = True
                    break
                piece = count if deadline is None else min(PIECE, count - done)
                if piece not in kept:
                    kept[piece] = self.propagator(cases, h, piece)
                state = kept[piece](state, t + done * h)
                done += piece
            if done:
                steps, t, used = steps + done, t + done * h if late else end, max(used, h)
            frames.append(self.frame(cases, state))
        names = tuple(channel.name for channel in self.outputs)
        field = Field(torch.stack(frames, 1), cases.domain, names, cases.times)
        good = Status.BUDGET if late else Status.OK
        status = [good if fine else Status.NONFINITE for fine in field.finite()]
        limit = self.largest_step(cases)
        hint = f"the solution left the finite numbers with dt = {used:g}; " + (
            f"dt ≤ {limit:.3g} is stable here." if limit < used else "take a smaller dt or a finer grid."
        )
        hints = {Status.OK: "", Status.NONFINITE: hint, Status.BUDGET: (
            f"the time budget ended at t = {t:.4g} of {max(cases.times):g}, and later frames repeat that state; raise "
            "the budget, or take fewer points or longer steps."
        )}  # fmt: skip
        return Solution(field, status, {"steps": steps, "dt": used, "advice": [hints[s] for s in status]})


def _past(deadline: float, state: Tensor) -> bool:
    """Whether the time is over; waits for what the device still has to do."""
    if state.is_cuda:
        torch.cuda.synchronize(state.device)
    return perf_counter() > deadline


def round_up(x: float) -> int:
    """⌈x⌉ where rounding errors of x do not count."""
    nearest = round(x)
    return nearest if abs(x - nearest) < 1e-9 * max(1.0, abs(x)) else int(x) + 1

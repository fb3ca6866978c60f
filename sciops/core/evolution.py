"""Problems that move: a state, a step, frames at stated times."""

from abc import ABC, abstractmethod
from collections.abc import Callable

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

    def evolve(self, cases: Cases, dt: float) -> Solution:
        """Frames at `cases.times` with steps of at most dt, shortened so that they end on every frame.

        Cases that leave the finite numbers get NONFINITE and advice; the others go on. Stats: `steps`, `dt`.
        Raises UsageError where a time lies before the start.
        """
        state, t = self.start(cases)
        if min(cases.times) < t - 1e-12:
            raise UsageError(f"Frames are asked at {min(cases.times):g}, before the start at t = {t:g}.")
        frames, steps, used = [], 0, 0.0
        kept: tuple[float, int, Step] | None = None
        for end in cases.times:
            count = max(1, round_up((end - t) / dt)) if end > t + 1e-12 else 0
            if count:
                h = (end - t) / count
                if kept is None or abs(kept[0] - h) > 1e-12 * h or kept[1] != count:
                    kept = (h, count, self.propagator(cases, h, count))
                state = kept[2](state, t)
                steps, t, used = steps + count, end, max(used, h)
            frames.append(self.frame(cases, state))
        names = tuple(channel.name for channel in self.outputs)
        field = Field(torch.stack(frames, 1), cases.domain, names, cases.times)
        status = [Status.OK if fine else Status.NONFINITE for fine in field.finite()]
        limit = self.largest_step(cases)
        hint = f"the solution left the finite numbers with dt = {used:g}; " + (
            f"dt ≤ {limit:.3g} is stable here." if limit < used else "take a smaller dt or a finer grid."
        )
        advice = ["" if s is Status.OK else hint for s in status]
        return Solution(field, status, {"steps": steps, "dt": used, "advice": advice})


def round_up(x: float) -> int:
    """⌈x⌉ where rounding errors of x do not count."""
    nearest = round(x)
    return nearest if abs(x - nearest) < 1e-9 * max(1.0, abs(x)) else int(x) + 1

"""The training of a physics-informed network as a state machine: one step at a time, resumable bit for bit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from sciops.core.errors import UsageError
from sciops.core.random import case_seed, generator
from sciops.models.mlp import MLP
from sciops.models.trial import Trial
from sciops.numerics.least_squares import Stacked
from sciops.numerics.optimisers import SOAP, GaussNewton, SSBroyden
from sciops.solvers.collocation import Equation, relative_residual
from sciops.solvers.pinn_conditions import system_residual
from sciops.solvers.pinn_growth import Growth, grow, residual_peaks
from sciops.solvers.pinn_loss import JointLoss
from sciops.solvers.pinn_places import Place
from sciops.solvers.pinn_rows import EquationRows, ParameterRows, Sites, State, flat_parameters
from sciops.solvers.samplers.base import Points, Sampler

SECOND_ORDER = ("gauss_newton", "ss_broyden", "bfgs", "lbfgs")
FIRST_ORDER = ("adam", "soap")
DEFAULTS: dict[str, dict[str, Any]] = {
    "gauss_newton": {"mu": 1e-3, "accelerate": True, "bold": 1.0, "ratio": 0.75, "memory": 2e9},
    "ss_broyden": {"max_iter": 20},
    "bfgs": {"max_iter": 20, "method": "bfgs"},
    "lbfgs": {"max_iter": 20, "history_size": 50, "line_search_fn": "strong_wolfe"},
    "adam": {"lr": 1e-3, "fused": True},
    "soap": {"lr": 3e-3},
}


@dataclass(frozen=True)
class Stage:
    """An optimiser by name, its options, and for how many steps (None: until the end)."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.name not in DEFAULTS:
            raise UsageError(f"optimiser must be one of {', '.join(DEFAULTS)}; got '{self.name}'.")

    def make(self, trial: Trial) -> Any:
        options = DEFAULTS[self.name] | self.options
        parameters = [p for p in trial.parameters() if p.requires_grad]
        narrow = {p.dtype for p in parameters} - {torch.float64}
        if narrow and self.name in SECOND_ORDER:
            kind = str(narrow.pop()).removeprefix("torch.")
            raise UsageError(
                f"{self.name} got a network of {kind}, in which it stops early; use torch.float64, or adam or soap."
            )
        try:
            if self.name == "gauss_newton":
                return GaussNewton(flat_parameters(trial), **options)
            makers = {"adam": torch.optim.Adam, "soap": SOAP, "lbfgs": torch.optim.LBFGS}
            return makers.get(self.name, SSBroyden)(parameters, **options)
        except TypeError as error:
            raise UsageError(f"optimiser {self.name}: {error}.") from error


@dataclass(frozen=True)
class Population:
    """How many collocation points there are and how they change.

    count     points at the start
    most      points at which appending ends and replacing begins
    share     of the points that are added or replaced at a refresh
    every     steps between refreshes
    uniform   share of uniform points among the new ones
    policy    "steady": append until `most`, then replace the oldest | "published": what the sampler itself prescribes
              (`Sampler.refresh`), all points at once
    """

    count: int = 1000
    most: int = 1000
    share: float = 0.3
    every: int = 4
    uniform: float = 0.5
    policy: str = "steady"

    def __post_init__(self) -> None:
        if self.policy not in ("steady", "published"):
            raise UsageError(f"population must be steady or published; got '{self.policy}'.")
        if self.count < 1 or self.every < 1 or not 0 < self.share <= 1 or not 0 <= self.uniform <= 1:
            raise UsageError(
                "points and every must be 1 or more, share in (0, 1], uniform in [0, 1]; got "
                f"{self.count}, {self.every}, {self.share}, {self.uniform}."
            )


@dataclass(frozen=True)
class Progress:
    """One step: ½‖r‖² before and after on the same points, points, and how it ended."""

    loss_before: float
    loss: float
    status: str
    mu: float = float("nan")


class Training:
    """min over θ of ½‖r_θ‖², r the scaled residual at collocation points with the rows of boundary and weak modes.

    `step()` makes one step of the present stage's optimiser on frozen points; the population is renewed between steps
    only, every `population.every` of them, first-order stages a hundred times less often. `extra` are rows that do
    not depend on the points. The residual is scaled to unit mean square for the zero network.
    A loss that is not finite puts the best parameters back and ends the training (`status` "nonfinite").
    `state_dict` holds parameters, points, sampler, optimiser and counters: a resumed run repeats the bits.
    """

    def __init__(
        self,
        equation: Equation,
        trial: Trial,
        sampler: Sampler,
        stages: Sequence[Stage],
        population: Population,
        extra: Sequence[ParameterRows] = (),
        scale: float = 1.0,
        importance: bool = False,
        seed: int = 0,
        check: Float[Tensor, "N d"] | None = None,
        growth: Growth | None = None,
    ) -> None:
        self.growth, self.grown, self._fallen = growth or Growth(), [], math.inf
        self.seed = seed
        self.check = sampler_free_points(equation, seed) if check is None else check
        self.equation, self.trial, self.sampler = equation, trial, sampler
        self.stages, self.population = list(stages), population
        self.extra, self.scale, self.importance = list(extra), scale, importance
        sampler.start(equation.lower.tolist(), equation.upper.tolist(), seed)
        self.steps, self.stage, self.stage_steps, self.stalls = 0, 0, 0, 0
        self.status, self.losses = "ok", []
        self.optimiser = self.stages[0].make(trial)
        self.best: tuple[float, Tensor] = (math.inf, flat_parameters(trial))
        self.lowest: tuple[float, Tensor] = (math.inf, self.best[1])
        self.points = sampler.first(population.count)
        if population.policy == "steady" and sampler.policy != "fixed":
            self._renew(round((1 - population.uniform) * population.count))
        self._freeze()

    losses: list[float]
    grown: list[list[Place]]
    """The places of every round of growth so far."""
    _before: float
    _inside: bool
    wavenumber: float = 0.0
    """Of the source, where it was measured: what error estimates have to resolve."""

    def relative_residual(self) -> float:
        """‖R(u)‖/‖f‖ at held-out points; of systems that of `pinn_conditions.system_residual`."""
        if len(self.equation.problem.outputs) > 1:
            return system_residual(self.equation, self.trial, self.check)
        return relative_residual(self.equation, self.check, State(self.trial, self.check))

    def look(self) -> float:
        """The relative residual at held-out points; the parameters with the lowest one are remembered."""
        found = self.relative_residual()
        if math.isfinite(found) and found < self.lowest[0]:
            self.lowest = (found, self.theta)
        return found

    def settle(self) -> None:
        """Back to the parameters with the lowest held-out residual that was seen, at the end of the training.

        New points may reveal a large residual, and the steps after such a moment need a while to mend it.
        """
        self.look()
        if math.isfinite(self.lowest[0]):
            self._write(self.lowest[1])

    # ---- points

    def magnitude(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        """|r| of the equation at points as the loss weighs it, several equations as the root of the sum of squares."""
        parts = []
        for piece in x.split(8192):
            sites = Sites(self.equation.case, piece)
            with torch.no_grad():
                rows = sites.residuals(self.trial.derivatives(sites.x, sites.request))
            size = torch.stack([r.detach() for r in rows]).square().sum(0).sqrt()
            parts.append(size if sites.factor is None else sites.factor * size)
        return torch.cat(parts) / self.scale

    def _renew(self, count: int) -> None:
        """`count` of the oldest points give way to a share of uniform ones and draws of the sampler."""
        n = min(count, len(self.points))
        self.points = self.points[n:] + self._drawn(count)

    def _drawn(self, count: int) -> Points:
        uniform = round(self.population.uniform * count)
        drawn = self.sampler.propose(count - uniform, self.magnitude, self.points)
        if not uniform:
            return drawn
        both = self.sampler.uniform(uniform) + drawn
        law = self.sampler.density(both.x)
        if law is None or both.density is None:
            return both
        mixed = uniform / count / self.sampler.volume + (1 - uniform / count) * law
        return Points(both.x, mixed)

    def _used_up(self, round_number: int) -> bool:
        """Is the residual elsewhere larger than at the points? Every fifth time the answer is yes unasked.

        New points make a new function, whose loss starts higher: they are worth it where the old ones are fitted.
        """
        if self.population.policy == "published" or round_number % 5 == 0:
            return True
        here, elsewhere = (self.magnitude(x).square().mean() for x in (self.points.x, self.check))
        return not bool(elsewhere < 2 * here)

    def refresh(self) -> None:
        """The next population."""
        plan = self.population
        if self.sampler.policy == "fixed":
            return
        if isinstance(self.optimiser, GaussNewton):
            self.optimiser.theta = self.optimiser.best
        count = max(1, round(plan.share * plan.count))
        if plan.policy == "published":
            self.points = self.sampler.refresh(self.points, plan.count, self.magnitude)
        elif len(self.points) < plan.most:
            self.points = self.points + self._drawn(min(count, plan.most - len(self.points)))
        else:
            self._renew(count)
        self._freeze()

    def _freeze(self) -> None:
        sites = Sites(self.equation.case, self.points.x)
        weights = self.points.weights(self.sampler.volume) if self.importance else None
        parts: list[Any] = [EquationRows(self.trial, sites, self.scale**-2, weights), *self.extra]
        self.problem = Stacked(parts)
        self.joint = JointLoss(parts)

    # ---- steps

    @property
    def theta(self) -> Float[Tensor, " P"]:
        return flat_parameters(self.trial)

    @property
    def done(self) -> bool:
        return self.status == "nonfinite"

    def loss(self) -> Float[Tensor, ""]:
        """½‖r‖² on the frozen points, with gradients."""
        return self.joint()

    def step(self) -> Progress:
        """One iteration of Gauss–Newton, Adam or SOAP; `max_iter` of them for quasi-Newton methods."""
        stage = self.stages[self.stage]
        if stage.steps is not None and self.stage_steps >= stage.steps and self.stage + 1 < len(self.stages):
            self._enter(self.stage + 1)
            stage = self.stages[self.stage]
        first_order = stage.name in FIRST_ORDER
        every = self.population.every * (100 if first_order else 1)
        if self.stage_steps and self.stage_steps % every == 0 and self._used_up(self.stage_steps // every):
            self.refresh()
            if isinstance(self.optimiser, torch.optim.LBFGS):
                self.optimiser = stage.make(self.trial)  # its memory belongs to the old points
        if self.stage_steps and self.stage_steps % (self.growth.every * (100 if first_order else 1)) == 0:
            self._consider_growth()
        progress = self._gauss_newton() if isinstance(self.optimiser, GaussNewton) else self._descend()
        self.steps += 1
        self.stage_steps += 1
        self.losses.append(progress.loss)
        self._keep(progress)
        return progress

    def _gauss_newton(self) -> Progress:
        made = self.optimiser.step(self.problem)
        self._write(self.optimiser.best)  # the optimiser itself may walk on along a valley
        self.stalls = self.stalls + 1 if made.status == "stalled" else 0
        if made.status == "stalled":
            self.optimiser.mu = 1e-3  # the damping that ended a step must not end the next points' steps too
        return Progress(made.loss_before, made.loss_after, made.status, made.mu)

    def _descend(self) -> Progress:
        def closure() -> float:
            self.optimiser.zero_grad(set_to_none=True)
            loss = self.loss()
            loss.backward()
            value = float(loss.detach())
            self._before = min(self._before, value) if self._inside else value
            self._inside = True
            return value

        self._inside, self._before = False, math.inf
        loss = float(self.optimiser.step(closure))
        if isinstance(self.optimiser, SSBroyden):
            return Progress(loss, loss, self.optimiser.status)
        return Progress(loss, self._before, "ok" if math.isfinite(loss) else "nonfinite")

    def _keep(self, progress: Progress) -> None:
        """Remembers good parameters, returns to them where the loss is not finite."""
        stage = self.stages[self.stage]
        finite = math.isfinite(progress.loss) and progress.status != "nonfinite"
        if finite:
            # First-order losses belong to the parameters before the step; every tenth check is enough there.
            if stage.name not in FIRST_ORDER or self.steps % 10 == 0:
                theta = self.theta
                if bool(torch.isfinite(theta).all()):
                    self.best = (progress.loss, theta)
            return
        self._write(self.best[1])
        self.status = "nonfinite"

    def _write(self, theta: Float[Tensor, " P"]) -> None:
        with torch.no_grad():
            vector_to_parameters(theta, [p for p in self.trial.parameters() if p.requires_grad])

    def _enter(self, stage: int) -> None:
        self.stage, self.stage_steps = stage, 0
        self.optimiser = self.stages[stage].make(self.trial)

    def _consider_growth(self) -> None:
        """Adds networks at the peaks of the residual where the held-out one has stopped falling."""
        if len(self.grown) >= self.growth.rounds:
            return
        now = self.look()
        stalled, self._fallen = now > self._fallen / self.growth.stalled, now
        if not stalled:
            return
        random = generator(case_seed(self.seed, len(self.grown), "pinn residual peaks"))
        lower, upper = self.equation.lower, self.equation.upper
        places = residual_peaks(self.magnitude, lower, upper, random)
        if not places:
            return
        self.settle()
        new = self._append(places)
        self.best = (self.best[0], torch.cat([self.best[1], new]))
        self.lowest = (self.lowest[0], torch.cat([self.lowest[1], new]))
        plan = self.population  # three points per parameter, as at the start
        self.population = replace(plan, count=plan.count + 3 * len(new), most=plan.most + 5 * len(new))
        if self.sampler.policy != "fixed":
            self.points = self.points + self._drawn(3 * len(new))
        self._freeze()
        self.optimiser = self.stages[self.stage].make(self.trial)

    def _append(self, places: list[Place]) -> Float[Tensor, " p"]:
        activation = next(net.phi for net in self.trial.modules() if isinstance(net, MLP))
        new = grow(self.trial, places, self.growth.width, activation, self.seed)
        self.grown.append(places)
        return new

    # ---- resume

    def state_dict(self) -> dict[str, Any]:
        return {
            "trial": self.trial.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "sampler": self.sampler.state_dict(),
            "points": (self.points.x, self.points.density),
            "best": (self.best[0], self.best[1].clone()),
            "lowest": (self.lowest[0], self.lowest[1].clone()),
            "growth": (
                [[(place.centre, place.lengths) for place in places] for places in self.grown],
                self._fallen,
                (self.population.count, self.population.most),
            ),
            "counters": (self.steps, self.stage, self.stage_steps, self.stalls, self.status, list(self.losses)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rounds, self._fallen, (count, most) = state["growth"]
        for places in rounds[len(self.grown) :]:
            self._append([Place(tuple(centre), tuple(lengths)) for centre, lengths in places])
        self.population = replace(self.population, count=count, most=most)
        self.trial.load_state_dict(state["trial"])
        self.steps, self.stage, self.stage_steps, self.stalls, self.status, losses = state["counters"]
        self.losses, self.best, self.lowest = list(losses), state["best"], state["lowest"]
        self.optimiser = self.stages[self.stage].make(self.trial)
        self.optimiser.load_state_dict(state["optimiser"])
        self.sampler.load_state_dict(state["sampler"])
        self.points = Points(*state["points"])
        self._freeze()


def sampler_free_points(equation: Equation, seed: int, n: int = 2000) -> Float[Tensor, "n d"]:
    """Uniform points for held-out residuals, from a stream of their own."""
    return equation.interior_points(n, generator(case_seed(seed, 0, "pinn held-out points")))

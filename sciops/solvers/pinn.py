"""Physics-informed neural networks: the residual of the equation at points, driven to zero by second-order steps."""

import copy
import inspect
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.config import build, resolve_class
from sciops.core.errors import UsageError
from sciops.core.linear import Status
from sciops.core.random import case_seed, generator
from sciops.core.solver import Budget
from sciops.models.embeddings import Periodic
from sciops.models.mlp import MLP
from sciops.models.sums import Sum
from sciops.models.trial import Trial
from sciops.solvers.collocation import Answer, CollocationSolver, Equation, Function
from sciops.solvers.pinn_conditions import impose
from sciops.solvers.pinn_estimate import error_estimate
from sciops.solvers.pinn_growth import Growth
from sciops.solvers.pinn_initialisation import SourceDraw, localise
from sciops.solvers.pinn_places import composed, find_places
from sciops.solvers.pinn_rows import ParameterRows, Sites
from sciops.solvers.pinn_training import FIRST_ORDER, Population, Stage, Training
from sciops.solvers.pinn_weak import MODES, RESOLUTION, WeakRows
from sciops.solvers.samplers.base import Sampler
from sciops.solvers.samplers.oracle import Oracle
from sciops.solvers.samplers.tempered import Tempered

Config = Mapping[str, Any] | str
CHECKS = 4000
"""Held-out points: half uniform, half from the square of the source."""
CHECK_EVERY, PATIENCE = 4, 15
"""Steps between looks at the held-out residual (100 times as many of first order); looks without a gain of 10 % that
end the training."""
FINE = 8.0
"""Half waves of the source along the box from which on weak rows are made."""
CELLS = {1: 4096, 2: 128**2, 3: 128**2}
"""Of the grid on which the exact critic is computed."""
GLOBAL_WIDTH, LOCAL_WIDTH = 8, 20


class PINN(CollocationSolver):
    """R(u_θ) = 0 at points, u_θ a network: min over θ of mean r² + boundary rows + weak rows, by Gauss–Newton steps.

    Method: u_θ satisfies Dirichlet data exactly (`HardBoundary`); points are half uniform, half from the exact
    adversarial density of the residual, renewed slowly between steps; every step is a damped least squares in all
    parameters with geodesic acceleration. Where the source f is fine, networks are placed on its compact features
    (`pinn_places`) and rows for the low modes of the error join in, which a strong residual hardly sees.
    Of the solution nothing is known; f is read at points, as any method does.

    network          class path of a Trial with its arguments; None: an MLP of `width`, `depth`, `activation`, or, where
                     the source has compact places and `local` is True, a small MLP plus windowed ones (beyond three
                     dimensions these alone)
    optimiser        gauss_newton | ss_broyden | bfgs | lbfgs | soap | adam, {"name": …, "steps": …, options}, or a list
    sampler          class path of a Sampler; None: Oracle in up to three dimensions, Tempered beyond
    points, max_points   at the start (3 per parameter) and when appending ends (5)
    population       "steady" (30 % at a time) | "published" (as in the sampler's paper), `every` so many steps
    importance       weights 1/(|Ω| p) on the rows: the plain L² loss
    boundary         hard | soft (rows of weight `boundary_weight`) | auto: hard where a lift is affordable; of several
                     unknowns where the data vanish
    initialisation   source | network (the network's own)
    weak_modes       per axis; None: 8 in 2-D where the source has more than 8 half waves; 0: none
    growth           {rounds, every, stalled, width}: networks added at residual peaks (`pinn_growth`); None: never
    max_steps, tolerance   end of the training: steps, held-out relative residual (`Budget.tol` overrides it)
    threshold        error estimate above which the answer is UNRESOLVED; where there is none, a residual above a tenth
    clock            what `Budget.seconds` counts: wall | cpu

    The error estimate solves the error equation on a grid (`pinn_estimate`). facts: steps, loss, parameters, and the
    sampler's β and coverage χ. Cost per step: O(N P²), P parameters, N points; memory 8 N P bytes.
    Fails, and says so, where the solution has features that neither f nor the residual of a coarse fit shows, and where
    many places leave few parameters to each. Several unknowns take their conditions, with weights, from
    `Problem.conditions()`; without an error estimate their status is judged by `system_residual`.
    References: Raissi, Perdikaris, Karniadakis, J. Comput. Phys. 378 (2019); Müller & Zeinhofer, ICML 2023
    (arXiv 2302.13163); Tang, Zhai, Wan, Yang, ICLR 2024 (arXiv 2305.18702).
    """

    periodic = True
    several = True

    def __init__(
        self,
        network: Config | None = None,
        optimiser: str | Config | Sequence[Config | str] = "gauss_newton",
        sampler: Config | None = None,
        width: int = 24,
        depth: int = 3,
        activation: str = "tanh",
        periodic_modes: int = 1,
        points: int | None = None,
        max_points: int | None = None,
        every: int = 8,
        population: str = "steady",
        uniform: float | None = None,
        importance: bool = False,
        boundary: str = "auto",
        boundary_weight: float = 100.0,
        boundary_points: int = 200,
        initialisation: str = "source",
        local: bool = True,
        weak_modes: int | None = None,
        weak_weight: float = 1.0,
        growth: Mapping[str, Any] | None = None,
        max_steps: int = 300,
        tolerance: float = 1e-7,
        threshold: float = 1e-2,
        clock: str = "wall",
        seed: int = 0,
    ) -> None:
        if boundary not in ("auto", "hard", "soft"):
            raise UsageError(f"boundary must be auto, hard or soft; got '{boundary}'.")
        if initialisation not in ("source", "network"):
            raise UsageError(f"initialisation must be source or network (its own); got '{initialisation}'.")
        if clock not in ("wall", "cpu"):
            raise UsageError(f"clock must be wall or cpu; got '{clock}'.")
        for name, value in (("width", width), ("depth", depth), ("max_steps", max_steps), ("every", every)):
            if value < 1:
                raise UsageError(f"{name} must be 1 or more; got {value}.")
        self.network, self.sampler, self.stages = network, sampler, stages_of(optimiser)
        self.width, self.depth, self.activation, self.periodic_modes = width, depth, activation, periodic_modes
        self.points, self.max_points, self.every = points, max_points, every
        self.population, self.uniform, self.importance = population, uniform, importance
        self.boundary, self.boundary_weight, self.boundary_points = boundary, boundary_weight, boundary_points
        self.initialisation, self.max_steps, self.tolerance = initialisation, max_steps, tolerance
        self.local, self.weak_modes, self.weak_weight = local, weak_modes, weak_weight
        self.threshold, self.clock, self.seed = threshold, clock, seed
        try:
            self.growth = Growth(**(growth or {}))
        except TypeError:
            raise UsageError(f"growth takes rounds, every, stalled and width; got {', '.join(growth or {})}.") from None

    def training(self, equation: Equation) -> Training:
        """The network and its training for one case, before the first step."""
        random = generator(case_seed(self.seed, 0, "pinn source"))
        smallest = MLP(equation.ndim, len(equation.problem.outputs), 1, 1).to(equation.lower.device)
        start = self._zero(self._impose(equation, smallest)[0])
        draw = SourceDraw(lambda x: _residual(equation, start, x), equation.lower, equation.upper, CHECKS // 2, random)
        net = self._network(equation, draw)
        trial, extra = self._impose(equation, net, draw)
        check = torch.cat([equation.interior_points(CHECKS // 2, random), draw.x])
        scale = self._scale(equation, start, draw, random)
        extra += self._weak(equation, trial, draw, scale)
        count = sum(p.numel() for p in trial.parameters() if p.requires_grad)
        many = equation.ndim > 3
        first = self.points or max(1000, (4 if many else 3) * count)
        most = self.max_points or max(first, (6 if many else 5) * count)
        # In many dimensions the sampler's law has uniform points and points at every distance of its own, and a new
        # point is further from the old ones: fewer are exchanged at a time.
        uniform, share = (0.4, 0.12) if many else (0.5, 0.3)
        uniform = uniform if self.uniform is None else self.uniform
        population = Population(first, most, share, self.every, uniform, self.population)
        sampler = self._sampler(equation)
        if isinstance(sampler, Tempered):
            sampler.source = draw.source
        training = Training(
            equation,
            trial,
            sampler,
            self.stages,
            population,
            extra,
            scale,
            self.importance,
            self.seed,
            check,
            self.growth,
        )
        training.wavenumber = draw.wavenumber
        return training

    def solve_case(self, equation: Equation, budget: Budget) -> Answer:
        begun, clock = time.perf_counter(), time.process_time if self.clock == "cpu" else time.perf_counter
        started = clock()
        training = self.training(equation)
        steps = self.max_steps if budget.maxiter is None else min(self.max_steps, budget.maxiter)
        tolerance = budget.tol or self.tolerance
        # What is kept back pays for the error estimate and the evaluation of the answer.
        limit = math.inf if budget.seconds is None else max(0.9 * budget.seconds, budget.seconds - 5)
        trace: list[tuple[float, Function]] = []
        snapshot, late, residuals = 1, False, [math.inf]
        while training.steps < steps and not training.done:
            if clock() - started > limit:
                late = True
                break
            training.step()
            if training.steps == snapshot:
                trace.append((time.perf_counter() - begun, Snapshot(training.trial)))
                snapshot = math.ceil(1.3 * snapshot)
            pace = 100 if training.stages[training.stage].name in FIRST_ORDER else 1
            if training.steps % (pace * CHECK_EVERY) == 0:
                residuals.append(training.look())
                ended = len(residuals) > PATIENCE and min(residuals[-PATIENCE:]) > 0.9 * min(residuals[:-PATIENCE])
                if residuals[-1] < tolerance or training.stalls >= 5 or (ended and pace == 1):
                    break
        training.settle()
        trace.append((time.perf_counter() - begun, Snapshot(training.trial)))
        return self._answer(training, trace, tolerance, late, training.steps >= steps < self.max_steps)

    def _answer(
        self, training: Training, trace: list[tuple[float, Function]], tolerance: float, late: bool, cut: bool
    ) -> Answer:
        """The answer with its status: OK needs a small error estimate, or a small residual where there is none."""
        residual = training.relative_residual()
        estimate = error_estimate(training.equation, training.trial, training.wavenumber)
        error = residual if estimate is None else estimate
        threshold = 0.1 * self.threshold if estimate is None else self.threshold  # errors outgrow residuals
        status, advice = Status.OK, ""
        if training.status == "nonfinite":
            status = Status.DIVERGED
            advice = "The loss became infinite or NaN; the answer is the best network before it: lower the rate."
        elif cut and residual > tolerance:
            status = Status.MAX_ITER
        elif not error <= threshold:
            status = Status.BUDGET if late else Status.UNRESOLVED
            if not late:
                advice = (
                    f"The {'residual' if estimate is None else 'error estimate'} ended at {error:.1e}: give it more "
                    "steps, a wider network or more points, or another sampler."
                )
        stats: dict[str, Any] = {
            "steps": training.steps,
            "loss": training.losses[-1] if training.losses else math.nan,
            "parameters": int(training.theta.numel()),
        }
        for name in ("beta", "chi"):
            if hasattr(training.sampler, name):
                stats[name] = float(getattr(training.sampler, name))
        return Answer(
            trace[-1][1],
            status,
            residual=residual,
            error_estimate=estimate,
            advice=advice,
            iterations=training.steps,
            points=len(training.points),
            trace=trace,
            stats=stats,
        )

    # ---- parts

    def _network(self, equation: Equation, draw: SourceDraw | None = None) -> Trial:
        """The network; with a draw of the source, its first weights and local parts follow it."""
        box = {"lower": equation.lower.tolist(), "upper": equation.upper.tolist()}
        channels = len(equation.problem.outputs)
        # Weights that Glorot drew serve a smooth source better than hyperplanes placed at random; in many dimensions
        # every feature is a small one.
        near = draw is not None and self.initialisation == "source" and (equation.ndim > 3 or _fine(draw, equation))
        source = draw if near else None
        if self.network is None:
            periodic = [axis for axis, kinds in enumerate(equation.problem.boundary.kinds) if "periodic" in kinds]
            places = find_places(source) if source and self.local and not periodic else []
            size = (self.width, self.depth) if not places else (GLOBAL_WIDTH, 1)
            first = Periodic(box["lower"], box["upper"], periodic, self.periodic_modes) if periodic else None
            lower, upper = box["lower"], box["upper"]
            base = MLP(equation.ndim, channels, *size, self.activation, lower, upper, self.seed, embedding=first)
            net: Trial = base
            if places:
                return composed(places, base, LOCAL_WIDTH, self.activation, self.seed).to(equation.lower.device)
        else:
            config: dict[str, Any] = {"class_path": self.network} if isinstance(self.network, str) else {**self.network}
            accepted = inspect.signature(resolve_class(config["class_path"])).parameters
            facts = {"ndim": equation.ndim, "channels": channels, **box, "seed": self.seed}
            given = {name: value for name, value in facts.items() if name in accepted}
            net = build({**config, "init_args": given | dict(config.get("init_args") or {})}, Trial)
        if source:
            localise(net, source, generator(case_seed(self.seed, 0, "pinn weights")))
        if self.growth.rounds:
            if "periodic" in {kind for pair in equation.problem.boundary.kinds for kind in pair}:
                raise UsageError("growth adds networks that are not periodic; leave it out where an axis is periodic.")
            net = net if isinstance(net, Sum) else Sum([net])
        return net.to(equation.lower.device)

    def _weak(self, equation: Equation, trial: Trial, draw: SourceDraw, scale: float) -> list[ParameterRows]:
        """Rows of low modes, where the source is fine enough to hide them from the residual."""
        modes = self.weak_modes
        if modes is None:
            kinds = {kind for pair in equation.problem.boundary.kinds for kind in pair}
            walls = not kinds & {"free", "periodic"}
            modes = MODES.get(equation.ndim, 0) if _fine(draw, equation) and walls else 0
        if not modes or not self.weak_weight:
            return []
        shape = [modes] * equation.ndim, [RESOLUTION[equation.ndim](modes)] * equation.ndim
        return [WeakRows(trial, equation, *shape, scale, self.weak_weight)]

    def _sampler(self, equation: Equation) -> Sampler:
        if self.sampler is not None:
            config = dict(self.sampler) if isinstance(self.sampler, Mapping) else self.sampler
            return build(config, Sampler)  # type: ignore[type-abstract]
        if equation.ndim > 3:
            return Tempered()
        return Oracle(cells=CELLS[equation.ndim])

    def _impose(
        self, equation: Equation, net: Trial, draw: SourceDraw | None = None
    ) -> tuple[Trial, list[ParameterRows]]:
        """The trial function that satisfies what can be imposed, and the rows of the other conditions."""
        random = generator(case_seed(self.seed, 0, "pinn boundary"))
        facts = self.boundary, self.boundary_weight, self.boundary_points, random
        return impose(equation, net, *facts, draw, probe=draw is None)

    def _zero(self, trial: Trial) -> Trial:
        """The trial function of the zero network: the lift of the boundary data."""
        start = copy.deepcopy(trial)
        with torch.no_grad():
            for p in start.parameters():
                p.zero_()
        return start

    def _scale(self, equation: Equation, start: Trial, draw: SourceDraw, random: torch.Generator) -> float:
        """Root mean square residual of the zero network in the box, in many dimensions where it is large; 1 where it
        vanishes."""
        x = equation.interior_points(20_000, random) if equation.ndim <= 3 else draw.x
        rms = float(_residual(equation, start, x).square().mean().sqrt())
        return rms if math.isfinite(rms) and rms > 0 else 1.0


class Snapshot:
    """u as it was: a copy of the trial function, as a function of points, (N,) or of several unknowns (N, c)."""

    def __init__(self, trial: Trial) -> None:
        self.trial = copy.deepcopy(trial)

    def __call__(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N ..."]:
        with torch.no_grad():
            return self.trial(x).squeeze(1)


def _fine(draw: SourceDraw, equation: Equation) -> bool:
    """Has the source more than `FINE` half waves along the box?"""
    return float(draw.wavenumber * equation.lengths.max()) > FINE * math.pi


def _residual(equation: Equation, trial: Trial, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
    """√Σ r² of the equation's residuals at points."""
    parts = []
    for piece in x.split(8192):
        sites = Sites(equation.case, piece)
        with torch.no_grad():
            rows = sites.residuals(trial.derivatives(sites.x, sites.request))
        parts.append(rows[0].detach() if len(rows) == 1 else torch.stack([r.detach() for r in rows]).norm(dim=0))
    return torch.cat(parts)


def stages_of(given: str | Config | Sequence[Config | str]) -> list[Stage]:
    """Optimisers in their order: "adam", {"name": "adam", "steps": 1000, "lr": 1e-3}, or a list of those."""
    entries = [given] if isinstance(given, str | Mapping) else list(given)
    stages = []
    for entry in entries:
        if isinstance(entry, str):
            stages.append(Stage(entry))
            continue
        options = dict(entry)
        if "name" not in options:
            raise UsageError(f"An optimiser stage needs a name and takes steps and options beside it; got {options}.")
        stages.append(Stage(options.pop("name"), steps=options.pop("steps", None), options=options))
    if not stages:
        raise UsageError("optimiser is an empty list; name at least one.")
    return stages

"""The deep Ritz method: a network that minimises the energy of a variational problem."""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import ADVICE, Status
from sciops.core.problem import Problem
from sciops.core.random import case_seed
from sciops.core.solver import Budget, View
from sciops.models.hard_boundary import HardBoundary
from sciops.models.mlp import MLP
from sciops.models.trial import Trial
from sciops.numerics.energy_spaces import LegendreSpace
from sciops.numerics.optimisers import EnergyNaturalGradient
from sciops.numerics.preconditioned_energy import EnergyFunctional, conjugate_gradients
from sciops.numerics.variational import EnergyDensity, composite_gauss, first_eigenvalue
from sciops.solvers.collocation import Answer, CollocationSolver, Equation, Function, relative_residual
from sciops.solvers.deep_ritz_energy import RitzEnergy, fields_request
from sciops.solvers.energy_lift import lift_of, refusal
from sciops.solvers.pinn import Snapshot
from sciops.solvers.pinn_rows import State, flat_parameters

NODES = {1: 40, 2: 8, 3: 4}
"""Default panels per axis, five Gauss points each."""
GAUSS = 5
ROWS = 16384
"""Rows of the metric per step where a tensor rule has too many points: (d + 1) for every Sobol point."""
ESTIMATE = {1: 64, 2: 32, 3: 12}
"""Modes per axis of the space in which the error is estimated."""
STEPS = {"natural": 200, "adam": 5000}


class DeepRitz(CollocationSolver):
    """min_θ ∫ L(x, u_θ, ∇u_θ), u_θ = g + m N_θ: boundary values hold exactly, and no penalty biases the minimum.

    natural   θ ← θ − t (G + μI)⁻¹ ∂E/∂θ, G the Hessian of E in function space (`metric: hessian`) or the H¹₀ Gram
              matrix (`h1`), line search on frozen points: Newton's method seen through the network.
    adam      Adam on E, the learning rate decaying to a hundredth: the plain published form.
    Up to three dimensions the integral is a composite Gauss rule, 5 points on each of `panels` per axis, refined by
    half (up to `refinements` times) where E on a second rule disagrees. Beyond, `points` scrambled Sobol points, new
    ones in every step: on fixed random points E has no lower bound for a flexible network.

    width, depth, activation   of the perceptron (20, 3, tanh)
    panels, points             see above (40, 8, 4 panels; 16384/(d + 1) points)
    steps                      200 (natural), 5000 (adam); Budget.maxiter lowers it
    tol                        asked of the error estimate; ends the iteration early only where the slope is rounding
    clock                      wall | cpu: what budget.seconds counts
    Estimate: up to three dimensions the relative L² norm of one Newton correction in a Legendre basis around u_θ;
    beyond, ‖R(u)‖/(λ₁ m ‖u‖), m the least ellipticity seen, and infinite where there is none. UNRESOLVED where it
    exceeds `tol`. Cost per natural step: d + 1 reverse passes, O((d+1) N P min(P, (d+1) N)), P parameters. float64.
    Fails where E is not convex (the Gram matrix cuts negative curvature off), where ∇u has singular points that the
    network smooths, and in high dimensions: the sampling noise of ∂E does not vanish at the minimum, as that of a
    squared residual does, so with fresh points the error stalls; take the strong residual there.
    An energy known to a relative 1e-16 tells u in H¹ to about 1e-8 and no better.
    Reference: E & Yu, Commun. Math. Stat. 6 (2018); Müller & Zeinhofer, ICML 2023 (arXiv 2302.13163).
    """

    needs = frozenset({View.ENERGY, View.BOUNDARY})

    def __init__(
        self,
        optimiser: str = "natural",
        metric: str = "hessian",
        width: int = 20,
        depth: int = 3,
        activation: str = "tanh",
        panels: int | None = None,
        points: int | None = None,
        steps: int | None = None,
        lr: float = 1e-3,
        mu: float = 1e-2,
        refinements: int = 1,
        tol: float = 1e-3,
        clock: str = "wall",
        seed: int = 0,
    ) -> None:
        if optimiser not in STEPS or metric not in ("hessian", "h1"):
            raise UsageError(
                f"DeepRitz takes optimiser natural or adam and metric hessian or h1; got {optimiser}, {metric}."
            )
        if clock not in ("wall", "cpu"):
            raise UsageError(f"clock must be wall or cpu; got '{clock}'.")
        for name, value in (("width", width), ("depth", depth), ("points", points or 1), ("panels", panels or 1)):
            if value < 1:
                raise UsageError(f"DeepRitz {name} must be 1 or more; got {value}.")
        if not (tol > 0 and lr > 0 and mu > 0 and refinements >= 0 and (steps is None or steps >= 0)):
            raise UsageError("DeepRitz needs tol, lr, mu > 0 and refinements, steps ≥ 0.")
        self.optimiser, self.metric, self.width, self.depth, self.activation = (
            optimiser,
            metric,
            width,
            depth,
            activation,
        )
        self.panels, self.points, self.steps, self.lr, self.mu = panels, points, steps, lr, mu
        self.refinements, self.tol, self.clock, self.seed = refinements, tol, clock, seed

    @property
    def name(self) -> str:
        form = " adam" if self.optimiser == "adam" else " h1" if self.metric == "h1" else ""
        return type(self).__name__ + form + (f" width={self.width}" if self.width != 20 else "")

    def ladder(self) -> Sequence["DeepRitz"]:
        rungs = []
        for width in (8, 12, 16, 24):
            rung = copy.copy(self)
            rung.width = width
            rungs.append(rung)
        return (*(rung for rung in rungs if rung.width != self.width), self)

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        return super().refuses(problem, grid) or refusal(problem, grid)

    def solve_case(self, equation: Equation, budget: Budget) -> Answer:
        begun = time.perf_counter()
        fit = _Fit(self, equation, budget, begun)
        if fit.steps == 0:
            return Answer(Snapshot(fit.trial), Status.BUDGET, advice="No step was allowed: raise the budget.")
        if self.optimiser == "adam":
            fit.adam()
        else:
            fit.natural()
        return fit.answer(budget.tol or self.tol)


def trial_of(equation: Equation, net: Trial) -> HardBoundary:
    """g + m N with the Dirichlet data of every face."""
    lift = lift_of(equation)
    if lift is not None and equation.ndim > 6:
        raise UsageError(f"Boundary data that are not zero can be lifted in up to 6 dimensions; got {equation.ndim}.")
    sides = [(face.axis, face.side) for face in equation.faces]
    return HardBoundary(net, equation.lower.tolist(), equation.upper.tolist(), sides, lift)


@dataclass
class _Fit:
    """One case while it is solved."""

    solver: DeepRitz
    equation: Equation
    budget: Budget
    begun: float
    trace: list[tuple[float, Function]] = field(default_factory=list)
    steps: int = 0
    taken: int = 0
    snapshot: int = 1
    ended: str = "ok"
    energy: float = math.nan
    gap: float = math.nan

    def __post_init__(self) -> None:
        s, d = self.solver, self.equation.ndim
        lower, upper = self.equation.lower.tolist(), self.equation.upper.tolist()
        net = MLP(d, 1, s.width, s.depth, s.activation, lower, upper, s.seed).to(self.equation.lower.device)
        self.trial = trial_of(self.equation, net)
        self.steps = STEPS[s.optimiser] if s.steps is None else s.steps
        if self.budget.maxiter is not None:
            self.steps = min(self.steps, self.budget.maxiter)
        self.tensor = d <= 3
        self.clock = time.process_time if s.clock == "cpu" else time.perf_counter
        self.started = self.clock()
        self.panels, self.points = s.panels or NODES.get(d, 1), s.points or ROWS // (d + 1)
        self.sobol = torch.quasirandom.SobolEngine(d, scramble=True, seed=case_seed(s.seed, 0, "deep ritz") % 2**31)

    # ---- points

    def ritz(self) -> RitzEnergy:
        """The energy on the Gauss rule, or on the next Sobol points."""
        if self.tensor:
            return RitzEnergy(self.trial, self._density(*self._gauss(self.panels)), self.solver.metric)
        e = self.equation
        if self.sobol.num_generated > 2**28:
            self.sobol.reset()
        u = self.sobol.draw(self.points, dtype=torch.float64).to(e.lower.device)
        weights = torch.full_like(u[:, 0], float(e.lengths.prod()) / len(u))
        return RitzEnergy(self.trial, self._density(e.lower + u * e.lengths, weights), self.solver.metric)

    def _gauss(self, panels: int) -> tuple[Tensor, Tensor]:
        return composite_gauss(self.equation.lower.tolist(), self.equation.upper.tolist(), panels, GAUSS)

    def _density(self, x: Tensor, weights: Tensor) -> EnergyDensity:
        device = self.equation.lower.device
        return EnergyDensity(self.equation.case, x.to(device), weights.to(device))

    # ---- training

    def late(self) -> bool:
        seconds = self.budget.seconds
        if seconds is not None and self.clock() - self.started > 0.9 * seconds:
            self.ended = "budget"
            return True
        return False

    def note(self) -> None:
        self.taken += 1
        if self.taken >= self.snapshot:
            self.trace.append((time.perf_counter() - self.begun, Snapshot(self.trial)))
            self.snapshot = math.ceil(1.3 * self.taken)

    def natural(self) -> None:
        optimiser = EnergyNaturalGradient(flat_parameters(self.trial), mu=self.solver.mu)
        ritz, refined, stalls, earlier = self.ritz(), 0, 0, math.inf
        while self.taken < self.steps and not self.late():
            step = optimiser.step(ritz)
            ritz._move(optimiser.theta)
            self.energy = step.loss_after
            self.note()
            if step.status == "nonfinite":
                self.ended = "nonfinite"
                return
            small = step.loss_before - step.loss_after <= 1e-14 * abs(step.loss_before)
            stalls = stalls + 1 if step.status == "stalled" or (small and self.tensor) else 0
            if not self.tensor:
                ritz = self.ritz()
                if step.status == "stalled":
                    optimiser.mu = self.solver.mu
                continue
            if stalls >= 3 or (self.taken % 25 == 0 and refined < self.solver.refinements):
                self._compare(optimiser.theta)
                gain, earlier = (0.0 if stalls >= 3 else earlier - self.energy), self.energy
                # The rules differ by more than steps still gain: the network fits the points, not the integral.
                if refined < self.solver.refinements and self.gap > max(0.1 * gain, 1e-14 * abs(self.energy)):
                    self.panels, refined, stalls = math.ceil(1.5 * self.panels), refined + 1, 0
                    ritz, optimiser.mu = self.ritz(), self.solver.mu
                elif stalls >= 3:
                    self.ended = "converged"
                    return
        if self.ended == "ok":
            self.ended = "max_iter"

    def adam(self) -> None:
        parameters = [p for p in self.trial.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(parameters, lr=self.solver.lr)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.01 ** (1 / max(self.steps, 1)))
        ritz, best = self.ritz(), flat_parameters(self.trial)
        while self.taken < self.steps and not self.late():
            optimiser.zero_grad(set_to_none=True)
            E = ritz.value()
            if not bool(torch.isfinite(E)):
                ritz._move(best)
                self.ended = "nonfinite"
                return
            E.backward()
            self.energy = float(E.detach())
            if self.taken % 50 == 0:
                best = flat_parameters(self.trial)
            optimiser.step()
            schedule.step()
            self.note()
            if not self.tensor:
                ritz = self.ritz()
        if self.ended == "ok":
            self.ended = "max_iter"

    def _compare(self, theta: Tensor) -> None:
        """The distance of the energies on this rule and on one with an odd share more panels."""
        fine = RitzEnergy(self.trial, self._density(*self._gauss(math.ceil(1.4 * self.panels) + 1)))
        self.gap = abs(
            fine.energy(theta) - RitzEnergy(self.trial, self._density(*self._gauss(self.panels))).energy(theta)
        )

    # ---- what was found

    def answer(self, tol: float) -> Answer:
        if self.tensor and not math.isfinite(self.gap):
            self._compare(flat_parameters(self.trial))
        x = self.equation.interior_points(2000, torch.Generator().manual_seed(self.solver.seed + 1))
        residual = relative_residual(self.equation, x, State(self.trial, x))
        estimate = self._correction() if self.tensor else self._bound(x)
        status, advice = Status.OK, ""
        if self.ended == "nonfinite":
            status = Status.DIVERGED
            advice = "The energy became infinite or NaN; the answer is the best network before: lower lr or raise mu."
        elif not estimate <= tol:
            asked = self.budget.maxiter
            cut = asked is not None and self.taken >= asked and self.ended == "max_iter"
            status = Status.BUDGET if self.ended == "budget" else Status.MAX_ITER if cut else Status.UNRESOLVED
            if status is not Status.BUDGET:
                advice = (
                    f"The estimated error is {estimate:.1e} after {self.taken} steps: raise steps, width or panels, or "
                    "take EnergyDescent where the box has up to three dimensions."
                )
        return Answer(
            Snapshot(self.trial),
            status,
            residual=residual,
            error_estimate=estimate if math.isfinite(estimate) else None,
            advice=advice or ADVICE[status],
            iterations=self.taken,
            points=self.points if not self.tensor else (GAUSS * self.panels) ** self.equation.ndim,
            trace=self.trace,
            stats={
                "energy": self.energy,
                "quadrature_gap": self.gap,
                "ended": self.ended,
                "parameters": sum(p.numel() for p in self.trial.parameters()),
            },
        )

    def _correction(self) -> float:
        """‖e‖/‖u‖ for D²E(u) e = −DE(u) in a Legendre basis, on CPU: what one step of Newton's method would change."""
        e = self.equation
        space = LegendreSpace(e.lower.tolist(), e.upper.tolist(), ESTIMATE[e.ndim])
        with torch.no_grad():
            points = space.points.to(e.lower.device)
            table = self.trial.derivatives(points, frozenset(fields_request(e.ndim)))
        fields = torch.stack([table[key][:, 0] for key in fields_request(e.ndim)]).detach().cpu()
        functional = EnergyFunctional(e.case.to(device="cpu"), space, fields)
        _, dual, hessian, _ = functional.hessian(torch.zeros(space.shape, dtype=torch.float64))
        move, _ = conjugate_gradients(hessian, dual, space.riesz, 1e-2, 100)
        w = space.weights
        size = float((w * fields[0] ** 2).sum().sqrt())
        found = float((w * space.expand(move)[0] ** 2).sum().sqrt())
        return found / size if size > 0 and math.isfinite(found) else math.inf

    def _bound(self, x: Float[Tensor, "N d"]) -> float:
        """‖R(u)‖/(λ₁ m ‖u‖) on uniform points: D²E ≥ −m Δ where the reaction does not lower it."""
        e, state = self.equation, State(self.trial, x)
        density = self._density(x, torch.ones_like(x[:, 0]))
        _, _, curvature = density.curvatures(torch.stack([state(order) for order in fields_request(e.ndim)]))
        least = float(torch.linalg.eigvalsh(curvature[1:, 1:].permute(2, 0, 1)).min())
        if not least > 0 or bool((curvature[0, 0] < 0).any()):
            return math.inf
        u = state((0,) * e.ndim)
        lam = first_eigenvalue(e.lower.tolist(), e.upper.tolist())
        return float(e.residual(x, state).norm()) / (lam * least * max(float(u.norm()), 1e-300))

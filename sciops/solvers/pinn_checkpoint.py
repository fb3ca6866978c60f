"""Answers from a checkpoint of a physics-informed network: for the case that it was trained on, and no other."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciops.core.config import resolve_class
from sciops.core.errors import UsageError
from sciops.core.linear import Status
from sciops.core.random import generator
from sciops.core.solver import Budget
from sciops.solvers.checkpoint import read_model
from sciops.solvers.collocation import Answer, CollocationSolver, Equation
from sciops.solvers.pinn import PINN, Snapshot
from sciops.solvers.pinn_conditions import points_on
from sciops.solvers.pinn_rows import Sites

KIND = "pinn"
PROBES = 32


def probes(equation: Equation) -> dict[str, Tensor]:
    """What tells one case from another: the box, and the residual of zero and the boundary data at fixed points."""
    random = generator(0)
    x = equation.interior_points(PROBES, random)
    if len(equation.problem.outputs) > 1:
        return _system_probes(equation, x, random)
    still = equation.rows(x, lambda order: torch.zeros_like(x[:, 0])).rhs
    ones = equation.residual(x, lambda order: torch.ones_like(x[:, 0]))  # sees every coefficient
    found = {"lower": equation.lower, "upper": equation.upper, "zero": still, "ones": ones}
    for face in equation.faces:
        found[face.name] = equation.boundary_rows(face, equation.face_points(face, PROBES, random)).rhs
    return {name: value.detach().cpu().double() for name, value in found.items()}


def _system_probes(equation: Equation, x: Tensor, random: torch.Generator) -> dict[str, Tensor]:
    """The same of several equations and unknowns."""
    sites, names = Sites(equation.case, x), [channel.name for channel in equation.problem.outputs]
    found = {"lower": equation.lower, "upper": equation.upper}
    for name, value in (("zero", 0.0), ("ones", 1.0)):
        table = {key: x.new_full((len(x), len(names)), value) for key in sites.request}
        with torch.no_grad():
            found[name] = torch.cat(sites.residuals(table))
    for condition in equation.problem.conditions():
        at = points_on(equation, condition, PROBES, random)
        found[f"{condition.face} of {names[condition.output]}"] = condition.values(equation.case, at[None])[0]
    return {name: value.detach().cpu().double() for name, value in found.items()}


class TrainedPINN(CollocationSolver):
    """u_θ of a checkpoint that `sciops fit` made with `PINNModule`, evaluated; it answers its own case alone.

    checkpoint  best.ckpt or last.ckpt of a run
    threshold   relative residual at held-out points up to which the status is OK

    Another case, box or equation is refused in one sentence: a per-instance network knows nothing of it. The case is
    known by its box, coefficients, forcing and boundary data at fixed points, to relative 1e-6, so another grid of the
    same case is fine.
    """

    periodic = True
    several = True

    def __init__(self, checkpoint: str, threshold: float = 1e-2) -> None:
        self.checkpoint, self.threshold = checkpoint, threshold
        content = read_model(checkpoint)
        self.facts: dict[str, Any] = content["sciops"]
        if self.facts.get("kind") != KIND:
            raise UsageError(f"{checkpoint} holds no physics-informed network; train one with PINNModule.")
        settings = dict(content.get("hyper_parameters") or {})
        settings = {k: v for k, v in settings.items() if not k.startswith("_")}
        _require_known(settings)
        self.inner = PINN(**settings)
        self.weights = {k.removeprefix("trial."): v for k, v in content["state_dict"].items() if k.startswith("trial.")}

    @property
    def name(self) -> str:
        return f"PINN from {Path(self.checkpoint).parent.parent.name or self.checkpoint}"

    def solve_case(self, equation: Equation, budget: Budget) -> Answer:
        begun = time.perf_counter()
        differs = self.difference(equation)
        if differs:
            return Answer(
                lambda p: torch.full_like(p[:, 0], torch.nan),
                Status.FAILED,
                advice=f"{self.checkpoint} answers only the case it was trained on, and this one differs in {differs}; "
                "train on this case, or solve it with PINN.",
            )
        training = self.inner.training(equation)
        training.trial.load_state_dict({k: v.to(equation.lower.device) for k, v in self.weights.items()})
        residual = training.relative_residual()
        u = Snapshot(training.trial)
        status = Status.OK if residual <= self.threshold else Status.UNRESOLVED
        return Answer(u, status, residual=residual, trace=[(time.perf_counter() - begun, u)])

    def difference(self, equation: Equation) -> str:
        """What of the case is not that of the checkpoint; empty where it is the same."""
        mine, theirs = probes(equation), self.facts["probes"]
        for name in dict.fromkeys([*mine, *theirs]):
            if name not in mine or name not in theirs or mine[name].shape != theirs[name].shape:
                return _words(name)
            scale = max(float(theirs[name].abs().max()), 1e-300)
            if not float((mine[name] - theirs[name]).abs().max()) <= 1e-6 * scale:
                return _words(name)
        return ""


def _require_known(settings: Any) -> None:
    """A checkpoint names classes, but must not make us import code that the program has not."""
    if isinstance(settings, str) and settings.count(".") > 1:
        resolve_class(settings, trusted=False)
    for value in settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ():
        _require_known(value)


def _words(name: str) -> str:
    words = {"lower": "its box", "upper": "its box", "zero": "its forcing", "ones": "its coefficients"}
    return words.get(name, f"its boundary data at {name}")

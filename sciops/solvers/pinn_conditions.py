"""What holds on the faces: conditions that a trial function satisfies exactly, rows for the others, gauges."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Condition
from sciops.core.errors import UsageError
from sciops.models.hard_boundary import HardBoundary, Side
from sciops.models.trial import Trial
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn_initialisation import SourceDraw
from sciops.solvers.pinn_lift import Transfinite, negligible, vanishes
from sciops.solvers.pinn_rows import MeanRows, ParameterRows, Sites, ValueRows

GAUGE_LEVELS, GAUGE_NODES = 8, 12
"""Coordinates along each free axis at which a mean is fixed; quadrature nodes along each other axis."""
CHECKS = 256
"""Points per face at which conditions are looked at."""


def impose(
    equation: Equation,
    net: Trial,
    how: str,
    weight: float,
    points: int,
    random: torch.Generator,
    draw: SourceDraw | None = None,
    probe: bool = False,
) -> tuple[Trial, list[ParameterRows]]:
    """The trial function that satisfies what can be imposed, and the rows of the other conditions.

    how      hard | soft | auto, as `PINN` has it
    weight   of the rows, `points` of them per condition
    draw     of the source, which tells how large the solution is
    probe    the network is zero and will not be trained: its lift may be left out where it costs much
    """
    if len(equation.problem.outputs) > 1:
        return _several(equation, net, how, weight, points, random)
    dirichlet = [face for face in equation.faces if face.kind == "dirichlet"]
    zero = vanishes(equation, dirichlet)
    if equation.ndim > 3 and not zero and draw is not None and how != "soft":
        zero = negligible(equation, dirichlet, draw)
    hard = how == "hard" or (how == "auto" and (equation.ndim <= 3 or zero))
    if probe and equation.ndim > 6:
        hard = hard and zero  # the zero function needs no lift
    trial, soft = net, equation.faces
    if hard and dirichlet:
        if equation.ndim > 6 and not zero:
            raise UsageError(
                f"boundary='hard' needs data near zero in more than 6 dimensions; got {equation.ndim}: use soft."
            )
        lift = None if zero else Transfinite(equation, dirichlet)
        sides = [(face.axis, face.side) for face in dirichlet]
        trial = HardBoundary(net, equation.lower.tolist(), equation.upper.tolist(), sides, lift)
        soft = [face for face in equation.faces if face.kind != "dirichlet"]
    rows: list[ParameterRows] = []
    for face in soft:
        x = equation.face_points(face, points, random)
        order, sign = _slope(face.kind, face.axis, face.side, equation.ndim)
        rows.append(ValueRows(trial, x, equation.boundary_rows(face, x).rhs, order, sign, weight=weight))
    return trial, rows


def _several(
    equation: Equation, net: Trial, how: str, weight: float, points: int, random: torch.Generator
) -> tuple[Trial, list[ParameterRows]]:
    """`Problem.conditions()` of several unknowns: Dirichlet data that vanish are imposed on their channel, the others
    become rows with the weights that they carry, and the means of `gauge` outputs rows of their own."""
    problem, case = equation.problem, equation.case
    hard: list[list[Side]] = [[] for _ in problem.outputs]
    soft = []
    for condition in problem.conditions():
        if how != "soft" and condition.kind == "dirichlet" and not _largest(equation, condition):
            hard[condition.output].append((condition.axis, condition.side))
            continue
        if how == "hard" and condition.kind == "dirichlet":
            name = problem.outputs[condition.output].name
            raise UsageError(
                f"boundary='hard' of several unknowns needs data that vanish; {name} does not at {condition.face}: use "
                "auto."
            )
        soft.append(condition)
    trial = net
    if any(hard):
        trial = HardBoundary(net, equation.lower.tolist(), equation.upper.tolist(), hard)
    rows: list[ParameterRows] = []
    for condition in soft:
        x = points_on(equation, condition, points, random)
        order, sign = _slope(condition.kind, condition.axis, condition.side, equation.ndim)
        factor = None if condition.weight is None else condition.weight(x[None])[0].sqrt()
        data = condition.values(case, x[None])[0]
        rows.append(ValueRows(trial, x, data, order, sign, condition.output, weight, factor))
    rows += [MeanRows(trial, _gauge_points(equation), channel, weight) for channel in problem.gauge]
    return trial, rows


def points_on(equation: Equation, condition: Condition, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
    """Uniform random points of the face of a condition; one point where the face is a point."""
    x = equation.interior_points(n if equation.ndim > 1 else 1, random)
    x[:, condition.axis] = (equation.lower, equation.upper)[condition.side][condition.axis]
    return x


@torch.inference_mode(False)  # validation by Lightning forbids the derivatives that sizes are made of
def system_residual(equation: Equation, trial: Trial, x: Float[Tensor, "N d"]) -> float:
    """How far a trial function is from satisfying several equations with their conditions: ε² = ε_Ω² + ε_Γ².

    ε_Ω = ‖R‖/‖T‖ over all equations at the points, T the size of the terms of an equation (`Sites.sizes`), so that it
    has no units and needs no forcing; both as the loss weighs them. ε_Γ is the weighted root mean square mismatch of
    the conditions divided by that of their data, or alone where these vanish: a function that is zero satisfies many
    equations, but not their conditions.
    """
    residual = terms = 0.0
    for piece in x.split(8192):
        sites = Sites(equation.case, piece)
        with torch.no_grad():
            table = trial.derivatives(sites.x, sites.request)
            rows = sites.residuals(table)
        factor = 1.0 if sites.factor is None else sites.factor
        residual += sum(float((factor * r).square().sum()) for r in rows)
        terms += sum(float((factor * size).square().sum()) for size in sites.sizes(table))
    mismatch, data = _mismatch(equation, trial)
    inside = residual / max(terms, torch.finfo(x.dtype).tiny)
    return math.sqrt(inside + mismatch / (data or 1.0))


def _mismatch(equation: Equation, trial: Trial) -> tuple[float, float]:
    """Weighted mean squares of B u − g and of g over the conditions."""
    random, conditions = torch.Generator().manual_seed(0), equation.problem.conditions()
    mismatch = data = 0.0
    for condition in conditions:
        x = points_on(equation, condition, CHECKS, random)
        order, sign = _slope(condition.kind, condition.axis, condition.side, equation.ndim)
        weight = torch.ones_like(x[:, 0]) if condition.weight is None else condition.weight(x[None])[0]
        g = condition.values(equation.case, x[None])[0]
        with torch.no_grad():
            u = sign * trial.derivatives(x, frozenset({order}))[order][:, condition.output].detach()
        mismatch += float((weight * (u - g).square()).mean())
        data += float((weight * g.square()).mean())
    return mismatch, data


def _slope(kind: str, axis: int, side: int, ndim: int) -> tuple[tuple[int, ...], float]:
    """The derivative that a condition is about, and its sign."""
    neumann = kind == "neumann"
    return tuple(int(neumann and j == axis) for j in range(ndim)), -1.0 if neumann and side == 0 else 1.0


def _largest(equation: Equation, condition: Condition) -> float:
    """max |g| at random points of the face."""
    x = points_on(equation, condition, CHECKS, torch.Generator().manual_seed(0))
    return float(condition.values(equation.case, x[None]).abs().max())


def _gauge_points(equation: Equation) -> Float[Tensor, "K Q d"]:
    """For every combination of levels along the free axes a midpoint rule over the other ones."""
    kinds = equation.problem.boundary.kinds
    free = [axis for axis, pair in enumerate(kinds) if pair == ("free", "free")]
    lines = []
    for axis, (low, high) in enumerate(zip(equation.lower.tolist(), equation.upper.tolist(), strict=True)):
        n = GAUGE_LEVELS if axis in free else GAUGE_NODES
        t = torch.linspace(0, 1, n) if axis in free else (torch.arange(n) + 0.5) / n
        lines.append(low + (high - low) * t.to(equation.lower))
    mesh = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1)
    order = [*free, *(axis for axis in range(equation.ndim) if axis not in free), equation.ndim]
    return mesh.permute(order).reshape(GAUGE_LEVELS ** len(free), -1, equation.ndim)

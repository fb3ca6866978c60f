"""Which scattered values a spectrum is read from: rows of the equation, lines of its forcing, boundary data."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.solvers.collocation import Equation
from sciops.solvers.gsmp_fit import Expansion, zero_state
from sciops.solvers.gsmp_lines import Signal

ALONG, ACROSS, PER_FACE = 80, 6, 2
"""Points of a line; parallel lines inside the box; lines of each face (1 where a face is a line)."""


def rows_signal(equation: Equation, x: Float[Tensor, "N 1"], answer: Expansion | None = None) -> Signal:
    """1-D: what the equation and, once there is an answer, the boundary data still miss, seen through the operator.

    The columns of a frequency are its differentiated waves, so a wave that the operator annihilates (a resonance, of
    which f shows nothing) is found from the boundary rows: there it is the cheapest explanation of what is missed.
    """
    state = zero_state(x) if answer is None else answer.state(x)
    rows = equation.rows(x, state)
    terms = {order[0]: c for order, c in rows.terms.items()}
    at, missed = x[:, 0], -rows.apply(state)
    if answer is not None:
        top = 2 * math.pi * max(wave[0] for wave in answer.features.waves) / float(equation.lengths[0])
        size = max(float(c.square().mean().sqrt()) * top**k for k, c in terms.items())
        for face in equation.faces:
            end = equation.face_points(face, 1, torch.Generator())
            side = equation.boundary_rows(face, end)
            extra = {order[0]: size * c for order, c in side.terms.items()}
            terms = {
                k: torch.cat([terms.get(k, torch.zeros_like(at)), extra.get(k, torch.zeros_like(end[:, 0]))])
                for k in {*terms, *extra}
            }
            at = torch.cat([at, end[:, 0]])
            missed = torch.cat([missed, -size * side.apply(answer.state(end))])
    return Signal(float(equation.lower[0]), float(equation.upper[0]), at, missed[:, None], terms)


def line_signal(
    equation: Equation, axis: int, random: torch.Generator, answer: Expansion | None = None
) -> tuple[Signal, int]:
    """2-D and 3-D: f and the boundary data (later: what is missed of them) on parallel lines along an axis.

    All lines share their random abscissae, so that they are columns of targets with the same frequencies. Values
    inside and on the faces are brought to unit size each: where f vanishes, the boundary data speak alone.
    Returns the signal and the number of points that it took.
    """
    d = equation.ndim
    s = equation.interior_points(ALONG, random)[:, axis]

    def along(offsets: Tensor) -> Tensor:
        x = offsets[:, None].repeat(1, ALONG, 1)
        x[..., axis] = s
        return x.reshape(-1, d)

    def unit(values: Sequence[Tensor]) -> Tensor:
        table = torch.cat([v.reshape(-1, ALONG).T for v in values], dim=1)
        size = table.square().mean().sqrt()
        return table / size if float(size) > 0 else table[:, :0]

    x = along(equation.interior_points(ACROSS, random))
    state = zero_state(x) if answer is None else answer.state(x)
    inside = equation.rows(x, state).apply(state)
    sides = []
    for face in equation.faces:
        if face.axis != axis:
            x = along(equation.face_points(face, PER_FACE if d > 2 else 1, random))
            sides.append(equation.boundary_rows(face, x).apply(zero_state(x) if answer is None else answer.state(x)))
    targets = torch.cat([unit([inside]), unit(sides)], dim=1)
    taken = len(inside) + sum(map(len, sides))
    ends = float(equation.lower[axis]), float(equation.upper[axis])
    return Signal(*ends, s, targets, {0: torch.ones_like(s)}), taken

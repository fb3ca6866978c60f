"""How many Chebyshev coefficients per axis a problem asks for: a first guess from its data, then growth."""

import torch

from sciops.numerics.chebyshev import Series, lobatto, profile, resolved_length, tail, to_coefficients
from sciops.solvers.collocation import Equation

LINES = 3
"""Random lines through the box along which the forcing is sampled."""


def first_sizes(equation: Equation, most: int, spare: int = 10) -> list[int]:
    """Per axis, the length of the forcing along random lines and of the boundary data along a line of each face.

    For nonlinear equations half of it, because powers of u make f longer than u.
    """
    return [_first_size(equation, axis, most, spare) for axis in range(equation.ndim)]


def _first_size(equation: Equation, axis: int, most: int, spare: int) -> int:
    random, longest = torch.Generator().manual_seed(2 + axis), 6
    zero = Series(torch.zeros((2,) * equation.ndim, dtype=torch.float64), equation.lower, equation.upper)
    lower, upper = float(equation.lower[axis]), float(equation.upper[axis])
    for face in [*[None] * LINES, *(f for f in equation.faces if f.axis != axis)]:
        base = equation.interior_points(1, random) if face is None else equation.face_points(face, 1, random)
        n, length = 33, 33
        while True:
            x = base.repeat(n, 1)
            x[:, axis] = lobatto(n, lower, upper)
            if face is not None:
                values = equation.boundary_rows(face, x).rhs
            else:
                values = equation.rows(x, None if equation.linear else zero.state(x)).rhs
            length = resolved_length(to_coefficients(values))
            if length < n or n > most:
                break
            n = 2 * n - 1
        # What is not resolved may be rounding of a forcing that is zero: the tails of u will tell.
        if bool((values.abs() > 0).any()):
            longest = max(longest, length if length < n else 33)
    return min(most, round((1.1 if equation.linear else 0.5) * longest) + spare)


def grown_sizes(u: Series, change: float, last: float, most: int) -> list[int] | None:
    """The next sizes, larger where the tail of u is not flat yet; None where every axis is resolved."""
    sizes = list(u.coefficients.shape)
    stagnant = change < 1e-7 and change > 0.1 * last
    unresolved = [
        j
        for j, n in enumerate(sizes)
        if resolved_length(profile(u.coefficients, j)) >= n and not (stagnant or tail(u.coefficients, j) < 1e-13)
    ]
    if not unresolved:
        return None
    for j in unresolved:
        sizes[j] = min(most, max(round(1.5 * sizes[j]), sizes[j] + 8))
    return sizes

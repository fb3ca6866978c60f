"""How well a prediction keeps the boundary conditions of its problem."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus import Stencil
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.metrics.base import Metric, float64_pair, grid_of, mean_square, needs_grid
from sciops.metrics.pointwise import over_truth

# Weights of the three points next to a wall, nearest first; exact for quadratics.
VALUE = {"node": (1.0, 0.0, 0.0), "cell": (15 / 8, -10 / 8, 3 / 8)}
OUTWARD_SLOPE = {"node": (1.5, -2.0, 0.5), "cell": (2.0, -3.0, 1.0)}


@dataclass(frozen=True)
class BoundaryViolation(Metric):
    """RMS of the boundary-condition violation on each face that has a condition over RMS(y), mean over faces and cases.

    Dirichlet: u − g, the node's value, or extrapolated to the wall from three cell centres. Neumann: a ∂u/∂n − g by
    one-sided second-order differences, with the coefficient a of the problem's own flux. `per_case` is
    (n, faces). The truth itself scores a floor of second order in h (third for extrapolated values).
    """

    name: str = "boundary"
    convention: str = "RMS boundary-condition violation per face over RMS of the truth, mean over faces and cases"

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, "n f"]:
        if cases is None:
            raise UsageError(f"Metric {self.name} needs the cases, because they hold the boundary data.")
        p, y = float64_pair(pred, true)
        grid = grid_of(true)
        cases = cases.on(grid).to(dtype=torch.float64)
        p, y = p[:, :, 0], y[:, :, 0]
        size = mean_square(y[:, :, None], grid).mean((1, 2)).sqrt()
        columns = []
        for name, axis, side, kind in cases.problem.boundary.faces():
            if kind == "free":
                continue
            layout = grid.layout[axis]
            if kind == "dirichlet":
                value = at_wall(p, axis, side, VALUE[layout])
            else:
                a = conormal_coefficient(cases, p[:, 0])
                value = at_wall(p, axis, side, OUTWARD_SLOPE[layout]) / grid.spacing[axis]
                value = value * at_wall(a[:, None], axis, side, VALUE[layout])
            if name in cases.boundary:
                value = value - cases.boundary[name].reshape(len(y), 1, *value.shape[2:])
            columns.append(face_rms(value, grid, axis))
        return over_truth(torch.stack(columns, dim=1), size[:, None].expand(-1, len(columns)))

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        if not isinstance(field.domain, Grid):
            return needs_grid(field)
        if cases is None:
            return "needs the cases, which hold the boundary data"
        if len(field.channels) > 1:
            return f"boundary data describe one output channel; the field has {len(field.channels)}"
        faces = [axis for _, axis, _, kind in cases.problem.boundary.faces() if kind != "free"]
        if not faces:
            return "every axis is periodic or free"
        if min(field.domain.shape[axis] for axis in faces) < 3:
            return f"needs 3 points per axis next to a wall, got {field.domain.describe()}"
        return None


def at_wall(u: Float[Tensor, "n t *s"], axis: int, side: int, weights: tuple[float, ...]) -> Float[Tensor, "n t *f"]:
    """Σ_k weights[k] u_k over the points next to a face, nearest first."""
    dim, last = axis + 2, u.shape[axis + 2] - 1
    terms = [w * u.select(dim, k if side == 0 else last - k) for k, w in enumerate(weights) if w]
    return torch.stack(terms).sum(0)


def face_rms(value: Float[Tensor, "n t *f"], grid: Grid, axis: int) -> Float[Tensor, " n"]:
    """RMS over a face with the face's own quadrature weights, and over times."""
    weights = grid.weights(device=value.device).select(axis, 0)
    squares = weights / weights.sum() * value.square()
    return squares.reshape(*value.shape[:2], -1).sum(-1).mean(1).sqrt()


class _FluxProbe(Stencil):
    """Notes the coefficient with which a residual calls its flux."""

    coefficient: Tensor | float = 1.0

    def div_flux(self, a: Float[Tensor, "n *s"] | float, u: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        self.coefficient = a
        return super().div_flux(a, u)


def conormal_coefficient(cases: Cases, u: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
    """a of the flux a ∇u, read off the problem's residual; 1 where it has no flux form."""
    probe = _FluxProbe(cases.domain, cases.problem.boundary, cases.boundary)
    cases.problem.residual(probe, u, cases.values())
    return probe.coefficient * torch.ones_like(u)


METRICS = (BoundaryViolation(),)

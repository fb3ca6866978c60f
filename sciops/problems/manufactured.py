"""Manufactured solutions: the exact u is a formula; forcing and boundary data are derived from it."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import AXES, Boundary
from sciops.core.calculus import Autodiff
from sciops.core.expression import evaluate
from sciops.core.grid import Grid
from sciops.core.random import generator


def draw_parameters(ranges: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> dict[str, Float[Tensor, " n"]]:
    """One uniform draw from [low, high] per parameter and case, from the case's own seed."""
    draws = torch.stack([torch.rand(max(len(ranges), 1), generator=generator(s), dtype=torch.float64) for s in seeds])
    return {name: low + (high - low) * draws[:, j] for j, (name, (low, high)) in enumerate(sorted(ranges.items()))}


def expression_at(expression: str, params: Mapping[str, Tensor], x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
    """The formula in x, y, z and the per-case parameters at the points."""
    variables = dict(zip(AXES, x.unbind(-1), strict=False))
    variables |= {name: value.to(x.dtype)[:, None].expand(x.shape[:2]) for name, value in params.items()}
    return evaluate(expression, variables)


def boundary_data(
    exact: Callable[[Tensor], Tensor],
    grid: Grid,
    boundary: Boundary,
    n: int,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Float[Tensor, "n *face"]]:
    """Dirichlet values and outward normal derivatives of the exact solution on every walled face."""
    data = {}
    for name, axis, side, kind in boundary.faces():
        others = [grid.axis(j, dtype, device) for j in range(grid.ndim) if j != axis]
        wall = torch.full((1,), (grid.lower, grid.upper)[side][axis], dtype=dtype, device=device)
        mesh = torch.meshgrid(*others[:axis], wall, *others[axis:], indexing="ij")
        x = torch.stack(mesh, -1).reshape(1, -1, grid.ndim).expand(n, -1, -1)
        if kind == "dirichlet":
            values = exact(x)
        else:
            d = Autodiff(x)
            values = d.gradient(exact(d.x))[..., axis] * (1.0 if side else -1.0)
        data[name] = values.detach().reshape(n, *(len(axis_points) for axis_points in others))
    return data

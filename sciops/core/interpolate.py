"""Moving values between grids and to points: local Lagrange polynomials and band-limited extension."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary
from sciops.core.errors import UsageError
from sciops.core.grid import Grid

Rule = Literal["nearest", "linear", "cubic", "spectral"]
_POINTS = {"nearest": 1, "linear": 2, "cubic": 4}


def _stencil_1d(grid: Grid, axis: int, x: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """Indices (…, p) and Lagrange weights (…, p) that interpolate from one grid axis to coordinates x."""
    p = min(_POINTS[rule], grid.shape[axis])
    n, h = grid.shape[axis], grid.spacing[axis]
    shift = 0.5 if grid.layout[axis] == "cell" else 0.0
    position = (x - grid.lower[axis]) / h - shift
    # Points of the source grid must be hit exactly, whatever rounding did to the coordinates.
    nearest = position.detach().round()
    position = torch.where((position.detach() - nearest).abs() < 1e-9, position - position.detach() + nearest, position)
    base = torch.floor(position.detach() + (0.5 if p % 2 else 0.0)).long() - (p - 1) // 2
    if grid.layout[axis] != "periodic":
        base = base.clamp(0, n - p)
    node = base[..., None] + torch.arange(p, device=x.device)
    s = position[..., None] - node
    weights = []
    for i in range(p):
        w = torch.ones_like(position)
        for j in range(p):
            if i != j:
                w = w * s[..., j] / (i - j)
        weights.append(w)
    return node.remainder(n), torch.stack(weights, dim=-1)


def interpolate(
    values: Float[Tensor, "n c *s"], grid: Grid, x: Float[Tensor, "m N d"], rule: Rule = "cubic"
) -> Float[Tensor, "n c N"]:
    """Tensor-product Lagrange interpolation at points x; m is n (points per case) or 1 (shared points).

    Differentiable in x. Order of accuracy: nearest 1, linear 2, cubic 4; one-sided next to walls.
    """
    n, c = values.shape[:2]
    x = x.expand(n, -1, -1) if x.shape[0] != n else x
    flat = values.flatten(2)
    index = torch.zeros((*x.shape[:2], 1), dtype=torch.long, device=x.device)
    weight = x.new_ones((*x.shape[:2], 1))
    for axis, size in enumerate(grid.shape):
        node, w = _stencil_1d(grid, axis, x[..., axis], rule)
        index = (index[..., :, None] * size + node[..., None, :]).flatten(2)
        weight = (weight[..., :, None] * w[..., None, :]).flatten(2)
    gathered = flat.gather(2, index.flatten(1)[:, None].expand(n, c, -1)).reshape(n, c, *index.shape[1:])
    return (gathered * weight[:, None].to(values.dtype)).sum(-1)


def resample(
    values: Float[Tensor, "n c *s"],
    source: Grid,
    target: Grid,
    rule: Rule = "cubic",
    boundary: Boundary | None = None,
) -> Float[Tensor, "n c *r"]:
    """Move values from one grid to another on the same box, one axis at a time.

    `spectral` evaluates the band-limited function that the values represent (Fourier on periodic axes,
    sine for Dirichlet, cosine for Neumann: `boundary` is required there); periodic axes always use it
    unless the rule is nearest or linear.
    """
    if source == target:
        return values
    if not source.same_box(target):
        raise UsageError(
            f"Cannot resample from {source.describe()} on {source.lower}–{source.upper} to {target.describe()} "
            f"on {target.lower}–{target.upper}: the boxes or their periodic axes differ."
        )
    for axis in range(source.ndim):
        x = target.axis(axis, torch.float64, values.device)
        if source.shape[axis] == target.shape[axis] and source.layout[axis] == target.layout[axis]:
            continue
        if rule == "spectral" or (rule == "cubic" and source.layout[axis] == "periodic"):
            matrix = _spectral_matrix(source, axis, x, boundary)
        else:
            node, weight = _stencil_1d(source, axis, x, rule)
            matrix = weight.new_zeros((len(x), source.shape[axis])).scatter_add_(1, node, weight)
        matrix = matrix.to(values.dtype)
        values = torch.movedim(torch.movedim(values, 2 + axis, -1) @ matrix.T, -1, 2 + axis)
    return values


def _spectral_matrix(grid: Grid, axis: int, x: Tensor, boundary: Boundary | None) -> Tensor:
    """Dense evaluation matrix (len(x), n) of the band-limited interpolant along one axis, in float64."""
    n, length = grid.shape[axis], grid.lengths[axis]
    own = grid.axis(axis, torch.float64, x.device)
    if grid.layout[axis] == "periodic":
        # Dirichlet kernel of the n-point trigonometric interpolant; the Nyquist cosine is halved for even n.
        theta = 2 * torch.pi * (x[:, None] - own[None, :]) / length
        k = torch.arange(1, (n + 1) // 2, device=x.device, dtype=x.dtype)
        kernel = 1 + 2 * torch.cos(theta[..., None] * k).sum(-1)
        if n % 2 == 0:
            kernel = kernel + torch.cos(theta * (n // 2))
        return kernel / n
    if boundary is None:
        raise UsageError("Spectral resampling of a node or cell axis needs the boundary condition.")
    lo, up = boundary.kinds[axis]
    if lo != up:
        raise UsageError("Spectral resampling needs the same boundary kind at both ends of an axis.")
    start = grid.lower[axis]
    if lo == "dirichlet":
        k = torch.arange(1, n - 1 if grid.layout[axis] == "node" else n + 1, device=x.device, dtype=x.dtype)
        basis = [torch.sin(torch.pi * (p - start)[:, None] * k / length) for p in (own, x)]
    else:
        k = torch.arange(n, device=x.device, dtype=x.dtype)
        basis = [torch.cos(torch.pi * (p - start)[:, None] * k / length) for p in (own, x)]
    return basis[1] @ torch.linalg.pinv(basis[0])

"""Test systems built edge by edge, independently of Problem.system."""

import math

import torch
from torch import Tensor

from sciops.core.grid import Grid
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.random_fields import gaussian_field


def node_dirichlet(a: Tensor, spacing: float) -> StencilOperator:
    """−∇·(a∇u) on interior nodes, u = 0 on the boundary, arithmetic face averages of nodal a (n, *points)."""
    ndim, points = a.dim() - 1, a.shape[1:]
    stencil = a.new_zeros((a.shape[0], 3**ndim, *(m - 2 for m in points)))
    centre = 3**ndim // 2

    def inner(axis: int, offset: int) -> Tensor:
        moved = [offset if k == axis else 0 for k in range(ndim)]
        return a[(slice(None), *(slice(1 + o, m - 1 + o) for o, m in zip(moved, points, strict=True)))]

    for axis in range(ndim):
        for offset in (-1, 1):
            face = (inner(axis, 0) + inner(axis, offset)) / 2 / spacing**2
            stencil[:, centre] += face
            face.select(axis + 1, 0 if offset < 0 else -1).zero_()
            stencil[:, centre + offset * 3 ** (ndim - 1 - axis)] -= face
    return StencilOperator(stencil, (False,) * ndim)


def graph_laplacian(shape: tuple[int, ...], kind: str, roughness: float, seed: int, n: int = 2) -> StencilOperator:
    """Random positive edge weights exp(roughness·N(0,1)); kind dirichlet adds links to a zero boundary."""
    ndim = len(shape)
    noise = torch.Generator().manual_seed(seed)
    stencil = torch.zeros((n, 3**ndim, *shape), dtype=torch.float64)
    centre = 3**ndim // 2
    for axis in range(ndim):
        weight = torch.exp(roughness * torch.randn((n, *shape), generator=noise, dtype=torch.float64))
        if kind == "dirichlet":
            for end in (0, -1):
                stencil[:, centre].select(axis + 1, end).add_(weight.select(axis + 1, end))
        if kind != "periodic":
            weight.select(axis + 1, -1).zero_()
        before = weight.roll(1, axis + 1)
        step = 3 ** (ndim - 1 - axis)
        stencil[:, centre + step] -= weight
        stencil[:, centre - step] -= before
        stencil[:, centre] += weight + before
    nullspace = None if kind == "dirichlet" else "constant"
    return StencilOperator(stencil, (kind == "periodic",) * ndim, nullspace=nullspace)


def coefficient(family: str, points: int, n: int = 2, ndim: int = 2) -> Tensor:
    """Published coefficient laws at the nodes of the unit box: (n, *points)."""
    grid = Grid.box(points, ndim=ndim)
    seeds = list(range(n))
    if family == "poisson":
        return torch.ones((1, *grid.shape), dtype=torch.float64)
    if family == "trigonometric":
        noise = torch.Generator().manual_seed(0)
        x, y = grid.mesh()
        a = torch.ones((n, *grid.shape), dtype=torch.float64)
        for k in range(6):
            w = (2.0**k * (1 + 0.5 * torch.rand(n, generator=noise, dtype=torch.float64))).reshape(-1, 1, 1)
            a = a * (1 + 0.5 * torch.cos(w * math.pi * (x + y))) * (1 + 0.5 * torch.sin(w * math.pi * (y - 3 * x)))
        return a
    low, high, tau = {"smooth": (3.0, 12.0, 3.0), "rough": (2.0, 12.0, 5.0), "two_phase": (1.0, 1e4, 5.0)}[family]
    g = gaussian_field(seeds, grid, "cosine", tau=tau, alpha=2.0, modes=128 if ndim < 3 else 32)
    return torch.where(g >= 0, g.new_tensor(high), g.new_tensor(low))

"""Objects with the interface of an artefact that need no compiled package: the same mathematics, run by torch."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch

from sciops.core.stencil_operator import offsets
from sciops.numerics.differentiable_multigrid import DifferentiableHierarchy


def stencil(matrix: np.ndarray) -> torch.Tensor:
    """(1, 3^d, *shape) from the diagonal and the coupling along each axis, scaled to a largest diagonal of one."""
    ndim, space = len(matrix) - 1, matrix.shape[1:]
    table = offsets(ndim)
    out = np.zeros((len(table), *space))
    out[len(table) // 2] = matrix[0]
    for axis in range(ndim):
        up = tuple(int(a == axis) for a in range(ndim))
        out[table.index(up)] = -matrix[1 + axis]
        lower = np.roll(matrix[1 + axis], 1, axis)
        lower[tuple(0 if a == axis else slice(None) for a in range(ndim))] = 0.0
        out[table.index(tuple(-u for u in up))] = -lower
    return torch.from_numpy(out / matrix[0].max())[None]


class StandIn:
    """`linear`: one multigrid cycle in float32; else a nonlinear distortion of it."""

    def __init__(self, linear: bool = True, ndim: int = 2, broken: bool = False) -> None:
        self.manifest = SimpleNamespace(
            name="stand-in", kind="multigrid" if linear else "direction", linear=linear, symmetric=linear,
            positive=linear, ndim=ndim,
        )  # fmt: skip
        self.broken = broken

    def preconditioner(self, matrix: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        scale = matrix[0].max()
        hierarchy = DifferentiableHierarchy(stencil(matrix).float(), None)

        def apply(r: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                z = hierarchy(torch.from_numpy(np.asarray(r, np.float64)).float()[None] / scale)[0].double()
            if not self.manifest.linear:
                # A bounded distortion that depends on r: no symmetric matrix does this.
                z = z * (1.0 + 0.5 * torch.sin(40.0 * z / z.abs().max().clamp(min=1e-300)))
            if self.broken:
                z[(0,) * z.dim()] = torch.nan
            return z.numpy()

        return apply

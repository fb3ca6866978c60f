"""The host's part of an exported multigrid: the recursion over levels around the three compiled programs of one."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.stencil_operator import offsets
from sciops.numerics.differentiable_multigrid import dense_factor, from_blocks, to_blocks
from sciops.numerics.galerkin import cut_at_box

Run = Callable[[str, list[Tensor]], list[Tensor]]
"""(entry, its arguments in order) → its outputs in order."""


def stencil_from_faces(matrix: Float[Tensor, "m *s"]) -> Float[Tensor, "1 k *s"]:
    """(1 + d, *space), the diagonal and per axis the coupling c = −A[i, i + e] ≥ 0 → stencil (1, 3^d, *space), cut at
    the box. UsageError for values that no such matrix has."""
    ndim = matrix.dim() - 1
    if matrix.shape[0] != 1 + ndim:
        raise UsageError(
            f"A matrix of {ndim} axes has {1 + ndim} arrays, diagonal and a coupling per axis; got {matrix.shape[0]}."
        )
    if not bool(torch.isfinite(matrix).all()):
        raise UsageError("The matrix has entries that are not finite; give finite ones.")
    if bool((matrix < 0).any()):
        raise UsageError(
            "The matrix has a negative diagonal, or couplings c = −A[i, i + e] below zero; give the positive definite "
            "one of A and −A."
        )
    table, centre = offsets(ndim), (0,) * ndim
    stencil = matrix.new_zeros((1, 3**ndim, *matrix.shape[1:]))
    stencil[:, table.index(centre)] = matrix[0]
    for axis in range(ndim):
        ahead = tuple(int(a == axis) for a in range(ndim))
        stencil[:, table.index(ahead)] = -matrix[1 + axis]
        behind = stencil[:, table.index(tuple(-o for o in ahead))]
        n = matrix.shape[1 + axis]
        behind.narrow(1 + axis, 1, n - 1).copy_(-matrix[1 + axis].narrow(axis, 0, n - 1)[None])
    cut_at_box(stencil.transpose(0, 1), table, (False,) * ndim)
    return stencil


class Cycle:
    """z = B r for one system, B as in `DifferentiableMultigrid` with the advice compiled into the programs.

    Set-up divides the matrix by its largest entry and the cycle every r by its own, so that float32 sees numbers of
    size one. `facts` is the entry "multigrid" of a manifest, `names` its entry "entries".
    """

    def __init__(
        self,
        run: Run,
        facts: dict[str, Any],
        names: dict[str, dict[str, list[str]]],
        stencil: Float[Tensor, "1 k *s"],
        dtype: torch.dtype,
    ) -> None:
        self.run, self.facts, self.names, self.dtype = run, facts, names, dtype
        self.ndim, self.space = stencil.dim() - 2, tuple(stencil.shape[2:])
        table = [tuple(o) for o in offsets(self.ndim)]
        stencil = stencil.clone()
        cut_at_box(stencil.transpose(0, 1), offsets(self.ndim), (False,) * self.ndim)
        diagonal = stencil[:, table.index((0,) * self.ndim)]
        self.top = float(diagonal.max())
        if not self.top > 0:
            raise UsageError("The matrix has no positive diagonal entry, so nothing is unknown; check its sign.")
        self.active = diagonal > 0
        stencil = (stencil / self.top).to(dtype)
        self.levels: list[tuple[dict[str, Any], dict[str, Tensor], tuple[int, ...]]] = []
        while prod(stencil.shape[2:]) > facts["coarsest"] and max(stencil.shape[2:]) > 2:
            # The finest level may have programs of its own, for the few couplings that its matrix has.
            programs = facts["levels"][min(len(self.levels), len(facts["levels"]) - 1)]
            kept = [table.index(tuple(o)) for o in programs["offsets"]]
            held = {"stencil": to_blocks(stencil[:, kept], self.ndim).contiguous()}
            held |= self._call(programs["setup"], held)
            self.levels.append((programs, held, tuple(stencil.shape[2:])))
            stencil = held.pop("coarse")
        self.root, self.factor = dense_factor(stencil)

    def __call__(self, r: Float[Tensor, "1 *s"]) -> Float[Tensor, "1 *s"]:
        r = torch.where(self.active, r, 0.0)
        size = r.abs().max()
        if not bool(size > 0):
            return r
        z = self._descend(0, (r / size).to(self.dtype)).to(r.dtype)
        return torch.where(self.active, z * (size / self.top), 0.0)

    def _call(self, entry: str, held: dict[str, Tensor]) -> dict[str, Tensor]:
        names = self.names[entry]
        found = self.run(entry, [held[name] for name in names["inputs"]])
        return dict(zip(names["outputs"], found, strict=True))

    def _descend(self, depth: int, r: Tensor) -> Tensor:
        if depth == len(self.levels):
            scaled = (r.flatten(1) * self.root)[:, :, None]
            return (torch.cholesky_solve(scaled, self.factor)[:, :, 0] * self.root).reshape(r.shape)
        programs, held, space = self.levels[depth]
        b = to_blocks(r, self.ndim).contiguous()
        down = self._call(programs["down"], held | {"b": b})
        e = self._descend(depth + 1, down["coarse"])
        return from_blocks(self._call(programs["up"], held | {"x": down["x"], "b": b, "e": e.contiguous()})["x"], space)

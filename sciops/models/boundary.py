"""Boundary conditions of networks: names per axis, ghost layers, and Dirichlet values that hold exactly."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError

KINDS = ("dirichlet", "neumann", "periodic")
LAYOUTS = ("node", "cell", "interior")
ZEROS, REFLECT, REPLICATE, CIRCULAR = "zeros", "reflect", "replicate", "circular"


def per_axis(bc: str | Sequence[str], ndim: int, layout: str = "node") -> tuple[str, ...]:
    """One boundary condition per grid axis, checked."""
    kinds = (bc,) * ndim if isinstance(bc, str) else tuple(bc)
    if ndim not in (1, 2, 3):
        raise UsageError(f"ndim must be 1, 2 or 3; got {ndim}.")
    if len(kinds) != ndim or not set(kinds) <= set(KINDS):
        raise UsageError(f"bc takes one of {', '.join(KINDS)}, or one per axis ({ndim}); got {bc!r}.")
    if layout not in LAYOUTS:
        raise UsageError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}.")
    if layout == "interior" and set(kinds) != {"dirichlet"}:
        raise UsageError(f"layout 'interior' leaves out Dirichlet end points, but bc is {bc!r}; use 'node' or 'cell'.")
    return kinds


def ghost_mode(kind: str, layout: str = "node") -> str:
    """Ghost values of a condition: zero, mirrored about the boundary node (or cell face), or wrapped."""
    mirror = REPLICATE if layout == "cell" else REFLECT
    return {"dirichlet": ZEROS, "neumann": mirror, "periodic": CIRCULAR}[kind]


def add_ghosts(x: Float[Tensor, "n c *s"], axis: int, low: int, high: int, mode: str) -> Float[Tensor, "n c *t"]:
    """x with `low` and `high` ghost layers along one axis; concatenation keeps the memory format of x."""
    n = x.shape[axis]
    if mode == CIRCULAR:
        parts = [x.narrow(axis, n - low, low), x, x.narrow(axis, 0, high)]
    elif mode == REFLECT:
        parts = [x.narrow(axis, 1, low).flip(axis), x, x.narrow(axis, n - 1 - high, high).flip(axis)]
    elif mode == REPLICATE:
        parts = [x.narrow(axis, 0, 1)] * low + [x] + [x.narrow(axis, n - 1, 1)] * high
    else:
        parts = [torch.zeros_like(x.narrow(axis, 0, 1))] * low + [x]
        parts += [torch.zeros_like(x.narrow(axis, 0, 1))] * high
    return torch.cat(parts, dim=axis)


def enforce_dirichlet(
    u: Float[Tensor, "n c *s"], bc: Sequence[str], layout: str = "node", value: float = 0.0
) -> Float[Tensor, "n c *s"]:
    """u = value on every Dirichlet face, exactly; no gradient flows through a prescribed value.

    Node layout: the face values are replaced. Cell and interior layouts store no boundary value:
    u ← value + φ·(u − value) with φ = Π 4s(1−s) over the Dirichlet axes, s ∈ (0,1) the coordinate: a smooth
    distance that vanishes on the true boundary.
    """
    for axis, kind in enumerate(bc, start=2):
        if kind != "dirichlet":
            continue
        n = u.shape[axis]
        if layout == "node":
            face = torch.full_like(u.narrow(axis, 0, 1), value)
            u = torch.cat([face, u.narrow(axis, 1, n - 2), face], dim=axis)
        else:
            index = torch.arange(n, device=u.device, dtype=u.dtype)
            s = (index + 0.5) / n if layout == "cell" else (index + 1) / (n + 1)
            phi = (4 * s * (1 - s)).view([n if a == axis else 1 for a in range(u.ndim)])
            u = value + phi * (u - value)
    return u

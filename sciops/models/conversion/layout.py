"""Which axes of a tensor are space, how many points they have at the native size, and where finer points lie."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from sciops.core.errors import UsageError

Kind = Literal["periodic", "vertex", "cell"]


class ConversionError(UsageError):
    """A network, or a call of it, that has no meaning as an operator: module path, operation, reason, remedy."""


@dataclass(frozen=True)
class Space:
    """One spatial axis of a tensor: `axis` of the domain, `n` native points at this level of the network, `period`
    native points after which values repeat (periodic grids; n itself unless the tensor is padded). `nodal`: a dense
    layer made the values at native points, they are linear between them."""

    axis: int
    n: int
    period: int | None = None
    nodal: bool = False


@dataclass(frozen=True)
class Tokens:
    """Several spatial axes flattened into one, after `extra` tokens that are no points (class token, registers).
    `summed`: the values along it are weights of a mean, they add up to one."""

    factors: tuple[Space, ...]
    extra: int = 0
    summed: bool = False


@dataclass(frozen=True)
class Mixed:
    """Channels and spatial axes flattened into one, in this order: what a dense head reads."""

    factors: tuple[int | Space, ...]


@dataclass(frozen=True)
class Rows:
    """`count` native rows of an axis from row `start` on, cut out by number: a network that pads by hand joins them to
    the field. `of`: the field; `blank`: zeros in place of its values."""

    space: Space
    start: int
    count: int
    of: Tensor = field(compare=False, repr=False)
    flipped: bool = False
    blank: bool = False


Axis = Space | Tokens | Mixed | Rows | None
Layout = tuple[Axis, ...]
"""One entry per axis of a tensor; None for axes that are not space (cases, channels)."""


@dataclass(frozen=True)
class Refinement:
    """s times the native points along each axis of the domain, on periodic, vertex or cell grids.

    A level with n native points has s·n points (periodic, cell) or s (n − 1) + 1 (vertex). Native point i is fine point
    s·i + origin; the origin is (s − 1)/2 on cells, whose s is odd, else 0.
    """

    scale: tuple[int, ...]
    kind: tuple[Kind, ...]

    def fine(self, space: Space) -> int:
        s = self.scale[space.axis]
        return s * (space.n - 1) + 1 if self.kind[space.axis] == "vertex" else s * space.n

    def origin(self, axis: int) -> int:
        return (self.scale[axis] - 1) // 2 if self.kind[axis] == "cell" else 0

    def size(self, axis: Axis) -> int | None:
        """Length of an axis of a tensor; None where it is not space."""
        if isinstance(axis, Space):
            return self.fine(axis)
        if isinstance(axis, Tokens):
            return axis.extra + _product(self.fine(f) for f in axis.factors)
        if isinstance(axis, Mixed):
            return _product(f if isinstance(f, int) else self.fine(f) for f in axis.factors)
        return axis.count if isinstance(axis, Rows) else None

    def split(self, x: Tensor, dims: Sequence[int], spaces: Sequence[Space], fill: float | None) -> Tensor:
        """(*lead, n₁, …, n_d, s₁, …, s_d): every phase of the fine grid as a field of native size.

        The last dims of x are these axes. The phases of a vertex axis reach beyond its wall by less than a native
        spacing: `fill` is put there, None repeats the last value.
        """
        lead = x.dim() - len(dims)
        shape: list[int] = list(x.shape[:lead])
        for j, space in enumerate(spaces):
            s = self.scale[space.axis]
            if self.kind[space.axis] == "vertex" and s > 1:
                x = _extended(x, lead + j, s - 1, fill)
            shape += [space.n, s]
        d = len(spaces)
        order = [*range(lead), *(lead + 2 * j for j in range(d)), *(lead + 2 * j + 1 for j in range(d))]
        return x.reshape(shape).permute(order)

    def join(self, phases: Tensor, spaces: Sequence[Space]) -> Tensor:
        """The inverse of `split`: (*lead, n₁, …, n_d, s₁, …, s_d) to the fine grid."""
        d = len(spaces)
        lead = phases.dim() - 2 * d
        order = [*range(lead), *(k for j in range(d) for k in (lead + j, lead + d + j))]
        x = phases.permute(order).reshape([*phases.shape[:lead], *(s.n * self.scale[s.axis] for s in spaces)])
        for j, space in enumerate(spaces):
            x = x.narrow(lead + j, 0, self.fine(space))
        return x.contiguous()


def _extended(x: Tensor, dim: int, count: int, fill: float | None) -> Tensor:
    shape = list(x.shape)
    shape[dim] = count
    if fill is None:
        tail = x.narrow(dim, x.shape[dim] - 1, 1).expand(shape)
    else:
        tail = torch.full(shape, fill, dtype=x.dtype, device=x.device)
    return torch.cat([x, tail], dim)


def resized(space: Space, n: int, factor: tuple[int, int] = (1, 1)) -> Space:
    """The axis with n native points after its spacing became factor[0]/factor[1] times as wide."""
    period = None
    if space.period is not None and space.period * factor[1] % factor[0] == 0:
        period = space.period * factor[1] // factor[0]
    return replace(space, n=n, period=period, nodal=False)


def described(layout: Sequence[Axis]) -> str:
    """Native lengths of the axes of space, in words."""
    said = []
    for axis in layout:
        if isinstance(axis, Space):
            said.append(str(axis.n))
        elif isinstance(axis, Tokens | Mixed):
            lengths = [str(f if isinstance(f, int) else f.n) for f in axis.factors]
            said.append("·".join(lengths) + (f" + {axis.extra}" if isinstance(axis, Tokens) and axis.extra else ""))
        elif isinstance(axis, Rows):
            said.append(f"{axis.count} rows")
    return "(" + ", ".join(said) + ")"


def _product(values: object) -> int:
    result = 1
    for value in values:  # type: ignore[attr-defined]
        result *= value
    return result

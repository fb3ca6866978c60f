"""What the operators of this folder share: the box, and lattices of fixed physical spacing on it."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Domain, Grid


class Operator(nn.Module):
    """A network from functions on a box to functions on it; `native` is the grid whose spacing sets physical widths.

    forward(x, domain=None): without a domain, x lives on the native box and layouts at its own number of points, so
    that an operator is called as any other network, model(x), at every resolution. `native` may be a table of shape,
    lower, upper and layout, as a configuration file has it.
    """

    def __init__(self, native: Grid | Mapping[str, Any]):
        super().__init__()
        self.native = native if isinstance(native, Grid) else _grid(native)

    def on(self, x: Tensor, domain: Domain | None) -> Domain:
        """The domain of x, checked."""
        if domain is None:
            if x.dim() - 2 != self.native.ndim:
                raise UsageError(
                    f"A field with {x.dim() - 2} grid axes came to an operator on {self.native.describe()}: pass its "
                    "domain, or fields (cases, channels, *grid) with that number of axes."
                )
            return self.native.resized(tuple(x.shape[2:]))
        if isinstance(domain, Grid) and not domain.same_box(self.native):
            raise UsageError(
                f"The grid {domain.describe()} on {domain.lower}–{domain.upper} is not on the box of the operator, "
                f"{self.native.lower}–{self.native.upper}, or wraps on other axes."
            )
        return domain

    def grid_of(self, x: Tensor, domain: Domain | None) -> Grid:
        """As `on`, for operators with kernels that need a grid."""
        found = self.on(x, domain)
        if not isinstance(found, Grid):
            raise UsageError(f"{type(self).__name__} needs a grid; for scattered points use OFormer with n_modes=0.")
        return found


def _grid(table: Mapping[str, Any]) -> Grid:
    names = ("shape", "lower", "upper", "layout")
    if set(table) != set(names):
        raise UsageError(f"native is a Grid or a table of {', '.join(names)}; got {dict(table)}.")
    return Grid(*(tuple(table[name]) for name in names))


def lattice_of(native: Grid, spacings: int) -> Grid:
    """About `spacings` native spacings per point, two points or more; walled axes get cell centres."""
    cells = [n - 1 if kind == "node" else n for n, kind in zip(native.shape, native.layout, strict=True)]
    shape = tuple(max(math.ceil(n / spacings), 2) for n in cells)
    kinds = tuple("periodic" if kind == "periodic" else "cell" for kind in native.layout)
    return Grid(shape, native.lower, native.upper, kinds)

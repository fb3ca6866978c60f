"""Derivatives that were computed together with the function: the calculus of networks that propagate them forward."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus.base import Calculus
from sciops.core.calculus.jet import Order
from sciops.core.errors import UsageError

if TYPE_CHECKING:
    from sciops.core.cases import Cases
    from sciops.core.problem import Problem

Key = Order | str
"""A derivative: one order per axis, (2, 0) is u_xx, or `LAPLACIAN` for the collapsed sum Δu."""

LAPLACIAN = "laplacian"

Request = frozenset[Key]
"""The derivatives that a residual reads, u itself included."""

Table = Mapping[Key, Float[Tensor, "n N"]]
"""The derivatives of one unknown at the points."""


class Forward(Calculus):
    """Hands out derivatives that a network made in one forward pass; `u` is one tensor, or a tuple of several unknowns.

    Expressions e of them are differentiated totally, D_j e = ∂e/∂x_j + Σ_α (∂e/∂u_α) u_{α+e_j}, by a reverse pass
    that ends at the given derivatives. `x` must not be what the network was evaluated at with gradients: `d.x` carries
    the explicit dependence of coefficients on the points alone. Derivatives that came without gradients (frozen
    networks, `no_grad`) become leaves, so that residuals mean the same there; read them by `evaluate`.
    Fails with UsageError where the residual asks for a derivative that was not requested (see `request_of`), or
    differentiates an expression while gradients are disabled.
    """

    def __init__(self, x: Float[Tensor, "n N d"], unknowns: Sequence[Table]) -> None:
        self.x = x if x.requires_grad and x.is_leaf else x.detach().clone().requires_grad_(True)
        self.unknowns: list[dict[Key, Tensor]] = [
            {key: v if v.requires_grad else v.detach().requires_grad_(True) for key, v in table.items()}
            for table in unknowns
        ]
        self.explicit = False  # whether a coefficient was differentiated in x

    @property
    def ndim(self) -> int:
        return self.x.shape[-1]

    @property
    def u(self) -> Any:
        values = tuple(self._known(j, (0,) * self.ndim) for j in range(len(self.unknowns)))
        return values[0] if len(values) == 1 else values

    def evaluate(self, residual: Callable[["Forward", Any, Any], Any], inputs: Callable[[Tensor], Any]) -> Any:
        """residual(d, u, inputs(x)), with the gradients that it needs inside and without them where they are disabled
        outside."""
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            found = residual(self, self.u, inputs(self.x))
        if wanted:
            return found
        return tuple(r.detach() for r in found) if isinstance(found, tuple | list) else found.detach()

    def _known(self, j: int, key: Key) -> Tensor:
        if key not in self.unknowns[j]:
            raise UsageError(f"Forward: the residual reads the derivative {key}, which was not asked of the network.")
        return self.unknowns[j][key]

    def _find(self, e: Any) -> tuple[int, Key] | None:
        for j, table in enumerate(self.unknowns):
            for key, value in table.items():
                if value is e:
                    return j, key
        return None

    def _derive(self, e: Any, axis: int) -> Tensor:
        """Total derivative along an axis."""
        found = self._find(e)
        if found is not None:
            return self._known(found[0], _raised(found[1], axis))
        _needs_gradients(e)
        if not isinstance(e, Tensor) or not e.requires_grad:
            return torch.zeros_like(self.x[..., 0])
        entries = [(j, key, value) for j, table in enumerate(self.unknowns) for key, value in table.items()]
        leaves = [value for _, _, value in entries if value.requires_grad]
        entries = [entry for entry in entries if entry[2].requires_grad]
        slopes = torch.autograd.grad(e.sum(), [self.x, *leaves], create_graph=True, allow_unused=True)
        total = torch.zeros_like(self.x[..., 0])
        if slopes[0] is not None:
            self.explicit = True
            total = slopes[0][..., axis]
        for (j, key, _), slope in zip(entries, slopes[1:], strict=True):
            if slope is not None:
                total = total + slope * self._known(j, _raised(key, axis))
        return total

    def partial(self, u: Float[Tensor, "n N"], order: Order) -> Float[Tensor, "n N"]:
        found = self._find(u)
        if found is not None and not isinstance(found[1], str):
            return self._known(found[0], tuple(a + b for a, b in zip(found[1], order, strict=True)))
        for axis, times in enumerate(order):
            for _ in range(times):
                u = self._derive(u, axis)
        return u

    def _collapsed(self, j: int) -> Tensor | None:
        return self.unknowns[j].get(LAPLACIAN)

    def laplacian(self, u: Float[Tensor, "n N"]) -> Float[Tensor, "n N"]:
        found = self._find(u)
        if found is not None and found[1] == (0,) * self.ndim:
            collapsed = self._collapsed(found[0])
            if collapsed is not None:
                return collapsed
        return super().laplacian(u)

    def div_flux(self, a: Float[Tensor, "#n #N"] | float, u: Float[Tensor, "n N"]) -> Float[Tensor, "n N"]:
        total = a * self.laplacian(u)
        _needs_gradients(a)
        if isinstance(a, Tensor) and a.requires_grad:
            whole = a.expand(self.x.shape[:-1])
            for axis in range(self.ndim):
                slope = self._derive(whole, axis)
                total = total + slope * self._derive(u, axis)
        return total


class _Recorder(Forward):
    """Invents every derivative that it is asked for and so learns which there are."""

    def __init__(self, x: Tensor, count: int, collapse: bool) -> None:
        super().__init__(x, [{} for _ in range(count)])
        self.collapse, self.random = collapse, torch.Generator().manual_seed(0)

    def _known(self, j: int, key: Key) -> Tensor:
        if key not in self.unknowns[j]:
            value = 0.5 + torch.rand(self.x.shape[:-1], generator=self.random, dtype=torch.float64)
            self.unknowns[j][key] = value.to(self.x).requires_grad_(True)
        return self.unknowns[j][key]

    def _collapsed(self, j: int) -> Tensor | None:
        return self._known(j, LAPLACIAN) if self.collapse else None


class _Uncollapsible(UsageError):
    def __init__(self) -> None:
        super().__init__("Forward: the residual differentiates Δu; ask the network for second derivatives instead.")


def request_of(problem: "Problem", case: "Cases") -> tuple[Request, bool]:
    """The derivatives that the residual reads, found by a dry run at two points, and whether it differentiates its
    coefficients in x."""
    lower, upper = (case.inputs.values.new_tensor(side) for side in (case.domain.lower, case.domain.upper))
    x = (lower + (upper - lower) * lower.new_tensor([[0.37], [0.61]]))[None]
    for collapse in (True, False):
        d = _Recorder(x, len(problem.outputs), collapse)
        try:
            d.evaluate(problem.residual, case[:1].at)
        except _Uncollapsible:
            continue
        return frozenset(key for table in d.unknowns for key in table), d.explicit
    raise AssertionError("a request without collapsed sums always exists")


def _needs_gradients(e: Any) -> None:
    if isinstance(e, Tensor) and not torch.is_grad_enabled():
        raise UsageError("Forward differentiates expressions by reverse passes; evaluate the residual by d.evaluate.")


def _raised(key: Key, axis: int) -> Order:
    if isinstance(key, str):
        raise _Uncollapsible
    return tuple(k + int(j == axis) for j, k in enumerate(key))

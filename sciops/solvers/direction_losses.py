"""How good a direction f(b) is for A x = b, one number per system, zero if it is exact whatever its length and sign."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator


class DirectionLoss(nn.Module):
    """loss(f, b, A, x): the mean over the batch of `per_case`."""

    def per_case(
        self, f: Float[Tensor, "n *s"], b: Float[Tensor, "n *s"], A: LinearOperator, x: Float[Tensor, "n *s"] | None
    ) -> Float[Tensor, " n"]:
        """The loss of every system."""
        raise UsageError(f"{type(self).__name__} must define per_case(f, b, A, x).")

    def forward(
        self, f: Float[Tensor, "n *s"], b: Float[Tensor, "n *s"], A: LinearOperator, x: Float[Tensor, "n *s"] | None
    ) -> Float[Tensor, ""]:
        with torch.autocast(f.device.type, enabled=False):
            return self.per_case(f.to(b.dtype), b, A, x).mean()


class ResidualContraction(DirectionLoss):
    """‖b − α A f‖² / ‖b‖²,  α = f·b / f·Af, the step of the line search in the energy norm.

    The published loss (there ‖b‖ = 1). It needs no solution; α is not the best step for the 2-norm, so that values
    above 1 occur. In the error it is a norm of A², which weighs high frequencies most.
    Kaneda et al., ICML 2023.
    """

    def per_case(
        self, f: Float[Tensor, "n *s"], b: Float[Tensor, "n *s"], A: LinearOperator, x: Float[Tensor, "n *s"] | None
    ) -> Float[Tensor, " n"]:
        f = _unit(f)
        w = A.matvec(f)
        alpha = _dot(f, b) / _positive(_dot(f, w))
        r = b - alpha.reshape(-1, *(1,) * (b.dim() - 1)) * w
        return _dot(r, r) / _positive(_dot(b, b))


class EnergyContraction(DirectionLoss):
    """1 − (f·b)² / ((f·Af)(x·b)) = min_α ‖x − α f‖²_A / ‖x‖²_A with A x = b.

    The square of the factor by which one step along f shortens the error in the energy norm: between 0 and 1. It needs
    x, which costs nothing where b = A x was made from x.
    """

    def per_case(
        self, f: Float[Tensor, "n *s"], b: Float[Tensor, "n *s"], A: LinearOperator, x: Float[Tensor, "n *s"] | None
    ) -> Float[Tensor, " n"]:
        if x is None:
            raise UsageError(
                "EnergyContraction needs x of A x = b, but this data brings b alone; set manufactured of the data, or "
                "use ResidualContraction."
            )
        f = _unit(f)
        return 1.0 - _dot(f, b).square() / _positive(_dot(f, A.matvec(f)) * _dot(x, b))


def _unit(f: Tensor) -> Tensor:
    """f of unit 2-norm, which no loss here notices but float32 does; zero stays zero."""
    size = f.detach().flatten(1).norm(dim=1)
    return f / torch.where(size > 0, size, 1.0).reshape(-1, *(1,) * (f.dim() - 1))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _positive(value: Tensor) -> Tensor:
    """Zero energies (f = 0, b = 0) mean no step at all."""
    return torch.where(value > 0, value, 1.0)

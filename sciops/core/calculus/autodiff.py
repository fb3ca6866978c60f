"""Exact derivatives of a function of the points, by reverse-mode differentiation."""

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus.base import Calculus
from sciops.core.errors import UsageError


class Autodiff(Calculus):
    """u: values (n, N) computed from `d.x` (n, N, d), each value from its own point.

    Give the network `d.x`, not the tensor you passed in: `d.x` is the leaf that derivatives refer to.
    Coefficients must depend on `d.x` too if they are differentiated (`cases.at(d.x)` sees to it).
    Cost: one reverse pass per derivative; memory as the network's graph. Fails with UsageError when u was
    not computed from d.x.
    """

    def __init__(self, x: Float[Tensor, "n N d"]) -> None:
        if x.dim() != 3:
            raise UsageError(f"Autodiff needs points of shape (n, N, d); got {tuple(x.shape)}.")
        self.x = x if x.requires_grad else x.detach().clone().requires_grad_(True)

    @property
    def ndim(self) -> int:
        return self.x.shape[-1]

    def gradient(self, u: Float[Tensor, "n N"]) -> Float[Tensor, "n N d"]:
        """All first derivatives in one reverse pass."""
        if not u.requires_grad:
            raise UsageError("Autodiff: u was not computed from d.x, so it has no derivatives; evaluate it at d.x.")
        if u.shape != self.x.shape[:-1]:  # points shared between cases would add up the cases' derivatives
            raise UsageError(
                f"Autodiff: u has shape {tuple(u.shape)} but the points have {tuple(self.x.shape)}; give every case "
                f"its own copy of the points, x.repeat(n, 1, 1)."
            )
        (g,) = torch.autograd.grad(u.sum(), self.x, create_graph=True, allow_unused=True)
        return torch.zeros_like(self.x) if g is None else g

    def partial(self, u: Float[Tensor, "n N"], order: tuple[int, ...]) -> Float[Tensor, "n N"]:
        for axis, times in enumerate(order):
            for _ in range(times):
                u = self.gradient(u)[..., axis]
                if not u.requires_grad:  # a constant derivative: everything beyond it is zero
                    u = u + 0 * self.x[..., axis]
        return u

    def laplacian(self, u: Float[Tensor, "n N"]) -> Float[Tensor, "n N"]:
        return self._divergence(self.gradient(u))

    def grad(self, u: Float[Tensor, "n N"]) -> tuple[Float[Tensor, "n N"], ...]:
        return self.gradient(u).unbind(-1)

    def div_flux(self, a: Float[Tensor, "#n #N"] | float, u: Float[Tensor, "n N"]) -> Float[Tensor, "n N"]:
        g = self.gradient(u)
        return self._divergence(a[..., None] * g if isinstance(a, Tensor) else a * g)

    def _divergence(self, flux: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        total = torch.zeros_like(flux[..., 0])
        if not flux.requires_grad:
            return total
        for axis in range(self.ndim):
            (g,) = torch.autograd.grad(flux[..., axis].sum(), self.x, create_graph=True, allow_unused=True)
            if g is not None:
                total = total + g[..., axis]
        return total

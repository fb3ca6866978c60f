"""Spectral mixture kernels for GPyTorch, with derivatives: ordinary kernels that know k′ … k⁗ in closed form."""

import math
from typing import Any

import gpytorch
import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.spectral_covariance import FAMILIES, covariance, smooth_covariance


class SpectralKernel(gpytorch.kernels.Kernel):
    """k(x, x′) = Σ_q w_q g(x − x′; s_q) cos(2π μ_q (x − x′)) on one axis.

    family        "student_t" (Matérn-5/2 envelope), "gaussian", or without cosine "matern", "se"; the formulas and the
                  meaning of s are those of `sciops.numerics.spectral_covariance.covariance`
    components    Q
    max_frequency μ starts at Q equal steps from 0 to this, in cycles per unit of x

    Parameters log_weight = −log Q, s = 0 and mu are free real numbers (*batch_shape, Q); nothing constrains them, the
    sign of μ is free. Differs from gpytorch's SpectralMixtureKernel: weights in the log domain, μ = 0 reachable,
    derivatives known, safe to differentiate twice in x. Several axes: `product_kernel`. `forward` is one batch of
    parameters at a time per batch of x, cost O(Q N M).
    """

    is_stationary = True

    def __init__(
        self, family: str = "student_t", components: int = 30, max_frequency: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if family not in FAMILIES:
            raise UsageError(f"family must be one of {', '.join(FAMILIES)}; got '{family}'.")
        if components < 1:
            raise UsageError(f"components must be 1 or more; got {components}.")
        self.family = family
        shape = (*self.batch_shape, components)
        start = {
            "log_weight": torch.full(shape, -math.log(components)),
            "s": torch.zeros(shape),
            "mu": (torch.linspace(0.0, 1.0, components) * max_frequency).expand(shape).clone(),
        }
        for name, value in start.items():
            self.register_parameter(name, torch.nn.Parameter(value))

    def derivative(self, lag: Float[Tensor, "*n"], order: int) -> Float[Tensor, "..."]:
        """k⁽ᵐ⁾(d), 0 ≤ m ≤ 4, of shape (*batch_shape, *lag.shape); cov(∂^a u(x), ∂^b u(x′)) = (−1)^b k⁽ᵃ⁺ᵇ⁾(x − x′)."""
        (values,) = covariance(self.family, lag.reshape(-1), (order,), *self._parameters_like(lag))
        return values.reshape(*values.shape[:-1], *lag.shape)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, order: int = 0, **params: Any) -> Tensor:
        """(*b, N, 1), (*b, M, 1) → (*b, N, M), or (*b, N) with `diag`."""
        if x1.shape[-1] != 1:
            raise UsageError(
                f"SpectralKernel is a kernel of one axis; got {x1.shape[-1]}. Use product_kernel, or active_dims."
            )
        if params.get("last_dim_is_batch"):
            raise UsageError("SpectralKernel does not take last_dim_is_batch; use product_kernel.")
        lag = x1[..., 0] - x2[..., 0] if diag else x1[..., :, None, 0] - x2[..., None, :, 0]
        parameters = self._parameters_like(lag)
        batch = len(self.batch_shape)
        if not batch:
            return smooth_covariance(self.family, lag.reshape(-1), order, *parameters).reshape(lag.shape)
        size = torch.broadcast_shapes(self.batch_shape, lag.shape[: lag.dim() - (1 if diag else 2)])
        inner = lag.shape[lag.dim() - (1 if diag else 2) :]
        flat = lag.expand(*size, *inner).reshape(math.prod(size), -1)
        rows = [p.expand(*size, p.shape[-1]).reshape(math.prod(size), -1) for p in parameters]
        made = [smooth_covariance(self.family, d, order, *row) for d, *row in zip(flat, *rows, strict=True)]
        return torch.stack(made).reshape(*size, *inner)

    def _parameters_like(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_weight, s, mu = (getattr(self, name).to(x.dtype) for name in ("log_weight", "s", "mu"))
        return log_weight, s, mu


class WithDerivative(gpytorch.kernels.Kernel):
    """Joint covariance of (u, ∂^m u): [[k, (−1)^m k⁽ᵐ⁾], [k⁽ᵐ⁾, (−1)^m k⁽²ᵐ⁾]], m = 1 or 2.

    Two outputs per input in GPyTorch's order (point by point, u before its derivative), as its RBFKernelGrad has them:
    use it with MultitaskMultivariateNormal, or take the matrix.
    """

    def __init__(self, base_kernel: SpectralKernel, order: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if order not in (1, 2):
            raise UsageError(f"WithDerivative knows the orders 1 and 2; got {order}.")
        self.base_kernel, self.order = base_kernel, order

    def num_outputs_per_input(self, x1: Tensor, x2: Tensor) -> int:
        return 2

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        m, sign = self.order, (-1.0) ** self.order
        u, v, w = (self.base_kernel.forward(x1, x2, diag=diag, order=n, **params) for n in (0, m, 2 * m))
        if diag:
            return torch.stack([u, sign * w], -1).flatten(-2)
        rows = torch.stack([torch.stack([u, sign * v], -1), torch.stack([v, sign * w], -1)], -3)
        # rows: (*b, N, 2, M, 2)
        return rows.flatten(-2).flatten(-3, -2)


def product_kernel(*kernels: SpectralKernel) -> gpytorch.kernels.Kernel:
    """Π_j k_j(x_j, x′_j): one kernel per axis. A product of sums, unlike SpectralMixtureKernel with ard_num_dims, so
    that covariances of tensor grids are Kronecker products."""
    for j, kernel in enumerate(kernels):
        kernel.active_dims = torch.tensor([j])
    return gpytorch.kernels.ProductKernel(*kernels)

"""Least squares for nearly dependent features, and the Gaussian posterior of their weights."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class WeightPosterior:
    """weights ~ N(mean, covariance), covariance = σ² (GᵀG + ridge)⁻¹ kept as a triangular factor.

    mean     (n,)
    factor   upper triangular R of the column-scaled system, n × n
    scale    column norms of G
    noise    σ: what the rows were missed by, per degree of freedom
    """

    mean: Float[Tensor, " n"]
    factor: Float[Tensor, "n n"]
    scale: Float[Tensor, " n"]
    noise: float

    def std(self, features: Float[Tensor, "N n"]) -> Float[Tensor, " N"]:
        """Posterior standard deviation of features @ weights."""
        scaled = (features / self.scale).T
        return self.noise * torch.linalg.solve_triangular(self.factor.T, scaled, upper=False).norm(dim=0)


def least_squares(
    G: Float[Tensor, "N n"], y: Float[Tensor, " N"], ridge: float = 1e-15, floor: float = 0.0
) -> WeightPosterior:
    """min ‖G w − y‖² + ridge² Σ (scale_i w_i)² by Householder QR, columns scaled to unit norm.

    The ridge takes the place of a rank decision: directions that the rows determine to fewer than `ridge` relative
    digits stay near zero, all others keep theirs. `floor`: least noise σ to assume, the rounding of y.
    One step of refinement with the same factors. Cost 2Nn² + O(n³) flops; reference: Golub & Van Loan, §5.3 and §6.1.
    """
    n = G.shape[1]
    scale = G.norm(dim=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    A = G / scale
    packed, tau = torch.geqrf(A)
    R = packed[:n].triu()
    if A.shape[0] < n:
        R = torch.cat([packed.triu(), A.new_zeros(n - A.shape[0], n)])
    pivots = R.diagonal().abs()
    # Far from dependence the ridge changes nothing.
    plain = n > 0 and float(pivots.min()) > 1e-9 * float(pivots.max())
    factor = R
    if not plain:
        small, small_tau = torch.geqrf(torch.cat([R, ridge * torch.eye(n, dtype=A.dtype, device=A.device)]))
        factor = small[:n].triu()

    def solve(r: Tensor) -> Tensor:
        c = torch.ormqr(packed, tau, r[:, None], transpose=True)[:n]
        if not plain:
            c = torch.cat([c, c.new_zeros(2 * n - len(c), 1)])
            c = torch.ormqr(small, small_tau, c, transpose=True)[:n]
        return torch.linalg.solve_triangular(factor, c, upper=True)[:, 0]

    w = solve(y)
    w = w + solve(y - A @ w)
    freedom = max(A.shape[0] - n, 1)
    noise = float(((y - A @ w).square().sum() / freedom).sqrt())
    return WeightPosterior(w / scale, factor, scale, max(noise, floor))

"""The variance of the noise, estimated before the weights and then held fixed."""

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST_SPLINE = 1500
"""Points of one smoothing spline; longer series are cut into runs of this length."""


def noise_variance(x: Float[Tensor, "N P"], y: Float[Tensor, " N"]) -> float:
    """Smoothing spline with generalised cross-validation in 1-D, differences of nearest neighbours in P-D.

    Both read as noise what oscillates faster than the points resolve; a signal near the highest frequency makes them
    too large, and the fit then too cautious. Never below 1e-8 of the mean square of y, so that covariances stay
    definite. Cost O(N n²) with n = 1500 in 1-D, O(N²) in P-D.
    """
    if x.shape[1] == 1 and len(torch.unique(x)) == len(x) >= 5:
        order = x[:, 0].argsort()
        runs = max(1, -(-len(x) // LARGEST_SPLINE))
        parts = [spline_noise(x[i, 0], y[i]) for i in order.chunk(runs) if len(i) >= 5]
        found = float(torch.tensor(parts).median())
    else:
        found = difference_noise(x, y)
    return max(found, 1e-8 * float(y.square().mean()), torch.finfo(torch.float64).tiny)


def spline_noise(x: Float[Tensor, " N"], y: Float[Tensor, " N"]) -> float:
    """‖y − s‖²/(N − tr H) of the cubic smoothing spline s = H y on increasing x whose λ has the least
    N‖y − s‖²/(N − tr H)².

    Natural splines penalise yᵀ Q R⁻¹ Qᵀ y (Reinsch); in the eigenvectors of that matrix H is diagonal, 1/(1 + λ d), and
    the search over λ costs nothing. One dense eigenvalue problem, O(N³).
    """
    n, h = len(x), x.diff()
    Q = torch.zeros(n, n - 2, dtype=x.dtype, device=x.device)
    inner = torch.arange(n - 2, device=x.device)
    Q[inner, inner] = 1 / h[:-1]
    Q[inner + 1, inner] = -1 / h[:-1] - 1 / h[1:]
    Q[inner + 2, inner] = 1 / h[1:]
    R = torch.diag((h[:-1] + h[1:]) / 3) + torch.diag(h[1:-1] / 6, 1) + torch.diag(h[1:-1] / 6, -1)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(R), Q.T, upper=False)
    d, V = torch.linalg.eigh(half.T @ half)
    d = d.clamp_min(0.0)
    d[:2] = 0.0  # straight lines are not penalised
    squares = (V.T @ y).square()
    low, high = -d[-1].log10() - 4, -d[2].log10() + 4
    lam = 10 ** torch.linspace(float(low), float(high), 400, dtype=x.dtype, device=x.device)
    left = 1 - 1 / (1 + lam[:, None] * d)  # I − H
    residual, freedom = (left.square() * squares).sum(1), left.sum(1)
    best = int((residual / freedom.square()).argmin())
    return float(residual[best] / freedom[best])


def difference_noise(x: Float[Tensor, "N P"], y: Float[Tensor, " N"]) -> float:
    """Half the mean squared difference of nearest neighbours, robustly: the median over that of a χ²₁ variable.

    Axes are scaled to equal spread; what the signal changes between neighbours counts as noise, so this is an upper
    estimate. Neighbours in blocks of 1024 points.
    """
    z = (x - x.mean(0)) / x.std(0).clamp_min(1e-300)
    squares = []
    for i in torch.arange(len(z), device=z.device).split(1024):
        distance = torch.cdist(z[i], z)
        distance[torch.arange(len(i), device=z.device), i] = torch.inf
        squares.append((y[i] - y[distance.argmin(1)]).square() / 2)
    return float(torch.cat(squares).median()) / 0.454936

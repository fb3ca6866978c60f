"""Stationary 1-D covariances with line spectra and their derivatives of order 0 to 4 in closed form; tensors only."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError

FAMILIES = ("student_t", "gaussian", "matern", "se")
OSCILLATING = ("student_t", "gaussian")
MAX_ORDER = 4
_CHUNK = 4_000_000
"""Numbers of one temporary: with 30 components a cross-covariance would otherwise take 30 times its own size."""


def covariance(
    family: str,
    lag: Float[Tensor, " N"],
    orders: Sequence[int],
    log_weight: Float[Tensor, "*b q"],
    s: Float[Tensor, "*b q"],
    mu: Float[Tensor, "*b q"],
) -> list[Float[Tensor, "*b N"]]:
    """k⁽ᵐ⁾(d) for every m in `orders`, k(d) = Σ_q e^{lw_q} g(d; s_q) cos(2π μ_q d).

    family   "student_t": g = (1 + z + z²/3) e^{−z}, z = √5 e^s |d| (Matérn-5/2, its spectrum a Student t around ±μ)
             "gaussian": g = exp(−e^s d²), spectral variance e^s/(2π²) around ±μ
             "matern", "se": the same sums without the cosine; `mu` is not read
    lag      d = x − x′ with its sign, in the unit of length; μ in cycles per that unit

    Covariances of derivatives: cov(∂^a u(x), ∂^b u(x′)) = (−1)^b k⁽ᵃ⁺ᵇ⁾(x − x′). Derivatives in the parameters come
    from autograd; those in d must come from `orders`, because |d| has the derivative 0 at d = 0 under autograd, which
    drops the largest entry of k″ (`smooth_covariance` is safe). "student_t" and "matern" are four times differentiable
    only, so third derivatives of u have no variance. Cost O(q N) per order.
    Reference: Wilson and Adams, ICML 2013 (Gaussian mixture); Fang et al., ICLR 2024 (Student t mixture).
    """
    if family not in FAMILIES:
        raise UsageError(f"kernel must be one of {', '.join(FAMILIES)}; got '{family}'.")
    if any(not 0 <= m <= MAX_ORDER for m in orders):
        raise UsageError(f"Covariance derivatives have order 0 to {MAX_ORDER}; got {list(orders)}.")
    size = max(1, _CHUNK // max(1, log_weight.numel()))
    parts = [_covariance(family, d, orders, log_weight, s, mu) for d in lag.split(size)] if len(lag) else []
    if not parts:
        return [lag.new_zeros((*log_weight.shape[:-1], 0)) for _ in orders]
    return [torch.cat(pieces, -1) if len(pieces) > 1 else pieces[0] for pieces in zip(*parts, strict=True)]


def _covariance(
    family: str, lag: Tensor, orders: Sequence[int], log_weight: Tensor, s: Tensor, mu: Tensor
) -> list[Tensor]:
    top = max(orders, default=0)
    g = _envelope(family, lag, s[..., None], top)
    weight = log_weight.exp()[..., None, :]
    if family not in OSCILLATING:
        return [(weight @ g[m])[..., 0, :] for m in orders]
    a = 2 * math.pi * mu[..., None]
    cos, sin = torch.cos(a * lag), torch.sin(a * lag)
    wave = [cos, -a * sin, -(a**2) * cos, a**3 * sin, a**4 * cos][: top + 1] if top else [cos]
    return [(weight @ sum(math.comb(m, j) * g[m - j] * wave[j] for j in range(m + 1)))[..., 0, :] for m in orders]


def _envelope(family: str, d: Tensor, s: Tensor, top: int) -> list[Tensor]:
    """g, g′, …, up to order `top`."""
    if family in ("student_t", "matern"):
        beta = math.sqrt(5.0) * s.exp()
        z = beta * d.abs()
        e, c = torch.exp(-z), beta**2 / 3
        made = [lambda: (1 + z + z**2 / 3) * e]
        made += [lambda: -c * d * (1 + z) * e, lambda: -c * (1 + z - z**2) * e]
        made += [lambda: c * beta**2 * d * (3 - z) * e, lambda: c * beta**2 * (3 - 5 * z + z**2) * e]
    else:
        p = s.exp()
        e = torch.exp(-p * d**2)
        made = [lambda: e, lambda: -2 * p * d * e, lambda: (4 * p**2 * d**2 - 2 * p) * e]
        made += [lambda: (12 * p**2 * d - 8 * p**3 * d**3) * e]
        made += [lambda: (12 * p**2 - 48 * p**3 * d**2 + 16 * p**4 * d**4) * e]
    return [make() for make in made[: top + 1]]


def smooth_covariance(
    family: str,
    lag: Float[Tensor, " N"],
    order: int,
    log_weight: Float[Tensor, "*b q"],
    s: Float[Tensor, "*b q"],
    mu: Float[Tensor, "*b q"],
) -> Float[Tensor, "*b N"]:
    """k⁽ᵐ⁾(d) that may be differentiated in d: autograd then finds k⁽ᵐ⁺¹⁾ … k⁽⁴⁾ exactly, at d = 0 too.

    It sees the Taylor polynomial around the detached lag, whose value is k⁽ᵐ⁾(d) and whose derivatives are the closed
    forms. Beyond the fourth derivative of k it finds zero.
    """
    if not lag.requires_grad:
        return covariance(family, lag, (order,), log_weight, s, mu)[0]
    step = lag - lag.detach()
    terms = covariance(family, lag.detach(), range(order, MAX_ORDER + 1), log_weight, s, mu)
    total = terms[0]
    for n, term in enumerate(terms[1:], start=1):
        total = total + step**n / math.factorial(n) * term
    return total


def grid_lags(n: int, spacing: float, like: Tensor) -> Float[Tensor, " n"]:
    """0, h, …, (n−1)h: all that a stationary covariance needs on a uniform grid."""
    return torch.arange(n, dtype=like.dtype, device=like.device) * spacing


def toeplitz(values: Float[Tensor, "*b n"], order: int = 0) -> Float[Tensor, "*b n n"]:
    """K_ij = k⁽ᵐ⁾((i − j)h) from k⁽ᵐ⁾ at 0, h, …, (n−1)h: even for even m, odd for odd m."""
    n, sign = values.shape[-1], -1.0 if order % 2 else 1.0
    both = torch.cat([sign * values[..., 1:].flip(-1), values], -1)
    return both.unfold(-1, n, 1).flip(-1)

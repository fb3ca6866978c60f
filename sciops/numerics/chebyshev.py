"""Chebyshev series on boxes: points, fast transforms, derivatives, quadrature, evaluation, and when to stop.

u(x) = Σ_k c_k T_k(t), t = (2x − a − b)/(b − a) ∈ [−1, 1], T_k(cos θ) = cos kθ, and tensor products of these. For a
function analytic in a neighbourhood of the box the coefficients fall geometrically until they meet rounding; a wave
of n periods per axis needs about πn of them before they begin to fall.
Reference: Trefethen, Approximation Theory and Approximation Practice (2019); Boyd, Chebyshev and Fourier Spectral
Methods (2001).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus import Order, State
from sciops.core.errors import UsageError
from sciops.numerics.transforms import dct, idct

EPS = torch.finfo(torch.float64).eps
KINDS = {"lobatto": 1, "gauss": 2}
"""Families of points and the cosine transform that belongs to each."""


def lobatto(n: int, lower: float = -1.0, upper: float = 1.0) -> Float[Tensor, " n"]:
    """The n extrema of T_{n−1} on [lower, upper], ascending; both ends are among them exactly."""
    if n < 2:
        raise UsageError(f"Lobatto points need n ≥ 2; got {n}.")
    # Written as a sine, the points are symmetric to the last digit.
    t = torch.sin(math.pi * torch.arange(1 - n, n, 2, dtype=torch.float64) / (2 * (n - 1)))
    x = 0.5 * (lower + upper) + 0.5 * (upper - lower) * t
    x[0], x[-1] = lower, upper
    return x


def gauss(n: int, lower: float = -1.0, upper: float = 1.0) -> Float[Tensor, " n"]:
    """The n zeros of T_n on [lower, upper], ascending; the ends are not among them."""
    if n < 1:
        raise UsageError(f"Gauss points need n ≥ 1; got {n}.")
    t = torch.sin(math.pi * torch.arange(1 - n, n, 2, dtype=torch.float64) / (2 * n))
    return 0.5 * (lower + upper) + 0.5 * (upper - lower) * t


def to_coefficients(
    values: Float[Tensor, "..."], axes: Sequence[int] = (-1,), points: str = "lobatto"
) -> Float[Tensor, "..."]:
    """Coefficients of the polynomial through values at Lobatto or Gauss points along `axes`: O(N log N)."""
    kind = _kind(points)
    for axis in axes:
        n = values.shape[axis]
        c = dct(values.flip(axis), kind, (axis,)) / (n - 1 if kind == 1 else n)
        values = _scaled(c, axis, 0.5, last=kind == 1)
    return values


def to_values(c: Float[Tensor, "..."], axes: Sequence[int] = (-1,), points: str = "lobatto") -> Float[Tensor, "..."]:
    """Values at as many Lobatto or Gauss points as there are coefficients: the inverse of `to_coefficients`."""
    kind = _kind(points)
    for axis in axes:
        n = c.shape[axis]
        doubled = _scaled(c, axis, 2.0, last=kind == 1) * (n - 1 if kind == 1 else n)
        c = idct(doubled, kind, (axis,)).flip(axis)
    return c


def derivative(c: Float[Tensor, "..."], axis: int = -1, order: int = 1, length: float = 2.0) -> Float[Tensor, "..."]:
    """Coefficients of ∂^order along an axis of the given length; same shape, the last `order` entries are zero."""
    c = c.movedim(axis, -1)
    n = c.shape[-1]
    weight = 2.0 * torch.arange(n, dtype=c.dtype, device=c.device) * (2.0 / length)
    for _ in range(order):
        w = c * weight
        c = torch.zeros_like(w)
        # c'_k = Σ 2j c_j over j = k+1, k+3, …: one reversed running sum per parity.
        for parity in (0, 1):
            tail = w[..., parity::2].flip(-1).cumsum(-1).flip(-1)
            if parity:
                c[..., 0 : n - 1 : 2] = tail
            else:
                c[..., 1 : n - 1 : 2] = tail[..., 1:]
        c[..., 0] = 0.5 * c[..., 0]
    return c.movedim(-1, axis)


def differentiation_matrices(n: int, order: int = 1, length: float = 2.0) -> list[Float[Tensor, "n n"]]:
    """D, …, D^(order): values at Lobatto points ↦ derivatives there, built to lose as few digits as possible.

    Differences of points come from products of sines, the lower half from the upper by symmetry, and every diagonal
    from the row sum that a constant must give. Entries reach n^(2·order).
    Reference: Weideman & Reddy, ACM TOMS 26 (2000); Baltensperger & Trummer, SIAM J. Sci. Comput. 24 (2003).
    """
    theta = math.pi * torch.arange(n, dtype=torch.float64) / (n - 1)
    gap = 2.0 * torch.sin(0.5 * (theta[:, None] + theta)) * torch.sin(0.5 * (theta[:, None] - theta))
    upper = n // 2
    gap[n - upper :] = -gap[:upper].flip(0, 1)
    gap.fill_diagonal_(1.0)
    inverse = gap.reciprocal().fill_diagonal_(0.0)
    c = torch.ones(n, dtype=torch.float64)
    c[0] = c[-1] = 2.0
    c[1::2] *= -1.0
    ratio = c[:, None] / c
    D, found = torch.eye(n, dtype=torch.float64), []
    for k in range(1, order + 1):
        D = k * inverse * (ratio * D.diagonal()[:, None] - D)
        D.fill_diagonal_(0.0)
        D.diagonal().copy_(-D.sum(1))
        found.append(D * (2.0 / length) ** k)
    return found


def clenshaw_curtis(n: int, lower: float = -1.0, upper: float = 1.0) -> Float[Tensor, " n"]:
    """Quadrature weights of n Lobatto points, exact for polynomials of degree n − 1."""
    k = torch.arange(n, dtype=torch.float64)
    moments = torch.where(k % 2 == 0, 2.0 / (1.0 - k**2), torch.zeros_like(k))
    moments[1] = 0.0
    # w = Cᵀ m for the matrix C of `to_coefficients`, which is a symmetric cosine transform up to its ends.
    weights = dct(moments, 1) / (n - 1)
    weights[0], weights[-1] = 0.5 * weights[0], 0.5 * weights[-1]
    # dct doubles the inner moments and leaves the ends single: with the halved ends of C all enter alike.
    return 0.5 * (upper - lower) * weights


def ends(n: int, order: int, side: int, length: float = 2.0) -> Float[Tensor, " n"]:
    """T_k^(order) at the lower (0) or upper (1) end, k < n, for an axis of the given length."""
    k = torch.arange(n, dtype=torch.float64)
    row = torch.ones(n, dtype=torch.float64)
    for i in range(order):
        row = row * (k**2 - i**2) / (2 * i + 1) * (2.0 / length)
    return row if side else row * (-1.0) ** (k + order)


def basis(t: Float[Tensor, " N"], n: int) -> Float[Tensor, "N n"]:
    """T_k(t_i), k < n; t is clipped to [−1, 1]."""
    theta = torch.acos(t.clamp(-1.0, 1.0))
    return torch.cos(theta[:, None] * torch.arange(n, dtype=t.dtype, device=t.device))


@dataclass(frozen=True)
class Series:
    """Σ c_{ij…} T_i(x) T_j(y) … on the box [lower, upper]: a function of points (N, d), with its derivatives."""

    coefficients: Float[Tensor, "*n"]
    lower: Float[Tensor, " d"]
    upper: Float[Tensor, " d"]

    @property
    def ndim(self) -> int:
        return self.coefficients.dim()

    def derivative(self, order: Order) -> "Series":
        c = self.coefficients
        for axis, times in enumerate(order):
            if times:
                c = derivative(c, axis, times, float(self.upper[axis] - self.lower[axis]))
        return Series(c, self.lower, self.upper)

    def state(self, x: Float[Tensor, "N d"]) -> State:
        """α ↦ ∂^α u at the points, each evaluated once."""
        known: dict[Order, Tensor] = {}

        def value(order: Order) -> Tensor:
            if order not in known:
                known[order] = self.derivative(order)(x)
            return known[order]

        return value

    def on_lobatto(self, shape: Sequence[int]) -> State:
        """α ↦ ∂^α u at the tensor grid of at least as many Lobatto points, flattened: by fast transforms."""
        known: dict[Order, Tensor] = {}

        def value(order: Order) -> Tensor:
            if order not in known:
                c = self.derivative(order).coefficients
                known[order] = to_values(grown(c, shape), range(c.dim())).flatten()
            return known[order]

        return value

    def __call__(self, x: Float[Tensor, "N d"], block: int = 1 << 22) -> Float[Tensor, " N"]:
        """u at points. Coordinates that repeat (points of a tensor grid) are evaluated once per axis."""
        most = max(1, block // max(self.coefficients.shape))
        if self.ndim > 1:
            most = max(1, min(most, 8 * block // self.coefficients[0].numel()))
        return torch.cat([self._part(part) for part in x.split(most)]) if len(x) else x[:, 0]

    def _part(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        t = (2.0 * x - (self.lower + self.upper)) / (self.upper - self.lower)
        distinct = [torch.unique(t[:, j], return_inverse=True) for j in range(self.ndim)]
        tables = [basis(values, n) for (values, _), n in zip(distinct, self.coefficients.shape, strict=True)]
        total = self.coefficients
        if math.prod(len(values) for values, _ in distinct) <= 2 * len(x):
            for table in tables:  # each product moves the next axis to the front: they end in their order
                total = torch.tensordot(total, table, dims=([0], [1]))
            return total[tuple(index for _, index in distinct)]
        total = torch.tensordot(tables[0][distinct[0][1]], total, dims=1)
        for (_, index), table in zip(distinct[1:], tables[1:], strict=True):
            total = torch.einsum("ni,ni...->n...", table[index], total)
        return total


def blend(u: Series, v: Series, share: float) -> Series:
    """u + share·(v − u)."""
    a, b = padded(u.coefficients, v.coefficients)
    return Series(a + share * (b - a), u.lower, u.upper)


def grown(c: Float[Tensor, "*n"], shape: Sequence[int]) -> Float[Tensor, "*m"]:
    """The same series with zeros up to a larger shape."""
    whole = c.new_zeros(tuple(shape))
    whole[tuple(slice(0, n) for n in c.shape)] = c
    return whole


def padded(a: Float[Tensor, "*n"], b: Float[Tensor, "*m"]) -> tuple[Float[Tensor, "*k"], Float[Tensor, "*k"]]:
    """Both series with zeros up to the larger of their shapes."""
    shape = [max(m, n) for m, n in zip(a.shape, b.shape, strict=True)]
    return grown(a, shape), grown(b, shape)


def l2_norm(u: Series) -> float:
    """‖u‖ over the box by Clenshaw–Curtis quadrature of the interpolant's squares at twice its points."""
    c = grown(u.coefficients, [2 * n for n in u.coefficients.shape])
    total = to_values(c, range(c.dim())).square()
    for n in c.shape:
        total = torch.tensordot(total, clenshaw_curtis(n), dims=([0], [0]))
    return float(total.clamp(min=0.0).sqrt())


def relative_change(u: Series, v: Series) -> float:
    """‖u − v‖/‖u‖ in L²."""
    a, b = padded(u.coefficients, v.coefficients)
    size = l2_norm(u)
    return l2_norm(Series(a - b, u.lower, u.upper)) / size if size else 0.0


def resolved_length(c: Float[Tensor, " n"], tol: float = EPS) -> int:
    """How many coefficients carry the function; n where they do not reach a plateau and the series is too short.

    The envelope e_k = max_{j≥k}|c_j| (relative to the largest) must have become flat: for a point k it falls by less
    than a factor that is stricter the higher it still is; flatness above tol^(2/3) does not count. The series is cut
    where the envelope plus a gentle slope is lowest.
    Reference: Aurentz & Trefethen, Chopping a Chebyshev series, ACM TOMS 43 (2017).
    """
    n = len(c)
    if n < 17:
        return n
    e = c.abs().flip(0).cummax(0).values.flip(0)
    if float(e[0]) == 0.0:
        return 1
    e = (e / e[0]).cpu()
    values, log_tol = e.tolist(), math.log(tol)
    for j in range(1, n):
        later = round(1.25 * (j + 1) + 5) - 1
        if later >= n:
            return n
        if values[j] == 0.0:
            return j
        if values[later] / values[j] > 3.0 * (1.0 - math.log(values[j]) / log_tol):
            break
    else:
        return n
    low = tol ** (7 / 6)
    count = sum(value >= low for value in values)
    stop = min(later, count) + 1
    heights = torch.log10(e[:stop].clamp(min=low)) + torch.linspace(0.0, -math.log10(tol) / 3, stop)
    return max(int(heights.argmin()), 1)


def profile(c: Float[Tensor, "*n"], axis: int) -> Float[Tensor, " m"]:
    """Largest |coefficient| per degree along one axis of a tensor of coefficients."""
    return c.abs().movedim(axis, 0).flatten(1).amax(1) if c.dim() > 1 else c.abs()


def tail(c: Float[Tensor, "*n"], axis: int = 0, share: float = 0.1) -> float:
    """Largest of the last `share` of the coefficients along an axis, relative to the largest of all."""
    heights = profile(c, axis)
    last = max(2, round(share * len(heights)))
    return float(heights[-last:].amax() / heights.amax().clamp(min=torch.finfo(c.dtype).tiny))


def _kind(points: str) -> int:
    if points not in KINDS:
        raise UsageError(f"points must be one of {', '.join(KINDS)}; got '{points}'.")
    return KINDS[points]


def _scaled(c: Tensor, axis: int, factor: float, last: bool) -> Tensor:
    """First coefficient (and for Lobatto points the last one) times a factor."""
    c = c.clone()
    c.select(axis, 0).mul_(factor)
    if last and c.shape[axis] > 1:
        c.select(axis, -1).mul_(factor)
    return c

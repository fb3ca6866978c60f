"""Linear ordinary differential equations in Chebyshev coefficients, with banded matrices.

Σ_k a_k(x) u^(k) = f on [lower, upper], point conditions on u and its derivatives at the ends.

Derivatives map T_k to the ultraspherical polynomials C^(λ) by one diagonal, products with a_k are banded as wide as a_k
has coefficients, and conversions C^(λ) → C^(λ+1) have two diagonals. The conditions are built into the basis (each
basis function is a combination of K + 1 neighbouring T_k), so that one banded LU with pivoting is all: O(N·b²) for
bandwidth b, O(N) memory per diagonal, errors near rounding where matrices of derivatives lose N² to N⁴ of it. Where
coefficients are about as long as the solution the matrix is dense and is factorised as such, O(N³).
Fails where a_k needs very many coefficients; multiplying the equation by a suitable function may help.
Reference: Olver & Townsend, A fast and well-conditioned spectral method, SIAM Review 55 (2013); basis recombination
as in Shen, SIAM J. Sci. Comput. 15 (1994).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from jaxtyping import Float
from numpy import ndarray

from sciops.core.errors import UsageError
from sciops.numerics.chebyshev import ends

Coefficients = Mapping[int, ndarray | float]
"""Order of the derivative ↦ Chebyshev coefficients of its factor, or a number where that is constant."""


@dataclass(frozen=True)
class Condition:
    """u^(order) = value at the lower (0) or upper (1) end."""

    side: int
    order: int
    value: float


def differentiation(n: int, order: int, length: float = 2.0) -> sp.csr_matrix:
    """n × n: T_k coefficients of u ↦ C^(order) coefficients of u^(order); one diagonal."""
    if order == 0:
        return sp.identity(n, format="csr")
    factorial = float(np.prod(np.arange(1, order))) if order > 1 else 1.0
    k = np.arange(order, n, dtype=float)
    return sp.diags(2.0 ** (order - 1) * factorial * (2.0 / length) ** order * k, order, (n, n), format="csr")


def conversion(n: int, lam: int) -> sp.csr_matrix:
    """n × n: C^(lam) coefficients ↦ C^(lam+1) coefficients, lam = 0 meaning T_k; two diagonals."""
    k = np.arange(n, dtype=float)
    if lam == 0:
        main, above = np.where(k == 0, 1.0, 0.5), np.full(max(n - 2, 0), -0.5)
    else:
        main, above = lam / (lam + k), -lam / (lam + k[2:])
    return sp.diags([main, above], [0, 2], (n, n), format="csr")


def multiplication(a: Float[ndarray, " m"], n: int, lam: int, dense: bool = False) -> sp.csr_matrix | ndarray:
    """n × n: C^(lam) coefficients of v ↦ those of a·v, a given by m Chebyshev coefficients; 2m − 1 diagonals.

    Closed forms for lam ≤ 2 (Toeplitz plus Hankel), the recurrence of T_k in the matrix of x beyond.
    """
    # Row r and column k hold no T_j beyond j = r + k + 4.
    a = np.asarray(a[: 2 * n + 2], dtype=float)
    padded = np.concatenate([a, np.zeros(2 * n + 6 - len(a))])
    if lam > 2:
        banded = _by_recurrence(a, n, lam)
        return banded.toarray() if dense else banded
    if lam == 0 and dense:
        reflected = np.lib.stride_tricks.sliding_window_view(0.5 * padded, n)[:n].copy()
        reflected[0] = 0.0
        return scipy.linalg.toeplitz(np.concatenate([[a[0]], 0.5 * padded[1:n]])) + reflected
    width = min(len(a), n) - 1
    d = np.arange(-width, width + 1)[:, None]  # row − column
    column = np.arange(n)[None, :]
    row = column + d
    span = np.broadcast_to(np.abs(d), row.shape)
    total = np.where(span == 0, a[0], 0.5 * padded[span])
    inside = (row >= 0) & (row < n)
    r = np.where(inside, row, 0)
    if lam == 0:
        total = total + np.where(r > 0, 0.5 * padded[r + column], 0.0)
    elif lam == 1:
        total = total - 0.5 * padded[r + column + 2]
    else:
        total = total - 0.5 * padded[r + column + 4] - _second_family(padded, r, column, span, d)
    row, column = np.broadcast_arrays(row, column)
    keep = inside & (total != 0.0)
    if dense:
        whole = np.zeros((n, n))
        whole[row[keep], column[keep]] = total[keep]
        return whole
    return sp.csr_matrix((total[keep], (row[keep], column[keep])), shape=(n, n))


def _second_family(padded: ndarray, r: ndarray, column: ndarray, span: ndarray, d: ndarray) -> Float[ndarray, "b n"]:
    """What T_j C^(2)_k has beside ½(C^(2)_{k+j} + C^(2)_{k−j}).

    From 2C^(2)_k = U'_{k+1} and the product rule it is (j/2) U_{j−1} U_{k+1}; U_{j−1}U_{k+1} = U_{|k+2−j|} + … +
    U_{k+j} in steps of 2 and U_r = (C^(2)_r − C^(2)_{r−2})/(r + 1).
    """
    weighted = np.arange(len(padded)) * padded
    running = np.zeros_like(weighted)
    running[0::2], running[1::2] = np.cumsum(weighted[0::2]), np.cumsum(weighted[1::2])
    inner = (running[r + column + 2] - running[span]) / ((r + 1.0) * (r + 3.0))
    top = np.where(d > 0, weighted[span] / (2.0 * (r + 1.0)), 0.0)
    bottom = np.where(d < 0, weighted[span], 0.0) + weighted[r + column + 4]
    return inner + top - bottom / (2.0 * (r + 3.0))


def _by_recurrence(a: ndarray, n: int, lam: int) -> sp.csr_matrix:
    size = n + len(a)
    k = np.arange(size, dtype=float)
    below, above = (k[:-1] + 1) / (2 * (k[:-1] + lam)), (k[1:] + 2 * lam - 1) / (2 * (k[1:] + lam))
    x = sp.diags([below, above], [-1, 1], (size, size), format="csr")
    previous, current = sp.identity(size, format="csr"), x
    total = a[0] * previous
    for j in range(1, len(a)):
        total = total + a[j] * current
        previous, current = current, 2.0 * (x @ current) - previous
    return total.tocsr()[:n, :n]


def operator(terms: Coefficients, n: int, length: float = 2.0) -> sp.csr_matrix | ndarray:
    """The first n rows and columns of Σ a_k ∂^k, from T_k to C^(m) coefficients, m the highest order.

    An array instead of a sparse matrix where a coefficient is so long that most entries differ from zero.
    """
    order = max(terms)
    size = n + 2 * order  # each conversion reaches two rows further
    width = max(1 if np.ndim(a) == 0 else len(np.asarray(a)) for a in terms.values())
    dense = 8 * width > n
    total = np.zeros((size, size)) if dense else sp.csr_matrix((size, size))
    for k in sorted(terms):  # Horner in the conversions
        a = terms[k]
        D = differentiation(size, k, length)
        product = float(a) * D if np.ndim(a) == 0 else multiplication(np.asarray(a), size, k, dense) @ D
        total = total + (product.toarray() if dense and sp.issparse(product) else product)
        if k < order:
            for lam in range(k, min(j for j in terms if j > k)):
                total = conversion(size, lam) @ total
    return total[:n, :n]


def to_ultraspherical(f: Float[ndarray, " m"], order: int, n: int) -> Float[ndarray, " n"]:
    """First n C^(order) coefficients of a function given by Chebyshev coefficients."""
    size = max(len(f), n + 2 * order)
    c = np.concatenate([f, np.zeros(size - len(f))])
    for lam in range(order):
        c = conversion(size, lam) @ c
    return c[:n]


def solve(
    terms: Coefficients,
    forcing: Float[ndarray, " m"],
    conditions: Sequence[Condition],
    n: int,
    length: float = 2.0,
) -> Float[ndarray, " n"]:
    """Chebyshev coefficients of the solution of degree n − 1.

    Raises UsageError unless there are as many conditions as the equation's order, LinAlgError where it is singular.
    """
    order = max(terms)
    if len(conditions) != order:
        raise UsageError(
            f"An equation of order {order} needs {order} end conditions; got {len(conditions)}; use least squares."
        )
    if n <= order + 1:
        raise UsageError(f"An equation of order {order} needs more than {order + 1} coefficients; got n = {n}.")
    A, f = operator(terms, n, length), to_ultraspherical(forcing, order, n)
    if order == 0:
        return _solve_banded(A, f)
    rows = np.stack([ends(n, c.order, c.side, length).numpy() for c in conditions])
    # The shortest polynomial that keeps the conditions, of least norm, carries their data.
    lift = np.zeros(n)
    lift[: order + 1] = scipy.linalg.lstsq(rows[:, : order + 1], np.array([c.value for c in conditions]))[0]
    R = recombination(rows)
    inner = _solve_banded((A @ R)[: n - order], (f - A @ lift)[: n - order])
    return lift + R @ inner


def recombination(rows: Float[ndarray, "K n"]) -> sp.csr_matrix:
    """n × (n − K): column k is T_k + Σ_{i=1..K} r_i T_{k+i} with all K rows zero on it."""
    K, n = rows.shape
    m = n - K
    windows = np.stack([rows[:, i : i + m].T for i in range(K + 1)], -1)  # (m, K, K+1)
    r = np.linalg.solve(windows[:, :, 1:], -windows[:, :, :1])[..., 0]
    return sp.diags([np.ones(m), *r.T], [-i for i in range(K + 1)], (n, m), format="csr")


def _solve_banded(A: sp.csr_matrix | ndarray, b: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
    if isinstance(A, ndarray):
        return scipy.linalg.lu_solve(scipy.linalg.lu_factor(A, check_finite=False), b, check_finite=False)
    coo = A.tocoo()
    n = len(b)
    shift = coo.row - coo.col
    low, high = int(max(shift.max(initial=0), 0)), int(max(-shift.min(initial=0), 0))
    if 2 * low + high >= n // 2:
        return _solve_banded(A.toarray(), b)
    band = np.zeros((low + high + 1, n))
    np.add.at(band, (high + shift, coo.col), coo.data)
    return scipy.linalg.solve_banded((low, high), band, b, overwrite_ab=True, check_finite=False)

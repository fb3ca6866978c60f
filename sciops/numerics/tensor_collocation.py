"""Second-order equations on boxes by collocation at tensor grids of Lobatto points, diagonalised axis by axis.

Σ_α c_α(x) ∂^α u = f at interior points; one row, Dirichlet or Neumann, at every end of every axis. The rows are solved
for the end values, which leaves one matrix per axis and f. Where the equation is Σ_j A_j + constant with A_j acting
along axis j alone, the eigenvectors of the A_j solve it directly in Σ_j n_j · Π n operations; otherwise such an
equation, made from means of the coefficients, preconditions GMRES.
Memory: 2–4 matrices n_j² per axis and, for GMRES, one tensor per direction. Fails where the means are a poor picture of
the coefficients: then GMRES says so.
Reference: Haidvogel & Zang, J. Comput. Phys. 30 (1979); Lynch, Rice & Thomas, Numer. Math. 6 (1964); Saad & Schultz,
SIAM J. Sci. Stat. Comput. 7 (1986).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus import Order
from sciops.numerics.chebyshev import differentiation_matrices, lobatto

Coefficients = Mapping[Order, Tensor]
"""Order of a derivative ↦ its factor at the interior points."""


def along(matrix: Tensor, u: Tensor, axis: int) -> Tensor:
    """A matrix applied along one axis of a tensor."""
    return torch.tensordot(matrix, u, dims=([1], [axis])).movedim(0, axis)


class Axis:
    """n Lobatto points on [lower, upper] with a condition at each end: which derivative is given there (0 or 1)."""

    def __init__(self, n: int, lower: float, upper: float, orders: tuple[int, int]) -> None:
        self.n, self.orders = n, orders
        self.x = lobatto(n, lower, upper)
        self.D = [torch.eye(n, dtype=torch.float64), *differentiation_matrices(n, 2, upper - lower)]
        rows = torch.stack([self.D[order][-side] for side, order in enumerate(orders)])
        # rows · u = g  ⇔  (u_first, u_last) = from_data · g + from_inner · u_inner
        self.from_data = torch.linalg.inv(rows[:, [0, n - 1]])
        self.from_inner = -self.from_data @ rows[:, 1:-1]

    def reduced(self, matrix: Float[Tensor, "n n"]) -> Float[Tensor, "m m"]:
        """Its action on interior values with zero data at the ends."""
        return matrix[1:-1, 1:-1] + matrix[1:-1][:, [0, self.n - 1]] @ self.from_inner


class TensorGrid:
    """The tensor product of axes: interior values, data on faces, and values everywhere."""

    def __init__(self, axes: Sequence[Axis]) -> None:
        self.axes = list(axes)
        self.ndim = len(self.axes)
        self.shape = tuple(axis.n for axis in self.axes)
        self.inner = tuple(n - 2 for n in self.shape)

    def points(self) -> Float[Tensor, "N d"]:
        """Interior points, row-major."""
        return torch.stack(torch.meshgrid(*(a.x[1:-1] for a in self.axes), indexing="ij"), -1).reshape(-1, self.ndim)

    def face_points(self, axis: int, side: int) -> Float[Tensor, "N d"]:
        """All points of a face, edges included, row-major in the other axes."""
        lines = [a.x[[-side]] if j == axis else a.x for j, a in enumerate(self.axes)]
        return torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).reshape(-1, self.ndim)

    def extend(self, v: Float[Tensor, "*m"], data: Mapping[tuple[int, int], Tensor] | None = None) -> Tensor:
        """Values at all points from interior values and data per (axis, side), each on all points of its face."""
        u = v
        for j, axis in enumerate(self.axes):
            inner = u.movedim(j, 0)
            end = torch.tensordot(axis.from_inner, inner, dims=1)
            if data is not None:
                # Axes before j are complete already, those after it still lack their ends.
                later = tuple(slice(None) if k < j else slice(1, -1) for k in range(self.ndim) if k != j)
                given = torch.stack([data[j, side][later] for side in (0, 1)])
                end = end + torch.tensordot(axis.from_data, given, dims=1)
            u = torch.cat([end[:1], inner, end[1:]]).movedim(0, j)
        return u

    def differentiate(self, u: Float[Tensor, "*n"], order: Order) -> Float[Tensor, "*m"]:
        """∂^α of values at all points, at the interior ones."""
        for j, times in enumerate(order):
            u = along(self.axes[j].D[times][1:-1], u, j) if times else u.narrow(j, 1, self.shape[j] - 2)
        return u

    def apply(self, terms: Coefficients, u: Float[Tensor, "*n"]) -> Float[Tensor, "*m"]:
        """Σ c_α ∂^α u at the interior points."""
        total = u.new_zeros(self.inner)
        for order, c in terms.items():
            total = total + c.reshape(self.inner) * self.differentiate(u, order)
        return total


@dataclass
class Diagonalised:
    """(Σ_j A_j + shift)⁻¹ on interior values, A_j = V_j Λ_j V_j⁻¹ along axis j."""

    vectors: list[Tensor]
    inverses: list[Tensor]
    symbol: Tensor

    def __call__(self, f: Float[Tensor, "*m"]) -> Float[Tensor, "*m"]:
        values = f.to(self.symbol.dtype)  # complex where one of the axes is
        for j, inverse in enumerate(self.inverses):
            values = along(inverse.to(values.dtype), values, j)
        values = values / self.symbol
        for j, vector in enumerate(self.vectors):
            values = along(vector.to(values.dtype), values, j)
        return values.real if values.is_complex() else values


def separable_part(terms: Coefficients, grid: TensorGrid) -> tuple[Diagonalised, bool]:
    """The inverse of the nearest equation Σ_j A_j + shift, and whether it is the equation itself.

    A_j = a_j(x_j) ∂_j² + b_j(x_j) ∂_j + c_j(x_j), each coefficient the mean over the other axes.
    """
    d, inner = grid.ndim, grid.inner
    size = max(float(c.abs().max()) for c in terms.values())
    exact = all(sum(k > 0 for k in order) <= 1 for order in terms)
    zero = (0,) * d
    c0 = terms[zero].reshape(inner) if zero in terms else torch.zeros(inner, dtype=torch.float64)
    shift = float(c0.mean())
    remainder = c0 - shift
    matrices = []
    for j, axis in enumerate(grid.axes):
        others = [k for k in range(d) if k != j]
        A = torch.zeros((axis.n, axis.n), dtype=torch.float64)
        for times in (1, 2):
            order = tuple(times * int(k == j) for k in range(d))
            if order in terms:
                c = terms[order].reshape(inner)
                mean = c.mean(others)
                exact = exact and bool((c - _spread(mean, j, d)).abs().max() <= 1e-14 * size)
                A[1:-1] += mean[:, None] * axis.D[times][1:-1]
        potential = (c0 - shift).mean(others)
        remainder = remainder - _spread(potential, j, d)
        uniform = bool(potential.abs().max() <= 1e-14 * max(abs(shift), 1.0))
        matrices.append(axis.reduced(A) + (0.0 if uniform else torch.diag(potential)))
    exact = exact and bool(remainder.abs().max() <= 1e-14 * max(float(c0.abs().max()), 1.0))
    bases = [eigenbasis(A) for A in matrices]
    symbol = torch.full((1,) * d, shift, dtype=torch.float64)
    for j, (values, _, _) in enumerate(bases):
        symbol = symbol + _spread(values, j, d)
    return Diagonalised([v for _, v, _ in bases], [w for _, _, w in bases], symbol), exact


def eigenbasis(A: Float[Tensor, "m m"]) -> tuple[Tensor, Tensor, Tensor]:
    """λ, V, V⁻¹ with A = V diag(λ) V⁻¹; real where the eigenvalues are. A matrix that commutes with reversal (constant
    coefficients, equal conditions at both ends) is split into its even and odd halves: a quarter of the cost."""
    m = len(A)
    if m < 4 or float((A - A.flip(0, 1)).abs().max()) > 1e-10 * float(A.abs().max()):
        return _eig(A)
    half = m // 2
    eye = torch.eye(m, dtype=A.dtype)
    even = (eye[:, : m - half] + eye.flip(0)[:, : m - half]) / math.sqrt(2.0)
    if m % 2:
        even[:, -1] /= math.sqrt(2.0)
    odd = (eye[:, :half] - eye.flip(0)[:, :half]) / math.sqrt(2.0)
    parts = [(S, *_eig(S.T @ A @ S)) for S in (even, odd)]
    kinds = torch.complex128 if any(v.is_complex() for _, v, _, _ in parts) else A.dtype
    return (
        torch.cat([values.to(kinds) for _, values, _, _ in parts]),
        torch.cat([S.to(kinds) @ V.to(kinds) for S, _, V, _ in parts], 1),
        torch.cat([W.to(kinds) @ S.T.to(kinds) for S, _, _, W in parts]),
    )


def _eig(A: Float[Tensor, "m m"]) -> tuple[Tensor, Tensor, Tensor]:
    values, V = torch.linalg.eig(A)
    if not bool(values.imag.any()):
        values, V = values.real.contiguous(), V.real.contiguous()
    return values, V, torch.linalg.inv(V)


def _spread(values: Tensor, axis: int, ndim: int) -> Tensor:
    return values.reshape([-1 if k == axis else 1 for k in range(ndim)])


def gmres(
    apply: Callable[[Tensor], Tensor],
    b: Float[Tensor, "*m"],
    tol: float,
    maxiter: int,
    restart: int = 60,
    late: Callable[[], bool] = lambda: False,
) -> tuple[Float[Tensor, "*m"], float, int]:
    """x with A x = b for any linear map near the identity: x, ‖b − A x‖/‖b‖, iterations.

    Meant for a map that is preconditioned from the left, so that the residual is of the size of the error.
    """
    x, size, done = torch.zeros_like(b), float(b.norm()), 0
    if size == 0.0:
        return x, 0.0, 0
    r = b
    while True:
        beta = float(r.norm())
        if beta <= tol * size or done >= maxiter or late():
            return x, beta / size, done
        Q = [r / beta]
        H = torch.zeros((restart + 1, restart), dtype=b.dtype)
        best, y = beta, None
        for k in range(min(restart, maxiter - done)):
            w = apply(Q[k])
            for _ in range(2):  # once more against rounding
                for i, q in enumerate(Q):
                    h = (q * w).sum()
                    H[i, k] += h
                    w = w - h * q
            H[k + 1, k] = w.norm()
            done += 1
            rhs = torch.zeros(k + 2, dtype=b.dtype)
            rhs[0] = beta
            y = torch.linalg.lstsq(H[: k + 2, : k + 1], rhs[:, None]).solution[:, 0]
            best = float((H[: k + 2, : k + 1] @ y - rhs).norm())
            if best <= tol * size or float(H[k + 1, k]) <= 1e-300 or late():
                break
            Q.append(w / H[k + 1, k])
        if y is not None:
            for coefficient, q in zip(y, Q, strict=False):
                x = x + coefficient * q
        previous, r = beta, b - apply(x)
        if float(r.norm()) > 0.9 * previous:  # rounding, or no progress in a whole cycle
            return x, float(r.norm()) / size, done

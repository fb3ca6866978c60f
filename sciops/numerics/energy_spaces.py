"""Tensor-product function spaces on a box that vanish on its faces, and in which −Δ is inverted exactly."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.transforms import dct, dst
from sciops.numerics.variational import composite_gauss


class EnergySpace(ABC):
    """v = Σ_k c_k φ_k with φ_k = 0 on the faces; `points` and `weights` are the quadrature that goes with it.

    shape      of the coefficients, one number per axis
    expand     c ↦ v and ∇v at the points, (1 + d, N): linear and differentiable, so its adjoint is a reverse pass
    riesz      ℓ ↦ the c with ∫∇v·∇φ_k = ℓ_k: (−Δ)⁻¹ on the space
    """

    shape: tuple[int, ...]
    points: Float[Tensor, "N d"]
    weights: Float[Tensor, " N"]

    @abstractmethod
    def expand(self, c: Float[Tensor, "*k"]) -> Float[Tensor, "r N"]: ...

    @abstractmethod
    def riesz(self, dual: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]: ...

    @abstractmethod
    def evaluate(self, c: Float[Tensor, "*k"], x: Float[Tensor, "M d"]) -> Float[Tensor, " M"]:
        """v at any points."""

    def adjoint(self, slopes: Float[Tensor, "r N"]) -> Float[Tensor, "*k"]:
        """The transpose of `expand`."""
        with torch.enable_grad():
            c = torch.zeros(self.shape, dtype=torch.float64, device=slopes.device, requires_grad=True)
            (found,) = torch.autograd.grad(self.expand(c), c, slopes)
        return found


class SineSpace(EnergySpace):
    """φ_k = ∏ sin(πk_j(x_j − lo_j)/L_j), k_j = 1 … n_j − 1, with the trapezoidal rule on the (n+1)^d nodes.

    Everything by sine and cosine transforms, O(N log N). Spectral accuracy for integrands whose odd or even periodic
    continuation is smooth (zero boundary values, u = ∏ sin); otherwise the rule is of order 2.
    """

    def __init__(self, lower: Sequence[float], upper: Sequence[float], intervals: int) -> None:
        if intervals < 2:
            raise UsageError(f"SineSpace needs 2 or more intervals per axis; got {intervals}.")
        n, d = intervals, len(lower)
        self.lower, self.lengths = list(lower), [up - lo for lo, up in zip(lower, upper, strict=True)]
        self.shape = (n - 1,) * d
        t = torch.arange(n + 1, dtype=torch.float64) / n
        ends = torch.ones(n + 1, dtype=torch.float64)
        ends[0] = ends[-1] = 0.5
        axes = [lo + length * t for lo, length in zip(lower, self.lengths, strict=True)]
        self.points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, d)
        weights = torch.ones((), dtype=torch.float64)
        for length in self.lengths:
            weights = weights[..., None] * ends * (length / n)
        self.weights = weights.reshape(-1)
        self.kappa = [math.pi / length * torch.arange(1, n, dtype=torch.float64) for length in self.lengths]

    def _along(self, axis: int) -> Float[Tensor, "..."]:
        return self.kappa[axis].reshape([-1 if j == axis else 1 for j in range(len(self.shape))])

    def expand(self, c: Float[Tensor, "*k"]) -> Float[Tensor, "r N"]:
        fields = [self._synthesis(c, None)]
        fields += [self._synthesis(c * self._along(axis), axis) for axis in range(c.dim())]
        return torch.stack([field.reshape(-1) for field in fields])

    @staticmethod
    def _synthesis(c: Tensor, derived: int | None) -> Tensor:
        """Sine series along all axes, cosine series along the one that was differentiated."""
        for axis in range(c.dim()):
            cosine = axis == derived
            c = 0.5 * dct(_padded(c, axis), 1, (axis,)) if cosine else _padded(0.5 * dst(c, 1, (axis,)), axis)
        return c

    def riesz(self, dual: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]:
        squares = torch.zeros((), dtype=torch.float64)
        for axis in range(dual.dim()):
            squares = squares + self._along(axis) ** 2
        return dual / (squares * math.prod(0.5 * length for length in self.lengths))

    def evaluate(self, c: Float[Tensor, "*k"], x: Float[Tensor, "M d"]) -> Float[Tensor, " M"]:
        tables = [torch.sin((x[:, j : j + 1] - self.lower[j]) * k) for j, k in enumerate(self.kappa)]
        return _contract(c, tables)


class LegendreSpace(EnergySpace):
    """φ_k = (P_k − P_{k+2})/√(4k + 6) per axis, k < n, with Gauss–Legendre quadrature of more than n points.

    Spectral accuracy for smooth functions with any boundary values (beside a lift). −Δ is inverted by diagonalising the
    mass matrix of each axis, whose stiffness matrix is the identity. Cost O(n^{d+1}) per operation.
    Reference: Shen, SIAM J. Sci. Comput. 15 (1994); Lynch, Rice, Thomas, Numer. Math. 6 (1964).
    """

    def __init__(
        self, lower: Sequence[float], upper: Sequence[float], modes: int, quadrature: int | None = None
    ) -> None:
        if modes < 1:
            raise UsageError(f"LegendreSpace needs 1 or more modes per axis; got {modes}.")
        q = quadrature or math.ceil(1.5 * modes) + 4
        self.lower, self.upper, self.modes = list(lower), list(upper), modes
        self.shape = (modes,) * len(self.lower)
        self.points, self.weights = composite_gauss(lower, upper, 1, q)
        self.tables, self.slopes, self.vectors, self.values = [], [], [], []
        for lo, up in zip(lower, upper, strict=True):
            x, w = composite_gauss([lo], [up], 1, q)
            table, slope = self._functions(x[:, 0], lo, up)
            # Scaled so that ∫φ_k′φ_l′ = δ_kl on this axis whatever its length.
            values, vectors = torch.linalg.eigh(table.T @ (w[:, None] * table))
            self.tables.append(table)
            self.slopes.append(slope)
            self.vectors.append(vectors)
            self.values.append(values)

    def _functions(self, x: Float[Tensor, " M"], lo: float, up: float) -> tuple[Tensor, Tensor]:
        t = 2 * (x - lo) / (up - lo) - 1
        P = [torch.ones_like(t), t]
        for k in range(1, self.modes + 1):
            P.append(((2 * k + 1) * t * P[k] - k * P[k - 1]) / (k + 1))
        index = torch.arange(self.modes, dtype=torch.float64)
        stacked = torch.stack(P, -1)
        scale = math.sqrt((up - lo) / 2)
        table = scale * (stacked[:, : self.modes] - stacked[:, 2:]) / torch.sqrt(4 * index + 6)
        slope = -torch.sqrt(index + 1.5) * stacked[:, 1 : self.modes + 1] / scale
        return table, slope

    def expand(self, c: Float[Tensor, "*k"]) -> Float[Tensor, "r N"]:
        fields = [_tensor(c, self.tables)]
        for axis in range(c.dim()):
            fields.append(_tensor(c, [self.slopes[j] if j == axis else self.tables[j] for j in range(c.dim())]))
        return torch.stack([field.reshape(-1) for field in fields])

    def riesz(self, dual: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]:
        shapes = [[-1 if i == j else 1 for i in range(dual.dim())] for j in range(dual.dim())]
        mass = [values.reshape(shape) for values, shape in zip(self.values, shapes, strict=True)]
        # Eigenvalue of −Δ: Σ_j ∏_{i≠j} m_i.
        total = torch.zeros((), dtype=torch.float64)
        for j in range(dual.dim()):
            product = torch.ones((), dtype=torch.float64)
            for i in range(dual.dim()):
                product = product * (torch.ones_like(mass[i]) if i == j else mass[i])
            total = total + product
        inside = _tensor(dual, [vectors.T for vectors in self.vectors])
        return _tensor(inside / total, self.vectors)

    def evaluate(self, c: Float[Tensor, "*k"], x: Float[Tensor, "M d"]) -> Float[Tensor, " M"]:
        pairs = zip(self.lower, self.upper, strict=True)
        return _contract(c, [self._functions(x[:, j], lo, up)[0] for j, (lo, up) in enumerate(pairs)])


def _tensor(c: Tensor, tables: Sequence[Float[Tensor, "q n"]]) -> Tensor:
    """One matrix along each axis."""
    for axis, table in enumerate(tables):
        c = torch.tensordot(table, c, dims=([1], [axis])).movedim(0, axis)
    return c


def _contract(c: Tensor, tables: Sequence[Float[Tensor, "M n"]]) -> Float[Tensor, " M"]:
    """Σ_k c_k ∏_j tables_j[m, k_j] for every m."""
    found = torch.tensordot(tables[0], c, dims=([1], [0]))
    for table in tables[1:]:
        found = (found * table.reshape(*table.shape, *(1,) * (found.dim() - 2))).sum(1)
    return found


def _padded(c: Tensor, axis: int) -> Tensor:
    zero = torch.zeros_like(c.narrow(axis, 0, 1))
    return torch.cat([zero, c, zero], axis)

"""Right-hand sides for self-supervised training of preconditioners: A, b, and x = A⁻¹b where it is free."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.linear import LinearOperator
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.reductions import off_nullspace
from sciops.numerics.transforms import dct, dst

LOW, WEIGHT = 0.55, 9.0
"""The published emphasis: 5,500 of 10,000 vectors, those of the smallest Ritz values, are drawn nine times larger."""


@dataclass
class SystemBatch:
    """A x = b for n systems, b of unit 2-norm; x is None where only b is known."""

    A: LinearOperator
    b: Float[Tensor, "n *s"]
    x: Float[Tensor, "n *s"] | None = None

    def to(self, device: Any, **_: Any) -> "SystemBatch":
        """The batch on another device; Lightning calls this."""
        return SystemBatch(moved(self.A, device), self.b.to(device), None if self.x is None else self.x.to(device))


class Source(ABC):
    """Draws batches of systems; all randomness comes from the generator."""

    space: tuple[int, ...]

    @abstractmethod
    def sample(self, n: int, random: torch.Generator, dtype: torch.dtype = torch.float32) -> SystemBatch:
        """n fresh systems."""


class SineModes(Source):
    """b = S c / ‖S c‖₂ on the box with zero Dirichlet data one cell outside: S the orthonormal DST-I.

    c_k ~ N(0, w_k²), w = `weight` for the share `low` of the modes with the smallest eigenvalues, else 1: what Ritz
    vectors of this matrix converge to, exact and without a basis in memory. x = S Λ⁻¹ c comes for the same price.
    Cost O(N log N) per sample, nothing stored but Λ.
    """

    def __init__(self, space: tuple[int, ...], low: float = LOW, weight: float = WEIGHT) -> None:
        self.space = tuple(space)
        self.A = box_operator(self.space)
        axes = [2 - 2 * torch.cos(torch.pi * torch.arange(1, n + 1, dtype=torch.float64) / (n + 1)) for n in self.space]
        grids = torch.meshgrid(*axes, indexing="ij")
        self.eigenvalues = torch.stack(grids).sum(0)
        rank = self.eigenvalues.flatten().argsort(stable=True).argsort(stable=True)
        self.deviation = torch.where(rank < low * rank.numel(), weight, 1.0).to(torch.float64).reshape(self.space)

    def sample(self, n: int, random: torch.Generator, dtype: torch.dtype = torch.float32) -> SystemBatch:
        c = torch.randn((n, *self.space), generator=random, dtype=torch.float64) * self.deviation
        c = c / c.flatten(1).norm(dim=1).reshape(-1, *(1,) * len(self.space))
        axes = tuple(range(1, c.dim()))
        b, x = dst(c, 1, axes, orthonormal=True), dst(c / self.eigenvalues, 1, axes, orthonormal=True)
        return SystemBatch(repeated(self.A.to(dtype), n), b.to(dtype), x.to(dtype))


class RitzVectors(Source):
    """b = Σ c_i y_i / ‖·‖₂ with the Ritz vectors y_i of `m` Lanczos steps on one matrix: the published data.

    c_i ~ N(0, w_i²), w = `weight` for the share `low` with the smallest Ritz values. Null vectors are left out.
    manufactured   b = A Σ (c_i/θ_i) y_i instead, so that x is known; the same law where the vectors have converged
    Memory m·N float64 numbers, cost O(m² N): for small grids. Reference: Kaneda et al., ICML 2023.
    """

    def __init__(
        self,
        A: LinearOperator,
        m: int,
        seed: int = 0,
        low: float = LOW,
        weight: float = WEIGHT,
        manufactured: bool = False,
    ) -> None:
        if A.n != 1:
            raise UsageError(f"RitzVectors are of one matrix; got a batch of {A.n}, select one.")
        self.A, self.space, self.manufactured = A, tuple(A.space), manufactured
        self.values, self.vectors = ritz_pairs(A, m, seed)
        rank = torch.arange(len(self.values), device=self.values.device)
        self.deviation = torch.where(rank < low * len(rank), weight, 1.0).to(self.values.dtype)

    def sample(self, n: int, random: torch.Generator, dtype: torch.dtype = torch.float32) -> SystemBatch:
        c = torch.randn((n, len(self.values)), generator=random, dtype=torch.float64).to(self.values) * self.deviation
        A = repeated(self.A, n)
        if self.manufactured:
            return _manufactured(A, ((c / self.values) @ self.vectors).reshape(n, *self.space), dtype)
        b = (c @ self.vectors).reshape(n, *self.space)
        return SystemBatch(_cast(A, dtype), (b / _norm(b)).to(dtype))


class Manufactured(Source):
    """b = A x / ‖A x‖₂ for matrices of any kind and random x of many scales; no solve.

    x = Σ_k (1 + |k|²)^(−s/2) g_k cos-modes, g_k ~ N(0,1), exponent s uniform in `decay` for every sample (s = 2 makes b
    nearly white where A is a Laplacian); zero on cells that are no unknowns, off the null space. The matrix of a
    sample is drawn from the batch `A`. Cost O(N log N) and one application of A.
    """

    def __init__(self, A: LinearOperator, decay: tuple[float, float] = (1.0, 3.0)) -> None:
        self.A, self.space, self.decay = A, tuple(A.space), decay
        axes = [torch.arange(n, dtype=torch.float64) for n in self.space]
        self.wavenumber2 = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0) + 1.0

    def sample(self, n: int, random: torch.Generator, dtype: torch.dtype = torch.float32) -> SystemBatch:
        rows = torch.randint(self.A.n, (n,), generator=random)
        A = self.A.select(rows.to(self.A.device))
        share = torch.rand((n, *(1,) * len(self.space)), generator=random, dtype=torch.float64)
        s = self.decay[0] + share * (self.decay[1] - self.decay[0])
        modes = torch.randn((n, *self.space), generator=random, dtype=torch.float64) * self.wavenumber2 ** (-s / 2)
        x = dct(modes, 3, tuple(range(1, modes.dim())), orthonormal=True)
        return _manufactured(A, x.to(self.A.device, self.A.dtype), dtype)


def box_operator(space: tuple[int, ...], n: int = 1, dtype: torch.dtype = torch.float64) -> FaceOperator:
    """−h²Δ of 2d+1 points on a box whose neighbours outside hold 0: diagonal 2d, DST-I eigenvectors."""
    faces, sink = [], torch.zeros((n, *space), dtype=dtype)
    for axis, size in enumerate(space, start=1):
        w = torch.ones((n, *space), dtype=dtype)
        w.select(axis, size - 1).zero_()
        faces.append(w)
        for end in (0, size - 1):
            sink.select(axis, end).add_(1.0)
    return FaceOperator(tuple(faces), sink)


def ritz_pairs(A: LinearOperator, m: int, seed: int = 0) -> tuple[Float[Tensor, " k"], Float[Tensor, "k N"]]:
    """Ritz values, ascending, and orthonormal Ritz vectors (rows) of m Lanczos steps, reorthogonalised twice.

    The start is A·noise, so that everything lies in the range of A. Values below 1e-8 of the largest are left out.
    Ends early where the Krylov space does.
    """
    noise = torch.randn((1, *A.space), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    v = off_nullspace(A, A.matvec(noise.to(A.device, A.dtype))).flatten()
    basis = v.new_zeros((min(m, v.numel()), v.numel()))
    diagonal, side = [], []
    v = v / v.norm()
    for j in range(len(basis)):
        basis[j] = v
        w = A.matvec(v.reshape(1, *A.space)).flatten()
        diagonal.append(float(torch.dot(w, v)))
        known = basis[: j + 1]
        for _ in range(2):
            w = w - known.T @ (known @ w)
        length = float(w.norm())
        if length <= 1e-10 * max(map(abs, diagonal)):
            break
        side.append(length)
        v = w / length
    k = len(diagonal)
    off = torch.tensor(side[: k - 1], dtype=v.dtype)
    tridiagonal = torch.diag(torch.tensor(diagonal, dtype=v.dtype)) + torch.diag(off, 1) + torch.diag(off, -1)
    values, rotation = torch.linalg.eigh(tridiagonal.to(v.device))
    keep = values > 1e-8 * values[-1]
    return values[keep], rotation[:, keep].T @ basis[:k]


def repeated(A: LinearOperator, n: int) -> LinearOperator:
    """A batch of n times the one system of A."""
    return A.select(torch.zeros(n, dtype=torch.int64, device=A.device))


def moved(A: LinearOperator, device: Any) -> LinearOperator:
    """The operator on another device."""
    if torch.device(device) == A.device:
        return A
    if isinstance(A, FaceOperator):
        labels = None if A.labels is None else A.labels.to(device)
        return FaceOperator(tuple(w.to(device) for w in A.faces), A.sink.to(device), labels)
    if isinstance(A, StencilOperator):
        return StencilOperator(A.stencil.to(device), A.periodic, A.tags, A.nullspace)
    raise UsageError(f"Systems of {type(A).__name__} cannot move to another device; train on {A.device}.")


def _manufactured(A: LinearOperator, x: Tensor, dtype: torch.dtype) -> SystemBatch:
    if isinstance(A, FaceOperator):
        x = torch.where(A.active, x, 0.0)
    x = off_nullspace(A, x)
    b = A.matvec(x)
    size = _norm(b)
    size = torch.where(size > 0, size, 1.0)
    return SystemBatch(_cast(A, dtype), (b / size).to(dtype), (x / size).to(dtype))


def _cast(A: LinearOperator, dtype: torch.dtype) -> LinearOperator:
    if A.dtype == dtype:
        return A
    if isinstance(A, FaceOperator | StencilOperator):
        return A.to(dtype)
    raise UsageError(f"Systems of {type(A).__name__} are known in {A.dtype} only, but training runs in {dtype}.")


def _norm(b: Tensor) -> Tensor:
    return b.flatten(1).norm(dim=1).reshape(-1, *(1,) * (b.dim() - 1))

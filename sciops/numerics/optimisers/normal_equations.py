"""(JᵀJ + μI)⁻¹Jᵀw for one J and several μ: by Cholesky of the smaller Gram matrix, or by preconditioned CG."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.numerics.block_jacobian import Blocks
from sciops.numerics.least_squares import Chunked, Linearisation


@runtime_checkable
class DampedNormal(Protocol):
    """What a damped Gauss–Newton step needs of J."""

    def solve(self, mu: float, w: Tensor) -> tuple[Tensor, float]:
        """(JᵀJ + μ'I)⁻¹Jᵀw and μ' ≥ μ, the damping with which the matrix was positive definite in rounding."""
        ...

    def solve_parameters(self, mu: float, g: Tensor) -> tuple[Tensor, float]:
        """(JᵀJ + μ'I)⁻¹g and μ'."""
        ...


def gram(J: Float[Tensor, "M P"], rows: bool = False) -> Float[Tensor, "n n"]:
    """JᵀJ (P, P), or JJᵀ (M, M) with `rows`; only the lower triangle is filled on CPU.

    A symmetric rank-k update takes half the operations of a general product, and torch has none: on CPU it is BLAS
    dsyrk through SciPy, which reads J in place. Elsewhere a full product.
    """
    J = J.detach()
    if J.device.type != "cpu" or J.dtype != torch.float64:
        return J @ J.T if rows else J.T @ J
    from scipy.linalg.blas import dsyrk  # loaded here: `import sciops` stays light

    filled = dsyrk(1.0, J.contiguous().numpy().T, trans=1 if rows else 0)
    return torch.from_numpy(filled.T)


def factor(G: Float[Tensor, "n n"], mu: float) -> tuple[Float[Tensor, "n n"], float]:
    """Cholesky factor of G + μ'I; μ' is the smallest of μ, 10μ, 100μ, … that works in rounding."""
    # Where even the largest shift fails G is not finite; the caller sees a non-finite step.
    for _ in range(60):
        shifted = G.clone()
        shifted.diagonal().add_(mu)
        L, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0 and bool(torch.isfinite(L.diagonal()).all()):
            return L, mu
        mu = max(10 * mu, 1e-18)
    return torch.full_like(G, math.nan), mu


class Primal:
    """P × P: Cholesky of JᵀJ + μI. O(MP²) once, O(P³/3) per μ. The form for M ≥ P.

    `of` takes J, `blocked` its pieces, `summed` makes them one by one; `transpose` gives Jᵀw.
    """

    def __init__(self, G: Float[Tensor, "P P"], transpose: Callable[[Tensor], Tensor]) -> None:
        self.G, self.transpose = G, transpose
        self._factor: tuple[float, Tensor, float] | None = None

    @staticmethod
    def of(J: Float[Tensor, "M P"]) -> "Primal":
        return Primal(gram(J), lambda w: J.T @ w)

    @staticmethod
    def blocked(pieces: Sequence[tuple[Tensor, Blocks | Tensor]]) -> "Primal":
        """The form from pieces of J that stay in memory, of which blocks may vanish."""
        P = pieces[0][1].shape[1]
        total = pieces[0][0].new_zeros(P, P)
        for _, J in pieces:
            if isinstance(J, Blocks):
                J.add_gram(total)
            else:  # few rows, as a rule: boundary data and weak modes
                total.addmm_(J.T, J)
        sizes = [len(r) for r, _ in pieces]

        def transpose(w: Tensor) -> Tensor:
            parts = zip((J for _, J in pieces), w.split(sizes), strict=True)
            return torch.stack([J.transposed(v) if isinstance(J, Blocks) else J.T @ v for J, v in parts]).sum(0)

        return Primal(total, transpose)

    @staticmethod
    def summed(problem: Chunked, theta: Float[Tensor, " P"]) -> "tuple[Tensor, Primal]":
        """r and the form from pieces of J, of which no more than one exists at a time."""
        residuals = []
        G, g = theta.new_zeros(len(theta), len(theta)), torch.zeros_like(theta)
        for r_i, J_i in problem.chunks(theta):
            residuals.append(r_i)
            G += gram(J_i)
            g += J_i.T @ r_i
        r = torch.cat(residuals)

        def transpose(w: Tensor) -> Tensor:
            if w is r:
                return g
            total, first = torch.zeros_like(g), 0
            for r_i, J_i in problem.chunks(theta):
                total += J_i.T @ w[first : first + len(r_i)]
                first += len(r_i)
            return total

        return r, Primal(G, transpose)

    def solve(self, mu: float, w: Float[Tensor, " M"]) -> tuple[Float[Tensor, " P"], float]:
        return self.solve_parameters(mu, self.transpose(w))

    def solve_parameters(self, mu: float, g: Float[Tensor, " P"]) -> tuple[Float[Tensor, " P"], float]:
        if self._factor is None or self._factor[0] != mu:
            self._factor = (mu, *factor(self.G, mu))
        _, L, used = self._factor
        return torch.cholesky_solve(g[:, None], L)[:, 0], used


class Dual:
    """M × M: Jᵀ(JJᵀ + μI)⁻¹w, the same vector by the push-through identity. O(M²P) once. The form for M < P."""

    def __init__(self, J: Float[Tensor, "M P"]) -> None:
        self.J, self.K = J, gram(J, rows=True)
        self._factor: tuple[float, Tensor, float] | None = None

    def solve(self, mu: float, w: Float[Tensor, " M"]) -> tuple[Float[Tensor, " P"], float]:
        if self._factor is None or self._factor[0] != mu:
            self._factor = (mu, *factor(self.K, mu))
        _, L, used = self._factor
        return self.J.T @ torch.cholesky_solve(w[:, None], L)[:, 0], used

    def solve_parameters(self, mu: float, g: Float[Tensor, " P"]) -> tuple[Float[Tensor, " P"], float]:
        """Woodbury: (g − Jᵀ(JJᵀ + μI)⁻¹Jg)/μ, which cancels by about ελ₁/μ; two refinements bring the digits back."""
        x, used, rest = torch.zeros_like(g), mu, g
        for _ in range(3):
            inside, used = self.solve(mu, self.J @ rest)
            x = x + (rest - inside) / used
            rest = g - self.J.T @ (self.J @ x) - used * x
        return x, used


class NystromCG:
    """Conjugate gradients on JᵀJ + μI with a randomised Nyström preconditioner, from products with J and Jᵀ alone.

    JᵀJ ≈ U diag(λ) Uᵀ of rank ℓ from ℓ products with a Gaussian sketch; the preconditioner is
        (λ_ℓ + μ) U (diag(λ) + μ)⁻¹ Uᵀ + (I − UUᵀ),
    which leaves a condition number of about λ_{ℓ+1}/μ + 1. One sketch serves every μ.
    `rank` ℓ, `tolerance` of the relative residual, `most` iterations. Memory O(Pℓ).
    Not converged: the last iterate is still a descent direction; `converged` and `iterations` say so.
    Reference: Frangella, Tropp & Udell 2023, SIAM J. Matrix Anal. Appl. 44.
    """

    def __init__(
        self,
        products: Linearisation,
        parameters: Tensor,
        rank: int,
        tolerance: float,
        most: int,
        random: torch.Generator,
    ) -> None:
        self.products, self.tolerance, self.most = products, tolerance, most
        self.iterations, self.converged = 0, True
        P = parameters.numel()
        rank = min(rank, P, products.residual.numel())
        sketch = torch.randn(P, rank, generator=random, dtype=parameters.dtype).to(parameters.device)
        sketch = torch.linalg.qr(sketch).Q
        Y = self._normal(sketch)
        # The shift keeps the small Cholesky positive in rounding and is taken off the eigenvalues again.
        shift = max(float(torch.finfo(Y.dtype).eps * Y.norm()), torch.finfo(Y.dtype).tiny)
        Y = Y + shift * sketch
        middle = sketch.T @ Y
        L, used = factor(0.5 * (middle + middle.T), 0.0)
        B = torch.linalg.solve_triangular(L, Y.T, upper=False).T
        self.U, singular, _ = torch.linalg.svd(B, full_matrices=False)
        self.eigenvalues = (singular.square() - shift - used).clamp(min=0)

    def _normal(self, V: Tensor) -> Tensor:
        return self.products.transpose(self.products.forward(V))

    def _precondition(self, mu: float, x: Tensor) -> Tensor:
        inside = self.U.T @ x
        scale = (self.eigenvalues[-1] + mu) / (self.eigenvalues + mu)
        return x + self.U @ ((scale - 1) * inside)

    def solve(self, mu: float, w: Float[Tensor, " M"]) -> tuple[Float[Tensor, " P"], float]:
        return self.solve_parameters(mu, self.products.transpose(w[:, None])[:, 0])

    def solve_parameters(self, mu: float, g: Float[Tensor, " P"]) -> tuple[Float[Tensor, " P"], float]:
        x, residual = torch.zeros_like(g), g
        goal = self.tolerance * float(g.norm())
        z = self._precondition(mu, residual)
        direction, rho = z, residual @ z
        self.iterations, self.converged = 0, float(residual.norm()) <= goal
        while not self.converged and self.iterations < self.most:
            image = self._normal(direction[:, None])[:, 0] + mu * direction
            alpha = rho / (direction @ image)
            x, residual = x + alpha * direction, residual - alpha * image
            self.iterations += 1
            size = float(residual.norm())
            self.converged = size <= goal
            if not math.isfinite(size):
                break
            z = self._precondition(mu, residual)
            rho, before = residual @ z, rho
            direction = z + (rho / before) * direction
        return x, mu

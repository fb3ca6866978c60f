"""Matrices of time-harmonic waves: indefinite, and complex where waves leave the domain."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciops.core.linear import LinearOperator
from sciops.core.stencil_operator import StencilOperator

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class WaveStencil(StencilOperator):
    """A = L − M by stencils: L from −Δ, M from k², both symmetric; A is indefinite once k passes the first eigenvalue.

    `reaction` is the stencil of M; preconditioners shift it.
    """

    def __init__(
        self,
        stencil: Float[Tensor, "n k *s"],
        reaction: Float[Tensor, "n k *s"],
        periodic: tuple[bool, ...],
        tags: frozenset[str] | None = None,
        nullspace: str | None = None,
    ) -> None:
        super().__init__(stencil, periodic, tags, nullspace)
        self.reaction = reaction

    def select(self, index: Int[Tensor, " k"]) -> "WaveStencil":
        return WaveStencil(self.stencil[index], self.reaction[index], self.periodic, self.tags, self.nullspace)

    def to(self, dtype: torch.dtype) -> "WaveStencil":
        return WaveStencil(self.stencil.to(dtype), self.reaction.to(dtype), self.periodic, self.tags, self.nullspace)

    def to_complex(self, i: int = 0) -> "csr_matrix":
        """System i, which has no imaginary part."""
        return self.to_scipy(i)

    def reaction_matrix(self, i: int = 0) -> "csr_matrix":
        """M of system i."""
        return StencilOperator(self.reaction[i : i + 1], self.periodic, frozenset()).to_scipy()


class ComplexWaveStencil(LinearOperator):
    """(L − M − iB) u = f in real arithmetic: unknowns (2, *space) hold u_re and u_im.

    The imaginary equation is multiplied by −1, so that a complex symmetric matrix (L, M, B symmetric; not Hermitian)
    becomes the real symmetric

        [ L − M      B    ] [u_re]   [ f_re]
        [   B     −(L − M)] [u_im] = [−f_im],

    which is indefinite whatever k is: its spectrum is symmetric about zero. Conjugate gradients refuse it, minimal
    residuals and GMRES take it. `to_complex` and `from_complex` lead to solvers that compute in complex numbers, which
    have half the unknowns. Reference: Day, Heroux, SIAM J. Sci. Comput. 23 (2001), on equivalent real forms.
    """

    def __init__(self, real: WaveStencil, absorbing: Float[Tensor, "n k *s"]) -> None:
        self.real = real
        self.absorbing = StencilOperator(absorbing, real.periodic)
        self.n, self.space = real.n, (2, *real.space)
        self.dtype, self.device = real.dtype, real.device
        both = real.tags & self.absorbing.tags
        self.tags = frozenset({"symmetric"}) & both

    def matvec(self, x: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        re, im = x.unbind(1)
        return torch.stack(
            [
                self.real.matvec(re) + self.absorbing.matvec(im),
                self.absorbing.matvec(re) - self.real.matvec(im),
            ],
            1,
        )

    def diagonal(self) -> Float[Tensor, "n *s"]:
        return torch.stack([self.real.diagonal(), -self.real.diagonal()], 1)

    def select(self, index: Int[Tensor, " k"]) -> "ComplexWaveStencil":
        return ComplexWaveStencil(self.real.select(index), self.absorbing.stencil[index])

    def to_scipy(self, i: int = 0) -> "csr_matrix":
        from scipy.sparse import bmat

        A, B = self.real.to_scipy(i), self.absorbing.to_scipy(i)
        return bmat([[A, B], [B, -A]], format="csr")

    def to_complex(self, i: int = 0) -> "csr_matrix":
        """L − M − iB of system i."""
        return (self.real.to_scipy(i) - 1j * self.absorbing.to_scipy(i)).tocsr()

    def reaction_matrix(self, i: int = 0) -> "csr_matrix":
        """M of system i."""
        return self.real.reaction_matrix(i)


def complex_side(A: LinearOperator, b: Any) -> Any:
    """The complex vector (N,) that a flat real right-hand side of `A` stands for."""
    if not isinstance(A, ComplexWaveStencil):
        return b
    half = len(b) // 2
    return b[:half] - 1j * b[half:]


def real_answer(A: LinearOperator, u: Any) -> Any:
    """The flat real unknowns of `A` from a complex answer (N,)."""
    import numpy as np

    return np.concatenate([u.real, u.imag]) if isinstance(A, ComplexWaveStencil) else np.ascontiguousarray(u.real)

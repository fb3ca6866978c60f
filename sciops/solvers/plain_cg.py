"""Conjugate gradients without help, or with the diagonal."""

from sciops.numerics.krylov import ConjugateGradients, Jacobi
from sciops.solvers.discrete import Discrete


class PlainCG(Discrete):
    """A u = b by conjugate gradients; `jacobi=True` preconditions with diag A.

    O(1/h) iterations, more with contrast: the floor that every other method must beat.
    """

    def __init__(
        self, jacobi: bool = False, resolution: float = 1.0, tol: float = 1e-8, maxiter: int = 20_000, batch: int = 32
    ) -> None:
        super().__init__(ConjugateGradients(Jacobi() if jacobi else None), resolution, tol, maxiter, batch)
        self.jacobi = jacobi

    @property
    def method(self) -> str:
        return "JacobiCG" if self.jacobi else "PlainCG"

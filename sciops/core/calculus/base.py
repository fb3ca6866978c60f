"""The words in which a residual is written; each calculus gives them another meaning."""

from abc import ABC, abstractmethod
from typing import Any


class Calculus(ABC):
    """Derivatives of `u`, whatever `u` is: network values, grid values or a formal symbol.

    A residual uses only these methods and ordinary arithmetic, so it is written once:
    `return -d.div_flux(c.a, u) - c.f`. On a grid the boundary condition of u is part of its derivatives, so
    their argument is u itself and not a derivative or a power of it; coefficients stand in front.
    """

    @abstractmethod
    def partial(self, u: Any, order: tuple[int, ...]) -> Any:
        """∂^order u, one entry per space axis: (2, 0) is u_xx."""

    @abstractmethod
    def div_flux(self, a: Any, u: Any) -> Any:
        """∇·(a ∇u) for a scalar coefficient a."""

    def laplacian(self, u: Any) -> Any:
        """Δu."""
        total = None
        for axis in range(self.ndim):
            term = self.partial(u, tuple(2 if j == axis else 0 for j in range(self.ndim)))
            total = term if total is None else total + term
        return total

    def grad(self, u: Any) -> tuple[Any, ...]:
        """(u_x, u_y, …)."""
        axes = range(self.ndim)
        return tuple(self.partial(u, tuple(int(j == axis) for j in axes)) for axis in axes)

    @property
    @abstractmethod
    def ndim(self) -> int:
        """Number of space dimensions."""

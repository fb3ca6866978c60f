"""Diffusion with a reaction that derives from a convex potential, with manufactured solutions."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sciops.core.boundary import axis_names
from sciops.problems.manufactured import Manufactured


def product_of_sines(ndim: int) -> str:
    """sin(πx) sin(πy) … over the axes: zero on the faces of boxes with integer corners."""
    return "*".join(f"sin(pi*{name})" for name in axis_names(ndim))


@dataclass(frozen=True)
class Reaction(Manufactured):
    """−Δu + F′(u) = f in the box, u = g on its faces; u minimises ∫ ½|∇u|² + F(u) − f u.

    A subclass writes F, `potential`, and F′, `reaction`. Law: u is `exact_solution` (∏ sin πx_i where none is given),
    with `parameters` drawn per case. Up to ten dimensions: from four on give the cases a tiny grid, inputs come from
    the formula. Input: f; output: u.
    """

    ndim: int = 2
    exact_solution: str | None = None
    parameters: Mapping[str, Sequence[float]] = field(default_factory=dict)

    linear = False
    max_ndim = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exact_solution is None:
            object.__setattr__(self, "exact_solution", product_of_sines(self.ndim))

    @abstractmethod
    def reaction(self, u: Any) -> Any:
        """F′(u)."""

    @abstractmethod
    def potential(self, u: Any) -> Any:
        """F(u), convex."""

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return self.reaction(u) - d.laplacian(u)

    def energy(self, d: Any, u: Any, c: Any) -> Any:
        return 0.5 * sum(g**2 for g in d.grad(u)) + self.potential(u) - c.f * u

"""The Korteweg–de Vries equation of Zabusky and Kruskal, in space and time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.etdrk4 import Stage, fast_length
from sciops.problems.evolution import PeriodicEvolution


@dataclass(frozen=True)
class KdV(PeriodicEvolution):
    """u_t + u u_x + δ² u_xxx = 0, periodic in x on [−1, 1], t in [0, 1] the second axis, u(x, 0) = cos πx.

    The wave steepens and breaks into solitons of width about 0.05 for δ = 0.022; mass ∫u and momentum ∫u² are kept.
    Reference: `modes` Fourier modes and `steps` steps of ETDRK4; with the defaults the coefficients reach rounding at
    k ≈ 200 and halving the step moves u by less than 1e-11 relative. A smaller δ needs more of both; where the last
    coefficients are not small the reference refuses. Third derivatives in x: d.partial(u, (3, 0)).
    Reference: Zabusky, Kruskal, Phys. Rev. Lett. 15 (1965) 240–243.
    """

    delta: float = 0.022
    modes: int = 256
    steps: int = 20480

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise UsageError(f"KdV needs delta > 0; got {self.delta}.")
        if self.modes < 16 or self.steps < 2048:
            raise UsageError(f"KdV needs modes ≥ 16 and steps ≥ 2048; got {self.modes} and {self.steps}.")

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        return d.partial(u, (0, 1)) + u * d.partial(u, (1, 0)) + self.delta**2 * d.partial(u, (3, 0)) - c.f

    def initial(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return torch.cos(torch.pi * x)

    def initial_coefficients(self, modes: int) -> Tensor:
        c = torch.zeros(modes + 1, dtype=torch.float64)
        c[1] = -0.5  # cos πx = −cos π(x + 1)
        return c

    def symbol_of(self, k: Tensor) -> Tensor:
        return 1j * self.delta**2 * k**3

    def nonlinear(self, modes: int) -> Callable[[Tensor], Tensor]:
        n = fast_length(3 * modes + 1)  # squares do not alias
        slope = -0.5j * torch.pi * torch.arange(modes + 1, dtype=torch.float64)

        def square(v: Tensor) -> Tensor:
            u = torch.fft.irfft(v, n=n, norm="forward")
            return slope * torch.fft.rfft(u * u, norm="forward")[: modes + 1]

        return square

    def stages(self, coarser: int = 1) -> Sequence[Stage]:
        nodes = 1024
        steps = max(self.steps // (nodes * coarser), 1)
        return [Stage(1 / (nodes * steps), steps, nodes, self.modes)]

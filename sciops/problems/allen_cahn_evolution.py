"""The Allen–Cahn equation in space and time."""

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
class AllenCahnEvolution(PeriodicEvolution):
    """u_t = D u_xx + 5(u − u³), periodic in x on [−1, 1], t in [0, 1] the second axis, u(x, 0) = x² cos πx.

    The middle goes to u = 0 slowly, the sides to ±1, with interfaces of width √(2D/5) = 0.006 for D = 1e-4.
    u₀ is continuous over the period, but its slope jumps by 4 at x = ±1, so its Fourier coefficients fall like k⁻²
    only. The reference starts from their closed form and smooths them in stages whose steps grow with t: for t > 0.005
    the missing modes are below rounding; before, and within 1/`modes` of x = ±1, u is wrong by up to 4/(π² `modes`).
    At t = 0 it is u₀ itself.
    Reference solution: `modes` modes, `steps` steps a unit of time, more of them near t = 0. With the defaults doubling
    the modes moves u by 1e-10 relative in the mean square over x and t, halving the step by 1e-12.
    Reference: Raissi, Perdikaris, Karniadakis, J. Comput. Phys. 378 (2019) 686–707.
    """

    D: float = 1e-4
    modes: int = 4096
    steps: int = 2048

    def __post_init__(self) -> None:
        if not self.D * self.modes**2 >= 800:
            raise UsageError(
                f"AllenCahnEvolution needs D·modes² ≥ 800 for the kink of u₀; got D {self.D}, modes {self.modes}."
            )
        if self.steps < 1024:
            raise UsageError(f"AllenCahnEvolution needs steps ≥ 1024; got {self.steps}.")

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        return d.partial(u, (0, 1)) - self.D * d.partial(u, (2, 0)) - 5.0 * (u - u**3) - c.f

    def initial(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return x**2 * torch.cos(torch.pi * x)

    def initial_coefficients(self, modes: int) -> Tensor:
        """x² = Σ a_k cos πkx with a_0 = 1/3, a_k = 4(−1)^k/(πk)²; times cos πx shifts them by one, both ways."""
        k = torch.arange(1, modes + 2, dtype=torch.float64)
        a = torch.cat([torch.full((1,), 1 / 3, dtype=torch.float64), 4 * (-1) ** k / (torch.pi * k) ** 2])
        c = torch.empty(modes + 1, dtype=torch.float64)
        c[0] = a[1] / 2
        c[1] = a[0] + a[2] / 2
        c[2:] = (a[1:modes] + a[3:]) / 2
        sign = (-1.0) ** torch.arange(modes + 1, dtype=torch.float64)  # cos πkx = (−1)^k cos πk(x + 1)
        c = c * sign
        return torch.cat([c[:1], c[1:] / 2])

    def symbol_of(self, k: Tensor) -> Tensor:
        return (5.0 - self.D * k**2).to(torch.complex128)

    def nonlinear(self, modes: int) -> Callable[[Tensor], Tensor]:
        n = fast_length(2 * modes + 1)

        def cube(v: Tensor) -> Tensor:
            u = torch.fft.irfft(v, n=n, norm="forward")
            return -5.0 * torch.fft.rfft(u**3, norm="forward")[: modes + 1]

        return cube

    def stages(self, coarser: int = 1) -> Sequence[Stage]:
        """Intervals of stored times double from 2⁻¹⁵ to 2⁻⁹, 32 of each but the last; `coarser` thins modes too."""
        stored = [(2.0**-15, 32)] + [(2.0**-j, 32) for j in range(15, 9, -1)] + [(2.0**-9, 480)]
        plan = []
        for H, nodes in stored:
            steps = max(round(self.steps * H) // coarser, 1)
            share = 1 if H < 2.0**-11 else 2 if H < 2.0**-9 else 4  # high modes have died out by then
            plan.append(Stage(H / steps, steps, nodes, self.modes // max(coarser, share)))
        return plan

"""Implicit–explicit steps of order two for û_k′ = λ_k û_k + N(û)_k: Crank–Nicolson for λ, Heun for N."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


class CrankNicolsonHeun:
    """One step of size h: the trapezoid rule for λû, Heun's predictor and corrector for N.

        (1 − hλ/2) a  = (1 + hλ/2) û + h N(û)
        (1 − hλ/2) û' = (1 + hλ/2) û + h/2 (N(û) + N(a))

    Order 2; no step limit from λ ≤ 0. Heun's method amplifies oscillations of frequency μ by (hμ)⁴/8 a step, so it is
    no scheme for long inviscid runs. λ is real; complex states are handed over as pairs of real numbers.
    Cost: two evaluations of N a step.
    """

    def __init__(
        self,
        symbol: Float[Tensor, "*k"],
        nonlinear: Callable[[Shaped[Tensor, "..."]], Shaped[Tensor, "..."]],
        h: float,
    ) -> None:
        self.nonlinear = nonlinear
        implicit = 1 - h / 2 * symbol
        self.whole, self.predict = (1 + h / 2 * symbol) / implicit, h / implicit
        self.correct = self.predict / 2

    def to(self, dtype: torch.dtype) -> "CrankNicolsonHeun":
        """The same step with coefficients of another precision."""
        for name in ("whole", "predict", "correct"):
            setattr(self, name, getattr(self, name).to(dtype))
        return self

    def step(self, v: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        carried = self.whole * v
        Nv = self.nonlinear(v)
        Na = self.nonlinear(torch.addcmul(carried, self.predict, Nv))
        return carried.addcmul_(self.correct, Nv.add_(Na))

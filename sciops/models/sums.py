"""Trial functions that are sums of others."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.calculus.forward import Key, Request
from sciops.core.errors import UsageError
from sciops.models.trial import Tape, Trial


class Sum(Trial):
    """u = Σ_k a_k N_k(x): capacity that grows while it is trained.

    The a_k are fixed numbers: a trained factor would repeat what the last layer of N_k does. A new network of about the
    size of the error, a = ‖r‖ / ‖r₀‖, starts as a small correction (multistage training). `grow(net, a)` appends one,
    `grow(net, a, freeze=True)` stops training the others. Cost: the sum of the parts.
    Reference: Wang & Lai, "Multi-stage neural networks: Function approximator of machine precision", J. Comput. Phys.
    504 (2024) 112865.
    """

    def __init__(self, nets: Sequence[Trial], scales: Sequence[float] | None = None) -> None:
        super().__init__()
        factors = [1.0] * len(nets) if scales is None else [float(a) for a in scales]
        if not nets or len(factors) != len(nets) or len({(net.ndim, net.channels) for net in nets}) > 1:
            raise UsageError(
                f"Sum needs one scale per net and nets of the same ndim and channels; got {len(nets)} nets with "
                f"{[(net.ndim, net.channels) for net in nets]} and {len(factors)} scales."
            )
        self.ndim, self.channels = nets[0].ndim, nets[0].channels
        self.nets = nn.ModuleList(nets)
        self.scales = factors

    def grow(self, net: Trial, scale: float = 1.0, freeze: bool = False) -> "Sum":
        """Appends a network in place; an optimiser must be made anew afterwards."""
        if (net.ndim, net.channels) != (self.ndim, self.channels):
            raise UsageError(
                f"The new net has (ndim, channels) = {(net.ndim, net.channels)}; the sum has "
                f"{(self.ndim, self.channels)}."
            )
        if freeze:
            self.nets.requires_grad_(False)
        self.nets.append(net)
        self.scales.append(float(scale))
        return self

    def get_extra_state(self) -> list[float]:
        return list(self.scales)

    def set_extra_state(self, state: list[float]) -> None:
        self.scales = list(state)

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N c"]:
        parts = [a * net(x) for a, net in zip(self.scales, self.nets, strict=True)]
        return torch.stack(parts).sum(0)

    def derivatives(
        self, x: Float[Tensor, "N d"], request: Request, tape: Tape | None = None
    ) -> dict[Key, Float[Tensor, "N c"]]:
        total: dict[Key, Tensor] = {}
        for a, net in zip(self.scales, self.nets, strict=True):
            for key, value in cast(Trial, net).derivatives(x, request, tape).items():
                total[key] = a * value if key not in total else torch.add(total[key], value, alpha=a)
        return total

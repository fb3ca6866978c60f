"""The programs of operators and directions: a network with all that belongs to it, tensors in and tensors out."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sciops.models.boundary import enforce_dirichlet


class Solve(nn.Module):
    """input (1, c_in, *space) → output (1, c_out, *space) in physical units: D(G_θ(E(a))), Dirichlet values last."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.encoder, self.net, self.decoder = (copy.deepcopy(m) for m in (module.encoder, module.net, module.decoder))
        self.wall = module._wall

    def forward(self, x: Tensor) -> Tensor:
        u = self.decoder.decode(self.net(self.encoder.encode(x)))
        return enforce_dirichlet(u, *self.wall) if self.wall else u


class Step(Solve):
    """One call of a one-step operator: h frames oldest first, then coefficients, parameters and the time of the present
    as channels in, the next `block` frames as channels out; increments are added to the present."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        facts = module.facts
        self.frames = facts["history"] * len(facts["outputs"])
        self.history, self.channels = facts["history"], len(facts["outputs"])
        self.residual, self.time_axis, self.clock = facts["residual"], facts["time_axis"], facts["time"]
        self.every = float(facts["every"])

    def forward(self, x: Tensor) -> Tensor:
        frames = x[:, : self.frames].unflatten(1, (self.history, self.channels))
        if not self.time_axis:
            u = super().forward(x).unflatten(1, (-1, self.channels))
        else:
            u = super().forward(self._along_time(x, frames)).transpose(1, 2)
        return (frames[:, -1:] + u if self.residual else u).flatten(1, 2)

    def _along_time(self, x: Tensor, frames: Tensor) -> Tensor:
        fixed = x[:, self.frames :, None].expand(-1, -1, self.history, *x.shape[2:])
        if self.clock:
            ages = self.every * torch.arange(1 - self.history, 1, dtype=x.dtype)
            moments = fixed[:, -1:] + ages.reshape(1, 1, -1, *(1,) * (x.dim() - 2))
            fixed = torch.cat([fixed[:, :-1], moments], 1)
        return torch.cat([frames.transpose(1, 2), fixed], 1)


class Apply(nn.Module):
    """residual (1, 1, *space) and mask of unknowns, 1 or 0 → direction (1, 1, *space), zero where there is none."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)

    def forward(self, r: Tensor, mask: Tensor) -> Tensor:
        return self.net(r, mask[:, 0] > 0.5)


def in_precision(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy whose real and complex parameters and buffers have this precision; integers stay."""
    module = copy.deepcopy(module).cpu().eval()
    double = dtype == torch.float64
    complexes = torch.complex128 if double else torch.complex64

    def convert(t: Tensor) -> Tensor:
        return t.to(complexes) if t.is_complex() else t.to(dtype) if t.is_floating_point() else t

    return module._apply(convert)

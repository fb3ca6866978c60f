"""A neural operator as the direction of flexible conjugate gradients."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sciops.core.config import build
from sciops.core.errors import UsageError


class ResidualOperator(nn.Module):
    """d = s G(r/s, χ) ≈ c A⁻¹ r:  G an operator network, s the root mean square of r, χ where the unknowns are.

    G sees two channels, the residual at unit size and the cells that have a row (ones where none are masked); the mask
    holds before and after, and f(c r) = c f(r) for c > 0 whatever biases and normalisations G has. With an operator
    in Fourier space, the energy loss and residuals of the solver (`ConjugateDirections` with `harvest`) this is the
    recipe of FCG-NO: unlike `DCDM` such a network sees the whole grid at once, and where the solids are.

    net    {class_path, init_args} of a network (n, 2, *space) → (n, 1, *space), or a module; in_channels=2,
           out_channels=1 and, where it takes it, ndim are filled in
    ndim   dimension of the grids

    Cost and grid sizes are those of G. Neither linear nor symmetric: for flexible methods only.
    Reference: Rudikov, Fanaskov, Muravleva, Laevsky, Oseledets, "Neural operators meet conjugate gradients: the FCG-NO
    method for efficient PDE solving", ICML 2024.
    """

    def __init__(self, net: Mapping[str, Any] | nn.Module, ndim: int = 2) -> None:
        super().__init__()
        self.ndim = ndim
        if not isinstance(net, nn.Module):
            given = dict(net.get("init_args") or {})
            wrong = {
                k: v for k, v in {"in_channels": 2, "out_channels": 1, "ndim": ndim}.items() if given.get(k, v) != v
            }
            if wrong:
                raise UsageError(f"A ResidualOperator needs a net with {wrong}; leave these arguments out.")
            arguments = {"in_channels": 2, "out_channels": 1, "ndim": ndim} | given
            # Files name this class and what is in it: modules that the program has not imported stay closed.
            net = build({**net, "init_args": arguments}, nn.Module, trusted=False)
        self.net = net

    def forward(
        self, r: Float[Tensor, "n 1 *s"], active: Bool[Tensor, "m *s"] | None = None
    ) -> Float[Tensor, "n 1 *s"]:
        if r.dim() != self.ndim + 2:
            raise UsageError(f"This network was made for {self.ndim}-D grids; got a {r.dim() - 2}-D one.")
        mask = torch.ones_like(r, dtype=torch.bool) if active is None else active[:, None].expand_as(r)
        r = torch.where(mask, r, 0.0)
        shape = (-1, *(1,) * (r.dim() - 1))
        # The largest entry goes first: squares of small float32 numbers would underflow.
        top = r.abs().flatten(1).amax(1).reshape(shape)
        top = torch.where(top > 0, top, 1.0)
        scaled = r / top
        count = mask.flatten(1).sum(1).clamp(min=1)
        size = (scaled.square().flatten(1).sum(1) / count).sqrt().reshape(shape)
        scaled = scaled / torch.where(size > 0, size, 1.0)
        d = self.net(torch.cat([scaled, mask.to(r.dtype)], 1)) * (size * top)
        return torch.where(mask, d, 0.0)

"""The network of the learned multigrid: from local stencils to relaxation, interpolation and coarse scales."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.numerics.differentiable_multigrid import Advice, to_blocks

DECADES = 8.0
"""Couplings of 10^-8 of the diagonal and less look like none to the network."""

RELAXATION, TILT, SCALE = 0.9, 4.0, 0.4
"""Bounds of what is said: ω = 1 ± 0.9, logarithms of weight multipliers ± 4, of the coarse scale ± 0.4."""


class StencilAdviser(nn.Module):
    """advice_I = F(stencils of block I and its neighbours): what a multigrid level should do, from its matrix.

    A block is 2^d points, so the network is evaluated once per coarse point. Inputs are the stencil entries divided by
    the diagonal, on a logarithmic scale with their sign, the row sum and the diagonal relative to the block; invariant
    to the scale of A. A linear layer, one depth-wise 3^d convolution over blocks, two linear layers. The same weights
    serve all levels and grid sizes. The last layer starts at zero, and zero output is the untrained method exactly.
    Outputs pass through tanh, so that any weights give admissible advice; where an output is not finite, the neutral
    value is taken and counted in `ignored`. The coarse scale is one number per level, from the mean over blocks.
    No symmetry under reflections is built in, on purpose: a point in the middle of a one-cell channel does best to
    follow one side, and a network that is equivariant cannot choose between two equal ones.

    ndim, width: 2 or 3 axes, hidden channels. Cost per block: width·(2^d·(3^d + 1) + 3^d + width + 3^d + 2^d) products.
    `forward` takes stencils (n, 3^d, *space) of any size and dtype; the arithmetic is that of the weights.
    Reference: Greenfeld et al., ICML 2019 (interpolation from local stencils); bounds: Young (1971) for 0 < ω < 2.
    """

    def __init__(self, ndim: int = 2, width: int = 32) -> None:
        super().__init__()
        if ndim not in (2, 3):
            raise UsageError(f"ndim must be 2 or 3; got {ndim}.")
        self.ndim, self.width, self.ignored = ndim, width, 0
        convolution = nn.Conv2d if ndim == 2 else nn.Conv3d
        self.read = nn.Linear(2**ndim * (3**ndim + 1), width)
        self.look = convolution(width, width, 3, padding=1, groups=width)
        self.think = nn.Linear(width, width)
        self.say = nn.Linear(width, 2**ndim + 3**ndim - 1 + 1)
        nn.init.zeros_(self.say.weight)
        nn.init.zeros_(self.say.bias)

    def forward(self, stencil: Float[Tensor, "n k *s"]) -> Advice:
        if stencil.dim() - 2 != self.ndim:
            raise UsageError(
                f"This network was made for {self.ndim}-D stencils and was given a {stencil.dim() - 2}-D one; use "
                f"StencilAdviser(ndim={stencil.dim() - 2}) with weights trained there."
            )
        said = self.say_of(features(stencil, self.read.weight.dtype))
        good = torch.isfinite(said)
        if not bool(good.all()):
            self.ignored += int((~good).sum())
            said = torch.where(good, said, 0.0)
        return self.bounded(said, stencil.dtype)

    def say_of(self, x: Float[Tensor, "n *k c"]) -> Float[Tensor, "n out *k"]:
        """The unbounded answer to features: relaxation, tilts and scale of every block."""
        hidden = torch.relu(self.read(x))
        hidden = hidden + self.look(hidden.movedim(-1, 1)).movedim(1, -1)
        hidden = torch.relu(self.think(torch.relu(hidden)))
        return self.say(hidden).movedim(-1, 1)

    def bounded(self, said: Float[Tensor, "n out *k"], dtype: torch.dtype) -> Advice:
        """Admissible advice from any finite answer."""
        points = 2**self.ndim
        scale = torch.exp(SCALE * torch.tanh(said[:, -1].flatten(1).mean(1))).to(dtype)
        said = torch.tanh(said[:, :-1]).to(dtype)
        return Advice(1.0 + RELAXATION * said[:, :points], TILT * said[:, points:], scale)


def features(stencil: Float[Tensor, "n k *s"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "n *k c"]:
    """(n, *blocks, 2^d·(3^d + 1)): what the network sees of every block; between −1 and 1."""
    ndim, entries = stencil.dim() - 2, stencil.shape[1]
    centre = entries // 2
    diagonal = stencil[:, centre]
    positive = diagonal > 0
    inverse = torch.where(positive, 1.0 / torch.where(positive, diagonal, 1.0), 0.0)
    blocks = tuple((m + 1) // 2 for m in stencil.shape[2:])
    seen = torch.zeros((len(stencil), entries + 1, 2**ndim, *blocks), dtype=dtype, device=stencil.device)
    others = [k for k in range(entries) if k != centre]
    # Entry by entry, so that the passes stay in cache; those that are zero throughout look like none as they are.
    for place, k in enumerate(others):
        if stencil[:, k].count_nonzero():
            seen[:, place] = to_blocks(_signed((stencil[:, k] * -inverse).to(dtype)), ndim)
    seen[:, -2] = to_blocks(_signed((stencil.sum(1) * inverse).to(dtype)), ndim)
    sizes = to_blocks(diagonal, ndim)
    largest = sizes.amax(1, keepdim=True)
    relative = (sizes / torch.where(largest > 0, largest, 1.0)).to(dtype)
    seen[:, -1] = relative.clamp_(min=10.0**-DECADES).log10_().div_(DECADES).add_(1.0)
    return seen.flatten(1, 2).movedim(1, -1)


def _signed(ratios: Tensor) -> Tensor:
    """±(1 + log10 |x| / DECADES), 0 for x = 0."""
    return ratios.abs().clamp_(10.0**-DECADES, 10.0).log10_().div_(DECADES).add_(1.0).copysign_(ratios)

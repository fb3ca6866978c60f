"""Maps of the channels at every point alone: operators already, on any domain."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ChannelLinear(nn.Module):
    """g(x) = W f(x) + b, a convolution of size one for any number of axes."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        return self.conv(x.flatten(2)).unflatten(2, x.shape[2:])


class ChannelMLP(nn.Module):
    """g(x) = W₂ GELU(W₁ f(x) + b₁) + b₂."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int):
        super().__init__()
        self.inner, self.outer = ChannelLinear(in_channels, hidden), ChannelLinear(hidden, out_channels)

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        return self.outer(F.gelu(self.inner(x)))


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of every point."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *s"]:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)

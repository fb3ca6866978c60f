"""Any convolutional network, compressed before training, as a network of the library."""

import inspect
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.config import build, chosen, resolve_class
from sciops.models.compressed.compress import compress
from sciops.models.compressed.scheme import Rank


class Compressed(nn.Module):
    """G_θ with every convolution in factored form: `compress` for configuration files.

    net     {class_path, init_args}; in_channels, out_channels, ndim, bc, layout, frames and frame_channels are handed
            to it where it takes them and init_args do not name them
    scheme, rank, skip, keep_if_larger   see `compress`; the factors are drawn fresh

        net: {class_path: sciops.models.compressed.network.Compressed,
              init_args: {net: {class_path: sciops.models.wave_cnn.WaveCNN}, scheme: succession, rank: 24}}
    """

    def __init__(
        self,
        net: dict[str, Any] | str,
        scheme: str = "succession",
        rank: Rank = 0.5,
        skip: Sequence[str] = (),
        keep_if_larger: bool = False,
        in_channels: int = 1,
        out_channels: int = 1,
        ndim: int = 2,
        bc: str | Sequence[str] = "dirichlet",
        layout: str = "node",
        frames: int | None = None,
        frame_channels: int | None = None,
    ):
        super().__init__()
        table = chosen(net)
        accepted = inspect.signature(resolve_class(table["class_path"])).parameters
        facts: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "ndim": ndim,
            "bc": bc,
            "layout": layout,
        }
        facts |= {"frames": frames, "frame_channels": frame_channels}
        table["init_args"] = {k: v for k, v in facts.items() if k in accepted} | table["init_args"]
        dense = build(table, nn.Module)
        self.net = compress(dense, scheme, rank, skip=skip, inplace=True, keep_if_larger=keep_if_larger)

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        return self.net(x)

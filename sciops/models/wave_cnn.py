"""Plain convolutional simulator: a few wide kernels, the baseline that compression before training is measured on."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.boundary import REFLECT, REPLICATE, ZEROS, add_ghosts, ghost_mode, per_axis
from sciops.models.vcycle import CONV

FREE = "free"  # an absorbing side or the time axis: the last value goes on


def padding_modes(bc: str | Sequence[str], ndim: int, layout: str) -> tuple[str, ...]:
    """Ghost values of each axis: those of `ghost_mode`, and the last value repeated where the face is free."""
    kinds = (bc,) * ndim if isinstance(bc, str) else tuple(bc)
    checked = per_axis(["neumann" if kind == FREE else kind for kind in kinds], ndim, layout)
    return tuple(
        REPLICATE if kind == FREE else ghost_mode(same, layout) for kind, same in zip(kinds, checked, strict=True)
    )


class BoundaryConv(nn.Module):
    """Convolution onto the same grid whose ghost values follow the boundary condition of each axis.

    Where all axes have the same condition the convolution pads by itself, and its factors can each pad their own axis.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int], modes: Sequence[str]):
        super().__init__()
        if any(k < 1 or k % 2 == 0 for k in kernel):
            raise UsageError(
                f"A kernel that keeps the grid has an odd number of points along every axis; got {kernel}."
            )
        self.margins = tuple(k // 2 for k in kernel)
        self.modes = tuple(modes)
        alike = len(set(modes)) == 1
        self.outside = tuple(not alike and mode != ZEROS and m > 0 for mode, m in zip(modes, self.margins, strict=True))
        native = tuple(0 if out else m for out, m in zip(self.outside, self.margins, strict=True))
        self.conv = CONV[len(modes)](
            in_channels,
            out_channels,
            tuple(kernel),  # type: ignore[arg-type]
            padding=native,  # type: ignore[arg-type]
            padding_mode=self.modes[0] if alike else ZEROS,  # type: ignore[arg-type]
        )

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        for axis, (outside, margin, mode) in enumerate(zip(self.outside, self.margins, self.modes, strict=True), 2):
            least = {ZEROS: 1, REPLICATE: 1, REFLECT: margin + 1}.get(mode, margin)
            if x.shape[axis] < least:
                raise UsageError(
                    f"Axis {axis - 2} has {x.shape[axis]} points; padding '{mode}' of a kernel of {2 * margin + 1} "
                    f"needs {least}; use a smaller kernel along it, or bc 'free'."
                )
            if outside:
                x = add_ghosts(x, axis, margin, margin, mode)
        return self.conv(x)


class WaveCNN(nn.Module):
    """u_{t+1} = W_L ∗ σ(… σ(W_1 ∗ (u_{t−h+1}, …, u_t, a))), σ = GELU: `layers` convolutions of one width.

    As a one-step operator in 2-D the frames of the past are channels, in 3-D (`ndim: 3`) the first grid axis is time: a
    block of frames is mapped to the next block.

    width, layers, kernel   24, 4 and 7 (one number, or one for each axis): with two channels in and one out 60,049
                            parameters; a call sees layers · (kernel − 1)/2 points to each side, so that no front may go
                            further between frames
    bc, layout   ghost values, see `BoundaryConv`; "free" repeats the last value (open sides, the time axis)
    Cost O(layers · width² · kernel^d · points), which `compress` brings down. No normalisation, no skips and no
    coordinates: on periodic axes it commutes with shifts. UsageError where a kernel is wider than mirrored or wrapped
    padding allows.
    The layers of Boukraichi, Akkari, Casenave, Ryckelynck, "A priori compression of convolutional neural networks for
    wave simulators" (2023) are not public; this is our stand-in.
    """

    def __init__(
        self,
        in_channels: int = 2,
        out_channels: int = 1,
        width: int = 24,
        layers: int = 4,
        kernel: int | Sequence[int] = 7,
        ndim: int = 2,
        bc: str | Sequence[str] = "dirichlet",
        layout: str = "node",
        channels_last: bool = True,
    ):
        super().__init__()
        if layers < 1 or width < 1:
            raise UsageError(f"layers and width must be 1 or more; got {layers} and {width}.")
        modes = padding_modes(bc, ndim, layout)
        taps = (kernel,) * ndim if isinstance(kernel, int) else tuple(kernel)
        if len(taps) != ndim:
            raise UsageError(f"kernel takes one number, or one per axis ({ndim}); got {kernel!r}.")
        channels = [in_channels, *[width] * (layers - 1), out_channels]
        self.channels_last = channels_last and ndim == 2
        self.layers = nn.ModuleList(BoundaryConv(a, b, taps, modes) for a, b in pairwise(channels))

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        if x.ndim != 2 + len(self.layers[0].modes):  # type: ignore[arg-type]
            raise UsageError(
                f"grid {tuple(x.shape[2:])} has {x.ndim - 2} axes, the model was built for "
                f"ndim={len(self.layers[0].modes)}."  # type: ignore[arg-type]
            )
        if self.channels_last:  # dense and factored kernels of few channels run up to twice as fast so on a CPU
            x = x.contiguous(memory_format=torch.channels_last)
        *hidden, last = self.layers
        for layer in hidden:
            x = F.gelu(layer(x))
        return last(x)

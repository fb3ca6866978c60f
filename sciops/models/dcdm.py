"""The network of deep conjugate directions: a residual in, an approximate error out, two grids, nothing else."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.vcycle import CONV

BLOCKS = {"64": (1, 3, 2), "128": (2, 5, 3)}
"""Residual blocks before the coarsening, on the coarse grid and after it, by the name of the published network."""


class Block(nn.Module):
    """u + ReLU(C₂ ReLU(C₁ u)): the sum comes after the last ReLU."""

    def __init__(self, width: int, ndim: int, bias: bool) -> None:
        super().__init__()
        self.first, self.second = (CONV[ndim](width, width, 3, padding=1, bias=bias) for _ in range(2))

    def forward(self, u: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *s"]:
        return u + F.relu(self.second(F.relu(self.first(u))))


class DCDM(nn.Module):
    """d = f(r) ≈ c A⁻¹ r for a symmetric positive A, any c: residual (n, 1, *space) in, direction of equal shape out.

    Convolution 1→16, convolution + ReLU, P blocks, convolution + ReLU =: h; mean over 2^d cells, M blocks, nearest
    upsampling, + h; Q blocks, 1×1 convolution 16→1. Kernels of size 3, zeros outside the grid, one coarsening only:
    the receptive radius is some 20 cells ("64") or 33 ("128"), whatever the grid.

    size      "64" (P, M, Q = 1, 3, 2) or "128" (2, 5, 3), or three numbers
    ndim      1, 2 or 3; with biases 97,457 and 152,881 parameters in 3-D, 32,657 and 51,217 in 2-D
    faithful  as published: with biases, and the input divided by its 2-norm. The entries then shrink with the grid
              and the biases gain on them, so that the weights do not carry over to other sizes. By default there
              are no biases, the input is divided by its root mean square over active cells, and the output multiplied
              by it again: f(c r) = c f(r) for c > 0, in the range of float32 whatever the size of r.
    odd       ½ (f(r) − f(−r)), which makes f(−r) = −f(r) at twice the cost

    The network never sees the matrix; `active` (n, *space) masks the cells that are no unknowns, before and after.
    Any grid: an odd axis is continued by one layer of zeros at the coarsening. Cost per cell in 3-D: 61,000 ("64") or
    92,000 ("128") multiplications, some 10⁴ applications of a 7-point matrix. It fails by being a poor direction,
    for geometry and sizes far from training; it promises nothing by itself and belongs into flexible CG.
    Kaneda, Akar, Chen, Kala, Hyde, Teran, "A deep conjugate direction method for iteratively solving linear systems",
    ICML 2023.
    """

    def __init__(
        self,
        ndim: int = 2,
        size: str | list[int] | tuple[int, ...] = "64",
        width: int = 16,
        faithful: bool = False,
        odd: bool = False,
    ) -> None:
        super().__init__()
        if ndim not in CONV:
            raise UsageError(f"DCDM knows ndim {', '.join(map(str, CONV))}; got {ndim}.")
        blocks = BLOCKS.get(str(size)) if isinstance(size, str | int) else tuple(size)
        if blocks is None or len(blocks) != 3 or min(blocks) < 0 or width < 1:
            raise UsageError(f"DCDM size must be 64, 128 or three counts of blocks; got {size} of width {width}.")
        self.ndim, self.faithful, self.odd = ndim, faithful, odd

        def conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Module:
            return CONV[ndim](inputs, outputs, kernel, padding=kernel // 2, bias=faithful)

        def chain(count: int) -> nn.Sequential:
            return nn.Sequential(*(Block(width, ndim, faithful) for _ in range(count)))

        self.lift, self.enter, self.leave = conv(1, width), conv(width, width), conv(width, width)
        self.fine, self.coarse, self.out = (chain(count) for count in blocks)
        self.head = conv(width, 1, 1)
        if ndim == 2:  # convolutions of few channels run half as long again with the channels outside
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, r: Float[Tensor, "n 1 *s"], active: Bool[Tensor, "m *s"] | None = None
    ) -> Float[Tensor, "n 1 *s"]:
        if r.dim() != self.ndim + 2:
            raise UsageError(f"This DCDM network was made for {self.ndim}-D grids; got a {r.dim() - 2}-D one.")
        mask = None if active is None else active[:, None]
        if mask is not None:
            r = torch.where(mask, r, 0.0)
        scale = self._size(r, mask)
        x = r / scale
        f = 0.5 * (self.body(x) - self.body(-x)) if self.odd else self.body(x)
        f = f if self.faithful else f * scale
        return f if mask is None else torch.where(mask, f, 0.0)

    def body(self, x: Float[Tensor, "n 1 *s"]) -> Float[Tensor, "n 1 *s"]:
        """The network on input of unit size."""
        h = F.relu(self.leave(self.fine(F.relu(self.enter(self.lift(x))))))
        u = self.coarse(_halved(h))
        u = _doubled(u, tuple(h.shape[2:])) + h
        return self.head(self.out(u))

    def _size(self, r: Tensor, mask: Tensor | None) -> Tensor:
        """(n, 1, 1, …): root mean square over active cells, or 2-norm; 1 where r is zero."""
        shape = (-1, *(1,) * (self.ndim + 1))
        # The largest entry goes first: squares of small float32 numbers would underflow.
        top = r.abs().flatten(1).amax(1)
        top = torch.where(top > 0, top, 1.0)
        total = (r / top.reshape(shape)).square().flatten(1).sum(1)
        if not self.faithful:
            total = total / (r[0].numel() if mask is None else mask.flatten(1).sum(1).clamp(min=1))
        size = total.sqrt() * top
        return torch.where(size > 0, size, 1.0).reshape(shape)


def _halved(h: Tensor) -> Tensor:
    """Means over 2^d cells; an odd axis is continued by a layer of zeros."""
    # An exported program does not know whether n is odd: a layer that pooling leaves out costs it nothing.
    free = torch.compiler.is_exporting()
    pads = [side for n in reversed(h.shape[2:]) for side in (0, 1 if free else n % 2)]
    h = F.pad(h, pads) if any(pads) else h
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[h.dim() - 3]
    return pool(h, 2)


def _doubled(u: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Every value on 2^d cells, cropped to `shape`."""
    if torch.compiler.is_exporting():  # no crop, so no assumption about n
        for axis, n in enumerate(shape, start=2):
            u = u.index_select(axis, torch.arange(n, device=u.device) // 2)
        return u
    u = F.interpolate(u, scale_factor=2, mode="nearest")
    for axis, n in enumerate(shape, start=2):
        u = u.narrow(axis, 0, n)
    return u

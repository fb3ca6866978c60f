"""Fourier neural operator: neuraloperator's network behind guards against its known defects."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.boundary import per_axis


class FNO(nn.Module):
    """u = Q σ(… σ(W₁ v + F⁻¹ R₁ F v)),  v = P (a, x): Fourier layers between pointwise liftings P and Q.

    R_k multiplies the frequencies |k| < n_modes of every axis by a learnt matrix, W_k is pointwise, σ = GELU. The
    layers are those of neuraloperator 2.0 (imported when a model is built); around them this class

    * appends the coordinates of the layout, x ∈ [0, 1] per axis: "node" i/(n−1), both ends included; "cell"
      (i+½)/n; a periodic axis i/n (the library's grid always leaves out the end, and is turned off)
    * pads each non-periodic axis with zeros behind its end, by `padding` and one point more where the size would be
      odd, and crops the output (the library's transform is wrong for odd sizes on any axis but the last). The
      coordinates run on beyond 1 in the padding, so that the network can tell it from the domain
    * refuses an odd size on a periodic axis other than the last, where padding would break the period
    * refuses float64: the library would round its spectral part to single precision
    * keeps the library's `_metadata` entry, live objects, out of `state_dict`: it loads with weights_only=True

    n_modes  one number, or one per axis, in the published meaning: 12 keeps |k| < 12
    bc       "dirichlet", "neumann" or "periodic", for all axes or per axis; decides only the padding and the
             coordinates: no condition is enforced
    padding  zeros behind a wall: a number of points, or as a float a part of the domain's length, 0.25 for a quarter.
             Points are the published form, and another length on every grid: where a network is asked on other grids
             than its own, take a part
    Cost O(width² · n_modes^d + width · points · log points) per layer, parameters O(width² · n_modes^d) per layer.
    Not traceable by torch.fx; torch.export works, for one grid size. UsageError (a ValueError) on a refused grid or
    dtype.
    Li et al., "Fourier neural operator for parametric partial differential equations", ICLR 2021.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 32,
        layers: int = 4,
        n_modes: int | Sequence[int] = 12,
        ndim: int = 2,
        bc: str | Sequence[str] = "dirichlet",
        layout: str = "node",
        padding: int | float = 9,
    ):
        super().__init__()
        from neuralop.models import FNO as LibraryFNO

        modes = [n_modes] * ndim if isinstance(n_modes, int) else list(n_modes)
        if len(modes) != ndim or min(modes) < 1:
            raise UsageError(f"n_modes takes one positive number, or one per axis ({ndim}); got {n_modes!r}.")
        if width < 2:
            raise UsageError(
                f"width must be 2 or more (the pointwise network inside a layer has half of it); got {width}."
            )
        if padding < 0 or (isinstance(padding, float) and padding >= 1):
            raise UsageError(
                f"padding is a number of points (an integer, 0 or more) or a part of the domain's length (below 1.0); "
                f"got {padding}."
            )
        self.bc, self.layout, self.padding = per_axis(bc, ndim, layout), layout, padding
        # The library counts both signs of k, and on the last axis halves and adds one.
        both_signs = [2 * m for m in modes[:-1]] + [2 * (modes[-1] - 1)]
        self.net = LibraryFNO(
            n_modes=tuple(both_signs),
            in_channels=in_channels + ndim,
            out_channels=out_channels,
            hidden_channels=width,
            n_layers=layers,
            positional_embedding=None,
        )

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        ndim, shape = len(self.bc), x.shape[2:]
        if len(shape) != ndim:
            raise UsageError(f"grid {tuple(shape)} has {len(shape)} axes, the model was built for ndim={ndim}.")
        weight = next(self.parameters())
        if x.dtype != torch.float32 or weight.dtype != torch.float32:
            raise UsageError(
                f"FNO computes in float32 alone, and got {x.dtype} fields with {weight.dtype} weights: convert the "
                "fields with .float() and leave the model as built, or use MgNO for float64."
            )
        pads = [self._pad(axis, n) for axis, n in enumerate(shape)]
        ends = [amount for pad in reversed(pads) for amount in (0, pad)]
        v = torch.cat([F.pad(x, ends), self._coordinates(x, pads)], dim=1)
        u = self.net(v)
        for axis, n in enumerate(shape, start=2):
            u = u.narrow(axis, 0, n)
        return u

    def _pad(self, axis: int, n: int) -> int:
        """Zeros behind the end of an axis of n points, so that the transform sees an even size."""
        last = axis == len(self.bc) - 1
        if self.bc[axis] == "periodic":
            if n % 2 and not last:
                raise UsageError(
                    f"FNO cannot take {n} points on periodic axis {axis}: neuraloperator's transform is wrong for an "
                    "odd size on any axis but the last, and padding would break the period; resample to an even size."
                )
            return 0
        pad = self.padding
        if isinstance(pad, float):
            spacings = n + {"node": -1, "cell": 0}.get(self.layout, 1)
            pad = max(round(spacings * (1 + pad)) - n, 0)
        return pad + (n + pad) % 2

    def _coordinates(self, x: Tensor, pads: Sequence[int]) -> Tensor:
        """One coordinate channel per axis on the padded grid, shape (n, d, *padded)."""
        axes = []
        for n, pad, kind in zip(x.shape[2:], pads, self.bc, strict=True):
            index = torch.arange(n + pad, device=x.device, dtype=x.dtype)
            if kind == "periodic":
                axes.append(index / n)
            elif self.layout == "node":
                axes.append(index / max(n - 1, 1))
            else:
                axes.append((index + 0.5) / n if self.layout == "cell" else (index + 1) / (n + 1))
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        return grid.expand(x.shape[0], *grid.shape)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Tensors alone: the library adds a `_metadata` key that holds classes and functions."""
        state = super().state_dict(*args, **kwargs)
        state.pop("_metadata", None)
        return state

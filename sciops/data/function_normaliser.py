"""Normaliser whose mean and deviation are functions: fitted on one grid, used on any other of the same box."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Domain, Grid
from sciops.core.interpolate import interpolate, resample
from sciops.data.normalise import _Moments

KINDS = ("function", "channel")


class FunctionNormaliser(nn.Module):
    """z = (f − μ)/(σ + eps) at every resolution, kept as buffers of fixed shape in double precision.

    kind        μ and σ of each channel
    "function"  functions of x: mean and (unbiased) deviation over cases at the points of `grid`, interpolated linearly
                to other domains; the per-pixel normaliser that does not tie data to a grid
    "channel"   numbers: moments over cases and, by quadrature, over space; those of `Normaliser("channel")` count the
                walls of node grids too much

    `domain` may be left out where x lives on the box and layouts of `grid`. Fails on data whose statistics vary below
    the spacing of `grid`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, grid: Grid, channels: int = 1, kind: str = "function", eps: float = 1e-5) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UsageError(f"kind must be one of {', '.join(KINDS)}; got '{kind}'.")
        self.grid, self.kind, self.eps = grid, kind, eps
        shape = (channels, *(grid.shape if kind == "function" else (1,) * grid.ndim))
        self.register_buffer("shift", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(shape, dtype=torch.float64))

    def fit(self, batches: "Iterable[Tensor] | Tensor") -> "FunctionNormaliser":
        """Estimate from (n, c, *grid.shape) training data, whole or in batches; returns self."""
        moments = _Moments((0,))
        for batch in [batches] if isinstance(batches, Tensor) else batches:
            if tuple(batch.shape[1:]) != (len(self.shift), *self.grid.shape):
                raise UsageError(
                    f"This normaliser takes (cases, {len(self.shift)}, *{self.grid.shape}); got {tuple(batch.shape)}."
                )
            moments.add(batch)
        if moments.count < 2:
            raise UsageError("A normaliser needs at least two training cases.")
        mean, variance = moments.mean, moments.spread / (moments.count - 1)
        if self.kind == "channel":
            axes = tuple(range(1, mean.dim()))
            w = self.grid.weights(mean.dtype, mean.device) / self.grid.measure
            overall = (mean * w).sum(axes, keepdim=True)
            # Variance over cases and space: that within points and that between them, both in the biased form.
            within = variance * (moments.count - 1) / moments.count
            variance = ((within + (mean - overall).square()) * w).sum(axes, keepdim=True)
            mean = overall
        self.shift.copy_(mean)
        self.scale.copy_(variance.sqrt() + self.eps)
        return self

    def encode(self, x: Float[Tensor, "n c *s"], domain: Domain | None = None) -> Float[Tensor, "n c *s"]:
        """Physical values to normalised ones."""
        shift, scale = self._on(x, domain)
        return (x - shift) / scale

    def decode(self, z: Float[Tensor, "n c *s"], domain: Domain | None = None) -> Float[Tensor, "n c *s"]:
        """Normalised values to physical ones."""
        shift, scale = self._on(z, domain)
        return z * scale + shift

    forward = encode

    def _on(self, x: Tensor, domain: Domain | None) -> tuple[Tensor, Tensor]:
        if x.shape[1] != len(self.shift):
            raise UsageError(f"This normaliser was built for {len(self.shift)} channel(s) but met {x.shape[1]}.")
        if self.kind == "channel":
            shape = (-1,) + (1,) * (x.dim() - 2)
            return self.shift.to(x).view(shape), self.scale.to(x).view(shape)
        if domain is None:
            domain = self.grid.resized(tuple(x.shape[2:]))
        both = torch.stack([self.shift, self.scale])
        if isinstance(domain, Grid):
            moved = resample(both, self.grid, domain, "linear")
        else:
            moved = interpolate(both, self.grid, domain.points(torch.float64, both.device)[None], "linear")
        return moved[0].to(x), moved[1].to(x)

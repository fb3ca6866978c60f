"""One multi-channel V-cycle of convolutions: the linear map W of a multigrid neural operator.

The data f lives on levels l = 1 (finest) … J; a level has about half the points per axis of the one above it.
`Geometry` states how kernels meet the boundary and how two levels are aligned; `VCycle` holds the kernels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.boundary import REFLECT, REPLICATE, ZEROS, add_ghosts

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
convolve_transposed = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

Kernel = Any  # a convolution module or None: ModuleList does not carry the type of its elements


@dataclass(frozen=True)
class Geometry:
    """How kernels meet the boundary and how neighbouring levels are aligned.

    padding           per axis, the ghost values of the size-preserving kernels and of restriction: "zeros",
                      "reflect" (mirror about the edge point), "replicate" (mirror about the edge face), "circular"
    prolong_kernels   size of the transposed kernel from level l+1 to l, finest pair first (J-1 entries)
    restrict_kernel   3: coarse point i sits on fine point 2i; 4: between fine points 2i and 2i+1
    transfer_pad      1: n -> ceil(n/2); 0: coarse i sits on fine 2i+1, n -> floor((n-1)/2)
    prolong_ghosts    prolongation sees the same ghost values as the other kernels (False: zeros, as published)
    exact             the transposed kernel alone must give the finer size (as published: no cropping)
    """

    padding: tuple[str, ...]
    prolong_kernels: tuple[int, ...]
    restrict_kernel: int = 3
    transfer_pad: int = 1
    prolong_ghosts: bool = True
    exact: bool = False

    def coarser(self, n: int) -> int:
        """Points per axis on the next level."""
        return (n + 1) // 2 if self.transfer_pad else (n - 1) // 2

    def sizes(self, n: int) -> list[int]:
        """Points per axis on every level, finest first."""
        sizes = [n]
        for _ in self.prolong_kernels:
            sizes.append(self.coarser(sizes[-1]))
        return sizes

    def check(self, shape: Sequence[int]) -> None:
        """Raise UsageError if a grid of this shape does not carry all levels."""
        levels = len(self.prolong_kernels) + 1
        if len(shape) != len(self.padding):
            raise UsageError(
                f"grid {tuple(shape)} has {len(shape)} axes, the model was built for ndim={len(self.padding)}; "
                "pass fields of shape (cases, channels, *grid) with that many grid axes."
            )
        for n in shape:
            sizes = self.sizes(n)
            if sizes[-1] < 2:
                fits = sum(size >= 2 for size in sizes)
                raise UsageError(
                    f"grid {tuple(shape)} is too small for {levels} levels: an axis would shrink as "
                    f"{'→'.join(map(str, sizes))}, and the coarsest level needs 2 points; "
                    f"use at most {fits} levels (shorter `iterations`) or a finer grid."
                )
            if self.exact:
                for fine, coarse, kernel in zip(sizes, sizes[1:], self.prolong_kernels, strict=False):
                    if 2 * (coarse - 1) + kernel - 2 * self.transfer_pad != fine:
                        raise UsageError(
                            f"grid {tuple(shape)} does not fit the published {levels}-level V-cycle, whose kernel "
                            f"sizes {self.prolong_kernels} cannot prolong {coarse} points to {fine}; build it for "
                            "this n where the variant has an argument n, or use MgNO, which takes any grid size."
                        )


class VCycle(nn.Module):
    """u = W f: one V-cycle for "A u = f" with learnt kernels; linear in f without `bias` and `norm_shapes`.

    Level l smooths   u ← u + S (f − A u)   ν times (a state that is still zero needs no A: u = S f), then goes
    down by one of two rules, comes up by   u ← u + T u_coarse,   and smooths ν′ times again:

    restrict_residual=True    f_coarse = R (f − A u), u_coarse = 0: the coarse state is a correction (textbook)
    restrict_residual=False   f_coarse = R f, u_coarse = Π u: the whole coarse state is added (published code)

    Every A, S (size 3, all channels mixed), R, Π and T is a kernel of its own; `iterations` lists (ν, ν′) per
    level, finest first. `growth` gives level l = 1, 2, … l times the channels; `norm_shapes` puts a LayerNorm on
    that grid after each prolongation (neither linear nor free of resolution: for the published Navier–Stokes
    model); `keep_unused` allocates the A of the zero-state first step, as the published Helmholtz model does.
    Cost O(in_channels · out_channels · points), parameters O(in_channels · out_channels · levels). R and Π stay
    two convolutions: fused into one grouped convolution they measured slower on a CPU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        iterations: Sequence[tuple[int, int]],
        geometry: Geometry,
        restrict_residual: bool = False,
        bias: bool = False,
        growth: bool = False,
        norm_shapes: Sequence[tuple[int, ...]] = (),
        keep_unused: bool = False,
    ):
        super().__init__()
        if len(iterations) != len(geometry.prolong_kernels) + 1:
            raise UsageError(
                f"iterations lists {len(iterations)} levels and the geometry {len(geometry.prolong_kernels) + 1}; "
                "give one (pre, post) pair per level."
            )
        ndim, last = len(geometry.padding), len(iterations) - 1
        self.ndim, self.geometry, self.restrict_residual = ndim, geometry, restrict_residual
        # The coarsest level has no way down: its pre- and post-smoothing are one run of sweeps.
        self.pre = [pre + (post if level == last else 0) for level, (pre, post) in enumerate(iterations)]
        self.post = [0 if level == last else post for level, (pre, post) in enumerate(iterations)]
        if self.pre[last] < 1:
            raise UsageError("iterations leaves the coarsest level without a smoothing step; give it at least 1.")
        f = [in_channels * (level + 1 if growth else 1) for level in range(last + 1)]
        u = [out_channels * (level + 1 if growth else 1) for level in range(last + 1)]
        conv, transposed = CONV[ndim], CONV_TRANSPOSE[ndim]
        self.A, self.S = nn.ModuleList(), nn.ModuleList()
        for level in range(last + 1):
            empty = level == 0 or restrict_residual or not any(self.pre[:level])
            steps = self.pre[level] + self.post[level]
            first = 1 if empty and self.pre[level] else 0  # the zero-state step has an S and no A
            self.S.append(nn.ModuleList(conv(f[level], u[level], 3, bias=bias) for _ in range(steps)))
            self.A.append(nn.ModuleList(conv(u[level], f[level], 3, bias=bias) for _ in range(steps - first)))
        self.unused = conv(u[0], f[0], 3, bias=bias) if keep_unused else None
        r, pairs = geometry.restrict_kernel, range(last)
        self.R = nn.ModuleList(conv(f[i], f[i + 1], r, bias=False) for i in pairs)
        self.T = nn.ModuleList(transposed(u[i + 1], u[i], geometry.prolong_kernels[i], bias=False) for i in pairs)
        self.Pi, self.defect = nn.ModuleList(), nn.ModuleList()
        for i in pairs:
            if restrict_residual and self.pre[i]:
                self.defect.append(conv(u[i], f[i], 3, bias=bias))  # A of the residual that goes down
            elif not restrict_residual and any(self.pre[: i + 1]):
                self.Pi.append(conv(u[i], u[i + 1], r, bias=False))
        self.norms = nn.ModuleList(
            nn.LayerNorm([channels, *shape]) for channels, shape in zip(u, norm_shapes, strict=False)
        )

    def forward(self, f: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        data: list[Tensor] = []
        states: list[Tensor | None] = []
        u: Any = None
        last = len(self.pre) - 1
        pi, defect = iter(self.Pi), iter(self.defect)
        steps = [zip_smoothers(self.A[i], self.S[i]) for i in range(last + 1)]
        for level in range(last + 1):
            for A, S in steps[level][: self.pre[level]]:
                u = self._smooth(u, f, A, S)
            if level == last:
                break
            data.append(f)
            states.append(u)
            if self.restrict_residual:
                if u is not None:
                    f = f - self._same(u, next(defect))
                    u = None
            elif u is not None:
                u = self._restrict(u, next(pi))
            f = self._restrict(f, self.R[level])
        for level in range(last - 1, -1, -1):
            f, finer = data[level], states[level]
            u = self._prolong(u, self.T[level], f.shape[2:])
            if finer is not None:
                u = u.add_(finer)  # a convolution keeps no output for backward: in place is safe
            if self.norms:
                u = self.norms[level](u)
            for A, S in steps[level][self.pre[level] :]:
                u = self._smooth(u, f, A, S)
        return u

    def _smooth(self, u: Tensor | None, f: Tensor, A: Kernel, S: Kernel) -> Tensor:
        """u + S (f − A u); u = None is the zero state."""
        if u is None or A is None:
            return self._same(f, S)
        return self._same(f - self._same(u, A), S).add_(u)

    def _same(self, x: Tensor, conv: Kernel) -> Tensor:
        """Kernel of size 3, stride 1, same grid."""
        return self._convolve(x, conv, 1, [(1, 1)] * self.ndim)

    def _restrict(self, x: Tensor, conv: Kernel) -> Tensor:
        pad, even = self.geometry.transfer_pad, self.geometry.restrict_kernel == 4
        return self._convolve(x, conv, 2, [(pad, pad + (even and n % 2)) for n in x.shape[2:]])

    def _convolve(self, x: Tensor, conv: Kernel, stride: int, pads: list[tuple[int, int]]) -> Tensor:
        native = [0] * self.ndim  # symmetric zero padding is free inside the convolution
        for axis, ((low, high), mode) in enumerate(zip(pads, self.geometry.padding, strict=True)):
            if mode == ZEROS and low == high:
                native[axis] = low
            elif high:
                x = add_ghosts(x, axis + 2, low, high, mode)
        return convolve[self.ndim](x, conv.weight, conv.bias, stride, native)

    def _prolong(self, u: Tensor, conv: Kernel, shape: torch.Size) -> Tensor:
        """Transposed kernel of stride 2, aligned with restriction, cut to the finer grid.

        A ghost layer of the coarse grid moves the origin by two fine points.
        """
        pad: list[int] = []
        extra: list[int] = []
        kernel = conv.weight.shape[2]
        for axis, (n, mode) in enumerate(zip(shape, self.geometry.padding, strict=True), start=2):
            shift = self.geometry.transfer_pad
            natural = 2 * (u.shape[axis] - 1) + kernel - 2 * shift
            reaches = kernel == 4 or n > natural  # a ghost value touches the finer grid
            if self.geometry.prolong_ghosts and mode != ZEROS and reaches:
                # Beyond a fine grid of even size, the mirror image of the last coarse point is half a cell away.
                u = add_ghosts(u, axis, 1, 1, REPLICATE if mode == REFLECT else mode)
                shift += 2
                natural = 2 * (u.shape[axis] - 1) + kernel - 2 * shift
            pad.append(shift)
            extra.append(max(0, n - natural))
        u = convolve_transposed[self.ndim](u, conv.weight, conv.bias, 2, pad, extra)
        for axis, n in enumerate(shape, start=2):
            if u.shape[axis] > n:
                u = u.narrow(axis, 0, n)
        return u


def zip_smoothers(A: Any, S: Any) -> list[tuple[Kernel, Kernel]]:
    """(A, S) of each sweep; the zero-state sweep has S alone."""
    lead: list[Kernel] = [None] * (len(S) - len(A))
    return list(zip(lead + list(A), S, strict=True))

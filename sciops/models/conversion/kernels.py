"""Other meanings of a convolution than point evaluations: hat kernels, band limits, interpolated kernels.

integral    out(x) = Σ_t w_t (1/s) Σ_j hat(j/s) f(x + tH + jh): each tap is a mean over a hat of width 2H.
spectral    out = IFFT(σ(ξ) f̂), σ(ξ) = Σ_t w_t e^{iξtH} for |ξ| up to the native Nyquist frequency, else 0.
paper_rule  out(x) = Σ_j K_j f(x + jh), K the native taps resized to s(k − 1) + 1 by linear interpolation (half-pixel
            alignment), divided by the ratio of areas.

The first two are the point rule on a filtered field, which costs one separable filter per convolution instead of a
kernel with sᵈ times as many taps. Axes with one tap act point by point and are left alone.
integral: limit = source kernel smeared by a hat, f + H²f″/12 per axis and layer, so that a trained network moves and
needs a short tuning; order 2 in h on periodic grids, 1 next to walls that pad zeros. spectral: periodic axes only.
paper_rule: the kernel is squeezed by (k − 1)/k and its sum is not kept, so that the result drifts; it is here to be
compared with (Berner et al., "Principled approaches for extending neural architectures to function spaces for operator
learning", 2025).
"""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from sciops.models.conversion.layout import Space
from sciops.models.conversion.mode import Call

KERNELS = ("integral", "spectral", "paper_rule")
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def hat(s: int, like: Tensor) -> Tensor:
    """(1/s) hat(j/s), j = 1 − s … s − 1: 2s − 1 weights that add up to one."""
    j = torch.arange(1 - s, s, dtype=torch.float64)
    return ((1.0 - (j / s).abs()) / s).to(like)


def hat_kernel(weight: Tensor, scale: Sequence[int]) -> Tensor:
    """(o, i, *k) taps at distance H to the (o, i, *(s(k + 1) − 1)) taps at distance H/s of the rule `integral`.

    K_j = (1/s) Σ_t w_t hat(j/s − t) with the ramps outside the first and the last tap: the sum of taps is kept.
    """
    for dim, s in enumerate(scale, start=2):
        k = weight.shape[dim]
        rows = torch.zeros((k, s * (k + 1) - 1), dtype=weight.dtype, device=weight.device)
        for t in range(k):
            rows[t, s * t : s * t + 2 * s - 1] = hat(s, weight)
        weight = torch.tensordot(weight, rows, dims=([dim], [0])).movedim(-1, dim)
    return weight


def paper_kernel(weight: Tensor, scale: Sequence[int]) -> Tensor:
    """(o, i, *k) to (o, i, *int(sk − s + 1)) by linear interpolation, divided by the ratio of areas."""
    size = [int(s * k - s + 1) for s, k in zip(scale, weight.shape[2:], strict=True)]
    area = prod(size) / prod(weight.shape[2:])
    return F.interpolate(weight, size=size, mode=_LINEAR[len(size)], align_corners=False) / area


def smeared(x: Tensor, scale: Sequence[int], active: Sequence[bool]) -> Tensor:
    """Means over hats along the last axes, each of which gets s − 1 points shorter at both ends where active.

    A hat is a box of s points twice, a box of p·q points one of p points and then one of q points at distance p:
    2 Σ (p − 1) additions over the prime factors p of s.
    """
    d, divisor = len(scale), 1
    for j, (s, act) in enumerate(zip(scale, active, strict=True)):
        if act and s > 1:
            dim, divisor = x.dim() - d + j, divisor * s * s
            for _ in range(2):
                step = 1
                for p in _primes(s):
                    length = x.shape[dim] - (p - 1) * step
                    total = x.narrow(dim, 0, length) + x.narrow(dim, step, length)
                    for i in range(2, p):
                        total = total + x.narrow(dim, i * step, length)
                    x, step = total, step * p
    return x if divisor == 1 else x / divisor


def _primes(s: int) -> list[int]:
    found, p = [], 2
    while s > 1:
        while s % p == 0:
            found.append(p)
            s //= p
        p += 1
    return found


def band_limited(call: Call, x: Tensor, spaces: Sequence[Space], active: Sequence[bool]) -> Tensor:
    """Fourier modes up to the native Nyquist frequency of every active axis; padded axes keep their padding."""
    for j, (space, act) in enumerate(zip(spaces, active, strict=True)):
        s = call.refinement.scale[space.axis]
        if not act or s == 1:
            continue
        if space.period is None:
            raise call.refuse(
                "runs along an axis without a period (padded with zeros or cut), which has no symbol",
                "pad in mode 'circular', or use method='point'",
            )
        dim, period = x.dim() - len(spaces) + j, s * space.period
        modes = torch.fft.rfft(x.narrow(dim, 0, period), dim=dim)
        keep = torch.arange(modes.shape[dim], device=x.device) <= space.period // 2
        modes = modes * keep.reshape([-1 if k == dim else 1 for k in range(x.dim())])
        values = torch.fft.irfft(modes, period, dim=dim)
        n = x.shape[dim]
        x = values if n == period else values.index_select(dim, torch.arange(n, device=x.device).remainder(period))
    return x

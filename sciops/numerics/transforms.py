"""Sine, cosine and Fourier transforms along chosen axes, and the bases in which the Laplacian is diagonal.

Unnormalised definitions (those of SciPy), j and k counted from 0, N values:

==========  ==========================================================
DCT-I       y_k = x_0 + (−1)^k x_{N−1} + 2 Σ_{0<j<N−1} x_j cos(π j k/(N−1))
DCT-II      y_k = 2 Σ_j x_j cos(π k (2j+1)/(2N))
DCT-III     y_k = x_0 + 2 Σ_{j>0} x_j cos(π j (2k+1)/(2N))
DST-I       y_k = 2 Σ_j x_j sin(π (j+1)(k+1)/(N+1))
DST-II      y_k = 2 Σ_j x_j sin(π (k+1)(2j+1)/(2N))
DST-III     y_k = (−1)^k x_{N−1} + 2 Σ_{j<N−1} x_j sin(π (2k+1)(j+1)/(2N))
==========  ==========================================================
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary
from sciops.core.errors import UsageError
from sciops.core.grid import Grid

INVERSE = {1: 1, 2: 3, 3: 2}

TransformPair = tuple[Callable[[Tensor, int], Tensor], Callable[[Tensor, int], Tensor]]
"""(values, axis) → amplitudes and back."""


def dct(
    x: Float[Tensor, "..."], kind: int, axes: Sequence[int] = (-1,), orthonormal: bool = False
) -> Float[Tensor, "..."]:
    """Discrete cosine transform of type I, II or III along each of `axes`.

    Any batch shape, dtype and device; cost O(N log N) per axis by one real FFT of length ~2N.
    `orthonormal=True` makes the matrix orthogonal (DCT-I then also scales its first and last input by √2).
    """
    _check_kind(kind)
    return _along(x, axes, lambda y: _dct_last(y, kind, orthonormal))


def idct(
    x: Float[Tensor, "..."], kind: int, axes: Sequence[int] = (-1,), orthonormal: bool = False
) -> Float[Tensor, "..."]:
    """Inverse of `dct(x, kind, …)`."""
    _check_kind(kind)
    return _along(x, axes, lambda y: _inverse_last(_dct_last, y, kind, orthonormal, y.shape[-1] - 1))


def dst(
    x: Float[Tensor, "..."], kind: int, axes: Sequence[int] = (-1,), orthonormal: bool = False
) -> Float[Tensor, "..."]:
    """Discrete sine transform of type I, II or III along each of `axes`; see `dct`."""
    _check_kind(kind)
    return _along(x, axes, lambda y: _dst_last(y, kind, orthonormal))


def idst(
    x: Float[Tensor, "..."], kind: int, axes: Sequence[int] = (-1,), orthonormal: bool = False
) -> Float[Tensor, "..."]:
    """Inverse of `dst(x, kind, …)`."""
    _check_kind(kind)
    return _along(x, axes, lambda y: _inverse_last(_dst_last, y, kind, orthonormal, y.shape[-1] + 1))


@dataclass(frozen=True)
class EigenBasis:
    """One axis on which −δ² (and −∂²) is diagonal: transforms along an axis and the eigenvalues.

    `forward(values, axis)` gives mode amplitudes, `inverse(amplitudes, axis)` the values again; both are
    complex on periodic axes. `stencil_eigenvalues` belong to the 3-point difference (−u₋+2u−u₊)/h²,
    `eigenvalues` to −∂². `row_weight` are the factors by which a symmetric system scales its rows.
    """

    forward: Callable[[Tensor, int], Tensor]
    inverse: Callable[[Tensor, int], Tensor]
    stencil_eigenvalues: Float[Tensor, " m"]
    eigenvalues: Float[Tensor, " m"]
    row_weight: Float[Tensor, " m"]
    real: bool = True


def eigenbasis(
    ends: tuple[str, str],
    layout: str,
    points: int,
    length: float,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> EigenBasis:
    """The diagonalising transform of one axis with `points` grid points and homogeneous conditions at both ends.

    ===========  ========  =========  ==============================  ===================
    ends         layout    transform  unknowns                        wavenumber κ
    ===========  ========  =========  ==============================  ===================
    dirichlet    node      DST-I      the points−2 interior ones      πk/L, k = 1…
    dirichlet    cell      DST-II     all; ghost value −u             πk/L, k = 1…points
    neumann      node      DCT-I      all; end rows weigh ½           πk/L, k = 0…
    neumann      cell      DCT-II     all                             πk/L, k = 0…
    periodic     periodic  FFT        all                             2πk/L, |k| ≤ points/2
    ===========  ========  =========  ==============================  ===================

    The difference operator has the eigenvalue (4/h²) sin²(κh/2), the derivative κ².
    """
    if ends[0] != ends[1]:
        raise UsageError(
            f"A fast transform needs the same condition at both ends of an axis; got {ends[0]} and {ends[1]}; "
            "use multigrid or a sparse direct solver instead."
        )
    kind = ends[0]
    if (kind == "periodic") != (layout == "periodic"):
        raise UsageError(f"A {kind} axis cannot have grid layout '{layout}'.")
    unknowns = points - 2 if (kind, layout) == ("dirichlet", "node") else points
    spacing = length / (points - 1 if layout == "node" else points)
    weight = torch.ones(unknowns, dtype=dtype, device=device)
    if kind == "periodic":
        wavenumber = 2 * math.pi * torch.fft.fftfreq(points, d=spacing, dtype=dtype, device=device)
        pair: TransformPair = (_fft_along, _ifft_along)
    else:
        first = 1 if kind == "dirichlet" else 0
        wavenumber = math.pi / length * torch.arange(first, first + unknowns, dtype=dtype, device=device)
        number = 1 if layout == "node" else 2
        pair = _real_pair("dst" if kind == "dirichlet" else "dct", number)
        if (kind, layout) == ("neumann", "node"):
            weight[0] = weight[-1] = 0.5
    stencil = (2 / spacing * torch.sin(wavenumber * spacing / 2)) ** 2
    return EigenBasis(*pair, stencil, wavenumber**2, weight, kind != "periodic")


def eigenbases(
    boundary: Boundary, grid: Grid, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> list[EigenBasis]:
    """`eigenbasis` for every axis of a grid."""
    boundary.check(grid)
    axes = zip(boundary.kinds, grid.layout, grid.shape, grid.lengths, strict=True)
    return [eigenbasis(*axis, dtype=dtype, device=device) for axis in axes]


def solve_poisson(
    f: Float[Tensor, "n *s"],
    bases: Sequence[EigenBasis],
    kappa: float = 1.0,
    shift: float = 0.0,
    spectral: bool = False,
) -> Float[Tensor, "n *s"]:
    """−κ Δ_h u + s u = f with homogeneous data, by transform, division and inverse transform.

    Δ_h is the (2d+1)-point difference operator, or the exact Laplacian of the trigonometric interpolant if
    `spectral`. `f` lives on the unknowns of `bases` (one per axis, 1 to 3 axes). If the operator is singular
    (pure Neumann or periodic, s = 0) the mean of f is ignored and u has zero mean. Cost O(N log N).
    """
    amplitude: Tensor = f
    symbol = torch.full((), shift, dtype=f.dtype, device=f.device)
    for basis in bases:
        values = basis.eigenvalues if spectral else basis.stencil_eigenvalues
        symbol = symbol[..., None] + kappa * values
    # Real transforms go first: they would otherwise act on complex numbers.
    order = sorted(range(len(bases)), key=lambda axis: not bases[axis].real)
    for axis in order:
        amplitude = bases[axis].forward(amplitude, axis + 1)
    singular = symbol == 0
    amplitude = torch.where(singular, 0.0, amplitude / torch.where(singular, 1.0, symbol))
    for axis in reversed(order):
        if bases[axis].real and amplitude.is_complex():
            amplitude = amplitude.real
        amplitude = bases[axis].inverse(amplitude, axis + 1)
    return amplitude.real if amplitude.is_complex() else amplitude


def _fft_along(x: Tensor, axis: int) -> Tensor:
    return torch.fft.fft(x, dim=axis)


def _ifft_along(x: Tensor, axis: int) -> Tensor:
    return torch.fft.ifft(x, dim=axis)


def _real_pair(name: str, kind: int) -> TransformPair:
    direct, back = (dst, idst) if name == "dst" else (dct, idct)
    return lambda x, axis: direct(x, kind, (axis,)), lambda x, axis: back(x, kind, (axis,))


def _check_kind(kind: int) -> None:
    if kind not in INVERSE:
        raise UsageError(f"The transform kind must be 1, 2 or 3; got {kind}.")


def _along(x: Tensor, axes: Sequence[int], transform: Callable[[Tensor], Tensor]) -> Tensor:
    for axis in axes:
        x = transform(x.movedim(axis, -1)).movedim(-1, axis)
    return x


def _inverse_last(
    transform: Callable[[Tensor, int, bool], Tensor], y: Tensor, kind: int, orthonormal: bool, period: int
) -> Tensor:
    if orthonormal:
        return transform(y, INVERSE[kind], True)
    # Types I have half-period N∓1 (cosine, sine); types II and III half-period N.
    return transform(y, INVERSE[kind], False) / (2 * (period if kind == 1 else y.shape[-1]))


def _dct_last(x: Tensor, kind: int, orthonormal: bool) -> Tensor:
    n = x.shape[-1]
    if kind == 1:
        if n < 2:
            raise UsageError("DCT-I needs at least 2 values along the axis.")
        if orthonormal:
            x = _scale_ends(x, math.sqrt(2.0), both=True)
        y = torch.fft.rfft(torch.cat([x, x[..., 1:-1].flip(-1)], dim=-1)).real
        return _scale_ends(y / math.sqrt(2 * (n - 1)), math.sqrt(0.5), both=True) if orthonormal else y
    if kind == 2:
        spectrum = torch.fft.rfft(torch.cat([x, x.flip(-1)], dim=-1))[..., :n]
        y = (spectrum * _half_shift(n, x).conj()).real
        return _scale_ends(y / math.sqrt(2 * n), math.sqrt(0.5)) if orthonormal else y
    if orthonormal:
        x = _scale_ends(x, math.sqrt(2.0)) / math.sqrt(2 * n)
    spectrum = torch.nn.functional.pad(x * _half_shift(n, x), (0, 1))
    return torch.fft.irfft(spectrum, n=2 * n, norm="forward")[..., :n]


def _dst_last(x: Tensor, kind: int, orthonormal: bool) -> Tensor:
    n = x.shape[-1]
    if kind == 1:
        zero = torch.zeros_like(x[..., :1])
        y = -torch.fft.rfft(torch.cat([zero, x, zero, -x.flip(-1)], dim=-1)).imag[..., 1 : n + 1]
        return y / math.sqrt(2 * (n + 1)) if orthonormal else y
    # sin(π(k+1)(2j+1)/2N) = (−1)^j cos(π(N−1−k)(2j+1)/2N): a cosine transform read backwards.
    sign = 1.0 - 2.0 * (torch.arange(n, device=x.device) % 2).to(x.dtype)
    if kind == 2:
        return _dct_last(x * sign, 2, orthonormal).flip(-1)
    return _dct_last(x.flip(-1), 3, orthonormal) * sign


def _half_shift(n: int, like: Tensor) -> Tensor:
    angle = math.pi / (2 * n) * torch.arange(n, dtype=like.dtype, device=like.device)
    return torch.polar(torch.ones_like(angle), angle)


def _scale_ends(x: Tensor, factor: float, both: bool = False) -> Tensor:
    scale = torch.ones(x.shape[-1], dtype=x.dtype, device=x.device)
    scale[0] = factor
    if both:
        scale[-1] = factor
    return x * scale

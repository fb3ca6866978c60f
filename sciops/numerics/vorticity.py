"""Pseudo-spectral vorticity dynamics on the periodic unit square."""

from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.crank_nicolson import CrankNicolsonHeun
from sciops.numerics.etdrk4 import ETDRK4
from sciops.numerics.memory import keep_freed_memory

SCHEMES = ("etdrk4", "crank_nicolson")
POINTS = 2**16
"""Grid points of the cases that go through their steps together on a CPU: their spectra stay in its cache."""


class Vorticity:
    """∂_t ω = −u·∇ω + νΔω + f on [0, 1)², u = (∂_y ψ, −∂_x ψ), −Δψ = ω, in Fourier space.

    Modes |k_x| ≤ K_x, |k_y| ≤ K_y with 3K < n on n points: the quadratic term is exact in them (2/3 rule). It is
    written with products of velocities alone (Basdevant),
        −u·∇ω = (∂_yy − ∂_xx)(uv) + ∂_xy(u² − v²),
    which takes two inverse and two forward transforms instead of five. Half spectra are stored with k_y first, so that
    both passes of a transform run along memory and the pass along x skips the columns k_y > K_y.

    shape      points (n_x, n_y)
    viscosity  ν
    forcing    f on the grid, constant in time; None: none
    scheme     etdrk4: order 4, exact diffusion. crank_nicolson: order 2, Crank–Nicolson and Heun
    dtype      of the grid values; coefficients are computed in float64

    Spectra are (n, K_y + 1, n_x), those of `torch.fft` with norm "forward", zero where |k_x| > K_x. Steps run without
    gradients. On a CPU, a case's bits do not depend on its batch. Cost: O(N log N) an evaluation, four of them a step
    of etdrk4, two of crank_nicolson. Memory beside the spectra: seven fields a case of those that run together.
    Reference: Basdevant, J. Comput. Phys. 50 (1983) 209–214.
    """

    def __init__(
        self,
        shape: Sequence[int],
        viscosity: float,
        forcing: Float[Tensor, "*s"] | None = None,
        scheme: str = "etdrk4",
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        if scheme not in SCHEMES:
            raise UsageError(f"scheme must be {' or '.join(SCHEMES)}; got '{scheme}'.")
        if not viscosity >= 0:
            raise UsageError(f"viscosity must not be negative; got {viscosity}.")
        if len(shape) != 2 or min(shape) < 4:
            raise UsageError(f"Vorticity needs a grid of two axes with at least 4 points each; got {tuple(shape)}.")
        self.shape, self.dtype, self.device = (int(shape[0]), int(shape[1])), dtype, torch.device(device)
        self.scheme, self.viscosity = scheme, viscosity
        self.kept = ((self.shape[0] - 1) // 3, (self.shape[1] - 1) // 3)
        kx = torch.fft.fftfreq(self.shape[0], 1 / self.shape[0], dtype=torch.float64).to(self.device)
        ky = torch.arange(self.kept[1] + 1, dtype=torch.float64, device=self.device)[:, None]
        mask = kx.abs() <= self.kept[0]
        self.mask = mask.expand(len(ky), -1)
        self.kx, self.ky = 2 * torch.pi * kx * mask, 2 * torch.pi * ky * mask
        squares = self.kx**2 + self.ky**2
        inverse = torch.where(squares > 0, 1 / squares.clamp_min(1e-300), 0.0)
        self.squares = squares
        # Symbols of real factors act on pairs (real, imaginary): arithmetic without complex numbers.
        self.symbol = -viscosity * _pairs(squares)
        self._velocity = torch.stack([1j * self.ky * inverse, -1j * self.kx * inverse]).to(_complex(dtype))
        self._stress = _pairs(torch.stack([self.kx**2 - self.ky**2, self.kx * self.ky])).to(dtype)
        self._forcing = torch.zeros(self._stress.shape[1:], dtype=dtype, device=self.device)
        if forcing is not None:
            self._forcing = _real(self.spectrum(forcing.to(dtype=dtype, device=self.device)[None]))[0]
        self._steps: dict[float, ETDRK4 | CrankNicolsonHeun] = {}
        self._work: tuple[Tensor, ...] = ()

    # ---- between the grid and its spectrum

    def spectrum(self, w: Float[Tensor, "n x y"]) -> Complex[Tensor, "n ky kx"]:
        """Fourier coefficients of the kept modes."""
        rows = torch.fft.rfft(w.to(self.dtype), norm="forward")[..., : self.kept[1] + 1]
        return torch.fft.fft(rows.transpose(-1, -2).contiguous(), norm="forward") * self.mask

    def grid(self, hat: Complex[Tensor, "n ky kx"]) -> Float[Tensor, "n x y"]:
        """Values on the grid."""
        rows = torch.fft.ifft(hat, norm="forward").transpose(-1, -2)
        return torch.fft.irfft(rows, n=self.shape[1], norm="forward")

    def resized(self, hat: Complex[Tensor, "n ky kx"], other: "Vorticity") -> Complex[Tensor, "n ky2 kx2"]:
        """The modes that `other` keeps too, of a spectrum of this grid, as one of the other grid (others are zero)."""
        k = [min(a, b) for a, b in zip(self.kept, other.kept, strict=True)]
        out = hat.new_zeros((len(hat), other.kept[1] + 1, other.shape[0]))
        out[:, : k[1] + 1, : k[0] + 1] = hat[:, : k[1] + 1, : k[0] + 1]
        out[:, : k[1] + 1, -k[0] :] = hat[:, : k[1] + 1, -k[0] :]
        return out

    def velocity(self, hat: Complex[Tensor, "n ky kx"]) -> Float[Tensor, "n 2 x y"]:
        """(u, v) on the grid."""
        return self.grid((hat[:, None] * self._velocity).flatten(0, 1)).unflatten(0, (-1, 2))

    # ---- what decides on the step

    def rate(self, hat: Complex[Tensor, "n ky kx"]) -> Float[Tensor, " n"]:
        """Largest frequency max_x 2π(K_x|u| + K_y|v|) at which advection turns a kept mode."""
        largest = [self._rates(part) for part in hat.split(self.together(hat))]
        return torch.cat(largest) if largest else torch.zeros(0, dtype=self.dtype, device=self.device)

    def _rates(self, hat: Tensor) -> Tensor:
        u, v = self.velocity(hat).abs().unbind(1)
        return 2 * torch.pi * (self.kept[0] * u + self.kept[1] * v).flatten(1).amax(1)

    def forcing_rate(self) -> float:
        """What the forcing adds to `rate` in a unit of time, were it alone."""
        forcing = torch.view_as_complex(self._forcing.unflatten(-1, (-1, 2)))
        return float(self.rate(forcing[None])[0])

    # ---- steps

    def nonlinear(self, v: Float[Tensor, "n ky kx2"]) -> Float[Tensor, "n ky kx2"]:
        """−u·∇ω + f of spectra as pairs of real numbers."""
        n, hat = len(v), torch.view_as_complex(v.unflatten(-1, (-1, 2)))
        padded, products = (buffer[:n] for buffer in self._buffers(n))
        rows = torch.fft.ifft(hat[:, None] * self._velocity, norm="forward")
        padded[..., : self.kept[1] + 1].copy_(rows.transpose(-1, -2))
        w = torch.fft.irfft(padded, n=self.shape[1], norm="forward")
        torch.mul(w[:, 0], w[:, 1], out=products[:, 0])
        torch.mul(w[:, 1], w[:, 1], out=products[:, 1])
        products[:, 1].addcmul_(w[:, 0], w[:, 0], value=-1)
        columns = torch.fft.rfft(products, norm="forward")[..., : self.kept[1] + 1]
        stress = _real(torch.fft.fft(columns.transpose(-1, -2).contiguous(), norm="forward"))
        out = torch.addcmul(self._forcing, self._stress[0], stress[:, 0])
        return out.addcmul_(self._stress[1], stress[:, 1])

    def advance(self, hat: Complex[Tensor, "n ky kx"], h: float, steps: int = 1) -> Complex[Tensor, "n ky kx"]:
        """Spectra after `steps` steps of size h; few cases at a time take all of them, so that they stay in cache."""
        keep_freed_memory()
        scheme = self._scheme(h)
        done = []
        with torch.no_grad():
            for part in hat.split(self.together(hat)):
                v = _real(part)
                for _ in range(steps):
                    v = scheme.step(v)
                done.append(torch.view_as_complex(v.unflatten(-1, (-1, 2))))
        return torch.cat(done) if done else hat

    def together(self, hat: Tensor) -> int:
        """How many cases run together: all of them on an accelerator."""
        if self.device.type != "cpu":
            return max(1, len(hat))
        return max(1, POINTS // (self.shape[0] * self.shape[1]))

    def _scheme(self, h: float) -> ETDRK4 | CrankNicolsonHeun:
        if h not in self._steps:
            if len(self._steps) >= 4:
                self._steps.clear()
            kind = ETDRK4 if self.scheme == "etdrk4" else CrankNicolsonHeun
            self._steps[h] = kind(self.symbol, self.nonlinear, h).to(self.dtype)
        return self._steps[h]

    def _buffers(self, n: int) -> tuple[Tensor, ...]:
        """Half spectra that are zero beyond K_y, and products on the grid, for n cases; made once."""
        if not self._work or len(self._work[0]) < n:
            x, y = self.shape
            padded = torch.zeros((n, 2, x, y // 2 + 1), dtype=_complex(self.dtype), device=self.device)
            self._work = padded, torch.empty((n, 2, x, y), dtype=self.dtype, device=self.device)
        return self._work


def _complex(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype is torch.float64 else torch.complex64


def _real(hat: Tensor) -> Tensor:
    """(…, k) complex as (…, 2k) real, a view where it can be."""
    return torch.view_as_real(hat).flatten(-2)


def _pairs(symbol: Tensor) -> Tensor:
    """(…, k) as (…, 2k), every number twice."""
    return symbol.repeat_interleave(2, -1)

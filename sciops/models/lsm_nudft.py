"""Fourier layers between point clouds and grids: direct sums over the points, no fast transform."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.lsm_block import autocast_off


class NonuniformFourier(nn.Module):
    """v̂_k = R_k û_k,  û_k = (1/P) Σ_p u(ξ_p) e^{−2πi k·ξ_p},  v(ξ) = Re Σ_k m_k v̂_k e^{2πi k·ξ}.

    Modes −m₁ ≤ k₁ < m₁, 0 ≤ k₂ < m₂ with a learnt complex matrix each; m_k = 2 for k₂ > 0, which stand for their
    conjugates too, and 1 for k₂ = 0. On a uniform grid both directions are the real Fourier transform and its inverse
    (`norm="forward"`). The axes separate: a point costs 2m₁ + m₂ exponentials, and the sums are real matrix products.

    released   True: sums without 1/P (and transforms of the grid without, and back with, 1/points); the half k₂ < 0
               completed by conj v̂ at (−1−k₁, k₂), where the real inverse has (−k₁, k₂). Then m_k = 1 + e^{2πi ξ₁}
    ξ in units of the period. The matrices are stored as pairs of real numbers, uniform in [0, 1/width²], first
    those of k₁ ≥ 0 ("positive"), then of k₁ = −m₁ … −1: 8 width² m₁ m₂ real parameters. In float32 or better under any
    autocast. Cost O(P m₁ m₂ width); memory O(P m₁ m₂) a case. UsageError where a grid is too coarse for the modes.
    Li, Huang, Liu, Anandkumar, "Fourier neural operator with learned deformations for PDEs on general geometries",
    JMLR 2023.
    """

    k1: Tensor
    k2: Tensor

    def __init__(self, width: int, modes: Sequence[int], released: bool = False):
        super().__init__()
        if len(modes) != 2 or min(modes) < 1:
            raise UsageError(f"modes takes two positive numbers; got {tuple(modes)}.")
        self.modes, self.released = tuple(modes), released
        shape = (width, width, *modes, 2)  # in, out, k₁, k₂, real and imaginary part
        self.positive, self.negative = (nn.Parameter(torch.rand(shape) / width**2) for _ in range(2))
        m1, m2 = modes
        self.register_buffer("k1", torch.cat([torch.arange(m1), torch.arange(-m1, 0)]), persistent=False)
        self.register_buffer("k2", torch.arange(m2), persistent=False)

    def to_grid(
        self, u: Float[Tensor, "n c p"], xi: Float[Tensor, "n p 2"], shape: Sequence[int]
    ) -> Float[Tensor, "n c a b"]:
        """R û at the points of the uniform grid i/shape on the unit square."""
        self._check(shape)
        with autocast_off(u.device.type):
            u, xi = self._promoted(u), self._promoted(xi)
            modes = self.mix(self.analyse(u, xi))
            m1, (n1, n2) = self.modes[0], shape
            full = modes.new_zeros(*modes.shape[:2], n1, n2 // 2 + 1)
            full[:, :, :m1, : self.modes[1]] = modes[:, :, :m1]
            full[:, :, -m1:, : self.modes[1]] = modes[:, :, m1:]
            return torch.fft.irfft2(full, s=(n1, n2), norm=self._norm)

    def to_points(self, u: Float[Tensor, "n c a b"], xi: Float[Tensor, "n p 2"]) -> Float[Tensor, "n c p"]:
        """R û at the points ξ, û of a uniform grid."""
        self._check(u.shape[2:])
        with autocast_off(u.device.type):
            u, xi = self._promoted(u), self._promoted(xi)
            transform = torch.fft.rfft2(u, norm=self._norm)[..., : self.modes[1]]
            m1 = self.modes[0]
            return self.synthesise(self.mix(torch.cat([transform[:, :, :m1], transform[:, :, -m1:]], 2)), xi)

    def analyse(self, u: Float[Tensor, "n c p"], xi: Float[Tensor, "n p 2"]) -> Complex[Tensor, "n c k1 k2"]:
        """û_k."""
        waves = torch.view_as_real(self._waves(xi).conj().resolve_conj())
        modes = torch.bmm(u, waves.flatten(2)).unflatten(2, waves.shape[2:])
        return torch.view_as_complex(modes if self.released else modes / u.shape[2])

    def mix(self, modes: Complex[Tensor, "n c k1 k2"]) -> Complex[Tensor, "n c k1 k2"]:
        """R_k û_k."""
        weight = torch.view_as_complex(torch.cat([self.positive, self.negative], 2))
        return torch.einsum("nixy,ioxy->noxy", modes, weight)

    def synthesise(self, modes: Complex[Tensor, "n c k1 k2"], xi: Float[Tensor, "n p 2"]) -> Float[Tensor, "n c p"]:
        """Re Σ_k m_k v̂_k e^{2πi k·ξ}."""
        waves = self._waves(xi)
        twice = 1 + self._phases(xi[..., :1], torch.ones_like(self.k1[:1])).unsqueeze(-1) if self.released else 2
        waves = torch.cat([waves[..., :1], waves[..., 1:] * twice], -1)
        real = torch.view_as_real(waves).flatten(2)
        return torch.bmm(torch.view_as_real(modes.conj().resolve_conj()).flatten(2), real.transpose(1, 2))

    def _waves(self, xi: Tensor) -> Tensor:
        """e^{2πi k·ξ}, shape (n, p, 2m₁, m₂)."""
        return self._phases(xi[..., :1], self.k1).unsqueeze(-1) * self._phases(xi[..., 1:], self.k2).unsqueeze(-2)

    @staticmethod
    def _phases(xi: Tensor, k: Tensor) -> Tensor:
        angle = 2 * math.pi * xi * k
        return torch.complex(angle.cos(), angle.sin())

    @property
    def _norm(self) -> str:
        return "backward" if self.released else "forward"

    def _promoted(self, x: Tensor) -> Tensor:
        return x.to(torch.promote_types(self.positive.dtype, torch.float32))

    def _check(self, shape: Sequence[int]) -> None:
        if any(n < 2 * m for n, m in zip(shape, self.modes, strict=True)):
            raise UsageError(f"a grid of {tuple(shape)} points cannot hold {self.modes} modes: it needs twice as many.")

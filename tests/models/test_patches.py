"""Networks on patches: nothing is lost, channels are torch's, and what does not divide is refused."""

import math

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.models.patches import Patches

UNET = "sciops.models.unet.UNet"
SMALL = {"width": 8, "levels": 2}


class Same(torch.nn.Module):
    def __init__(self, in_channels: int = 1):
        super().__init__()
        self.in_channels = in_channels

    def forward(self, x):
        assert x.shape[1] == self.in_channels
        self.seen = x
        return x


class Means(torch.nn.Module):
    """A smooth function of x at the centres of patches, from the mean over the patch of cos 2πx on 64 points."""

    def forward(self, x):
        p = 4
        damping = sum(math.cos(2 * math.pi / 64 * (j - (p - 1) / 2)) for j in range(p)) / p
        return x.mean(1, keepdim=True) / damping


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_patches_there_and_back(ndim: int) -> None:
    net = Patches(f"{__name__}.Same", patch=2, in_channels=3, ndim=ndim, out_channels=3)
    x = torch.randn(2, 3, *(4, 6, 8)[:ndim])
    assert torch.equal(net(x), x)
    if ndim == 2:
        assert torch.equal(net.net.seen, torch.nn.functional.pixel_unshuffle(x, 2))


def test_a_periodic_network_commutes_with_shifts_by_patches() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Patches(UNET, SMALL, 4, in_channels=2, ndim=2, bc="periodic").double()
    x = torch.randn(1, 2, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert net(x).shape == (1, 1, 32, 32)
    torch.testing.assert_close(net(x.roll((8, -8), (2, 3))), net(x).roll((8, -8), (2, 3)))


def test_refusals() -> None:
    net = Patches(UNET, SMALL, 4, bc="periodic")
    with pytest.raises(UsageError, match="no multiple of the patch of 4 points"):
        net(torch.zeros(1, 1, 30, 32))
    with pytest.raises(UsageError, match="has 1 axes"):
        net(torch.zeros(1, 1, 32))
    with pytest.raises(UsageError, match="belong to no whole patch"):
        Patches(UNET, SMALL, 4, bc="dirichlet", layout="node")
    with pytest.raises(UsageError, match="patch must be 1 or more"):
        Patches(UNET, SMALL, 0)


def test_smooth_answers_are_interpolated_exactly() -> None:
    net = Patches(f"{__name__}.Means", patch=4, answer="smooth", bc="periodic")
    x = torch.arange(64, dtype=torch.float64) / 64
    wave = torch.cos(2 * math.pi * x[:, None] - 0.3) * torch.ones(64, dtype=torch.float64)
    for field in (wave, wave.T):
        torch.testing.assert_close(net(field[None, None])[0, 0], field)
    with pytest.raises(UsageError, match="with answer: patches"):
        Patches(UNET, SMALL, 4, "smooth", bc="neumann")

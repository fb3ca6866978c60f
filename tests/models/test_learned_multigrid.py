"""The network that advises multigrid: neutral at first, bounded always, blind to scale and size, honest about NaN."""

import pytest
import torch
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.models.learned_multigrid import RELAXATION, SCALE, TILT, StencilAdviser, features


def laplacian(space: tuple[int, ...], n: int = 1) -> Tensor:
    ndim = len(space)
    stencil = torch.zeros((n, 3**ndim, *space), dtype=torch.float64)
    centre = 3**ndim // 2
    stencil[:, centre] = 2.0 * ndim
    for axis in range(ndim):
        stencil[:, centre - 3**axis] = stencil[:, centre + 3**axis] = -1.0
    return stencil * (1 + torch.rand((n, 1, *space), dtype=torch.float64))


def shaken(ndim: int, size: float = 3.0) -> StencilAdviser:
    net = StencilAdviser(ndim, 8)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(size * torch.randn_like(p))
    return net.requires_grad_(False)


@pytest.mark.parametrize("space", [(12, 15), (7, 6, 9)])
def test_it_says_nothing_before_training(space: tuple[int, ...]) -> None:
    advice = StencilAdviser(len(space), 16)(laplacian(space, 2))
    assert torch.equal(advice.relaxation, torch.ones_like(advice.relaxation))
    assert torch.equal(advice.tilt, torch.zeros_like(advice.tilt))
    assert torch.equal(advice.scale, torch.ones_like(advice.scale))
    blocks = tuple((m + 1) // 2 for m in space)
    assert advice.relaxation.shape == (2, 2 ** len(space), *blocks)
    assert advice.tilt.shape == (2, 3 ** len(space) - 1, *blocks)


@pytest.mark.parametrize("space", [(12, 15), (7, 6, 9)])
def test_any_weights_give_admissible_advice(space: tuple[int, ...]) -> None:
    advice = shaken(len(space), 30.0)(laplacian(space))
    assert float((advice.relaxation - 1).abs().max()) <= RELAXATION
    assert float(advice.tilt.abs().max()) <= TILT
    assert float(advice.scale.log().abs().max()) <= SCALE * (1 + 1e-6)
    assert float(advice.tilt.std()) > 0.1


def test_the_scale_of_the_matrix_does_not_matter() -> None:
    stencil, net = laplacian((10, 10)), shaken(2)
    assert torch.allclose(features(stencil), features(4.0**20 * stencil), atol=1e-6)
    assert torch.allclose(net(stencil).tilt, net(4.0**20 * stencil).tilt, atol=1e-4)


def test_features_are_bounded_and_tell_a_link_from_none() -> None:
    stencil = laplacian((8, 8))
    stencil[:, 3, 4, 4] = -1e-6
    seen = features(stencil)
    assert seen.shape == (1, 4, 4, 40)
    assert float(seen.abs().max()) <= 1 + 1 / 8
    stencil[:, 3, 4, 4] = 0.0
    assert float((seen - features(stencil)).abs().max()) > 0.1


def test_inside_a_large_grid_it_says_what_it_says_on_a_small_one() -> None:
    """Shared across sizes: advice depends on the blocks nearby only."""
    stencil, net = laplacian((24, 24)), shaken(2, 1.0)
    whole, part = net(stencil).tilt, net(stencil[:, :, 4:16, 4:16]).tilt
    assert torch.allclose(whole[:, :, 3:7, 3:7], part[:, :, 1:5, 1:5], atol=1e-4)


def test_what_is_not_finite_is_ignored_and_counted() -> None:
    net = StencilAdviser(2, 8)
    with torch.no_grad():
        net.say.bias[5] = torch.nan
    advice = net(laplacian((9, 8)))
    assert net.ignored == 5 * 4
    assert torch.equal(advice.tilt, torch.zeros_like(advice.tilt))
    assert bool(torch.isfinite(advice.relaxation).all())


def test_a_network_of_another_dimension_is_refused() -> None:
    with pytest.raises(UsageError, match="made for 2-D stencils and was given a 3-D one"):
        StencilAdviser(2)(laplacian((6, 6, 6)))
    with pytest.raises(UsageError, match="ndim must be 2 or 3"):
        StencilAdviser(4)

"""Neural spectral block: the published loop over patches, its symmetries, its exact reductions."""

import math

import pytest
import torch
from torch import Tensor

from sciops.models.lsm_block import SpectralBlock, TrigonometricSeries


def random_block(width: int = 16, tokens: int = 4, bases: int = 12, heads: int = 8, seed: int = 0) -> SpectralBlock:
    """Weights of order one, so that attention is far from uniform and the series far from linear."""
    torch.manual_seed(seed)
    block = SpectralBlock(width, tokens, bases, heads).double()
    with torch.no_grad():
        for p in block.parameters():
            p.normal_().mul_(p.shape[-1] ** -0.5 if p.ndim == 2 else 0.5)
    return block


def loop(block: SpectralBlock, x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """The formulas, patch by patch and head by head."""
    out = x.clone()
    width, h = x.shape[1], block.heads
    e = width // h
    corners = torch.cartesian_prod(*(torch.arange(0, n, p) for n, p in zip(x.shape[2:], patch, strict=True)))
    for case in range(len(x)):
        for corner in corners.reshape(-1, len(patch)).tolist():
            at = (case, slice(None), *(slice(c, c + p) for c, p in zip(corner, patch, strict=True)))
            points = x[at].flatten(1)  # channels × points
            keys, values, queries = (
                layer.weight @ points + layer.bias[:, None] for layer in (block.key, block.value, block.query)
            )
            update = torch.zeros_like(points)
            for head in range(h):
                own = slice(head * e, (head + 1) * e)
                z0 = block.latent[head]
                z = z0 + (z0 @ keys[own]).softmax(1) @ values[own].T
                n = block.bases
                series = z.clone()
                for i in range(n):
                    angle = math.pi * i * z / n
                    series += block.series[own, i] * angle.sin() + block.series[own, n + i] * angle.cos()
                update[own] = ((queries[own].T @ series.T).softmax(1) @ series).T
            out[at] += update.view_as(x[at])
    return out


@pytest.mark.parametrize(
    ("sizes", "patch"),
    [((12, 18), (6, 6)), ((8, 8), (8, 8)), ((14, 4), (7, 2)), ((12,), (3,)), ((14, 4, 6), (7, 2, 2)), ((4, 4), (1, 1))],
    ids=lambda v: "x".join(map(str, v)),
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_the_loop_over_patches(sizes: tuple[int, ...], patch: tuple[int, ...], channels_last: bool) -> None:
    block = random_block()
    x = torch.randn(2, 16, *sizes, dtype=torch.float64)
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    with torch.no_grad():
        known = loop(block, x, patch)
        assert (known - x).abs().max() > 0.1  # the block does something
        assert (block(x, patch) - known).abs().max() <= 1e-12 * known.abs().max()
        single = block.float()(x.float(), patch)
        assert single.dtype == torch.float32
        assert (single - known).abs().max() <= 1e-6 * known.abs().max()


@pytest.mark.parametrize(("width", "tokens", "bases", "heads"), [(24, 3, 1, 4), (8, 1, 2, 8), (6, 5, 7, 1)])
def test_equals_the_loop_with_other_sizes(width: int, tokens: int, bases: int, heads: int) -> None:
    block = random_block(width, tokens, bases, heads)
    x = torch.randn(1, width, 4, 6, dtype=torch.float64)
    known = loop(block, x, (2, 3))
    assert (block(x, (2, 3)) - known).abs().max() <= 1e-12 * known.abs().max()


@pytest.mark.parametrize("width", [32, 64, 256])
def test_parameter_count(width: int) -> None:
    count = sum(p.numel() for p in SpectralBlock(width).parameters())
    assert count == 3 * width**2 + 3 * width + width * (2 * 12 + 4)
    assert count == {32: 4_064, 64: 14_272, 256: 204_544}[width]


def test_gradients() -> None:
    block = random_block(8, 2, 3, 2)
    x = torch.randn(1, 8, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: block(v, (2, 2)), x)
    grads = torch.autograd.grad(block(x, (2, 2)).square().sum(), list(block.parameters()))
    for (name, _), grad in zip(block.named_parameters(), grads, strict=True):
        if name == "key.bias":  # a constant added to all logits of a token
            assert grad.abs().max() < 1e-12
        else:
            assert grad.abs().max() > 1e-3


def test_patches_do_not_see_each_other() -> None:
    block = random_block()
    x = torch.randn(1, 16, 12, 12, dtype=torch.float64)
    y = x.clone()
    y[..., 4:8, 8:] += torch.randn(1, 16, 4, 4, dtype=torch.float64)
    change = (block(y, (4, 4)) - block(x, (4, 4))).abs().sum(1)[0]
    inside = torch.zeros(12, 12, dtype=torch.bool)
    inside[4:8, 8:] = True
    assert change[~inside].max() == 0
    assert change[inside].min() > 0


def test_points_of_a_patch_and_patches_have_no_order() -> None:
    block = random_block()
    x = torch.randn(1, 16, 8, 8, dtype=torch.float64)
    as_patches = x.view(1, 16, 2, 4, 2, 4)
    points, patches = torch.randperm(16), torch.randperm(4)

    def shuffle(v: Tensor) -> Tensor:
        rows = v.reshape(as_patches.shape).permute(0, 1, 2, 4, 3, 5).reshape(1, 16, 4, 16)[:, :, patches][..., points]
        return rows.view(1, 16, 2, 2, 4, 4).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)

    with torch.no_grad():
        difference = block(shuffle(x), (4, 4)) - shuffle(block(x, (4, 4)))
        assert difference.abs().max() < 1e-13
        assert (block(x.mT.contiguous(), (4, 4)) - block(x, (4, 4)).mT).abs().max() < 1e-13


def test_without_series_values_and_queries_it_adds_the_mean_token() -> None:
    block = random_block()
    with torch.no_grad():
        for p in (block.series, *block.value.parameters(), *block.query.parameters()):
            p.zero_()
        x = torch.randn(2, 16, 8, 8, dtype=torch.float64)
        mean = block.latent.mean(1).flatten().view(1, 16, 1, 1)
        assert (block(x, (4, 4)) - (x + mean)).abs().max() < 1e-14


def test_zero_tokens_leave_the_field_alone() -> None:
    block = random_block()
    with torch.no_grad():
        for p in (block.series, block.latent, *block.value.parameters()):
            p.zero_()
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    assert torch.equal(block(x, (4, 4)), x)


@pytest.mark.parametrize("bases", [1, 2, 5])
def test_the_derivatives_of_the_series(bases: int) -> None:
    z = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 2 * bases, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(TrigonometricSeries.apply, (z, weights))
    assert torch.autograd.gradgradcheck(TrigonometricSeries.apply, (z, weights))
    mapped = torch.vmap(TrigonometricSeries.apply, (0, None))(z, weights)
    assert torch.allclose(mapped, TrigonometricSeries.apply(z, weights), atol=1e-14)


def test_the_series_of_small_and_large_tokens_in_single_precision() -> None:
    """Horner's rule in e^{iθ} adds rounding errors; recurrences in 2 cos θ amplify them near θ = 0."""
    block = random_block()
    for scale in (1e-3, 1.0, 30.0):
        z = scale * torch.randn(64, 4, 16)
        with torch.no_grad():
            known = block.double().transition(z.double())
            found = block.float().transition(z)
        # The angle itself is rounded: 11π/12 · |z| · eps, times the weights.
        bound = 1e-6 + 1e-6 * scale
        assert (found - known).abs().max() < bound * block.series.abs().sum(1).max()


def test_autocast_does_not_reach_inside() -> None:
    block = random_block().float()
    x = torch.randn(1, 16, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = block(x, (4, 4))
    assert torch.equal(inside, block(x, (4, 4)))
    assert block(x.bfloat16(), (4, 4)).dtype == torch.bfloat16


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="heads must divide width"):
        SpectralBlock(12)
    with pytest.raises(ValueError, match="tokens and bases"):
        SpectralBlock(16, tokens=0)
    with pytest.raises(ValueError, match=r"patch \(4, 4\) must tile the grid \(8, 6\)"):
        SpectralBlock(16)(torch.zeros(1, 16, 8, 6), (4, 4))

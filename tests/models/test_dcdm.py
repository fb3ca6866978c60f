"""The DCDM network: published sizes, homogeneity, any grid, masks."""

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.models.dcdm import DCDM


def count(net: DCDM) -> int:
    return sum(p.numel() for p in net.parameters())


def made(seed: int = 0, **options: object) -> DCDM:
    torch.manual_seed(seed)
    return DCDM(**options).eval()  # type: ignore[arg-type]


def residual(*shape: int) -> torch.Tensor:
    return torch.randn((2, 1, *shape), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("ndim", "size", "biases", "free"),
    [(3, "64", 97_457, 97_216), (3, "128", 152_881, 152_512), (2, "64", 32_657, 32_416), (2, "128", 51_217, 50_848)],
)
def test_published_counts(ndim: int, size: str, biases: int, free: int) -> None:
    assert count(DCDM(ndim, size, faithful=True)) == biases
    assert count(DCDM(ndim, size)) == free


def test_the_graph_is_the_published_one() -> None:
    """The same network from its formula: pooling as a mean of four shifted views, upsampling as repetition."""
    net, r = made().requires_grad_(False), residual(8, 8)
    x = r / r.square().mean((1, 2, 3), keepdim=True).sqrt()

    def block(u: torch.Tensor, b: torch.nn.Module) -> torch.Tensor:
        return torch.relu(b.second(torch.relu(b.first(u)))) + u  # type: ignore[operator]

    h = torch.relu(net.enter(net.lift(x)))
    for b in net.fine:
        h = block(h, b)
    h = torch.relu(net.leave(h))
    u = (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4
    for b in net.coarse:
        u = block(u, b)
    u = u.repeat_interleave(2, 2).repeat_interleave(2, 3) + h
    for b in net.out:
        u = block(u, b)
    expected = net.head(u) * r.square().mean((1, 2, 3), keepdim=True).sqrt()
    assert [len(part) for part in (net.fine, net.coarse, net.out)] == [1, 3, 2]
    torch.testing.assert_close(net(r), expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def test_positively_homogeneous_over_the_range_of_float32() -> None:
    net, r = made(), residual(12, 12)
    f = net(r)
    for factor in (1e-30, 1e-7, 3.0, 1e30):
        assert torch.allclose(net(factor * r) / factor, f, rtol=1e-4, atol=1e-5 * float(f.abs().max()))
    assert torch.equal(net(torch.zeros_like(r)), torch.zeros_like(r))


def test_odd_symmetrisation() -> None:
    plain, odd, r = made(), made(odd=True), residual(12, 12)
    assert torch.allclose(odd(-r), -odd(r), atol=1e-6)
    assert not torch.allclose(plain(-r), -plain(r), rtol=1e-2)
    assert torch.allclose(odd(r), 0.5 * (plain(r) - plain(-r)), atol=1e-6)


def test_faithful_input_has_unit_norm_and_its_weights_do_not_scale() -> None:
    net, r = made(faithful=True), residual(12, 12)
    unit = r / r.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    assert torch.allclose(net(r), net.body(unit), atol=1e-6)
    assert torch.allclose(net(5 * r), net(r), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 2), (1, 5), (7, 7), (8, 13), (33, 20)])
def test_any_grid_in_two_dimensions(shape: tuple[int, ...]) -> None:
    r = residual(*shape)
    assert made()(r).shape == r.shape


@pytest.mark.parametrize("shape", [(9,), (6, 7, 8), (5, 5, 5)])
def test_any_grid_in_other_dimensions(shape: tuple[int, ...]) -> None:
    r = residual(*shape)
    f = made(ndim=len(shape))(r)
    assert f.shape == r.shape and bool(f.isfinite().all())


def test_far_cells_do_not_matter() -> None:
    """Receptive radius of the "64" network: the same answer where the inputs agree within 24 cells, on any grid."""
    net = made()
    small, large = torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 96, 96)
    small[..., 2:6, 2:6] = residual(4, 4)[:1]
    large[..., :32, :32] = small
    assert torch.allclose(net.body(small)[..., :4, :4], net.body(large)[..., :4, :4], atol=1e-6)
    assert torch.allclose(net(small)[..., :4, :4], net(large)[..., :4, :4], atol=1e-5)
    reach = net.body(large)[0, 0].abs()
    assert float(reach[40:, 40:].max()) == 0 and float(reach[:20, :20].max()) > 0


def test_the_mask_hides_junk() -> None:
    net, r = made(), residual(10, 10)
    active = torch.zeros(2, 10, 10, dtype=torch.bool)
    active[:, 2:8, 3:9] = True
    junk = torch.where(active[:, None], r, 1e6)
    f = net(r, active)
    assert torch.equal(net(junk, active), f)
    assert float(f[~active[:, None]].abs().max()) == 0 and float(f.abs().max()) > 0
    assert torch.equal(net(r, active[:1]), f)  # one mask for all


@pytest.mark.parametrize(
    ("options", "words"),
    [({"ndim": 4}, "ndim 1, 2, 3; got 4"), ({"size": "32"}, "64, 128 or three counts"), ({"size": [1, 2]}, "three")],
)
def test_bad_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        DCDM(**options)  # type: ignore[arg-type]


def test_a_two_dimensional_network_refuses_a_three_dimensional_residual() -> None:
    with pytest.raises(UsageError, match="made for 2-D grids; got a 3-D one"):
        made()(residual(4, 4, 4))

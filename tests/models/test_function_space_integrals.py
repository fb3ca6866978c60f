"""Layers that integrate over space: quadrature invariance, graded grids, orders, coordinates."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.grid import Grid, PointSet
from sciops.models.function_space import (
    CoordinateEmbedding,
    FunctionalHead,
    LinearAttention,
    QuadAttention,
    RadiusIntegral,
    Rotary,
    WeightedGroupNorm,
    WeightedInstanceNorm,
    WeightedMean,
)
from sciops.models.function_space.quadrature import axis_weights, graded

LAYERS: dict[str, Callable[[], torch.nn.Module]] = {
    "attention": lambda: QuadAttention(8, 2),
    "rotary_attention": lambda: QuadAttention(8, 2, rotary=Rotary(4, 1.0)),
    "linear_attention": lambda: LinearAttention(8, 2),
    "group_norm": lambda: WeightedGroupNorm(4, 8),
    "instance_norm": lambda: WeightedInstanceNorm(8),
    "mean": WeightedMean,
    "radius": lambda: RadiusIntegral(8, 8, 0.3, hidden=4, depthwise=True),
    "head": lambda: FunctionalHead(8, 3, Grid.box(5, ndim=2)),
}


def layer(name: str) -> torch.nn.Module:
    torch.manual_seed(3)
    return LAYERS[name]().double()


def smooth(x: Tensor, channels: int = 8) -> Tensor:
    """(N, d) → (1, channels, N), not symmetric about the middle of the unit box."""
    k = torch.arange(1, channels + 1, dtype=x.dtype)[:, None]
    phase = (x * torch.tensor([1.3, 0.7, 0.4][: x.shape[1]], dtype=x.dtype)).sum(1)
    return (torch.sin(2.0 * phase + 0.5 * k) * (1 + 0.2 * k * x[:, 0] ** 2))[None]


def on(grid: Grid) -> Tensor:
    return smooth(grid.points()).unflatten(2, grid.shape)


@pytest.mark.parametrize("name", LAYERS)
def test_splitting_a_point_changes_nothing(name: str) -> None:
    """Every point in two of half the weight, then in two of unequal weights."""
    net, random = layer(name), torch.Generator().manual_seed(0)
    x = torch.rand(40, 2, generator=random, dtype=torch.float64)
    w = 0.2 + torch.rand(40, generator=random, dtype=torch.float64)
    f = smooth(x)
    whole = net(f, PointSet(x, w / w.sum()))
    parts = PointSet(torch.cat([x, x]), torch.cat([w / 2, w / 2]) / w.sum())
    split = net(torch.cat([f, f], dim=2), parts)
    torch.testing.assert_close(split[..., : whole.shape[-1]], whole, rtol=0, atol=1e-12)
    uneven = torch.where(torch.arange(40) < 20, 0.1, 0.7).double().round(decimals=1)
    skewed = net(torch.cat([f, f], 2), PointSet(parts.coordinates, torch.cat([w * uneven, w * (1 - uneven)]) / w.sum()))
    torch.testing.assert_close(skewed[..., : whole.shape[-1]], whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_graded_grid_agrees_with_a_uniform_one(name: str) -> None:
    net = layer(name)
    t = torch.linspace(0, 1, 33, dtype=torch.float64)
    points = graded([t**1.5, t], (0, 0), (1, 1))
    uniform = Grid.box(33, ndim=2)
    got, want = net(smooth(points.points()), points), net(on(uniform), uniform)
    if got.shape != want.shape:  # a field: compare where the grids meet, on the axis x = 1
        got, want = got.unflatten(2, (33, 33))[:, :, -1], want[:, :, -1]
    bare = net(smooth(points.points()), PointSet.equal_weights(points.points()))
    bare = bare.unflatten(2, (33, 33))[:, :, -1] if bare.dim() == 3 else bare
    error = ((got - want).norm() / want.norm()).item()
    assert error < 0.02
    assert ((bare - want).norm() / want.norm()).item() > 3 * error, "the weights did not matter"


@pytest.mark.parametrize("kind", ["node", "cell"])
@pytest.mark.parametrize("name", LAYERS)
def test_second_order_in_the_spacing(name: str, kind: str) -> None:
    """One reference integral: the fields compared at fixed query points, or the numbers themselves."""
    net = layer(name)
    values = []
    for n in (8, 16, 32):
        grid = Grid.box(n + 1 if kind == "node" else n * 3, ndim=2, layout=kind)
        if kind == "cell":  # thirds: centres of the coarse cells stay centres
            grid = Grid.box({8: 4, 16: 12, 32: 36}[n], ndim=2, layout=kind)
        y = net(on(grid), grid)
        if y.dim() == 4:
            step, start = (n // 8, 0) if kind == "node" else (grid.shape[0] // 4, grid.shape[0] // 8)
            y = y[:, :, start::step, start::step]
        values.append(y)
    ratio = (values[0] - values[1]).abs().max() / (values[1] - values[2]).abs().max()
    assert ratio > (3.4 if kind == "node" else 7.5)


def test_spectral_rate_on_a_periodic_grid() -> None:
    net = layer("attention")

    def field(n: int) -> tuple[Tensor, Grid]:
        grid = Grid.box(n, layout="periodic", ndim=1)
        x = grid.points()[:, 0]
        return torch.stack([torch.exp(torch.sin(2 * math.pi * x + c)) for c in range(8)])[None], grid

    coarse, fine = net(*field(16)), net(*field(64))[..., ::4]
    assert (coarse - fine).abs().max() < 1e-7


def test_equal_weights_are_the_torch_layers() -> None:
    grid = Grid.box((6, 5), layout="cell")
    x = torch.randn(2, 8, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    group = torch.nn.GroupNorm(4, 8).double()
    torch.testing.assert_close(layer("group_norm")(x, grid), group(x))
    torch.testing.assert_close(layer("mean")(x, grid), x.mean((2, 3)))
    ours, theirs = layer("attention"), torch.nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    rows = x.flatten(2).mT
    torch.testing.assert_close(ours(x, grid).flatten(2).mT, theirs(rows, rows, rows)[0])


def test_cross_attention_weighs_the_source() -> None:
    """Another number of queries than source points, non-uniform source."""
    net, t = layer("attention"), torch.linspace(0, 1, 65, dtype=torch.float64)
    target = Grid.box(7, ndim=1)
    y = [net(on(target), target, smooth(s.points()), s) for s in (Grid.box(65, ndim=1), graded([t**2], (0,), (1,)))]
    assert ((y[0] - y[1]).norm() / y[0].norm()).item() < 2e-3
    linear = layer("linear_attention")
    z = [linear(on(target), target, smooth(s.points()), s) for s in (Grid.box(65, ndim=1), graded([t**2], (0,), (1,)))]
    assert ((z[0] - z[1]).norm() / z[0].norm()).item() < 2e-3
    with pytest.raises(UsageError, match="both the source field and the domain"):
        net(on(target), target, on(target))


def test_tokens_settle_when_the_grid_is_refined() -> None:
    """A class token beside n² points: with bare logits its pull would vanish as n grows."""
    net = layer("attention")
    tokens = torch.randn(1, 2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    outs = []
    for n in (9, 17, 33):
        grid = Grid.box(n, ndim=2)
        outs.append(net.with_tokens(on(grid), tokens, grid)[1])
    first, second = (outs[0] - outs[1]).abs().max(), (outs[1] - outs[2]).abs().max()
    assert second < 1e-3 and first / second > 3.4
    alone = net.with_tokens(on(grid), tokens[:, :0], grid)[0]
    torch.testing.assert_close(alone, net(on(grid), grid))
    assert (net.with_tokens(on(grid), tokens, grid)[0] - alone).abs().max() > 1e-2


def test_rotary_logits_depend_on_the_distance_and_have_the_period() -> None:
    grid = Grid.box((12, 5), layout="periodic", upper=(3.0, 2.0))
    net = QuadAttention(16, 2, rotary=Rotary(8, (3.0, 2.0), periodic=True)).double()
    x = torch.randn(1, 16, 12, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(net(x.roll((5, 2), (2, 3)), grid), net(x, grid).roll((5, 2), (2, 3)))
    plain = Rotary(8, (3.0, 2.0))
    ones = torch.ones(1, 1, 60, 8, dtype=torch.float64)
    products = plain(ones, grid) @ plain(ones, grid).mT
    shifted = Grid((12, 5), (7.0, -1.0), (10.0, 1.0), ("periodic", "periodic"))
    torch.testing.assert_close(plain(ones, shifted) @ plain(ones, shifted).mT, products)


@pytest.mark.parametrize("kind", ["node", "cell", "periodic"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_coordinates_are_those_of_the_grid(kind: str, ndim: int) -> None:
    grid = Grid.box((5, 4, 6)[:ndim], lower=-1.0, upper=3.0, layout=kind)
    embed = CoordinateEmbedding.of(grid, modes=2)
    x = torch.zeros(2, 1, *grid.shape)
    y = embed(x, grid)
    assert y.shape == (2, 1 + embed.channels, *grid.shape) and y.dtype == x.dtype
    first = (grid.mesh()[0] + 1) / 4
    want = torch.sin(2 * math.pi * first) if kind == "periodic" else first
    torch.testing.assert_close(y[1, 1].double(), want, rtol=0, atol=1e-6)
    fine = grid.refined(3)
    shared = embed.features(fine, x)[(slice(None), *(slice(1 if kind == "cell" else 0, None, 3),) * ndim)]
    torch.testing.assert_close(shared, embed.features(grid, x), rtol=0, atol=2e-7)
    points = PointSet.equal_weights(grid.points())
    assert torch.equal(embed.features(points, x), embed.features(grid, x).flatten(1))


def test_graded_weights_are_the_known_rules() -> None:
    for kind in ("node", "cell", "periodic"):
        grid = Grid.box(7, lower=2.0, upper=5.0, layout=kind)
        torch.testing.assert_close(axis_weights(grid.axis(0), 2.0, 5.0, kind == "periodic"), grid.weights())
    x = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    assert axis_weights(x, 0.0, 1.0, periodic=True).tolist() == pytest.approx([0.25, 0.3, 0.45])
    with pytest.raises(UsageError, match="ascend"):
        axis_weights(x.flip(0), 0.0, 1.0)


def test_head_is_the_flattened_linear_layer_on_its_lattice() -> None:
    grid = Grid.box((4, 6), layout="cell", upper=(2.0, 3.0))
    head = FunctionalHead(2, 3, grid).double()
    linear = torch.nn.Linear(48, 3).double()
    with torch.no_grad():
        head.weight.copy_(linear.weight.view(3, 2, 4, 6) * grid.size)
        head.bias.copy_(linear.bias)
    x = torch.randn(5, 2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(x, grid), linear(x.flatten(1)))


@pytest.mark.parametrize("name", LAYERS)
def test_wrong_domains_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="came with a domain"):
        layer(name)(on(Grid.box(6, ndim=2)), Grid.box(5, ndim=2))
    grid = Grid.box(3, ndim=1)
    with pytest.raises(UsageError, match="positive"):
        layer("mean")(torch.zeros(1, 8, 3), PointSet(grid.points(), torch.tensor([0.5, 0.0, 0.5])))


def test_radius_integral_crosses_the_seam_and_other_points() -> None:
    net = RadiusIntegral(3, 3, 0.4, hidden=8, depthwise=True, relative=True, chunk=50).double()
    grid = Grid.box((12, 10), layout="periodic", upper=(1.0, 2.0))
    x = torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(net(x.roll((5, 4), (2, 3)), grid), net(x, grid).roll((5, 4), (2, 3)))
    some = PointSet.equal_weights(grid.points()[::7])
    torch.testing.assert_close(net(x, grid, some), net(x, grid).flatten(2)[..., ::7])
    torch.manual_seed(0)
    full = RadiusIntegral(3, 2, 0.4, hidden=8).double()
    with torch.no_grad():  # a constant kernel: each ball's mean of a constant, times the matrix
        full.outer.weight.zero_()
    matrix = full.outer.bias.view(3, 2)
    torch.testing.assert_close(full(torch.ones_like(x), grid)[0, :, 3, 4], matrix.sum(0))
    far = PointSet.equal_weights(torch.tensor([[9.0, 9.0]], dtype=torch.float64))
    alone = Grid.box(5, ndim=2)
    assert net(torch.ones(1, 3, 5, 5, dtype=torch.float64), alone, far).abs().max() == 0

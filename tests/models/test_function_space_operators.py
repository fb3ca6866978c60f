"""Operators written from scratch: one limit under refinement, at any size and layout."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.grid import Grid, PointSet
from sciops.models.function_space import LocalFNO, OFormer, UNetOperator, ViTOperator
from sciops.solvers.operator_facts import accepts, build_net, complete

SMALL: dict[str, Callable[[Grid], torch.nn.Module]] = {
    "local_fno": lambda g: LocalFNO(g, width=6, layers=2, n_modes=3, local=(0, 1), local_taps=3, lifting=12),
    "oformer": lambda g: OFormer(g, width=8, heads=2, layers=2, n_modes=3, head_channels=12),
    "vit": lambda g: ViTOperator(g, patch=3, width=12, layers=2, heads=2, mlp=16, fields=4, modes=2),
    "unet": lambda g: UNetOperator(g, width=4, multipliers=(1, 2, 1), taps=3),
}
KINDS = ("node", "cell", "periodic")


def build(name: str, native: Grid) -> torch.nn.Module:
    torch.manual_seed(1)
    return SMALL[name](native).double()


def field(grid: Grid) -> Tensor:
    f = torch.ones(grid.shape, dtype=torch.float64)
    for j, x in enumerate(grid.mesh()):
        f = f * torch.exp(torch.sin(2 * torch.pi * x + j))
    return f[None, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SMALL)
def test_outputs_have_one_limit_of_second_order(name: str, kind: str) -> None:
    """Grids nested by thirds from the native one on; the last change must be a ninth of the one before."""
    native = Grid.box(13 if kind == "node" else 12, layout=kind)
    net, values = build(name, native), []
    for s in (1, 3, 9, 27):
        grid = native.refined(s)
        y = net(field(grid), grid)
        values.append(y[..., s // 2 :: s] if kind == "cell" else y[..., ::s])
    gaps = [(a - b).abs().max() for a, b in pairwise(values)]
    assert gaps[2] < 5e-3 * values[-1].abs().max(), gaps
    assert gaps[1] / gaps[2] > 7, gaps
    assert values[-1].std() > 1e-3


@pytest.mark.parametrize("kind", ["node", "periodic"])
@pytest.mark.parametrize("name", SMALL)
def test_rectangles_have_one_limit_too(name: str, kind: str) -> None:
    native = Grid.box((9, 7) if kind == "node" else (8, 6), layout=kind)
    net = build(name, native)
    a, b, c = (net(field(native.refined(s)))[..., ::s, ::s] for s in (2, 4, 8))
    assert (a - b).abs().max() / (b - c).abs().max() > 3.3


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_any_size_and_dimension_without_a_grid(name: str, ndim: int) -> None:
    """Odd, rectangular and coarser than native; single precision; gradients reach every parameter."""
    native = Grid.box((9, 8, 7)[:ndim], layout=("periodic", "node", "cell")[:ndim])
    net = build(name, native).float()
    for shape in ((9, 8, 7)[:ndim], (7, 11, 6)[:ndim]):
        x = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0))
        y = net(x)
        assert y.shape == x.shape and y.dtype == torch.float32 and y.isfinite().all()
        torch.testing.assert_close(y, net(x, native.resized(shape)))
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    with pytest.raises(UsageError, match="box of the operator"):
        net(x, Grid.box(shape, upper=2.0, layout=native.layout))


@pytest.mark.parametrize("name", SMALL)
def test_parameters_do_not_depend_on_the_grid_that_is_asked(name: str) -> None:
    net = build(name, Grid.box(12, ndim=2, layout="periodic"))
    again = build(name, Grid.box(12, ndim=2, layout="periodic"))
    before = sum(p.numel() for p in net.parameters())
    x = field(Grid.box((17, 14), layout="periodic"))
    y = net(x)
    again.load_state_dict(net.state_dict())
    assert sum(p.numel() for p in net.parameters()) == before
    assert torch.equal(again(x), y)


def test_oformer_takes_scattered_points_with_weights() -> None:
    native = Grid.box(12, ndim=2)
    torch.manual_seed(1)
    net = OFormer(native, width=8, heads=2, layers=2, n_modes=0, head_channels=8).double()
    grid = Grid.box(9, ndim=2)
    f = field(grid)
    points = PointSet(grid.points(), grid.weights().flatten())
    torch.testing.assert_close(net(f.flatten(2), points), net(f).flatten(2))
    with pytest.raises(UsageError, match="needs a grid"):
        build("oformer", native)(f.flatten(2), points)


def test_periodic_shifts_commute_where_positions_are_relative() -> None:
    """Without coordinate channels nothing knows where a point is: here the two first weights on them are zero."""
    native = Grid.box((12, 10), layout="periodic")
    for name in ("local_fno", "oformer"):
        net = build(name, native)
        assert isinstance(net, LocalFNO | OFormer)
        net.lift.inner.conv.weight.data[:, 1:] = 0
        x = torch.randn(1, 1, 15, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        torch.testing.assert_close(net(x.roll((4, 3), (2, 3))), net(x).roll((4, 3), (2, 3)))


@pytest.mark.parametrize("net", [LocalFNO, OFormer, ViTOperator, UNetOperator])
def test_the_operator_solver_builds_them_from_its_data(net: type) -> None:
    """The training grid comes from the data, and the dry run on the meta device goes through."""
    facts: dict = {
        "kept": ["a", "f"],
        "outputs": ["u"],
        "grid": {"shape": [9, 8], "lower": [0.0, 0.0], "upper": [1.0, 2.0], "layout": ["node", "periodic"]},
        "boundary": [["dirichlet", "dirichlet"], ["periodic", "periodic"]],
    }
    path = f"{net.__module__}.{net.__name__}"
    model = build_net(complete({"class_path": path, "init_args": {"width": 12}}, facts))
    assert isinstance(model, net) and model.native == Grid((9, 8), (0.0, 0.0), (1.0, 2.0), ("node", "periodic"))
    assert accepts(model, facts, (9, 8)) is None and accepts(model, facts, (17, 12)) is None
    with pytest.raises(UsageError, match="a table of shape, lower"):
        build_net({"class_path": path, "init_args": {"native": {"shape": [8, 8]}}})


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_export_at_another_size(name: str) -> None:
    net = build(name, Grid.box(8, ndim=2, layout="periodic")).eval()
    x = torch.randn(1, 1, 12, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


def test_published_sizes() -> None:
    """Fourier weights: width² · layers · (2m − 1) m complex numbers; the whole near the published 66 million."""
    with torch.device("meta"):
        native = Grid.box(128, ndim=2, layout="periodic")
        count = sum(p.numel() for p in LocalFNO(native, local=()).parameters())
        vit = sum(p.numel() for p in ViTOperator(native).parameters())
    assert count - 2 * 99**2 * 4 * 39 * 20 < 0.01 * count
    assert 58e6 < count < 68e6
    assert 62e6 < vit < 66e6

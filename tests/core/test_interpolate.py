"""Interpolation: stated orders on every layout, exactness on polynomials and band-limited functions, gradients."""

import itertools
import math

import pytest
import torch

from sciops.core.boundary import Boundary
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.interpolate import interpolate, resample

ORDERS = {"nearest": 1.0, "linear": 2.0, "cubic": 4.0}
LAYOUT = ("node", "cell", "periodic")


def wave(x: torch.Tensor, length: float = 2.0) -> torch.Tensor:
    """A smooth function, periodic on [0, length]^d."""
    return torch.exp(torch.sin(2 * math.pi * x / length + 0.3)).prod(-1)


def on_grid(function, grid: Grid) -> torch.Tensor:
    return function(grid.points()).reshape(1, 1, *grid.shape)


@pytest.mark.parametrize("layout", LAYOUT)
@pytest.mark.parametrize("rule", ORDERS)
@pytest.mark.parametrize("ndim", [1, 2])
def test_observed_order_at_points(layout: str, rule: str, ndim: int) -> None:
    x = 2.0 * torch.rand(1, 4000, ndim, dtype=torch.float64)
    errors = []
    for n in (32, 64, 128):
        grid = Grid.box(n, upper=2.0, layout=layout, ndim=ndim)
        got = interpolate(on_grid(wave, grid), grid, x, rule)[0, 0]
        errors.append(float((got - wave(x[0])).square().mean().sqrt()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(ORDERS[rule], abs=0.25), (errors, orders)


@pytest.mark.parametrize("layout", LAYOUT)
@pytest.mark.parametrize("rule", ORDERS)
def test_grid_points_are_hit_exactly(layout: str, rule: str) -> None:
    grid = Grid.box([7, 10], lower=[-1.0, 0.3], upper=[0.4, 1.7], layout=layout)
    values = torch.rand(2, 3, *grid.shape, dtype=torch.float64)
    got = interpolate(values, grid, grid.points()[None], rule).reshape(values.shape)
    torch.testing.assert_close(got, values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", ["node", "cell"])
@pytest.mark.parametrize(("rule", "degree"), [("linear", 1), ("cubic", 3)])
def test_exact_on_polynomials_up_to_the_walls(layout: str, rule: str, degree: int) -> None:
    def polynomial(x: torch.Tensor) -> torch.Tensor:
        return ((1.3 * x[..., 0] - 0.4) ** degree) * ((x[..., 1] + 0.2) ** degree) + x[..., 0] ** degree

    grid = Grid.box([6, 9], lower=-1.0, upper=2.0, layout=layout)
    x = -1.0 + 3.0 * torch.rand(1, 200, 2, dtype=torch.float64)
    got = interpolate(on_grid(polynomial, grid), grid, x, rule)[0, 0]
    torch.testing.assert_close(got, polynomial(x[0]), rtol=1e-11, atol=1e-11)
    target = grid.resized([11, 5])
    moved = resample(on_grid(polynomial, grid), grid, target, rule)
    torch.testing.assert_close(moved, on_grid(polynomial, target), rtol=1e-11, atol=1e-11)


def test_differentiable_in_the_points_and_the_values() -> None:
    grid = Grid.box(6, ndim=2)
    values = torch.rand(1, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    x = (0.05 + 0.9 * torch.rand(1, 5, 2, dtype=torch.float64)).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v, p: interpolate(v, grid, p, "cubic"), (values, x))


def test_gradient_of_a_polynomial_is_its_derivative_at_grid_points_too() -> None:
    grid = Grid.box(9)
    x = torch.cat([grid.axis(0), torch.rand(20, dtype=torch.float64)])[None, :, None].requires_grad_(True)
    (slope,) = torch.autograd.grad(interpolate(grid.axis(0)[None, None] ** 3, grid, x, "cubic").sum(), x)
    torch.testing.assert_close(slope, 3 * x.detach() ** 2, rtol=1e-9, atol=1e-9)


def test_each_case_has_its_own_points_or_shares_them() -> None:
    grid = Grid.box(8, layout="periodic")
    values = torch.rand(3, 2, 8, dtype=torch.float64)
    x = torch.rand(3, 5, 1, dtype=torch.float64)
    own = interpolate(values, grid, x, "cubic")
    for i in range(3):
        shared = interpolate(values, grid, x[i : i + 1], "cubic")
        torch.testing.assert_close(own[i], shared[i], rtol=1e-14, atol=0)


@pytest.mark.parametrize("shift", [-3.0, 2.0, 10.0])
def test_periodic_points_wrap(shift: float) -> None:
    grid = Grid.box(12, layout="periodic")
    values, x = torch.rand(1, 1, 12, dtype=torch.float64), torch.rand(1, 30, 1, dtype=torch.float64)
    torch.testing.assert_close(
        interpolate(values, grid, x + shift, "cubic"), interpolate(values, grid, x, "cubic"), rtol=1e-9, atol=1e-9
    )


BAND = [
    ("periodic", "periodic", lambda x: 1 + torch.sin(2 * math.pi * 3 * x + 0.4) + torch.cos(2 * math.pi * 5 * x)),
    ("dirichlet", "node", lambda x: torch.sin(math.pi * 2 * x) - 0.3 * torch.sin(math.pi * 9 * x)),
    ("dirichlet", "cell", lambda x: torch.sin(math.pi * 2 * x) - 0.3 * torch.sin(math.pi * 9 * x)),
    ("neumann", "node", lambda x: 1 + torch.cos(math.pi * 2 * x) - 0.3 * torch.cos(math.pi * 9 * x)),
    ("neumann", "cell", lambda x: 1 + torch.cos(math.pi * 2 * x) - 0.3 * torch.cos(math.pi * 9 * x)),
]


@pytest.mark.parametrize(("kind", "layout", "function"), BAND, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("n", [12, 13])
def test_spectral_is_exact_on_band_limited_functions(kind: str, layout: str, function, n: int) -> None:
    source = Grid.box(n, ndim=2, layout=layout)
    boundary = Boundary.of(kind, 2)
    for target in (source.resized(31), source.resized([9, 40])):
        x, y = source.mesh()
        s, t = target.mesh()
        got = resample((function(x) * function(y))[None, None], source, target, "spectral", boundary)
        torch.testing.assert_close(got[0, 0], function(s) * function(t), rtol=1e-10, atol=1e-10)


def test_spectral_moves_between_node_and_cell_layouts() -> None:
    source, target = Grid.box(17, layout="node"), Grid.box(24, layout="cell")
    f = BAND[3][2]
    got = resample(f(source.axis(0))[None, None], source, target, "spectral", Boundary.of("neumann", 1))
    torch.testing.assert_close(got[0, 0], f(target.axis(0)), rtol=1e-10, atol=1e-10)


def test_resampling_keeps_the_dtype_and_refuses_other_boxes() -> None:
    grid = Grid.box(8)
    values = torch.rand(1, 1, 8)
    assert resample(values, grid, grid.resized(5)).dtype is torch.float32
    with pytest.raises(UsageError, match="boxes"):
        resample(values, grid, Grid.box(8, upper=2.0))
    with pytest.raises(UsageError, match="boxes or their periodic axes"):
        resample(values, grid, Grid.box(8, layout="periodic"))
    with pytest.raises(UsageError, match="boundary condition"):
        resample(values, grid, grid.resized(5), "spectral")


@pytest.mark.parametrize("rule", ["nearest", "linear"])
def test_local_rules_stay_within_the_range_of_two_phase_data(rule: str) -> None:
    grid = Grid.box(16, ndim=2, layout="periodic")
    values = torch.where(torch.rand(1, 1, 16, 16) > 0.5, 12.0, 3.0)
    moved = resample(values, grid, grid.resized(37), rule)
    assert float(moved.min()) >= 3.0 - 1e-5
    assert float(moved.max()) <= 12.0 + 1e-5

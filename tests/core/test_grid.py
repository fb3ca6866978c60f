"""Grids: every layout integrates what it should, refines onto itself and refuses nonsense in one sentence."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciops.core.boundary import Boundary
from sciops.core.errors import UsageError
from sciops.core.grid import LAYOUTS, Grid, PointSet

# beartype draws random items of containers to check them.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

sizes = st.integers(2, 9)
ends = st.tuples(st.floats(-3, 3), st.floats(0.1, 5)).map(lambda p: (p[0], p[0] + p[1]))
axes = st.lists(st.tuples(sizes, ends, st.sampled_from(LAYOUTS)), min_size=1, max_size=3)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    parts = draw(axes)
    return Grid(
        tuple(n for n, _, _ in parts),
        tuple(e[0] for _, e, _ in parts),
        tuple(e[1] for _, e, _ in parts),
        tuple(kind for _, _, kind in parts),
    )


@given(grids())
@settings(max_examples=60, deadline=None)
def test_weights_sum_to_the_measure(grid: Grid) -> None:
    weights = grid.weights()
    assert weights.shape == grid.shape
    assert bool((weights > 0).all())
    assert float(weights.sum()) == pytest.approx(grid.measure, rel=1e-12)


@given(grids(), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_refining_keeps_old_points_and_splits_the_spacing(grid: Grid, factor: int) -> None:
    fine = grid.refined(factor)
    assert fine.same_box(grid)
    for j in range(grid.ndim):
        assert fine.spacing[j] == pytest.approx(grid.spacing[j] / factor, rel=1e-12)
        if grid.layout[j] != "cell":
            torch.testing.assert_close(fine.axis(j)[::factor], grid.axis(j), rtol=0, atol=1e-12)


@given(grids())
@settings(max_examples=60, deadline=None)
def test_quadrature_is_exact_for_multilinear_functions_off_periodic_axes(grid: Grid) -> None:
    values, exact = torch.ones(grid.shape, dtype=torch.float64), 1.0
    for j, x in enumerate(grid.mesh()):
        lo, up = grid.lower[j], grid.upper[j]
        if grid.layout[j] == "periodic":
            exact *= up - lo
        else:
            values = values * (1 + 2 * x)
            exact *= (up - lo) + (up**2 - lo**2)
    assert float((values * grid.weights()).sum()) == pytest.approx(exact, rel=1e-10, abs=1e-10)


@given(st.integers(2, 24), st.integers(1, 40), st.floats(0, 6))
@settings(max_examples=80, deadline=None)
def test_periodic_quadrature_is_exact_for_waves_that_the_grid_tells_from_constants(
    n: int, k: int, phase: float
) -> None:
    grid = Grid.box(n, upper=2.0, layout="periodic")
    integral = float((torch.cos(math.pi * k * grid.axis(0) + phase) * grid.weights()).sum())
    aliased = 2.0 * math.cos(phase) if k % n == 0 else 0.0
    assert integral == pytest.approx(aliased, abs=1e-11)


@given(grids())
@settings(max_examples=30, deadline=None)
def test_points_are_the_flattened_mesh_in_row_major_order(grid: Grid) -> None:
    points = grid.points()
    assert points.shape == (grid.size, grid.ndim)
    for j, x in enumerate(grid.mesh()):
        assert torch.equal(points[:, j].reshape(grid.shape), x)
        assert float(x.min()) >= grid.lower[j] - 1e-12
        assert float(x.max()) <= grid.upper[j] + 1e-12


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Grid.box(1), "at least 2 points"),
        (lambda: Grid.box(8, layout="nodes"), "node, cell, periodic"),
        (lambda: Grid.box(8, lower=1.0, upper=1.0), "lower < upper"),
        (lambda: Grid.box(8, upper=math.inf), "finite"),
        (lambda: Grid((4, 4), (0.0,), (1.0,), ("node",)), "per axis"),
        (lambda: Grid.box([8, 8], ndim=3), "ndim=3"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(make, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_point_sets_share_the_surface_of_grids_and_compare_by_content() -> None:
    x = torch.rand(10, 2, dtype=torch.float64)
    points = PointSet.equal_weights(x, measure=4.0)
    assert (points.ndim, points.shape, points.size) == (2, (10,), 10)
    assert points.measure == pytest.approx(4.0)
    assert points == PointSet.equal_weights(x.clone(), measure=4.0)
    assert points != PointSet.equal_weights(x + 1, measure=4.0)
    with pytest.raises((UsageError, TypeError)):  # TypeError: the annotation is enforced in the tests
        PointSet(x, torch.ones(9, dtype=torch.float64))


def test_boundary_and_grid_must_agree_on_periodic_axes() -> None:
    with pytest.raises(UsageError, match="layout periodic"):
        Boundary.of("periodic", 1).check(Grid.box(8))
    with pytest.raises(UsageError, match="node or cell"):
        Boundary.of("neumann", 1).check(Grid.box(8, layout="periodic"))
    with pytest.raises(UsageError, match="both ends"):
        Boundary((("periodic", "neumann"),))
    with pytest.raises(UsageError, match="dirichlet, neumann, periodic"):
        Boundary.of("robin", 1)
    with pytest.raises(UsageError, match="2 space dimension"):
        Boundary.of("neumann", 2).check(Grid.box(8))
    mixed = Boundary((("dirichlet", "neumann"), ("periodic", "periodic")))
    assert mixed.uniform is None
    assert [face for face, *_ in mixed.faces()] == ["x0", "x1"]

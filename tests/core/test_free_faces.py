"""Faces of any axis have unambiguous names; a free face has no condition, and everything that meets it knows."""

import math
from dataclasses import replace

import pytest
import torch

from sciops.core.boundary import Boundary, axis_name, axis_names, face_axis, face_name
from sciops.core.calculus import Spectral, Stencil
from sciops.core.errors import UsageError, ViewMissing
from sciops.core.grid import Grid
from sciops.core.problem import DataOnly
from sciops.core.solver import View
from sciops.metrics.boundary import BoundaryViolation
from sciops.metrics.residual import Residual
from sciops.problems.burgers import Burgers
from sciops.problems.convection import Convection
from sciops.problems.kdv import KdV
from sciops.problems.peaks import Peaks
from sciops.solvers.collocation import CollocationSolver, Equation

SPACE_TIME = Boundary((("dirichlet", "dirichlet"), ("dirichlet", "free")))


def test_names_of_faces_are_unambiguous() -> None:
    assert axis_names(5) == ("x", "y", "z", "x4", "x5")
    names = [face_name(axis, side) for axis in range(40) for side in (0, 1)]
    assert len(set(names)) == len(names)
    assert [face_axis(name) for name in names] == [(axis, side) for axis in range(40) for side in (0, 1)]
    assert not set(names) & {axis_name(axis) for axis in range(10)}


@pytest.mark.parametrize("name", ["x", "x2", "x10", "x30", "w0", "", "0", "x042", "xx0"])
def test_names_that_are_no_faces_are_refused(name) -> None:
    with pytest.raises(UsageError, match="A face is an axis"):
        face_axis(name)


def test_ten_axes_have_twenty_faces() -> None:
    faces = list(Boundary.of("dirichlet", 10).faces())
    assert len(faces) == 20 and faces[-1] == ("x101", 9, 1, "dirichlet")
    assert [face_axis(name) for name, *_ in faces] == [(axis, side) for _, axis, side, _ in faces]


def test_free_faces_are_listed_as_free_and_pair_with_no_period() -> None:
    assert [(name, kind) for name, _, _, kind in SPACE_TIME.faces()][-1] == ("y1", "free")
    assert SPACE_TIME.has_free and not Boundary.of("dirichlet", 3).has_free
    with pytest.raises(UsageError, match="periodic at both ends"):
        Boundary((("periodic", "free"),))


# ---- differences


def _errors(order, layout, n):
    grid = Grid.box([n, n], layout=["node", layout])
    x, y = grid.mesh()
    d = Stencil(grid, SPACE_TIME, {})
    u = torch.sin(math.pi * x) * torch.exp(2 * y)
    exact = 2 ** sum(order) * u
    # Rows of the initial face hold data and are no equations: cells there would need the data themselves.
    return (d.partial(u[None], order)[0] - exact)[1:-1, 2:].abs().max().item()


@pytest.mark.parametrize("layout", ["node", "cell"])
@pytest.mark.parametrize("order", [(0, 1), (0, 2)])
def test_differences_at_a_free_face_are_of_second_order(order, layout) -> None:
    coarse, fine = (_errors(order, layout, n) for n in (41, 81))
    assert math.log2(coarse / fine) > 1.8


def test_a_variable_coefficient_keeps_the_order_at_a_free_face() -> None:
    errors = []
    for n in (41, 81):
        grid = Grid.box([n, n])
        x, y = grid.mesh()
        u, a = torch.sin(math.pi * x) * torch.exp(2 * y), 1 + y
        # ∂_x(a ∂_x u) + ∂_y(a ∂_y u)
        exact = -(math.pi**2) * a * u + 4 * a * u + 2 * u
        d = Stencil(grid, SPACE_TIME)
        errors.append((d.div_flux(a[None], u[None])[0] - exact)[1:-1, 1:].abs().max().item())
    assert math.log2(errors[0] / errors[1]) > 1.8


def test_third_differences_on_a_periodic_axis() -> None:
    errors = []
    for n in (64, 128):
        grid = Grid.box(n, ndim=1, layout="periodic", upper=2.0)
        d = Stencil(grid, Boundary.of("periodic", 1))
        u = torch.sin(2 * math.pi * grid.axis(0))
        exact = -((2 * math.pi) ** 3) * torch.cos(2 * math.pi * grid.axis(0))
        errors.append((d.partial(u[None], (3,))[0] - exact).abs().max().item())
    assert 1.9 < math.log2(errors[0] / errors[1]) < 2.1
    with pytest.raises(UsageError, match="along a periodic one"):
        Stencil(Grid.box(8, ndim=1), Boundary.of("dirichlet", 1)).partial(torch.zeros(1, 8), (3,))


def test_too_few_points_beside_a_free_face_are_refused() -> None:
    d = Stencil(Grid.box([8, 3]), SPACE_TIME)
    with pytest.raises(UsageError, match="at least 4 points"):
        d.partial(torch.zeros(1, 8, 3), (0, 2))
    with pytest.raises(UsageError, match="at least 3 points"):
        Stencil(Grid.box([8, 2]), SPACE_TIME).partial(torch.zeros(1, 8, 2), (0, 1))


def test_a_series_has_no_free_face() -> None:
    with pytest.raises(UsageError, match="free face"):
        Spectral(Grid.box([8, 8]), Boundary((("dirichlet", "dirichlet"), ("free", "free"))))


def test_unknowns_are_what_no_condition_holds() -> None:
    assert Stencil(Grid.box([8, 9]), SPACE_TIME).unknown_shape == (6, 8)


# ---- problems


def burgers(shape=(65, 65)):
    return Burgers(nu=0.1).sample([3], Grid.box(shape, [-1, 0], [1, 1]))


def test_free_faces_take_the_linear_system_away() -> None:
    assert View.SYSTEM not in Convection().views()
    assert View.RESIDUAL in Convection().views()


def test_points_see_no_condition_on_a_free_face() -> None:
    cases = burgers()
    equation = Equation(cases)
    assert [face.name for face in equation.faces] == ["x0", "x1", "y0"]
    assert [(k.face, k.axis, k.side, k.output, k.kind) for k in cases.problem.conditions()] == [
        ("x0", 0, 0, 0, "dirichlet"),
        ("x1", 0, 1, 0, "dirichlet"),
        ("y0", 1, 0, 0, "dirichlet"),
    ]
    x = torch.stack([torch.linspace(-1, 1, 7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)], -1)
    g = cases.problem.conditions()[2].values(cases, x[None])
    torch.testing.assert_close(g[0], -torch.sin(math.pi * x[:, 0]), rtol=0, atol=1e-14)
    with pytest.raises(UsageError, match="y1 is free"):
        cases.problem.boundary_at(cases, "y1", x[None])
    assert set(cases.boundary) == {"x0", "x1", "y0"}


def test_several_unknowns_need_their_own_conditions() -> None:
    with pytest.raises(ViewMissing, match="conditions"):
        DataOnly(output_names=("u", "v")).conditions()


def test_stored_initial_data_serve_where_no_closed_form_does() -> None:
    cases = replace(burgers((129, 17)), seeds=None)
    x = torch.stack([torch.linspace(-1, 1, 50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)], -1)
    g = cases.problem.boundary_at(cases, "y0", x[None])
    torch.testing.assert_close(g[0], -torch.sin(math.pi * x[:, 0]), rtol=0, atol=1e-4)


# ---- metrics


def test_boundary_metric_leaves_free_faces_out() -> None:
    cases = burgers()
    truth = cases.problem.reference(cases).field
    metric = BoundaryViolation()
    assert metric.applies(truth, cases) is None
    values = truth.values.clone()
    values[..., 1:-1, -1] += 1.0
    assert float(metric.per_case(replace(truth, values=values), truth, cases).max()) < 1e-12
    values[..., 1:-1, 0] += 0.1
    columns = metric.per_case(replace(truth, values=values), truth, cases)[0]
    assert columns.shape == (3,) and float(columns[2]) > 0.1


def test_grid_residuals_of_the_truth_fall_with_the_square_of_h() -> None:
    norms = []
    for n in (65, 129):
        cases = burgers((n, n))
        truth = cases.problem.reference(cases).field.values[:, 0, 0]
        norms.append(float(cases.problem.residual_on_grid(cases, truth).abs().max()))
    assert 1.7 < math.log2(norms[0] / norms[1]) < 2.3


def test_the_residual_metric_reads_third_derivatives() -> None:
    problem = KdV(delta=0.1, modes=48, steps=2048)
    cases = problem.sample([0], Grid.box([64, 33], [-1, 0], [1, 1], layout=["periodic", "node"]))
    truth = problem.reference(cases).field
    assert Residual().applies(truth, cases) is None
    with pytest.warns(UserWarning, match="truth is zero"):
        assert torch.isnan(Residual().per_case(truth, truth, cases)).all()  # f = 0: no scale to compare with


# ---- many axes


def test_four_axes_through_cases_and_the_shape_check() -> None:
    problem = Peaks(centres=((0.0,) * 4,), sharpness=2.0)
    grid = Grid.box(5, -1.0, 1.0, ndim=4)
    cases = problem.sample([0], grid)
    assert set(cases.boundary) == {face_name(axis, side) for axis in range(4) for side in (0, 1)}
    assert cases.on(Grid.box(3, -1.0, 1.0, ndim=4)).boundary["x41"].shape == (1, 3, 3, 3)
    moved = replace(cases, seeds=None).on(Grid.box(9, -1.0, 1.0, ndim=4))
    assert moved.provenance == "interpolated" and moved.boundary["x40"].shape == (1, 9, 9, 9)
    torch.testing.assert_close(moved.boundary["x40"][:, ::2, ::2, ::2], cases.boundary["x40"], rtol=0, atol=1e-14)

    class Asks(CollocationSolver):
        def solve_case(self, equation, budget):
            raise AssertionError("not reached")

    wrong = replace(cases, boundary=cases.boundary | {"x41": torch.zeros(1, 5, 5)})
    with pytest.raises(UsageError, match=r"boundary\['x41'\] must have shape \(1, 5, 5, 5\)"):
        Asks().solve(wrong, grid)

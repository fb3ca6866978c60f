"""The residual around a state: tangents against symbols and differences, total derivatives, boundary data at points."""

import math
from dataclasses import replace

import pytest
import torch

from sciops.core.calculus import Autodiff, Jet, Symbol
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.problems.advection import Advection
from sciops.problems.allen_cahn import AllenCahn
from sciops.problems.boundary_layer import BoundaryLayer
from sciops.problems.darcy import Darcy
from sciops.problems.helmholtz import Helmholtz
from sciops.problems.homogenisation import Homogenisation
from sciops.problems.poisson import Poisson

LINEAR = [
    *(Poisson(ndim=d, modes=4) for d in (1, 2, 3)),
    Darcy(law="trigonometric"),
    Darcy(law="lognormal", modes=8),  # its coefficient is interpolated
    Advection(parameters={"beta": [1, 200]}),
    Helmholtz(ndim=2, parameters={"wavenumber": [1, 9]}),
    Homogenisation(parameters={"eps": [0.1, 0.2]}),
    BoundaryLayer(),
]


def wave(p):
    """A function with no symmetry: all its derivatives differ."""
    phase = sum((k + 1.3) * p[..., k] for k in range(p.shape[-1]))
    return torch.sin(phase) + 0.5 * torch.exp(-0.7 * p[..., 0])


def bump(p):
    return torch.cos(1.7 * p[..., 0] + 0.4 * p[..., -1] ** 2)


def state_of(function, x):
    """α ↦ ∂^α of a function at x, by automatic differentiation, and the list of what was asked."""
    d = Autodiff(x)
    u, asked = function(d.x), []

    def state(order):
        asked.append(order)
        return d.partial(u, order).detach()

    return state, asked


def applied(terms, state):
    return sum(c * state(order) for order, c in terms.items())


@pytest.mark.parametrize("problem", LINEAR, ids=str)
def test_the_tangent_of_a_linear_residual_is_its_symbol_at_any_state(problem) -> None:
    cases = problem.sample([1, 2], Grid.box(9, ndim=problem.ndim))
    x = torch.rand(2, 30, problem.ndim, dtype=torch.float64)
    state, _ = state_of(wave, x)
    d = Jet(x, state)
    tangent = d.linearise(problem.residual(d, d.u, cases.at(d.x)))
    symbol = problem.symbol(cases, x)
    assert set(tangent.terms) == set(symbol.terms)
    for order, coefficient in symbol.terms.items():
        expected = torch.as_tensor(coefficient, dtype=x.dtype).detach().expand(2, 30)
        torch.testing.assert_close(tangent.terms[order], expected, rtol=1e-12, atol=1e-12)
    constant = torch.as_tensor(symbol.constant, dtype=x.dtype).detach().expand(2, 30)
    size = float(applied({k: v.abs() for k, v in tangent.terms.items()}, lambda order: state(order).abs()).max())
    assert float((tangent.constant - constant).abs().max()) < 1e-14 * (size + float(constant.abs().max()))
    same = problem.tangent(cases, x, state)
    assert set(same.terms) == set(symbol.terms)


NONLINEAR = {
    "reaction": lambda d, u: d.laplacian(u) + u * (u**2 - 1),
    "burgers": lambda d, u: u * d.partial(u, (1, 0)) - 0.1 * d.laplacian(u),
    "quasilinear diffusion": lambda d, u: -d.div_flux(1 + u**2, u),
    "diffusion by gradients": lambda d, u: -d.div_flux(1 + d.partial(u, (1, 0)) ** 2 + d.x[..., 1], u),
    "exponential": lambda d, u: d.laplacian(u) + torch.exp(u) * torch.cos(d.x[..., 0]),
    "Monge–Ampère": lambda d, u: d.partial(u, (2, 0)) * d.partial(u, (0, 2)) - d.partial(u, (1, 1)) ** 2,
    "derivative of a product": lambda d, u: d.partial(d.x[..., 0] ** 2 * u * d.partial(u, (1, 0)), (0, 1)),
    "second derivative of a power": lambda d, u: d.partial(u**3, (2, 0)) + d.partial(u**2, (1, 1)),
    "third order": lambda d, u: d.partial(u, (3, 0)) + u * d.partial(u, (1, 0)),
    "eikonal": lambda d, u: torch.sqrt(d.partial(u, (1, 0)) ** 2 + d.partial(u, (0, 1)) ** 2 + 0.1),
}


@pytest.mark.parametrize("name", NONLINEAR)
def test_the_tangent_of_a_nonlinear_residual_is_the_limit_of_its_differences(name: str) -> None:
    """Σ c_α ∂^α δ against (R(u + hδ) − R(u − hδ))/2h at two h: equal up to O(h²), falling fourfold when h halves."""
    R = NONLINEAR[name]
    x = torch.rand(2, 40, 2, dtype=torch.float64)
    d = Jet(x, state_of(wave, x)[0])
    residual = R(d, d.u)
    tangent = d.linearise(residual)
    plain = Autodiff(x)
    here = R(plain, wave(plain.x)).detach()
    torch.testing.assert_close(residual.detach(), here, rtol=1e-11, atol=1e-11)
    touch = applied(tangent.terms, state_of(wave, x)[0]) + tangent.constant
    torch.testing.assert_close(touch, here, rtol=1e-11, atol=1e-11)
    slope = applied(tangent.terms, state_of(bump, x)[0])

    def difference(h):
        values = []
        for sign in (1, -1):
            q = Autodiff(x)
            values.append(R(q, wave(q.x) + sign * h * bump(q.x)).detach())
        return (values[0] - values[1]) / (2 * h)

    gaps = [float((difference(h) - slope).abs().max()) for h in (2e-2, 1e-2)]
    size = float(slope.abs().max())
    assert gaps[1] < 2e-3 * size
    assert gaps[1] < 1e-9 * size or gaps[0] / gaps[1] == pytest.approx(4.0, rel=0.1)


def test_total_derivatives_see_both_the_points_and_the_state() -> None:
    """D_x(x u²) = u² + 2 x u u_x, D_y of it, and of what does not depend on u."""
    x = torch.rand(1, 20, 2, dtype=torch.float64)
    state, _ = state_of(wave, x)
    d = Jet(x, state)
    p, u, ux, uy, uxy = d.x[..., 0], *(state(o) for o in ((0, 0), (1, 0), (0, 1), (1, 1)))
    e = p * d.u**2
    torch.testing.assert_close(d.partial(e, (1, 0)), u**2 + 2 * p * u * ux)
    torch.testing.assert_close(d.partial(e, (1, 1)), 2 * u * uy + 2 * p * (uy * ux + u * uxy))
    torch.testing.assert_close(d.partial(torch.sin(p), (2, 0)), -torch.sin(p))
    assert not d.partial(torch.ones_like(p).detach(), (1, 0)).any()


def test_states_are_asked_for_derivatives_of_the_equation_alone() -> None:
    x = torch.rand(1, 5, 2, dtype=torch.float64)
    state, asked = state_of(wave, x)
    d = Jet(x, state)
    d.linearise(NONLINEAR["reaction"](d, d.u))
    assert sorted(asked) == [(0, 0), (0, 2), (2, 0)]


def test_a_state_may_be_shared_between_cases() -> None:
    problem = AllenCahn(ndim=2, exact_solution="sin(a*x + y)", parameters={"a": [1, 3]})
    cases = problem.sample([1, 2], Grid.box(9, ndim=2))
    x = torch.rand(1, 15, 2, dtype=torch.float64)
    state, _ = state_of(wave, x)
    both = problem.tangent(cases, x, state)
    for i in range(2):
        alone = problem.tangent(cases[i], x, state)
        torch.testing.assert_close(both.constant[i], alone.constant[0])
        torch.testing.assert_close(both.terms[0, 0][i], alone.terms[0, 0][0])


@pytest.mark.parametrize(
    "residual",
    [
        lambda d: d.u.detach() ** 2,
        lambda d: d.x[..., 0] ** 2,
        lambda d: torch.as_tensor(d.u.detach().numpy() ** 2),
        lambda d: torch.zeros(1, 5, dtype=torch.float64),
    ],
)
def test_what_was_not_computed_from_u_cannot_be_linearised(residual) -> None:
    d = Jet(torch.rand(1, 5, 2, dtype=torch.float64), lambda order: torch.ones(1, 5, dtype=torch.float64))
    with pytest.raises(UsageError, match="cannot be linearised") as caught:
        d.linearise(residual(d))
    assert "\n" not in str(caught.value)


def test_the_symbol_stays_the_judge_of_linearity() -> None:
    d = Symbol(torch.rand(1, 5, 2, dtype=torch.float64))
    with pytest.raises(UsageError, match="nonlinear"):
        NONLINEAR["reaction"](d, d.u)


# ---- boundary data at points


def face_points(problem, axis, side, grid, n=40):
    lower, upper = (torch.tensor(ends, dtype=torch.float64) for ends in (grid.lower, grid.upper))
    x = lower + (upper - lower) * torch.rand(1, n, problem.ndim, dtype=torch.float64)
    x[..., axis] = (lower, upper)[side][axis]
    return x


@pytest.mark.parametrize("condition", ["dirichlet", "neumann"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_boundary_data_at_points_are_those_of_the_closed_form(ndim: int, condition: str) -> None:
    formula = " + ".join(f"sin(a*{v})*{k + 1}" for k, v in enumerate("xyz"[:ndim])) + " + x**3"
    problem = Poisson(ndim=ndim, condition=condition, exact_solution=formula, parameters={"a": [1, 3]})
    grid = Grid.box([9, 10, 11][:ndim], lower=0.2, upper=[1.0, 1.5, 1.2][:ndim])
    cases = problem.sample([1, 2], grid)
    a = cases.params["a"][:, None]
    for face, axis, side, _ in problem.boundary.faces():
        x = face_points(problem, axis, side, grid)
        p = x.expand(2, -1, -1)
        if condition == "dirichlet":
            expected = sum((k + 1) * torch.sin(a * p[..., k]) for k in range(ndim)) + p[..., 0] ** 3
        else:
            slope = (axis + 1) * a * torch.cos(a * p[..., axis]) + (3 * p[..., 0] ** 2 if axis == 0 else 0.0)
            expected = slope * (1 if side else -1)
        torch.testing.assert_close(problem.boundary_at(cases, face, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", ["node", "cell"])
@pytest.mark.parametrize("condition", ["dirichlet", "neumann"])
def test_stored_boundary_data_are_interpolated_along_their_face(condition: str, layout: str) -> None:
    """Without seeds the closed form is gone: cubic interpolation, of order three at least, exact at nodes."""
    problem = Poisson(condition=condition, exact_solution="sin(4*x + 3*y)")
    for face, axis, side, _ in problem.boundary.faces():
        errors = []
        for n in (17, 33):
            grid = Grid.box(n, ndim=2, upper=[1.0, 1.5], layout=layout)
            cases = problem.sample([1], grid)
            stored = replace(cases, seeds=None)
            x = face_points(problem, axis, side, grid, 400)
            errors.append(float((problem.boundary_at(stored, face, x) - problem.boundary_at(cases, face, x)).norm()))
            nodes = grid.axis(1 - axis)
            on_nodes = torch.full((1, n, 2), x[0, 0, axis].item(), dtype=torch.float64)
            on_nodes[0, :, 1 - axis] = nodes
            torch.testing.assert_close(stored.on_face(face, on_nodes), stored.boundary[face], rtol=1e-12, atol=1e-12)
        assert math.log2(errors[0] / errors[1]) > 2.7


def test_faces_without_data_are_zero_and_ends_of_intervals_are_numbers() -> None:
    cases = Poisson(modes=4).sample([1, 2], Grid.box(9, ndim=2))
    x = torch.rand(1, 7, 2, dtype=torch.float64)
    assert not cases.on_face("x0", x).any() and cases.on_face("y1", x).shape == (2, 7)
    problem = Poisson(ndim=1, exact_solution="a + x", parameters={"a": [1, 3]})
    ends = replace(problem.sample([1, 2], Grid.box(9)), seeds=None)
    end = torch.ones(1, 3, 1, dtype=torch.float64)
    expected = (ends.params["a"] + 1)[:, None].expand(2, 3)
    torch.testing.assert_close(problem.boundary_at(ends, "x1", end), expected)

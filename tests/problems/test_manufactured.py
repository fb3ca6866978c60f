"""Closed-form problems: derived sources, orders of the differences, Newton's tangent, random draws, refusals."""

import math
from dataclasses import replace

import pytest
import torch

from sciops.core.calculus import Autodiff
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.problem import Problem
from sciops.core.solver import View
from sciops.problems.advection import Advection
from sciops.problems.allen_cahn import AllenCahn
from sciops.problems.boundary_layer import BoundaryLayer
from sciops.problems.helmholtz import Helmholtz
from sciops.problems.homogenisation import Homogenisation
from sciops.problems.poisson import Poisson

WITH_SYSTEM = [
    (Helmholtz(wavenumber=10.0), (129, 257)),
    (Helmholtz(ndim=2, wavenumber=5.0, exact_solution="sin(wavenumber*x + 0.3)*exp(-y)"), (33, 65)),
    (Helmholtz(ndim=3, wavenumber=2.0, exact_solution="sin(wavenumber*x)*exp(y - z)"), (9, 17)),
    (Homogenisation(eps=0.5), (129, 257)),
    (Homogenisation(eps=0.3, contrast=-1.0), (257, 513)),  # ω is no multiple of 2π: both constants are general
    (BoundaryLayer(eps=0.01), (129, 257)),
    (Poisson(ndim=1, exact_solution="sin(20*x**2)"), (129, 257)),
]


@pytest.mark.parametrize(("problem", "sizes"), WITH_SYSTEM, ids=lambda v: type(v).__name__)
def test_differences_approach_the_closed_form_at_order_two(problem: Problem, sizes: tuple[int, int]) -> None:
    from scipy.sparse.linalg import spsolve

    errors = []
    for n in sizes:
        grid = Grid.box(n, ndim=problem.ndim)
        cases = problem.sample([5], grid)
        A, b = problem.system(cases)
        v = torch.as_tensor(spsolve(A.to_scipy(0).tocsc(), b[0].flatten().numpy()))
        u = problem.embed(cases, v.reshape(b.shape))
        truth = problem.reference(cases).field.values[:, 0, 0]
        errors.append(float((u - truth).norm() / truth.norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.25)
    assert errors[1] < 0.05


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_the_tangent_of_allen_cahn_vanishes_at_the_closed_form_and_is_the_derivative_elsewhere(ndim: int) -> None:
    problem = AllenCahn(ndim=ndim, exact_solution="sin(40*x) + cos(30*x)")
    cases = problem.sample([1, 2], Grid.box(9, ndim=ndim))
    x = torch.rand(2, 200, ndim, dtype=torch.float64)
    d = Autodiff(x)
    u = problem.exact(cases, d.x)[:, 0]
    state = {order: d.partial(u, order).detach() for order in _orders(ndim)}
    tangent = problem.tangent(cases, x, state.__getitem__)
    expected = {order: torch.ones_like(x[..., 0]) for order in _orders(ndim) if sum(order)}
    expected[(0,) * ndim] = 3 * u.detach() ** 2 - 1
    assert set(tangent.terms) == set(expected)
    for order, coefficient in expected.items():
        torch.testing.assert_close(tangent.terms[order].expand_as(coefficient), coefficient, rtol=1e-13, atol=1e-13)
    residual = sum(c * state[order] for order, c in tangent.terms.items()) + tangent.constant
    assert float(residual.abs().max()) < 1e-13 * float(sum(abs(v) for v in state.values()).max())


def _orders(ndim: int) -> list[tuple[int, ...]]:
    return [(0,) * ndim, *(tuple(2 * int(i == j) for i in range(ndim)) for j in range(ndim))]


@pytest.mark.parametrize("seed", range(3))
def test_newtons_method_on_the_grid_meets_allen_cahn_at_order_two(seed: int) -> None:
    """Newton's iteration on the differences, from zero: quadratic, and within O(h²) of the closed form."""
    problem = AllenCahn(exact_solution="s*sin(a*x)", parameters={"a": [5, 9], "s": [0.5, 1]})
    errors = []
    for n in (65, 129):
        cases = problem.sample([seed], Grid.box(n))
        v, steps = torch.zeros(1, n - 2, dtype=torch.float64), []
        for _ in range(8):
            residual = lambda w: problem.residual_on_grid(cases, problem.embed(cases, w))  # noqa: E731, B023
            jacobian = torch.func.jacrev(residual)(v).reshape(n - 2, n - 2)
            step = torch.linalg.solve(jacobian, residual(v).reshape(-1))
            v = v - step.reshape(v.shape)
            steps.append(float(step.norm()))
        assert steps[-1] < 1e-10 * steps[0]
        truth = problem.exact(cases, cases.domain.points()[None])[:, 0]
        errors.append(float((problem.embed(cases, v) - truth).norm()) / math.sqrt(n))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.2)


def test_the_layer_is_accurate_to_rounding_where_exponentials_overflow() -> None:
    """ε = 1e-10, layers of 1e-5: against the one-sided form at both ends, relative to u itself."""
    problem = BoundaryLayer(eps=1e-10)
    cases = problem.sample([1], Grid.box(5))
    x = torch.logspace(-12, -1, 200, dtype=torch.float64)[None, :, None]
    expected = -torch.expm1(-x[..., 0] / 1e-5)
    torch.testing.assert_close(problem.exact(cases, x)[:, 0], expected, rtol=1e-14, atol=0)
    assert float(cases.boundary["x0"].abs()) == 0.0 and float(cases.boundary["x1"].abs()) == 0.0
    near = 1.0 - torch.tensor([[[2.0**-20]]], dtype=torch.float64)
    assert float(problem.exact(cases, near)) == pytest.approx(-math.expm1(-(2.0**-20) / 1e-5), rel=1e-12)


def test_homogenisation_tends_to_the_mean_of_the_inverse_coefficient() -> None:
    """1/a averages to 2, so u → x² − x, at the rate ε."""
    x = torch.rand(1, 500, 1, dtype=torch.float64)
    limit = x[..., 0] ** 2 - x[..., 0]
    gaps = []
    for eps in (0.01, 0.005):
        problem = Homogenisation(eps=eps)
        gaps.append(float((problem.exact(problem.sample([1], Grid.box(5)), x)[:, 0] - limit).abs().max()))
    assert gaps[0] < 0.01 and gaps[0] / gaps[1] == pytest.approx(2.0, rel=0.1)


def test_transported_waves_have_no_forcing_at_all() -> None:
    cases = Advection().sample([1], Grid.box(101, ndim=2))
    assert float(cases.input("f").abs().max()) == 0.0
    x = torch.rand(1, 1000, 2, dtype=torch.float64)
    assert float(cases.at(x).f.abs().max()) == 0.0
    residual = cases.problem.reference(cases).stats["residual"]
    assert bool(torch.isfinite(residual).all()) and float(residual) < 1.0
    assert View.SYSTEM not in cases.problem.views() and View.RESIDUAL in cases.problem.views()


def test_a_named_number_is_fixed_or_drawn_and_reaches_formula_and_operator_alike() -> None:
    drawn = Helmholtz(parameters={"wavenumber": [3, 7]})
    cases = drawn.sample([4, 9], Grid.box(33))
    x = torch.rand(1, 50, 1, dtype=torch.float64)
    for i, k in enumerate(cases.params["wavenumber"].tolist()):
        assert 3 <= k <= 7
        fixed = Helmholtz(wavenumber=k)
        alone = fixed.sample([1], Grid.box(33))
        torch.testing.assert_close(cases.at(x).f[i], alone.at(x).f[0], rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(drawn.exact(cases, x.expand(2, -1, -1))[i], fixed.exact(alone, x)[0])
        u = torch.rand(1, 33, dtype=torch.float64)
        own, other = drawn.residual_on_grid(cases[i], u), fixed.residual_on_grid(alone, u)
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-9)


def test_the_source_is_differentiable_and_computed_in_double_precision() -> None:
    problem = Poisson(ndim=2, exact_solution="sin(300*x)*cos(200*y)")
    cases = problem.sample([1], Grid.box(9, ndim=2), torch.float32)
    x = torch.rand(1, 100, 2, dtype=torch.float32)
    sharp = problem.sample([1], Grid.box(9, ndim=2)).at(x.double()).f
    assert float((cases.at(x).f - sharp).abs().max()) < 1e-6 * float(sharp.abs().max())
    p = x.double().requires_grad_()
    with torch.no_grad():
        quiet = cases.at(p.detach()).f
    assert not quiet.requires_grad
    (slope,) = torch.autograd.grad(problem.sample([1], Grid.box(9, ndim=2)).at(p).f.sum(), p)
    expected = 1.3e5 * 300 * torch.cos(300 * p[..., 0]) * torch.cos(200 * p[..., 1])
    torch.testing.assert_close(slope[..., 0], expected.detach(), rtol=1e-9, atol=1e-9 * 4e7)


def test_constants_and_lines_are_solutions_too() -> None:
    for formula, expected in (("a", 0.0), ("a*x", 0.0), ("2", 0.0)):
        cases = Poisson(ndim=2, exact_solution=formula, parameters={"a": [1, 2]}).sample([1, 2], Grid.box(5, ndim=2))
        assert float(cases.input("f").abs().max()) == expected
        assert cases.problem.reference(cases).ok


def test_cases_that_forgot_their_seeds_have_no_closed_form() -> None:
    problem = Helmholtz(wavenumber=1.0)
    cases = replace(problem.sample([1], Grid.box(17)), seeds=None)
    x = torch.rand(1, 5, 1, dtype=torch.float64)
    assert cases.at(x).exactness == {"f": "cubic"} and problem.exact(cases, x) is None
    allen = AllenCahn(exact_solution="sin(x)")
    with pytest.raises(UsageError, match="sample them again"):
        allen.reference(replace(allen.sample([1], Grid.box(9)), seeds=None))
    drifted = replace(Poisson(ndim=1).sample([1], Grid.box(33)), provenance="interpolated")
    assert drifted.at(x).exactness == {"f": "cubic"}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: AllenCahn(ndim=4), "ndim must be 1 to 3"),
        (lambda: AllenCahn(parameters={"a": [2, 1]}), r"AllenCahn parameter 'a' must be \[low, high\]"),
        (lambda: Helmholtz(parameters={"x": [0, 1]}), "'x' has the name of a coordinate"),
        (lambda: Poisson(exact_solution="f*x", parameters={"f": [0, 1]}), "'f' has the name of a coordinate"),
        (lambda: Homogenisation(contrast=2.0), r"eps > 0 and \|contrast\| < 2"),
        (lambda: Homogenisation(parameters={"contrast": [0, 3]}), r"eps > 0 and \|contrast\| < 2"),
        (lambda: Homogenisation(parameters={"a1": [0, 1]}), "may be eps and contrast; got 'a1'"),
        (lambda: BoundaryLayer(eps=0.0), "needs eps > 0"),
        (lambda: BoundaryLayer(parameters={"width": [1, 2]}), "may be eps; got 'width'"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(make, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


# ---- random forcing of Poisson at any point

EVERY = [("dirichlet", "node"), ("dirichlet", "cell"), ("neumann", "node"), ("neumann", "cell")]
EVERY.append(("periodic", "periodic"))


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(("condition", "layout"), EVERY)
@pytest.mark.parametrize("n", [9, 20])
def test_the_series_is_the_stored_forcing_on_its_grid(condition: str, layout: str, ndim: int, n: int) -> None:
    """12 modes: nine points carry a part of them only, twenty all (but for their seats beyond the Nyquist of waves)."""
    problem = Poisson(ndim=ndim, condition=condition, modes=12)
    grid = Grid.box([n, n + 1, n + 2][:ndim], lower=-0.5, upper=[1.0, 1.5, 0.7][:ndim], layout=layout)
    cases = problem.sample([3, 4], grid)
    seen = cases.at(grid.points()[None])
    assert seen.exactness == {"f": "formula"}
    stored = cases.input("f").flatten(1)
    torch.testing.assert_close(seen.f, stored, rtol=0, atol=1e-12 * float(stored.abs().max()))


@pytest.mark.parametrize("condition", ["dirichlet", "neumann", "periodic"])
def test_the_series_between_the_nodes_is_that_of_a_finer_grid(condition: str) -> None:
    problem = Poisson(ndim=2, condition=condition, modes=12)
    layout = "periodic" if condition == "periodic" else "node"
    coarse, fine = (Grid.box(n, ndim=2, layout=layout) for n in (20, 57))
    x = fine.points()[None].requires_grad_()
    f = problem.sample([3, 4], coarse).at(x).f
    torch.testing.assert_close(f, problem.sample([3, 4], fine).input("f").flatten(1), rtol=1e-10, atol=1e-9)
    # −Δu = f, u from the same modes: the slope of f against central differences of the series itself.
    (slope,) = torch.autograd.grad(f.sum(), x)
    step = torch.tensor([0.0, 1e-5], dtype=torch.float64)
    cases = problem.sample([3, 4], coarse)
    numeric = (cases.at(x.detach() + step).f - cases.at(x.detach() - step).f) / 2e-5
    torch.testing.assert_close(slope[0, :, 1], numeric.sum(0), rtol=1e-5, atol=1e-5 * float(numeric.abs().max()))


def test_the_series_does_not_depend_on_batch_or_chunks() -> None:
    problem = Poisson(ndim=3, modes=40)
    cases = problem.sample([3, 4], Grid.box(45, ndim=3))
    x = torch.rand(2, 3000, 3, dtype=torch.float64)  # two chunks of 2²² / 40² points
    whole = cases.at(x).f
    for i, some in ((0, slice(0, 5)), (1, slice(2600, 2650)), (1, slice(2999, 3000))):
        alone = cases[i].at(x[i : i + 1, some]).f[0]
        torch.testing.assert_close(alone, whole[i, some], rtol=0, atol=1e-12 * float(whole.abs().max()))
    assert problem.exact(cases, x) is None

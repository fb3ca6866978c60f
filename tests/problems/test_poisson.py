"""Poisson: spectral truths against independent solvers, manufactured orders, laws of the forcing, honest labels."""

import math
from dataclasses import replace

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.problems.poisson import Poisson

EVERY = [("dirichlet", "node"), ("dirichlet", "cell"), ("neumann", "node"), ("neumann", "cell")]
EVERY.append(("periodic", "periodic"))


def chebyshev(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and differentiation matrix of degree n on [0, 1] (Trefethen, Spectral Methods, p. 54)."""
    k = torch.arange(n + 1, dtype=torch.float64)
    x = torch.cos(math.pi * k / n)
    c = torch.where((k == 0) | (k == n), 2.0, 1.0).double() * (-1) ** k
    gap = x[:, None] - x[None, :] + torch.eye(n + 1, dtype=torch.float64)
    D = c[:, None] / c[None, :] / gap
    return (x + 1) / 2, 2 * (D - torch.diag(D.sum(1)))


@pytest.mark.parametrize("condition", ["dirichlet", "neumann"])
def test_random_truth_solves_the_equation_by_an_unrelated_method(condition: str) -> None:
    """−u″ = f by Chebyshev collocation, f evaluated at its points as the series itself: agreement to 1e-9."""
    problem = Poisson(ndim=1, condition=condition, modes=12, sigma=1.0)
    n = 60
    points, D = chebyshev(n)
    wave, k = (torch.sin, torch.arange(1, 13)) if condition == "dirichlet" else (torch.cos, torch.arange(13))
    grid = Grid.box(65)
    cases = problem.sample([3], grid)
    # The forcing has 12 modes: its values on the grid fix it at the Chebyshev points.
    series = [wave(math.pi * x[:, None] * k) for x in (points, grid.axis(0))]
    matrix = series[0] @ torch.linalg.pinv(series[1])
    A, f = -D @ D, matrix @ cases.input("f")[0]
    rows = torch.eye(n + 1, dtype=torch.float64) if condition == "dirichlet" else D
    A[0], A[-1], f[0], f[-1] = rows[0], rows[-1], 0.0, 0.0
    u = torch.linalg.lstsq(A, f[:, None], driver="gelsd").solution[:, 0]
    truth = problem.reference(cases).field.values[0, 0, 0]
    expected = matrix @ truth
    if condition == "neumann":
        u, expected = u - u[n // 2], expected - expected[n // 2]
    torch.testing.assert_close(u, expected, rtol=0, atol=1e-9 * float(truth.abs().max()))


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(("condition", "layout"), EVERY)
def test_random_truth_against_a_sparse_direct_solve(condition: str, layout: str, ndim: int) -> None:
    """The second-order system by SciPy approaches the spectral truth at order two."""
    from scipy.sparse.linalg import cg

    problem = Poisson(ndim=ndim, condition=condition, modes=4)
    errors = []
    for n in {1: (33, 65), 2: (33, 65), 3: (17, 33)}[ndim]:
        grid = Grid.box(n if layout == "node" else n - 1, ndim=ndim, layout=layout)
        cases = problem.sample([7], grid)
        A, b = problem.system(cases)
        v, info = cg(A.to_scipy(0), b[0].flatten().numpy(), rtol=1e-11, maxiter=5000)
        assert info == 0
        u = problem.embed(cases, torch.as_tensor(v).reshape(1, *A.space))[0]
        weights = grid.weights()
        if A.nullspace:
            u = u - (u * weights).sum() / grid.measure
        truth = problem.reference(cases).field.values[0, 0, 0]
        errors.append(float(((u - truth).square() * weights).sum().sqrt() / (truth.square() * weights).sum().sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.3)
    assert errors[1] < 0.05


@pytest.mark.parametrize(("condition", "layout"), EVERY)
def test_reference_facts(condition: str, layout: str) -> None:
    grid = Grid.box([24, 20], upper=[1.0, 1.5], layout=layout)
    problem = Poisson(condition=condition, modes=8)
    solution = problem.reference(problem.sample([1, 2, 3], grid))
    assert solution.ok
    assert float(solution.stats["residual"].max()) < 1e-10
    assert float(solution.stats["label_error"].max()) < 1e-12
    u = solution.field.values[:, 0, 0]
    if condition == "dirichlet" and layout == "node":
        assert float(u[:, 0].abs().max()) < 1e-12 * float(u.abs().max())
    if condition != "dirichlet":
        assert float((u * grid.weights()).flatten(1).sum(1).abs().max()) < 1e-12 * float(u.abs().max())


@pytest.mark.parametrize(("condition", "layout"), [("dirichlet", "node"), ("periodic", "periodic")])
@pytest.mark.parametrize("ndim", [1, 2])
def test_label_error_owns_up_to_modes_that_the_grid_cannot_carry(condition: str, layout: str, ndim: int) -> None:
    problem = Poisson(ndim=ndim, condition=condition)  # 64 modes
    extra = int(layout == "node")
    fine = Grid.box(256 + extra, ndim=ndim, layout=layout)
    u = problem.reference(problem.sample([1, 2, 3], fine)).field.values[:, 0, 0]
    for n in (16, 32):
        grid = Grid.box(n + extra, ndim=ndim, layout=layout)
        solution = problem.reference(problem.sample([1, 2, 3], grid))
        truth = u[(slice(None), *(slice(None, None, 256 // n),) * ndim)]
        got = solution.field.values[:, 0, 0]
        error = (got - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
        assert bool((error < 2 * solution.stats["label_error"]).all())
        assert bool((error > 0.2 * solution.stats["label_error"]).all())


@pytest.mark.parametrize("condition", ["dirichlet", "neumann"])
@pytest.mark.parametrize("layout", ["node", "cell"])
@pytest.mark.parametrize("ndim", [1, 2])
def test_manufactured_solutions_are_met_at_order_two(condition: str, layout: str, ndim: int) -> None:
    from scipy.sparse.linalg import cg

    formula = "sin(a*x)*exp(x)" if ndim == 1 else "sin(a*x)*exp(y) + x*y**2"
    problem = Poisson(ndim=ndim, condition=condition, exact_solution=formula, parameters={"a": [1, 3]})
    errors = []
    for n in (33, 65):
        grid = Grid.box(n, ndim=ndim, layout=layout)
        cases = problem.sample([5], grid)
        truth = problem.reference(cases).field.values[0, 0, 0]
        A, b = problem.system(cases)
        right = b[0].flatten()
        right = right - right.mean() if A.nullspace else right
        v, info = cg(A.to_scipy(0), right.numpy(), rtol=1e-11, maxiter=5000)
        assert info == 0
        u = problem.embed(cases, torch.as_tensor(v).reshape(1, *A.space))[0]
        weights = grid.weights()
        if A.nullspace:
            u = u - (u * weights).sum() / grid.measure
        errors.append(float(((u - truth).square() * weights).sum().sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)


def test_manufactured_parameters_are_uniform_in_their_ranges_and_belong_to_the_seed() -> None:
    problem = Poisson(ndim=1, exact_solution="sin(a*x) + b", parameters={"a": [1, 3], "b": [-1, 0]})
    cases = problem.sample(list(range(400)), Grid.box(5))
    for name, (low, high) in problem.parameters.items():
        values = cases.params[name]
        assert low <= float(values.min()) <= float(values.max()) <= high
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.1)
        assert float(problem.sample([17], Grid.box(9)).params[name]) == float(values[17])


def test_forcing_has_the_stated_variance_and_no_mean() -> None:
    """∫f² = σ² Σ_k (κ_k² + τ²)^{−α} in expectation, over 400 draws within 4 standard errors."""
    problem = Poisson(ndim=1, condition="neumann", tau=5.0, alpha=2.0, sigma=100.0, modes=32)
    grid = Grid.box(64, layout="cell")
    f = problem.sample(list(range(400)), grid).input("f")
    power = f.square().mean(1)
    expected = sum(100.0**2 * ((math.pi * k) ** 2 + 25.0) ** -2 for k in range(1, 32))
    assert float(power.mean()) == pytest.approx(expected, abs=4 * float(power.std()) / 20)
    assert float(f.mean(1).abs().max()) < 1e-10


def test_without_seeds_the_reference_is_discrete_and_says_so() -> None:
    problem = Poisson(modes=8)
    grid = Grid.box(33, ndim=2)
    cases = problem.sample([1, 2], grid)
    exact, discrete = problem.reference(cases), problem.reference(replace(cases, seeds=None))
    assert exact.stats["label_method"] == "exact"
    assert "Richardson" in discrete.stats["label_method"]
    gap = (exact.field - discrete.field).values.flatten(1).norm(dim=1) / exact.field.values.flatten(1).norm(dim=1)
    assert bool((gap < 2 * discrete.stats["label_error"]).all())
    assert bool((gap > 0.1 * discrete.stats["label_error"]).all())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"ndim": 4}, "1 to 3"),
        ({"condition": "robin"}, "dirichlet, neumann, periodic"),
        ({"parameters": {"a": [0, 1]}}, "exact_solution too"),
        ({"exact_solution": "x", "condition": "periodic"}, "not periodic"),
        ({"exact_solution": "a*x", "parameters": {"a": [2, 1]}}, r"\[low, high\]"),
        ({"exact_solution": "a*x", "parameters": {"a": [1]}}, r"\[low, high\]"),
    ],
)
def test_wrong_options_are_refused(options: dict, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Poisson(**options)


def test_a_formula_with_an_unknown_name_says_so_when_sampled() -> None:
    with pytest.raises(UsageError, match="'b' is not allowed"):
        Poisson(ndim=1, exact_solution="sin(b*x)").sample([1], Grid.box(5))


def test_wrong_grids_are_refused() -> None:
    with pytest.raises(UsageError, match="layout periodic"):
        Poisson(condition="periodic").sample([1], Grid.box(8, ndim=2))
    with pytest.raises(UsageError, match="space dimension"):
        Poisson(ndim=2).sample([1], Grid.box(8))

"""One residual, four meanings: the same unchanged lines are exact, second order, spectral, and formal."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from sciops.core.boundary import AXES, Boundary
from sciops.core.calculus import Autodiff, Spectral, Stencil, Symbol
from sciops.core.cases import Cases
from sciops.core.errors import UsageError, ViewMissing
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.problem import Channel, Problem
from sciops.core.solver import View
from sciops.problems.darcy import Darcy
from sciops.problems.poisson import Poisson

KINDS = ("dirichlet", "neumann", "periodic")
LENGTH = 2.0


def exact_u(kind: str, x: torch.Tensor) -> torch.Tensor:
    """A smooth solution of every kind, inhomogeneous on the walls, periodic where it must be."""
    if kind == "periodic":
        return torch.exp(torch.sin(2 * math.pi * x / LENGTH + 0.3)).prod(-1)
    return torch.exp(0.4 * x.sum(-1)) * torch.cos(1.5 * x).prod(-1)


def coefficient(kind: str, x: torch.Tensor) -> torch.Tensor:
    if kind == "periodic":
        return 1.5 + torch.cos(2 * math.pi * x / LENGTH + 1.0).prod(-1)
    return 1.5 + 0.5 * torch.sin(x.sum(-1))


@dataclass(frozen=True)
class Diffusion(Problem):
    """−∇·(a ∇u) = f with a coefficient, forcing and boundary data that belong to a known smooth u."""

    ndim: int = 2
    kind: str = "dirichlet"
    variable: bool = True

    inputs = (Channel("a"), Channel("f"))

    def __post_init__(self) -> None:
        object.__setattr__(self, "boundary", Boundary.of(self.kind, self.ndim))

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        return -d.div_flux(c.a, u) - c.f

    def a(self, x: torch.Tensor) -> torch.Tensor:
        return coefficient(self.kind, x) if self.variable else torch.ones_like(x[..., 0])

    def f(self, x: torch.Tensor) -> torch.Tensor:
        d = Autodiff(x)
        return -d.div_flux(self.a(d.x), exact_u(self.kind, d.x))

    def formula(self, cases: Cases, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": self.a(x), "f": self.f(x)}

    def sample(self, seeds, grid, dtype=torch.float64, device="cpu") -> Cases:
        x = grid.points(dtype)[None]
        values = torch.stack([self.a(x), self.f(x).detach()], 1).reshape(1, 2, *grid.shape)
        return Cases(self, grid, Field.steady(values, grid, ("a", "f")), {}, self.data(grid), seeds=torch.tensor([0]))

    def data(self, grid: Grid) -> dict[str, torch.Tensor]:
        """g on every wall: u, or the outward flux a ∂u/∂n."""
        found = {}
        for name, axis, side, kind in self.boundary.faces():
            coordinates = [grid.axis(j) for j in range(grid.ndim)]
            coordinates[axis] = torch.tensor([(grid.lower, grid.upper)[side][axis]], dtype=torch.float64)
            d = Autodiff(torch.stack(torch.meshgrid(*coordinates, indexing="ij"), -1).reshape(1, -1, grid.ndim))
            u = exact_u(self.kind, d.x)
            values = u if kind == "dirichlet" else self.a(d.x) * d.gradient(u)[..., axis] * (1.0 if side else -1.0)
            shape = [len(c) for j, c in enumerate(coordinates) if j != axis]
            found[name] = values.detach().reshape(1, *shape)
        return found


def square(n: int, layout: str, ndim: int) -> Grid:
    return Grid.box(n, upper=LENGTH, layout=layout, ndim=ndim)


LAYOUTS = [("dirichlet", "node"), ("dirichlet", "cell"), ("neumann", "node"), ("neumann", "cell")]
EVERY = [*LAYOUTS, ("periodic", "periodic")]
SIZES = {1: (33, 65, 129), 2: (17, 33, 65), 3: (9, 17, 33)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_exact_solution_has_no_residual_under_autodiff(kind: str, ndim: int) -> None:
    problem = Diffusion(ndim=ndim, kind=kind)
    x = LENGTH * torch.rand(1, 200, ndim, dtype=torch.float64)
    residual = problem.residual_at(
        problem.sample([0], square(8, "periodic", ndim))
        if kind == "periodic"
        else problem.sample([0], square(8, "node", ndim)),
        lambda p: exact_u(kind, p),
        x,
    )
    assert float(residual.detach().abs().max()) < 1e-12


@pytest.mark.parametrize("condition", ["dirichlet", "neumann"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_poisson_of_the_package_under_autodiff(condition: str, ndim: int) -> None:
    formula = "*".join(f"sin(a*{axis} + 0.2)" for axis in AXES[:ndim]) + " + x**3"
    problem = Poisson(ndim=ndim, condition=condition, exact_solution=formula, parameters={"a": [0.5, 2.0]})
    cases = problem.sample([3, 4], Grid.box(6, ndim=ndim))
    x = torch.rand(2, 100, ndim, dtype=torch.float64)
    residual = problem.residual_at(cases, lambda p: problem.exact(cases, p)[:, 0], x)
    assert float(residual.detach().abs().max()) < 1e-12


def solve(problem: Problem, cases: Cases) -> torch.Tensor:
    """The linear system of the problem by SciPy's conjugate gradients, to rounding."""
    from scipy.sparse.linalg import cg

    A, b = problem.system(cases)
    if A.nullspace:  # only the consistent part of b can be matched: A is symmetric with null space 1
        b = b - b.flatten(1).mean(1).reshape(-1, *(1,) * (b.dim() - 1))
    found = []
    for i in range(len(cases)):
        v, info = cg(A.to_scipy(i), b[i].flatten().numpy(), rtol=1e-11, maxiter=5000)
        assert info == 0
        found.append(torch.as_tensor(v).reshape(A.space))
    return problem.embed(cases, torch.stack(found))


def error(problem: Problem, grid: Grid) -> float:
    cases = problem.sample([0], grid)
    u = solve(problem, cases)[0]
    difference = u - exact_u(problem.kind, grid.points()).reshape(grid.shape)
    weights = grid.weights() / grid.measure
    if problem.kind != "dirichlet":
        difference = difference - (difference * weights).sum()
    return float((difference.square() * weights).sum().sqrt())


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(("kind", "layout"), EVERY)
@pytest.mark.parametrize("variable", [False, True], ids=["poisson", "darcy"])
def test_order_two_under_the_stencil(kind: str, layout: str, ndim: int, variable: bool) -> None:
    problem = Diffusion(ndim=ndim, kind=kind, variable=variable)
    errors = [error(problem, square(n - (layout != "node"), layout, ndim)) for n in SIZES[ndim]]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(2.0, abs=0.12 if ndim < 3 else 0.2), (errors, orders)


def test_mixed_boundary_kinds_are_second_order() -> None:
    """Dirichlet below, Neumann above, periodic across: each axis end keeps its own condition."""

    @dataclass(frozen=True)
    class Mixed(Problem):
        ndim: int = 2
        inputs = (Channel("f"),)
        boundary = Boundary((("dirichlet", "neumann"), ("periodic", "periodic")))

        def residual(self, d: Any, u: Any, c: Any) -> Any:
            return -d.laplacian(u) - c.f

    def u(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.sin(math.pi / 2 * x) * torch.cos(2 * math.pi * y)

    for layout in ("node", "cell"):
        errors = []
        for n in (16, 32, 64):
            grid = Grid.box([n + 1 if layout == "node" else n, n], layout=[layout, "periodic"])
            x, y = grid.mesh()
            f = (math.pi**2 / 4 + 4 * math.pi**2) * u(x, y)
            problem = Mixed()
            cases = Cases(problem, grid, Field.steady(f[None, None], grid, ("f",)))
            A, _ = problem.system(cases)
            assert A.tags == {"symmetric", "positive"}
            assert A.nullspace is None
            errors.append(float((solve(problem, cases)[0] - u(x, y)).square().mean().sqrt()))
        assert math.log2(errors[-2] / errors[-1]) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("variable", [False, True])
def test_spectral_accuracy_on_periodic_diffusion(ndim: int, variable: bool) -> None:
    problem = Diffusion(ndim=ndim, kind="periodic", variable=variable)
    sizes = (8, 16, 32)
    errors = []
    for n in sizes:
        grid = square(n, "periodic", ndim)
        cases = problem.sample([0], grid)
        d = Spectral(grid, problem.boundary)
        u = exact_u("periodic", grid.points()).reshape(1, *grid.shape)
        errors.append(float(problem.residual(d, u, cases.values()).abs().max()))
    assert errors[1] < errors[0] / 50
    assert errors[2] < 1e-9 * errors[0] or errors[2] < 1e-8


@pytest.mark.parametrize("kind", ["dirichlet", "neumann"])
@pytest.mark.parametrize("layout", ["node", "cell"])
@pytest.mark.parametrize("variable", [False, True])
def test_spectral_is_exact_on_sine_and_cosine_series(kind: str, layout: str, variable: bool) -> None:
    """Trigonometric u times an even trigonometric a stays in the band, so the residual is rounding."""
    grid = Grid.box([24, 21], upper=[1.0, 1.5], layout=layout)
    boundary = Boundary.of(kind, 2)
    points = grid.points()[None]

    def u(p: torch.Tensor) -> torch.Tensor:
        wave = torch.sin if kind == "dirichlet" else torch.cos
        return wave(math.pi * 2 * p[..., 0]) * wave(math.pi * 3 * p[..., 1] / 1.5)

    def a(p: torch.Tensor) -> torch.Tensor:
        return 2.0 + variable * torch.cos(math.pi * p[..., 0]) * torch.cos(2 * math.pi * p[..., 1] / 1.5)

    truth = Autodiff(points)
    expected = truth.div_flux(a(truth.x), u(truth.x)).detach().reshape(1, *grid.shape)
    shape = (1, *grid.shape)
    got = Spectral(grid, boundary).div_flux(a(points).reshape(shape), u(points).reshape(shape))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(("kind", "layout"), [*LAYOUTS, ("periodic", "periodic")])
def test_first_derivatives_of_the_stencil_are_second_order(kind: str, layout: str) -> None:
    errors = []
    for n in (33, 65, 129):
        grid = square(n - (layout != "node"), layout, 1)
        problem = Diffusion(ndim=1, kind=kind, variable=False)
        d = Stencil(grid, problem.boundary, problem.data(grid))
        x = Autodiff(grid.points()[None])
        slope = x.gradient(exact_u(kind, x.x))[..., 0].detach()
        got = d.partial(exact_u(kind, grid.points())[None], (1,))
        errors.append(float(d.restrict(got - slope).square().mean().sqrt()))
    assert math.log2(errors[-2] / errors[-1]) > 1.4  # order 2 inside, order 1 in the one cell at a wall


def test_per_case_numbers_are_coefficients_under_every_calculus() -> None:
    nu = torch.tensor([0.5, 2.0], dtype=torch.float64)
    for layout, kind in (("periodic", "periodic"), ("node", "dirichlet"), ("cell", "neumann")):
        grid = square(9, layout, 2)
        u = torch.rand(2, *grid.shape, dtype=torch.float64)
        for d in (Stencil(grid, Boundary.of(kind, 2)), Spectral(grid, Boundary.of(kind, 2))):
            got = d.div_flux(nu.reshape(2, 1, 1), u)
            torch.testing.assert_close(got, nu.reshape(2, 1, 1) * d.div_flux(1.0, u))
    x = torch.rand(2, 5, 2, dtype=torch.float64)
    d = Autodiff(x)
    u = exact_u("dirichlet", d.x)
    torch.testing.assert_close(d.div_flux(nu[:, None], u), nu[:, None] * d.laplacian(u))


def test_grad_and_laplacian_agree_between_calculi() -> None:
    grid = square(64, "periodic", 2)
    u = exact_u("periodic", grid.points()).reshape(1, *grid.shape)
    d = Autodiff(grid.points()[None])
    spectral = Spectral(grid, Boundary.of("periodic", 2))
    v = exact_u("periodic", d.x)
    for ours, truth in zip((*spectral.grad(u), spectral.laplacian(u)), (*d.grad(v), d.laplacian(v)), strict=True):
        torch.testing.assert_close(ours.flatten(), truth.detach().flatten(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        spectral.partial(u, (1, 1)).flatten(), d.partial(v, (1, 1)).detach().flatten(), rtol=1e-9, atol=1e-9
    )


def test_autodiff_derivatives_of_polynomials_end_in_zeros() -> None:
    d = Autodiff(torch.rand(2, 6, 2, dtype=torch.float64))
    u = d.x[..., 0] * d.x[..., 1]
    assert float(d.laplacian(u).abs().max()) == 0.0
    torch.testing.assert_close(d.partial(u, (1, 1)), torch.ones(2, 6, dtype=torch.float64))
    assert float(d.partial(u, (2, 1)).detach().abs().max()) == 0.0
    assert float(d.laplacian(2 * d.x[..., 0]).abs().max()) == 0.0


def test_points_shared_between_cases_do_not_add_up_their_derivatives() -> None:
    scale = torch.tensor([1.0, 10.0], dtype=torch.float64)
    d = Autodiff(torch.rand(1, 7, 2, dtype=torch.float64))
    with pytest.raises(UsageError, match="its own copy"):
        d.laplacian(scale[:, None] * d.x.square().sum(-1))
    problem = Poisson()
    cases = problem.sample([0, 1], Grid.box(9, ndim=2))
    shared = torch.rand(1, 7, 2, dtype=torch.float64)
    residual = problem.residual_at(cases, lambda p: scale[:, None] * p.square().sum(-1), shared)
    f = cases.at(shared).f
    torch.testing.assert_close(residual.detach(), -4 * scale[:, None] - f)


def test_autodiff_says_when_u_was_not_computed_from_its_points() -> None:
    x = torch.rand(1, 4, 2, dtype=torch.float64)
    d = Autodiff(x)
    with pytest.raises(UsageError, match=r"d\.x"):
        d.laplacian(x.sum(-1))


def test_spectral_refuses_data_that_it_cannot_carry() -> None:
    grid, boundary = Grid.box(8, ndim=1), Boundary.of("dirichlet", 1)
    with pytest.raises(UsageError, match="lift"):
        Spectral(grid, boundary, {"x0": torch.ones(1)})
    with pytest.raises(UsageError, match="both ends"):
        Spectral(grid, Boundary((("dirichlet", "neumann"),)))
    with pytest.raises(UsageError, match="Spectral"):
        Stencil(Grid.box(8, ndim=2), Boundary.of("dirichlet", 2)).partial(torch.rand(1, 8, 8), (1, 1))


# ---- a nonlinear residual


@dataclass(frozen=True)
class Cubic(Problem):
    """−Δu + u³ = f, periodic, with a known u."""

    ndim: int = 2
    inputs = (Channel("f"),)
    boundary = Boundary.of("periodic", 2)
    linear = False

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        return -d.laplacian(u) + u**3 - c.f

    def formula(self, cases: Cases, x: torch.Tensor) -> dict[str, torch.Tensor]:
        d = Autodiff(x)
        u = exact_u("periodic", d.x)
        return {"f": -d.laplacian(u) + u**3}

    def cases_on(self, grid: Grid) -> Cases:
        f = self.formula(None, grid.points()[None])["f"].detach().reshape(1, 1, *grid.shape)
        return Cases(self, grid, Field.steady(f, grid, ("f",)))


def test_nonlinear_residual_works_where_values_exist_and_has_no_symbol_and_no_system() -> None:
    problem = Cubic()
    cases = problem.cases_on(square(32, "periodic", 2))
    x = LENGTH * torch.rand(1, 50, 2, dtype=torch.float64)
    residual = problem.residual_at(cases, lambda p: exact_u("periodic", p), x)
    assert float(residual.detach().abs().max()) < 1e-12

    sizes, errors = (32, 64, 128), []
    for n in sizes:
        grid = square(n, "periodic", 2)
        u = exact_u("periodic", grid.points()).reshape(1, *grid.shape)
        errors.append(float(problem.residual_on_grid(problem.cases_on(grid), u).abs().max()))
        if n == 32:
            spectral = Spectral(grid, problem.boundary)
            r = problem.residual(spectral, u, problem.cases_on(grid).values())
            assert float(r.abs().max()) < 1e-8
    assert math.log2(errors[-2] / errors[-1]) == pytest.approx(2.0, abs=0.05)

    with pytest.raises(UsageError, match="nonlinear"):
        problem.symbol(cases, x)
    assert View.SYSTEM not in problem.views()
    assert {View.RESIDUAL, View.BOUNDARY, View.DATA} <= problem.views()
    with pytest.raises(ViewMissing, match="no linear system"):
        problem.system(cases)


# ---- the same residual trains


def features(x: torch.Tensor, degree: int = 10) -> torch.Tensor:
    """x(1−x)y(1−y)·Legendre products: every column vanishes on the walls of the unit square."""
    powers = []
    for j in range(2):
        t = 2 * x[..., j] - 1
        columns = [torch.ones_like(t), t]
        for k in range(1, degree - 1):
            columns.append(((2 * k + 1) * t * columns[-1] - k * columns[-2]) / (k + 1))
        powers.append(torch.stack(columns, -1) * (x[..., j] * (1 - x[..., j]))[..., None])
    return (powers[0][..., :, None] * powers[1][..., None, :]).flatten(-2)


def test_the_residual_trains_by_least_squares_through_autodiff() -> None:
    """A PINN with a linear basis: rows R(φ_j) − R(0) at collocation points, u = 0 on the walls by construction."""
    problem = Poisson(ndim=2, exact_solution="sin(pi*x)*sin(pi*y)*exp(x)")
    cases = problem.sample([0], Grid.box(9, ndim=2))
    x = torch.rand(1, 300, 2, dtype=torch.float64)
    count = features(x[:, :1]).shape[-1]

    def residual(w: torch.Tensor) -> torch.Tensor:
        return problem.residual_at(cases, lambda p: features(p) @ w, x)[0]

    zero = torch.zeros(count, dtype=torch.float64)
    # The residual is affine in the weights: one column per basis function is all that least squares needs.
    columns = [(residual(e) - residual(zero)).detach() for e in torch.eye(count, dtype=torch.float64)]
    rows = torch.stack(columns, 1)
    w = torch.linalg.lstsq(rows, -residual(zero).detach()[:, None], driver="gelsd").solution[:, 0]
    test = torch.rand(1, 1000, 2, dtype=torch.float64)
    truth = problem.exact(cases, test)[0, 0]
    assert float((features(test)[0] @ w - truth).norm() / truth.norm()) < 1e-6


def test_the_residual_trains_a_network_through_autodiff() -> None:
    """A small tanh network with a wall factor, quasi-Newton on the mean squared residual."""
    problem = Poisson(ndim=1, exact_solution="sin(2*pi*x)")
    cases = problem.sample([0], Grid.box(9))
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Linear(1, 24), torch.nn.Tanh(), torch.nn.Linear(24, 24), torch.nn.Tanh(), torch.nn.Linear(24, 1)
    ).double()

    def u(x: torch.Tensor) -> torch.Tensor:
        return (x * (1 - x) * net(x))[..., 0]

    x = torch.linspace(0, 1, 40, dtype=torch.float64)[None, :, None]
    truth = torch.sin(2 * math.pi * x[..., 0])
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = problem.residual_at(cases, u, x).square().mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert float((u(x) - truth).detach().norm() / truth.norm()) < 1e-4


def test_darcy_of_the_package_is_one_residual_for_every_calculus() -> None:
    """The trigonometric law has a formula: Symbol, Autodiff and a fine Stencil agree on L applied to a known u."""
    problem = Darcy(law="trigonometric")
    grid = Grid.box(1025, ndim=2)
    cases = problem.sample([1], grid)
    u = (torch.sin(math.pi * grid.points()[:, 0]) * torch.sin(math.pi * grid.points()[:, 1])).reshape(1, *grid.shape)
    pick = [(256, 512), (500, 130), (700, 900)]
    x = torch.tensor([[[i / 1024, j / 1024] for i, j in pick]], dtype=torch.float64)

    def at(p: torch.Tensor) -> torch.Tensor:
        return torch.sin(math.pi * p[..., 0]) * torch.sin(math.pi * p[..., 1])

    autodiff = problem.residual_at(cases, at, x).detach()
    symbol = problem.symbol(cases, x)
    d = Autodiff(x)
    formal = sum(c * d.partial(at(d.x), alpha) for alpha, c in symbol.terms.items()) + symbol.constant
    torch.testing.assert_close(formal.detach(), autodiff, rtol=1e-10, atol=1e-10)
    full = problem.residual_on_grid(cases, u)
    stencil = torch.tensor([[full[0, i - 1, j - 1] for i, j in pick]])
    torch.testing.assert_close(stencil, autodiff, rtol=0.02, atol=0.02 * float(autodiff.abs().max()))
    assert Symbol(x).ndim == 2

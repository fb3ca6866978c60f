"""The formal symbol: right coefficients, and any kernel becomes a collocation method through it."""

import math

import pytest
import torch

from sciops.core.calculus import Autodiff, Differential, Symbol
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.problems.darcy import Darcy
from sciops.problems.poisson import Poisson


def test_coefficients_of_darcy_are_minus_a_and_minus_its_gradient() -> None:
    problem = Darcy(law="trigonometric")
    cases = problem.sample([1, 2], Grid.box(9, ndim=2))
    x = torch.rand(2, 40, 2, dtype=torch.float64)
    symbol = problem.symbol(cases, x)
    d = Autodiff(x)
    a = cases.at(d.x).a
    slope = d.gradient(a).detach()
    assert set(symbol.terms) == {(2, 0), (0, 2), (1, 0), (0, 1)}
    for alpha, expected in {(2, 0): -a, (0, 2): -a, (1, 0): -slope[..., 0], (0, 1): -slope[..., 1]}.items():
        torch.testing.assert_close(symbol.terms[alpha].detach(), expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(symbol.constant.detach(), -torch.ones(2, 40, dtype=torch.float64))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_coefficients_of_poisson_are_numbers(ndim: int) -> None:
    problem = Poisson(ndim=ndim)
    cases = problem.sample([5], Grid.box(6, ndim=ndim))
    symbol = problem.symbol(cases, torch.rand(1, 3, ndim, dtype=torch.float64))
    assert symbol.terms == {tuple(2 * int(i == j) for i in range(ndim)): -1.0 for j in range(ndim)}


def test_points_shared_between_cases_give_each_case_its_own_slopes() -> None:
    problem = Darcy(law="trigonometric")
    cases = problem.sample([1, 2], Grid.box(9, ndim=2))
    x = torch.rand(1, 10, 2, dtype=torch.float64)
    both = problem.symbol(cases, x)
    for i in range(2):
        alone = problem.symbol(cases[i], x)
        torch.testing.assert_close(both.terms[1, 0][i], alone.terms[1, 0][0])
    d = Symbol(x)
    with pytest.raises(UsageError, match="its own copy"):
        d.div_flux(torch.ones(2, 1, dtype=torch.float64) * d.x.square().sum(-1), d.u)


def test_products_follow_leibniz() -> None:
    """∂_y(c ∂_x u + s) = c_y u_x + c u_xy + s_y, and sums collect equal terms."""
    d = Symbol(torch.rand(1, 5, 2, dtype=torch.float64))
    c, s = d.x[..., 0] * d.x[..., 1] ** 2, torch.sin(d.x[..., 1])
    got = d.partial(c * d.partial(d.u, (1, 0)) + s, (0, 1)) - 3 * d.u + d.u / 2 + 1.0
    torch.testing.assert_close(got.terms[1, 0], 2 * d.x[..., 0] * d.x[..., 1])
    torch.testing.assert_close(got.terms[1, 1], c)
    torch.testing.assert_close(got.constant, torch.cos(d.x[..., 1]) + 1.0)
    assert got.terms[0, 0] == -2.5
    assert isinstance(2.0 - got, Differential)


@pytest.mark.parametrize(
    "residual",
    [
        lambda d, a: d.u * d.u,
        lambda d, a: d.u**2,
        lambda d, a: d.u * d.laplacian(d.u),
        lambda d, a: a / d.u,
        lambda d, a: 1.0 / d.u,
        lambda d, a: d.u / d.u,
        lambda d, a: 2.0**d.u,
        lambda d, a: d.div_flux(d.u, d.u),
    ],
)
def test_nonlinear_residuals_are_refused_in_one_sentence(residual) -> None:
    d = Symbol(torch.rand(1, 5, 2, dtype=torch.float64))
    with pytest.raises(UsageError, match="nonlinear") as caught:
        residual(d, d.x[..., 0])
    assert "\n" not in str(caught.value)


# ---- Gaussian-process collocation with a squared-exponential kernel


def hermite_factors(t: torch.Tensor, length: float, top: int) -> list[torch.Tensor]:
    """(d/dx)^m exp(−t²/2ℓ²) for t = x − x′, m = 0…top: (−1/ℓ)^m He_m(t/ℓ) exp(−t²/2ℓ²)."""
    z = t / length
    he = [torch.ones_like(z), z]
    for m in range(1, top):
        he.append(z * he[m] - m * he[m - 1])
    return [(-1 / length) ** m * he[m] * torch.exp(-(z**2) / 2) for m in range(top + 1)]


def applied(left: dict, right: dict, x: torch.Tensor, y: torch.Tensor, length: float) -> torch.Tensor:
    """L_x L′_y k(x, y) for differential operators given as {α: coefficients at the points}."""
    factors = [hermite_factors(x[:, None, j] - y[None, :, j], length, 4) for j in range(2)]
    total = torch.zeros(len(x), len(y), dtype=x.dtype)
    for alpha, c in left.items():
        for beta, e in right.items():
            k = torch.ones_like(total)
            for j in range(2):
                k = k * factors[j][alpha[j] + beta[j]] * (-1) ** beta[j]  # ∂_{y} = −∂_{x} of a function of x − y
            total = total + column(c, x)[:, None] * column(e, y)[None, :] * k
    return total


def column(c: torch.Tensor | float, x: torch.Tensor) -> torch.Tensor:
    return c[0].detach() if isinstance(c, torch.Tensor) else torch.full((len(x),), float(c), dtype=x.dtype)


def test_gp_collocation_through_the_symbol_solves_variable_coefficient_darcy() -> None:
    """−∇·(a∇u) = f, u = 0 on the walls, 14² points, float64: relative L2 error ≤ 1e-5. The test knows the kernel
    and the residual's symbol, nothing of the equation."""
    from sciops.core.boundary import Boundary
    from sciops.core.cases import Cases
    from sciops.core.field import Field

    class Known(Darcy):
        def formula(self, cases: Cases, x: torch.Tensor) -> dict[str, torch.Tensor]:
            d = Autodiff(x) if not x.requires_grad else None
            p = d.x if d else x
            a = torch.exp(0.5 * torch.sin(3 * p[..., 0]) * torch.cos(2 * p[..., 1]))
            flux = Autodiff(p)
            return {"a": a, "f": -flux.div_flux(a, truth(p))}

    def truth(p: torch.Tensor) -> torch.Tensor:
        return torch.sin(math.pi * p[..., 0]) * torch.sin(math.pi * p[..., 1]) * torch.exp(p[..., 0] * p[..., 1])

    problem, grid = Known(), Grid.box(14, ndim=2)
    assert problem.boundary == Boundary.of("dirichlet", 2)
    cases = Cases(problem, grid, Field.steady(torch.ones(1, 2, 14, 14, dtype=torch.float64), grid, ("a", "f")))

    points = grid.points()
    on_wall = ((points == 0) | (points == 1)).any(1)
    inside, wall = points[~on_wall], points[on_wall]
    symbol = problem.symbol(cases, inside[None])
    L, identity = symbol.terms, {(0, 0): 1.0}
    length = 0.45
    K = torch.cat(
        [
            torch.cat([applied(L, L, inside, inside, length), applied(L, identity, inside, wall, length)], 1),
            torch.cat([applied(identity, L, wall, inside, length), applied(identity, identity, wall, wall, length)], 1),
        ]
    )
    torch.testing.assert_close(K, K.T, rtol=1e-9, atol=1e-9 * float(K.abs().max()))
    right = torch.cat([-symbol.constant[0].detach(), torch.zeros(len(wall), dtype=torch.float64)])
    scale = K.diagonal().rsqrt()
    # The scaled matrix has unit diagonal, so one small nugget regularises equation and wall rows alike.
    scaled = scale[:, None] * K * scale + 1e-13 * torch.eye(len(K), dtype=torch.float64)
    weights = scale * torch.linalg.solve(scaled, scale * right)

    test = torch.rand(2000, 2, dtype=torch.float64)
    k = torch.cat([applied(identity, L, test, inside, length), applied(identity, identity, test, wall, length)], 1)
    error = float((k @ weights - truth(test)).norm() / truth(test).norm())
    assert error <= 1e-5, error

"""Chebyshev series: exactness on polynomials, geometric convergence, quadrature, evaluation, plateaus."""

import math

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.numerics import chebyshev as ch
from sciops.numerics.chebyshev import Series

LOWER, UPPER = 1.0, 4.0


def box(*limits: float) -> torch.Tensor:
    return torch.tensor(limits, dtype=torch.float64)


def polynomial(x: torch.Tensor, order: int) -> torch.Tensor:
    """∂^order of x⁷ − 3x⁴ + 2x − 5."""
    terms = {7: 1.0, 4: -3.0, 1: 2.0, 0: -5.0}
    powers = [math.perm(k, order) * c * x ** (k - order) for k, c in terms.items() if k >= order]
    return torch.stack(powers).sum(0) if powers else torch.zeros_like(x)


@pytest.mark.parametrize("kind", ["lobatto", "gauss"])
@pytest.mark.parametrize("n", [8, 13])
def test_transforms_evaluation_and_derivatives_are_exact_on_polynomials(kind: str, n: int) -> None:
    x = getattr(ch, kind)(n, LOWER, UPPER)
    c = ch.to_coefficients(polynomial(x, 0), points=kind)
    torch.testing.assert_close(ch.to_values(c, points=kind), polynomial(x, 0), rtol=1e-13, atol=1e-10)
    u, y = Series(c, box(LOWER), box(UPPER)), torch.linspace(LOWER, UPPER, 29, dtype=torch.float64)
    for order in range(9):
        # Rounding sits in every coefficient, and T_{n−1} has the largest derivatives.
        rounding = 1e-14 * float(polynomial(y, 0).abs().max()) * float(ch.ends(n, order, 1, UPPER - LOWER)[-1])
        found = u.derivative((order,))(y[:, None])
        torch.testing.assert_close(found, polynomial(y, order), rtol=1e-13, atol=rounding)


@pytest.mark.parametrize("n", [8, 9])
def test_differentiation_matrices_are_exact_on_polynomials_and_constants(n: int) -> None:
    x = ch.lobatto(n, LOWER, UPPER)
    for order, D in enumerate(ch.differentiation_matrices(n, 3, UPPER - LOWER), 1):
        expected = polynomial(x, order)
        torch.testing.assert_close(D @ polynomial(x, 0), expected, rtol=0, atol=1e-11 * float(expected.abs().max()))
        assert float((D @ torch.ones(n, dtype=torch.float64)).abs().max()) <= 1e-14 * float(D.abs().sum(1).max())


def test_differentiation_matrices_lose_less_than_the_formulas_do() -> None:
    n = 256
    x = ch.lobatto(n)
    c = torch.ones(n, dtype=torch.float64)
    c[0] = c[-1] = 2.0
    c[1::2] *= -1.0
    naive = (c[:, None] / c) / ((x[:, None] - x).fill_diagonal_(1.0))
    naive.fill_diagonal_(0.0)
    naive.diagonal()[1:-1] = -x[1:-1] / (2 * (1 - x[1:-1] ** 2))
    naive[0, 0], naive[-1, -1] = -(2 * (n - 1) ** 2 + 1) / 6, (2 * (n - 1) ** 2 + 1) / 6
    D1, D2 = ch.differentiation_matrices(n, 2)
    error, naive_error = ((D @ torch.sin(8 * x) - 8 * torch.cos(8 * x)).abs().max() for D in (D1, naive))
    assert error < 0.1 * naive_error
    assert error < 2e-16 * n**2 * 8
    assert (D2 @ torch.sin(8 * x) + 64 * torch.sin(8 * x)).abs().max() < 2e-16 * n**4


def test_interpolants_converge_geometrically_at_the_rate_of_the_nearest_pole() -> None:
    # 1/(1 + 25 x²) has poles at ±i/5: the ellipse through them has ρ = (1 + √26)/5.
    rho, y = (1 + math.sqrt(26)) / 5, torch.linspace(-1, 1, 501, dtype=torch.float64)
    errors = []
    for n in (40, 80):
        x = ch.lobatto(n)
        u = Series(ch.to_coefficients(1 / (1 + 25 * x**2)), box(-1.0), box(1.0))
        errors.append(float((u(y[:, None]) - 1 / (1 + 25 * y**2)).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(rho**40, rel=0.2)


@pytest.mark.parametrize("n", [2, 3, 8, 9])
def test_clenshaw_curtis_integrates_polynomials_exactly(n: int) -> None:
    weights, x = ch.clenshaw_curtis(n, 0.0, 2.0), ch.lobatto(n, 0.0, 2.0)
    for degree in range(n):
        assert float(weights @ x**degree) == pytest.approx(2.0 ** (degree + 1) / (degree + 1), rel=1e-14)


def test_tensor_points_and_scattered_points_give_the_same_values() -> None:
    random = torch.Generator().manual_seed(0)
    u = Series(torch.randn(5, 6, 4, generator=random, dtype=torch.float64), box(0, 0, -1), box(1, 2, 1))
    lines = [torch.linspace(0.1, 0.9, 7), torch.linspace(0, 2, 5), torch.linspace(-1, 0.5, 6)]
    x = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 3).double()
    one_by_one = torch.cat([u(point[None]) for point in x])
    torch.testing.assert_close(u(x), one_by_one, rtol=0, atol=1e-13)
    torch.testing.assert_close(u(x, block=64), one_by_one, rtol=0, atol=1e-13)
    T = [torch.cos(torch.arange(n) * math.acos(t)) for n, t in zip((5, 6, 4), (0.2, -0.3, 0.7), strict=True)]
    t = torch.tensor([[0.2, -0.3, 0.7]], dtype=torch.float64)
    point = torch.cat([(t[:, :1] + 1) / 2, t[:, 1:2] + 1, t[:, 2:]], 1)
    direct = torch.einsum("ijk,i,j,k->", u.coefficients, *(v.double() for v in T))
    assert float(u(point)[0]) == pytest.approx(float(direct), abs=1e-5)  # T in single precision


def test_norms_and_differences_of_series_of_unequal_length() -> None:
    u = Series(torch.tensor([0.0, 1.0], dtype=torch.float64), box(-1), box(1))
    v = Series(torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64), box(-1), box(1))
    assert ch.l2_norm(u) == pytest.approx(math.sqrt(2 / 3))
    # ∫ T_2² = 14/15
    assert ch.relative_change(u, v) == pytest.approx(0.5 * math.sqrt(14 / 15) / math.sqrt(2 / 3))


def test_end_values_are_those_of_the_derivatives() -> None:
    for order in range(4):
        for side in (0, 1):
            row = ch.ends(9, order, side, 3.0)
            point = torch.tensor([[0.0, 3.0][side]], dtype=torch.float64)[:, None]
            for k in range(9):
                c = torch.zeros(9, dtype=torch.float64)
                c[k] = 1.0
                value = float(Series(c, box(0), box(3)).derivative((order,))(point)[0])
                assert float(row[k]) == pytest.approx(value, rel=1e-10, abs=1e-10)


def test_a_series_is_cut_at_its_plateau_and_only_there() -> None:
    random = torch.Generator().manual_seed(0)
    k = torch.arange(200, dtype=torch.float64)
    noise = 1e-15 * torch.randn(200, generator=random, dtype=torch.float64)
    assert 40 < ch.resolved_length(10.0 ** (-k / 3) + noise) < 60  # 10^(−k/3) meets 1e-15 at k = 45
    assert ch.resolved_length(1 / (1 + k) ** 2) == 200  # algebraic decay has no plateau
    assert ch.resolved_length(10.0 ** (-k[:30] / 3)) == 30  # still falling
    assert ch.resolved_length(torch.zeros(50, dtype=torch.float64)) == 1


def test_bad_arguments_are_refused_in_one_sentence() -> None:
    with pytest.raises(UsageError, match="need n ≥ 2"):
        ch.lobatto(1)
    with pytest.raises(UsageError, match="lobatto, gauss"):
        ch.to_coefficients(torch.zeros(4, dtype=torch.float64), points="uniform")

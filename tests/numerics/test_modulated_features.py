"""Polynomials times waves: derivatives, closure, what they can represent; least squares with them."""

import math

import pytest
import torch
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.modulated_features import ModulatedFeatures, chebyshev_table, modulated
from sciops.numerics.weight_space import least_squares


def points(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_chebyshev_derivatives_are_those_of_cos_j_arccos() -> None:
    t = torch.linspace(-0.95, 0.95, 9, dtype=torch.float64, requires_grad=True)
    table = chebyshev_table(t.detach(), 9, 3)
    for j in range(9):
        value = torch.cos(j * torch.arccos(t))
        for m in range(4):
            assert torch.allclose(table[m, :, j], value.detach(), rtol=1e-9, atol=1e-7)
            if value.requires_grad and m < 3:
                value = torch.autograd.grad(value.sum(), t, create_graph=True)[0]


@pytest.mark.parametrize("cycles", [0.0, 0.4, 7.3])
def test_derivatives_of_any_order_equal_automatic_ones(cycles: float) -> None:
    x = (1.0 + 2.5 * points(7, 1)[:, 0]).requires_grad_(True)
    size = (2 * math.pi * max(cycles, 1) + 2 * 36) / 2.5  # of one derivative: carrier and T_6′ ≤ 36
    expected = [modulated(x, 1.0, 3.5, cycles, 7)]
    for j in range(expected[0][0].numel()):
        value = modulated(x, 1.0, 3.5, cycles, 7).flatten(1)[:, j]
        for order in range(1, 5):
            value = torch.autograd.grad(value.sum() + 0.0 * x.sum(), x, create_graph=True)[0]
            closed = modulated(x.detach(), 1.0, 3.5, cycles, 7, order).flatten(1)[:, j]
            assert float((closed - value.detach()).abs().max()) < 1e-11 * size**order


@pytest.mark.parametrize("order", [(1, 0), (1, 1), (0, 2), (2, 2)])
def test_products_differentiate_axis_by_axis(order: tuple[int, int]) -> None:
    features = ModulatedFeatures((0.0, -1.0), (1.0, 2.0), ((0.0, 0.0), (3.2, 0.0), (3.2, 1.1)), (4, 2, 3))
    assert len(features) == 10 + 2 * 3 + 4 * 6
    x = points(5, 2).requires_grad_(True)
    closed = features(x.detach(), order)
    for j in range(len(features)):
        value = features(x, (0, 0))[:, j]
        for axis in (0, 1):
            for _ in range(order[axis]):
                value = torch.autograd.grad(value.sum() + 0.0 * x.sum(), x, create_graph=True)[0][:, axis]
        assert torch.allclose(closed[:, j], value.detach(), rtol=1e-9, atol=1e-8 * float(closed.abs().max()))


def test_the_span_is_closed_under_differentiation() -> None:
    """Every derivative of a feature is a combination of features with the same wave and no higher degree."""
    features = ModulatedFeatures((0.0, 0.0), (2.0, 1.0), ((0.0, 0.0), (2.0, 3.0)), (3, 4))
    x = points(200, 2) * torch.tensor([2.0, 1.0])
    G = features(x, (0, 0))
    for order in ((1, 0), (0, 1), (2, 1)):
        D = features(x, order)
        left = D - G @ torch.linalg.lstsq(G, D).solution
        assert float(left.norm() / D.norm()) < 1e-12


def test_frequencies_off_the_wave_are_reached_to_spectral_accuracy() -> None:
    """e^{iδs} has Chebyshev coefficients 2 J_j(δ/2): off by 0.36 cycles, ten polynomials leave about 2 J_10(1.13)."""
    x = points(300, 1)
    y = torch.sin(2 * math.pi * 100.36 * x[:, 0] + 0.7)
    left = []
    for count in (4, 7, 10):
        features = ModulatedFeatures((0.0,), (1.0,), ((100.0,),), (count,))
        G = features(x, (0,))
        left.append(float((y - G @ least_squares(G, y).mean).norm() / y.norm()))
    bounds = [2 * (0.5 * math.pi * 0.36) ** j / math.factorial(j) for j in (4, 7, 10)]
    assert all(0.01 * bound < value < 2 * bound for value, bound in zip(left, bounds, strict=True))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="one entry per axis"):
        ModulatedFeatures((0.0,), (1.0,), ((1.0, 2.0),), (3,))
    with pytest.raises(UsageError, match="one count"):
        ModulatedFeatures((0.0,), (1.0,), ((1.0,),), (3, 4))
    with pytest.raises(UsageError, match="cycles"):
        ModulatedFeatures((0.0,), (1.0,), ((-1.0,),), (3,))


def test_least_squares_of_nearly_dependent_columns_keeps_the_fit_and_small_weights() -> None:
    """Two waves 0.01 cycles apart: condition number beyond 1e12, misfit still rounding."""
    features = ModulatedFeatures((0.0,), (1.0,), ((5.0,), (5.01,)), (6, 6))
    x = points(200, 1)
    G = features(x, (0,))
    y = torch.cos(2 * math.pi * 5.005 * x[:, 0])
    found = least_squares(G, y)
    assert float((G @ found.mean - y).norm() / y.norm()) < 1e-12
    plain = ModulatedFeatures((0.0,), (1.0,), ((5.0,),), (6,))(x, (0,))
    direct = torch.linalg.lstsq(plain, y, driver="gelsd").solution
    assert torch.allclose(least_squares(plain, y).mean, direct, rtol=1e-9, atol=1e-11)


def test_the_posterior_of_the_weights_is_that_of_the_normal_equations() -> None:
    features = ModulatedFeatures((0.0,), (1.0,), ((0.0,), (2.0,)), (3, 2))
    x = points(50, 1)
    G = features(x, (0,))
    y = G @ torch.ones(len(features), dtype=torch.float64)
    y = y + 0.1 * torch.randn(50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = least_squares(G, y)
    left = y - G @ torch.linalg.lstsq(G, y).solution
    noise = float(left.square().sum() / (50 - len(features))) ** 0.5
    assert found.noise == pytest.approx(noise, rel=1e-9)
    at = features(points(20, 1, seed=9), (0,))
    expected = noise * (at @ torch.linalg.inv(G.T @ G) * at).sum(1).sqrt()
    assert torch.allclose(found.std(at), expected, rtol=1e-8)

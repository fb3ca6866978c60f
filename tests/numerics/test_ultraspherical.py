"""Ultraspherical solves: operators by their definitions, bandwidths, agreement with collocation, special functions."""

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev as npc
from scipy.special import airy, eval_gegenbauer

from sciops.core.errors import UsageError
from sciops.numerics import chebyshev as ch
from sciops.numerics import ultraspherical as us
from sciops.numerics.ultraspherical import Condition

X = np.linspace(-1, 1, 41)


def family(lam: int, k: int) -> np.ndarray:
    """C^(lam)_k, T_k for lam = 0."""
    return npc.chebval(X, np.eye(k + 1)[k]) if lam == 0 else eval_gegenbauer(k, lam, X)


def expand(lam: int, c: np.ndarray) -> np.ndarray:
    return sum(value * family(lam, k) for k, value in enumerate(c))


@pytest.mark.parametrize("lam", [0, 1, 2, 3])
def test_conversion_differentiation_and_multiplication_mean_what_they_say(lam: int) -> None:
    random = np.random.default_rng(lam)
    n, c, a = 24, np.zeros(24), random.standard_normal(5)
    c[:10] = random.standard_normal(10)
    np.testing.assert_allclose(expand(lam + 1, us.conversion(n, lam) @ c), expand(lam, c), atol=1e-11)
    slope = npc.chebval(X, npc.chebder(c, lam)) if lam else npc.chebval(X, c)
    np.testing.assert_allclose(expand(lam, us.differentiation(n, lam) @ c), slope, rtol=1e-11, atol=1e-10)
    times = npc.chebval(X, a) * expand(lam, c)
    scale = np.abs(times).max()
    for dense in (False, True):
        product = us.multiplication(a, n, lam, dense) @ c
        np.testing.assert_allclose(expand(lam, product), times, atol=1e-12 * scale)


@pytest.mark.parametrize("lam", [0, 1, 2])
def test_a_long_coefficient_acts_as_in_a_larger_matrix(lam: int) -> None:
    a, n = np.random.default_rng(0).standard_normal(55), 30
    larger = us.multiplication(a, 150, lam).toarray()[:n, :n]
    for dense in (False, True):
        matrix = us.multiplication(a, n, lam, dense)
        np.testing.assert_allclose(matrix if dense else matrix.toarray(), larger, atol=1e-12 * np.abs(larger).max())


def test_matrices_are_banded_as_wide_as_their_coefficients() -> None:
    A = us.operator({2: 1.0, 1: np.array([0.0, 1.0]), 0: np.array([1.0, 0.5, 0.25])}, 400).tocoo()
    offsets = A.col - A.row
    # Conversions from T_k to C^(2) reach 4 above, the coefficient of degree 2 two to both sides.
    assert offsets.min() == -2 and offsets.max() == 6
    assert A.nnz <= 400 * 9
    R = us.recombination(np.stack([ch.ends(50, 0, 0).numpy(), ch.ends(50, 1, 1).numpy()]))
    assert R.nnz <= 3 * 48


def test_conditions_are_kept_by_the_recombined_basis() -> None:
    rows = np.stack([ch.ends(30, 1, 0).numpy(), ch.ends(30, 0, 1).numpy()])
    assert np.abs(rows @ us.recombination(rows).toarray()).max() < 1e-10


@pytest.mark.parametrize("first", [0, 1])
def test_agrees_with_collocation_for_variable_coefficients(first: int) -> None:
    """(2 + x) u″ + x u′ − eˣ u = cos 3x, u or u′ given at the left, u at the right."""
    n = 40
    x = ch.lobatto(n)
    D1, D2 = ch.differentiation_matrices(n, 2)
    L = (2 + x)[:, None] * D2 + x[:, None] * D1 - torch.diag(torch.exp(x))
    f = torch.cos(3 * x)
    L[0], f[0] = (D1[0] if first else torch.eye(n, dtype=torch.float64)[0]), 0.7
    L[-1], f[-1] = torch.eye(n, dtype=torch.float64)[-1], -0.2
    expected = torch.linalg.solve(L, f).numpy()
    terms = {2: np.array([2.0, 1.0]), 1: np.array([0.0, 1.0]), 0: -npc.chebinterpolate(np.exp, 20)}
    forcing = npc.chebinterpolate(lambda t: np.cos(3 * t), 25)
    c = us.solve(terms, forcing, [Condition(0, first, 0.7), Condition(1, 0, -0.2)], n)
    np.testing.assert_allclose(npc.chebval(x.numpy(), c), expected, atol=1e-11)


def test_airy_with_a_turning_point() -> None:
    """ε u″ = x u, ε = 1e-6: about 200 waves and a decaying side, against the special function."""
    scale = 1e-6 ** (1 / 3)
    ends = [Condition(0, 0, airy(-1 / scale)[0]), Condition(1, 0, airy(1 / scale)[0])]
    c = us.solve({2: 1e-6, 0: np.array([0.0, -1.0])}, np.zeros(1), ends, 900)
    x = np.linspace(-1, 1, 1001)
    np.testing.assert_allclose(npc.chebval(x, c), airy(x / scale)[0], atol=1e-12)
    long = us.solve({2: 1e-6, 0: np.array([0.0, -1.0])}, np.zeros(1), ends, 1 << 15)  # linear cost, no loss of digits
    assert np.abs(long[900:]).max() < 1e-12
    np.testing.assert_allclose(long[:900], c, atol=1e-12)


def test_first_and_fourth_order() -> None:
    c = us.solve({1: 1.0, 0: np.array([0.0, 2.0])}, np.zeros(1), [Condition(0, 0, np.exp(-1.0))], 60)
    np.testing.assert_allclose(npc.chebval(X, c), np.exp(-(X**2)), atol=1e-13)
    forcing = npc.chebinterpolate(lambda t: (81 * (2 + t) - 9) * np.sin(3 * t), 40)  # (2 + x) u⁗ + u″, u = sin 3x
    ends = [
        Condition(side, order, [[-1, 1][side] * np.sin(3), 3 * np.cos(3)][order]) for side in (0, 1) for order in (0, 1)
    ]
    c = us.solve({4: np.array([2.0, 1.0]), 2: 1.0}, forcing, ends, 50)
    np.testing.assert_allclose(npc.chebval(X, c), np.sin(3 * X), atol=1e-12)


def test_lengths_other_than_two() -> None:
    """u″ = −9 sin 3x on [0, 5], u′ given at the left."""
    forcing = ch.to_coefficients(-9 * torch.sin(3 * ch.lobatto(60, 0.0, 5.0))).numpy()
    c = us.solve({2: 1.0}, forcing, [Condition(0, 1, 3.0), Condition(1, 0, np.sin(15.0))], 60, 5.0)
    np.testing.assert_allclose(npc.chebval(X, c), np.sin(7.5 * (X + 1)), atol=1e-12)


def test_bad_counts_are_refused_in_one_sentence() -> None:
    with pytest.raises(UsageError, match="needs 2 end conditions"):
        us.solve({2: 1.0}, np.zeros(1), [Condition(0, 0, 0.0)], 20)
    with pytest.raises(UsageError, match="n = 3"):
        us.solve({2: 1.0}, np.zeros(1), [Condition(0, 0, 0.0), Condition(1, 0, 0.0)], 3)

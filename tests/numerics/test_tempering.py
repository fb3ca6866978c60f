"""Tempered paths: their mass, what they integrate, and features that uniform points do not meet."""

import math

import pytest
import torch

from sciops.numerics.tempering import tempered_path

TEN = (-torch.ones(10, dtype=torch.float64), torch.ones(10, dtype=torch.float64))
KAPPA = 10.0


def log_peak(x: torch.Tensor, centre: float = 0.0) -> torch.Tensor:
    return -2 * KAPPA * (x - centre).square().sum(1)


def gauss(centre: float) -> float:
    """∫ exp(−2κ|x − c|²) over the box."""
    root = math.sqrt(2 * KAPPA)
    side = math.erf(root * (1 - centre)) + math.erf(root * (1 + centre))
    return (math.sqrt(math.pi) / (2 * root) * side) ** 10


@pytest.mark.parametrize("components", [1, 4])
def test_mass_and_integral_in_ten_dimensions(components) -> None:
    path = tempered_path(log_peak, *TEN, torch.Generator().manual_seed(0), components=components)
    x = path.sample(40_000, torch.Generator().manual_seed(1))
    weights = torch.exp(-path.log_prob(x))
    # Importance sampling: the volume and the integral of the target, both within four standard errors.
    for values, exact in ((weights, 2.0**10), (weights * log_peak(x).exp(), gauss(0.0))):
        assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(len(x)) + 0.02 * exact
    assert ((x >= TEN[0]) & (x <= TEN[1])).all()
    near = x.norm(dim=1) < 0.7
    assert float(near.double().mean()) > 0.1  # 7e-5 of the volume
    assert float((x.norm(dim=1) > 1.3).double().mean()) > 0.1


def test_two_separate_features_are_both_found() -> None:
    def target(x: torch.Tensor) -> torch.Tensor:
        return torch.logaddexp(log_peak(x, 0.4), log_peak(x, -0.4))

    path = tempered_path(target, *TEN, torch.Generator().manual_seed(0))
    x = path.sample(40_000, torch.Generator().manual_seed(1))
    values = torch.exp(target(x) - path.log_prob(x))
    exact = gauss(0.4) + gauss(-0.4)
    assert abs(float(values.mean()) / exact - 1) < 0.05
    for centre in (0.4, -0.4):
        assert float(((x - centre).norm(dim=1) < 0.6).double().mean()) > 0.02


def test_a_target_that_vanishes_gives_the_uniform_density() -> None:
    path = tempered_path(lambda x: torch.full_like(x[:, 0], -math.inf), *TEN, torch.Generator().manual_seed(0))
    assert not path.found
    assert torch.allclose(path.log_prob(path.sample(10, torch.Generator())), torch.tensor(-10 * math.log(2)).double())

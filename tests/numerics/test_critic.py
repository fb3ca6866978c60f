"""The exact critic of adversarial sampling against the closed form, the obstacle conditions and its limits."""

import math

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.numerics.critic import (
    adapted,
    coverage,
    critic_density,
    critic_value,
    critic_with_coverage,
    h_minus_1,
    inverse_laplacian,
    midpoints,
)

CORNER = torch.ones(2, dtype=torch.float64)
LENGTHS = (2.0, 2.0)
A, BETA = 0.5, 0.1


def squared_residual(n: int) -> torch.Tensor:
    """1 + a cos πx cos πy on [−1, 1]²."""
    x = midpoints(-CORNER, CORNER, (n, n))
    return (1 + A * torch.cos(math.pi * x[:, 0]) * torch.cos(math.pi * x[:, 1])).reshape(n, n)


def test_analytic_critic() -> None:
    q = squared_residual(32)
    p = critic_density(q, LENGTHS, BETA)
    exact = 0.25 + (q - 1) / (4 * math.pi**2 * BETA)
    assert (p - exact).abs().max() < 1e-12
    assert float(critic_value(q, p, LENGTHS, BETA)) == pytest.approx(1 + A**2 / (8 * math.pi**2 * BETA), abs=1e-12)
    assert float(critic_value(q, p, LENGTHS, BETA)) == pytest.approx(1.0316629, abs=1e-7)


@pytest.mark.parametrize("shape", [(200,), (40, 50), (12, 14, 16)])
def test_h_minus_1_identity(shape: tuple[int, ...]) -> None:
    """max J = mean q + ‖q − mean q‖²_{H⁻¹}/(4β), each side by its own quadrature."""
    lengths = (2.0, 1.0, 3.0)[: len(shape)]
    high = torch.tensor(lengths, dtype=torch.float64)
    x = midpoints(torch.zeros_like(high), high, shape)
    q = (torch.exp(-((x - 0.4) ** 2).sum(-1)) + 0.2 * x[:, 0] ** 2).reshape(shape)
    beta = 4.0
    p = critic_density(q, lengths, beta)
    assert p.min() > 0
    mean = q.mean()
    assert float(critic_value(q, p, lengths, beta)) == pytest.approx(
        float(mean + h_minus_1(q, lengths) / (4 * beta)), rel=1e-12
    )
    # The seminorm is ∫|∇φ|² of the Neumann problem: sums over differences see it to O(h²).
    phi = inverse_laplacian(q, lengths)
    squares = 0.0
    for axis, (n, length) in enumerate(zip(shape, lengths, strict=True)):
        squares += float((phi.diff(dim=axis) * n / length).square().sum()) * math.prod(lengths) / q.numel()
    assert squares == pytest.approx(float(h_minus_1(q, lengths)), rel=0.02)


def test_no_density_does_better() -> None:
    q = squared_residual(24)
    p = critic_density(q, LENGTHS, BETA)
    best = float(critic_value(q, p, LENGTHS, BETA))
    for _ in range(20):
        other = torch.rand(24, 24, dtype=torch.float64)
        step = other / other.mean() / 4 - p
        assert float(critic_value(q, p + 0.05 * step, LENGTHS, BETA)) < best


def peak(n: int, width: float = 0.1) -> torch.Tensor:
    x = midpoints(-CORNER, CORNER, (n, n))
    q = torch.exp(-((x - 0.4) ** 2).sum(-1) / (2 * width**2)).reshape(n, n)
    return q / q.mean()


def test_obstacle_conditions() -> None:
    """p ≥ 0, and q + 2βΔp is a constant where p > 0 and at most that where p = 0."""
    q, beta, n = peak(48), 0.02, 48
    p = critic_density(q, LENGTHS, beta, "exact", tol=1e-9, max_iterations=5000)
    assert p.min() >= 0 and float(p.mean()) * 4 == pytest.approx(1, abs=1e-12)
    assert 0.2 < float((p == 0).double().mean()) < 0.99
    # −Δp by its own transform: inverse_laplacian(g) = p − mean p is solved for g by one fixed-point identity.
    cosines = torch.cos(math.pi * torch.outer(torch.arange(n) + 0.5, torch.arange(n)).double() / n)
    norms = (cosines**2).sum(0)
    amplitude = cosines.T @ p @ cosines / norms[:, None] / norms
    k = (math.pi / 2 * torch.arange(n, dtype=torch.float64)) ** 2
    minus_laplacian = cosines @ (amplitude * (k[:, None] + k)) @ cosines.T
    slack = q - 2 * beta * minus_laplacian
    level = float(slack[p > 0].mean())
    assert (slack[p > 0] - level).abs().max() < 1e-3 * q.max()
    assert (slack[p == 0] - level).max() < 1e-3 * q.max()
    projected = critic_density(q, LENGTHS, beta)
    assert critic_value(q, p, LENGTHS, beta) > critic_value(q, projected, LENGTHS, beta)


@pytest.mark.parametrize("obstacle", ["project", "exact"])
def test_beta_limits(obstacle: str) -> None:
    q = peak(48)
    flat = critic_density(q, LENGTHS, 1e6, obstacle)
    assert float((flat - 0.25).abs().mean()) * 4 < 1e-2
    if obstacle == "exact":
        spike = critic_density(q, LENGTHS, 1e-6, obstacle)
        assert int(spike.argmax()) == int(q.argmax())
        assert float(spike[q > 0.5 * q.max()].sum()) * 4 / 48**2 > 0.99


def test_coverage_is_brought_into_its_range() -> None:
    q = peak(24, 0.2)
    for start in (1e-4, 1.0):
        p, beta = critic_with_coverage(q, LENGTHS, start, 0.05, 0.2, "exact")
        assert 0.05 <= coverage(p) <= 0.2 and beta > 0
    assert adapted(1.0, 0.01, 0.05, 0.5) == 1.5 and adapted(1.0, 0.9, 0.05, 0.5) == 1 / 1.5
    assert adapted(1.0, 0.1, 0.05, 0.5) == 1.0


def test_refuses_four_dimensions() -> None:
    with pytest.raises(UsageError, match="1 to 3 dimensions"):
        critic_density(torch.ones(2, 2, 2, 2), (1.0,) * 4, 1.0)

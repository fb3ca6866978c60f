"""The majorisation step: monotone, non-negative, equivariant; lines on the grid are recovered."""

import math

import pytest
import torch
from torch import Tensor

from sciops.numerics.sparse_spectrum import Spectrum, majorise, objective, support

SPACING = 1 / 1.37


def waves(x: Tensor, cycles: Tensor) -> Tensor:
    """Normalised cosine and sine columns."""
    phase = 2 * math.pi * x[:, None] * cycles
    G = torch.stack([phase.cos(), phase.sin()], -1)
    return G / G.square().mean(0, keepdim=True).sqrt()


def scene(lines: dict[int, float], n: int = 60, components: int = 90, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    x = torch.rand(n, generator=random, dtype=torch.float64) - 0.5
    cycles = SPACING * torch.arange(1, components + 1, dtype=torch.float64)
    y = torch.zeros(n, 3, dtype=torch.float64)
    for column in range(3):
        for line, amplitude in lines.items():
            y[:, column] += amplitude * torch.cos(2 * math.pi * cycles[line] * x + column)
    return waves(x, cycles), y + noise * torch.randn(y.shape, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("lines", [{20: 1.0}, {3: 1.0, 60: 0.3, 80: 0.5}, {}], ids=["one", "three", "noise"])
def test_the_objective_never_increases_and_weights_stay_non_negative(lines: dict[int, float]) -> None:
    G, Y = scene(lines, noise=0.05)
    found = majorise(G, Y, steps=80, drop=0.0)
    steps = torch.tensor(found.objective).diff()
    # Each value is a sum of about N terms of size log C: rounding of the comparison, not of the method.
    assert float(steps.max()) <= 1e-9 * abs(found.objective[0])
    assert bool((found.weights >= 0).all()) and found.noise > 0
    assert found.objective[-1] == pytest.approx(objective(G, Y, found.weights, found.noise), rel=1e-9)


def test_one_step_minimises_the_bound_at_the_weights_before() -> None:
    """Σ_a θ'_a² y'ᵀK_a y'/θ_a + Σ_a θ_a tr(C'⁻¹K_a), y' = C'⁻¹y, from dense matrices: any other θ_a is worse."""
    G, Y = scene({5: 1.0, 12: 0.5}, n=30, components=20, noise=0.1)
    before = Spectrum(0.1 + torch.rand(20, generator=torch.Generator().manual_seed(1), dtype=G.dtype), 0.3)
    after = majorise(G, Y, steps=1, drop=0.0, start=before).weights
    K = torch.einsum("nak,mak->anm", G, G)
    inverse = torch.linalg.inv(
        torch.einsum("a,anm->nm", before.weights, K) + before.noise * torch.eye(30, dtype=G.dtype)
    )
    seen = torch.einsum("nr,anm,mr->a", inverse @ Y, K, inverse @ Y) / Y.shape[1]
    traces = torch.einsum("nm,amn->a", inverse, K)

    def bound(theta: Tensor) -> Tensor:
        return before.weights**2 * seen / theta + theta * traces

    least = bound(after)
    assert bool((bound(1.01 * after) > least).all()) and bool((bound(0.99 * after) > least).all())


def test_the_step_is_stationary_where_the_gradient_vanishes() -> None:
    """One component and noise fixed at its floor: the fixed point is the maximum of the likelihood in θ."""
    random = torch.Generator().manual_seed(0)
    G = torch.randn(20, 1, 1, generator=random, dtype=torch.float64)
    y = 3.0 * G[:, 0] + 0.1 * torch.randn(20, 1, generator=random, dtype=torch.float64)
    found = majorise(G, y, steps=400)
    weight, eps = float(found.weights[0]), 1e-3
    around = [objective(G, y, torch.tensor([weight * f], dtype=G.dtype), found.noise) for f in (1 - eps, 1.0, 1 + eps)]
    assert around[1] <= min(around) + 1e-9
    assert weight == pytest.approx(9.0, rel=0.05)  # one coefficient of size 3 is its own variance


@pytest.mark.parametrize("lines", [{20: 1.0}, {3: 1.0, 30: 0.3}, {10: 1.0, 50: 1.0, 70: 0.2, 85: 0.5}], ids=str)
def test_lines_on_the_grid_are_recovered(lines: dict[int, float]) -> None:
    G, Y = scene(lines)
    found = majorise(G, Y, steps=60)
    peaks = support(torch.nn.functional.pad(found.weights, (1, 0))) - 1
    strong = peaks[: len(lines)].tolist()
    assert sorted(strong) == sorted(lines)
    assert found.noise < 1e-5 * float(Y.square().mean())


def test_scaling_the_data_scales_weights_and_noise() -> None:
    G, Y = scene({5: 1.0, 40: 0.4}, noise=0.02)
    one, other = majorise(G, Y, steps=30), majorise(G, 1000.0 * Y, steps=30)
    assert torch.allclose(other.weights, 1e6 * one.weights, rtol=1e-6, atol=0)
    assert other.noise == pytest.approx(1e6 * one.noise, rel=1e-6)


def test_rotating_right_hand_sides_among_each_other_changes_nothing() -> None:
    G, Y = scene({5: 1.0, 40: 0.4}, noise=0.02)
    Q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    assert torch.allclose(majorise(G, Y @ Q, steps=30).weights, majorise(G, Y, steps=30).weights, rtol=1e-6, atol=1e-9)


def test_a_frequency_far_above_that_of_uniform_sampling_is_told_from_its_aliases() -> None:
    """60 random points in a unit box, a line at 1000 cycles: 33 times Nyquist's frequency of 60 uniform points."""
    x = torch.rand(60, generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 0.5
    cycles = SPACING * torch.arange(1, 1600, dtype=torch.float64)
    y = torch.sin(2 * math.pi * cycles[1369] * x + 0.4)[:, None]
    assert int(majorise(waves(x, cycles), y, steps=40).weights.argmax()) == 1369


def test_nothing_to_explain() -> None:
    G, Y = scene({5: 1.0})
    assert float(majorise(G, 0.0 * Y).weights.sum()) == 0.0


def test_support_takes_peaks_heaviest_first() -> None:
    weights = torch.tensor([0.0, 0.2, 1.0, 0.5, 0.0, 1e-4, 0.0, 0.3, 0.6], dtype=torch.float64)
    assert support(weights).tolist() == [2, 8]
    assert support(weights, threshold=1e-5).tolist() == [2, 8, 5]
    assert support(weights, most=1).tolist() == [2]

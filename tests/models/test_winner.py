"""Spectral centroids, the initialisation that they set, and implicit representations fitted from it."""

import math

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.linear import Status
from sciops.models.siren import Siren
from sciops.models.winner import (
    RULES,
    CentroidRule,
    Winner,
    centroid_frequency,
    pde_scales,
    response,
    spectral_centroid,
)
from sciops.solvers.implicit_fit import ImplicitFit, coordinates


def tone(m: int, n: int) -> torch.Tensor:
    return torch.sin(2 * math.pi * m * torch.arange(n, dtype=torch.float64) / n + 0.3)


# ---- initialisation


def test_without_noise_it_is_siren_bit_by_bit() -> None:
    siren, winner = Siren(2, 3, 16, 3, seed=5), Winner(2, 3, 16, 3, seed=5, scales=(0.0, 0.0))
    assert all(torch.equal(a, b) for a, b in zip(siren.parameters(), winner.parameters(), strict=True))
    x = coordinates((7, 5), torch.float64)
    assert torch.equal(siren(x), winner(x))


def test_only_the_first_two_weights_change_and_by_the_stated_amount() -> None:
    s, omega = (60.0, 9.0), 30.0
    siren = Siren(2, 1, 400, 4, omega=omega, seed=1)
    winner = Winner(2, 1, 400, 4, omega=omega, seed=1, scales=s)
    for k, (a, b) in enumerate(zip(siren.weights, winner.weights, strict=True)):
        if k > 1:
            assert torch.equal(a, b)
            continue
        noise = (b - a).detach()
        # 800 draws leave 2.5 % of the standard deviation, 160 000 leave less.
        assert float(noise.std()) == pytest.approx(s[k] / omega, rel=0.05)
        assert abs(float(noise.mean())) < 4 * s[k] / omega / math.sqrt(noise.numel())
    assert all(torch.equal(a, b) for a, b in zip(siren.biases, winner.biases, strict=True))
    assert sum(p.numel() for p in siren.parameters()) == sum(p.numel() for p in winner.parameters())


def test_the_noise_is_divided_by_the_omega_of_the_layers() -> None:
    """First-layer phases are ω₀ W x̂: s₀ is the added frequency whatever ω₀ is."""
    for omega in (10.0, 90.0):
        plain = Siren(1, 1, 3000, 1, omega=omega, seed=2)
        noisy = Winner(1, 1, 3000, 1, omega=omega, seed=2, scales=(44.7, 0.0))
        added = omega * (noisy.weights[0] - plain.weights[0])
        assert float(added.std().detach()) == pytest.approx(44.7, rel=0.05)


@pytest.mark.parametrize("scales", [(-1.0, 0.0), (math.nan, 0.0), (1.0,)])
def test_scales_that_mean_nothing_are_refused(scales: tuple) -> None:
    with pytest.raises(UsageError, match="scales"):
        Winner(1, scales=scales)
    with pytest.raises(UsageError, match="depth"):
        Winner(1, depth=1, scales=(1.0, 1.0))


# ---- centroids


@pytest.mark.parametrize(("m", "n"), [(1, 64), (7, 64), (20, 100), (31, 64)])
def test_the_centroid_of_a_pure_tone_is_its_bin(m: int, n: int) -> None:
    assert spectral_centroid(tone(m, n)[None]) == pytest.approx(2 * m / n, abs=1e-12)


def test_channels_divide_the_centroid_twice() -> None:
    one, three = tone(8, 64)[None], tone(8, 64).expand(3, 64)
    assert spectral_centroid(three) == pytest.approx(spectral_centroid(one) / 3)
    rule = CentroidRule(50.0, 5.0, 0.4)
    z = spectral_centroid(three) / 3
    assert rule.scales(three) == pytest.approx((50 * (1 - math.exp(-5 * z)), 0.4 * z))
    assert RULES["audio"] == CentroidRule(3500.0, 7.0, 3.0) and RULES["image"] == rule


def test_images_average_their_rows_and_empty_rows_count_as_zero() -> None:
    image = torch.stack([tone(4, 32), tone(12, 32)])[None]
    assert spectral_centroid(image) == pytest.approx(2 * 8 / 32)
    assert spectral_centroid(torch.zeros(1, 8)) == 0.0


@pytest.mark.parametrize("signal", [torch.zeros(5), torch.full((1, 8), math.nan), torch.zeros(2, 1)])
def test_signals_without_a_spectrum_are_refused(signal: torch.Tensor) -> None:
    with pytest.raises(UsageError, match=r"signal|spectrum"):
        spectral_centroid(signal)


# ---- the rule for equations


def peak(n: int, kappa: float = 1000.0) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """u = exp(−κ s) and f = −Δu on a grid of nodes of [−1, 1]²."""
    x = torch.linspace(-1, 1, n, dtype=torch.float64)
    X, Y = torch.meshgrid(x, x, indexing="ij")
    s = (X - 0.5) ** 2 + (Y - 0.5) ** 2
    u = torch.exp(-kappa * s)
    return u, (4 * kappa - 4 * kappa**2 * s) * u, [2 / (n - 1)] * 2


def test_the_source_divided_by_the_symbol_is_the_solution() -> None:
    u, f, h = peak(257, 200.0)
    assert float((response(f, h) - u).abs().max()) < 1e-9


def test_the_frequency_of_a_peak_in_radians_per_unit() -> None:
    """|û| ~ exp(−k²/4κ): standard deviation √(2κ) = 44.7, mean of |k| √(2/π) of that."""
    u, f, h = peak(257)
    expected = math.sqrt(2 * 1000.0) * math.sqrt(2 / math.pi)
    for found in centroid_frequency(u, h):
        assert found == pytest.approx(expected, rel=0.03)
    s0, s1 = pde_scales(f, h)
    assert s0 == pytest.approx(expected, rel=0.03) and s1 == 0.0
    assert pde_scales(f, h, invert=False)[0] > 1.3 * s0  # the source itself overestimates


def test_a_sine_solution_gives_its_own_frequency_in_units_of_the_scaled_box() -> None:
    n, L = 129, 3.0
    x = torch.linspace(0, L, n, dtype=torch.float64)
    k = 2 * math.pi * 10 / L
    s0, _ = pde_scales(k**2 * torch.sin(k * x), [L / (n - 1)])
    assert s0 == pytest.approx(k * L / 2, rel=1e-6)
    with pytest.raises(UsageError, match="nodes"):
        response(torch.zeros(2), [1.0])


# ---- implicit representations


def audio(n: int = 4096) -> torch.Tensor:
    t = torch.linspace(-1, 1, n, dtype=torch.float64)
    chirp = 0.5 * torch.sin(2 * math.pi * 60 * t * (1 + 0.5 * t))
    burst = 0.3 * torch.sin(2 * math.pi * 190 * t) * torch.exp(-4 * t * t)
    return (chirp + burst + 0.2 * torch.sin(2 * math.pi * 400 * t))[None]


def texture(n: int = 64) -> torch.Tensor:
    x = torch.linspace(-1, 1, n)
    X, Y = torch.meshgrid(x, x, indexing="ij")
    waves = torch.sin(30 * X - 80 * Y) * torch.cos(50 * X * Y)
    return (0.5 + 0.25 * torch.sin(70 * X + 20 * Y) + 0.25 * waves)[None]


@pytest.mark.parametrize(("signal", "gain"), [(audio(), 4.0), (texture(), 3.0)], ids=["audio", "texture"])
def test_the_centroid_raises_psnr_at_equal_steps(signal: torch.Tensor, gain: float) -> None:
    reached = {}
    for name in ("siren", "winner"):
        fit = ImplicitFit(name, width=32, depth=3, steps=100, lr=1e-3, log_every=50).fit(signal)
        assert fit.status is Status.OK and [step for step, _ in fit.psnr] == [0, 50, 100]
        reached[name] = fit.psnr[-1][1]
    assert reached["winner"] > reached["siren"] + gain


def test_psnr_is_that_of_the_values() -> None:
    signal = audio(300)
    fit = ImplicitFit(width=16, depth=2, steps=20, lr=1e-3, dtype=torch.float64).fit(signal)
    error = (fit.values((300,)) - signal).square().mean()
    extent = float(signal.max() - signal.min())
    assert fit.psnr[-1][1] == pytest.approx(10 * math.log10(extent**2 / float(error)), abs=1e-9)
    assert fit.values((77,)).shape == (1, 77)


def test_two_fits_are_equal_and_published_settings_are_the_defaults() -> None:
    plain = ImplicitFit()
    assert (plain.width, plain.depth, plain.lr, plain.decay, plain.every) == (256, 5, 1e-4, 0.998, 20)
    made = [ImplicitFit(width=8, depth=2, steps=5, batch=64, seed=3).fit(texture(16)) for _ in range(2)]
    assert torch.equal(made[0].values((16, 16)), made[1].values((16, 16)))


def test_bad_signals_and_budgets() -> None:
    with pytest.raises(UsageError, match="constant"):
        ImplicitFit().fit(torch.ones(1, 8))
    with pytest.raises(UsageError, match="finite"):
        ImplicitFit().fit(torch.full((1, 8), math.inf))
    with pytest.raises(UsageError, match="initialisation"):
        ImplicitFit("sirene")
    with pytest.raises(UsageError, match="rule"):
        ImplicitFit(rule="video")
    late = ImplicitFit(width=8, depth=2).fit(audio(64), seconds=0.0)
    assert late.status is Status.BUDGET and late.steps == 0 and math.isfinite(late.psnr[-1][1])
    wild = ImplicitFit(width=8, depth=2, steps=50, lr=1e30).fit(audio(64))
    assert wild.status is Status.DIVERGED and "lr" in wild.advice
    assert wild.psnr[-1][1] == wild.psnr[0][1]  # the last good network came back

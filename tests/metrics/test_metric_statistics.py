"""Streaming equals one pass, intervals cover, uncertainties are scored as the formulas say."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_fields import grid_like, pair
from scipy import integrate, stats

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.metrics.base import FunctionMetric, Metric, evaluate, scores
from sciops.metrics.calibration import ensemble_crps
from sciops.metrics.catalogue import CATALOGUE, named
from sciops.metrics.pointwise import relative_l2
from sciops.metrics.statistics import bootstrap, paired_test

PRED, TRUE = pair(grid_like(2, "periodic", (26, 26)), n=9, t=3, c=2)
STD = Field(0.3 * torch.ones_like(TRUE.values), TRUE.domain, TRUE.channels, TRUE.times)
FREE = sorted(name for name, m in CATALOGUE.items() if m.applies(TRUE) is None)


def test_most_metrics_need_no_cases() -> None:
    assert {"rel_l2", "rel_h1", "band_high", "corr_time_0.8", "crps", "frmse_high@pdebench", "vrmse@well"} <= set(FREE)
    assert not {"residual", "drift", "boundary", "vrmse[6:12]@well"} & set(FREE)


@settings(max_examples=6, deadline=None)
@given(cuts=st.sets(st.integers(1, 8)), order=st.permutations(range(9)))
def test_streaming_in_any_chunks_and_order_equals_one_pass(cuts: set[int], order: list[int]) -> None:
    edges = [0, *sorted(cuts), 9]
    for name in FREE:
        metric = CATALOGUE[name]
        parts = []
        for a, b in itertools.pairwise(edges):
            index = order[a:b]
            parts.append(scores(metric, PRED[index], TRUE[index], std=STD[index]))
        assert all(len(part) == b - a for part, (a, b) in zip(parts, itertools.pairwise(edges), strict=True))
        whole = evaluate(metric, PRED, TRUE, std=STD)
        assert metric.combine(torch.cat(parts)) == pytest.approx(whole, rel=1e-10, abs=1e-300), name


def test_root_mean_square_is_the_global_one_and_no_average_of_batches() -> None:
    metric, delta = named("rmse"), (PRED - TRUE).values
    assert evaluate(metric, PRED, TRUE) == pytest.approx(float(delta.square().mean().sqrt()), rel=1e-12)
    batches = [evaluate(metric, PRED[a:b], TRUE[a:b]) for a, b in ((0, 1), (1, 9))]
    assert abs(np.mean(batches) - evaluate(metric, PRED, TRUE)) > 1e-6


@pytest.mark.parametrize("name", FREE)
def test_batched_bootstrap_equals_a_loop_through_combine(name: str) -> None:
    metric = CATALOGUE[name]
    stacked = scores(metric, PRED, TRUE, std=STD)
    index = torch.randint(9, (40, 9), generator=torch.Generator().manual_seed(3))
    values = torch.tensor([metric.combine(stacked[i]) for i in index], dtype=torch.float64)
    expected = torch.quantile(values, torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    assert bootstrap(metric, stacked, draws=40, level=0.9, seed=3) == pytest.approx(expected, rel=1e-12)


def test_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    draw = torch.Generator().manual_seed(5)
    metric, hits = named("rel_l2"), 0
    for _ in range(300):
        sample = -torch.rand(60, generator=draw, dtype=torch.float64).log()  # exponential law, mean 1
        low, high = bootstrap(metric, sample, draws=300, level=0.9)
        hits += low <= 1.0 <= high
    assert 0.82 <= hits / 300 <= 0.94


def test_bootstrap_of_a_user_metric_that_overrides_combine() -> None:
    @dataclass(frozen=True)
    class Trimmed(Metric):
        name: str = "trimmed"
        convention: str = "mean without the largest value"

        def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> torch.Tensor:
            return relative_l2(pred, true)

        def combine(self, stacked: torch.Tensor) -> float:
            return float(stacked.sort().values[:-1].mean())

    stacked = Trimmed().per_case(PRED, TRUE)
    low, high = bootstrap(Trimmed(), stacked, draws=200)
    assert low < Trimmed().combine(stacked) < high
    with pytest.raises(UsageError, match="at least 2 cases"):
        bootstrap(Trimmed(), stacked[:1])


def test_paired_test_ranks_a_small_but_steady_gain_and_shows_a_tie() -> None:
    metric = named("rel_l2")
    draw = torch.Generator().manual_seed(1)
    a = 1 + torch.rand(50, generator=draw, dtype=torch.float64)
    steady = paired_test(metric, a, a + 0.01 + 0.005 * torch.rand(50, generator=draw, dtype=torch.float64))
    assert steady.better == "a"
    assert not steady.tie
    assert steady.p_value < 0.01
    assert steady.low < steady.difference < steady.high < 0
    noise = paired_test(metric, a, a[torch.randperm(50, generator=draw)])
    assert noise.tie
    assert noise.p_value > 0.05
    upward = FunctionMetric("r", "correlation, higher is better", relative_l2, lower_is_better=False)
    assert paired_test(upward, a, a + 0.01).better == "b"
    assert paired_test(metric, a, a).tie


# ---- uncertainty


def one_point(values: torch.Tensor) -> Field:
    grid = Grid.box(len(values), layout="cell", ndim=1)
    return Field(values.double()[None, None, None], grid, ("u",))


@pytest.mark.parametrize("level", [50, 90, 95])
def test_coverage_of_exact_gaussian_samples_is_the_level(level: int) -> None:
    draw = torch.Generator().manual_seed(2)
    sigma = 0.1 + torch.rand(40_000, generator=draw, dtype=torch.float64)
    mean = torch.randn(40_000, generator=draw, dtype=torch.float64)
    truth = mean + sigma * torch.randn(40_000, generator=draw, dtype=torch.float64)
    pred, true, std = (one_point(v) for v in (mean, truth, sigma))
    share = level / 100
    spread = math.sqrt(share * (1 - share) / 40_000)
    assert evaluate(named(f"coverage_{level}"), pred, true, std=std) == pytest.approx(share, abs=4 * spread)


def crps_by_integral(mean: float, sigma: float, y: float) -> float:
    """∫ (F(x) − 1{x ≥ y})² dx."""
    cdf = stats.norm(mean, sigma).cdf
    below = integrate.quad(lambda x: cdf(x) ** 2, mean - 40 * sigma - abs(y), y, limit=400, points=[mean])[0]
    above = integrate.quad(lambda x: (1 - cdf(x)) ** 2, y, mean + 40 * sigma + abs(y), limit=400, points=[mean])[0]
    return below + above


@pytest.mark.parametrize("mean,sigma,y", [(0.0, 1.0, 0.3), (1.0, 0.2, 0.0), (-2.0, 3.0, 1.5)])
def test_gaussian_crps_equals_its_defining_integral(mean: float, sigma: float, y: float) -> None:
    pred, true, std = (one_point(torch.tensor([v, v])) for v in (mean, y, sigma))
    expected = crps_by_integral(mean, sigma, y)
    assert evaluate(named("crps"), pred, true, std=std) == pytest.approx(expected, rel=1e-6)


def test_crps_without_spread_is_the_absolute_error() -> None:
    pred, true, std = (one_point(torch.tensor(v)) for v in ([1.0, 2.0], [0.5, 4.0], [0.0, 0.0]))
    assert evaluate(named("crps"), pred, true, std=std) == pytest.approx((0.5 + 2.0) / 2)


def test_ensemble_crps_equals_double_loops_and_tends_to_the_gaussian_one() -> None:
    values = np.random.default_rng(0).normal(size=(5, 6))
    y = np.random.default_rng(1).normal(size=6)
    members, true = [one_point(torch.from_numpy(v)) for v in values], one_point(torch.from_numpy(y))
    for fair, pairs in ((False, 25), (True, 20)):
        expected = np.mean(
            [
                np.mean([abs(values[i, k] - y[k]) for i in range(5)])
                - 0.5 * sum(abs(values[i, k] - values[j, k]) for i in range(5) for j in range(5)) / pairs
                for k in range(6)
            ]
        )
        assert float(ensemble_crps(members, true, fair)) == pytest.approx(expected, rel=1e-12)
    quantiles = stats.norm.ppf((np.arange(400) + 0.5) / 400)
    dense = [one_point(torch.tensor([q, q])) for q in quantiles]
    target = one_point(torch.tensor([0.7, 0.7]))
    assert float(ensemble_crps(dense, target)) == pytest.approx(crps_by_integral(0, 1, 0.7), rel=1e-2)


def test_sharpness_is_the_interval_width() -> None:
    assert evaluate(named("sharpness"), PRED, TRUE, std=STD) == pytest.approx(2 * stats.norm.ppf(0.95) * 0.3, rel=1e-9)


def test_uncertainty_metrics_ask_for_a_standard_deviation() -> None:
    with pytest.raises(UsageError, match="standard deviation"):
        evaluate(named("crps"), PRED, TRUE)
    with pytest.raises(UsageError, match="negative"):
        evaluate(named("coverage_90"), PRED, TRUE, std=-STD)


# ---- rollouts


def rotating(angles: list[float], times: tuple[float, ...]) -> tuple[Field, Field]:
    """Truth sin x, prediction sin(x + angle): their correlation is cos(angle)."""
    grid = Grid.box(32, upper=2 * math.pi, layout="periodic", ndim=1)
    (x,) = grid.mesh()
    p = torch.stack([torch.sin(x + a) for a in angles])[None, :, None]
    y = torch.sin(x).expand(1, len(angles), 1, 32)
    return Field(p, grid, ("u",), times), Field(y.clone(), grid, ("u",), times)


def test_correlation_time_is_linear_between_frames() -> None:
    times = (1.0, 1.5, 3.0, 3.5)
    pred, true = rotating([math.acos(r) for r in (1.0, 0.96, 0.64, 0.9)], times)
    assert evaluate(named("corr_time_0.8"), pred, true) == pytest.approx(0.5 + 1.5 * 0.5)
    assert evaluate(named("corr_time_0.9"), pred, true) == pytest.approx(0.5 + 1.5 * 0.06 / 0.32)
    assert evaluate(named("corr_time_0.95"), pred, true) == pytest.approx(0.5 + 1.5 * 0.01 / 0.32)
    assert evaluate(named("corr_time_0.8_capped"), pred, true) == 0


def test_correlation_time_is_capped_at_the_end_and_says_so() -> None:
    good, true = rotating([0.0, 0.1, 0.2], (0.0, 1.0, 2.0))
    bad, _ = rotating([2.0, 2.0, 2.0], (0.0, 1.0, 2.0))
    stacked = torch.cat([named("corr_time_0.9").per_case(p, true) for p in (good, bad)])
    assert stacked.tolist() == [[2.0, 1.0], [0.0, 0.0]]
    assert named("corr_time_0.9_capped").combine(stacked) == 0.5
    assert "steady" in str(named("corr_time_0.9").applies(Field(true.values[:, :1], true.domain, ("u",))))


def test_rollout_that_blows_up_ends_at_its_last_sound_frame() -> None:
    pred, true = rotating([0.0, 0.1, 0.2, 0.3], (0.0, 1.0, 2.0, 3.0))
    pred.values[0, 2:] = torch.nan
    assert evaluate(named("corr_time_0.8"), pred, true) == 1.0

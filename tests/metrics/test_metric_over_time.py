"""Metrics of trajectories, against their formulas; steady metrics take all frames as one block."""

from dataclasses import replace

import pytest
import torch
from heat_problem import heat

from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.metrics.base import evaluate
from sciops.metrics.catalogue import named
from sciops.metrics.rollout import frame_errors


@pytest.fixture
def pair():
    draw = torch.Generator().manual_seed(1)
    grid, times = Grid.box(16, ndim=2, layout="periodic"), tuple(0.5 * k for k in range(6))
    truth = (
        torch.randn(5, 6, 2, 16, 16, generator=draw, dtype=torch.float64)
        * torch.logspace(0, -2, 6)[:, None, None, None]
    )
    noise = torch.randn(truth.shape, generator=draw, dtype=torch.float64)
    pred = truth + 0.1 * noise * torch.linspace(0.1, 1, 6)[:, None, None, None]
    return Field(pred, grid, ("u", "v"), times), Field(truth, grid, ("u", "v"), times)


def test_the_published_number_is_one_norm_over_all_frames(pair):
    p, y = pair[0].values, pair[1].values
    block = ((p - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).mean()
    for name in ("rel_l2", "rel_l2@fno"):
        assert evaluate(named(name), *pair) == pytest.approx(float(block), rel=1e-12)
    # Frame by frame it is another number, because small frames weigh as much as large ones.
    frames = ((p - y).flatten(2).norm(dim=2) / y.flatten(2).norm(dim=2)).mean()
    assert evaluate(named("rel_l2_frames"), *pair) == pytest.approx(float(frames), rel=1e-12)
    assert float(frames) > 2 * float(block)


@pytest.mark.parametrize(
    "name", ["rel_l2", "rel_h1", "max", "rel_l2@fno", "rmse", "h1_fft@mgno", "band_low", "spectrum"]
)
def test_steady_metrics_see_every_frame(pair, name):
    whole = evaluate(named(name), *pair)
    first = pair[1].values.clone()
    first[:, 0] = pair[0].values[:, 0]
    assert 0 < evaluate(named(name), replace(pair[0], values=first), pair[1]) < whole


def test_curve_and_last_frame(pair):
    errors = frame_errors(*pair)
    p, y = pair[0].values[:, -1], pair[1].values[:, -1]
    last = (p - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)
    assert torch.allclose(errors[:, -1], last) and errors.shape == (5, 6)
    assert evaluate(named("rel_l2_last"), *pair) == pytest.approx(float(last.mean()))
    metric = named("rel_l2_frames")
    assert torch.allclose(metric.curve(metric.per_case(*pair)), errors.mean(0))


def test_drift_from_the_truth_of_the_same_time():
    data = heat(0, 3, dtype=torch.float64)
    cases, truth = data.cases(), data.truth()
    grown = 1 + 0.01 * torch.arange(9, dtype=torch.float64)[:, None, None]
    pred = replace(truth, values=truth.values * grown)
    assert evaluate(named("drift_true"), pred, truth, cases) == pytest.approx(0.08, rel=1e-10)
    # A quantity that the truth changes, too, drifts in one sense only.
    fading = replace(truth, values=truth.values * (2 - grown))
    assert evaluate(named("drift"), fading, fading, cases) == pytest.approx(0.08, rel=1e-10)
    assert evaluate(named("drift_true"), fading, fading, cases) == 0.0
    # A mean of zero up to rounding: the scale is the mean of |u|.
    still = replace(truth, values=truth.values - truth.values.mean(-1, keepdim=True) + 1e-9)
    moved = replace(still, values=still.values + 0.5)
    by_hand = (0.5 / still.values.abs().mean(-1).amax((1, 2))).mean()
    assert evaluate(named("drift_true"), moved, still, cases) == pytest.approx(float(by_hand), rel=1e-6)


def test_log_spectral_distance_at_the_end():
    grid = Grid.box(16, ndim=1, layout="periodic")
    x = grid.axis(0)
    modes = [torch.cos(2 * torch.pi * k * x) for k in (1, 3)]
    truth = torch.stack([torch.zeros(16, dtype=torch.float64), modes[0] + modes[1]])[None, :, None]
    pred = torch.stack([modes[0], 10 * modes[0] + modes[1]])[None, :, None]
    fields = (Field(v, grid, ("u",), (0.0, 1.0)) for v in (pred, truth))
    # Shell 1 holds a hundred times the energy, shell 3 is right: sqrt((2² + 0²)/2).
    assert evaluate(named("log_spectral_last"), *fields) == pytest.approx(2**0.5, rel=1e-10)

"""House metrics against loops written from their formulas, and against closed forms."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from metric_fields import grid_like, pair

from sciops.core.errors import GridMismatch, UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid, PointSet
from sciops.metrics.base import evaluate, failures
from sciops.metrics.catalogue import named
from sciops.metrics.sobolev import derivative, h1_square
from sciops.metrics.spectral import shell_energies, shell_index

LAYOUTS = ("node", "cell", "periodic")


def weights_by_hand(grid: Grid) -> np.ndarray:
    w = np.ones(grid.shape)
    for i in itertools.product(*map(range, grid.shape)):
        for j, n, kind in zip(i, grid.shape, grid.layout, strict=True):
            if kind == "node" and j in (0, n - 1):
                w[i] *= 0.5
    return w / w.sum()


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pointwise_metrics_equal_plain_loops(ndim: int, layout: str) -> None:
    pred, true = pair(grid_like(ndim, layout))
    p, y, w = pred.values.numpy(), true.values.numpy(), weights_by_hand(true.domain)
    ratios, squares, tops, relative_tops = [], [], [], []
    for b in range(5):
        top, bottom = 0.0, 0.0
        for t, c in itertools.product(range(3), range(2)):
            top += (w * (p[b, t, c] - y[b, t, c]) ** 2).sum()
            bottom += (w * y[b, t, c] ** 2).sum()
        ratios.append(math.sqrt(top / bottom))
        squares.append(top / 6)
        tops.append(np.abs(p[b] - y[b]).max())
        relative_tops.append(tops[-1] / np.abs(y[b]).max())
    expected = {
        "rel_l2": np.mean(ratios),
        "rel_l2_median": np.median(ratios),
        "rel_l2_p95": np.percentile(ratios, 95),
        "rmse": math.sqrt(np.mean(squares)),
        "max_abs": np.mean(tops),
        "max_abs_worst": np.max(tops),
        "max": np.mean(relative_tops),
        "max_worst": np.max(relative_tops),
    }
    for name, value in expected.items():
        assert evaluate(named(name), pred, true) == pytest.approx(value, rel=1e-12), name


def test_scattered_points_use_their_own_weights() -> None:
    points = PointSet(torch.rand(4, 2, dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    y = torch.tensor([[[1.0, 1.0, 1.0, 1.0]]], dtype=torch.float64)
    p = y + torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    value = evaluate(named("rel_l2"), Field.steady(p, points, ("u",)), Field.steady(y, points, ("u",)))
    assert value == pytest.approx(math.sqrt(0.1))
    assert "needs a grid" in str(named("rel_h1").applies(Field.steady(y, points, ("u",))))


def test_single_precision_fields_are_scored_in_double() -> None:
    pred, true = pair(grid_like(2))
    single = named("rel_l2").per_case(pred.to(torch.float32), true.to(torch.float32))
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, named("rel_l2").per_case(pred, true), rtol=1e-6, atol=0)


def test_zero_truth_warns_and_is_nan_for_that_case_only() -> None:
    pred, true = pair(grid_like(1))
    true.values[2] = 0
    with pytest.warns(UserWarning, match="truth is zero"):
        values = named("rel_l2").per_case(pred, true)
    assert values.isnan().tolist() == [False, False, True, False, False]


def test_nonfinite_predictions_are_failures_and_never_pass_as_numbers() -> None:
    pred, true = pair(grid_like(2))
    pred.values[1, 0, 0, 0, 0] = torch.nan
    pred.values[3, 2, 1, 3, 2] = torch.inf
    assert failures(pred).tolist() == [False, True, False, True, False]
    for name in ("rel_l2", "rel_l2_median", "rel_l2_p95", "rmse", "max", "max_abs_worst", "rel_h1", "band_low"):
        assert not math.isfinite(evaluate(named(name), pred, true)), name
    kept = ~failures(pred)
    assert math.isfinite(evaluate(named("rel_l2"), pred[kept], true[kept]))


def test_different_grids_or_numbers_of_cases_are_refused() -> None:
    pred, true = pair(grid_like(2))
    other, _ = pair(grid_like(2, "cell"))
    with pytest.raises(GridMismatch, match="domain"):
        named("rel_l2").per_case(other, true)
    with pytest.raises(UsageError, match="same cases"):
        named("rel_l2").per_case(pred[:1], true)


def test_unknown_name_lists_near_matches() -> None:
    with pytest.raises(UsageError, match="rel_l2"):
        named("rel_12")


# ---- derivatives


def sine(grid: Grid, waves: tuple[int, ...]) -> torch.Tensor:
    x = grid.mesh()
    return math.prod(
        torch.sin(2 * math.pi * k * (x[j] - grid.lower[j]) / grid.lengths[j] + 0.3 * j) for j, k in enumerate(waves)
    )[None, None, None]


@pytest.mark.parametrize("shape,waves", [((16,), (3,)), ((15,), (7,)), ((12, 9), (2, 4)), ((6, 8, 7), (1, 2, 3))])
def test_h1_norm_of_a_periodic_sine_is_its_closed_form(shape: tuple[int, ...], waves: tuple[int, ...]) -> None:
    grid = grid_like(len(shape), "periodic", shape)
    kappa = [2 * math.pi * k / length for k, length in zip(waves, grid.lengths, strict=True)]
    closed = 0.5 ** len(shape) * (1 + sum(k * k for k in kappa))
    assert float(h1_square(sine(grid, waves), grid)) == pytest.approx(closed, rel=1e-12)


def test_relative_h1_of_a_scaled_extra_mode_is_its_closed_form() -> None:
    grid = grid_like(1, "periodic", (32,))
    y, extra = sine(grid, (1,)), sine(grid, (5,))
    pred, true = (Field(v, grid, ("u",)) for v in (y + 0.1 * extra, y))
    k1, k5 = (2 * math.pi * k / grid.lengths[0] for k in (1, 5))
    assert evaluate(named("rel_h1"), pred, true) == pytest.approx(0.1 * math.sqrt((1 + k5**2) / (1 + k1**2)), rel=1e-12)


@pytest.mark.parametrize("layout", ["node", "cell"])
def test_differences_are_exact_for_quadratics_up_to_the_walls(layout: str) -> None:
    grid = grid_like(2, layout)
    x, y = grid.mesh()
    u = (1 + 2 * x - x * x + 3 * x * y + y * y)[None, None, None]
    torch.testing.assert_close(derivative(u, grid, 0)[0, 0, 0], 2 - 2 * x + 3 * y)
    torch.testing.assert_close(derivative(u, grid, 1)[0, 0, 0], 3 * x + 2 * y)


@pytest.mark.parametrize("layout", ["node", "cell"])
def test_h1_norm_and_the_derivative_at_the_walls_converge_at_second_order(layout: str) -> None:
    def gaps(n: int) -> tuple[float, float]:
        grid = Grid.box(n + (layout == "node"), layout=layout, ndim=1)
        (x,) = grid.mesh()
        u = torch.sin(4 * x)[None, None, None]
        closed = (0.5 - math.sin(8) / 16) + 16 * (0.5 + math.sin(8) / 16)
        slope = derivative(u, grid, 0)[0, 0, 0] - 4 * torch.cos(4 * x)
        return abs(float(h1_square(u, grid)) - closed), float(slope.abs().max())

    orders = [math.log2(a / b) for a, b in zip(gaps(128), gaps(256), strict=True)]
    assert orders == pytest.approx([2.0, 2.0], abs=0.1)


def test_two_points_cannot_carry_second_order_differences() -> None:
    pred, true = pair(Grid.box((2, 5)))
    assert "3 points" in str(named("rel_h1").applies(true))
    with pytest.raises(UsageError, match="rel_h1 has no value"):
        evaluate(named("rel_h1"), pred, true)


@pytest.mark.parametrize("shape", [(50,), (44, 9)])
def test_mgno_fourier_h1_equals_plain_loops(shape: tuple[int, ...]) -> None:
    pred, true = pair(grid_like(len(shape), "node", shape), n=2, t=1, c=1)
    expected = []
    for b in range(2):
        norms = []
        for x in ((pred - true).values[b, 0, 0].numpy(), true.values[b, 0, 0].numpy()):
            total = 0.0
            spectrum = np.fft.fftn(x)
            for i in itertools.product(*map(range, shape)):
                k = [j if j <= (n - 1) // 2 else j - n for j, n in zip(i, shape, strict=True)]
                total += (1 + sum(m * m for m in k if abs(m) < 20)) * abs(spectrum[i]) ** 2
            norms.append(math.sqrt(total))
        expected.append(norms[0] / norms[1])
    assert evaluate(named("h1_fft@mgno"), pred, true) == pytest.approx(np.mean(expected), rel=1e-11)


# ---- spectra


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("layout", [*LAYOUTS, "mixed"])
def test_shells_sum_to_the_weighted_mean_square(ndim: int, layout: str) -> None:
    grid = grid_like(ndim, layout if layout != "mixed" else ("periodic", "node", "cell")[:ndim])  # type: ignore[arg-type]
    pred, true = pair(grid)
    delta = (pred - true).values
    energy = shell_energies(delta, grid).sum(-1)
    by_hand = (torch.from_numpy(weights_by_hand(grid)) * delta.square()).flatten(3).sum(-1)
    torch.testing.assert_close(energy, by_hand, rtol=1e-12, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bands_sum_to_the_mse_and_shares_to_one(layout: str) -> None:
    pred, true = pair(grid_like(2, layout, (30, 28)))
    mse = evaluate(named("rmse"), pred, true) ** 2
    bands = [evaluate(named(f"band_{b}"), pred, true) for b in ("low", "mid", "high")]
    shares = [evaluate(named(f"band_share_{b}"), pred, true) for b in ("low", "mid", "high")]
    assert sum(bands) == pytest.approx(mse, rel=1e-12)
    assert sum(shares) == pytest.approx(1, rel=1e-12)
    assert min(bands) > 0


@pytest.mark.parametrize("layout,wave,shell", [("periodic", 5, 5), ("node", 10, 5), ("cell", 10, 5), ("cell", 25, 12)])
def test_one_mode_falls_into_one_shell(layout: str, wave: int, shell: int) -> None:
    grid = Grid.box(64, layout=layout, ndim=1)
    (x,) = grid.mesh()
    u = torch.cos((2 if layout == "periodic" else 1) * math.pi * wave * x)[None, None, None]
    energy = shell_energies(u, grid)[0, 0, 0]
    assert int(energy.argmax()) == shell
    assert float(energy[shell] / energy.sum()) == pytest.approx(1, abs=1e-12)


def test_shells_measure_wavelength_not_index_on_a_long_box() -> None:
    grid = Grid.box((16, 16), upper=(4.0, 1.0), layout="periodic")
    shells = shell_index(grid)
    assert int(shells[4, 0]) == 4
    assert int(shells[0, 1]) == 4  # one wave on the short side is as fine as four on the long one


def test_coarse_grid_has_no_high_band() -> None:
    _, true = pair(Grid.box(9, layout="periodic", ndim=1))
    assert "no wavenumber of 12" in str(named("band_high").applies(true))
    assert named("band_mid").applies(true) is None


def test_spectrum_ratio_of_a_scaled_field_is_the_square_of_the_scale() -> None:
    _, true = pair(grid_like(2, "periodic", (16, 16)))
    metric = named("spectrum")
    stacked = metric.per_case(0.1 * true, true)
    torch.testing.assert_close(stacked, torch.full_like(stacked, 0.01), rtol=1e-10, atol=0)
    assert metric.combine(stacked) == pytest.approx(2.0, rel=1e-10)
    assert metric.curve(stacked).shape == (3, stacked.shape[1])  # type: ignore[attr-defined]


def test_exact_prediction_scores_zero_without_warnings() -> None:
    _, true = pair(grid_like(2, "periodic"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("rel_l2", "rel_h1", "max", "band_low", "spectrum", "h1_fft@mgno", "rmse"):
            assert evaluate(named(name), true, true) == pytest.approx(0, abs=1e-14), name

"""Published conventions against loops written from their formulas and against the installed packages."""

import itertools
import math

import numpy as np
import pytest
import torch
from metric_fields import SHAPES, grid_like, pair

from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.metrics import well as well_metrics
from sciops.metrics.base import evaluate
from sciops.metrics.catalogue import CATALOGUE, named
from sciops.metrics.conventions import ApebenchNRMSE, NeuralopH1
from sciops.metrics.pdebench import FourierRMSE, PDEBench
from sciops.metrics.well import Well


def arrays(pred: Field, true: Field) -> tuple[np.ndarray, np.ndarray]:
    return (pred.values - true.values).numpy(), true.values.numpy()


# ---- @pdebench


def face_rmse(delta: np.ndarray) -> float:
    """Loop over every face of one (case, time, channel) array, or of all channels in 3-D."""
    total, count = 0.0, 0
    shape = delta.shape[-3:] if delta.ndim == 4 else delta.shape
    for axis, side in itertools.product(range(len(shape)), (0, -1)):
        face = np.take(delta, side, axis=axis - len(shape))
        total += (face**2).sum()
        count += np.prod([n for j, n in enumerate(shape) if j != axis], dtype=int)
    return math.sqrt(total / count)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_pdebench_values_equal_plain_loops(ndim: int) -> None:
    pred, true = pair(grid_like(ndim, "cell"))
    delta, y = arrays(pred, true)
    n, t, c = delta.shape[:3]
    rows: dict[str, list[float]] = {"rmse": [], "nrmse": [], "crmse": [], "max": [], "brmse": []}
    for i, j in itertools.product(range(t), range(c)):
        rows["rmse"].append(np.mean([math.sqrt((delta[b, i, j] ** 2).mean()) for b in range(n)]))
        rows["nrmse"].append(
            np.mean([math.sqrt((delta[b, i, j] ** 2).mean() / (y[b, i, j] ** 2).mean()) for b in range(n)])
        )
        rows["crmse"].append(math.sqrt(np.mean([delta[b, i, j].sum() ** 2 for b in range(n)])) / delta[0, 0, 0].size)
        rows["max"].append(max(np.abs(delta[b, i, j]).max() for b in range(n)))
        faces = [face_rmse(delta[b, i] if ndim == 3 else delta[b, i, j]) for b in range(n)]
        rows["brmse"].append(np.mean(faces))
    for name, values in rows.items():
        assert evaluate(named(f"{name}@pdebench"), pred, true) == pytest.approx(np.mean(values), rel=1e-12), name


def test_boundary_rmse_counts_corners_twice_in_two_dimensions() -> None:
    grid = Grid.box((4, 5), layout="cell")
    y = torch.ones(1, 1, 1, 4, 5, dtype=torch.float64)
    p = y.clone()
    p[..., 0, 0] += 3
    value = evaluate(named("brmse@pdebench"), Field(p, grid, ("u",)), Field(y, grid, ("u",)))
    assert value == pytest.approx(math.sqrt(2 * 9 / (2 * 4 + 2 * 5)))


@pytest.mark.parametrize("shape", [(26,), (30, 28), (28, 29, 28)])
@pytest.mark.parametrize("tag,cuts", [("pdebench", (4, 12)), ("pinnacle", (5, 13))])
def test_fourier_rmse_equals_plain_loops(shape: tuple[int, ...], tag: str, cuts: tuple[int, int]) -> None:
    grid = grid_like(len(shape), "periodic", shape)
    pred, true = pair(grid, n=2, t=1, c=2)
    delta, _ = arrays(pred, true)
    scale = grid.measure / grid.size
    curves = []
    for j in range(2):
        if len(shape) == 1:
            squares = np.mean([np.abs(np.fft.rfft(delta[b, 0, j])) ** 2 for b in range(2)], axis=0)
        else:
            squares = np.zeros(min(shape) // 2)
            for b in range(2):
                energy = np.abs(np.fft.fftn(delta[b, 0, j])) ** 2
                for i in itertools.product(*(range(m // 2) for m in shape)):
                    k = math.floor(math.sqrt(sum(v * v for v in i)))
                    if k < len(squares):
                        squares[k] += energy[i] / 2
        curves.append(np.sqrt(squares) * scale)
    for band, (low, high) in {"low": (0, cuts[0]), "mid": cuts, "high": (cuts[1], None)}.items():
        expected = np.mean([curve[low:high].mean() for curve in curves])
        assert evaluate(named(f"frmse_{band}@{tag}"), pred, true) == pytest.approx(expected, rel=1e-11), band


def test_fourier_rmse_without_grid_lengths_is_that_of_the_unit_box() -> None:
    pred, true = pair(grid_like(1, "periodic", (32,)), n=2)
    unit = Grid.box(32, layout="periodic", ndim=1)
    moved = [Field(f.values, unit, f.channels, f.times) for f in (pred, true)]
    metric = FourierRMSE("frmse_low@pdebench", "", lengths=(1.0,), reduction=named("frmse_low@pdebench").reduction)  # type: ignore[attr-defined]
    assert evaluate(metric, pred, true) == pytest.approx(evaluate(named("frmse_low@pdebench"), *moved), rel=1e-12)


@pytest.mark.parametrize("points,empty", [(25, True), (26, False)])
def test_high_band_of_a_coarse_grid_is_not_available_instead_of_nan(points: int, empty: bool) -> None:
    pred, true = pair(Grid.box(points, layout="periodic", ndim=2), n=2, t=1, c=1)
    reason = named("frmse_high@pdebench").applies(true)
    assert ("high band is empty" in str(reason)) == empty
    if not empty:
        assert math.isfinite(evaluate(named("frmse_high@pdebench"), pred, true))


def test_initial_frames_are_dropped() -> None:
    pred, true = pair(grid_like(2, "cell"))
    later = [Field(f.values[:, 1:], f.domain, f.channels, f.times[1:]) for f in (pred, true)]
    metric = PDEBench("rmse@pdebench", "", named("rmse@pdebench").function, initial_step=1)  # type: ignore[attr-defined]
    assert evaluate(metric, pred, true) == pytest.approx(evaluate(named("rmse@pdebench"), *later), rel=1e-14)
    assert "leaves none" in str(metric.applies(Field(true.values[:, :1], true.domain, true.channels)))


def test_legacy_loop_divides_by_one_batch_too_few() -> None:
    pred, true = pair(grid_like(1, "cell"), n=6)
    new, old = named("nrmse@pdebench"), named("nrmse@pdebench").legacy(3)  # type: ignore[attr-defined]
    assert evaluate(old, pred, true) == pytest.approx(1.5 * evaluate(new, pred, true), rel=1e-12)
    delta = (pred - true).values.abs().numpy()
    maxima = [delta[2 * k : 2 * k + 2].max(axis=(0, 3)).mean() for k in range(3)]
    assert evaluate(named("max@pdebench").legacy(3), pred, true) == pytest.approx(sum(maxima) / 2)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="legacy_batches"):
        evaluate(named("max@pdebench").legacy(1), pred, true)  # type: ignore[attr-defined]


# ---- @well


@pytest.fixture(scope="module")
def the_well():
    return pytest.importorskip("the_well.benchmark.metrics", reason="the_well is not installed")


def well_metadata(ndim: int, shape: tuple[int, ...], channels: int):
    from the_well.data.datasets import WellMetadata

    names = {0: [f"f{i}" for i in range(channels)], 1: [], 2: []}
    none: dict[int, list[str]] = {0: [], 1: [], 2: []}
    return WellMetadata("test", ndim, shape, [], [], names, none, ["PERIODIC"], 1, [5], [3])


UPSTREAM = {
    "mse": "MSE", "rmse": "RMSE", "mae": "MAE", "linf": "LInfinity", "nmse": "NMSE", "nrmse": "NRMSE", "nmae": "NMAE",
    "vmse": "VMSE", "vrmse": "VRMSE", "pearson": "PearsonR",
}  # fmt: skip


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_well_metrics_equal_the_published_package(the_well, ndim: int) -> None:
    pred, true = pair(grid_like(ndim, "periodic"))
    p, y = (f.values.movedim(2, -1) for f in (pred, true))
    meta = well_metadata(ndim, SHAPES[ndim], 2)
    for key, upstream in UPSTREAM.items():
        expected = getattr(the_well, upstream)()(p, y, meta)
        got = named(f"{key}@well").per_case(pred, true)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=0, msg=key)
    binned = the_well.binned_spectral_mse()(p, y, meta)
    for i in range(3):
        for kind in ("mse", "nmse"):
            expected = binned[f"spectral_error_{kind}_per_bin_{i}"]
            got = named(f"spectral_{kind}_{i}@well").per_case(pred, true)
            torch.testing.assert_close(got, expected.double(), rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_well_binned_spectral_mse_sums_to_the_mse(ndim: int) -> None:
    pred, true = pair(grid_like(ndim, "periodic"))
    total = sum(evaluate(named(f"spectral_mse_{i}@well"), pred, true) for i in range(3))
    assert total == pytest.approx(evaluate(named("mse@well"), pred, true), rel=1e-12)


def test_well_bins_by_hand() -> None:
    # 16 points: |k| = 2π m/16, edges 0, 0.3927·2, 0.3927·4, π+…: m < 2, 2 ≤ m < 4, m ≥ 4.
    index = well_metrics.bin_index((16,)).tolist()
    edges = [0.0, *(10 ** np.linspace(math.log10(2 * math.pi / 16), math.log10(math.pi + 1e-6), 4))[1:]]
    for i, bin_number in enumerate(index):
        k = 2 * math.pi * min(i, 16 - i) / 16
        assert edges[bin_number] <= k < edges[bin_number + 1]


def test_well_nan_counts_as_zero_and_constant_truth_stays_finite() -> None:
    pred, true = pair(grid_like(1, "periodic"), n=2)
    pred.values[0, 0, 0, 3] = torch.nan
    filled = Field(pred.values.nan_to_num(nan=0.0), pred.domain, pred.channels, pred.times)
    assert evaluate(named("vrmse@well"), pred, true) == evaluate(named("vrmse@well"), filled, true)
    flat = Field(torch.ones_like(true.values), true.domain, true.channels, true.times)
    expected = math.sqrt(float((filled - flat).values.square().mean(-1)[0, 0, 0]) / 1e-7)
    assert float(named("vrmse@well").per_case(filled, flat)[0, 0, 0]) == pytest.approx(expected, rel=1e-12)


def test_well_eps_acts_and_predicting_the_mean_scores_about_one() -> None:
    _, true = pair(grid_like(1, "periodic"), n=2)
    average = true.values.mean(-1, keepdim=True).expand_as(true.values)
    predicted = Field(average, true.domain, true.channels, true.times)
    value = evaluate(named("vrmse@well"), predicted, true)
    assert value == pytest.approx(math.sqrt(25 / 26), rel=1e-6)
    assert evaluate(Well("vrmse@well", "", well_metrics.vrmse, eps=1e6), predicted, true) < 1e-2 * value


def test_well_windows_are_half_open_and_need_their_frames() -> None:
    pred, true = pair(grid_like(1, "periodic"), n=2, t=30)
    window = named("vrmse[6:12]@well")
    steps = named("vrmse@well").per_case(pred, true)
    assert evaluate(window, pred, true) == pytest.approx(float(steps[:, 6:12].mean()), rel=1e-12)
    short = Field(true.values[:, :11], true.domain, true.channels, true.times[:11])
    assert "needs 12 frames, got 11" in str(window.applies(short))


# ---- other conventions


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_neuralop_losses_agree(ndim: int) -> None:
    losses = pytest.importorskip("neuralop.losses", reason="neuraloperator is not installed")
    pred, true = pair(grid_like(ndim, "periodic"), t=1)
    p, y = pred.values[:, 0], true.values[:, 0]
    l2 = losses.LpLoss(d=ndim, p=2, reduction="mean")(p, y)
    assert evaluate(named("rel_l2@neuralop"), pred, true) == pytest.approx(float(l2), rel=1e-12)
    lengths = list(true.domain.lengths)
    h1 = losses.H1Loss(d=ndim, reduction="mean", measure=lengths)(p, y)
    assert evaluate(named("rel_h1@neuralop"), pred, true) == pytest.approx(float(h1), rel=1e-12)
    flags = dict.fromkeys(("periodic_in_x", "periodic_in_y", "periodic_in_z"), False)
    walls = losses.H1Loss(d=ndim, reduction="mean", **flags)(p, y)
    ours = NeuralopH1(periodic=False, lengths=(1.0,) * ndim)
    assert evaluate(ours, pred, true) == pytest.approx(float(walls), rel=1e-12)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_other_conventions_equal_plain_loops(ndim: int) -> None:
    pred, true = pair(grid_like(ndim, "cell"))
    delta, y = arrays(pred, true)
    p = pred.values.numpy()
    n, t, c = delta.shape[:3]
    per_row = [math.sqrt((delta[b] ** 2).sum() / (y[b] ** 2).sum()) for b in range(n)]
    correlations = [[np.corrcoef(p[b, i].ravel(), y[b, i].ravel())[0, 1] for i in range(t)] for b in range(n)]
    ape = [
        np.mean(
            [sum(math.sqrt((delta[b, i, j] ** 2).sum() / (y[b, i, j] ** 2).sum()) for j in range(c)) for b in range(n)]
        )
        for i in range(t)
    ]
    expected = {
        "rel_l2@fno": np.mean(per_row),
        "mean_l2@deepxde": np.mean(per_row),
        "l2@deepxde": math.sqrt((delta**2).sum() / (y**2).sum()),
        "l2re@pinnacle": math.sqrt((delta**2).sum() / (y**2).sum()),
        "crmse@pinnacle": np.mean([abs(delta[b, i, j].mean()) for b in range(n) for i in range(t) for j in range(c)]),
        "mse@pdearena": np.mean(
            [sum((delta[b, i, j] ** 2).mean() for i in range(t) for j in range(c)) for b in range(n)]
        ),
        "pearson@pdearena": np.mean(correlations),
        "nrmse@apebench": np.mean(ape),
    }
    for name, value in expected.items():
        assert evaluate(named(name), pred, true) == pytest.approx(value, rel=1e-12), name
    assert evaluate(ApebenchNRMSE(step=1), pred, true) == pytest.approx(ape[1], rel=1e-12)


def test_pdearena_counts_frames_above_the_threshold_even_after_a_crossing() -> None:
    grid = Grid.box(16, layout="periodic", ndim=1)
    (x,) = grid.mesh()
    wave, other = torch.sin(2 * math.pi * x), torch.cos(2 * math.pi * x)
    p = torch.stack([wave, other, wave, wave])[None, :, None]
    y = wave.expand(1, 4, 1, 16)
    pred, true = (Field(v, grid, ("u",), (0.0, 1.0, 2.0, 3.0)) for v in (p, y))
    assert evaluate(named("corr_steps_0.8@pdearena"), pred, true) == 3
    assert evaluate(named("corr_time_0.8"), pred, true) == pytest.approx(0.2)


def test_every_name_carries_its_convention() -> None:
    for name, metric in CATALOGUE.items():
        assert metric.name == name
        assert len(metric.convention) > 10
        assert isinstance(metric.lower_is_better, bool)

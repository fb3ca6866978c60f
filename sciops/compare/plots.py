"""The pictures of a comparison: work–precision curve, error fields, spectra."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciops.compare.results import Results, Row
from sciops.core.dataset import Dataset

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B", "#7F7F7F", "#BCBD22")


def draw(results: Results, test: Dataset, out: Path) -> list[Path]:
    """Write the PNGs into the results folder and return their paths; a picture without data is left out."""
    import matplotlib

    matplotlib.use("Agg")
    written = [_work_precision(results, out), _anytime(results, out), _over_time(results, out)]
    chosen = representatives(results)
    fields = {row: torch.load(out / "fields" / f"{row.key}.pt", weights_only=True) for row in chosen}
    if fields:
        written += [_error_fields(fields, test, out), _spectra(fields, test, out)]
    return [path for path in written if path is not None]


def representatives(results: Results, count: int = 3) -> list["_Key"]:
    """Up to three rows worth a picture: the best learned ones, then the best classical one."""
    good = [row for row in results.rows if row.default and row.status in ("ok", "partial")]
    good = [row for row in good if row.score(results.headline) is not None]
    best: dict[str, Row] = {}
    for row in sorted(good, key=lambda r: (not r.successes, float(r.score(results.headline)))):  # type: ignore[arg-type]
        best.setdefault(row.solver, row)
    learned = [row for row in best.values() if row.kind == "learned"]
    classical = [row for row in best.values() if row.kind != "learned"]
    room = max(count - min(len(classical), 1), 0)
    picked = learned[:room]
    return [_Key(row) for row in picked + classical[: count - len(picked)]]


class _Key:
    """A row as a dictionary key (rows are mutable)."""

    def __init__(self, row: Row) -> None:
        self.row, self.key, self.label = row, row.key, row.label


def _style() -> Any:
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}
    )
    return plt


def _work_precision(results: Results, out: Path) -> Path | None:
    plt = _style()
    rows = [r for r in results.rows if r.latency and r.score(results.headline)]
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(8.4, 5.4), layout="constrained")
    names = list(dict.fromkeys(row.solver for row in rows))
    for i, name in enumerate(names):
        # Along the ladder, not along time: a noisy clock must not fold the curve.
        group = sorted((r for r in rows if r.solver == name), key=lambda r: -float(r.score(results.headline) or 0))
        x = [r.latency["median"] for r in group]  # type: ignore[index]
        y = [r.score(results.headline) for r in group]
        learned = group[0].kind == "learned"
        axes.plot(
            x,
            y,
            linestyle="none" if learned else "-",
            marker="*" if learned else "osD^v<>ph"[i % 9],
            markersize=13 if learned else 5,
            color=COLOURS[i % len(COLOURS)],
            label=name,
        )
        lost = [(r.latency["median"], r.score(results.headline)) for r in group if not r.successes]  # type: ignore[index]
        if lost:
            axes.plot(*zip(*lost, strict=True), linestyle="none", marker="x", markersize=11, color="black")
    if results.floor:
        axes.axhline(results.floor, color="grey", linestyle="--", linewidth=1, label="label error")
    axes.set(xscale="log", yscale="log", xlabel="seconds per solve (one case)", ylabel=results.headline)
    axes.set_title(f"{results.title}: work–precision (lower left is better)", loc="left", fontsize=11)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _save(figure, out / "work_precision.png")


def _anytime(results: Results, out: Path) -> Path | None:
    """Error of the first case against seconds, while solving; solvers without a curve are one point at their end."""
    if not any(row.anytime for row in results.rows):
        return None
    plt = _style()
    figure, axes = plt.subplots(figsize=(8.4, 5.4), layout="constrained")
    names = list(dict.fromkeys(row.solver for row in results.rows if row.latency))
    for row in (r for r in results.rows if r.default and r.latency):
        turn, index = divmod(names.index(row.solver), len(COLOURS))
        colour, line = COLOURS[index], ("-", "--", ":")[turn % 3]
        good = "full" if row.successes else "none"
        curve = [(s, e) for s, e in row.anytime if s > 0 and e > 0]
        if curve:
            axes.plot(*zip(*curve, strict=True), color=colour, linestyle=line, linewidth=1.5, label=row.label)
            axes.plot(*curve[-1], marker="o", color=colour, fillstyle=good)
        elif row.score("rel_l2"):
            axes.plot(
                row.latency["median"],  # type: ignore[index]
                row.score("rel_l2"),
                marker="D",
                linestyle="none",
                color=colour,
                fillstyle=good,
                label=row.label,
            )
    axes.set(xscale="log", yscale="log", xlabel="seconds since the start of the solve", ylabel="rel_l2")
    axes.set_title(f"{results.title}: error on the way", loc="left", fontsize=11)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _save(figure, out / "anytime.png")


def _over_time(results: Results, out: Path) -> Path | None:
    """Relative L² error of every frame; the band holds 10 to 90 % of the cases."""
    rows = [row for row in results.rows if row.default and row.over_time]
    rows = [row for row in rows if row.seed == min(r.seed for r in rows if r.solver == row.solver)]
    if not rows:
        return None
    plt = _style()
    figure, axes = plt.subplots(figsize=(8.4, 5.4), layout="constrained")
    for i, row in enumerate(rows):
        t, mean, low, high = zip(*row.over_time, strict=True)
        colour, line = COLOURS[i % len(COLOURS)], "-" if row.kind == "learned" else "--"
        axes.plot(t, mean, color=colour, linestyle=line, marker=".", label=row.label)
        axes.fill_between(t, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set(yscale="log", xlabel="time", ylabel="relative L² error of the frame")
    axes.set_title(f"{results.title}: error over time", loc="left", fontsize=11)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _save(figure, out / "error_over_time.png")


def draw_suite(found: Sequence[Results], title: str, headline: str, out: Path) -> Path | None:
    """One point per solver and problem: error against seconds per solve."""
    import matplotlib

    matplotlib.use("Agg")
    plt = _style()
    rows = [r for results in found for r in results.rows if r.default and r.latency and r.score(headline)]
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(8.4, 5.4), layout="constrained")
    for i, name in enumerate(dict.fromkeys(row.solver for row in rows)):
        style = {"linestyle": "none", "marker": "osD^v<>ph"[i % 9], "color": COLOURS[i % len(COLOURS)], "markersize": 6}
        for good in (True, False):
            group = [r for r in rows if r.solver == name and (r.status == "ok") == good]
            axes.plot(
                [r.latency["median"] for r in group],  # type: ignore[index]
                [r.score(headline) for r in group],
                fillstyle="full" if good else "none",
                label=name if good else None,
                **style,
            )
    axes.set(xscale="log", yscale="log", xlabel="seconds per solve (one case)", ylabel=headline)
    axes.set_title(f"{title} (lower left is better)", loc="left", fontsize=11)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _save(figure, out / "suite.png")


def _plane(values: np.ndarray) -> np.ndarray:
    """A one- or two-dimensional view: the middle slice of a volume."""
    return values[..., values.shape[-1] // 2] if values.ndim == 3 else values


def _error_fields(fields: dict[_Key, torch.Tensor], test: Dataset, out: Path) -> Path:
    plt = _style()
    times = test.truth(slice(0, 1)).times
    truth = _plane(test.truth(slice(0, 1)).values[0, -1, 0].double().cpu().numpy())
    errors = {key.label: _plane(v[0, -1, 0].double().numpy()) - truth for key, v in fields.items()}
    figure, axes = plt.subplots(1, len(errors) + 1, figsize=(3.5 * (len(errors) + 1), 3.6), layout="constrained")
    grid = test.grid
    if truth.ndim == 1:
        x = grid.axis(0).numpy()
        axes[0].plot(x, truth, color="black")
        for axis, (label, error) in zip(axes[1:], errors.items(), strict=True):
            axis.plot(x, error, color=COLOURS[0])
            axis.set_title(f"error of {label}", fontsize=9)
    else:
        extent = (grid.lower[0], grid.upper[0], grid.lower[1], grid.upper[1])
        shown = axes[0].imshow(truth.T, origin="lower", extent=extent, cmap="viridis")
        figure.colorbar(shown, ax=axes[0], shrink=0.75)
        for axis, (label, error) in zip(axes[1:], errors.items(), strict=True):
            limit = float(np.abs(error).max()) or 1.0
            shown = axis.imshow(error.T, origin="lower", extent=extent, cmap="RdBu_r", vmin=-limit, vmax=limit)
            figure.colorbar(shown, ax=axis, shrink=0.75)
            axis.set_title(f"error of\n{label}\nmax |error| {limit:.2e}", fontsize=9)
        for axis in axes:
            axis.grid(False)
            axis.set_xlabel("x")
        axes[0].set_ylabel("y")
    when = "" if len(times) == 1 else f" at t = {times[-1]:g}"
    axes[0].set_title(f"truth (first test case){when}", fontsize=9)
    return _save(figure, out / "error_fields.png")


def shell_energy(values: np.ndarray) -> np.ndarray:
    """Energy of a field in shells of the isotropic index wavenumber, constant mode dropped; windowed against edges."""
    window = np.ones_like(values)
    for axis, n in enumerate(values.shape):
        shape = [-1 if a == axis else 1 for a in range(values.ndim)]
        window = window * np.hanning(n).reshape(shape)
    power = np.abs(np.fft.fftn(values * window)) ** 2
    index = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in values.shape), indexing="ij")
    shell = np.floor(np.sqrt(sum(i**2 for i in index))).astype(int)
    return np.bincount(shell.ravel(), power.ravel())[1 : min(values.shape) // 2]


def _spectra(fields: dict[_Key, torch.Tensor], test: Dataset, out: Path) -> Path:
    plt = _style()
    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    count = min(len(v) for v in fields.values())
    truths = test.truth(slice(0, count)).values[:, -1, 0].double().cpu().numpy()
    energy = np.mean([shell_energy(t) for t in truths], axis=0)
    k = np.arange(1, len(energy) + 1)
    axes.plot(k, energy, color="black", linewidth=2, label="truth")
    for i, (key, values) in enumerate(fields.items()):
        predicted = values[:count, -1, 0].double().numpy()
        error = np.mean([shell_energy(p - t) for p, t in zip(predicted, truths, strict=True)], axis=0)
        axes.plot(k, error, color=COLOURS[i], label=f"error of {key.label}")
    axes.set(xscale="log", yscale="log", xlabel="wavenumber (index)", ylabel="shell energy")
    axes.set_title("Spectra of truth and of errors (Hann window)", loc="left", fontsize=11)
    axes.legend(fontsize=8, frameon=False)
    return _save(figure, out / "spectra.png")


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def pictures(paths: Sequence[Path]) -> dict[str, Path]:
    """Caption → file."""
    captions = {
        "work_precision": "Work–precision: error against seconds per solve for every setting. "
        "Lines are ladders of settings, stars are learned solvers, crosses mark answers without a single success.",
        "anytime": "Error of the first test case while solving. Diamonds are solvers that only have an end; hollow "
        "ends are no success by the solver's own status.",
        "error_over_time": "Rollouts: relative L² error of every frame, mean over cases and the range of 80 % of them. "
        "Dashed lines are classical.",
        "suite": "Error against seconds per solve, one point per problem; hollow where the solver itself does not call "
        "it a success.",
        "error_fields": "The first test case and the error fields of the chosen solvers, at the last time.",
        "spectra": "Where the error lives: shell energy of the truth and of each error at the last time, mean over the "
        "kept cases.",
    }
    return {captions[path.stem]: path for path in paths}

"""Pictures of a training on points: where the points are while the residual falls, and what its tangent kernel does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.solvers.pinn_training import Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DECADES = 8
"""Orders of magnitude of |r| that the colours cover, from the largest down."""


@dataclass(frozen=True)
class Shot:
    """One moment: points (N, k) and |r| on a grid of the same k = 1 or 2 axes, whose ends are `lower` and `upper`."""

    title: str
    x: Float[Tensor, "N k"]
    residual: Tensor
    lower: tuple[float, ...]
    upper: tuple[float, ...]


def shot(
    title: str,
    x: Float[Tensor, "N d"],
    residual: Callable[[Tensor], Tensor],
    lower: Sequence[float] | Tensor,
    upper: Sequence[float] | Tensor,
    axes: Sequence[int] = (0, 1),
    resolution: int = 120,
) -> Shot:
    """A moment of a training in the box [lower, upper]: its points, and |r| on a grid of `resolution` nodes an axis.

    title     of its panel: a step, a time, an error
    x         the points
    residual  (M, d) ↦ |r| (M,)
    axes      the two that are drawn; points are projected on them, |r| is that of the plane through the box's centre

    Cost: resolution² residuals, evaluated 4096 at a time.
    """
    low, high = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (lower, upper))
    d = len(low)
    chosen = tuple(axes) if d > 1 else (0,)
    if len(chosen) > 2 or len(set(chosen)) < len(chosen) or not all(0 <= j < d for j in chosen):
        raise UsageError(f"axes must be one or two different ones of 0 to {d - 1}; got {list(axes)}.")
    if resolution < 2 or x.shape[1:] != (d,):
        raise UsageError(
            f"A shot needs points (N, {d}) and a resolution of 2 or more; got {tuple(x.shape)} and {resolution}."
        )
    lines = [torch.linspace(float(low[j]), float(high[j]), resolution, dtype=x.dtype, device=x.device) for j in chosen]
    mesh = torch.meshgrid(*lines, indexing="ij")
    grid = ((low + high) / 2).repeat(mesh[0].numel(), 1)
    for j, line in zip(chosen, mesh, strict=True):
        grid[:, j] = line.reshape(-1)
    r = torch.cat([residual(part).detach().abs() for part in grid.split(4096)])
    ends = [tuple(float(v[j]) for j in chosen) for v in (low, high)]
    return Shot(title, x.detach()[:, list(chosen)].cpu(), r.reshape(mesh[0].shape).cpu(), ends[0], ends[1])


def film(training: Training, steps: int, every: int, axes: Sequence[int] = (0, 1), resolution: int = 120) -> list[Shot]:
    """Make `steps` steps of a training and take a shot before the first and after every `every` of them.

    `draw_points(film(PINN().training(Equation(case)), 100, 20), "points.png")` is the whole of it.
    """
    shots, box = [], (training.equation.lower, training.equation.upper)
    for taken in range(steps + 1):
        if taken % every == 0:
            title = f"step {training.steps}"
            shots.append(shot(title, training.points.x, training.magnitude, *box, axes, resolution))
        if taken < steps and not training.done:
            training.step()
    return shots


def draw_points(shots: Sequence[Shot], path: Path | str | None = None, columns: int = 5) -> "Figure":
    """Small multiples of the moments, points over log₁₀|r| in one scale of colours; saved where a path is given.

    More than `columns` × 2 moments are thinned out evenly, the first and the last stay. In one dimension |r| is a
    curve and the points are ticks under it.
    """
    if not shots:
        raise UsageError("draw_points needs one shot or more; make them with shot(title, points, residual, …).")
    shots = thinned(shots, 2 * columns)
    plt = _pyplot()
    wide = min(columns, len(shots))
    tall = -(-len(shots) // wide)
    figure, table = plt.subplots(
        tall, wide, figsize=(2.6 * wide + 0.8, 2.5 * tall), layout="constrained", squeeze=False
    )
    panels = table.ravel()
    for panel in panels[len(shots) :]:
        panel.set_visible(False)
    largest = max([float(s.residual[s.residual.isfinite()].max()) for s in shots if s.residual.isfinite().any()] or [1])
    top = max(largest, 1e-290)
    bottom = top * 10.0**-DECADES
    shown = None
    for panel, s in zip(panels, shots, strict=False):
        panel.set_title(s.title, fontsize=9)
        r = s.residual.clamp(bottom, top)
        if s.residual.ndim == 1:
            panel.semilogy(torch.linspace(s.lower[0], s.upper[0], len(r)), r, color=COLOUR)
            panel.plot(s.x[:, 0], torch.full((len(s.x),), bottom), "|", color="black", markersize=6, clip_on=False)
            panel.set(ylim=(bottom, 2 * top), xlabel="x", ylabel="|r|" if panel is panels[0] else "")
            continue
        extent = (s.lower[0], s.upper[0], s.lower[1], s.upper[1])
        limits = {"vmin": torch.tensor(bottom).log10().item(), "vmax": torch.tensor(top).log10().item()}
        shown = panel.imshow(r.log10().T, origin="lower", extent=extent, cmap="viridis", aspect="auto", **limits)
        panel.plot(*s.x.T, ".", color="white", markersize=1.2, alpha=0.7)
        panel.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
        panel.grid(False)
    if shown is not None:
        figure.colorbar(shown, ax=table, shrink=0.8, label="log₁₀ |r|")
    if path is not None:
        save(figure, path)
    return figure


def thinned(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of them, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def draw_spectra(
    steps: Sequence[int],
    spectra: Sequence[Tensor],
    facts: Mapping[str, Sequence[float]],
    path: Path | str | None = None,
) -> "Figure":
    """What a tangent kernel does in training: its eigenvalues at some of the steps, drift and participation over all.

    steps    optimiser steps at which it was looked at
    spectra  eigenvalues at each, descending
    facts    name → one number per step; "drift" and "participation" are drawn, and every "trace/NAME" as a curve
    """
    if not steps or len(steps) != len(spectra):
        raise UsageError(f"draw_spectra needs one spectrum per step; got {len(steps)} steps, {len(spectra)} spectra.")
    plt = _pyplot()
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.4), layout="constrained")
    colours = plt.get_cmap("viridis")
    chosen = thinned(list(zip(steps, spectra, strict=True)), 6)
    for i, (step, spectrum) in enumerate(chosen):
        k = torch.arange(1, len(spectrum) + 1)
        kept = spectrum > max(float(spectrum[0]), 1e-300) * 1e-24
        shade = colours(0.9 * i / max(len(chosen) - 1, 1))
        axes[0].loglog(k[kept], spectrum[kept], color=shade, label=f"step {step}")
    axes[0].set(title="eigenvalues", xlabel="k", ylabel="λ_k")
    axes[0].legend(fontsize=7, frameon=False)
    axes[1].plot(steps, facts["drift"], ".-", color=COLOUR)
    axes[1].set(title="drift ‖K − K₀‖/‖K₀‖", xlabel="step", ylim=(0, None))
    axes[2].plot(steps, facts["participation"], ".-", color=COLOUR)
    axes[2].set(title="participation (Σλ)²/Σλ²", xlabel="step", ylim=(0, None))
    for name, values in facts.items():
        if name.startswith("trace/"):
            axes[3].plot(steps, values, ".-", label=name.removeprefix("trace/"))
    axes[3].set(title="tr K_jj / N_j", xlabel="step", yscale="log")
    if axes[3].lines:
        axes[3].legend(fontsize=7, frameon=False)
    if path is not None:
        save(figure, path)
    return figure


COLOUR = "#0072B2"


def save(figure: "Figure", path: Path | str) -> None:
    """Write a figure that is not needed any more."""
    import matplotlib.pyplot as plt

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _pyplot() -> Any:
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    return plt

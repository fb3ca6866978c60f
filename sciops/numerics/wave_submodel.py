"""Waves in a part of the domain, driven by what is known on its edge: finite-element submodels."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.wave_leapfrog import WaveSystem, march


def perimeter(shape: Sequence[int]) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Array indices of the edge nodes of an a × b grid, once around from the lower left corner: y = low, x = high,
    y = high, x = low; 2(a − 1) + 2(b − 1) of them."""
    a, b = shape
    up, along = torch.arange(b - 1), torch.arange(a - 1)
    i = torch.cat([along, torch.full((b - 1,), a - 1), a - 1 - along, torch.zeros(b - 1, dtype=torch.long)])
    j = torch.cat([torch.zeros(a - 1, dtype=torch.long), up, torch.full((a - 1,), b - 1), b - 1 - up])
    return i, j


def trace_of(frames: Float[Tensor, "n t a b"]) -> Float[Tensor, "n t p"]:
    """u on the edge, in the order of `perimeter`."""
    i, j = perimeter(frames.shape[-2:])
    return frames[..., i.to(frames.device), j.to(frames.device)]


def submodel(
    system: WaveSystem,
    trace: Float[Tensor, "n t p"],
    times: Sequence[float],
    dt: float,
    force: Callable[[float], Tensor] | None = None,
    start: Float[Tensor, "n a b"] | None = None,
) -> tuple[Float[Tensor, "n t a b"], Float[Tensor, " n"]]:
    """M u″ + C u′ + K u = M f inside a window, u = trace on its edge, at rest before times[0] = 0.

    `system`: the window's own, with all sides dirichlet. Between the times of the trace its values are interpolated by
    cubics through four frames (one-sided at the ends), to O(gap⁴). Driven by the trace of a run on the whole domain at
    every step, the answer inside is that run, to rounding. Returns frames at `times`, edge included, and the defect.
    """
    gaps = torch.tensor(times, dtype=torch.float64).diff()
    if len(times) < 4 or times[0] != 0 or float((gaps - gaps[0]).abs().max()) > 1e-9 * float(gaps[0]):
        raise UsageError("A submodel needs the trace at four or more equally spaced times from t = 0.")
    shape, gap = system.free.shape, float(gaps[0])
    i, j = (index.to(trace.device) for index in perimeter(shape))
    if trace.shape[1:] != (len(times), len(i)):
        raise UsageError(
            f"The trace around {tuple(shape)} nodes has shape (n, {len(times)}, {len(i)}); got {tuple(trace.shape)}."
        )

    def at(t: float) -> Tensor:
        s = t / gap
        base = min(max(int(s) - 1, 0), len(times) - 4)
        weights = []
        for a in range(4):
            w = 1.0
            for b in range(4):
                if b != a:
                    w *= (s - base - b) / (a - b)
            weights.append(w)
        return sum(w * trace[:, base + a] for a, w in enumerate(weights))  # type: ignore[return-value]

    def hold(u: Tensor, t: float) -> None:
        u[:, i, j] = at(t)

    u = torch.zeros(trace.shape[0], *shape, dtype=trace.dtype, device=trace.device) if start is None else start.clone()
    hold(u, 0.0)
    state = torch.stack([u, torch.zeros_like(u), system.restore(u)], 1)
    return march(system, state, times, dt, force, hold=hold)

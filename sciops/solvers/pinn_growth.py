"""Capacity that grows where the residual stays: new local networks at its peaks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.random import case_seed, generator
from sciops.models.hard_boundary import HardBoundary
from sciops.models.sums import Sum
from sciops.models.trial import Trial
from sciops.solvers.pinn_initialisation import SourceDraw
from sciops.solvers.pinn_places import Place, windowed

DRAWS = 1000
"""Points drawn from r² to find its peaks."""
NEAREST, LEFT = 0.2, 0.2
"""Share of the draws that make one place; share outside all of them from which on there is another one."""
REACH = 8.0
"""Window length in standard deviations of those draws."""


@dataclass(frozen=True)
class Growth:
    """When and by how much a network grows.

    rounds    at most so many times; 0: never
    every     steps of a second-order stage between decisions (100 times as many of first order)
    stalled   it grows where the held-out residual fell by less than this factor since the last decision
    width     neurons per hidden layer (two) of each new network
    """

    rounds: int = 0
    every: int = 24
    stalled: float = 2.0
    width: int = 12

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.every < 1 or self.width < 1 or not self.stalled > 1:
            raise UsageError(
                "growth takes rounds ≥ 0, every ≥ 1, width ≥ 1 and stalled > 1; got "
                f"{self.rounds}, {self.every}, {self.width} and {self.stalled}."
            )


def residual_peaks(residual: Any, lower: Tensor, upper: Tensor, random: torch.Generator, most: int = 3) -> list[Place]:
    """Places around the largest residuals of points drawn from r², each with the draws that are nearest to it.

    Windows are wide, `REACH` standard deviations of those draws: the error that makes a peak of the residual reaches
    further than the peak. At most `most`, as long as `LEFT` of the draws lie in none.
    """
    draw = SourceDraw(residual, lower, upper, DRAWS, random)
    places: list[Place] = []
    if not draw.found:
        return places
    x, r = draw.x, residual(draw.x)
    while len(places) < most and len(x) > LEFT * len(draw.x):
        peak = x[r.argmax()]
        near = x[((x - peak) / (upper - lower)).norm(dim=1).argsort()[: round(NEAREST * len(draw.x))]]
        lengths = (REACH * near.std(0)).clamp(min=1e-6)
        places.append(Place(tuple(near.mean(0).tolist()), tuple(lengths.tolist())))
        outside = (((x - near.mean(0)) / lengths).abs() > 1).any(1)
        x, r = x[outside], r[outside]
    return places


def sum_of(trial: Trial) -> Sum:
    """The sum of networks inside a trial function, to which new ones can be added."""
    inner = trial.net if isinstance(trial, HardBoundary) else trial
    if not isinstance(inner, Sum):
        raise UsageError(f"Growth needs a sum of networks (sciops.models.sums.Sum); got {type(inner).__name__}.")
    return inner


def grow(trial: Trial, places: Sequence[Place], width: int, activation: Any, seed: int) -> Float[Tensor, " p"]:
    """Appends one windowed network per place, in place, and returns the new parameters.

    Their last layers are zero, so that u does not change until the next step.
    """
    whole = sum_of(trial)
    random = generator(case_seed(seed, len(whole.nets), "pinn growth"))
    like = next(whole.parameters())
    new: list[Tensor] = []
    for place in places:
        net = windowed(place, whole.ndim, whole.channels, width, activation, seed + 1 + len(whole.nets), random)
        net = net.to(device=like.device, dtype=like.dtype)
        whole.grow(net)
        new += [p.detach().flatten() for p in net.parameters()]
    return torch.cat(new) if new else like.new_zeros(0)

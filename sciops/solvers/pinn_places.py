"""Places where the source of an equation lives, and networks made for them."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.models.local import Windowed
from sciops.models.mlp import MLP
from sciops.models.sums import Sum
from sciops.models.trial import Trial
from sciops.solvers.pinn_initialisation import SourceDraw, spread_hyperplanes

DRAWS = 1000
"""Points of the draw that are clustered."""
LINK = 1.5
"""Points closer than this, in units of 1/wavenumber, belong together."""
SHARE = 0.02
"""Smallest share of the draw that makes a place."""
MOST = 16
"""Most places; a source at more of them counts as spread out."""
COMPACT = 0.15
"""Largest window length, as a share of the box, of a place."""
WINDOW = 4.0
"""Window length in standard deviations of the place's draws: u is wider than its source, and has tails."""
BUDGET = 1800
"""Parameters of all local networks together; widths shrink where there are many places."""


@dataclass(frozen=True)
class Place:
    """A compact feature of the source: where it is and how long its window is along each axis."""

    centre: tuple[float, ...]
    lengths: tuple[float, ...]


def find_places(draw: SourceDraw) -> list[Place]:
    """Compact clusters of points drawn from f²: connected components at a distance of `LINK`/wavenumber.

    Empty where the source is smooth, spread out, or sits at more than `MOST` places: then one network of the whole box
    has to do. Nothing but the equation is read.
    """
    if not draw.found or draw.wavenumber <= 0:
        return []
    x = draw.x[:DRAWS]
    label = _components(x, LINK / draw.wavenumber)
    places = []
    box = draw.upper - draw.lower
    for value in label.unique():
        members = x[label == value]
        if len(members) < SHARE * len(x):
            continue
        lengths = WINDOW * members.std(0)
        if bool((lengths > COMPACT * box).any()):
            return []
        places.append(Place(tuple(members.mean(0).tolist()), tuple(lengths.clamp(min=1e-6).tolist())))
    return places if len(places) <= MOST else []


def _components(x: Float[Tensor, "n d"], distance: float) -> Float[Tensor, " n"]:
    """Labels of the connected components of the graph that joins points closer than `distance`."""
    near = (torch.cdist(x, x) < distance).to(x.dtype)
    label = torch.arange(len(x), dtype=x.dtype, device=x.device)
    while True:
        lowest = torch.where(near > 0, label[None, :], math.inf).amin(1)
        if torch.equal(lowest, label):
            return label
        label = lowest


def composed(places: list[Place], base: MLP, width: int, activation: str, seed: int) -> Sum:
    """A network of the whole box plus one windowed network for every place.

    The local ones have two hidden layers of `width` neurons, fewer where many places share `BUDGET` parameters; their
    coordinates are scaled to twice the window. All last layers are zero: the first Gauss–Newton step fits them.
    """
    d, channels = base.ndim, base.channels
    fitting = math.floor((math.sqrt((d + 3) ** 2 + 4 * BUDGET / len(places)) - (d + 3)) / 2)
    width = max(6, min(width, fitting))
    nets: list[Trial] = [base]
    random = torch.Generator().manual_seed(seed)
    for number, place in enumerate(places):
        nets.append(windowed(place, d, channels, width, activation, seed + 1 + number, random))
    spread_hyperplanes(base, random, 1.5)
    return Sum(nets)


def windowed(
    place: Place, ndim: int, channels: int, width: int, activation: Any, seed: int, random: torch.Generator
) -> Windowed:
    """A network of two hidden layers that lives at a place, zero until it is trained."""
    low = [c - 2 * length for c, length in zip(place.centre, place.lengths, strict=True)]
    high = [c + 2 * length for c, length in zip(place.centre, place.lengths, strict=True)]
    net = MLP(ndim, channels, width, 2, activation, low, high, seed=seed)
    spread_hyperplanes(net, random, 1.5)
    return Windowed(net, place.centre, place.lengths)

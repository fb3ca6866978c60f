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
"""Largest window length, as a share of the box, of a place; in many dimensions the one of the same share of volume."""
WINDOW, NARROW = 4.0, 2.5
"""Window length in standard deviations of the place's draws: u is wider than its source, and has tails. The second
number is for more than three dimensions, where nearly all of the volume of a window lies outside of the feature."""
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
        lengths = (WINDOW if len(box) <= 3 else NARROW) * members.std(0)
        if bool((lengths > compact_share(len(box)) * box).any()):
            return []
        places.append(Place(tuple(members.mean(0).tolist()), tuple(lengths.clamp(min=1e-6).tolist())))
    return places if len(places) <= MOST else []


def compact_share(d: int) -> float:
    """The window length, as a share of the box, up to which a feature is compact.

    Windows of `COMPACT` cover (√(2π) COMPACT)² = 14 % of a square; beyond three dimensions that share of the volume
    counts, 0.33 per axis in ten: each axis of a small feature is long there.
    """
    around = math.sqrt(2 * math.pi)
    return COMPACT if d <= 3 else (around * COMPACT) ** (2 / d) / around


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

    The local ones have two hidden layers of `width` neurons (2 d + 8 beyond three dimensions, if that is more), fewer
    where many places share `BUDGET` parameters; their coordinates are scaled to twice the window. All last layers are
    zero: the first Gauss–Newton step fits them.
    Beyond three dimensions `base` is left out: what a compact source makes decays like |x|^(2−d), and a network that is
    free in all of such a box makes bumps between the points, which no number of points forbids. Where the source has
    a weak and wide part too, the residual there stays, and the answer is no success.
    """
    d, channels = base.ndim, base.channels
    width = max(width, 2 * d + 8) if d > 3 else width
    fitting = math.floor((math.sqrt((d + 3) ** 2 + 4 * BUDGET / len(places)) - (d + 3)) / 2)
    width = max(6, min(width, fitting))
    nets: list[Trial] = [base] if d <= 3 else []
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
    if ndim <= 3:
        spread_hyperplanes(net, random, 1.5)
    else:
        _gather_hyperplanes(net, random)
    return Windowed(net, place.centre, place.lengths)


def _gather_hyperplanes(mlp: MLP, random: torch.Generator, size: float = 2.0, share: float = 0.6) -> None:
    """First-layer hyperplanes for a feature in many dimensions: |w| about `size`, `share` of them through the feature.

    Coordinates are those of the network, twice the window: the feature has the standard deviation 1/(2 NARROW). A
    point drawn uniformly is far from it, the hyperplane through such a point often is too.
    """
    W, b = mlp.weights[0], mlp.biases[0]
    with torch.no_grad():
        n, d = W.shape
        W.copy_(size / math.sqrt(d) * torch.randn(W.shape, generator=random, dtype=torch.float64))
        through = torch.randn(W.shape, generator=random, dtype=torch.float64) / (2 * NARROW)
        far = 2 * torch.rand(W.shape, generator=random, dtype=torch.float64) - 1
        near = torch.arange(n)[:, None] < round(share * n)
        b.copy_(-(W * torch.where(near, through, far).to(W)).sum(1))
        mlp.weights[-1].zero_()
        mlp.biases[-1].zero_()

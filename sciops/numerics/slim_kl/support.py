"""Which weights are lines: one between two grid points leaks into its neighbours, so raw weights are not the answer."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def support(
    theta: Float[Tensor, " A"],
    frequencies: Float[Tensor, "A P"],
    *,
    threshold: float = 1e-3,
    floor: float = 0.0,
    radius: float | None = None,
) -> Int64[Tensor, " K"]:
    """Indices of local maxima of θ above `threshold` times the largest weight and above `floor`, in order of index.

    A weight is a local maximum where none within `radius` (largest difference over the axes) is larger, and of equal
    ones the first. radius: 1.5 times the spacing of the frequencies if not given, so that on a grid the neighbours
    are those that touch, corners included. floor: weights that rounding or noise alone may leave, such as a fixed Δ.
    Cost O(K A), K the number of weights above the threshold.
    """
    largest = float(theta.max()) if len(theta) else 0.0
    if largest <= 0.0:
        return torch.zeros(0, dtype=torch.int64, device=theta.device)
    radius = 1.5 * spacing(frequencies) if radius is None else radius
    candidates = (theta > max(threshold * largest, floor)).nonzero()[:, 0]
    near = (frequencies[candidates, None] - frequencies[None]).abs().amax(-1) <= radius
    index = torch.arange(len(theta), device=theta.device)
    own = theta[candidates, None]
    beaten = (theta[None] > own) | ((theta[None] == own) & (index[None] < candidates[:, None]))
    return candidates[~(near & beaten).any(1)]


def spacing(frequencies: Float[Tensor, "A P"]) -> float:
    """Distance of neighbours: of the axis if the frequencies are a product grid, else of A points filling the box."""
    axes = [torch.unique(axis) for axis in frequencies.T]
    if torch.tensor([len(axis) for axis in axes]).prod() == len(frequencies):
        return max((float(axis.diff().min()) for axis in axes if len(axis) > 1), default=0.0)
    extent = frequencies.amax(0) - frequencies.amin(0)
    return float(extent.prod() / len(frequencies)) ** (1 / frequencies.shape[1])


def same_support(
    a: Int64[Tensor, " K"], b: Int64[Tensor, " M"], frequencies: Float[Tensor, "A P"], cells: float = 0.0
) -> bool:
    """Whether every line of one has a line of the other within `cells` spacings, both ways. 0: the same indices.

    One cell is the right measure for lines between grid points: either neighbour represents them.
    """
    if len(a) != len(b):
        return False
    if not len(a):
        return True
    gap = (frequencies[a, None] - frequencies[None, b]).abs().amax(-1)
    reach = (cells + 1e-9) * spacing(frequencies)
    return bool((gap.amin(0) <= reach).all() and (gap.amin(1) <= reach).all())

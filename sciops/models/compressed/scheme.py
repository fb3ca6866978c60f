"""What a scheme of factors has to say: its ranks, its steps, and how a dense kernel is truncated to it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.compressed.chain import Chain, Step
from sciops.models.compressed.shape import ConvShape


class RankTooSmall(UsageError):
    """Even rank 1 has more weights than the asked fraction."""


class Scheme(ABC):
    """A way to write a kernel W (groups, out, in, *taps) as a product of small factors, one for each group.

    A scheme has one rank or several; a single number stands for all of them, each limited to its full value.
    """

    name: str

    @abstractmethod
    def full(self, shape: ConvShape) -> tuple[int, ...]:
        """Ranks from which on every kernel of this shape is represented exactly."""

    @abstractmethod
    def weights(self, shape: ConvShape, ranks: Sequence[int]) -> int:
        """Number of weights of all factors, without the bias."""

    @abstractmethod
    def body(
        self,
        shape: ConvShape,
        ranks: Sequence[int],
        bias: bool,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> nn.Module:
        """The layer with its factors, not yet set."""

    @abstractmethod
    def factor(self, kernel: Tensor, ranks: Sequence[int]) -> list[Tensor]:
        """Truncated factors of a dense kernel, as `body(…).load` takes them."""

    @abstractmethod
    def spectra(self, kernel: Tensor) -> list[Tensor]:
        """Falling values (n, full rank) for each rank: the squares of those beyond the rank add up to the squared
        error, or bound it (several ranks: their sum does)."""

    def unit(self, shape: ConvShape) -> int:
        """The rank that goes with the width of a layer: layers of one network get ranks in proportion to it."""
        return max(shape.inner, shape.outer)

    def uniform(self, shape: ConvShape, rank: int) -> tuple[int, ...]:
        """One number for all ranks, each limited to its full value."""
        return tuple(min(rank, most) for most in self.full(shape))


class ChainScheme(Scheme):
    """A scheme whose factors are convolutions, applied one after the other."""

    @abstractmethod
    def steps(self, shape: ConvShape, ranks: Sequence[int]) -> list[Step]:
        """The factors in order of application."""

    def weights(self, shape: ConvShape, ranks: Sequence[int]) -> int:
        return sum(step.weights(shape) for step in self.steps(shape, ranks))

    def body(
        self,
        shape: ConvShape,
        ranks: Sequence[int],
        bias: bool,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Chain:
        return Chain(shape, self.steps(shape, ranks), bias, dtype, device)


Rank = int | float | str | Sequence[int]


def resolve(
    scheme: Scheme, shape: ConvShape, rank: Rank, kernel: Tensor | None = None, tolerance: float = 0.01
) -> tuple[int, ...]:
    """The ranks that an asked rank means.

    int        all ranks, each limited to its full value; UsageError where it is larger than every full one
    several    one number for each rank
    fraction   0 < f ≤ 1: the largest uniform rank whose weights are at most f of the dense ones
    "auto"     the smallest ranks that leave out at most the share `tolerance` of the kernel's energy ‖W‖² (bound)
    "full"     exact
    """
    full = scheme.full(shape)
    where = f"{scheme.name} form of {describe(shape)}"
    if isinstance(rank, str):
        if rank == "full":
            return full
        if rank != "auto":
            raise UsageError(f"rank takes a number, a fraction of the weights, 'auto' or 'full'; got '{rank}'.")
        if kernel is None:
            raise UsageError(
                "rank='auto' reads the ranks off a trained kernel, and a fresh layer has none; give a number or a "
                "fraction, or make the layer by from_dense."
            )
        if not 0 < tolerance < 1:
            raise UsageError(f"tolerance is a share of the energy between 0 and 1; got {tolerance:g}.")
        return _automatic(scheme, kernel, tolerance)
    if isinstance(rank, float):
        return _fraction(scheme, shape, rank, where)
    if isinstance(rank, int):
        if rank > max(full):
            raise UsageError(f"Rank {rank} is larger than the full rank {max(full)} of the {where}; use at most that.")
        ranks = scheme.uniform(shape, rank)
    else:
        ranks = tuple(rank)
        if len(ranks) != len(full):
            raise UsageError(f"The {where} has {len(full)} rank(s); got {ranks}.")
        if any(r > most for r, most in zip(ranks, full, strict=True)):
            raise UsageError(f"Rank {ranks} is larger than the full rank {full} of the {where}; use at most that.")
    if min(ranks) < 1:
        raise UsageError(f"A rank is a positive number; got {rank!r}.")
    return ranks


def shared_budget(scheme: Scheme, shapes: Sequence[ConvShape], share: float) -> list[tuple[int, ...]]:
    """Ranks of several layers whose weights together are at most a share of the dense ones: the largest common multiple
    of each layer's width, limited to its full rank. Narrow layers, at the ends of a network, so keep full rank, where
    it costs little; a share of each layer would choke them."""
    if not 0 < share <= 1:
        raise UsageError(f"A fractional rank is a share of the dense weights, above 0 and at most 1; got {share:g}.")
    dense = sum(shape.weights for shape in shapes)

    def ranks(multiple: float) -> list[tuple[int, ...]]:
        return [scheme.uniform(shape, max(1, int(multiple * scheme.unit(shape)))) for shape in shapes]

    def total(multiple: float) -> int:
        return sum(scheme.weights(shape, rank) for shape, rank in zip(shapes, ranks(multiple), strict=True))

    if total(0) > share * dense:
        raise RankTooSmall(
            f"The {scheme.name} form has at least {total(0) / dense:.3g} of the dense weights (rank 1); got "
            f"rank={share:g}; ask for more, or choose another scheme."
        )
    low, high = 0.0, float(max(max(scheme.full(shape)) for shape in shapes))
    for _ in range(50):  # the number of weights does not fall as the multiple grows
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) <= share * dense else (low, middle)
    return ranks(high if total(high) <= share * dense else low)


def describe(shape: ConvShape) -> str:
    """Short name of a convolution for messages: `Conv2d 24→24 k=7×7`."""
    kind = f"Conv{'Transpose' if shape.transposed else ''}{shape.ndim}d"
    groups = f" groups={shape.groups}" if shape.groups > 1 else ""
    return f"{kind} {shape.in_channels}→{shape.out_channels} k={'×'.join(map(str, shape.kernel))}{groups}"


def _fraction(scheme: Scheme, shape: ConvShape, share: float, where: str) -> tuple[int, ...]:
    if not 0 < share <= 1:
        raise UsageError(f"A fractional rank is a share of the dense weights, above 0 and at most 1; got {share:g}.")
    allowed = share * shape.weights

    def fits(rank: int) -> bool:
        return scheme.weights(shape, scheme.uniform(shape, rank)) <= allowed

    if not fits(1):
        least = scheme.weights(shape, scheme.uniform(shape, 1)) / shape.weights
        raise RankTooSmall(
            f"The {where} has at least {least:.3g} of the dense weights (rank 1); got rank={share:g}; ask for more, or "
            "choose another scheme."
        )
    low, high = 1, max(scheme.full(shape))
    while low < high:  # the number of weights does not fall as the rank grows
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return scheme.uniform(shape, low)


def _automatic(scheme: Scheme, kernel: Tensor, tolerance: float) -> tuple[int, ...]:
    spectra = scheme.spectra(kernel.detach().double())
    ranks = []
    for spectrum in spectra:
        energy = spectrum.square().sum(dim=0)
        left_out = energy.flip(0).cumsum(0).flip(0)  # entry r: what rank r leaves out
        kept = int((left_out > tolerance / len(spectra) * energy.sum()).sum())
        ranks.append(max(1, kept))
    return tuple(ranks)

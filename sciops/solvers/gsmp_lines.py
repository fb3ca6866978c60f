"""Finding the lines of a spectrum from scattered values, without being told how high to look."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.numerics.modulated_features import modulated
from sciops.numerics.sparse_spectrum import majorise, support
from sciops.numerics.weight_space import least_squares

SPACING = 1 / 1.37  # cycles per length between grid frequencies: incommensurate with the domain on purpose
FIRST, LAST = 32, 4096  # cycles per length: the first and the last ceiling
SLOW = 4  # polynomials that are taken out of the data before the search, and envelopes in the polish
EXPLAINED = 1e-4  # relative remainder at which a set of lines is taken as complete


@dataclass(frozen=True)
class Signal:
    """Rows Σ_k terms[k](x_i) ∂^k φ(x_i) = targets[i] on an interval: data in which lines are sought.

    Values of a function have the one term {0: 1}; rows of an equation and of its boundary data have several.
    Several columns of targets share their frequencies, not their amplitudes.
    """

    lower: float
    upper: float
    x: Float[Tensor, " N"]
    targets: Float[Tensor, "N r"]
    terms: dict[int, Float[Tensor, " N"]]

    def columns(self, cycles: float, count: int) -> Float[Tensor, "N c"]:
        """The rows applied to T_j cos 2πνs, T_j sin 2πνs, j < count."""
        parts = [
            c[:, None] * modulated(self.x, self.lower, self.upper, cycles, count, k).flatten(1)
            for k, c in self.terms.items()
        ]
        return torch.stack(parts).sum(0)

    def pairs(self, cycles: Float[Tensor, " A"]) -> Float[Tensor, "N A 2"]:
        """The rows applied to cos 2πνs and sin 2πνs, for many ν."""
        length = self.upper - self.lower
        s = (self.x - 0.5 * (self.lower + self.upper)) / length
        phase = 2 * math.pi * s[:, None] * cycles
        wave = torch.stack([torch.cos(phase), torch.sin(phase)], dim=-1)
        turned = torch.stack([-wave[..., 1], wave[..., 0]], dim=-1)
        omega = 2 * math.pi * cycles / length
        total = torch.zeros_like(wave)
        for k, c in self.terms.items():
            total += (c[:, None] * omega**k * (-1.0) ** (k // 2))[..., None] * (wave, turned)[k % 2]
        return total


@dataclass
class Lines:
    """Frequencies in cycles per length, what they leave unexplained, the ceiling that was enough, steps taken."""

    cycles: list[float] = field(default_factory=list)
    remainder: float = 1.0
    ceiling: float = 0.0
    steps: int = 0


def find_lines(
    signal: Signal, known: Sequence[float] = (), most: int = 6, steps: int = 40, last: float = LAST
) -> Lines:
    """Lines of the signal beyond the `known` ones: majorisation on a grid whose ceiling doubles until they explain it.

    Slow parts (polynomials) and the envelopes of known lines are projected out of rows and columns first. At each
    ceiling the weights of all grid frequencies are fitted (`majorise`), their peaks (`support`) polished, and the share
    of the signal measured that they leave, per degree of freedom. The first ceiling that leaves less than `EXPLAINED`
    is taken, else the one that leaves least. The points are random, so no frequency is the alias of another and
    Nyquist's bound does not hold; how many lines can be told apart is bounded by the number of rows instead.
    """
    rows = len(signal.x)
    most = min(most, max((rows // 2 - SLOW * (1 + 2 * len(known))) // (2 * SLOW), 1))
    slow = [0.0, *known]
    fixed = torch.cat([signal.columns(nu, SLOW) for nu in slow], dim=1)
    keep = _complement(fixed)
    Y = keep.T @ signal.targets
    best = Lines(ceiling=FIRST)
    if not bool(Y.norm() > 1e-13 * signal.targets.norm()):
        return Lines(remainder=0.0, ceiling=0.0)
    spent, ceiling = 0, float(FIRST)
    while ceiling <= last:
        grid = SPACING * torch.arange(1, int(ceiling / SPACING) + 1, dtype=Y.dtype, device=Y.device)
        G = torch.einsum("nm,nak->mak", keep, signal.pairs(grid))
        G = G / G.square().mean(0, keepdim=True).sqrt().clamp(min=1e-300)
        spectrum = majorise(G, Y, steps)
        spent += len(spectrum.objective) - 1
        # `support` keeps index 0 for the constant, which has been projected out here.
        peaks = support(torch.nn.functional.pad(spectrum.weights, (1, 0)), most=most) - 1
        found = polish(signal, [float(grid[i]) for i in peaks], known)
        left = remainder(signal, [*known, *found])
        if left < best.remainder:
            best = Lines(found, left, ceiling)
        if best.remainder < EXPLAINED:
            break
        ceiling *= 2
    best.steps = spent
    return best


def remainder(signal: Signal, cycles: Sequence[float], count: int = SLOW) -> float:
    """Relative rms per degree of freedom of what modulated features at these frequencies leave of the signal."""
    G = torch.cat([signal.columns(nu, count) for nu in (0.0, *cycles)], dim=1)
    left = _complement(G).T @ signal.targets
    freedom = max(left.shape[0], 1)
    return float(left.square().sum().sqrt() / math.sqrt(freedom) / signal.targets.square().mean(0).sum().sqrt())


def polish(signal: Signal, cycles: list[float], known: Sequence[float] = (), rounds: int = 6) -> list[float]:
    """Move each frequency to the mean rotation of its own envelope, as long as that explains more.

    The fitted envelope A(s) of a line is r(s)e^{iδs} for a real amplitude r where the frequency is off by δ, so
    δ = ∫ Im(Ā A′) / ∫ |A|²: a ratio of fitted coefficients, no search. Frequencies that meet are merged.
    """
    if not cycles:
        return cycles
    current, left = cycles, remainder(signal, [*known, *cycles])
    for _ in range(rounds):
        moved = _merged(_rotated(signal, current, known))
        now = remainder(signal, [*known, *moved])
        if not now < 0.9 * left:
            return moved if now < left else current
        current, left = moved, now
    return current


def _rotated(signal: Signal, cycles: list[float], known: Sequence[float]) -> list[float]:
    blocks = [signal.columns(nu, SLOW) for nu in (0.0, *known, *cycles)]
    G = torch.cat(blocks, dim=1)
    # Envelopes on Chebyshev points of (-½, ½), with their derivatives.
    t = torch.cos(math.pi * (torch.arange(16, dtype=G.dtype, device=G.device) + 0.5) / 16)
    T, slope = (modulated(t / 2, -0.5, 0.5, 0.0, SLOW, k)[:, 0] for k in (0, 1))
    start = sum(block.shape[1] for block in blocks[: len(blocks) - len(cycles)])
    turn = torch.zeros(len(cycles), dtype=G.dtype, device=G.device)
    energy = torch.zeros_like(turn)
    for target in signal.targets.T:
        w = least_squares(G, target).mean[start:].reshape(len(cycles), 2, SLOW)
        a, b, da, db = w[:, 0] @ T.T, w[:, 1] @ T.T, w[:, 0] @ slope.T, w[:, 1] @ slope.T
        # u = Re (a − ib) e^{iωs}: Im(Ā A′) = b a′ − a b′.
        turn += (b * da - a * db).sum(1)
        energy += (a**2 + b**2).sum(1)
    shift = (turn / energy.clamp(min=1e-300) / (2 * math.pi)).clamp(-1.0, 1.0)
    return [max(nu + float(d), 0.0) for nu, d in zip(cycles, shift, strict=True)]


def _merged(cycles: list[float], distance: float = 0.25) -> list[float]:
    """Frequencies no closer than `distance`; those that are (nearly) zero are the polynomials' business."""
    kept: list[float] = []
    for nu in cycles:
        if nu > distance and all(abs(nu - other) > distance for other in kept):
            kept.append(nu)
    return kept


def _complement(fixed: Float[Tensor, "N c"]) -> Float[Tensor, "N m"]:
    """Orthonormal basis of what the columns leave: N − rank columns."""
    scaled = fixed / fixed.norm(dim=0).clamp(min=1e-300)
    left, values, _ = torch.linalg.svd(scaled, full_matrices=True)
    rank = int((values > 1e-11 * values[0]).sum()) if len(values) and values[0] > 0 else 0
    return left[:, rank:]

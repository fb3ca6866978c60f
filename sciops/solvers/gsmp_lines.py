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
    _known: dict[tuple[float, int], Tensor] = field(default_factory=dict, compare=False, repr=False)

    def columns(self, cycles: float, count: int) -> Float[Tensor, "N c"]:
        """The rows applied to T_j cos 2πνs, T_j sin 2πνs, j < count; computed once."""
        if (cycles, count) not in self._known:
            parts = [
                c[:, None] * modulated(self.x, self.lower, self.upper, cycles, count, k).flatten(1)
                for k, c in self.terms.items()
            ]
            self._known[cycles, count] = torch.stack(parts).sum(0)
        return self._known[cycles, count]

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


def find_lines(signal: Signal, known: Sequence[float] = (), passes: int = 5, last: float = LAST) -> Lines:
    """Lines of the signal beyond the `known` ones: majorisation, then again on what the lines found so far leave.

    A strong line hides weak ones (f carries u times the square of the frequency): once it is found, its envelope is
    projected out and the rest searched. Ends when the rest is rounding or a pass explains no more of it.
    """
    total = Lines(remainder=remainder(signal, known))
    for _ in range(passes):
        if total.remainder < 1e-12:
            break
        new = one_pass(signal, [*known, *total.cycles], last=min(last, 4 * total.ceiling or last))
        total.steps += new.steps
        # Nearer than a cycle it is the envelope of a known line, which more polynomials hold better.
        fresh = [nu for nu in new.cycles if all(abs(nu - old) > 1.0 for old in [*known, *total.cycles])]
        left = remainder(signal, [*known, *total.cycles, *fresh])
        if not fresh or left > 0.5 * total.remainder:
            break
        total.cycles += fresh
        total.remainder, total.ceiling = left, max(total.ceiling, new.ceiling)
    return total


def one_pass(signal: Signal, known: Sequence[float] = (), most: int = 6, steps: int = 40, last: float = LAST) -> Lines:
    """Majorisation on a grid of frequencies whose ceiling doubles until its peaks explain the signal.

    Slow parts (polynomials) and the envelopes of known lines are projected out of rows and columns first. At each
    ceiling the weights of all grid frequencies are fitted (`majorise`), their peaks (`support`) polished, and the share
    of the signal measured that they leave, per degree of freedom. The first ceiling that leaves a tenth is taken, else
    the one that leaves least; a doubling that adds no component above chance is passed over. The points are random, so
    no frequency is the alias of another and Nyquist's bound does not hold; how many lines can be told apart is bounded
    by the number of rows instead.
    """
    keep = _complement(_fixed(signal, known))
    most = min(most, max((keep.shape[1] - len(signal.x) // 3) // (2 * SLOW), 1))
    Y = keep.T @ signal.targets
    before = remainder(signal, known)
    best = Lines(remainder=before, ceiling=FIRST)
    if keep.shape[1] < 2 * SLOW + 2 or before < 1e-13:
        return best
    ceiling, grid, G = float(FIRST), Y.new_zeros(0), Y.new_zeros(len(Y), 0, 2)
    while ceiling <= last:
        new = SPACING * torch.arange(len(grid) + 1, int(ceiling / SPACING) + 1, dtype=Y.dtype, device=Y.device)
        columns = torch.tensordot(keep.T, signal.pairs(new), dims=1)
        columns = columns / columns.square().mean(0, keepdim=True).sqrt().clamp(min=1e-300)
        grid, G = torch.cat([grid, new]), torch.cat([G, columns], dim=1)
        if ceiling == FIRST or stands_out(columns, Y):
            spectrum = majorise(G, Y, steps)
            best.steps += steps
            # `support` keeps index 0 for the constant, which has been projected out here.
            peaks = support(torch.nn.functional.pad(spectrum.weights, (1, 0)), most=most) - 1
            found = polish(signal, [float(grid[i]) for i in peaks], known)
            left = remainder(signal, known, found)
            if left < best.remainder:
                best = Lines(found, left, ceiling, best.steps)
            if best.remainder < 0.1 * before:
                break
        ceiling *= 2
    return best


def stands_out(columns: Float[Tensor, "m A 2"], Y: Float[Tensor, "m r"], chance: float = 0.3) -> bool:
    """Does any component explain more of any target than the best of as many would of noise, with odds of `chance`?

    Of white noise, a pair of columns explains a share z with P(z > t) = (1 − t)^{(m−2)/2}.
    """
    m, components, _ = columns.shape
    shares = torch.tensordot(columns, Y, dims=([0], [0])).square().sum(1) / m / Y.square().sum(0).clamp(min=1e-300)
    threshold = 1 - (chance / (components * Y.shape[1])) ** (2 / max(m - 2, 1))
    return bool((shares > threshold).any())


def remainder(signal: Signal, known: Sequence[float], cycles: Sequence[float] = ()) -> float:
    """Relative rms per degree of freedom of what modulated features at these frequencies leave of the signal."""
    size = float(signal.targets.square().mean(0).sum().sqrt())
    left = _complement(_all_columns(signal, known, cycles)).T @ signal.targets
    return float(left.square().sum().sqrt()) / math.sqrt(max(left.shape[0], 1)) / size if size > 0 else 0.0


def polish(signal: Signal, cycles: list[float], known: Sequence[float] = (), rounds: int = 6) -> list[float]:
    """Move each frequency to the mean rotation of its own envelope, as long as that explains more.

    The fitted envelope A(s) of a line is r(s)e^{iδs} for a real amplitude r where the frequency is off by δ, so
    δ = ∫ Im(Ā A′) / ∫ |A|²: a ratio of fitted coefficients, no search. Frequencies that meet are merged.
    """
    if not cycles:
        return cycles
    current, left = cycles, remainder(signal, known, cycles)
    for _ in range(rounds):
        moved = _merged(_rotated(signal, current, known))
        now = remainder(signal, known, moved)
        if not now < 0.9 * left:
            return moved if now < left else current
        current, left = moved, now
    return current


def _rotated(signal: Signal, cycles: list[float], known: Sequence[float]) -> list[float]:
    G = _all_columns(signal, known, cycles)
    # Envelopes on Chebyshev points of (-½, ½), with their derivatives.
    t = torch.cos(math.pi * (torch.arange(16, dtype=G.dtype, device=G.device) + 0.5) / 16)
    T, slope = (modulated(t / 2, -0.5, 0.5, 0.0, SLOW, k)[:, 0] for k in (0, 1))
    start = G.shape[1] - 2 * SLOW * len(cycles)
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


def _fixed(signal: Signal, known: Sequence[float]) -> Float[Tensor, "N c"]:
    """Slow parts and known lines with as long envelopes as half of the rows can tell."""
    waves = 1 + 2 * len(known)
    count = next((j for j in (10, 7) if j * waves <= len(signal.x) // 2), SLOW) if known else SLOW
    return torch.cat([signal.columns(nu, count) for nu in (0.0, *known)], dim=1)


def _all_columns(signal: Signal, known: Sequence[float], cycles: Sequence[float]) -> Float[Tensor, "N c"]:
    return torch.cat([_fixed(signal, known), *(signal.columns(nu, SLOW) for nu in cycles)], dim=1)


def _complement(fixed: Float[Tensor, "N c"]) -> Float[Tensor, "N m"]:
    """Orthonormal basis of what the columns leave: N − rank columns."""
    scaled = fixed / fixed.norm(dim=0).clamp(min=1e-300)
    left, values, _ = torch.linalg.svd(scaled, full_matrices=True)
    rank = int((values > 1e-11 * values[0]).sum()) if len(values) and values[0] > 0 else 0
    return left[:, rank:]

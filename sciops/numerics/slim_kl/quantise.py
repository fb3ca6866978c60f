"""Numbers to few bits without bias, and the stream of messages between two who both remember the last one."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sciops.core.errors import DataError, UsageError
from sciops.numerics.slim_kl.packing import pack, unpack


def stochastic_levels(x: Float[Tensor, " A"], step: float, random: torch.Generator) -> Int64[Tensor, " A"]:
    """Integers n with E[n Δ] = x and |n Δ − x| < Δ: ⌊x/Δ⌋, plus 1 with the probability of the remainder."""
    scaled = x / step
    below = scaled.floor()
    draws = torch.rand(x.shape, generator=random, dtype=x.dtype).to(x.device)
    return (below + (draws < scaled - below)).to(torch.int64)


@dataclass(frozen=True)
class Quantiser:
    """How weights become messages.

    step         Δ; 0 sends float64 unrounded
    relative     Δ is a share of the largest entry of what is sent (rounded to a power of two, one byte of header),
                 so that it shrinks as the workers agree; False: Δ in units of the weights, as published
    differences  send the change since the last message, which becomes sparse as the workers agree; False: the values
    limit        bytes that a message may have; Δ is doubled until it fits. The choice looks at the entries, not at the
                 draws, so rounding stays unbiased; only where a draw exceeds the limit all the same (by more than four
                 standard deviations) is it drawn again with 2Δ
    """

    step: float = 0.1
    relative: bool = True
    differences: bool = True
    limit: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step) and self.step >= 0):
            raise UsageError(f"The step of rounding is {self.step}; give a number ≥ 0 (0 sends unrounded numbers).")


class Stream:
    """One direction between two ends: the sender encodes, the receiver decodes, both hold the same `value` after it.

    The random bits are the sender's alone.
    """

    def __init__(self, quantiser: Quantiser, start: Float[Tensor, " A"], seed: int = 0) -> None:
        self.quantiser = quantiser
        self.value = start.clone()
        self.random = torch.Generator().manual_seed(seed)

    def encode(self, x: Float[Tensor, " A"]) -> bytes:
        """A message that makes `value` an unbiased estimate of x."""
        q = self.quantiser
        if q.step == 0.0:
            message = x.to(torch.float64).cpu().contiguous().numpy().tobytes()
            self.decode(message)
            return message
        change = x - self.value if q.differences else x
        exponent = self._exponent(change)
        while True:
            levels = stochastic_levels(change, self._step(exponent), self.random)
            message = exponent.to_bytes(1, "little", signed=True) + pack(levels)
            if q.limit is None or len(message) <= q.limit or exponent == 127:
                break
            exponent += 1
        self._add(levels, exponent)
        return message

    def decode(self, message: bytes) -> Float[Tensor, " A"]:
        """The new `value`."""
        if self.quantiser.step == 0.0:
            if len(message) != 8 * len(self.value):
                raise DataError(f"A message of {len(message)} bytes cannot hold {len(self.value)} numbers of 64 bits.")
            self.value = torch.frombuffer(bytearray(message), dtype=torch.float64).to(self.value)
            return self.value
        exponent = int.from_bytes(message[:1], "little", signed=True)
        self._add(unpack(message[1:], len(self.value)), exponent)
        return self.value

    def _add(self, levels: Int64[Tensor, " A"], exponent: int) -> None:
        change = levels.to(self.value) * self._step(exponent)
        self.value = self.value + change if self.quantiser.differences else change

    def _step(self, exponent: int) -> float:
        return 2.0**exponent if self.quantiser.relative else self.quantiser.step * 2.0**exponent

    def _exponent(self, change: Float[Tensor, " A"]) -> int:
        """Of the step: from the largest entry, then up until the message can be expected to fit."""
        q, largest = self.quantiser, float(change.abs().max())
        if not math.isfinite(largest):
            raise UsageError("The weights to be sent are not finite; a local solution has failed.")
        exponent = 0
        if q.relative:
            exponent = max(math.floor(math.log2(q.step * largest)), -120) if largest > 0 else -120
        while q.limit is not None and exponent < 127 and self._expected_bits(change, exponent) > 8 * (q.limit - 1):
            exponent += 1
        return exponent

    def _expected_bits(self, change: Float[Tensor, " A"], exponent: int) -> float:
        """Of the shorter code, with four standard deviations of the number of non-zeros on top."""
        scaled = (change / self._step(exponent)).abs()
        A, expected = len(change), float(scaled.clamp_max(1.0).sum())
        nonzeros = min(A, expected + 4 * math.sqrt(expected) + 1)
        large = float((2 * (2 * scaled + 2).log2() * scaled.clamp_max(1.0)).sum()) / max(expected, 1e-300)
        sparse = 8 + 2 * math.log2(nonzeros + 2) + nonzeros * (2 * math.log2(A / nonzeros + 1) + 1 + large + 1)
        dense = 40 + A * math.ceil(math.log2(2 * float(scaled.max()) + 3))
        return min(sparse, dense)

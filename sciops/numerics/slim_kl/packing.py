"""Integers as few bits: fixed width where most are non-zero, positions and Elias gamma codes where few are.

A packed message says itself which of the two it is; the shorter one is taken.

    dense    byte 128 + width (0 … 63), 4 bytes smallest value, width bits per entry: ⌈log₂(range + 1)⌉ each
    sparse   byte 0, then a stream of gamma codes: number of non-zeros + 1, and for each its distance from the last one
             and its zigzag code 2|v| − [v < 0]

A gamma code of n ≥ 1 has 2⌊log₂ n⌋ + 1 bits: as many zeros as n has digits after its first, then n.
"""

import torch
from jaxtyping import Int64
from torch import Tensor

from sciops.core.errors import DataError

_DENSE = 128


def pack(levels: Int64[Tensor, " A"]) -> bytes:
    """The shorter of the two codes."""
    dense, sparse = dense_bits(levels), _sparse(levels)
    if sparse is None or 40 + dense < 8 + len(sparse):
        return _dense(levels)
    return b"\0" + _to_bytes(sparse)


def unpack(message: bytes, count: int) -> Int64[Tensor, " A"]:
    """`count` integers. Raises DataError for a message that ends early or holds other than `count` entries."""
    if not message:
        raise DataError("An empty message was received; sender and receiver run different settings.")
    if message[0] & _DENSE:
        return _undense(message, count)
    return _unsparse(message, count)


def dense_bits(levels: Int64[Tensor, " A"]) -> int:
    """Bits of the fixed-width payload, A ⌈log₂(range + 1)⌉."""
    return len(levels) * int(levels.max() - levels.min()).bit_length()


def _dense(levels: Int64[Tensor, " A"]) -> bytes:
    low = int(levels.min())
    width = int(levels.max() - low).bit_length()
    if not -(2**31) <= low < 2**31 or width > 63:
        raise DataError(f"Levels from {low} need more than 32 bits; use a larger step.")
    shifts = torch.arange(width - 1, -1, -1)
    bits = ((levels - low).cpu()[:, None] >> shifts) & 1
    text = "".join(map(str, bits.flatten().tolist()))
    return bytes([_DENSE + width]) + low.to_bytes(4, "little", signed=True) + _to_bytes(text)


def _undense(message: bytes, count: int) -> Int64[Tensor, " A"]:
    width = message[0] - _DENSE
    low = int.from_bytes(message[1:5], "little", signed=True)
    if len(message) != 5 + (count * width + 7) // 8:
        raise DataError(f"A message of {len(message)} bytes cannot hold {count} entries of {width} bits.")
    bits = torch.tensor([int(c) for c in _to_text(message[5:])[: count * width]], dtype=torch.int64)
    weights = 2 ** torch.arange(width - 1, -1, -1)
    return low + (bits.reshape(count, width) * weights).sum(1)


def _sparse(levels: Int64[Tensor, " A"]) -> str | None:
    """The stream, or None where the dense code is shorter in any case."""
    where = levels.nonzero()[:, 0].tolist()
    if 2 * len(where) > dense_bits(levels) + 40:  # two bits are the least that a non-zero costs
        return None
    values = levels.tolist()
    parts, last = [_gamma(len(where) + 1)], -1
    for i in where:
        parts += [_gamma(i - last), _gamma(2 * abs(values[i]) - (values[i] < 0))]
        last = i
    return "".join(parts)


def _unsparse(message: bytes, count: int) -> Int64[Tensor, " A"]:
    text, at = _to_text(message[1:]), 0

    def take() -> int:
        nonlocal at
        first = text.find("1", at)
        end = 2 * first - at + 1
        if first < 0 or end > len(text):
            raise DataError(f"A message of {len(message)} bytes ended in the middle of a number.")
        value, at = int(text[first:end], 2), end
        return value

    levels = torch.zeros(count, dtype=torch.int64)
    position = -1
    for _ in range(take() - 1):
        position += take()
        if position >= count:
            raise DataError(f"A message names entry {position} of {count}; sender and receiver differ in their grid.")
        code = take()
        levels[position] = -(code + 1) // 2 if code % 2 else code // 2
    return levels


def _gamma(n: int) -> str:
    digits = f"{n:b}"
    return "0" * (len(digits) - 1) + digits


def _to_bytes(bits: str) -> bytes:
    size = (len(bits) + 7) // 8
    return int(bits.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")


def _to_text(data: bytes) -> str:
    return f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}" if data else ""

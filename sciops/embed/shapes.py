"""At which grid sizes a network can be compiled: found by trying, from any size to the training size alone."""

from collections.abc import Callable

import torch
from torch import nn
from torch.export import Dim

from sciops.embed.compile import ExportFailed, Program, traced
from sciops.embed.manifest import Manifest

MULTIPLES = (1, 2, 4, 8, 16, 32)
LARGEST = 32
"""Largest grid, in training grids per axis."""


def operator_program(module: nn.Module, manifest: Manifest, dtype: torch.dtype, say: Callable[[str], None]) -> Program:
    """The program `solve` with its free axes; writes `manifest.shape` at the first precision and follows it after."""
    assert manifest.grid is not None
    native, channels = tuple(manifest.grid["shape"]), len(manifest.inputs)
    x = torch.rand((1, channels, *native), dtype=dtype)
    with torch.no_grad():
        found = module(x)  # refuses dtypes in its own words
    if tuple(found.shape) != (1, len(manifest.outputs), *native):
        raise ExportFailed(f"The network answers with shape {tuple(found.shape)} to {tuple(x.shape)}.")

    def program(shape: dict) -> Program:
        free = ({2 + a: _dim(shape, a) for a in range(len(native))} if shape["dynamic"] else {},)
        return Program("solve", module, (x,), free, ["input"], ["output"])

    if manifest.shape:
        return program(manifest.shape)
    reason = ""
    for multiple in (m for m in MULTIPLES if m <= min(native) // 2):
        for smallest in (0.25, 1.0):
            shape = _law(native, multiple, smallest)
            say(f"tracing with {'any size' if multiple == 1 else f'multiples of {multiple}'}")
            try:
                traced(program(shape))
            except ExportFailed as error:
                reason = reason or str(error)
                continue
            manifest.shape = shape
            return program(shape)
    manifest.shape = {"dynamic": False, "multiple": [1] * len(native), "remainder": [0] * len(native),
                      "minimum": list(native), "maximum": list(native)}  # fmt: skip
    manifest.remarks.append(f"Only the training grid {'×'.join(map(str, native))}: its code fixes the size.")
    return program(manifest.shape)


def _law(native: tuple[int, ...], multiple: int, smallest: float) -> dict:
    rest = [n % multiple for n in native]
    low = [max(2, int(n * smallest) // multiple) * multiple + r for n, r in zip(native, rest, strict=True)]
    high = [n // multiple * multiple * LARGEST + r for n, r in zip(native, rest, strict=True)]
    low = [min(at, n) for at, n in zip(low, native, strict=True)]
    return {
        "dynamic": True,
        "multiple": [multiple] * len(native),
        "remainder": rest,
        "minimum": low,
        "maximum": high,
    }


def _dim(shape: dict, axis: int):  # type: ignore[no-untyped-def]  # torch's own types
    multiple, rest = shape["multiple"][axis], shape["remainder"][axis]
    low, high = shape["minimum"][axis] // multiple, shape["maximum"][axis] // multiple
    dim = Dim(f"{'hwd'[axis]}_axis", min=low, max=high)
    free = dim if multiple == 1 else multiple * dim
    return free + rest if rest else free

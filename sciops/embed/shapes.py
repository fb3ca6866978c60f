"""At which grid sizes a network can be compiled: found by trying, from any size to the training size alone."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from sciops.embed.check import TOLERANCE, difference, sizes
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
    for multiple in (m for m in MULTIPLES if m <= min(native) // 2):
        for smallest in (0.25, 1.0):
            manifest.shape = _law(native, multiple, smallest)
            say(f"tracing with {'any size' if multiple == 1 else f'multiples of {multiple}'}")
            made = program(manifest.shape)
            with contextlib.suppress(ExportFailed):
                if _agrees(traced(made), made, manifest):
                    if multiple > 1:
                        manifest.remarks.append(
                            f"Sizes in steps of {multiple} from the training grid: at others the network's code takes "
                            "another branch."
                        )
                    return made
    manifest.shape = one_size(native)
    manifest.remarks.append(f"Only the training grid {'×'.join(map(str, native))}: its code fixes the size.")
    return program(manifest.shape)


def one_size(shape: Sequence[int]) -> dict:
    """The law of an artefact for a single grid."""
    n, size = len(shape), list(shape)
    return {"dynamic": False, "multiple": [1] * n, "remainder": [0] * n, "minimum": size, "maximum": size}


def _agrees(exported: Any, program: Program, manifest: Manifest) -> bool:
    """Whether the traced program is the network at other sizes too: tracing keeps the one side of a branch, such as one
    on a padding that is empty at the training size."""
    graph = exported.module(check_guards=False)
    x = program.arguments[0]
    for shape in sizes(manifest):
        given = torch.rand((*x.shape[:2], *shape), dtype=x.dtype, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                wanted, found = program.module(given), graph(given)
        except Exception:  # the network's own, at a size that it does not take, or torch's, of shapes that do not fit
            return False
        bits = 64 if x.dtype == torch.float64 else 32
        if found.shape != wanted.shape or not difference(found, wanted) <= TOLERANCE[bits]:
            return False
    return True


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

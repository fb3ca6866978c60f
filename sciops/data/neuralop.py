"""Small `.pt` files of the neuraloperator package: a dict with `x` (n, [c,] *s) and `y` (n, [c,] *s) tensors.

Nothing in such a file says which equation or scaling it holds, so only the DATA view exists. The points are i/n
of the unit box: in the distributed Darcy files the 16² picture is every second point of the 32² one. A grid
without its upper end is a `periodic` one here; that is a statement about the points, not about the equation.
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.dataset import MemoryDataset
from sciops.core.errors import DataError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.problem import DataOnly


def open_neuralop(path: str | Path, layout: str = "periodic") -> MemoryDataset:
    """Load x → input channel a (a0, a1, … if several), y → output u. Boolean inputs become 0 and 1 in y's type.

    Only tensors are read (`weights_only`): a file that would execute code is refused.
    """
    path = Path(path)
    table = load_tensors(path)
    for key in ("x", "y"):
        if not isinstance(table.get(key), Tensor):
            raise DataError(
                f"{path} must be a dict with tensors x and y; it has {', '.join(map(str, table)) or 'nothing'}."
            )
    y = table["y"] if table["y"].is_floating_point() else table["y"].float()
    x = table["x"].to(y.dtype)
    if x.dim() < 2 or len(x) != len(y) or x.shape[-1] != y.shape[-1]:
        raise DataError(f"{path}: x {tuple(x.shape)} and y {tuple(y.shape)} do not hold the same cases on one grid.")
    channels = _has_channels(x.shape, y.shape), _has_channels(y.shape, x.shape)
    x, y = (t if has else t[:, None] for t, has in zip((x, y), channels, strict=True))
    if not 3 <= x.dim() == y.dim() <= 5:
        raise DataError(f"{path}: x {tuple(x.shape)} and y {tuple(y.shape)} are not (n, [c,] *s), 1 to 3 dimensions.")
    if x.shape[2:] != y.shape[2:]:
        raise DataError(f"{path}: x lives on {tuple(x.shape[2:])} points but y on {tuple(y.shape[2:])}.")
    for name, tensor in (("x", x), ("y", y)):
        bad = ~torch.isfinite(tensor).flatten(1).all(1)
        if bad.any():
            raise DataError(f"{path}: {name} of case {int(bad.int().argmax())} holds NaN or infinity; remove the case.")
    grid = Grid.box(tuple(x.shape[2:]), layout=layout)
    wall = "periodic" if layout == "periodic" else "dirichlet"
    rule: Literal["nearest", "linear"] = "linear" if table["x"].is_floating_point() else "nearest"
    problem = DataOnly(_names("a", x.shape[1]), _names("u", y.shape[1]), grid.ndim, wall, rule)
    inputs = Field.steady(x, grid, [c.name for c in problem.inputs])
    cases = Cases(problem, grid, inputs, ids=torch.arange(len(x)), provenance="stored")
    return MemoryDataset(cases, Field.steady(y, grid, [c.name for c in problem.outputs]))


def load_tensors(path: Path) -> dict:
    """A dict saved with torch.save, without executing anything from it."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; give an existing file.")
    try:
        table = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged or unsafe files; all mean "cannot read"
        raise DataError(
            f"{path} cannot be read as plain tensors ({str(error).splitlines()[0]}); it is damaged or holds code."
        ) from None
    if not isinstance(table, dict):
        raise DataError(f"{path} must hold a dict with tensors x and y; it holds a {type(table).__name__}.")
    return table


def _has_channels(shape: torch.Size, other: torch.Size) -> bool:
    """Whether axis 1 of a tensor counts channels, judged by the tensor that belongs to it."""
    mine, theirs = shape[1:], other[1:]
    if len(mine) > 1 and mine[0] == 1:
        return True
    return mine != theirs and (len(mine) > len(theirs) or mine[1:] == theirs[1:])


def _names(letter: str, count: int) -> tuple[str, ...]:
    return (letter,) if count == 1 else tuple(f"{letter}{k}" for k in range(count))

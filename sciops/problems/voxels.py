"""Solids from files: occupancy arrays (.npy, .npz) and closed triangle surfaces (.stl) by ray parity."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.interpolate import interpolate


def occupancy_of(file: str, grid: Grid) -> Callable[[Sequence[Tensor]], Tensor]:
    """Level set of the solids in a file, ½ − occupancy, negative inside, at positions in units of the box.

    Arrays (0 … 1 or bool, one per cell of the box, axis order x, y, z) are interpolated linearly between their cell
    centres, so that a grid of the array's shape has exactly its voxels. A surface, in the coordinates of the grid's
    box, is voxelised on the grid's own cells.
    """
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"Scene voxels: there is no file {file}.")
    stamp = path.stat().st_mtime_ns
    if path.suffix.lower() == ".stl":
        if grid.ndim != 3:
            raise UsageError(f"A surface needs a grid of three dimensions; {file} was asked on {grid.describe()}.")
        solid = torch.from_numpy(_voxelised(str(path), stamp, grid)).double()
    else:
        solid = torch.from_numpy(_array(str(path), stamp)).double()
    if solid.dim() != grid.ndim:
        raise UsageError(f"{file} holds an array of {solid.dim()} axes; the grid is {grid.describe()}.")
    cells = Grid.box(tuple(solid.shape), layout="cell")

    def level(axes: Sequence[Tensor]) -> Tensor:
        shape = torch.broadcast_shapes(*(x.shape for x in axes))
        own = [cells.axis(j) for j in range(cells.ndim)]
        if all(
            len(x.reshape(-1)) == len(o) and torch.allclose(x.reshape(-1), o) for x, o in zip(axes, own, strict=True)
        ):
            return 0.5 - solid
        points = torch.stack([x.expand(shape) for x in axes], -1).reshape(1, -1, cells.ndim)
        # Beyond the outermost centres the nearest value holds.
        for j, o in enumerate(own):
            points[..., j].clamp_(float(o[0]), float(o[-1]))
        return (0.5 - interpolate(solid[None, None], cells, points, "linear")).reshape(shape)

    return level


def read_stl(file: str | Path) -> Float[np.ndarray, "t 3 3"]:
    """Corners of the triangles of a binary or ASCII STL file."""
    data = Path(file).read_bytes()
    count = int.from_bytes(data[80:84], "little") if len(data) >= 84 else -1
    if len(data) == 84 + 50 * count:
        facet = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
        triangles = np.frombuffer(data, facet, count, 84)["corners"].astype(np.float64)
    else:
        lines = (line.split() for line in data.decode("ascii", "replace").splitlines())
        try:
            corners = [[float(v) for v in words[1:4]] for words in lines if words and words[0] == "vertex"]
            triangles = np.array(corners, dtype=np.float64).reshape(-1, 3, 3)
        except ValueError:
            raise UsageError(f"{file} is no STL file: it has vertices of other than three numbers.") from None
    if not len(triangles) or not np.isfinite(triangles).all():
        raise UsageError(f"{file} is no STL file with finite triangles, binary or ASCII.")
    return triangles


def voxelise(triangles: Float[np.ndarray, "t 3 3"], grid: Grid) -> Bool[np.ndarray, "nx ny nz"]:
    """Cells whose centre lies inside the closed surface.

    A ray along z through each column of centres changes sides at every triangle that it meets; edges shared by two
    triangles are counted once, because the rays are moved off the centres by an irrational 1e-7 of a cell.
    Cost: the columns under each triangle's bounding box.
    """
    h = grid.spacing
    x = grid.axis(0).numpy() + 1e-7 * np.sqrt(2) * h[0]
    y = grid.axis(1).numpy() + 1e-7 * np.sqrt(3) * h[1]
    nz = grid.shape[2]
    flips = np.zeros((len(x), len(y), nz + 1), dtype=np.int32)
    for a, b, c in triangles:
        low, high = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
        i0, i1 = np.searchsorted(x, (low[0], high[0]))
        j0, j1 = np.searchsorted(y, (low[1], high[1]))
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if i0 == i1 or j0 == j1 or area == 0:
            continue
        px, py = x[i0:i1, None], y[None, j0:j1]
        s = ((px - a[0]) * (c[1] - a[1]) - (py - a[1]) * (c[0] - a[0])) / area
        t = ((b[0] - a[0]) * (py - a[1]) - (b[1] - a[1]) * (px - a[0])) / area
        i, j = np.nonzero((s >= 0) & (t >= 0) & (s + t <= 1))
        z = a[2] + s[i, j] * (b[2] - a[2]) + t[i, j] * (c[2] - a[2])
        k = np.clip(np.ceil((z - grid.lower[2]) / h[2] - 0.5), 0, nz).astype(np.int64)
        np.add.at(flips, (i + i0, j + j0, k), 1)
    inside = np.cumsum(flips, axis=2)
    if (inside[..., -1] % 2).any():
        raise UsageError("The surface is not closed: a ray enters it and does not leave; repair the STL file.")
    return inside[..., :nz] % 2 == 1


@lru_cache(maxsize=4)
def _array(file: str, stamp: int) -> np.ndarray:
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            if len(loaded.files) != 1:
                raise UsageError(f"{file} must hold one array; it has {', '.join(loaded.files) or 'none'}.")
            loaded = loaded[loaded.files[0]]
    except (ValueError, OSError) as error:
        raise UsageError(f"{file} cannot be read as .npy, .npz or .stl: {' '.join(str(error).split())}.") from None
    solid = np.asarray(loaded)
    if solid.dtype.kind not in "biuf" or not (np.isfinite(solid).all() and solid.min() >= 0 and solid.max() <= 1):
        raise UsageError(f"{file} must hold the share of solid per cell, numbers from 0 to 1 or booleans.")
    return solid.astype(np.float64)


@lru_cache(maxsize=4)
def _voxelised(file: str, stamp: int, grid: Grid) -> np.ndarray:
    return voxelise(read_stl(file), grid)

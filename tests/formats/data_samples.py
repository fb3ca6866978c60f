"""Small datasets that the format and data tests share."""

import torch

from sciops.core.cases import Cases
from sciops.core.dataset import MemoryDataset
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.problem import DataOnly
from sciops.data.recipe import parse_recipe

POISSON = "sciops.problems.poisson.Poisson"


def recipe(name="small", arguments=None, shape=(12, 12), layout="node", splits=None, **more):
    """A Poisson recipe small enough for a test."""
    table = {
        "name": name,
        "problem": {"class_path": POISSON, "init_args": arguments or {"ndim": len(shape), "modes": 8}},
        "grid": {"shape": list(shape), "layout": layout},
        "splits": splits or {"train": 5, "valid": 2, "test": 2},
        "batch": 2,
    }
    return parse_recipe(table | more, name)


def moving(n=4, frames=3, shape=(6, 5), layout="cell", channels=("density", "pressure", "Vx", "Vy")) -> MemoryDataset:
    """Random time-dependent fields whose first frame is the input."""
    grid = Grid.box(shape, layout=layout)
    generator = torch.Generator().manual_seed(3)
    values = torch.rand((n, frames, len(channels), *shape), generator=generator)
    wall = "periodic" if layout == "periodic" else "dirichlet"
    problem = DataOnly(channels, channels, len(shape), wall)
    inputs = Field.steady(values[:, 0], grid, channels)
    times = tuple(0.25 * k for k in range(frames))
    return MemoryDataset(
        Cases(problem, grid, inputs, ids=torch.arange(n), times=times), Field(values, grid, channels, times)
    )

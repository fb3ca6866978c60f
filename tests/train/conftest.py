"""Tiny operators: u = sin(a)·mask on 16² nodes from a random field, learnable in seconds."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sciops.core.dataset import MemoryDataset
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.random import case_seed
from sciops.problems.darcy import Darcy


def tiny_dataset(start: int, stop: int, n: int = 16) -> MemoryDataset:
    """Cases start … stop−1 of a smooth Darcy law with an exact, cheap stand-in for the solution: a·x(1−x)y(1−y)."""
    grid = Grid.box(n, ndim=2)
    cases = Darcy(law="lognormal").sample([case_seed(0, i) for i in range(start, stop)], grid, torch.float32)
    x, y = grid.mesh(torch.float32)
    truth = cases.input("a") * (x * (1 - x) * y * (1 - y))
    return MemoryDataset(cases, Field.steady(truth[:, None], grid, ("u",)))


@pytest.fixture(scope="session")
def tiny() -> Callable[..., MemoryDataset]:
    return tiny_dataset


CONFIG = """
trainer: {{max_epochs: 2, accelerator: cpu}}
model:
  class_path: sciops.solvers.operator_module.OperatorModule
  init_args:
    net:
      class_path: sciops.models.mgno.MgNO
      init_args: {{width: 4, layers: 2, iterations: ["10", "10", "20"]}}
    lr: 1.0e-2
    schedule: onecycle_step
data:
  class_path: sciops.data.datamodule.OperatorData
  init_args: {{source: {folder}/data, batch_size: 8}}
"""


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data files and fit.yaml."""
    from sciops.data.store import save_dataset

    folder = tmp_path_factory.mktemp("project")
    for split, (start, stop) in {"train": (0, 24), "valid": (24, 28), "test": (28, 32)}.items():
        target = folder / "data" / "data" / split / "tiny.hdf5"
        target.parent.mkdir(parents=True)
        save_dataset(target, tiny_dataset(start, stop), "tiny", split)
    (folder / "fit.yaml").write_text(CONFIG.format(folder=folder))
    return folder

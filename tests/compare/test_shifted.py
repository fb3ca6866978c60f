import torch

from sciops.compare.shifted import on_grid
from sciops.core.dataset import MemoryDataset
from sciops.core.grid import Grid
from sciops.problems.darcy import Darcy


def test_the_truth_on_another_grid_comes_from_a_finer_one():
    problem, grid = Darcy(law="lognormal", modes=8), Grid.box(17, ndim=2)
    cases = problem.sample([1, 2], grid)
    same = problem.reference(cases).field
    truth = on_grid(MemoryDataset(cases, same), grid, 2).truth().values[:, 0, 0]
    finest = problem.reference(problem.sample([1, 2], grid.refined(8))).field.values[:, 0, 0, ::8, ::8]
    error, coarse = (float((u - finest).norm()) for u in (truth, same.values[:, 0, 0]))
    # Second order: half the mesh width, a quarter of the error.
    assert torch.isfinite(truth).all()
    assert 0.15 < error / coarse < 0.35

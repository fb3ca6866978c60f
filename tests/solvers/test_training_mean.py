"""The mean answer: exact, the same on every grid, kept in a file."""

import pytest
import torch

from sciops.compare.check import check_solver
from sciops.core.dataset import MemoryDataset
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.problems.poisson import Poisson
from sciops.solvers.training_mean import BATCH, TrainingMean


def test_it_is_the_mean_of_all_training_answers(tmp_path):
    problem, grid = Poisson(modes=4), Grid.box(9, ndim=2)
    cases = problem.sample(range(BATCH + 6), grid)
    data = MemoryDataset(cases, problem.reference(cases).field)
    solver = TrainingMean()
    solver.fit(data, data)
    answer = solver.solve(cases[:3], grid)
    known = data.answers.values.mean(0, keepdim=True)
    assert answer.ok and torch.allclose(answer.field.values, known.expand(3, -1, -1, -1, -1), atol=1e-15)
    solver.save(tmp_path)
    fresh = TrainingMean()
    fresh.load(tmp_path)
    finer = grid.resized((17, 17))
    assert torch.equal(fresh.solve(cases[:2], finer).field.values, solver.solve(cases[:2], finer).field.values)


def test_it_keeps_the_contract_and_says_what_is_missing(tmp_path):
    assert not [r for r in check_solver(TrainingMean(), Poisson(modes=8)) if not r.passed]
    with pytest.raises(UsageError, match="not known yet"):
        problem = Poisson(modes=4)
        TrainingMean().solve(problem.sample([0], Grid.box(9, ndim=2)), Grid.box(9, ndim=2))
    with pytest.raises(UsageError, match="does not exist"):
        TrainingMean().load(tmp_path)

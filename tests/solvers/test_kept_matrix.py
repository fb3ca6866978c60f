import pickle

import pytest
import torch

from sciops.core.grid import Grid
from sciops.core.problem import Problem
from sciops.problems.poisson import Poisson
from sciops.solvers.discrete import GridSolver
from sciops.solvers.fast_poisson import FastPoisson
from sciops.solvers.multigrid_cg import MultigridCG
from sciops.solvers.sparse_direct import SparseDirect

SOLVERS = [FastPoisson, MultigridCG, SparseDirect]


@pytest.fixture
def matrices(monkeypatch):
    """Counts how often a matrix is made."""
    made = []
    original = Problem.matrix

    def counted(self, cases):
        made.append(len(cases))
        return original(self, cases)

    monkeypatch.setattr(Problem, "matrix", counted)
    return made


@pytest.mark.parametrize("kind", SOLVERS)
def test_a_matrix_that_depends_on_the_grid_alone_is_made_once(kind, matrices):
    solver: GridSolver = kind()
    cases = Poisson(modes=8).sample([1, 2], Grid.box(17, ndim=2))
    solver.prepare(cases, cases.domain)
    for _ in range(3):
        solver.solve(cases, cases.domain)
    assert matrices == [2]
    solver.solve(cases[:1], cases.domain)
    assert matrices == [2, 1]


@pytest.mark.parametrize("kind", SOLVERS)
def test_a_used_solver_answers_like_a_fresh_one(kind):
    used: GridSolver = kind()
    for condition in ("dirichlet", "neumann"):
        for n in (17, 12):
            problem = Poisson(modes=8, condition=condition)
            cases = problem.sample([1, 2], Grid.box(n, ndim=2))
            fresh = kind().solve(cases, cases.domain)
            assert torch.equal(used.solve(cases, cases.domain).field.values, fresh.field.values)


def test_rungs_keep_their_own_matrices_and_none_is_pickled():
    solver = FastPoisson()
    cases = Poisson(modes=8).sample([1], Grid.box(33, ndim=2))
    solver.prepare(cases, cases.domain)
    rungs = [rung.solve(cases, cases.domain).field.values for rung in solver.ladder()]
    assert not torch.equal(rungs[0], rungs[2])
    assert torch.equal(rungs[2], solver.solve(cases, cases.domain).field.values)
    assert len(pickle.dumps(solver)) < 2000

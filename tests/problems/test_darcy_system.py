import pytest
import torch

from sciops.core.grid import Grid
from sciops.core.problem import Problem
from sciops.problems.darcy import Darcy


@pytest.mark.parametrize(("ndim", "law"), [(1, "lognormal"), (2, "two_phase"), (2, "trigonometric"), (3, "lognormal")])
def test_the_fast_matrix_equals_the_one_read_off_the_residual(ndim, law):
    problem = Darcy(law=law, ndim=ndim)
    cases = problem.sample([1, 2], Grid.box((9, 12, 7)[:ndim], upper=(1.0, 2.0, 1.5)[:ndim]))
    fast, b = problem.system(cases)
    # Not Problem.system: that asks the problem for its own matrix again.
    probed, d = Problem.matrix(problem, cases), Problem.right_hand_side(problem, cases)
    scale = probed.stencil.abs().max()
    assert float((fast.stencil - probed.stencil).abs().max() / scale) < 1e-15
    assert torch.equal(b, d)
    assert fast.tags == probed.tags == {"symmetric", "positive"}


def test_other_layouts_fall_back_to_the_residual():
    problem = Darcy()
    cases = problem.sample([1], Grid.box(8, ndim=2, layout="cell"))
    A, _ = problem.system(cases)
    assert A.space == (8, 8)
    assert torch.equal(A.stencil, Problem.matrix(problem, cases).stencil)

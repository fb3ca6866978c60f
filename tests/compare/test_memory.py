import torch

from sciops import Field, Grid, Solution, Solver
from sciops.compare.memory import peak_memory
from sciops.core.linear import Status
from sciops.core.solver import Budget
from sciops.problems.poisson import Poisson


class Hungry(Solver):
    """Touches about 8 MiB per case of the batch beyond the first."""

    def solve(self, cases, out, budget=None):
        ballast = torch.ones((len(cases) - 1) * 2**20, dtype=torch.float64)
        values = torch.zeros((len(cases), 1, *out.shape)) + 0 * ballast.sum()
        return Solution(Field.steady(values, out, ("u",)), [Status.OK] * len(cases))


def test_peak_memory_of_a_batch_in_a_fresh_process():
    cases = Poisson(modes=4).sample(range(9), Grid.box(9, ndim=2))
    peak = peak_memory(Hungry(), cases, cases.domain, Budget())
    assert 55 * 2**20 < peak < 90 * 2**20

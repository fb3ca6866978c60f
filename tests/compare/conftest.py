import pytest

from sciops.compare.sources import Splits
from sciops.core.dataset import MemoryDataset
from sciops.core.grid import Grid
from sciops.core.random import case_seed
from sciops.problems.poisson import Poisson


@pytest.fixture(scope="session")
def splits() -> Splits:
    """Small Poisson splits in memory: 12 train, 4 valid, 8 test cases on 17² nodes."""
    problem, grid = Poisson(modes=8), Grid.box(17, ndim=2)
    made = []
    for start, stop in ((0, 12), (12, 16), (16, 24)):
        cases = problem.sample([case_seed(0, i) for i in range(start, stop)], grid)
        answer = problem.reference(cases)
        made.append(MemoryDataset(cases, answer.field, answer.stats["label_error"]))
    return Splits("poisson_tiny", *made, generation_seconds=2.0)

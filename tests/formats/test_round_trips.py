"""Any dataset, whatever its grid, type, channels and times, comes back from every file that can hold it."""

import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from well_checks import check_well

from sciops.core.cases import Cases
from sciops.core.dataset import MemoryDataset
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.problem import DataOnly
from sciops.data.pdebench import open_pdebench, write_pdebench
from sciops.data.store import save_dataset
from sciops.data.stored import StoredDataset

AXES = st.lists(
    st.tuples(st.integers(2, 6), st.sampled_from(["node", "cell", "periodic"]), st.floats(-3, 3), st.floats(0.1, 5)),
    min_size=1,
    max_size=3,
)


@st.composite
def datasets(draw):
    axes = draw(AXES)
    shape, layout = tuple(a[0] for a in axes), tuple(a[1] for a in axes)
    lower, upper = tuple(a[2] for a in axes), tuple(a[2] + a[3] for a in axes)
    grid = Grid(shape, lower, upper, layout)
    n, dtype = draw(st.integers(1, 5)), draw(st.sampled_from([torch.float32, torch.float64]))
    inputs = tuple("abc"[: draw(st.integers(1, 3))])
    times = (0.0,) if draw(st.booleans()) else tuple(0.5 * k for k in range(draw(st.integers(2, 4))))
    walls = ["periodic" if kind == "periodic" else draw(st.sampled_from(["dirichlet", "neumann"])) for kind in layout]
    problem = DataOnly(inputs, ("u",), len(shape), walls)
    return partial(build, problem, grid, times, dtype, n, draw(st.integers(0, 99)))


def build(problem, grid, times, dtype, n, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs, shape = [channel.name for channel in problem.inputs], grid.shape
    fields = [torch.randn((n, c, *shape), generator=generator, dtype=dtype) for c in (len(inputs), len(times))]
    ids = torch.randperm(100, generator=generator)[:n]
    params = {"re": torch.rand(n, generator=generator), "modes": torch.rand((n, 3), generator=generator)}
    seeds = torch.randint(2**62, (n,), generator=generator)
    cases = Cases(problem, grid, Field.steady(fields[0], grid, inputs), params, {}, ids, seeds, times)
    error = torch.rand(n, generator=generator, dtype=torch.float64)
    return MemoryDataset(cases, Field(fields[1].unsqueeze(2), grid, ("u",), times), error)


# The type checker of the test suite draws random samples of containers while a strategy runs.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
@given(datasets())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_round_trips(make):
    memory = make()
    with tempfile.TemporaryDirectory() as folder:
        native = save_dataset(Path(folder) / "a.hdf5", memory, "any", "test")
        check_well(native)
        stored = StoredDataset(native)
        other = open_pdebench(write_pdebench(Path(folder) / "b.hdf5", stored))
        again = StoredDataset(save_dataset(Path(folder) / "c.hdf5", other))
        for dataset in (stored, other, again):
            mine, theirs = dataset.cases(), memory.cases()
            assert dataset.grid == memory.grid and dataset.problem == memory.problem
            assert dataset.fingerprint == memory.fingerprint
            assert torch.equal(mine.inputs.values, theirs.inputs.values)
            assert torch.equal(dataset.truth().values, memory.truth().values)
            assert dataset.truth().times == memory.truth().times
            assert mine.inputs.values.dtype == theirs.inputs.values.dtype
            assert torch.equal(mine.ids, theirs.ids) and torch.equal(mine.seeds, theirs.seeds)
            assert all(torch.equal(mine.params[k], theirs.params[k]) for k in ("re", "modes"))
            assert torch.equal(dataset.label_error, memory.label_error) and dataset.residual is None
            dataset.close()
        assert stored.header == again.header

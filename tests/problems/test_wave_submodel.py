"""The edge of a zone of interest and the submodel inside."""

from dataclasses import replace

import pytest
import torch

from sciops.compare.check import check_metric, check_problem
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.solver import View
from sciops.data.generate import make_chunk
from sciops.data.recipe import load_recipe
from sciops.metrics.base import evaluate
from sciops.metrics.submodel import Inside
from sciops.problems.wave import Wave
from sciops.problems.wave_submodel import WaveTrace

LAYERED = {"layers": 2, "sides": "absorbing"}
GRID = Grid.box((64, 64), upper=(1.0, 63 / 64), layout=("periodic", "node"))


@pytest.mark.parametrize(
    "problem",
    [WaveTrace(upper=0.5, lower=0.0), WaveTrace(wave=LAYERED, upper=0.5, lower=0.0, given="coarse", coarse=8)],
    ids=["parameters", "coarse"],
)
def test_contract(problem):
    assert not [f"{r.name}: {r.message}" for r in check_problem(problem) if not r.passed]
    assert problem.views() == {View.DATA}


def test_the_trace_is_that_of_the_wave_on_the_whole_square():
    problem = WaveTrace(wave=LAYERED)
    cases = problem.sample([1, 2], GRID)
    trace = problem.reference(cases).field.values[:, 0, 0]
    wave = Wave(**LAYERED)
    waves = wave.sample([1, 2], Grid.box(33, ndim=2))
    frames = wave.reference(waves).field.values[:, :, 0]
    assert waves.times == problem.moments(GRID)
    assert torch.equal(trace[:, 0], frames[:, :, 8, 8]) and torch.equal(trace[:, 16], frames[:, :, 24, 8])
    assert torch.equal(trace[:, 32 + 3], frames[:, :, 24 - 3, 24]) and torch.equal(trace[:, 63], frames[:, :, 8, 9])
    # What a network is told are the numbers that made the wave.
    told = cases.inputs.values[:, 0, :, 0, 0]
    made = [waves.params["position"], waves.params["frequency"][:, None], waves.params["speed"][:, 1:]]
    assert torch.equal(told, torch.cat(made, 1))
    assert [channel.name for channel in problem.inputs] == ["source_x", "source_y", "frequency", "ratio_2"]


@pytest.mark.parametrize("options", [LAYERED, {"source": "pulse", "scheme": "fem", "damping": 0.5}], ids=str)
def test_the_true_trace_gives_the_true_field_inside(options):
    problem = WaveTrace(wave=options)
    cases = problem.sample([3, 4, 5], GRID)
    inside = problem.inside(cases, problem.reference(cases).field).values
    wave = Wave(**options)
    whole = wave.reference(wave.sample([3, 4, 5], problem.zone(GRID))).field.values
    # 64 frames a second against wavelets of 2 to 4 Hz: cubics between them lose little; a pulse of width 0.05 more.
    error = (inside - whole)[..., 1:-1, 1:-1].norm() / whole.norm()
    assert float(error) < (2e-2 if "source" in options else 1e-3)
    # A wrong trace is seen inside.
    assert float((problem.inside(cases, problem.reference(cases).field * 0.5).values - whole).norm()) > 0.1 * float(
        whole.norm()
    )


def test_a_finer_global_model_makes_a_better_trace_and_a_better_inside():
    traces, insides = [], []
    for coarse in (16, 32):
        problem = WaveTrace(wave=LAYERED, given="coarse", coarse=coarse)
        cases = problem.sample([1, 2, 3], GRID.resized((128, 64)))
        truth = problem.reference(cases).field
        guess = replace(truth, values=cases.inputs.values)
        traces.append(float((guess - truth).values.norm() / truth.values.norm()))
        insides.append(evaluate(Inside(), guess, truth, cases))
    # Second order, once resolved: a factor of four and more.
    assert traces[0] > 3 * traces[1] and insides[0] > 3 * insides[1]
    assert 0.01 < insides[1] < 0.15
    assert evaluate(Inside(), truth, truth, cases) == 0.0


def test_the_metric_keeps_its_contract_and_says_where_it_applies():
    assert not [f"{r.name}: {r.message}" for r in check_metric(Inside()) if not r.passed]
    wave = Wave()
    cases = wave.sample([1], Grid.box(17, ndim=2))
    assert "no submodel" in str(Inside().applies(cases.inputs, cases))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"given": "nothing"}, "parameters, coarse"),
        ({"lower": 0.8, "upper": 0.2}, "lower < upper"),
        ({"given": "coarse", "coarse": 6}, "coarse = 6 must put nodes"),
        ({"wave": {"colour": "red"}}, "takes the arguments of Wave"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        WaveTrace(**options)


def test_grids_that_do_not_fit_are_refused():
    problem = WaveTrace()
    for grid, words in (
        (Grid.box((30, 8), layout=("periodic", "node")), "multiple of 4"),
        (Grid.box((12, 8), layout=("periodic", "node")), "lattice of the square"),
        (Grid.box((64, 8), lower=(0.0, 0.1), layout=("periodic", "node")), "times from 0"),
    ):
        with pytest.raises(UsageError, match=words):
            problem.sample([1], grid)


@pytest.mark.parametrize("name", ["wave_trace", "wave_trace_coarse"])
def test_recipes_make_their_cases(name):
    recipe = load_recipe(f"datasets/{name}.yaml")
    assert recipe.splits["train"] == 256 and recipe.grid.shape == (128, 64)
    small = replace(recipe.resized(shape=(64, 64)), reference=replace(recipe.reference, refine=1))
    chunk = make_chunk(small, small.make_problem(), [0, 1])
    assert chunk.outputs.shape == (2, 1, 1, 64, 64) and chunk.label_error is not None

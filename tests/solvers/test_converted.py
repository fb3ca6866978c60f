"""Solvers around one trained source: the same bits on its grid, the same values at its points, one training for all."""

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sciops.core.dataset import MemoryDataset
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.solver import Budget, FitReport, Solver
from sciops.data.windows import Windowed
from sciops.models.conversion.layout import ConversionError
from sciops.problems.darcy import Darcy
from sciops.problems.navier_stokes import NavierStokes
from sciops.problems.poisson import Poisson
from sciops.solvers.converted import AsIs, Converted, Interpolated, low_pass
from sciops.solvers.operator import OperatorSolver
from sciops.solvers.rollout import Rollout

NET = {"class_path": "sciops.models.unet.UNet", "init_args": {"width": 4, "levels": 2}}
SETTINGS = {"net": NET, "epochs": 2, "batch_size": 4, "lr": 1e-2, "device": "cpu"}
SOURCE = {"class_path": "sciops.solvers.operator.OperatorSolver", "init_args": SETTINGS}
PERIODIC = Poisson(condition="periodic", modes=8)


def dataset(start: int, stop: int, n: int = 16) -> MemoryDataset:
    grid = Grid.box(n, ndim=2, layout="periodic")
    cases = PERIODIC.sample(list(range(start, stop)), grid, torch.float32)
    x, y = grid.mesh(torch.float32)
    truth = cases.input("f") * (2 + torch.sin(2 * torch.pi * x)) * torch.cos(2 * torch.pi * y)
    return MemoryDataset(cases, Field.steady(truth[:, None], grid, ("u",)))


@pytest.fixture(scope="module")
def trained() -> OperatorSolver:
    source = OperatorSolver(**SETTINGS)
    source.fit(dataset(0, 12), dataset(12, 16))
    return source


@pytest.fixture(scope="module")
def around(trained: OperatorSolver) -> dict[str, Solver]:
    return {
        "as it is": AsIs(trained),
        **{method: Converted(trained, method) for method in ("point", "lattice")},
        **{kind: Interpolated(trained, kind) for kind in ("linear", "cubic", "fourier")},
    }


@pytest.mark.parametrize("name", ["as it is", "point", "lattice", "linear", "cubic", "fourier"])
def test_on_its_own_grid_every_way_gives_the_bits_of_the_source(
    around: dict[str, Solver], trained: OperatorSolver, name: str
) -> None:
    cases = dataset(20, 23).cases()
    expected = trained.solve(cases, cases.domain).field.values
    assert torch.equal(around[name].solve(cases, cases.domain).field.values, expected)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("name", ["lattice", "linear", "cubic", "as it is"])
def test_values_at_native_points_are_those_of_the_source_unless_it_runs_as_it_is(
    around: dict[str, Solver], trained: OperatorSolver, name: str, factor: int
) -> None:
    fine = dataset(20, 22, 16 * factor).cases()
    native = trained.module.grid
    strided = replace(
        fine,
        domain=native,
        seeds=None,
        inputs=Field.steady(fine.inputs.values[:, 0, :, ::factor, ::factor], native, fine.inputs.channels),
    )
    expected = trained.solve(strided, native).field.values
    found = around[name].solve(fine, fine.domain).field.values[..., ::factor, ::factor]
    gap = float((found - expected).abs().max() / expected.abs().max())
    assert gap > 1e-2 if name == "as it is" else gap < 1e-5


def test_points_keep_inputs_at_their_resolution(around: dict[str, Solver], trained: OperatorSolver) -> None:
    """A change of the input between native points changes a converted answer there; interpolation does not see it."""
    fine = dataset(20, 21, 32).cases()
    values = fine.inputs.values.clone()
    values[..., 5, 7] += 1.0
    changed = replace(fine, inputs=replace(fine.inputs, values=values), seeds=None)
    for name, seen in (("point", True), ("lattice", True), ("linear", False)):
        a, b = (around[name].solve(c, fine.domain).field.values for c in (fine, changed))
        assert torch.equal(a, b) is not seen


def test_fourier_interpolation_forgets_what_its_grid_does_not_carry() -> None:
    x = torch.arange(48) / 48
    slow, fast = torch.cos(2 * torch.pi * 7 * x), torch.cos(2 * torch.pi * 9 * x)
    assert torch.allclose(low_pass((slow + fast)[None, None], 2, 16), slow[None, None], atol=1e-5)


def test_the_answer_lives_on_the_asked_grid_and_any_size_will_do(around: dict[str, Solver]) -> None:
    for n in (12, 24, 40):
        cases = dataset(20, 21, n).cases()
        for solver in around.values():
            solution = solver.solve(cases, cases.domain)
            assert solution.ok and solution.field.domain == cases.domain


def test_one_training_serves_all_in_a_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = []
    fit = OperatorSolver.fit
    monkeypatch.setattr(OperatorSolver, "fit", lambda self, *a: fits.append(1) or fit(self, *a))
    train, valid, budget = dataset(0, 8), dataset(8, 10), Budget(seconds=60.0)
    made = [AsIs(SOURCE), Converted(SOURCE), Interpolated(SOURCE), Converted(SOURCE, seed=1)]
    reports = []
    for i, solver in enumerate(made):
        solver.workdir = tmp_path / str(i)
        reports.append(solver.fit(train, valid, budget))
    assert len(fits) == 2  # the last one has another seed
    assert reports[0] == reports[1] == reports[2] and reports[0].seconds > 0
    cases = dataset(20, 22).cases()
    first, second, third, other = (s.solve(cases, cases.domain).field.values for s in made)
    assert torch.equal(first, second) and torch.equal(first, third) and not torch.equal(first, other)
    # A training that was interrupted has no note, so it is taken up again.
    notes = list(tmp_path.glob("source-*/fit.json"))
    assert len(notes) == 2 and json.loads(notes[0].read_text())["seconds"] > 0
    for note in notes:
        note.unlink()
    made[1].fit(train, valid, budget)
    assert len(fits) == 3
    # Other data, another time limit: another training.
    alone = Converted(SOURCE)
    alone.fit(train, valid, budget)  # without a folder nothing is shared
    assert torch.equal(alone.solve(cases, cases.domain).field.values, first)
    assert made[0]._shared(train, valid, Budget(seconds=30.0)) != made[0]._shared(train, valid, budget)
    assert made[0]._shared(valid, train, budget) != made[0]._shared(train, valid, budget)


def trajectories(seeds: list[int], n: int = 16) -> Windowed:
    problem, grid = NavierStokes(viscosity=1e-2, frames=2, every=0.1, sigma=5.0), Grid.box(n, ndim=2, layout="periodic")
    cases = problem.sample(seeds, grid)
    return Windowed(MemoryDataset(cases, problem.reference(cases).field), 1, 2)


def test_trajectories_are_rolled_out_through_the_converted_step() -> None:
    train, valid = trajectories([1, 2, 3, 4]), trajectories([5, 6])
    grid = train.grid
    source = Rollout(NET, epochs=1, batch_size=4, device="cpu")
    source.fit(train, valid)
    fine = trajectories([7], 32).cases()
    native = replace(
        fine,
        domain=grid,
        seeds=None,
        inputs=replace(fine.inputs, values=fine.inputs.values[..., ::2, ::2], domain=grid),
        history=replace(fine.history, values=fine.history.values[..., ::2, ::2], domain=grid),
    )
    expected = source.solve(native, grid).field
    found = Converted(source, "lattice").solve(fine, fine.domain).field
    assert found.times == expected.times and len(found.times) == 2
    assert torch.allclose(found.values[..., ::2, ::2], expected.values, rtol=1e-4, atol=1e-5)
    again = Interpolated(source, "linear").solve(fine, fine.domain).field
    assert torch.allclose(again.values[..., ::2, ::2], expected.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("solver", "problem", "words"),
    [
        (Converted(SOURCE, "lattice"), Darcy(), "no meaning on node grids"),
        (Converted(SOURCE, "spectral"), Darcy(), "needs periodic axes"),
        (Interpolated(SOURCE, "fourier"), Darcy(), "needs periodic axes"),
        (Converted(OperatorSolver(NET, normalise_output="pixel")), Darcy(), "training grid"),
        (Converted(OperatorSolver(NET, compile=True)), Darcy(), "compile: false"),
    ],
    ids=["lattice", "spectral", "fourier", "pixel", "compiled"],
)
def test_refusals_say_what_would_make_it_a_yes(solver: Solver, problem: Darcy, words: str) -> None:
    reason = solver.refuses(problem, Grid.box(17, ndim=2))
    assert reason is not None and words in reason


class Sorted(nn.Module):
    """Learns like any other network, and counts grid points."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + x.sort(dim=-1).values


@pytest.mark.parametrize(
    ("source", "method", "words"),
    [
        (lambda: OperatorSolver(Sorted(), epochs=1, device="cpu"), "point", r"\(top level\): sort orders or counts"),
        (lambda: Rollout(Sorted(), epochs=1, device="cpu"), "integral", r"\(top level\): sort orders or counts"),
        (lambda: OperatorSolver(NET, compile=True), "point", "not trained: a compiled network.*set compile: false"),
    ],
    ids=["steady", "step", "compiled"],
)
def test_what_cannot_be_converted_is_not_trained(
    source: Callable[[], OperatorSolver], method: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = []
    monkeypatch.setattr(OperatorSolver, "fit", lambda self, *a: fits.append(1) or FitReport(seconds=0.0, steps=0))
    made = source()
    data = trajectories([1, 2]) if isinstance(made, Rollout) else dataset(0, 4)
    before = [p.clone() for p in made.net_spec.parameters()] if isinstance(made.net_spec, nn.Module) else []
    with pytest.raises(ConversionError, match=words):
        Converted(made, method).fit(data, data)
    assert not fits and made.module is None
    assert all(torch.equal(a, b) for a, b in zip(before, made.net_spec.parameters(), strict=True)) if before else True
    if method == "point" and before:  # the lattice asks nothing of a network
        Converted(made, "lattice").fit(data, data)
        assert fits == [1]


def test_mistakes_are_one_sentence(trained: OperatorSolver) -> None:
    with pytest.raises(UsageError, match="method must be one of point, lattice"):
        Converted(SOURCE, "points")
    with pytest.raises(UsageError, match="kind must be one of linear, cubic, fourier; got 'spline'"):
        Interpolated(SOURCE, "spline")
    with pytest.raises(UsageError, match="got PlainCG"):
        Converted({"class_path": "sciops.solvers.plain_cg.PlainCG"})
    with pytest.raises(UsageError, match="has no weights yet"):
        Converted(SOURCE).solve(dataset(0, 1).cases(), dataset(0, 1).grid)
    cells = Poisson(modes=8).sample([1], Grid.box(16, ndim=2))
    with pytest.raises(UsageError, match="was trained on 16×16 periodic"):
        Converted(trained).solve(cells, cells.domain)


@pytest.mark.slow
def test_a_trained_unet_keeps_its_error_from_half_to_eight_times_its_grid() -> None:
    path = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / "conversion_transfer.py"
    spec = importlib.util.spec_from_file_location("conversion_transfer", path)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    sys.modules["conversion_transfer"] = bench  # its dataclasses look themselves up there
    spec.loader.exec_module(bench)
    data, test = bench.pairs(0, 240), bench.pairs(10_000, 40)
    net = bench.trained(data)
    ways = bench.contestants(net, data, tuning=0)
    native = bench.errors(net, test, (32,))[32]
    assert native < 0.17
    assert bench.errors(net, test, (96,))[96] > 3 * native
    for method, bound in (("lattice", 1.03), ("point", 1.05)):
        found = bench.errors(ways[method], test, bench.SIZES)
        assert found[32] == native
        assert found[96] < bound * native
        assert max(found.values()) < 1.1 * native, found
        assert bench.shared(ways[method], net, test) == 0.0

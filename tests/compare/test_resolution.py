"""Resolution transfer from one fine truth: strided test fields, one training for all of a source, plans that run."""

import pytest
import torch

from sciops.compare.meter import Protocol
from sciops.compare.plan import Contestant, Plan, find, read
from sciops.compare.run import compare
from sciops.compare.shifted import solved_on
from sciops.compare.sources import Splits, windowed
from sciops.core.dataset import MemoryDataset
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.data.recipe import load_recipe
from sciops.data.strided import Strided, strides
from sciops.problems.navier_stokes import NavierStokes
from sciops.problems.poisson import Poisson

NET = {"class_path": "sciops.models.unet.UNet", "init_args": {"width": 4, "levels": 2}}
SOURCE = {
    "class_path": "sciops.solvers.operator.OperatorSolver",
    "init_args": {"net": NET, "epochs": 3, "batch_size": 4, "lr": 1e-2, "weight_decay": 0.0, "device": "cpu"},
}
FLOW = NavierStokes(viscosity=1e-2, frames=1, every=0.2, sigma=30.0)
WINDOW = {"history": 1, "horizon": 1}


@pytest.mark.parametrize(
    ("layout", "n", "m", "first"),
    [("node", 33, 9, 0), ("periodic", 32, 8, 0), ("cell", 24, 8, 1)],
)
def test_strided_values_are_those_at_the_same_places(layout: str, n: int, m: int, first: int) -> None:
    fine, coarse = Grid.box(n, ndim=2, layout=layout), Grid.box(m, ndim=2, layout=layout)
    x, y = fine.mesh()
    kind = {"node": "dirichlet", "periodic": "periodic", "cell": "neumann"}[layout]
    problem = Poisson(condition=kind, modes=4)
    cases = problem.sample([1, 2], fine)
    truth = torch.stack([x + 10 * y, x * y])[:, None]
    data = Strided(MemoryDataset(cases, Field.steady(truth, fine, ("u",)), torch.tensor([1e-3, 2e-3])), coarse)
    u, v = coarse.mesh()
    assert torch.allclose(data.truth().values[:, 0, 0], torch.stack([u + 10 * v, u * v]))
    assert data.truth([1]).domain == coarse and data.grid == coarse and len(data) == 2
    assert torch.equal(data.label_error, torch.tensor([1e-3, 2e-3]))
    k = fine.shape[0] // coarse.shape[0] if layout != "node" else 4
    assert torch.equal(data.cases().input("f"), cases.input("f")[:, first::k, first::k])
    assert data.cases().seeds is None  # a remade case would be another function
    assert Strided(data.base, fine).fingerprint != data.fingerprint


@pytest.mark.parametrize(("layout", "n", "m"), [("node", 33, 10), ("periodic", 32, 12), ("cell", 32, 16)])
def test_grids_that_are_no_part_of_the_fine_one_are_refused(layout: str, n: int, m: int) -> None:
    with pytest.raises(UsageError, match=f"points of {m}×{m} {layout} are not points of {n}×{n}"):
        strides(Grid.box(n, ndim=2, layout=layout), Grid.box(m, ndim=2, layout=layout))


def flow_splits() -> Splits:
    grid, made = Grid.box(16, ndim=2, layout="periodic"), []
    for start, stop in ((0, 12), (12, 16), (16, 20)):
        cases = FLOW.sample(list(range(start, stop)), grid)
        answer = FLOW.reference(cases)
        made.append(MemoryDataset(cases.to(torch.float32), answer.field.to(torch.float32), answer.stats["label_error"]))
    return windowed(Splits("flow", *made), WINDOW)


def around(way: str, cls: str, **options: str) -> Contestant:
    return Contestant(way, f"sciops.solvers.converted.{cls}", {"source": SOURCE, **options}, (0,))


def test_all_rows_of_one_source_stand_on_one_training_and_one_truth(tmp_path) -> None:  # type: ignore[no-untyped-def]
    solvers = (
        around("as is", "AsIs"),
        around("lattice", "Converted", method="lattice"),
        around("linear", "Interpolated"),
    )
    plan = Plan(
        "flow", "flow", "", solvers, ("rel_l2",), timing=Protocol(2, 0.05, 1), memory=False, transfer=(0.5, 1, 2),
        transfer_cases=3, transfer_refine=4, window=WINDOW,
    )  # fmt: skip
    splits, said = flow_splits(), []
    results = compare(plan, splits, tmp_path, said.append)
    assert [row.status for row in results.rows] == ["ok"] * 3
    assert len(list(tmp_path.glob("fits/source-*/fit.json"))) == 1
    assert len({row.fit_seconds for row in results.rows}) == 1  # all pay for the training
    home = {row.solver: row.score("rel_l2") for row in results.rows}
    assert home["as is"] == home["lattice"] == home["linear"]
    table = {(row.solver, row.split): row for row in results.transfer}
    assert {split for _, split in table} == {"grid ×0.5", "grid ×1", "grid ×2"}
    assert {row.grid for row in table.values()} == {"8×8 periodic", "16×16 periodic", "32×32 periodic"}
    one = {name: row.score("rel_l2") for (name, split), row in table.items() if split == "grid ×1"}
    assert one["as is"] == one["lattice"] == one["linear"]
    two = {name: row.score("rel_l2") for (name, split), row in table.items() if split == "grid ×2"}
    assert two["as is"] != pytest.approx(two["lattice"], rel=1e-3)
    assert two["lattice"] == pytest.approx(one["lattice"], rel=0.1) and two["linear"] != two["lattice"]
    # The same command again: nothing is trained, nothing solved.
    said.clear()
    again = compare(plan, splits, tmp_path, said.append)
    assert not any("training" in line or "solving" in line for line in said)
    assert [r.to_json() for r in again.transfer] == [r.to_json() for r in results.transfer]


def test_the_fine_truth_is_solved_where_it_is_made() -> None:
    splits = flow_splits()
    fine = solved_on(splits.test, Grid.box(64, ndim=2, layout="periodic"), 2)
    expected = FLOW.reference(FLOW.sample([16, 17], fine.grid)).field.values[:, 1:]
    assert fine.truth().times == (0.2,) and len(fine) == 2
    assert torch.allclose(fine.truth().values.double(), expected, rtol=1e-4, atol=1e-5)
    coarse = Strided(fine, Grid.box(16, ndim=2, layout="periodic"))
    past = coarse.cases().history
    assert torch.equal(past.values[:, 0], coarse.cases().inputs.values[:, 0])
    assert torch.equal(coarse.truth().values, fine.truth().values[..., ::4, ::4])


def test_a_grid_that_does_not_divide_the_fine_one_is_named_before_any_training(tmp_path) -> None:  # type: ignore[no-untyped-def]
    plan = Plan("flow", "flow", "", (around("as is", "AsIs"),), transfer=(1, 1.5), transfer_refine=2, window=WINDOW)
    with pytest.raises(UsageError, match="24×24 periodic are not points of 32×32"):
        compare(plan, flow_splits(), tmp_path, print)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("transfer", "words"), [("{factors: [2], refine: 0}", "refine must be an integer"), ("{refined: 3}", "refined")]
)
def test_mistakes_in_a_plan(tmp_path, transfer: str, words: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "mine.yaml"
    path.write_text(f"dataset: x\ntransfer: {transfer}\nsolvers: [sciops.solvers.training_mean.TrainingMean]")
    with pytest.raises(UsageError, match=words):
        read(path)


@pytest.mark.parametrize("name", ["resolution", "resolution_darcy"])
def test_every_contestant_of_the_shipped_plans_can_run(name: str) -> None:
    plan = read(find(name))
    for path in plan.datasets.values() or [plan.dataset]:
        recipe = load_recipe(path)
        fine = recipe.grid.refined(plan.transfer_refine)
        assert plan.transfer_refine >= 4 and 1 in plan.transfer
        for factor in plan.transfer:
            strides(fine, recipe.grid.resized([round(n * factor) for n in recipe.grid.shape]))
        for contestant in plan.solvers:
            assert contestant.make(0).refuses(recipe.make_problem(), recipe.grid) is None, contestant.name

"""Self-supervised training of DCDM: through the command line, inside the contestant, and what it buys."""

import csv
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from sciops.cli import main
from sciops.core.dataset import MemoryDataset
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.core.random import case_seed
from sciops.core.solver import Budget
from sciops.data.residual_data import ResidualData
from sciops.data.residual_sources import SystemBatch, box_operator
from sciops.numerics.krylov import ConjugateGradients
from sciops.problems.darcy import Darcy
from sciops.problems.poisson import Poisson
from sciops.solvers.conjugate_directions import ConjugateDirections
from sciops.solvers.conjugate_directions_module import ConjugateDirectionsModule
from sciops.solvers.plain_cg import PlainCG
from sciops.train.callbacks import checkpoints

CONFIG = """
trainer: {{max_epochs: 4, accelerator: cpu}}
model:
  class_path: sciops.solvers.conjugate_directions_module.ConjugateDirectionsModule
  init_args:
    net: {{class_path: sciops.models.dcdm.DCDM, init_args: {{ndim: 2, size: [1, 1, 1], width: 8}}}}
    loss: sciops.solvers.direction_losses.{loss}
    lr: 1.0e-2
    harvest: {harvest}
data:
  class_path: sciops.data.residual_data.ResidualData
  init_args: {{source: {source}, shape: [16, 16], steps: {steps}, batch_size: 10, valid: 20}}
"""


def configured(
    folder: Path, loss: str = "ResidualContraction", harvest: int = 0, source: str = "sine", steps: int = 4
) -> str:
    file = folder / "fit.yaml"
    file.write_text(CONFIG.format(loss=loss, harvest=harvest, source=source, steps=steps))
    return str(file)


def fit(folder: Path, config: str, *more: str) -> int:
    return main(["fit", "--config", config, "--runs", str(folder), "--name", "tiny", *more])


def column(run: Path, name: str) -> list[float]:
    with (run / "metrics.csv").open() as handle:
        return [float(row[name]) for row in csv.DictReader(handle)]


def test_a_short_training_lowers_the_loss_and_beats_cg_in_iterations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path, configured(tmp_path, steps=30)) == 0
    out, run = capsys.readouterr().out, tmp_path / "tiny"
    assert "best val_loss" in out and "val_contraction" in out
    assert {p.name for p in run.rglob("*") if p.is_file()} == {"config.yaml", "metrics.csv", "best.ckpt", "last.ckpt"}
    losses = column(run, "val_loss")
    assert losses[-1] < 0.15 * 1.0 and losses[-1] < 0.5 * losses[0]  # 1 is the loss of no step at all

    solver = ConjugateDirections.from_checkpoint(run / "checkpoints" / "best.ckpt")
    b = torch.randn((1, 24, 24), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    A = box_operator((24, 24))  # another size than in training
    answers = [s.solve(s.setup(A), b, tol=1e-6) for s in (solver.linear_solver(), ConjugateGradients())]
    assert all(answer.status == [Status.OK] for answer in answers)
    learned, plain = (int(answer.iterations[0]) for answer in answers)
    assert learned < 0.6 * plain
    assert int(answers[0].stats["fallbacks"][0]) == 0


@pytest.mark.parametrize("harvest", [0, 2])
def test_resume_repeats_every_bit(tmp_path: Path, harvest: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped after two epochs of four by a limit on steps, then continued; samples, weights and schedule follow."""
    config = configured(tmp_path, "EnergyContraction", harvest)
    assert fit(tmp_path / "straight", config) == 0
    code = _interrupted(tmp_path / "cut", config)
    assert code == 9
    assert fit(tmp_path / "cut", config, "--ckpt_path", "last") == 0
    files = [tmp_path / name / "tiny" / "checkpoints" / "last.ckpt" for name in ("straight", "cut")]
    contents = [torch.load(file, weights_only=True) for file in files]
    assert [content["global_step"] for content in contents] == [16, 16]
    one, two = (content["state_dict"] for content in contents)
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    for name in ("train_loss", "val_loss"):
        assert column(tmp_path / "straight" / "tiny", name) == column(tmp_path / "cut" / "tiny", name)


def _interrupted(runs: Path, config: str) -> int:
    """The exit code of a run that dies at its tenth step."""
    import multiprocessing

    process = multiprocessing.get_context("fork").Process(target=_die_at_step_ten, args=(runs, config))
    process.start()
    process.join(120)
    return process.exitcode or 0


def _die_at_step_ten(runs: Path, config: str) -> None:
    import os

    import sciops.train.cli as cli

    class Kill(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
            if trainer.global_step == 10:
                os._exit(9)

    usual = cli.default_callbacks
    cli.default_callbacks = lambda *a, **k: [*usual(*a, **k), Kill()]  # type: ignore[assignment]
    fit(runs, config)


def test_every_sample_is_new_and_validation_stays() -> None:
    data = ResidualData(shape=[8, 8], steps=3, batch_size=2, valid=4)
    data.setup()
    loader, seen = data.train_dataloader(), []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        seen.append(torch.cat([batch.b for batch in loader]))
    assert torch.equal(seen[0], seen[2])
    rows = torch.cat(seen[:2]).flatten(1)
    assert len(rows) == 12 and float((rows @ rows.T - torch.eye(12)).abs().max()) < 0.9
    valid = [torch.cat([batch.b for batch in data.val_dataloader()]) for _ in range(2)]
    assert torch.equal(*valid) and len(valid[0]) == 4


def test_published_route_and_its_missing_solution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ("--trainer.max_epochs", "1", "--data.init_args.vectors", "30")
    assert fit(tmp_path / "ritz", configured(tmp_path, source="ritz"), *short) == 0
    assert "val_contraction" not in capsys.readouterr().out
    assert fit(tmp_path / "no", configured(tmp_path, "EnergyContraction", source="ritz"), *short) == 2
    assert "EnergyContraction needs x" in capsys.readouterr().err


@pytest.mark.parametrize(("cycle", "first"), [(True, 0.95), (False, 0.9)])
def test_the_momentum_goes_with_the_cycle_or_stays(cycle: bool, first: float) -> None:
    module = ConjugateDirectionsModule(SMALL, cycle_momentum=cycle)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    betas = []
    module.on_train_batch_end = lambda *_: betas.append(trainer.optimizers[0].param_groups[0]["betas"][0])  # type: ignore[method-assign]
    trainer.fit(module, datamodule=ResidualData(shape=[6, 6], steps=10, valid=2))
    assert betas[-1] == pytest.approx(first, abs=0.01)
    assert min(betas) == pytest.approx(0.85 if cycle else 0.9, abs=0.01)


def test_the_recipe_in_three_dimensions_trains_and_solves(tmp_path: Path) -> None:
    """The published network (97,216 weights without biases), six steps on small cubes."""
    recipe = Path(__file__).parents[2] / "experiments" / "pressure" / "dcdm_3d.yaml"
    small = ("--trainer.max_epochs", "1", "--data.init_args.shape", "[8, 8, 8]", "--data.init_args.steps", "6")
    assert fit(tmp_path, str(recipe), *small, "--data.init_args.valid", "10") == 0
    assert column(tmp_path / "tiny", "val_loss")[0] < 0.6  # 1 is the loss of no step at all
    solver = ConjugateDirections.from_checkpoint(tmp_path / "tiny" / "checkpoints" / "best.ckpt")
    assert solver.parameters() == 97_216
    A = box_operator((10, 9, 8))  # another size than in training
    b = torch.randn((1, 10, 9, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    answer = solver.linear_solver().solve(solver.linear_solver().setup(A), b, tol=1e-2)
    assert answer.status == [Status.OK]
    assert float((b - A.matvec(answer.x)).norm()) <= 1e-2 * float(b.norm())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "noise"}, "source must be one of sine, ritz, matrices"),
        ({"source": "matrices"}, "needs a problem"),
        ({"problem": {"class_path": "sciops.problems.darcy.Darcy"}}, "empty box alone"),
        ({"steps": 0}, "must be 1 or more"),
    ],
)
def test_bad_data_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ResidualData(**options)  # type: ignore[arg-type]


def test_matrices_of_a_problem() -> None:
    problem = {"class_path": "sciops.problems.darcy.Darcy", "init_args": {"law": "lognormal"}}
    data = ResidualData("matrices", [9, 9], problem, layout="node", matrices=2, steps=1, batch_size=6, valid=2)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch.b.dtype == torch.float32 and batch.x is not None
    assert torch.allclose(batch.A.matvec(batch.x), batch.b, atol=1e-4)
    distinct = {tuple(row) for row in batch.A.diagonal().flatten(1)[:, :3].tolist()}
    assert len(distinct) == 2


def split(problem: Problem, first: int, count: int) -> MemoryDataset:
    cases = problem.sample([case_seed(0, first + i) for i in range(count)], Grid.box(17, ndim=2))
    return MemoryDataset(cases, Field.steady(torch.full((count, 1, 17, 17), torch.nan), cases.domain, ("u",)))


SMALL = {"class_path": "sciops.models.dcdm.DCDM", "init_args": {"size": [1, 1, 1], "width": 8}}


def test_the_contestant_trains_without_truth_and_beats_cg_on_its_problem() -> None:
    problem = Poisson(modes=8)
    train, val = split(problem, 0, 4), split(problem, 100, 2)  # their truth is NaN and never read
    solver = ConjugateDirections(SMALL, steps=150, lr=5e-3, harvest=2)
    report = solver.fit(train, val)
    assert report.status is Status.OK and report.steps == 150 and report.parameters == solver.parameters() > 0
    assert report.curves["val_loss"][-1] < report.curves["val_loss"][0]
    cases = split(problem, 200, 3).cases()
    learned, plain = (s.solve(cases, cases.domain) for s in (solver, PlainCG()))
    assert learned.ok
    size = float(plain.field.values.abs().max())
    assert torch.allclose(learned.field.values, plain.field.values, atol=1e-6 * size)
    counts = [answer.stats["iterations"].double().mean() for answer in (learned, plain)]
    assert float(counts[0]) < 0.5 * float(counts[1])


def test_trains_on_matrices_that_differ_from_case_to_case() -> None:
    problem = Darcy(law="lognormal")
    solver = ConjugateDirections(SMALL, steps=20, matrices=2, harvest=0)
    report = solver.fit(split(problem, 0, 3), split(problem, 100, 1))
    assert report.steps == 20 and report.curves["train_loss"][-1] < report.curves["train_loss"][0]


def test_a_budget_shortens_the_training() -> None:
    solver = ConjugateDirections(steps=10_000, harvest=1)
    problem = Poisson(modes=8)
    report = solver.fit(split(problem, 0, 3), split(problem, 50, 2), Budget(seconds=1.5))
    assert report.status is Status.BUDGET and 1 <= report.steps < 2000 and report.seconds < 20
    assert "fitted into the budget" in report.advice


class Worsens(ConjugateDirectionsModule):
    """Is best after the second epoch, says its validation loss."""

    def validation_step(self, batch: SystemBatch, index: int) -> None:
        self.log("val_loss", torch.tensor([2.0, 1.0, 3.0, 4.0][self.current_epoch]), batch_size=len(batch.b))


def test_the_last_checkpoint_is_of_the_last_epoch_even_where_an_earlier_one_was_better(tmp_path: Path) -> None:
    trainer = pl.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[checkpoints(tmp_path, "val_loss")], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Worsens(SMALL, schedule="constant"), datamodule=ResidualData(shape=[6, 6], steps=2, valid=2))
    steps = {name: torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["global_step"] for name in ("best", "last")}
    assert steps == {"best": 4, "last": 8}

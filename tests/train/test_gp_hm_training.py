"""GP-HM through the command line: the solver's own optimisation with logs, checkpoints and an exact resume."""

import csv
import multiprocessing
import os
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml

from sciops.cli import main
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.data.case_data import CaseData
from sciops.problems.poisson import Poisson
from sciops.solvers.collocation import Equation
from sciops.solvers.gp_hm_module import GPHMModule
from sciops.solvers.gp_hm_objective import GPHMObjective
from sciops.solvers.gp_hm_training import checkpoint_error, descend

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "experiments" / "poisson_1d_high_frequency" / "gp_hm.yaml"


def configured(folder: Path) -> str:
    """The published recipe on a short wave: 40 nodes, four epochs of four steps, one restart of Adam."""
    table = yaml.safe_load(RECIPE.read_text(encoding="utf8"))
    table["trainer"] = {"max_epochs": 4, "accelerator": "cpu"}
    table["model"]["init_args"] |= {"components": 5, "max_frequency": 8.0, "adam_reset": [6]}
    problem = {"class_path": "sciops.problems.poisson.Poisson", "init_args": {"ndim": 1, "exact_solution": "sin(20*x)"}}
    table["data"]["init_args"] |= {"problem": problem, "shape": [40], "upper": 1.0, "steps": 4, "points": 50}
    file = folder / "fit.yaml"
    file.write_text(yaml.safe_dump(table))
    return str(file)


def fit(folder: Path, config: str, *more: str) -> int:
    return main(["fit", "--config", config, "--runs", str(folder), "--name", "tiny", *more])


def column(run: Path, name: str) -> list[float]:
    with (run / "metrics.csv").open() as handle:
        return [float(row[name]) for row in csv.DictReader(handle)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_training_is_the_solvers_own_and_resumes_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(tmp_path)
    assert fit(tmp_path / "straight", config) == 0
    assert "best val_residual" in capsys.readouterr().out
    straight = tmp_path / "straight" / "tiny"
    assert {p.name for p in straight.rglob("*") if p.is_file()} == {
        "config.yaml",
        "metrics.csv",
        "best.ckpt",
        "last.ckpt",
    }
    # The same numbers as the loop in the solver.
    equation = Equation(Poisson(ndim=1, exact_solution="sin(20*x)").sample([0], Grid.box(40)))
    model = GPHMObjective(equation, equation.case.domain, "student_t", 5, (8.0,))
    assert descend(model, 16, 0.01, (6,)) == 16
    trained = {name.removeprefix("objective."): value for name, value in weights(straight).items()}
    assert trained.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(trained[name], value) for name, value in model.named_parameters())
    x = Grid.box(50).points()
    truth = torch.sin(20 * x[:, 0])
    error = float((model.snapshot()(x) - truth).norm() / truth.norm())
    assert column(straight, "val_rel_l2")[-1] == pytest.approx(error, rel=1e-5)
    assert checkpoint_error(equation, model.snapshot()) == pytest.approx(error, rel=0.05)

    # Killed in its third epoch, then resumed.
    process = multiprocessing.get_context("fork").Process(target=_die_at_step_ten, args=(tmp_path / "cut", config))
    process.start()
    process.join(120)
    assert process.exitcode == 9
    assert fit(tmp_path / "cut", config, "--ckpt_path", "last") == 0
    resumed = weights(tmp_path / "cut" / "tiny")
    assert all(torch.equal(value, resumed[name]) for name, value in weights(straight).items())
    for name in ("train_loss", "val_residual", "val_rel_l2"):
        assert column(straight, name) == column(tmp_path / "cut" / "tiny", name)

    # A fit of other size is refused in one sentence.
    assert fit(tmp_path / "cut", config, "--ckpt_path", "last", "--data.init_args.shape", "[30]") == 2


def _die_at_step_ten(runs: Path, config: str) -> None:
    import sciops.train.cli as cli

    class Kill(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
            if trainer.global_step == 10:
                os._exit(9)

    usual = cli.default_callbacks
    cli.default_callbacks = lambda *a, **k: [*usual(*a, **k), Kill()]  # type: ignore[assignment]
    fit(runs, config)


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="kernel must be one of"):
        GPHMModule(kernel="rbf")
    with pytest.raises(UsageError, match="steps must be 1 or more"):
        CaseData({"class_path": "sciops.problems.poisson.Poisson"}, steps=0)
    data = CaseData({"class_path": "sciops.problems.poisson.Poisson", "init_args": {"ndim": 2}}, shape=(9,))
    with pytest.raises(UsageError, match="one number for each axis"):
        data.setup()
    with pytest.raises(UsageError, match="needs the case"):
        module = GPHMModule()
        module.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        module.configure_model()

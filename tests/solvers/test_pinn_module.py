"""A physics-informed network under Lightning: the solver's machine, exact resume, answers for its own case alone."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml

from sciops.core.errors import DataError, UsageError
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.data.case_data import CaseData
from sciops.problems.peaks import OnePeak
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn import PINN
from sciops.solvers.pinn_checkpoint import TrainedPINN
from sciops.solvers.pinn_module import PINNModule

SMALL = {"width": 6, "depth": 2, "points": 60, "weak_modes": 0}
FLOW = {"class_path": "sciops.models.densities.SplineFlow", "init_args": {"layers": 2, "bins": 4, "width": 8}}
AAS = {
    "class_path": "sciops.solvers.samplers.aas.AAS",
    "init_args": {"flow": FLOW, "pool": 200, "rounds": 1, "steps": 3, "batch": 100},
}
ADAM = {**SMALL, "optimiser": [{"name": "adam", "lr": 1e-3}], "sampler": AAS, "every": 1, "boundary": "soft"}
ORACLE = {"class_path": "sciops.solvers.samplers.oracle.Oracle", "init_args": {"cells": 256}}
GAUSS_NEWTON = {**SMALL, "optimiser": "gauss_newton", "sampler": ORACLE, "weak_modes": 2, "every": 2}
MIXED = {**SMALL, "optimiser": [{"name": "adam", "steps": 3}, {"name": "ss_broyden", "max_iter": 3}]}
MIXED |= {"every": 2, "sampler": "sciops.solvers.samplers.r3.R3", "population": "published"}
PROBLEM = {"class_path": "sciops.problems.peaks.OnePeak", "init_args": {"sharpness": 20.0}}


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pools that stand for the box are what takes long with networks this small."""
    monkeypatch.setattr("sciops.solvers.pinn_initialisation.POOL", {2: 400})
    monkeypatch.setattr("sciops.solvers.pinn.CHECKS", 200)


def data(steps: int = 4, problem: dict | None = None) -> CaseData:
    return CaseData(problem or PROBLEM, (17, 17), -1.0, 1.0, steps, 17)


def trainer(folder: Path, epochs: int, *callbacks: pl.Callback) -> pl.Trainer:
    keeper = pl.callbacks.ModelCheckpoint(dirpath=folder, filename="kept", save_last=True, every_n_epochs=1)
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[keeper, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )


def states_equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(states_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(states_equal, a, b))
    return a == b or (a != a and b != b)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("settings", "steps"), [(ADAM, 55), (GAUSS_NEWTON, 3), (MIXED, 3)], ids=["aas", "gn", "ssb"])
def test_training_is_the_solvers_own_and_resumes_bit_for_bit(tmp_path: Path, settings: dict, steps: int) -> None:
    whole, runner = PINNModule(**settings), trainer(tmp_path / "whole", 2)
    runner.fit(whole, data(steps))
    assert runner.global_step == 2 * steps == whole.training_machine.steps

    # The machine of the solver, stepped by hand.
    case = OnePeak(sharpness=20.0).sample([0], Grid.box((17, 17), -1.0, 1.0))
    machine = PINN(**settings).training(Equation(case))
    while machine.steps < 2 * steps:
        machine.step()
    assert states_equal(machine.state_dict(), whole.training_machine.state_dict())
    assert whole.training_machine.points.x.shape[0] > 0 and len(set(machine.losses)) > 1

    half = PINNModule(**settings)
    trainer(tmp_path / "half", 1).fit(half, data(steps))
    assert not states_equal(half.training_machine.state_dict(), whole.training_machine.state_dict())
    torch.rand(7)  # the global state of random numbers has no say
    resumed, runner = PINNModule(**settings), trainer(tmp_path / "half", 2)
    runner.fit(resumed, data(steps), ckpt_path=str(tmp_path / "half" / "last.ckpt"), weights_only=True)
    assert runner.global_step == 2 * steps
    assert states_equal(resumed.training_machine.state_dict(), whole.training_machine.state_dict())
    assert states_equal(resumed.state_dict(), whole.state_dict())


@pytest.mark.filterwarnings("ignore")
def test_the_network_and_the_density_are_two_optimisers(tmp_path: Path) -> None:
    module, runner = PINNModule(**ADAM), trainer(tmp_path, 1)
    runner.fit(module, data(2))
    network, density = runner.optimizers
    assert (network.param_groups[0]["lr"], density.param_groups[0]["lr"]) == (1e-3, 3e-3)
    flow = module.training_machine.sampler.flow
    assert {id(p) for p in density.param_groups[0]["params"]} <= {id(p) for p in flow.parameters()}
    logged = set(runner.callback_metrics)
    assert {"train_loss", "val_residual", "val_rel_l2", "points", "beta", "coverage"} <= logged
    x = data().grid.resized(17).points()
    truth = torch.exp(-20 * (x - 0.5).square().sum(1))
    with torch.no_grad():
        error = float((module.trial(x)[:, 0] - truth).norm() / truth.norm())
    assert float(runner.callback_metrics["val_rel_l2"]) == pytest.approx(error, rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_answers_its_own_case_and_refuses_another(tmp_path: Path) -> None:
    module, runner = PINNModule(**GAUSS_NEWTON), trainer(tmp_path, 1)
    runner.fit(module, data(6))
    solver = TrainedPINN(str(tmp_path / "last.ckpt"), threshold=5.0)
    grid = Grid.box((33, 29), -1.0, 1.0)
    own = OnePeak(sharpness=20.0).sample([3], grid)
    answer = solver.solve(own, grid)
    with torch.no_grad():
        assert torch.equal(answer.field.values.flatten(), module.trial(grid.points())[:, 0])
    assert answer.ok and float(answer.stats["residual"][0]) == pytest.approx(
        float(runner.callback_metrics["val_residual"]), rel=1e-5
    )
    others = {
        "its forcing": OnePeak(sharpness=21.0).sample([0], grid),
        "its box": OnePeak(sharpness=20.0).sample([0], Grid.box((9, 9), -1.0, 1.1)),
    }
    for words, case in others.items():
        refused = solver.solve(case, grid)
        assert refused.status == [Status.FAILED] and not any(refused.field.finite())
        assert f"this one differs in {words}" in refused.stats["advice"][0]
    for probe, words in (("ones", "its coefficients"), ("y1", "its boundary data at y1")):
        solver.facts["probes"][probe][0] += 1
        assert solver.difference(Equation(own)) == words
        solver.facts["probes"][probe][0] -= 1
    strict = TrainedPINN(str(tmp_path / "last.ckpt"), threshold=1e-12).solve(own, grid)
    assert strict.status == [Status.UNRESOLVED]


@pytest.mark.filterwarnings("ignore")
def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="optimiser must be one of"):
        PINNModule(optimiser="sgd")
    with pytest.raises(TypeError, match="wdith"):
        PINNModule(wdith=3)
    with pytest.raises(UsageError, match="needs the case"):
        module = PINNModule()
        module.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        module.configure_model()
    trainer(tmp_path, 1).fit(PINNModule(**GAUSS_NEWTON), data(1))
    kept = str(tmp_path / "last.ckpt")
    with pytest.raises(UsageError, match="another size"):
        trainer(tmp_path / "b", 2).fit(PINNModule(**GAUSS_NEWTON | {"width": 7}), data(1), ckpt_path=kept)
    content = torch.load(kept, weights_only=True)
    content["hyper_parameters"]["sampler"] = "somewhere.not_imported.Sampler"
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(UsageError, match="not imported"):
        TrainedPINN(str(tmp_path / "bad.ckpt"))
    content["sciops"]["kind"] = "gp_hm"
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(UsageError, match="holds no physics-informed network"):
        TrainedPINN(str(tmp_path / "bad.ckpt"))
    (tmp_path / "text.ckpt").write_text(yaml.safe_dump({"a": 1}))
    with pytest.raises(DataError):
        TrainedPINN(str(tmp_path / "text.ckpt"))


@pytest.mark.filterwarnings("ignore")
def test_a_loss_that_is_not_finite_ends_the_training_at_the_best_parameters(tmp_path: Path) -> None:
    settings = {**SMALL, "optimiser": [{"name": "adam", "lr": 1e200}]}
    module, runner = PINNModule(**settings), trainer(tmp_path, 50)
    runner.fit(module, data(10))
    machine = module.training_machine
    assert machine.done and runner.global_step < 50
    assert all(bool(torch.isfinite(p).all()) for p in machine.trial.parameters())

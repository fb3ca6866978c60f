"""Latent spectral models as solvers: facts of the problem, checkpoints, mixed precision, the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sciops.cli import main
from sciops.core.dataset import MemoryDataset
from sciops.core.grid import Grid
from sciops.problems.poisson import Poisson
from sciops.solvers.operator import OperatorSolver
from sciops.solvers.operator_facts import complete

Make = Callable[..., MemoryDataset]
PATH = "sciops.models.lsm.LSM"
NET = {"class_path": PATH, "init_args": {"width": 8, "levels": 2}}


def test_the_problem_completes_the_network(tiny: Make) -> None:
    facts = {
        "kept": ["f", "g"],
        "outputs": ["u"],
        "boundary": [["periodic", "periodic"], ["neumann", "neumann"]],
        "grid": {"layout": ["periodic", "cell"]},
    }
    found = complete(NET, facts)["init_args"]
    assert (found["in_channels"], found["out_channels"], found["ndim"]) == (2, 1, 2)
    assert found["bc"] == ["periodic", "neumann"] and found["layout"] == "cell"
    assert OperatorSolver(NET).refuses(Poisson(ndim=2), Grid.box(33, ndim=2)) is None
    reason = OperatorSolver({"class_path": PATH, "init_args": {"width": 8}}).refuses(
        Poisson(ndim=2, condition="neumann", modes=4), Grid.box(9, ndim=2)
    )
    assert reason is not None and "too small for 5 levels" in reason


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_train_save_load(tiny: Make, tmp_path: Path, precision: str) -> None:
    solver = OperatorSolver(NET, epochs=4, lr=1e-2, batch_size=4, precision=precision, device="cpu")
    report = solver.fit(tiny(0, 16), tiny(16, 20))
    assert report.curves["train_loss"][-1] < 0.5 * report.curves["train_loss"][0]
    solver.save(tmp_path)
    back = OperatorSolver.from_checkpoint(tmp_path)
    cases = tiny(20, 23).cases()
    mine, theirs = (s.solve(cases, Grid.box(31, ndim=2)).field.values for s in (solver, back))
    assert mine.shape == (3, 1, 1, 31, 31) and torch.equal(mine, theirs)
    # Evaluation mode: a case's answer does not depend on the others.
    alone = solver.solve(tiny(21, 22).cases(), Grid.box(31, ndim=2)).field.values
    assert (alone - mine[1:2]).abs().max() < 1e-5 * mine.abs().max()


def test_command_line(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (project / "fit.yaml").read_text().replace("sciops.models.mgno.MgNO", PATH)
    text = text.replace('{width: 4, layers: 2, iterations: ["10", "10", "20"]}', "{width: 8, levels: 2, patch: 1}")
    (tmp_path / "lsm.yaml").write_text(text)
    run = ["fit", "--config", str(tmp_path / "lsm.yaml"), "--runs", str(tmp_path), "--name", "lsm"]
    assert main([*run, "--model.init_args.schedule", "step"]) == 0
    assert "best val_rel_l2" in capsys.readouterr().out
    assert main(["test", "--ckpt_path", str(tmp_path / "lsm" / "checkpoints" / "best.ckpt")]) == 0
    assert "test_rel_l2" in capsys.readouterr().out

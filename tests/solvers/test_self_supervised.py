"""What the self-supervised methods share: recorded arguments, checkpoints of their own kind, one-cycle resumes."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.data.matrix_data import MatrixData
from sciops.problems.poisson import Poisson
from sciops.solvers.conjugate_directions import ConjugateDirections
from sciops.solvers.conjugate_directions_module import ConjugateDirectionsModule
from sciops.solvers.learned_multigrid_module import LearnedMultigridModule
from sciops.solvers.self_supervised_module import SelfSupervisedModule

DCDM = {"class_path": "sciops.models.dcdm.DCDM", "init_args": {"ndim": 2, "size": [1, 1, 1], "width": 4}}
ADVISER = {"class_path": "sciops.models.learned_multigrid.StencilAdviser", "init_args": {"ndim": 2, "width": 4}}
BOTH = pytest.mark.parametrize("kind", [ConjugateDirectionsModule, LearnedMultigridModule])


def made(kind: type[SelfSupervisedModule], **options: Any) -> Any:
    return kind(DCDM if kind is ConjugateDirectionsModule else ADVISER, **options)  # type: ignore[call-arg]


def test_new_weights_replace_what_was_prepared_with_the_old_ones() -> None:
    """Poisson's matrix is prepared once and kept; a solver that is given other weights must not go on with it."""
    problem, grid = Poisson(modes=8), Grid.box(17, ndim=2)
    cases = problem.sample([1], grid)
    first, second = (made(ConjugateDirectionsModule, seed=seed) for seed in (1, 2))
    used, fresh = (ConjugateDirections(DCDM, maxiter=12) for _ in range(2))
    used._install(first)
    before = used.solve(cases, grid).field.values
    used._install(second)
    fresh._install(second)
    after, expected = (solver.solve(cases, grid).field.values for solver in (used, fresh))
    assert torch.equal(after, expected) and not torch.equal(before, expected)


@BOTH
def test_arguments_are_recorded_as_given(kind: type[SelfSupervisedModule]) -> None:
    module = made(kind, lr=0.125, seed=7)
    assert (module.hparams["lr"], module.hparams["seed"], module.hparams["schedule"]) == (0.125, 7, "onecycle_step")
    assert module.hparams["net"] == module.facts["net"]
    assert "net" not in kind(module.net).hparams  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="schedule must be onecycle_step or constant; got 'cosine'"):
        made(kind, schedule="cosine")


def test_networks_of_another_method_are_refused() -> None:
    multigrid, directions = made(LearnedMultigridModule), made(ConjugateDirectionsModule)
    for mine, theirs, words in (
        (multigrid, directions, "does not hold a network for the learned multigrid"),
        (directions, multigrid, "does not hold a network for conjugate directions"),
    ):
        content: dict[str, Any] = {"state_dict": theirs.state_dict()}
        theirs.on_save_checkpoint(content)
        with pytest.raises(UsageError, match=words):
            mine.on_load_checkpoint(content)


def test_learned_multigrid_cannot_be_resumed_into_another_length(tmp_path: Path) -> None:
    problems = [{"class_path": "sciops.problems.high_contrast.HighContrast"}]

    def run(epochs: int, start: Path | None = None) -> pl.Trainer:
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
        )  # fmt: skip
        data = MatrixData(problems, shape=(24, 24), matrices=2, steps=2, batch_size=2, valid=2)
        trainer.fit(made(LearnedMultigridModule, steps=2), datamodule=data, ckpt_path=start)
        return trainer

    file = tmp_path / "two.ckpt"
    run(1).save_checkpoint(file)
    with pytest.raises(UsageError, match="OneCycle schedule ends after 2 steps, this run has 6"):
        run(3, file)

"""An operator as a solver: it learns, resumes bit for bit, keeps to budgets, and its files are safe and checked."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from sciops.core.dataset import MemoryDataset
from sciops.core.errors import DataError, UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.solver import Budget
from sciops.metrics.pointwise import relative_l2
from sciops.problems.poisson import Poisson
from sciops.solvers.checkpoint import KEY
from sciops.solvers.operator import OperatorSolver
from sciops.solvers.operator_module import OperatorModule

MGNO = {
    "class_path": "sciops.models.mgno.MgNO",
    "init_args": {"width": 8, "layers": 2, "iterations": ["10", "10", "20"]},
}
Make = Callable[..., MemoryDataset]


def solver(net: dict[str, Any] = MGNO, **options: Any) -> OperatorSolver:
    return OperatorSolver(net, **({"epochs": 2, "lr": 1e-2, "weight_decay": 0.0, "device": "cpu"} | options))


def test_it_overfits_a_tiny_set_and_the_boundary_holds_exactly(tiny: Make) -> None:
    train = tiny(0, 8)
    learner = solver(epochs=60, batch_size=4)
    report = learner.fit(train, train)
    curve = report.curves["train_loss"]
    assert curve[-1] < 0.1 * curve[0]
    assert report.status is Status.OK and report.steps == 120 and report.parameters == learner.parameters() > 0
    solution = learner.solve(train.cases(), train.grid)
    error = relative_l2(solution.field, train.truth())
    assert float(error.mean()) == pytest.approx(min(report.curves["val_rel_l2"]), rel=1e-3)
    u = solution.field.values
    assert u.dtype == torch.float32 and solution.ok
    # A scalar output normaliser shifts by a mean: the condition must hold after decoding.
    for face in (u[..., 0, :], u[..., -1, :], u[..., 0], u[..., -1]):
        assert float(face.abs().max()) == 0.0


def test_the_constant_forcing_is_left_out_and_recorded(tiny: Make) -> None:
    learner = solver(epochs=1)
    learner.fit(tiny(0, 8), tiny(8, 10))
    assert learner.module.facts["kept"] == ["a"] and learner.module.facts["constants"] == {"f": 1.0}
    other = tiny(10, 12)
    inputs = other.stored.inputs.values.clone()
    inputs[:, :, 1] = 2.0
    changed = MemoryDataset(
        type(other.stored)(other.problem, other.grid, Field(inputs, other.grid, ("a", "f"))), other.answers
    )
    with pytest.raises(UsageError, match=r"trained with f = 1 everywhere .* from 2 to 2"):
        learner.solve(changed.cases(), other.grid)
    both = solver(epochs=1, inputs=["a", "f"])
    both.fit(tiny(0, 8), tiny(8, 10))
    assert both.module.facts["kept"] == ["a", "f"] and both.module.net.layers[0].L.in_channels == 2


@pytest.mark.parametrize("schedule", ["onecycle_step", "onecycle_epoch"])
def test_resume_is_bit_exact(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
    """10 epochs equal 4 epochs, a crash in the fifth, and 6 epochs."""
    train, val = tiny(0, 20), tiny(20, 24)

    class Crash(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.current_epoch == 4 and trainer.global_step % 3 == 1:
                raise RuntimeError("killed")

    def run(**options: Any) -> OperatorSolver:
        return solver(epochs=10, schedule=schedule, select="last", normalise_output="pixel", **options)

    straight = run()
    straight.fit(train, val)
    make = pl.Trainer.__init__
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(
            pl.Trainer, "__init__", lambda self, **k: make(self, **{**k, "callbacks": [*k["callbacks"], Crash()]})
        )
        run(workdir=tmp_path).fit(train, val)
    torch.manual_seed(999)  # a resumed run must not depend on the global state
    resumed = run(workdir=tmp_path)
    report = resumed.fit(train, val)
    assert report.steps == 30 and len(report.curves["val_rel_l2"]) == 10
    mine, theirs = resumed.module.state_dict(), straight.module.state_dict()
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)


def test_a_finished_run_is_not_trained_again(tiny: Make, tmp_path: Path) -> None:
    first, again = solver(workdir=tmp_path), solver(workdir=tmp_path)
    first.fit(tiny(0, 8), tiny(8, 10))
    assert again.fit(tiny(0, 8), tiny(8, 10)).steps == 2
    cases = tiny(10, 12).cases()
    assert torch.equal(first.solve(cases, cases.domain).field.values, again.solve(cases, cases.domain).field.values)


def test_a_budget_cuts_all_epochs_alike() -> None:
    """Steps of 0.1 s, validation of 1 s, 100 batches: an epoch takes 11 s."""
    from sciops.solvers.training import shared

    assert shared(1000.0, 0.1, 1.0, 100, 60) == (60, 100)
    assert shared(55.0, 0.1, 1.0, 100, 60) == (5, 100)
    assert shared(20.0, 0.1, 1.0, 100, 60) == (2, 90)
    assert shared(4.0, 0.1, 1.0, 100, 60) == (1, 30)
    assert shared(1.5, 0.1, 1.0, 100, 60) == (1, 7)  # half of the time is left to steps
    assert shared(0.0, 0.1, 1.0, 100, 60) == shared(-3.0, 0.1, 1.0, 100, 60) == (1, 1)


def test_a_shortened_epoch_ends_its_schedule(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sciops.solvers.training.shared", lambda *_: (2, 3))
    learner = solver(epochs=5, batch_size=2, schedule="onecycle_step")
    report = learner.fit(tiny(0, 10), tiny(10, 12), Budget(seconds=60.0))
    assert report.steps == 6 and report.status is Status.BUDGET
    assert report.advice.startswith("1.2 of 5 epochs fitted into the budget of 60 s")
    assert learner.module.facts["epochs"] == 2 and learner.module.facts["batches"] == 3


def test_one_cycle_values(tiny: Make) -> None:
    """Once per epoch: from lr/2 up to lr in a fifth of the epochs, cosine down to start/100; β₁ 0.95 → 0.85 → 0.95."""
    seen: list[tuple[float, float]] = []

    class Watch(OperatorModule):
        def on_train_batch_start(self, batch: Any, index: int) -> None:
            group = self.trainer.optimizers[0].param_groups[0]
            seen.append((group["lr"], group["betas"][0]))

    from sciops.solvers.training import loaders

    train = tiny(0, 16)
    module = Watch(MGNO, lr=5e-4)
    data = loaders(train, train, None, 8, 0, ("scalar", "scalar"))
    module.prepare(train, data.inputs, *data.normalisers)
    trainer = pl.Trainer(
        max_epochs=10, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data.train, data.valid)
    assert len(seen) == 20 and all(seen[2 * i] == seen[2 * i + 1] for i in range(10))
    lr = [seen[2 * i][0] for i in range(10)]
    cosine = [0.5 * (1 + torch.cos(torch.tensor(torch.pi * k / 8)).item()) for k in range(9)]
    low = 2.5e-4 / 100
    assert lr[0] == pytest.approx(2.5e-4) and lr[1:] == pytest.approx(
        [low + (5e-4 - low) * c for c in cosine], rel=1e-6
    )
    assert (
        seen[0][1] == pytest.approx(0.95) and seen[2][1] == pytest.approx(0.85) and seen[-1][1] == pytest.approx(0.95)
    )


@pytest.mark.parametrize("epochs", [1, 2, 5])  # 0.2·5 − 1 = 0 divides by zero in PyTorch's OneCycle
def test_schedules_of_any_length(tiny: Make, epochs: int) -> None:
    report = solver(epochs=epochs, schedule="onecycle_epoch", pct_start=0.2).fit(tiny(0, 8), tiny(8, 10))
    assert len(report.curves["train_loss"]) == epochs


@pytest.mark.parametrize(
    "net",
    [
        MGNO,
        {"class_path": "sciops.models.fno.FNO", "init_args": {"width": 4, "layers": 2, "n_modes": 4}},
        {"class_path": "sciops.models.unet.UNet", "init_args": {"width": 4, "levels": 2}},
    ],
    ids=["mgno", "fno", "unet"],
)
def test_save_load_and_mixed_precision(tiny: Make, tmp_path: Path, net: dict[str, Any]) -> None:
    learner = solver(net, precision="bf16-mixed")
    report = learner.fit(tiny(0, 8), tiny(8, 10))
    assert all(v == v for v in report.curves["train_loss"])
    learner.save(tmp_path)
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert content[KEY]["net"]["class_path"] == net["class_path"]
    assert content[KEY]["problem"]["class_path"] == "sciops.problems.darcy.Darcy"
    assert content[KEY]["grid"]["shape"] == [16, 16]
    back = OperatorSolver.from_checkpoint(tmp_path)
    cases = tiny(10, 12).cases()
    mine, theirs = (s.solve(cases, Grid.box(31, ndim=2)).field.values for s in (learner, back))
    assert mine.shape == (2, 1, 1, 31, 31) and torch.equal(mine, theirs)
    again = solver(net)
    again.load(tmp_path)
    assert torch.equal(again.solve(cases, Grid.box(31, ndim=2)).field.values, mine)


def test_another_model_is_named_in_one_sentence(tiny: Make, tmp_path: Path) -> None:
    learner = solver(epochs=1)
    learner.fit(tiny(0, 8), tiny(8, 10))
    learner.save(tmp_path / "m.ckpt")
    wide = {**MGNO, "init_args": {**MGNO["init_args"], "width": 9}}
    with pytest.raises(
        UsageError, match=r"another model: it was saved from MgNO\(.*width=8.* this is MgNO\(.*width=9"
    ) as found:
        solver(wide).load(tmp_path / "m.ckpt")
    assert "\n" not in str(found.value) and "have another shape" in str(found.value)
    with pytest.raises(UsageError, match="weights are missing"):
        solver({"class_path": "sciops.models.unet.UNet", "init_args": {"levels": 2}}).load(tmp_path / "m.ckpt")


def test_reading_a_checkpoint_runs_no_code(tiny: Make, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"state_dict": {}, KEY: Bomb()}, tmp_path / "bomb.ckpt")
    with pytest.raises(DataError, match="could run code"):
        OperatorSolver.from_checkpoint(tmp_path / "bomb.ckpt")
    (tmp_path / "raw.ckpt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(DataError, match="truncated or no checkpoint"):
        OperatorSolver.from_checkpoint(tmp_path / "raw.ckpt")
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(UsageError, match="does not exist"):
        OperatorSolver.from_checkpoint(tmp_path / "none.ckpt")
    learner = solver(epochs=1)
    learner.fit(tiny(0, 8), tiny(8, 10))
    learner.save(tmp_path / "m.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "m.ckpt").read_bytes()[:5000])
    with pytest.raises(DataError, match="truncated"):
        OperatorSolver.from_checkpoint(tmp_path / "cut.ckpt")
    content = torch.load(tmp_path / "m.ckpt", weights_only=True)
    content[KEY]["net"]["class_path"] = "antigravity.Net"
    torch.save(content, tmp_path / "foreign.ckpt")
    with pytest.raises(UsageError, match="named by a data file but its module is not imported"):
        OperatorSolver.from_checkpoint(tmp_path / "foreign.ckpt")


def test_a_time_budget_shortens_the_schedule_and_says_so(tiny: Make) -> None:
    learner = solver(epochs=100_000)
    report = learner.fit(tiny(0, 8), tiny(8, 10), Budget(seconds=2.0))
    assert report.status is Status.BUDGET and "of 100000 epochs" in report.advice
    assert report.seconds < 6 and learner.solve(tiny(10, 11).cases(), tiny(10, 11).grid).ok


def test_refusals_say_why(tiny: Make) -> None:
    data = tiny(0, 4)
    assert solver().refuses(data.problem, data.grid) is None
    flat = {"class_path": "sciops.models.mgno.PublishedMgNO", "init_args": {"iterations": ["10", "20"]}}
    assert solver(flat).refuses(Poisson(ndim=2), Grid.box(16, ndim=2)) is None
    assert solver(flat).refuses(Poisson(ndim=1), Grid.box(16, ndim=1)) is not None
    assert "too small" in str(solver().refuses(data.problem, Grid.box(4, ndim=2)))
    three = {**MGNO, "init_args": {**MGNO["init_args"], "in_channels": 3}}
    assert "in_channels=3, but the data has 2" in str(solver(three).refuses(data.problem, data.grid))
    assert "no key 'widht'" in str(solver({**MGNO, "init_args": {"widht": 3}}).refuses(data.problem, data.grid))
    with pytest.raises(UsageError, match=r"fit\(train, val\) or load"):
        solver().solve(data.cases(), data.grid)


def test_a_network_with_the_wrong_output_is_one_sentence(tiny: Make) -> None:
    with pytest.raises(UsageError, match=r"does not fit the network: Conv2d cannot take an input .* expected input"):
        solver(nn.Conv2d(3, 1, 3)).fit(tiny(0, 4), tiny(4, 6))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"returns shape \(1, 1, 14, 14\), the problem needs \(1, 1, 16, 16\)"):
        solver(nn.Conv2d(1, 1, 3)).fit(tiny(0, 4), tiny(4, 6))  # type: ignore[arg-type]


def test_a_module_object_works_and_its_file_needs_it_again(tiny: Make, tmp_path: Path) -> None:
    learner = solver(nn.Conv2d(1, 1, 3, padding=1), epochs=1)  # type: ignore[arg-type]
    learner.fit(tiny(0, 8), tiny(8, 10))
    learner.save(tmp_path / "m.ckpt")
    with pytest.raises(UsageError, match="does not name its class"):
        OperatorSolver.from_checkpoint(tmp_path / "m.ckpt")
    same = solver(nn.Conv2d(1, 1, 3, padding=1))  # type: ignore[arg-type]
    same.load(tmp_path / "m.ckpt")
    cases = tiny(8, 10).cases()
    assert torch.equal(learner.solve(cases, cases.domain).field.values, same.solve(cases, cases.domain).field.values)


def test_pixel_normalisers_pin_the_grid_and_scalar_ones_do_not(tiny: Make) -> None:
    fine = tiny(10, 12, n=31)
    for kind, grid in (("pixel", tiny(0, 2).grid), ("scalar", fine.grid)):
        learner = solver(epochs=1, normalise_output=kind)
        learner.fit(tiny(0, 8), tiny(8, 10))
        assert learner.input_grid(fine.grid, fine.grid) == grid
        assert learner.solve(fine.cases(), fine.grid).field.values.shape == (2, 1, 1, 31, 31)


def test_dirichlet_values_that_the_network_would_overwrite_are_refused(tiny: Make) -> None:
    data = tiny(0, 8)
    lifted = MemoryDataset(
        type(data.stored)(data.problem, data.grid, data.stored.inputs, boundary={"x0": torch.ones(8, 16)}), data.answers
    )
    with pytest.raises(UsageError, match="holds u = 0 on the Dirichlet boundary, but the data has other values"):
        solver().fit(lifted, lifted)


def test_init_from_starts_at_the_weights_alone(tiny: Make, tmp_path: Path) -> None:
    learner = solver(epochs=1, normalise_output="scalar")
    learner.fit(tiny(0, 8), tiny(8, 10))
    learner.save(tmp_path / "m.ckpt")
    tuned = solver(epochs=1, lr=1e-30, normalise_output="pixel", init_from=str(tmp_path / "m.ckpt"))
    tuned.fit(tiny(0, 8), tiny(8, 10))
    for a, b in zip(learner.module.net.parameters(), tuned.module.net.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-8)
    assert tuned.module.facts["normalise"] == ["scalar", "pixel"]


def test_seeds_decide_the_weights(tiny: Make) -> None:
    def final(seed: int) -> torch.Tensor:
        learner = solver(epochs=1, seed=seed)
        learner.fit(tiny(0, 8), tiny(8, 10))
        return learner.module.net.head.weight

    state = torch.get_rng_state()
    a, b, c = final(0), final(0), final(1)
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(state, torch.get_rng_state()), "training changed the caller's random state"

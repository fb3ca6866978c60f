"""One-step operators as trajectory solvers: the same numbers as single calls, gradients, resume, files, refusals."""

import copy
from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch
from heat_problem import heat
from torch import nn

from sciops.core.dataset import MemoryDataset
from sciops.core.errors import DataError, UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.solver import Budget
from sciops.data.normalise import Normaliser
from sciops.data.trajectories import WindowRows, fixed_channels
from sciops.data.windows import Windowed
from sciops.metrics.pointwise import relative_l2
from sciops.problems.poisson import Poisson
from sciops.solvers.operator import OperatorSolver
from sciops.solvers.rollout import Rollout
from sciops.solvers.rollout_module import RolloutModule
from sciops.solvers.rollout_wrapped import Rolled

UNET = {"class_path": "sciops.models.unet.UNet", "init_args": {"width": 4, "levels": 2}}
UNET_IN_TIME = {"class_path": "sciops.models.unet.UNet", "init_args": {"width": 4, "levels": 1}}


class Linear(nn.Module):
    """A periodic convolution: what a linear step is."""

    def __init__(self, channels, out=1):
        super().__init__()
        self.conv = nn.Conv1d(channels, out, 5, padding=2, padding_mode="circular")

    def forward(self, x):
        return self.conv(x)


def data(start, stop, history=2, horizon=4, **options):
    return Windowed(heat(start, stop, **options), history, horizon)


def solver(net=UNET, **options):
    return Rollout(net, **({"epochs": 2, "lr": 1e-2, "weight_decay": 0.0, "batch_size": 8, "device": "cpu"} | options))


def prepared(net, train, **options):
    """A module built for the data, in training mode, without any training."""
    module = RolloutModule(net, **options)
    module.prepare(train, [], Normaliser("channel"), Normaliser("channel"))
    return module


@pytest.mark.parametrize("options", [{}, {"residual": True}, {"time": True, "history": 1}, {"block": 3}], ids=str)
def test_a_block_is_stacked_single_steps(options):
    train, test = data(0, 6), data(6, 9)
    learner = solver(epochs=1, **options)
    learner.fit(train, data(9, 11))
    module, cases = learner.module, test.cases()
    solution = learner.solve(cases, test.grid)
    assert solution.ok and solution.field.times == test.truth().times
    h, frames = module.facts["history"], cases.history.values
    fixed, t, made = fixed_channels(cases, ["a"], []), cases.history.times[-1], []
    assert module.facts["kept"][:h] == [f"u@{j}" for j in range(1 - h, 1)] and "a" in module.facts["kept"]
    with torch.no_grad():
        while len(made) < 4:
            past = frames[:, -h:]
            x = torch.cat([past[:, :, 0], fixed], 1)
            if module.facts["time"]:
                x = torch.cat([x, torch.full_like(x[:, :1], t)], 1)
            answer = module.decoder.decode(module.net(module.encoder.encode(x)))
            if module.facts["residual"]:
                answer = answer + past[:, -1]
            made += list(answer.split(1, 1))
            frames = torch.cat([frames, answer[:, :, None]], 1)
            t += 0.5 * answer.shape[1]
    stacked = torch.stack(made[:4], 1)
    assert torch.allclose(solution.field.values, stacked, atol=1e-6)
    # The published number is the relative L² norm of the whole block, which single steps give as well.
    truth = test.truth().values
    by_hand = (stacked - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
    assert torch.allclose(relative_l2(solution.field, test.truth()).float(), by_hand, rtol=1e-5)


def test_learning_helps_and_both_errors_are_reported():
    train, val, test = data(0, 16, frames=7), data(16, 20, frames=7), data(20, 24, frames=7)
    learner = solver(Linear(3), residual=True, epochs=15, lr=3e-2)
    report = learner.fit(train, val)
    curves = report.curves
    assert set(curves) >= {"train_loss", "val_rel_l2", "val_rel_h1", "val_teacher_forced"}
    assert min(curves["val_rel_l2"]) < 0.5 * curves["val_rel_l2"][0]
    still = test.cases().history.values[:, -1:].expand_as(test.truth().values)
    field = learner.solve(test.cases(), test.grid).field
    persistence = relative_l2(replace(field, values=still), test.truth())
    assert relative_l2(field, test.truth()).mean() < 0.5 * persistence.mean()
    best = learner.solve(val.cases(), val.grid).field
    assert float(relative_l2(best, val.truth()).mean()) == pytest.approx(min(curves["val_rel_l2"]), rel=1e-4)


@pytest.mark.parametrize("block", [1, 2])
def test_a_recurrent_network_is_told_which_channels_are_frames(block):
    """Two frames, then the coefficient and the time: not four frames; compressed as well."""
    dense = {"class_path": "sciops.models.conv_lstm.ConvLSTM", "init_args": {"width": 4, "layers": 1}}
    thin = {"class_path": "sciops.models.compressed.network.Compressed", "init_args": {"net": dense, "scheme": "cp"}}
    for net in (dense, thin):
        learner = solver(net, epochs=1, time=True, residual=True, block=block)
        assert learner.refuses(data(0, 6).problem, data(0, 6).grid) is None
        learner.fit(data(0, 6), data(6, 8))
        inner = learner.module.net if net is dense else learner.module.net.net
        assert (inner.frames, inner.frame_channels, inner.fixed, inner.answers) == (2, 1, 2, block)
        assert learner.solve(data(8, 10).cases(), data(8, 10).grid).ok


def gradient(module, batch):
    module.zero_grad()
    module.objective(batch).backward()
    return [p.grad.clone() for p in module.net.parameters()]


def test_pushforward_differentiates_the_last_step_alone():
    train = data(0, 4, history=1, horizon=4)
    module = prepared(Linear(2), train, strategy="pushforward", steps=3)
    rows = module.rows(train, training=True)
    batch = rows.__getitems__([0, 1, 2, 3])
    assert batch["frames"].shape[1] == 4
    found = gradient(module, batch)
    with torch.no_grad():
        past = module.roll(batch["frames"][:, :1], batch["fixed"], batch["time"], 2)[:, -1:]
    # The same as one step from frames that somebody else made.
    other = batch | {"frames": torch.cat([past, batch["frames"][:, 3:]], 1)}
    single = copy.deepcopy(module)
    single.hparams["strategy"] = "one_step"
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(found, gradient(single, other), strict=True))
    full = copy.deepcopy(module)
    full.hparams["strategy"] = "unrolled"
    through = gradient(full, batch)
    assert not any(torch.allclose(a, b, rtol=1e-2) for a, b in zip(found, through, strict=True))


@pytest.mark.parametrize("recompute", [False, True])
def test_unrolled_sums_losses_and_differentiates_through_all_steps(recompute):
    train = data(0, 4, history=1, horizon=4)
    module = prepared(Linear(2), train, strategy="unrolled", recompute=recompute).double()
    assert module.facts["steps"] == 4  # the whole horizon, as published
    batch = {
        k: v.double() if v.is_floating_point() else v for k, v in module.rows(train, True).__getitems__([0, 1]).items()
    }
    found = gradient(module, batch)
    weight, step = module.net.conv.weight, 1e-6
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 0, 2] += sign * step
            u = module.roll(batch["frames"][:, :1], batch["fixed"], batch["time"], 4)
            y = batch["frames"][:, 1:]
            losses.append(((u - y).flatten(2).norm(dim=2) / y.flatten(2).norm(dim=2)).sum())
            weight[0, 0, 2] -= sign * step
    assert float(losses[0] - losses[1]) / (2 * step) == pytest.approx(float(found[0][0, 0, 2]), rel=1e-5)


def test_noise_is_a_share_of_the_spread_of_the_data_and_spares_the_target():
    train = data(0, 4, history=1, horizon=4)
    module = prepared(Linear(2), train, strategy="noise", noise=0.1)
    values = train.base.truth().values[:, :5]
    assert module.facts["spread"][0] == pytest.approx(float(values.std()), rel=1e-5)
    batch = module.rows(train, True).__getitems__(list(range(16)))
    seen = []
    module.advance = lambda past, fixed, time: seen.append(past) or past
    for _ in range(20):
        module.objective(batch)
    error = torch.cat([past - batch["frames"][:, :1] for past in seen])
    assert float(error.std()) == pytest.approx(0.1 * float(values.std()), rel=0.05)


@pytest.mark.parametrize("strategy", ["unrolled", "noise"])
def test_resume_is_bit_exact(tmp_path, monkeypatch, strategy):
    """4 epochs equal one, a crash in the second, and the rest; noise is drawn anew, the same."""
    train, val = data(0, 10), data(10, 12)

    class Crash(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.current_epoch == 1 and trainer.global_step % 2 == 1:
                raise RuntimeError("killed")

    def run(**options):
        return solver(strategy=strategy, epochs=4, batch_size=5, select="last", **options)

    straight = run()
    straight.fit(train, val)
    make = pl.Trainer.__init__
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(
            pl.Trainer, "__init__", lambda self, **k: make(self, **{**k, "callbacks": [*k["callbacks"], Crash()]})
        )
        run(workdir=tmp_path).fit(train, val)
    torch.manual_seed(999)
    resumed = run(workdir=tmp_path)
    report = resumed.fit(train, val)
    assert len(report.curves["val_rel_l2"]) == 4
    mine, theirs = resumed.module.state_dict(), straight.module.state_dict()
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)


def test_files(tmp_path):
    train, test = data(0, 6), data(6, 9)
    learner = solver(residual=True)
    learner.fit(train, test)
    learner.save(tmp_path)
    cases = test.cases()
    expected = learner.solve(cases, test.grid).field.values
    again = Rollout.from_checkpoint(tmp_path, device="cpu")
    assert torch.equal(again.solve(cases, test.grid).field.values, expected)
    assert again.module.facts["every"] == 0.5 and again.module.facts["protocol"] == "two_to_four"
    with pytest.raises(UsageError, match=r"was trained on 2 frame\(s\) of history, this run has 1"):
        solver(history=1).load(tmp_path)
    with pytest.raises(UsageError, match=r"holds a one-step operator \(Rollout\), this is a steady map"):
        OperatorSolver(UNET).load(tmp_path)
    (tmp_path / "model.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(DataError, match="truncated or no checkpoint"):
        solver().load(tmp_path)


def test_wrong_cases_are_named_in_a_sentence():
    train, test = data(0, 6), data(6, 9)
    learner = solver(epochs=1)
    learner.fit(train, test)
    cases = test.cases()
    one = Field(cases.history.values[:, -1:], cases.domain, ("u",), cases.history.times[-1:])
    with pytest.raises(UsageError, match="was trained on 2 frames of history, but the cases bring 1"):
        learner.solve(replace(cases, history=one), test.grid)
    apart = replace(cases.history, times=(0.0, 0.7))
    with pytest.raises(UsageError, match=r"frames 0.5 apart, but the history has them 0.7 apart"):
        learner.solve(replace(cases, history=apart), test.grid)
    with pytest.raises(UsageError, match=r"steps by 0.5 from t = 0.5, so it has no frame at t = 0.8"):
        learner.solve(replace(cases, times=(1.0, 0.8)), test.grid)
    with pytest.raises(UsageError, match=r"trained on 1 output channel\(s\) \(u\), but the frames bring 2"):
        learner.module.roll(torch.zeros(1, 2, 2, 16), torch.zeros(1, 1, 16), torch.zeros(1), 1)
    with pytest.raises(UsageError, match="5 frames of history, but the protocol two_to_four gives 2"):
        solver(history=5).fit(train, test)
    with pytest.raises(UsageError, match="the data offers 6 frames"):
        solver(strategy="unrolled", steps=9).fit(train, test)
    assert "Poisson is steady" in learner.refuses(Poisson(), Grid.box(16, ndim=2))


def test_a_trajectory_with_nan_is_named():
    train = heat(0, 6)
    train.answers.values[4, 3] = torch.nan
    with pytest.raises(UsageError, match=r"Training case 4 holds NaN or infinity in frame 3 \(t = 1.5\)"):
        solver().fit(train, heat(6, 8))


def test_it_starts_from_the_inputs_where_there_is_no_history():
    train, test = heat(0, 6, frames=5), heat(6, 9, frames=5)
    learner = solver(epochs=1)
    learner.fit(train, test)
    cases = test.cases()
    assert learner.module.facts["history"] == 1 and learner.module.facts["initial"] == ["u"]
    solution = learner.solve(cases, test.grid)
    assert solution.field.times == cases.times and torch.equal(solution.field.values[:, 0, 0], cases.input("u"))
    later = learner.solve(replace(cases, times=(2.0,)), test.grid)
    assert torch.equal(later.field.values[:, 0], solution.field.values[:, 4])


def test_convolutions_over_time_take_a_block_to_the_next():
    train, test = data(0, 6, history=3, horizon=5), data(6, 9, history=3, horizon=5)
    net = {"class_path": "sciops.models.unet.UNet", "init_args": {"width": 4, "levels": 1}}
    learner = solver(net, time_axis=True, strategy="unrolled", epochs=1)
    assert learner.refuses(train.problem, train.grid) is None
    learner.fit(train, test)
    facts = learner.module.facts
    assert facts["block"] == facts["history"] == 3 and facts["net"]["init_args"]["ndim"] == 2
    assert facts["steps"] == 1  # of blocks of three, five frames hold one
    solution = learner.solve(test.cases(), test.grid)
    assert solution.field.values.shape == (3, 5, 1, 16) and solution.stats["network_calls"] == 2


def test_batch_norm_answers_in_eval_mode():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 1, 3, padding=1), nn.BatchNorm1d(1)

        def forward(self, x):
            return self.norm(self.conv(x))

    learner = solver(Normed(), epochs=1)
    learner.fit(data(0, 6), data(6, 8))
    cases = data(8, 12).cases()
    together = learner.solve(cases, cases.domain).field.values
    assert torch.allclose(learner.solve(cases[2], cases.domain).field.values, together[2:3], atol=1e-6)
    before = {k: v.clone() for k, v in learner.module.state_dict().items()}
    learner.solve(cases, cases.domain)
    assert all(torch.equal(v, before[k]) for k, v in learner.module.state_dict().items())


def test_a_rollout_that_blows_up_says_so():
    train, test = data(0, 6, history=1), data(6, 8, history=1)
    learner = solver(Linear(2), epochs=1)
    learner.fit(train, test)
    with torch.no_grad():
        learner.module.net.conv.weight.fill_(1e20)
    solution = learner.solve(test.cases(), test.grid)
    assert set(solution.status) == {Status.NONFINITE} and "left the finite numbers" in solution.stats["advice"][0]
    # Far beyond the training data it is no success either.
    with torch.no_grad():
        learner.module.net.conv.weight.fill_(1e2)
    solution = learner.solve(test.cases(), test.grid)
    assert set(solution.status) == {Status.UNRESOLVED} and solution.field.values.isfinite().all()
    largest = float(train.base.truth().values.abs().max())
    assert "the rollout reached |u| = " in solution.stats["advice"][0]
    assert f"stay below {largest:.3g}" in solution.stats["advice"][0]


def test_a_budget_ends_the_training():
    learner = solver(epochs=2000)
    report = learner.fit(data(0, 6), data(6, 8), Budget(seconds=1.5))
    assert report.status is Status.BUDGET and 0 < len(report.curves["train_loss"]) < 2000


def test_any_steady_solver_is_rolled_out(tmp_path):
    train, val, test = data(0, 8), data(8, 10), data(10, 13)
    rolled = Rolled(OperatorSolver(UNET, epochs=2, lr=1e-2, device="cpu"), history=2, coefficients=["a"])
    assert rolled.trained and rolled.refuses(train.problem, train.grid) is None
    rolled.fit(train, val)
    cases = test.cases()
    solution = rolled.solve(cases, test.grid)
    assert solution.ok and solution.field.times == cases.times
    x = torch.cat([cases.history.values[:, :, 0], cases.input("a")[:, None]], 1)
    with torch.no_grad():
        first = rolled.inner.module(x)
        second = rolled.inner.module(torch.cat([x[:, 1:2], first, x[:, 2:]], 1))
    assert torch.allclose(solution.field.values[:, 0], first, atol=1e-6)
    assert torch.allclose(solution.field.values[:, 1], second, atol=1e-6)
    rolled.save(tmp_path)
    fresh = Rolled(OperatorSolver(UNET, device="cpu"), history=2, coefficients=["a"])
    fresh.load(tmp_path)
    assert torch.equal(fresh.solve(cases, test.grid).field.values, solution.field.values)
    # One that is trained already is rolled out as it is.
    ready = Rolled(rolled.inner, history=2, coefficients=["a"], every=0.5)
    assert torch.equal(ready.solve(cases, test.grid).field.values, solution.field.values)
    with pytest.raises(UsageError, match="does not know the time of a step"):
        Rolled(rolled.inner, history=2, coefficients=["a"]).solve(cases, test.grid)


def test_a_constant_coefficient_is_left_out_and_guarded():
    train = heat(0, 6)
    values = train.stored.inputs.values.clone()
    values[:, :, 1] = 0.005
    fixed = MemoryDataset(replace(train.stored, inputs=replace(train.stored.inputs, values=values)), train.answers)
    learner = solver(epochs=1)
    learner.fit(fixed, fixed)
    assert learner.module.facts["kept"] == ["u@0"]
    with pytest.raises(UsageError, match=r"trained with a = 0.005 everywhere"):
        learner.solve(train.cases(), train.grid)


def test_windows_hold_the_published_pairs():
    """From one stored frame to ten more: ten pairs of each trajectory."""
    train = Windowed(heat(0, 3, frames=12), 1, 10, start=1)
    module = prepared(Linear(2), train)
    rows = module.rows(train, True)
    assert isinstance(rows, WindowRows) and len(rows) == 30 and module.facts["protocol"] == "one_to_ten"

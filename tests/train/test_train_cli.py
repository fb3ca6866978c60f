"""`sciops fit` and its sisters: run folders, resume, what a checkpoint changes, and one sentence per mistake."""

import csv
import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from sciops.cli import main
from sciops.core.errors import UsageError
from sciops.data.open import open_dataset
from sciops.train.arguments import default_name, split_overrides

ROOT = Path(__file__).resolve().parents[2]


def fit(project: Path, runs: Path, *more: str) -> list[str]:
    return ["fit", "--config", str(project / "fit.yaml"), "--runs", str(runs), "--name", "tiny", *more]


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def test_fit_resume_validate_test_and_predict(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "tiny"
    width = ("--model.init_args.net.init_args.width", "6")
    assert main(fit(project, tmp_path, *width)) == 0
    out = capsys.readouterr().out
    assert "epoch 2/2" in out and f"Results in {run}" in out and "best val_rel_l2" in out
    assert {p.name for p in run.rglob("*") if p.is_file()} == {"config.yaml", "metrics.csv", "best.ckpt", "last.ckpt"}
    assert weights(run)["net.head.weight"].shape == (1, 6, 1, 1)

    assert main(fit(project, tmp_path, *width)) == 2
    assert "already holds a run: resume it with --ckpt_path last" in capsys.readouterr().err

    best = str(run / "checkpoints" / "best.ckpt")
    for verb, word in (("validate", "val_rel_l2"), ("test", "test_rel_h1"), ("predict", "Predictions in")):
        assert main([verb, "--ckpt_path", best]) == 0
        assert word in capsys.readouterr().out
    predicted = open_dataset(run / "predictions" / "test.hdf5")["test"]
    truth = open_dataset(project / "data")["test"]
    assert torch.equal(predicted.cases().inputs.values, truth.cases().inputs.values)
    relative = (predicted.truth().values - truth.truth().values).norm() / truth.truth().values.norm()
    assert 0 < float(relative) < 1


def die_in_the_fourth_epoch(words: list[str]) -> None:
    """Train in a forked process that ends without a word at its tenth step."""
    import lightning.pytorch as pl

    import sciops.train.cli as cli

    class Kill(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
            if trainer.current_epoch == 3 and trainer.global_step == 10:
                os._exit(9)

    usual = cli.default_callbacks
    cli.default_callbacks = lambda *a, **k: [*usual(*a, **k), Kill()]  # type: ignore[assignment]
    main(words)


def test_a_killed_run_resumes_bit_for_bit(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    six = ("--trainer.max_epochs", "6")
    assert main(fit(project, tmp_path / "straight", *six)) == 0
    words = fit(project, tmp_path / "killed", *six)
    killed = multiprocessing.get_context("fork").Process(target=die_in_the_fourth_epoch, args=(words,))
    killed.start()
    killed.join(240)
    assert killed.exitcode == 9
    assert main([*words, "--ckpt_path", "last"]) == 0
    mine, theirs = weights(tmp_path / "killed" / "tiny"), weights(tmp_path / "straight" / "tiny")
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
    with (tmp_path / "killed" / "tiny" / "metrics.csv").open() as handle:
        assert [row["epoch"] for row in csv.DictReader(handle)] == ["1", "2", "3", "4", "5", "6"]


def test_a_schedule_of_another_length_cannot_be_resumed(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit(project, tmp_path)) == 0
    assert main(fit(project, tmp_path, "--ckpt_path", "last", "--trainer.max_epochs", "4")) == 2
    assert "OneCycle schedule ends after 6 steps, this run has 12" in capsys.readouterr().err


def test_ctrl_c_leaves_with_130(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sciops.train.callbacks.EpochLog.on_train_epoch_start", interrupt)
    assert main(fit(project, tmp_path)) == 130
    assert "Interrupted" in capsys.readouterr().err


def test_one_seed_decides_weights_and_order(project: Path, tmp_path: Path) -> None:
    short = ("--trainer.max_epochs", "1", "--seed_everything")
    for folder, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert main(fit(project, tmp_path / folder, *short, seed)) == 0
    a, b, c = (weights(tmp_path / folder / "tiny")["net.head.weight"] for folder in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_a_checkpoint_cannot_name_foreign_code(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit(project, tmp_path)) == 0
    content = torch.load(tmp_path / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)
    content["hyper_parameters"]["loss"] = "antigravity.Loss"
    torch.save(content, tmp_path / "bad.ckpt")
    capsys.readouterr()
    assert main(fit(project, tmp_path, "--ckpt_path", str(tmp_path / "bad.ckpt"))) == 2
    assert "its module is not imported" in capsys.readouterr().err
    assert "antigravity" not in sys.modules


def test_what_a_checkpoint_overrides_is_printed_and_refused_under_strict(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit(project, tmp_path)) == 0
    changed = fit(project, tmp_path, "--ckpt_path", "last", "--model.init_args.lr", "5e-4")
    assert main(changed) == 0
    assert "lr: given 0.0005, in" in capsys.readouterr().err
    assert main([*changed, "--strict", "true"]) == 2
    assert "--strict: lr differ" in capsys.readouterr().err


def edited(project: Path, target: Path, old: str, new: str) -> list[str]:
    text = (project / "fit.yaml").read_text()
    assert old in text
    target.write_text(text.replace(old, new))
    return ["fit", "--config", str(target), "--runs", str(target.parent / "runs")]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    lr:", "    learning_rat:", ["OperatorModule has no key 'learning_rat'", "weight_decay"]),
        ("trainer:", "trianer:", ["no key 'trianer'", "did you mean 'trainer'"]),
        ("max_epochs", "max_epoch", ["trainer has no key 'max_epoch'", "max_epochs"]),
        ("mgno.MgNO", "mgno.MgN0", ["no class 'MgN0'", "did you mean MgNO"]),
        ("models.mgno.", "models.mgn.", ["sciops.models.mgn"]),
        ("OperatorModule", "OperatorModul", ["no class 'OperatorModul'", "did you mean OperatorModule"]),
        ("width:", "widht:", ["MgNO has no key 'widht'", "width"]),
        ("onecycle_step", "sometimes", ["schedule must be one of", "got 'sometimes'"]),
        ("lr: 1.0e-2", "lr: fast", ["lr", "float", "fast"]),
        ("width: 4", "width: 4, in_channels: 3", ["in_channels=3", "1 such channel(s) (a)"]),
        ('["10", "10", "20"]', '["10", "10", "10", "10", "20"]', ["(16, 16) is too small for 5 levels"]),
        ("/data,", "/nowhere,", ["/nowhere", "does not exist"]),
        ("model:", "model: [", ["parsing"]),
    ],
)
def test_every_mistake_is_one_sentence(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, words: list[str]
) -> None:
    code = main(edited(project, tmp_path / "bad.yaml", old, new))
    err = capsys.readouterr().err.strip()
    # A missing data file is a failure of the run (1), everything else one of its configuration (2).
    assert code == (1 if "nowhere" in new else 2), err
    assert err.count("\n") == 0 and err.startswith("sciops: ") and "Traceback" not in err
    assert all(word in err for word in words), err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_checkpoint_of_another_model(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(fit(project, tmp_path)) == 0
    path = tmp_path / "tiny" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {k.replace("head", "tail"): v for k, v in content["state_dict"].items()}
    torch.save(content, tmp_path / "other.ckpt")
    capsys.readouterr()
    assert main(fit(project, tmp_path, "--ckpt_path", str(tmp_path / "other.ckpt"))) == 2
    err = capsys.readouterr().err
    assert "holds another model" in err and "net.head.weight" in err and "net.tail.weight" in err
    (tmp_path / "cut.ckpt").write_bytes(path.read_bytes()[:3000])
    assert main(fit(project, tmp_path, "--ckpt_path", str(tmp_path / "cut.ckpt"))) == 1
    assert "truncated" in capsys.readouterr().err
    assert main(["test", "--config", str(project / "fit.yaml")]) == 2
    assert "test needs --ckpt_path" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:'sciops.cli' found in sys.modules")
def test_the_command_exits_with_2_and_no_traceback(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = edited(project, tmp_path / "bad.yaml", "width:", "widht:")
    monkeypatch.setattr(sys, "argv", ["sciops", *words])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("sciops.cli", run_name="__main__")  # python -m sciops.cli
    err = capsys.readouterr().err
    assert left.value.code == 2 and "Traceback" not in err and "widht" in err


def test_names_and_overrides() -> None:
    assert default_name(["fit", "--config", "experiments/darcy_rough/mgno.yaml"]) == "darcy_rough/mgno"
    rest, nested = split_overrides(
        [
            "fit",
            "--model.init_args.net.init_args.width=8",
            "--model.loss.class_path",
            "a.B",
            "--model.init_args.sampler.init_args.batch",
            "5",
            "--model.init_args.lr",
            "1",
        ]
    )
    assert rest == ["fit", "--model.init_args.lr", "1"]
    assert nested == [
        ("net.init_args.width", "8"),
        ("loss.class_path", "a.B"),
        ("sampler.init_args.batch", "5"),
    ]
    with pytest.raises(UsageError, match="needs a value"):
        split_overrides(["--model.net.init_args.width"])


@pytest.mark.parametrize(
    "file", sorted((ROOT / "experiments").glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_training_experiment_parses(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if file.parent.name == "compare":
        pytest.skip("a comparison, not a training")
    assert main(["fit", "--config", str(file), "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    told = yaml.safe_load(file.read_text(encoding="utf8"))
    wanted = told.get("model", {}).get("class_path", "sciops.solvers.operator_module.OperatorModule")
    assert printed["model"]["class_path"] == wanted
    assert printed["data"]["class_path"] == told["data"]["class_path"]


def test_two_processes_train_as_one(project: Path, tmp_path: Path) -> None:
    """DDP over gloo with batch 4 each gives the weights of one process with batch 8."""
    run = fit(project, tmp_path, "--trainer.max_epochs", "1")
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.init_args.batch_size", "4"]
    run[run.index("tiny")] = "two"
    done = subprocess.run(
        [sys.executable, "-m", "sciops.cli", *run, *two], cwd=ROOT, capture_output=True, text=True, timeout=240,
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done after 1 epochs") == 1
    run[run.index("two")] = "one"
    assert main(run) == 0
    one, both = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max(float((one[k] - both[k]).abs().max()) for k in one) < 1e-5

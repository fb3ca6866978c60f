"""Rollouts from the command line: fit, resume, test, predict, and the solver that reads the checkpoint."""

from pathlib import Path

import pytest
import torch
import yaml
from heat_problem import heat

from sciops.cli import main
from sciops.core.config import build
from sciops.data.open import open_dataset
from sciops.data.store import save_dataset
from sciops.data.trajectories import TrajectoryData
from sciops.data.windows import Windowed
from sciops.solvers.rollout import Rollout
from sciops.solvers.rollout_module import RolloutModule

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moving")
    for split, (start, stop) in {"train": (0, 8), "valid": (8, 10), "test": (10, 12)}.items():
        target = folder / "data" / "data" / split / "heat.hdf5"
        target.parent.mkdir(parents=True)
        save_dataset(target, heat(start, stop, frames=8), "heat", split)
    net = {"class_path": "sciops.models.unet.UNet", "init_args": {"width": 4, "levels": 2}}
    config = {
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
        "model": {
            "class_path": "sciops.solvers.rollout_module.RolloutModule",
            "init_args": {"net": net, "strategy": "unrolled", "residual": True, "schedule": "step", "lr": 1.0e-2},
        },
        "data": {
            "class_path": "sciops.data.trajectories.TrajectoryData",
            "init_args": {
                "source": str(folder / "data"),
                "window": {"history": 2, "horizon": 3, "start": 1},
                "batch_size": 4,
            },
        },
    }
    (folder / "fit.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_fit_resume_test_and_predict(moving, tmp_path, capsys):
    call = ["fit", "--config", str(moving / "fit.yaml"), "--runs", str(tmp_path)]
    assert main([*call, "--name", "two", "--model.init_args.net.init_args.width", "8"]) == 0
    assert "best val_rel_l2" in capsys.readouterr().out
    wide = ["--model.init_args.net.init_args.width", "8", "--trainer.max_epochs", "4"]
    assert main([*call, "--name", "two", "--ckpt_path", "last", *wide]) == 0
    assert main([*call, "--name", "four", *wide]) == 0
    ends = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("two", "four")
    ]
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[1])  # two epochs and two are four, bit for bit
    assert "val_teacher_forced" in (tmp_path / "two" / "metrics.csv").read_text()
    capsys.readouterr()
    best = str(tmp_path / "two" / "checkpoints" / "best.ckpt")
    assert main(["test", "--ckpt_path", best]) == 0
    assert "test_rel_l2" in capsys.readouterr().out
    assert main(["predict", "--ckpt_path", best]) == 0
    predicted = open_dataset(tmp_path / "two" / "predictions" / "test.hdf5")["test"].truth()
    test = Windowed(open_dataset(moving / "data")["test"], 2, 3, 1)
    cases = test.cases()
    assert predicted.times == cases.history.times + cases.times
    assert torch.equal(predicted.values[:, :2], cases.history.values)
    solution = Rollout.from_checkpoint(best, device="cpu").solve(cases, test.grid)
    assert torch.allclose(predicted.values[:, 2:], solution.field.values, atol=1e-6)


CONFIGS = sorted(
    path
    for folder in ("navier_stokes", "wave")
    for path in (ROOT / "experiments" / folder).glob("*.yaml")
    if "RolloutModule" in path.read_text(encoding="utf8")
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configurations_that_come_with_sciops(path):
    config = yaml.safe_load(path.read_text())
    model = build(config["model"], RolloutModule)
    made = config["data"]["init_args"]
    data = TrajectoryData(**made)
    assert (ROOT / made["source"]).is_file()
    if "_to_" in path.stem:
        assert path.stem.endswith(data.window.name)  # a protocol is named by its file, too
    assert model.hparams["strategy"] in ("one_step", "unrolled", "pushforward")


def test_fit_a_network_that_names_another(moving, tmp_path, capsys):
    """A class path inside the arguments of a class path, as in experiments/wave/succession.yaml."""
    config = yaml.safe_load((moving / "fit.yaml").read_text())
    inner = {"class_path": "sciops.models.wave_cnn.WaveCNN", "init_args": {"width": 4, "layers": 2, "kernel": 5}}
    nested = {"net": inner, "scheme": "succession", "rank": 2}
    config["model"]["init_args"]["net"] = {
        "class_path": "sciops.models.compressed.network.Compressed",
        "init_args": nested,
    }
    config["trainer"]["max_epochs"] = 1
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(tmp_path / "fit.yaml"), "--runs", str(tmp_path), "--name", "small"]) == 0
    assert "best val_rel_l2" in capsys.readouterr().out
    solver = Rollout.from_checkpoint(tmp_path / "small" / "checkpoints" / "best.ckpt")
    assert type(solver.module.net).__name__ == "Compressed"

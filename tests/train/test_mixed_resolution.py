"""Training at several resolutions: whose turn it is, resume to the bit, and a conversion that is tuned."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from sciops.cli import main
from sciops.core.config import build
from sciops.core.dataset import MemoryDataset
from sciops.core.errors import UsageError
from sciops.data.datamodule import OperatorData
from sciops.data.mixed import Interleaved
from sciops.data.store import save_dataset
from sciops.data.strided import Strided, with_points
from sciops.metrics.pointwise import relative_l2
from sciops.solvers.converted import Converted
from sciops.solvers.operator import OperatorSolver
from sciops.solvers.operator_module import OperatorModule

NET = {"class_path": "sciops.models.unet.UNet", "init_args": {"width": 4, "levels": 1}}
CONFIG = """
trainer: {{max_epochs: 4, accelerator: cpu}}
model:
  class_path: sciops.solvers.{module}
  init_args:
    net: {{class_path: sciops.models.unet.UNet, init_args: {{width: 4, levels: 1}}}}
    loss: {{class_path: sciops.train.losses.RelativeL2, init_args: {{reduction: mean}}}}
    lr: 1.0e-2
    weight_decay: 0.0
    schedule: constant
    {more}
data:
  class_path: sciops.data.datamodule.OperatorData
  init_args: {{source: {folder}/data, batch_size: 8, resolutions: {resolutions}}}
"""


@pytest.fixture(scope="module")
def folder(tiny: Callable[..., MemoryDataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 cases to train on 33² nodes."""
    made = tmp_path_factory.mktemp("fine")
    for split, (start, stop) in {"train": (0, 24), "valid": (24, 28), "test": (28, 36)}.items():
        target = made / "data" / "data" / split / "tiny.hdf5"
        target.parent.mkdir(parents=True)
        save_dataset(target, tiny(start, stop, 33), "tiny", split)
    return made


def config(
    folder: Path, target: Path, module: str = "operator_module.OperatorModule", grids: str = "[17, 33]", more: str = ""
) -> list[str]:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(CONFIG.format(folder=folder, module=module, resolutions=grids, more=more))
    return ["fit", "--config", str(target), "--runs", str(target.parent), "--name", target.stem]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_every_case_comes_once_on_every_grid_and_a_batch_has_one_grid(folder: Path) -> None:
    data = OperatorData(str(folder / "data"), batch_size=7, resolutions=[17, 33, 9], seed=3)
    data.setup()
    loader = data.train_dataloader()
    assert len(loader) == 12 == sum(1 for _ in loader)  # 4 batches on each of three grids

    def epoch(number: int) -> list[tuple[int, tuple[int, ...]]]:
        loader.sampler.set_epoch(number)
        return [(batch["x"].shape[-1], tuple(batch["index"].tolist())) for batch in loader]

    first = epoch(0)
    for n in (9, 17, 33):
        assert sorted(i for size, rows in first if size == n for i in rows) == list(range(24))
    turns = [size for size, _ in first]
    assert turns != sorted(turns) and turns != sorted(turns, reverse=True)
    torch.rand(5)
    assert epoch(1) != first == epoch(0)
    whole = next(b for b in loader if b["x"].shape[-1] == 33)
    assert torch.equal(whole["x"][:, 0], data.splits["train"].base.cases(whole["index"].tolist()).input("a"))  # type: ignore[attr-defined]
    # Networks and normalisers are made for the first grid; validation looks at all, test splits stand alone.
    assert data.splits["train"].grid.shape == (17, 17)
    assert [b["x"].shape[-1] for b in data.val_dataloader()] == [17, 33, 9]
    assert list(data.splits) == ["train", "valid", "test", "test_33", "test_9"]
    assert [next(iter(loader))["x"].shape[-1] for loader in data.test_dataloader()] == [17, 33, 9]


def test_processes_share_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = list(Interleaved([10, 10], 4, 1, True))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    shares = []
    for rank in range(4):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        shares.append(list(Interleaved([10, 10], 4, 1, True)))
    assert [b for batches in zip(*shares, strict=True) for b in batches] == [*alone, *alone[:2]]


def test_an_interrupted_run_resumes_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    assert main(config(folder, tmp_path / "straight.yaml")) == 0
    halves = config(folder, tmp_path / "halves.yaml")
    assert main([*halves, "--trainer.max_epochs", "2"]) == 0
    assert main([*halves, "--ckpt_path", "last"]) == 0
    mine, theirs = weights(tmp_path / "halves"), weights(tmp_path / "straight")
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in theirs)


def test_a_tuned_conversion_is_better_on_the_finer_grid_and_its_file_is_that_of_the_network(
    folder: Path, tmp_path: Path, tiny: Callable[..., MemoryDataset], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*config(folder, tmp_path / "source.yaml", grids="[17]"), "--trainer.max_epochs", "12"]) == 0
    source = tmp_path / "source" / "checkpoints" / "last.ckpt"
    tuning = config(folder, tmp_path / "tuned.yaml", "converted_module.ConvertedModule", more=f"init_from: {source}")
    assert main([*tuning, "--model.init_args.lr", "3e-3"]) == 0
    capsys.readouterr()
    tuned = tmp_path / "tuned" / "checkpoints" / "last.ckpt"
    assert main(["test", "--ckpt_path", str(tuned)]) == 0
    printed = capsys.readouterr().out
    assert "test_33_rel_l2" in printed and "test_rel_l2" in printed
    errors = {}
    test = tiny(28, 36, 33)
    for name, path in (("source", source), ("tuned", tuned)):
        solver = Converted(OperatorSolver.from_checkpoint(path, device="cpu"), "integral")
        for data in (test, Strided(test, with_points(test.grid, 17))):
            found = solver.solve(data.cases(), data.grid).field
            errors[name, data.grid.shape[0]] = float(relative_l2(found, data.truth()).mean())
    assert errors["tuned", 33] < 0.95 * errors["source", 33]
    assert errors["tuned", 17] < 1.5 * errors["source", 17]


def test_mistakes_are_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="'pixel' ties the data to one grid"):
        OperatorData("x", normalise_output="pixel", resolutions=[16, 32])
    with pytest.raises(UsageError, match="one or more numbers of points"):
        OperatorData("x", resolutions=[])
    with pytest.raises(UsageError, match="points of 12×12 node are not points of 33×33 node"):
        OperatorData(str(folder / "data"), resolutions=[17, 12]).setup()
    bad = config(folder, tmp_path / "bad.yaml", "converted_module.ConvertedModule", more="method: pointwise")
    assert main(bad) == 2
    assert "method must be one of point, lattice" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["vorticity_unet", "converted_tuning", "vorticity_mixed"])
def test_the_configurations_of_vorticity_name_what_exists(name: str) -> None:
    root = Path(__file__).resolve().parents[2]
    table = yaml.safe_load((root / "experiments" / "navier_stokes" / f"{name}.yaml").read_text(encoding="utf8"))
    model = dict(table["model"], init_args={k: v for k, v in table["model"]["init_args"].items() if k != "init_from"})
    assert isinstance(build(model, OperatorModule), OperatorModule)
    data = table["data"]["init_args"]
    assert isinstance(OperatorData(**data), OperatorData) and (root / data["source"]).is_file()

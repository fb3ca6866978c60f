"""Small `.pt` files of the neuraloperator package, synthetic and published."""

import pickle

import pytest
import torch

from sciops.core.errors import DataError
from sciops.data.convert import convert
from sciops.data.neuralop import open_neuralop
from sciops.data.open import open_dataset
from sciops.data.stored import StoredDataset


@pytest.mark.parametrize(
    "x, y, inputs, outputs",
    [
        ((4, 8, 8), (4, 8, 8), 1, 1),
        ((4, 1, 8, 8), (4, 8, 8), 1, 1),
        ((4, 3, 8, 8), (4, 2, 8, 8), 3, 2),
        ((4, 3, 8, 8), (4, 8, 8), 3, 1),
        ((4, 16), (4, 16), 1, 1),
        ((4, 1, 16), (4, 1, 16), 1, 1),
    ],
)
def test_channels_are_recognised(tmp_path, x, y, inputs, outputs):
    table = {"x": torch.rand(x) > 0.5, "y": torch.rand(y)}
    torch.save(table, tmp_path / "d.pt")
    dataset = open_neuralop(tmp_path / "d.pt")
    assert (len(dataset.problem.inputs), len(dataset.problem.outputs)) == (inputs, outputs)
    assert torch.equal(dataset.truth().values.flatten(), table["y"].flatten())
    assert torch.equal(dataset.cases().inputs.values.flatten(), table["x"].float().flatten())
    assert dataset.problem.inputs[0].interpolation == "nearest"


def test_published_files(shared_data):
    folder = shared_data / "darcy_neuraloperator"
    splits = open_dataset(folder)
    assert {name: (len(d), d.grid.shape) for name, d in splits.items()} == {
        "train": (1000, (16, 16)),
        "test": (50, (16, 16)),
        "test_32": (50, (32, 32)),
    }
    raw = torch.load(folder / "darcy_test_32.pt", weights_only=True)
    assert torch.equal(splits["test_32"].truth().values[:, 0, 0], raw["y"])
    assert torch.equal(splits["test_32"].cases().inputs.values[:, 0, 0], raw["x"].float())
    assert {v.value for v in splits["train"].problem.views()} == {"data"}
    # The grids say how the files were made: every second point of the finer one is the coarser one.
    coarse, fine = splits["test"], splits["test_32"]
    assert torch.equal(fine.cases().on(coarse.grid).inputs.values, coarse.cases().inputs.values)
    assert torch.equal(fine.truth().values[..., ::2, ::2], coarse.truth().values)
    assert torch.equal(fine.grid.axis(0)[::2], coarse.grid.axis(0))


def test_conversion_to_native_keeps_the_tensors(tmp_path):
    torch.save({"x": torch.rand(3, 8, 8), "y": torch.rand(3, 8, 8)}, tmp_path / "d.pt")
    source = open_neuralop(tmp_path / "d.pt")
    native = StoredDataset(convert(tmp_path / "d.pt", tmp_path / "d.hdf5", "native"))
    assert torch.equal(native.truth().values, source.truth().values)
    assert native.fingerprint == source.fingerprint and native.header.name == "d"


class Payload:
    """Runs a command when unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.target}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_the_file_is_not_executed(tmp_path):
    target = tmp_path / "executed"
    torch.save({"x": torch.rand(2, 4, 4), "y": Payload(target)}, tmp_path / "evil.pt")
    with (tmp_path / "evil2.pt").open("wb") as handle:
        pickle.dump({"x": Payload(target)}, handle)
    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(DataError, match="damaged or holds code"):
            open_dataset(tmp_path / name)
    assert not target.exists()


def test_unusable_files(tmp_path):
    torch.tensor([1.0, float("nan")])[:, None, None].expand(2, 4, 4)
    cases = {
        "it has a, b": {"a": torch.rand(2, 4, 4), "b": torch.rand(2, 4, 4)},
        "holds a list": [1, 2],
        "same cases on one grid": {"x": torch.rand(2, 4, 4), "y": torch.rand(3, 4, 4)},
        "y of case 1 holds NaN": {
            "x": torch.rand(2, 4, 4),
            "y": torch.tensor([1.0, float("nan")])[:, None, None].expand(2, 4, 4),
        },
    }
    for k, (message, table) in enumerate(cases.items()):
        torch.save(table, tmp_path / f"{k}.pt")
        with pytest.raises(DataError, match=message):
            open_dataset(tmp_path / f"{k}.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "0.pt").read_bytes()[:200])
    with pytest.raises(DataError, match="damaged"):
        open_dataset(tmp_path / "cut.pt")

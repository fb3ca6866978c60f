"""The Lightning data module: what it yields, in which order, and that resuming repeats that order."""

import lightning
import pytest
import torch
import yaml
from data_samples import recipe

from sciops.core.errors import UsageError
from sciops.data.datamodule import OperatorData
from sciops.data.generate import generate
from sciops.data.open import open_dataset

TABLE = {
    "problem": {"class_path": "sciops.problems.darcy.Darcy", "init_args": {"modes": 8, "law": "lognormal"}},
    "grid": {"shape": [10, 10]},
    "splits": {"train": 11, "valid": 3, "test": 3},
    "reference": {"tol": 1e-8},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("module")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TABLE))
    OperatorData(str(folder / "tiny.yaml"), folder=str(folder / "data")).prepare_data()
    return folder


def module(source, **more):
    return OperatorData(str(source / "tiny.yaml"), batch_size=4, folder=str(source / "data"), **more)


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_are_the_data_in_physical_units(source, in_memory):
    data = module(source, in_memory=in_memory)
    data.setup()
    assert data.inputs == ["a"] and data.channels == (1, 1)  # the constant forcing is left out
    truth = open_dataset(source / "data" / "tiny")["train"]
    seen = []
    for batch in data.train_dataloader():
        rows = batch["index"].tolist()
        assert torch.equal(batch["y"], truth.truth(rows).values[:, 0])
        assert torch.equal(batch["x"][:, 0], truth.cases(rows).input("a"))
        seen += rows
    assert sorted(seen) == list(range(11)) and seen != list(range(11))
    assert [b["index"].tolist() for b in data.val_dataloader()] == [[0, 1, 2]]
    assert len(data.test_dataloader()) == 1


def test_channels_can_be_named(source):
    data = module(source, inputs=["f", "a"])
    data.setup()
    x = next(iter(data.val_dataloader()))["x"]
    assert x.shape[1] == 2 and torch.equal(x[:, 0], torch.ones_like(x[:, 0]))
    with pytest.raises(UsageError, match="channels a, f; got 'g'"):
        module(source, inputs=["g"]).setup()


def test_normalisers_are_fitted_on_the_training_split(source):
    data = module(source, normalise_input="pixel", normalise_output="scalar")
    data.setup()
    y = open_dataset(source / "data" / "tiny")["train"].truth().values.double()
    assert float(data.output_normaliser.shift) == pytest.approx(float(y.mean()), rel=1e-6)
    assert float(data.output_normaliser.scale) == pytest.approx(float(y.std()) + 1e-5, rel=1e-5)
    assert data.input_normaliser.shift.shape == (1, 10, 10)


def orders(data, epochs):
    found = []
    for epoch in epochs:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        found.append([i for batch in loader for i in batch["index"].tolist()])
    return found


def test_the_order_depends_on_seed_and_epoch_alone(source):
    data = module(source, seed=3)
    data.setup()
    first = orders(data, range(4))
    torch.rand(17)  # global random state is of no influence, nor does reading change it
    state = torch.get_rng_state()
    assert orders(data, [2, 3, 0, 1]) == [first[k] for k in (2, 3, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(order) for order in first}) == 4
    other = module(source, seed=4)
    other.setup()
    assert orders(other, range(4)) != first


def test_worker_processes_do_not_change_the_order(source):
    with_workers = module(source, seed=3, workers=2, in_memory=False)
    with_workers.setup()
    alone = module(source, seed=3)
    alone.setup()
    assert orders(with_workers, [0, 1]) == orders(alone, [0, 1])


def test_processes_share_one_permutation(source, monkeypatch):
    data = module(source, seed=3)
    data.setup()
    alone = orders(data, [1])[0]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        shares.append(orders(data, [1])[0])
    assert [i for pair in zip(*shares, strict=True) for i in pair] == [*alone, alone[0]]


class Recorder(lightning.LightningModule):
    """A linear map that writes down which cases it met."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.met = []

    def training_step(self, batch, _):
        self.met.append((self.current_epoch, batch["index"].tolist()))
        return (self.net(batch["x"]) - batch["y"]).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


def train(source, folder, epochs, checkpoint=None):
    torch.manual_seed(0)
    model = Recorder()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    )
    trainer.fit(model, module(source), ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return model


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_bit_for_bit(source, tmp_path):
    whole = train(source, tmp_path, 4)
    train(source, tmp_path, 2)
    resumed = train(source, tmp_path, 4, tmp_path / "2.ckpt")
    assert resumed.met == [m for m in whole.met if m[0] >= 2]
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_without_a_valid_split_the_end_of_training_serves(tmp_path):
    generate(recipe(splits={"train": 6}), tmp_path / "small", quiet=True)
    data = OperatorData(str(tmp_path / "small"), valid=2)
    data.setup()
    assert len(data.pairs["train"]) == 4 and len(data.pairs["valid"]) == 2
    whole = open_dataset(tmp_path / "small")["train"]
    assert torch.equal(data.splits["valid"].truth().values, whole.truth([4, 5]).values)
    with pytest.raises(UsageError, match="Cannot split 6 of 6"):
        OperatorData(str(tmp_path / "small"), valid=6).setup()


def test_published_files_with_two_resolutions(shared_data):
    data = OperatorData(str(shared_data / "darcy_neuraloperator"), batch_size=50, valid=100)
    data.setup()
    assert set(data.pairs) == {"train", "valid", "test", "test_32"}
    shapes = [tuple(next(iter(loader))["x"].shape) for loader in data.test_dataloader()]
    assert shapes == [(50, 1, 16, 16), (50, 1, 32, 32)]

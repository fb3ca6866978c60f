"""Lightning data module: a recipe or files in, dictionaries of tensors out, in an order that resume repeats."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data.distributed import DistributedSampler

from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.core.problem import Problem
from sciops.core.random import case_seed, generator
from sciops.data.mixed import Interleaved, Mixed
from sciops.data.normalise import Kind, Normaliser
from sciops.data.open import open_dataset
from sciops.data.part import split_off
from sciops.data.recipe import Recipe, load_recipe
from sciops.data.strided import Strided, with_points
from sciops.data.windows import Window, Windowed

MEMORY_LIMIT = 4 * 2**30


class Pairs(TorchDataset):
    """Rows {"x": (c, *s), "y": (c, *s), "index": ()} of a steady dataset; read from disk or held in memory."""

    def __init__(self, dataset: Dataset, channels: list[int], in_memory: bool) -> None:
        self.dataset, self.channels = dataset, channels
        self.held = self._read(range(len(dataset))) if in_memory else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        """A whole batch at once: one read, no per-row collation."""
        if self.held is not None:
            x, y = (tensor[rows] for tensor in self.held)
        else:
            x, y = self._read(rows)
        return {"x": x, "y": y, "index": torch.tensor(rows)}

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: tensor[0] for name, tensor in self.__getitems__([row]).items()}

    def _read(self, rows: Any) -> tuple[Tensor, Tensor]:
        rows = list(rows)
        x = self.dataset.cases(rows).inputs.values[:, 0][:, self.channels]
        truth = self.dataset.truth(rows).values
        if truth.shape[1] != 1:
            raise UsageError(
                f"OperatorData learns steady maps, but the data has {truth.shape[1]} frames; choose a rollout task."
            )
        return x, truth[:, 0]


class Shuffled(DistributedSampler):
    """A permutation drawn from (seed, epoch) alone: independent of any global random state, so resume repeats it.

    Lightning calls `set_epoch` at the start of every epoch, also after a resume. In a distributed run every
    process takes its share of the same permutation (the last cases are repeated to make the shares equal).
    """

    def __init__(self, dataset: TorchDataset, seed: int) -> None:
        running = dist.is_available() and dist.is_initialized()
        world, rank = (dist.get_world_size(), dist.get_rank()) if running else (1, 0)
        super().__init__(dataset, world, rank, shuffle=True, seed=seed)
        self.count = len(dataset)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.count, generator=generator(case_seed(self.seed, self.epoch, "shuffle")))
        padded = order.repeat(-(-self.total_size // self.count))[: self.total_size]
        return iter(padded[self.rank :: self.num_replicas].tolist())


def in_batches(
    rows: TorchDataset, batch_size: int | None, seed: int, shuffle: bool | Sampler, workers: int = 0
) -> DataLoader:
    """Batches of rows that come as whole batches; shuffled, their order follows from (seed, epoch) alone."""
    sampler = shuffle if isinstance(shuffle, Sampler) else Shuffled(rows, seed) if shuffle else None
    return DataLoader(
        rows,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_as_is,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        # The loader draws a base seed from the global state unless it has a generator of its own.
        generator=generator(seed),
    )


class OperatorData(LightningDataModule):
    """Batches {"x": (n, c, *s), "y": (n, c, *s), "index": (n,)} in physical units, and fitted normalisers.

    source: recipe (.yaml), data file or folder. A recipe is generated under `folder`/<name> if it is not there.
    inputs: channel names; by default those that vary in the training split (a constant forcing says nothing).
    valid: cases taken from the end of the training split where the data has no valid split.
    normalise_input, normalise_output: identity | scalar | channel | pixel | unit; fitted on the training split by
    `setup`, handed to the model as `input_normaliser`, `output_normaliser`: the model encodes and decodes.
    in_memory: hold the splits in memory (default: when they take less than 4 GiB).
    window: {history: 1, horizon: 1} makes pairs of trajectories, from a frame that the inputs say to a later one.
    resolutions: points along the first axis of grids that the data is strided to. Each epoch of training visits every
        case once on every one of them, a batch on one grid, in an order that resume repeats; validation takes the mean
        over them; the splits "test", "test_64", … are tested one by one. The first is the native grid: networks and
        normalisers are made for it. Per-pixel normalisers fit one grid alone and are refused.
    """

    def __init__(
        self,
        source: str,
        batch_size: int = 8,
        workers: int = 0,
        normalise_input: Kind = "identity",
        normalise_output: Kind = "scalar",
        inputs: list[str] | None = None,
        valid: int | None = None,
        seed: int = 0,
        folder: str = "data",
        in_memory: bool | None = None,
        generate_workers: int = 1,
        device: str = "cpu",
        window: dict[str, int] | None = None,
        resolutions: list[int] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1; got {batch_size}.")
        if resolutions is not None and (
            not resolutions or min(resolutions) < 2 or "pixel" in (normalise_input, normalise_output)
        ):
            raise UsageError(
                "resolutions names one or more numbers of points, and normalisers per channel: 'pixel' ties the data "
                f"to one grid; got {resolutions} with {normalise_input} and {normalise_output}."
            )
        self.window = None if window is None else Window(**window)
        self.resolutions = None if resolutions is None else list(dict.fromkeys(resolutions))
        self.source, self.batch_size, self.workers, self.seed = source, batch_size, workers, seed
        self.inputs, self.valid, self.folder, self.in_memory = inputs, valid, Path(folder), in_memory
        self.generate_workers, self.device = generate_workers, device
        self.input_normaliser = Normaliser(normalise_input)
        self.output_normaliser = Normaliser(normalise_output)
        self.splits: dict[str, Dataset] = {}
        self.pairs: dict[str, Pairs] = {}
        self.mixed: dict[str, Mixed] = {}

    @property
    def data_path(self) -> Path:
        """Where the data is or will be."""
        recipe = self._recipe()
        return Path(self.source) if recipe is None else self.folder / recipe.name

    def _recipe(self) -> Recipe | None:
        return load_recipe(self.source) if Path(self.source).suffix in (".yaml", ".yml") else None

    def _problem(self) -> Problem | None:
        recipe = self._recipe()
        return None if recipe is None else recipe.make_problem()

    def prepare_data(self) -> None:
        if (recipe := self._recipe()) is not None:
            from sciops.data.generate import generate

            generate(recipe, self.data_path, self.generate_workers, self.device)

    def _opened(self) -> dict[str, Dataset]:
        """The splits of the file, made where it is missing, with a validation share where it has none."""
        if not self.data_path.exists():
            self.prepare_data()
        splits = dict(open_dataset(self.data_path, self._problem()))
        if "train" not in splits:
            raise UsageError(f"{self.data_path} has no train split; it has {', '.join(splits)}.")
        if "valid" not in splits:
            splits["train"], splits["valid"] = split_off(splits["train"], self.valid or len(splits["train"]) // 10)
        return splits

    def setup(self, stage: str | None = None) -> None:
        if self.pairs:
            return
        splits = self._opened()
        if self.window is not None:
            splits = {name: Windowed(data, **vars(self.window)) for name, data in splits.items()}
        finer = splits
        if self.resolutions is not None:
            splits = {name: _strided(data, self.resolutions[0]) for name, data in splits.items()}
            for name, data in [*finer.items()]:
                if name.startswith("test"):
                    splits |= {f"{name}_{n}": _strided(data, n) for n in self.resolutions[1:]}
        self.splits = splits
        train = splits["train"]
        names = [c.name for c in train.problem.inputs]
        channels = self._channels(train, names)
        self.inputs = [names[j] for j in channels]
        for split, dataset in splits.items():
            self.pairs[split] = Pairs(dataset, channels, self._fits(dataset))
        for split in ("train", "valid") if self.resolutions is not None else ():
            others = [_strided(finer[split], n) for n in self.resolutions[1:]]  # type: ignore[index]
            self.mixed[split] = Mixed([self.pairs[split], *(Pairs(d, channels, self._fits(d)) for d in others)])
        for key, normaliser in (("x", self.input_normaliser), ("y", self.output_normaliser)):
            normaliser.fit(batch[key] for batch in self._loader("train", shuffle=False, workers=0))

    @property
    def channels(self) -> tuple[int, int]:
        """(input, output) channels that a network must have."""
        self.setup()
        return len(self.inputs or ()), len(self.splits["train"].problem.outputs)

    def train_dataloader(self) -> DataLoader:
        return self._at_all("train", shuffle=True) or self._loader("train", shuffle=True, workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        return self._at_all("valid", shuffle=False) or self._loader("valid", shuffle=False, workers=self.workers)

    def test_dataloader(self) -> list[DataLoader]:
        return [self._loader(name, False, self.workers) for name in self.pairs if name.startswith("test")]

    def predict_dataloader(self) -> list[DataLoader]:
        return self.test_dataloader()

    def _loader(self, split: str, shuffle: bool, workers: int) -> DataLoader:
        return in_batches(self.pairs[split], self.batch_size, self.seed, shuffle, workers)

    def _at_all(self, split: str, shuffle: bool) -> DataLoader | None:
        """Batches on all grids in turn; None where there is one grid."""
        if split not in self.mixed:
            return None
        rows = self.mixed[split]
        turns = Interleaved(rows.sizes, self.batch_size, self.seed, shuffle)
        return in_batches(rows, None, self.seed, turns, self.workers)  # the sampler names whole batches

    def _fits(self, dataset: Dataset) -> bool:
        if self.in_memory is not None:
            return self.in_memory
        count = len(self.inputs or ()) + len(dataset.problem.outputs)
        return len(dataset) * dataset.grid.size * count * 8 < MEMORY_LIMIT

    def _channels(self, train: Dataset, names: list[str]) -> list[int]:
        if self.inputs is not None:
            for name in self.inputs:
                if name not in names:
                    raise UsageError(f"inputs: the data has channels {', '.join(names)}; got '{name}'.")
            return [names.index(name) for name in self.inputs]
        varying: set[int] = set()
        first = train.cases([0]).inputs.values[0, 0]
        for start in range(0, len(train), 64):
            if len(varying) == len(names):
                break
            values = train.cases(slice(start, start + 64)).inputs.values[:, 0]
            varying |= {j for j in range(len(names)) if bool((values[:, j] != first[j].flatten()[0]).any())}
        return sorted(varying) or list(range(len(names)))


def _strided(dataset: Dataset, points: int) -> Dataset:
    return Strided(dataset, with_points(dataset.grid, points))


def _as_is(batch: Any) -> Any:
    return batch

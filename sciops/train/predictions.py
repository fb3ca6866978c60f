"""Predictions as data: one native file per test split, with the predicted fields in the place of the truth."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from sciops.core.dataset import MemoryDataset
from sciops.core.errors import UsageError
from sciops.core.field import Field


class PredictionFiles(Callback):
    """Writes `folder`/<split>.hdf5 when `predict` ends: the cases of the split and the model's answers to them.

    The files are ordinary data files (read by `sciops info`, `open_dataset`, The Well's loader). Memory: all
    predictions of one split. One process only, because shares of several would have to be gathered.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: dict[str, list[dict[str, Any]]] = {}

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            raise UsageError("predict writes its files from one process; use --trainer.devices 1.")

    def on_predict_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.parts.setdefault(outputs["split"], []).append(outputs)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        from sciops.data.store import save_dataset

        for split, parts in self.parts.items():
            dataset = trainer.datamodule.splits[split]  # type: ignore[attr-defined]
            cases = dataset.cases(torch.cat([part["index"] for part in parts]).tolist())
            names = [channel.name for channel in dataset.problem.outputs]
            field = Field.steady(torch.cat([part["u"] for part in parts]), cases.domain, names)
            self.folder.mkdir(parents=True, exist_ok=True)
            save_dataset(self.folder / f"{split}.hdf5", MemoryDataset(cases, field), f"{split}_predicted", split)

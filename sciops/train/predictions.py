"""Predictions as data: one native file per test split, with the predicted fields in the place of the truth."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.dataset import MemoryDataset
from sciops.core.errors import UsageError
from sciops.core.field import Field


class PredictionFiles(Callback):
    """Writes `folder`/<split>.hdf5 when `predict` ends: the cases of the split and the model's answers to them.

    The files are ordinary data files (read by `sciops info`, `open_dataset`, The Well's loader). Memory: all
    predictions of one split. One process only, because shares of several would have to be gathered. Trajectories begin
    with the frames that the model was given.
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
            field = _field(torch.cat([part["u"] for part in parts]), cases, dataset.truth(slice(0, 1)).times, names)
            self.folder.mkdir(parents=True, exist_ok=True)
            save_dataset(self.folder / f"{split}.hdf5", MemoryDataset(cases, field), f"{split}_predicted", split)


def _field(u: Tensor, cases: Cases, times: tuple[float, ...], names: list[str]) -> Field:
    """Predictions (n, c, *s), or (n, t, c, *s) after the history that they continue."""
    if u.dim() == 2 + cases.domain.ndim:
        return Field.steady(u, cases.domain, names)
    if cases.history is not None:
        return Field(torch.cat([cases.history.values.to(u), u], 1), cases.domain, tuple(names),
                     cases.history.times + times)  # fmt: skip
    return Field(u, cases.domain, tuple(names), times[-u.shape[1] :])

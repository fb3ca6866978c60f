"""What a run leaves behind: one line per epoch on paper and on the screen, the best and the last checkpoint."""

import csv
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

MONITOR = "val_rel_l2"


class EpochLog(Callback):
    """One row per epoch in `metrics.csv`, and one plain line on the screen where there is no progress bar.

    A resumed run continues the file: rows of epochs that are done again are replaced.
    """

    def __init__(self, path: Path, echo: bool) -> None:
        self.path, self.echo = path, echo
        self.rows: list[dict[str, Any]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.rows = []
        if trainer.current_epoch > 0 and self.path.is_file():
            with self.path.open(newline="") as handle:
                self.rows = [row for row in csv.DictReader(handle) if int(row["epoch"]) <= trainer.current_epoch]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        values = {k: f"{float(v):.6g}" for k, v in sorted(trainer.callback_metrics.items())}
        values["lr"] = f"{trainer.optimizers[0].param_groups[0]['lr']:.6g}"
        values["seconds"] = f"{time.perf_counter() - self.started:.3f}"
        self.rows.append({"epoch": trainer.current_epoch + 1, **values})
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, names)
            writer.writeheader()
            writer.writerows(self.rows)
        temporary.replace(self.path)
        if self.echo:
            facts = "  ".join(f"{k} {v}" for k, v in values.items())
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {facts}", flush=True)


class BestAndLast(ModelCheckpoint):
    """ModelCheckpoint whose `last.ckpt` follows every epoch; Lightning 2.6 writes it beside a new best alone."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if not self._should_skip_saving_checkpoint(trainer):  # true where this step was saved
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


def checkpoints(folder: Path, monitor: str = MONITOR) -> BestAndLast:
    """`best.ckpt` by the smallest `monitor` on the validation split, and `last.ckpt` after every epoch."""
    return BestAndLast(
        dirpath=folder,
        filename="best",
        monitor=monitor,
        save_last=True,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )


def default_callbacks(run: Path, patience: int | None, echo: bool, monitor: str = MONITOR) -> list[Callback]:
    """Epoch log and checkpoints, and early stopping if a patience (in epochs) is given."""
    callbacks: list[Callback] = [EpochLog(run / "metrics.csv", echo), checkpoints(run / "checkpoints", monitor)]
    if patience is not None:
        callbacks.append(EarlyStopping(monitor, patience=patience, mode="min", check_finite=True))
    return callbacks

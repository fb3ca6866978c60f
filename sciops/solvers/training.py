"""Running a Lightning Trainer from inside a program: quiet, limited in time, resumable, safe checkpoints."""

import copy
import logging
import math
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.data.datamodule import Pairs, in_batches
from sciops.data.normalise import Kind, Normaliser
from sciops.solvers.checkpoint import read_checkpoint
from sciops.solvers.operator_facts import varying_inputs


class SafeCheckpointIO(TorchCheckpointIO):
    """Reads checkpoints with `weights_only`, whatever the caller asks, and says in one sentence what is wrong."""

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(path)


class TimeLimit(Callback):
    """Stops training when `seconds` have passed since `started`; `reached` tells whether it did."""

    def __init__(self, seconds: float, started: float) -> None:
        self.seconds, self.started, self.reached = seconds, started, False

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if time.perf_counter() - self.started > self.seconds:
            self.reached = trainer.should_stop = True


class Curves(Callback):
    """The logged metrics of every epoch, in memory."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, value in trainer.callback_metrics.items():
            self.values.setdefault(name, []).append(float(value))

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.values = state_dict["values"]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's start-up lines and its advice that does not apply here; real warnings stay.

    Lightning turns Ctrl-C into an exit of its own; here it becomes the KeyboardInterrupt that it was.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*The number of training batches.*",
            ".*Checkpoint directory .* exists and is not empty.*",
            ".*Trying to infer the `batch_size`.*",
            ".*isinstance\\(treespec, LeafSpec\\).*",
            ".*LightningCLI's args parameter.*",
            ".*callbacks used to create the checkpoint need to be provided.*",
            ".*is using 'interval': 'epoch'.*",
            ".*Detected call of `lr_scheduler.step\\(\\)` before.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        except SystemExit as leaving:
            if isinstance(leaving.__context__, KeyboardInterrupt):
                signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has switched it off
                raise KeyboardInterrupt from None
            raise
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@dataclass
class Loaders:
    """Batches of both splits, the inputs in them and normalisers fitted on the training split."""

    inputs: list[str]
    train: DataLoader
    valid: DataLoader
    normalisers: tuple[Normaliser, Normaliser]


def loaders(
    train: Dataset, valid: Dataset, inputs: list[str] | None, batch_size: int, seed: int, kinds: tuple[Kind, Kind]
) -> Loaders:
    """Loaders whose order follows from (seed, epoch) alone; `inputs` None means those that vary."""
    names = [channel.name for channel in train.problem.inputs]
    chosen = varying_inputs(train) if inputs is None else list(inputs)
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise UsageError(f"inputs: the data has channels {', '.join(names)}; got '{unknown[0]}'.")
    pairs = [Pairs(data, [names.index(name) for name in chosen], in_memory=True) for data in (train, valid)]
    first, second = (in_batches(p, batch_size, seed, shuffle=i == 0) for i, p in enumerate(pairs))
    whole = pairs[0].__getitems__(list(range(len(train))))
    fitted = (Normaliser(kinds[0]).fit(whole["x"]), Normaliser(kinds[1]).fit(whole["y"]))
    return Loaders(chosen, first, second, fitted)


def affordable(module: Any, data: Loaders, epochs: int, seconds: float, device: str) -> tuple[int, int]:
    """(epochs, batches of each) that fit into `seconds`, at most what was asked, from a few timed steps of a copy.

    The last epoch is not left out but all are cut: a budget of 1.8 epochs makes two of nine tenths of the batches.
    """
    whole = len(data.train)
    if seconds == float("inf"):
        return epochs, whole
    accelerator = device if device not in ("auto", "gpu") else ("cuda" if torch.cuda.is_available() else "cpu")
    trial = copy.deepcopy(module).to(accelerator)
    timed: dict[str, float] = {}
    for kind, batches in (("train", data.train), ("valid", data.valid)):
        marks = []
        for _, batch in zip(range(4), batches, strict=False):
            here = {name: tensor.to(accelerator) for name, tensor in batch.items()}
            started = time.perf_counter()
            with torch.set_grad_enabled(kind == "train"):
                loss = trial.objective(here, kind == "train")
                if kind == "train":
                    loss.backward()
            loss.detach().item()
            marks.append(time.perf_counter() - started)
        # The first step pays for allocations and plans; the optimiser and the loop take about a tenth.
        timed[kind] = 1.1 * min(marks)
    return shared(0.9 * seconds, timed["train"], timed["valid"] * len(data.valid), whole, epochs)


def shared(seconds: float, step: float, check: float, whole: int, epochs: int) -> tuple[int, int]:
    """(epochs, batches of each) for steps of `step` seconds and a validation of `check` seconds after each epoch of
    at most `whole` batches. Validation gets at most half of the time."""
    wanted = seconds / (step * whole + check)
    if wanted >= epochs:
        return epochs, whole
    made = max(1, math.ceil(wanted))
    share = seconds / made
    return made, max(1, min(whole, int(max(share - check, share / 2) / step)))

"""Windows of trajectories as batches, and the Lightning data module that cuts them as the model asks."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from sciops.core.cases import Cases
from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.data.datamodule import MEMORY_LIMIT, OperatorData, in_batches
from sciops.data.normalise import Kind
from sciops.data.windows import Windowed, require_finite_frames, trajectory


class WindowRows(TorchDataset):
    """Rows {"frames": (history + targets, c, *s), "fixed": (e, *s), "time": () of the present, "index": ()}.

    Windows of `history + targets` frames of every trajectory, `stride` apart: row i·m + j is window j of trajectory i.
    targets None: only the protocol's own window, with as many targets as there are (validation, test).
    "fixed" holds the named coefficients of the cases and their scalar parameters as constant channels.
    A frame with NaN is named in a UsageError.
    """

    def __init__(
        self,
        dataset: Dataset,
        history: int,
        targets: int | None,
        coefficients: list[str],
        parameters: list[str],
        stride: int = 1,
        in_memory: bool | None = None,
    ) -> None:
        self.dataset, self.coefficients, self.parameters = dataset, list(coefficients), list(parameters)
        self.times = trajectory(dataset, slice(0, 1)).times
        given = dataset.window.history if isinstance(dataset, Windowed) else history
        if targets is None:  # the protocol's own window
            self.first, targets = given - history, len(self.times) - given
        else:
            self.first = 0
        if self.first < 0 or targets < 1 or history + targets > len(self.times):
            asked = f"{history} frames of history and {max(targets, 1)} to learn from"
            raise UsageError(
                f"Training asks for {asked}, but the data offers {len(self.times)} frames, {given} of them as history; "
                "ask for fewer steps or less history, or give longer trajectories."
            )
        self.length, self.history, self.stride = history + targets, history, stride
        self.count = (len(self.times) - self.first - self.length) // stride + 1
        size = len(dataset) * dataset.grid.size * len(self.times) * len(dataset.problem.outputs) * 8
        keep = size < MEMORY_LIMIT if in_memory is None else in_memory
        self.held = self._read(list(range(len(dataset)))) if keep else None

    def __len__(self) -> int:
        return len(self.dataset) * self.count

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: tensor[0] for name, tensor in self.__getitems__([row]).items()}

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        """A whole batch at once."""
        owner, place = torch.tensor(rows) // self.count, torch.tensor(rows) % self.count
        start = self.first + place * self.stride
        if self.held is not None:
            frames, fixed, local = *self.held, owner
        else:
            unique, local = owner.unique(return_inverse=True)
            frames, fixed = self._read(unique.tolist())
        index = start[:, None] + torch.arange(self.length)
        present = torch.tensor(self.times, dtype=torch.float64)[start + self.history - 1]
        return {
            "frames": frames[local[:, None], index],
            "fixed": fixed[local],
            "time": present.to(frames.dtype),
            "index": torch.tensor(rows),
        }

    def _read(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        frames = trajectory(self.dataset, rows)
        for k, row in enumerate(rows):
            require_finite_frames(frames.values[k : k + 1], frames.times, row)
        return frames.values, fixed_channels(self.dataset.cases(rows), self.coefficients, self.parameters)


def fixed_channels(cases: Cases, coefficients: list[str], parameters: list[str]) -> Tensor:
    """(n, e, *s): what does not move: coefficients and scalar parameters, one channel each."""
    shape = (len(cases), 1, *cases.domain.shape)
    fields = [cases.input(name)[:, None] for name in coefficients]
    numbers = [cases.params[name].to(cases.dtype).reshape(-1, *(1,) * (len(shape) - 1)) for name in parameters]
    parts = [part.expand(shape) for part in fields + numbers]
    if parts:
        return torch.cat(parts, 1)
    return torch.zeros((len(cases), 0, *cases.domain.shape), dtype=cases.dtype, device=cases.device)


class TrajectoryData(OperatorData):
    """Trajectories of a recipe or files, cut into windows as `RolloutModule` asks.

    window: protocol of training, validation and test, {history, horizon, start, stride, frames_apart}; without one
    every split is its whole trajectories. The other arguments are those of `OperatorData`; `normalise_*` are fitted by
    the model, on single calls in the training windows; it also chooses the channels.
    """

    def __init__(
        self,
        source: str,
        window: dict[str, int] | None = None,
        batch_size: int = 20,
        workers: int = 0,
        normalise_input: Kind = "channel",
        normalise_output: Kind = "channel",
        valid: int | None = None,
        seed: int = 0,
        folder: str = "data",
        in_memory: bool | None = None,
        generate_workers: int = 1,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            source, batch_size, workers, normalise_input, normalise_output, None, valid, seed, folder, in_memory,
            generate_workers, device, window,
        )  # fmt: skip
        self.model: Any = None

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        splits = self._opened()
        if self.window is not None:
            splits = {name: Windowed(data, **vars(self.window)) for name, data in splits.items()}
        self.splits = splits

    def serve(self, model: Any) -> None:
        """Cut windows as this model needs them."""
        self.model = model

    def train_dataloader(self) -> DataLoader:
        return self._windows("train", True)

    def val_dataloader(self) -> DataLoader:
        return self._windows("valid", False)

    def test_dataloader(self) -> list[DataLoader]:
        return [self._windows(name, False) for name in self.splits if name.startswith("test")]

    def _windows(self, split: str, training: bool) -> DataLoader:
        if self.model is None:
            raise UsageError("TrajectoryData serves sciops.solvers.rollout_module.RolloutModule; choose that model.")
        rows = self.model.rows(self.splits[split], training, self.in_memory)
        return in_batches(rows, self.batch_size, self.seed, training, self.workers)

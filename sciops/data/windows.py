"""Protocols over trajectories: how many frames a solver is given and how many it must answer."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.dataset import Dataset, Index
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.problem import DataOnly

_WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
_WORDS |= {10: "ten", 15: "fifteen", 20: "twenty", 30: "thirty", 40: "forty", 50: "fifty", 100: "hundred"}


@dataclass(frozen=True)
class Window:
    """history frames in → horizon frames out, beginning with frame `start`; `frames_apart` stored frames lie between
    two used ones. `stride`: used frames between the starts of the windows that training cuts inside."""

    history: int = 10
    horizon: int = 10
    start: int = 0
    stride: int = 1
    frames_apart: int = 1

    def __post_init__(self) -> None:
        for name, least in (("history", 1), ("horizon", 1), ("start", 0), ("stride", 1), ("frames_apart", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"window: {name} must be an integer of at least {least}; got {value!r}.")

    @property
    def name(self) -> str:
        """ "ten_to_ten", "one_to_ten": how many frames in, how many out."""
        return "_to_".join(_WORDS.get(n, str(n)) for n in (self.history, self.horizon))

    def describe(self) -> str:
        """ "ten_to_ten: frames 1–10 in, 11–20 out"."""
        parts, frames = [], self.frames()
        for part in (frames[: self.history], frames[self.history :]):
            parts.append(str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}")
        apart = f", every {self.frames_apart}" if self.frames_apart > 1 else ""
        return f"{self.name}: frame{'s' * (self.history > 1)} {parts[0]} in, {parts[1]} out{apart}"

    def frames(self) -> list[int]:
        """Stored frames of the whole window."""
        return [self.start + k * self.frames_apart for k in range(self.history + self.horizon)]


class Windowed(Dataset):
    """One window of every trajectory of a dataset, as a protocol states it; nothing is copied.

    `cases(i)` carry `history` = frames [start, start + history) and the `times` of the next `horizon` frames,
    `truth(i)` is these frames. Training may cut shorter windows inside, never frames outside. UsageError where the
    trajectories are too short. Label errors and generation time are those of the dataset.
    """

    def __init__(
        self,
        dataset: Dataset,
        history: int = 10,
        horizon: int = 10,
        start: int = 0,
        stride: int = 1,
        frames_apart: int = 1,
    ) -> None:
        self.base, self.window = dataset, Window(history, horizon, start, stride, frames_apart)
        self.problem, self.grid = dataset.problem, dataset.grid
        self.label_error, self.residual = dataset.label_error, dataset.residual
        self.generation_seconds = dataset.generation_seconds
        self.all_times = dataset.truth(slice(0, 1)).times
        last = self.window.frames()[-1]
        if last >= len(self.all_times):
            raise UsageError(
                f"window {self.window.describe()} needs {last + 1} frames, the data has {len(self.all_times)}; give a "
                "smaller horizon or start, or make longer trajectories."
            )

    def __len__(self) -> int:
        return len(self.base)

    @property
    def fingerprint(self) -> str:
        return sha256(f"{self.base.fingerprint} {self.window}".encode()).hexdigest()[:16]

    def cases(self, index: Index = slice(None)) -> Cases:
        frames = self.window.frames()
        history = self._pick(self.base.truth(index), frames[: self.window.history])
        times = tuple(self.all_times[i] for i in frames[self.window.history :])
        return replace(self.base.cases(index), times=times, history=history)

    def truth(self, index: Index = slice(None)) -> Field:
        return self._pick(self.base.truth(index), self.window.frames()[self.window.history :])

    def over(self, dataset: Dataset) -> "Windowed":
        """The same protocol over other trajectories."""
        return Windowed(dataset, **vars(self.window))

    @staticmethod
    def _pick(field: Field, frames: list[int]) -> Field:
        return replace(field, values=field.values[:, frames], times=tuple(field.times[i] for i in frames))


def trajectory(dataset: Dataset, index: Index = slice(None)) -> Field:
    """All frames of the outputs that a dataset offers, in time: those of its window, or the whole trajectories."""
    truth = dataset.truth(index)
    if isinstance(dataset, Windowed):
        past = dataset.cases(index).history
        assert past is not None
        return replace(truth, values=torch.cat([past.values, truth.values], 1), times=past.times + truth.times)
    return truth


def spacing(times: tuple[float, ...]) -> float:
    """The time between two frames; UsageError where frames are not equally spaced."""
    if len(times) < 2:
        raise UsageError("A single frame is no trajectory; give data with two or more frames.")
    steps = [b - a for a, b in pairwise(times)]
    every = (times[-1] - times[0]) / len(steps)
    if min(steps) <= 0 or max(abs(s - every) for s in steps) > 1e-6 * every:
        raise UsageError(
            f"Frames must be equally spaced in time for a one-step operator; they lie {min(steps):g} to "
            f"{max(steps):g} apart."
        )
    return every


def require_finite_frames(values: Float[Tensor, "n t c *s"], times: tuple[float, ...], first: int = 0) -> None:
    """Raise UsageError naming the first case and frame with a value that is not finite; `first` is row 0's number."""
    bad = ~torch.isfinite(values).flatten(2).all(2)
    if bool(bad.any()):
        case, frame = torch.nonzero(bad)[0].tolist()
        raise UsageError(
            f"Training case {first + case} holds NaN or infinity in frame {frame} (t = {times[frame]:g}); remove the "
            "case or make the data again."
        )


class OneStep(Dataset):
    """The pairs (frames up to now, coefficients) ↦ next frame of all trajectories, as a steady dataset for any solver.

    `history` frames of c outputs become input channels "w@-1", "w@0" (the present), followed by the named
    `coefficients` of the cases. Row i·m + j is window j of trajectory i, m the number of windows. The problem is
    `DataOnly`: the equation of a time step is nobody's.
    """

    def __init__(self, dataset: Dataset, history: int = 1, coefficients: tuple[str, ...] = ()) -> None:
        self.base, self.history, self.coefficients = dataset, history, tuple(coefficients)
        self.times = trajectory(dataset, slice(0, 1)).times
        self.every = spacing(self.times)
        self.grid = dataset.grid
        self.count = len(self.times) - history
        if self.count < 1:
            raise UsageError(f"{history} frames of history need trajectories of {history + 1} or more frames.")
        self.problem = step_problem(dataset.problem, history, self.coefficients)
        self.generation_seconds = dataset.generation_seconds

    def __len__(self) -> int:
        return len(self.base) * self.count

    @property
    def fingerprint(self) -> str:
        return sha256(f"{self.base.fingerprint} {self.history} {self.coefficients}".encode()).hexdigest()[:16]

    def _windows(self, index: Index) -> Iterator[tuple[int, int]]:
        rows = range(len(self))[index] if isinstance(index, slice) else [int(i) % len(self) for i in index]
        return iter(divmod(i, self.count) for i in rows)

    def cases(self, index: Index = slice(None)) -> Cases:
        places = list(self._windows(index))
        owners = sorted({i for i, _ in places})
        field, cases = trajectory(self.base, owners), self.base.cases(owners)
        parts = [
            step_inputs(
                field.values[owners.index(i), j : j + self.history][None], cases[owners.index(i)], self.coefficients
            )
            for i, j in places
        ]
        names = tuple(channel.name for channel in self.problem.inputs)
        return Cases(self.problem, self.grid, Field.steady(torch.cat(parts), self.grid, names))

    def truth(self, index: Index = slice(None)) -> Field:
        places = list(self._windows(index))
        owners = sorted({i for i, _ in places})
        field = trajectory(self.base, owners)
        values = torch.stack([field.values[owners.index(i), j + self.history] for i, j in places])
        return Field.steady(values, self.grid, field.channels)


def step_problem(problem: object, history: int, coefficients: tuple[str, ...]) -> DataOnly:
    """frames, coefficients ↦ next frame, as a problem that has data alone."""
    names = tuple(channel.name for channel in problem.outputs)  # type: ignore[attr-defined]
    channels = frame_names(names, history) + coefficients
    walls = [lo for lo, _ in problem.boundary.kinds]  # type: ignore[attr-defined]
    return DataOnly(channels, names, len(walls), tuple(walls), "cubic")


def frame_names(outputs: tuple[str, ...], history: int) -> tuple[str, ...]:
    """Channels of a history, oldest first: ("w@-1", "w@0")."""
    return tuple(f"{name}@{j}" for j in range(1 - history, 1) for name in outputs)


def step_inputs(
    frames: Float[Tensor, "n h c *s"], cases: Cases, coefficients: tuple[str, ...]
) -> Float[Tensor, "n m *s"]:
    """The input channels of one step."""
    extra = [cases.input(name)[:, None].to(frames) for name in coefficients]
    return torch.cat([frames.flatten(1, 2), *extra], 1)

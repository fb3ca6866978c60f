"""A few finished cases as plain arrays: the unit that generation computes, saves, and writes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.dataset import Dataset
from sciops.core.errors import DataError
from sciops.core.field import Field
from sciops.data.hdf5 import atomic


@dataclass
class Chunk:
    """n cases: inputs (n, c, *s), outputs (n, t, c, *s), ids (n,), optional seeds, residual, label error (n,).

    `seconds` and `method`: how long the batch took and how its label error was estimated; `times`: of the frames.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    ids: np.ndarray
    seeds: np.ndarray | None = None
    residual: np.ndarray | None = None
    label_error: np.ndarray | None = None
    params: dict[str, np.ndarray] = field(default_factory=dict)
    boundary: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0
    method: str = "unknown"
    times: tuple[float, ...] = (0.0,)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(
        cls,
        cases: Cases,
        truth: Field,
        residual: Tensor | None = None,
        label_error: Tensor | None = None,
        seconds: float = 0.0,
        method: str = "unknown",
    ) -> "Chunk":
        """From a problem's own objects."""
        n = len(cases)
        ids = torch.arange(n) if cases.ids is None else cases.ids
        return cls(
            _array(cases.inputs.values[:, 0]),
            _array(truth.values),
            _array(ids).astype(np.int64),
            None if cases.seeds is None else _array(cases.seeds).astype(np.uint64),
            None if residual is None else _array(residual).astype(np.float64),
            None if label_error is None else _array(label_error).astype(np.float64),
            {k: _array(v) for k, v in cases.params.items()},
            {k: _array(v) for k, v in cases.boundary.items()},
            seconds,
            method,
            truth.times,
        )

    def require_finite(self, where: str) -> None:
        """Raise DataError naming the case if anything is NaN or infinite."""
        for label, array in [("inputs", self.inputs), ("outputs", self.outputs), *self.params.items()]:
            bad = ~np.isfinite(array.reshape(len(array), -1)).all(1)
            if bad.any():
                raise DataError(
                    f"{where}: {label} of case {int(self.ids[bad.argmax()])} hold NaN or infinity; "
                    f"check the problem's arguments and the reference tolerance."
                )

    def save(self, path: Path) -> None:
        """Write atomically as .npz: after a kill the file is there whole or not at all."""
        table: dict[str, np.ndarray] = {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "ids": self.ids,
            "seconds": np.array(self.seconds),
            "method": np.array(self.method),
            "times": np.array(self.times),
        }
        for name in ("seeds", "residual", "label_error"):
            if getattr(self, name) is not None:
                table[name] = getattr(self, name)
        table |= {f"params/{k}": v for k, v in self.params.items()}
        table |= {f"boundary/{k}": v for k, v in self.boundary.items()}
        with atomic(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **table)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "Chunk":
        """Read what `save` wrote; arrays only, never pickled objects."""
        try:
            with np.load(path, allow_pickle=False) as file:
                table = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise DataError(f"{path} cannot be read ({error}); delete it and run the same command again.") from None

        def group(prefix: str) -> dict[str, np.ndarray]:
            return {k.removeprefix(prefix): v for k, v in table.items() if k.startswith(prefix)}

        return cls(
            table["inputs"],
            table["outputs"],
            table["ids"],
            table.get("seeds"),
            table.get("residual"),
            table.get("label_error"),
            group("params/"),
            group("boundary/"),
            float(table["seconds"]),
            str(table["method"]),
            tuple(table["times"].tolist()) if "times" in table else (0.0,),
        )


def chunks_of(dataset: Dataset, size: int = 16) -> Iterator[Chunk]:
    """Stream any dataset as chunks of `size` cases."""
    for start in range(0, len(dataset), size):
        index = slice(start, min(start + size, len(dataset)))
        cases = dataset.cases(index)
        ids = torch.arange(index.start, index.stop) if cases.ids is None else cases.ids
        chunk = Chunk.of(
            cases,
            dataset.truth(index),
            None if dataset.residual is None else dataset.residual[index],
            None if dataset.label_error is None else dataset.label_error[index],
        )
        chunk.ids = _array(ids)
        yield chunk


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()

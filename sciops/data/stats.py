"""stats.yaml as The Well defines it: per field mean, std, rms over the training split, and of time differences."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sciops.data.hdf5 import atomic, open_hdf5, readable, text_list

FLOOR = 1e-4


class Moments:
    """Count, mean and mean square over all axes but the tensor ones, accumulated in float64 (pairwise merge)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: np.ndarray = np.zeros(())
        self.spread: np.ndarray = np.zeros(())

    def add(self, values: np.ndarray, order: int) -> None:
        values = values.astype(np.float64).reshape(-1, *values.shape[values.ndim - order :])
        if len(values) == 0:
            return
        mean = values.mean(0)
        spread = ((values - mean) ** 2).sum(0)
        shift, total = mean - self.mean, self.count + len(values)
        # Chan et al.: no cancellation of large squares.
        self.spread = self.spread + spread + shift**2 * (self.count * len(values) / total)
        self.mean = self.mean + shift * (len(values) / total)
        self.count = total

    def summary(self) -> dict[str, np.ndarray]:
        variance = self.spread / max(self.count, 1)
        std, rms = np.sqrt(variance), np.sqrt(variance + self.mean**2)
        table = {"mean": self.mean, "std": np.maximum(std, FLOOR), "rms": np.maximum(rms, FLOOR)}
        return {name: np.asarray(value) for name, value in table.items()}


def compute_stats(paths: Iterable[Path]) -> dict[str, dict[str, np.ndarray]]:
    """{mean, std, rms, mean_delta, std_delta, rms_delta} → field → value (nested per tensor component)."""
    values: dict[str, Moments] = {}
    deltas: dict[str, Moments] = {}
    for path in paths:
        with readable(path), open_hdf5(path) as file:
            for order in range(3):
                group = file[f"t{order}_fields"]
                for name in text_list(group.attrs["field_names"]):
                    dataset = group[name]
                    sampled, timed = (bool(dataset.attrs[f"{k}_varying"]) for k in ("sample", "time"))
                    moments = values.setdefault(name, Moments()), deltas.setdefault(name, Moments())
                    for i in range(dataset.shape[0]) if sampled else [()]:
                        array = dataset[i]
                        moments[0].add(array, order)
                        if timed:
                            moments[1].add(np.diff(array.astype(np.float64), axis=0), order)
                        else:
                            moments[1].add(np.zeros_like(array), order)
    table: dict[str, dict[str, np.ndarray]] = {}
    for suffix, source in (("", values), ("_delta", deltas)):
        for name, each in source.items():
            for key, value in each.summary().items():
                table.setdefault(key + suffix, {})[name] = value
    return table


def write_stats(path: Path, files: Iterable[Path]) -> None:
    """Write stats.yaml; numbers in The Well's `.4E` form."""
    lines = []
    for key, fields in compute_stats(files).items():
        lines.append(f"{key}:")
        lines += [f"  {name}: {_nested(value)}" for name, value in fields.items()]
    with atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _nested(value: np.ndarray) -> str:
    if value.ndim == 0:
        return f"{float(value):.4E}"
    return "[" + ", ".join(_nested(np.asarray(v)) for v in value) + "]"

"""What is in a file: problem, shapes, splits, how good the labels are, and how it was made."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sciops.core.dataset import Dataset
from sciops.data.header import Header
from sciops.data.open import format_of, open_dataset

if TYPE_CHECKING:
    from rich.table import Table


def describe(path: str | Path) -> dict[str, Any]:
    """Plain facts of a data file or folder of any format; `table` renders them."""
    path = Path(path)
    splits = open_dataset(path)
    first = next(iter(splits.values()))
    problem = first.problem
    header = getattr(first, "header", None)
    facts: dict[str, Any] = {
        "path": str(path),
        "format": format_of(path) if path.is_file() else "folder",
        "problem": type(problem).__name__,
        "equation": problem.describe(),
        "arguments": _arguments(problem),
        "views": sorted(view.value for view in problem.views()),
        "inputs": [c.name for c in problem.inputs],
        "outputs": [c.name for c in problem.outputs],
        "splits": {name: _split(dataset) for name, dataset in splits.items()},
    }
    if isinstance(header, Header):
        facts |= {
            "name": header.name,
            "parameters": header.parameters,
            "root_seed": header.root_seed,
            "label_method": header.label_method,
            "solver": header.solver,
            "versions": header.versions,
            "created": header.created,
        }
    return facts


def table(facts: dict[str, Any]) -> "Table":
    """A two-column rich table of `describe`'s facts."""
    from rich.markup import escape
    from rich.table import Table

    grid = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for key, value in facts.items():
        if key == "splits" or value in (None, {}, [], ""):
            continue
        grid.add_row(key.replace("_", " "), escape(_text(value)))
    for name, split in facts["splits"].items():
        grid.add_row(f"split {name}", escape(_text({k: v for k, v in split.items() if v is not None})))
    return grid


def _split(dataset: Dataset) -> dict[str, Any]:
    times = dataset.truth(slice(0, 1)).times if len(dataset) else ()
    truth = dataset.truth(slice(0, 1))
    return {
        "cases": len(dataset),
        "grid": dataset.grid.describe(),
        "box": [f"[{lo:g}, {up:g}]" for lo, up in zip(dataset.grid.lower, dataset.grid.upper, strict=True)],
        "frames": len(times) if len(times) > 1 else None,
        "dtype": str(truth.values.dtype).removeprefix("torch."),
        "residual": _range(dataset.residual),
        "label_error": _range(dataset.label_error),
        "generation_seconds": dataset.generation_seconds,
        "fingerprint": dataset.fingerprint,
    }


def _range(values: torch.Tensor | None) -> dict[str, float] | None:
    if values is None or values.numel() == 0:
        return None
    return {"min": float(values.min()), "median": float(values.median()), "max": float(values.max())}


def _arguments(problem: Any) -> dict[str, Any]:
    from sciops.core.config import spec

    return spec(problem)["init_args"]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(v) for v in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)

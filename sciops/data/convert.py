"""Moving data between the native file, The Well and PDEBench layout S without losing anything on the way back."""

from pathlib import Path

from sciops.core.errors import UsageError
from sciops.core.problem import Problem
from sciops.data.open import format_of, open_file
from sciops.data.pdebench import write_pdebench
from sciops.data.store import save_dataset
from sciops.data.stored import StoredDataset
from sciops.data.well import add_sciops_group, open_well, strip_sciops_group

TARGETS = ("native", "well", "pdebench")


def convert(source: str | Path, target: str | Path, to: str = "native", problem: Problem | None = None) -> Path:
    """Write `source` (any readable format) to `target` as native, well or pdebench; returns the path.

    native ↔ The Well keeps every member of the file and adds or drops the /sciops group. native ↔ PDEBench S
    keeps arrays, coordinates, seeds and attributes. Everything else goes through the dataset, one chunk at
    a time. The target is complete or absent.
    """
    source, target = Path(source), Path(target)
    if to not in TARGETS:
        raise UsageError(f"convert writes {', '.join(TARGETS)}; got '{to}'.")
    if source.resolve() == target.resolve():
        raise UsageError(f"convert cannot overwrite its own source {source}; name another target.")
    dataset = open_file(source, problem)
    kind = format_of(source)
    if to == "pdebench":
        return write_pdebench(target, dataset)
    if to == "native":
        if kind == "well" and isinstance(dataset, StoredDataset):
            return add_sciops_group(source, target, open_well(source).header)
        return save_dataset(target, dataset, name="" if kind != "neuralop" else source.stem)
    if kind in ("native", "well"):
        return strip_sciops_group(source, target)
    native = target.with_name(f".{target.name}.native")
    try:
        return strip_sciops_group(save_dataset(native, dataset), target)
    finally:
        native.unlink(missing_ok=True)

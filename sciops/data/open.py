"""Opening data of any known format: what a file is follows from its content, never from its name."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sciops.core.config import build, check_keys
from sciops.core.dataset import Dataset
from sciops.core.errors import DataError, UsageError
from sciops.core.problem import Problem
from sciops.data.hdf5 import open_hdf5, readable
from sciops.data.neuralop import open_neuralop
from sciops.data.part import Part, split_pdebench
from sciops.data.pdebench import layout_of, open_pdebench
from sciops.data.stored import StoredDataset
from sciops.data.well import is_well, open_well

FORMATS = ("native", "well", "pdebench", "neuralop")
OPTIONS = ("path", "problem", "layout", "wall", "inputs", "outputs", "split")
SCAN_LIMIT = 256 * 2**20


def open_dataset(source: str | Path | Mapping[str, Any], problem: Problem | None = None) -> dict[str, Dataset]:
    """Open a file or a folder; returns split → dataset.

    A file gives one split: its own name for native and Well files, else `all`. A folder gives its train, valid
    and test parts; other resolutions of a split are named split_resolution (`test_32`).
    Instead of a path a mapping may be given: path, and optionally problem (class_path, init_args), layout
    (node | cell | periodic) and wall for foreign files, inputs and outputs (names, The Well), and
    split: pdebench (the test share of the original loaders: first tenth in layout S, last tenth in G).
    Files up to 256 MiB are read once to find NaN and damage; larger ones are checked as they are read.
    """
    options: dict[str, Any] = {}
    if isinstance(source, Mapping):
        check_keys(dict(source), OPTIONS, "data")
        if "path" not in source:
            raise UsageError("data needs the key 'path'.")
        options = {k: v for k, v in source.items() if k not in ("path", "problem") and v is not None}
        if source.get("problem") is not None:
            problem = build(source["problem"], Problem)
    path = Path(source["path"] if isinstance(source, Mapping) else source)
    if not path.exists():
        raise DataError(f"{path} does not exist; give an existing file or make it with `sciops generate`.")
    if path.is_file():
        dataset = open_file(path, problem, options)
        if options.get("split") == "pdebench":
            return split_pdebench(dataset)
        if options.get("split"):
            return {str(options["split"]): dataset}
        header = getattr(dataset, "header", None)
        return {header.split if header else "all": dataset}
    return _open_folder(path, problem, options)


def format_of(path: Path) -> str:
    """native | well | pdebench | neuralop, from the content of the file."""
    with path.open("rb") as handle:
        start = handle.read(8)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return "neuralop"
    with readable(path), open_hdf5(path) as file:
        if "sciops" in file:
            return "native"
        if is_well(file):
            return "well"
        if layout_of(file):
            return "pdebench"
        found = ", ".join(list(file)[:6]) or "nothing"
    raise DataError(
        f"{path} is HDF5 but neither native, The Well nor PDEBench (it holds {found}); convert it to one of them."
    )


def open_file(path: Path, problem: Problem | None = None, options: Mapping[str, Any] | None = None) -> Dataset:
    """One file of any format, checked."""
    options = options or {}
    kind = format_of(path)
    given = {k: options[k] for k in ("layout", "wall", "inputs", "outputs") if k in options}
    accepted: dict[str, Sequence[str]] = {
        "native": (),
        "well": ("layout", "inputs", "outputs"),
        "pdebench": ("layout", "wall"),
        "neuralop": ("layout",),
    }
    for key in given:
        if key not in accepted[kind]:
            names = ", ".join(accepted[kind]) or "none of them"
            raise UsageError(f"Option '{key}' does not apply to {path}, a {kind} file; it takes {names}.")
    if kind == "neuralop":
        return open_neuralop(path, **given)
    if kind == "native":
        dataset = StoredDataset(path, problem)
    else:
        dataset = open_well(path, **given) if kind == "well" else open_pdebench(path, **given)
        if problem is not None:
            dataset = StoredDataset(path, problem, lambda file, _: dataset.contents)
    if dataset.nbytes <= SCAN_LIMIT:
        dataset.validate()
        dataset.close()
    return dataset


def _open_folder(folder: Path, problem: Problem | None, options: Mapping[str, Any]) -> dict[str, Dataset]:
    if (folder / "data").is_dir():
        found = {}
        for split in ("train", "valid", "test"):
            files = sorted(p for p in (folder / "data" / split).glob("*") if p.suffix in (".hdf5", ".h5"))
            if files:
                parts = [open_file(p, problem, options) for p in files]
                found[split] = parts[0] if len(parts) == 1 else Part.joined(parts)
        if found:
            return found
    flat: dict[str, dict[str, Dataset]] = {}
    for path in sorted(folder.glob("*")):
        match = re.search(r"(?:^|[_.-])(train|valid|val|test)(?=[_.-])", path.name)
        if match and path.suffix in (".pt", ".hdf5", ".h5"):
            split = match.group(1).replace("val", "valid").replace("validid", "valid")
            dataset = open_file(path, problem, options)
            flat.setdefault(split, {})["x".join(map(str, dict.fromkeys(dataset.grid.shape)))] = dataset
    if not flat:
        raise DataError(
            f"{folder} holds no data: expected data/train/*.hdf5, … or files named *_train_*, *_test_* (.pt, .hdf5)."
        )
    # The resolution of the training data gets the plain name; others carry theirs.
    home = next(iter(flat.get("train", next(iter(flat.values())))))
    found = {}
    for split in (name for name in ("train", "valid", "test") if name in flat):
        table = flat[split]
        plain = home if home in table else next(iter(table))
        for resolution, dataset in table.items():
            found[split if resolution == plain else f"{split}_{resolution}"] = dataset
    return found

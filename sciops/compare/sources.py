"""The data of a comparison: a recipe that is generated if absent, a folder, or files of any known format."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sciops.compare.plan import Plan, locate
from sciops.core.cases import Cases
from sciops.core.dataset import Dataset, Index
from sciops.core.errors import DataError, UsageError
from sciops.core.field import Field


@dataclass
class Splits:
    """Training, validation and test data of one problem; `extra` holds further named test splits."""

    name: str
    train: Dataset
    valid: Dataset
    test: Dataset
    extra: dict[str, Dataset] = field(default_factory=dict)
    generation_seconds: float | None = None

    def named(self) -> dict[str, Dataset]:
        return {"train": self.train, "valid": self.valid, "test": self.test, **self.extra}


def load_splits(plan: Plan, folder: Path, say: Callable[[str], None]) -> Splits:
    """Open the plan's data; `folder` receives what has to be generated."""
    from sciops.data.open import open_dataset

    if isinstance(plan.dataset, dict):
        return _from_files(plan, plan.dataset)
    path = locate(plan, plan.dataset)
    if path.suffix not in (".yaml", ".yml"):
        return _complete(plan.name, open_dataset(path))
    from sciops.data.generate import generate
    from sciops.data.recipe import load_recipe

    recipe = load_recipe(path)
    target = folder / recipe.name
    say(f"data: {path} → {target}")
    started = time.perf_counter()
    generate(recipe, target)
    elapsed = time.perf_counter() - started
    splits = _complete(recipe.name, open_dataset(target))
    if splits.generation_seconds is None:
        splits.generation_seconds = elapsed
    return splits


def _from_files(plan: Plan, files: dict[str, str]) -> Splits:
    from sciops.data.open import open_dataset

    opened: dict[str, Dataset] = {}
    for split, path in files.items():
        found = open_dataset(locate(plan, path))
        opened[split] = found[split] if split in found else next(iter(found.values()))
    return _complete(plan.name, opened)


def _complete(name: str, opened: dict[str, Dataset]) -> Splits:
    """Check that train and test exist; without a validation part the last tenth of train serves as one."""
    opened = dict(opened)
    for needed in ("train", "test"):
        if needed not in opened:
            raise UsageError(f"{name}: the data has no '{needed}' split; it has {', '.join(opened)}.")
    train, test = opened.pop("train"), opened.pop("test")
    valid = opened.pop("valid", None)
    if valid is None:
        if len(train) < 10:
            raise DataError(f"{name}: {len(train)} training cases are too few to split off a validation part.")
        cut = len(train) - len(train) // 10
        train, valid = Part(train, 0, cut), Part(train, cut, len(train))
    seconds = [d.generation_seconds for d in (train, valid) if d.generation_seconds is not None]
    return Splits(name, train, valid, test, opened, sum(seconds) if seconds else None)


class Part(Dataset):
    """The cases start … stop−1 of another dataset."""

    def __init__(self, whole: Dataset, start: int, stop: int) -> None:
        self.whole, self.start, self.stop = whole, start, stop
        self.problem, self.grid = whole.problem, whole.grid
        self.label_error = None if whole.label_error is None else whole.label_error[start:stop]
        self.residual = None if whole.residual is None else whole.residual[start:stop]

    def __len__(self) -> int:
        return self.stop - self.start

    def _index(self, index: Index) -> list[int]:
        chosen = range(self.start, self.stop)[index] if isinstance(index, slice) else [self.start + i for i in index]
        return list(chosen)

    def cases(self, index: Index = slice(None)) -> Cases:
        return self.whole.cases(self._index(index))

    def truth(self, index: Index = slice(None)) -> Field:
        return self.whole.truth(self._index(index))

    @property
    def fingerprint(self) -> str:
        return f"{self.whole.fingerprint}[{self.start}:{self.stop}]"

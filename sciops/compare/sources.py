"""The data of a comparison: a recipe that is generated if absent, a folder, or files of any known format."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sciops.compare.plan import Plan, locate
from sciops.core.dataset import Dataset
from sciops.core.errors import DataError, UsageError
from sciops.data.windows import Windowed


@dataclass
class Splits:
    """Training, validation and test data of one problem; `extra` holds further named test splits.

    Without a trained solver only `test` is needed.
    """

    name: str
    train: Dataset | None
    valid: Dataset | None
    test: Dataset
    extra: dict[str, Dataset] = field(default_factory=dict)
    generation_seconds: float | None = None

    def named(self) -> dict[str, Dataset]:
        found = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: data for name, data in found.items() if data is not None} | self.extra


def load_splits(plan: Plan, folder: Path, say: Callable[[str], None]) -> Splits:
    """Open the plan's data; `folder` receives what has to be generated. Trajectories come under the plan's window."""
    splits = _opened(plan, folder, say)
    if plan.window is not None:
        return windowed(splits, plan.window)
    if len(splits.test.truth(slice(0, 1)).times) > 1:
        raise UsageError(
            f"{plan.name}: the data holds trajectories; say in the plan which frames are given and which are asked, "
            "window: {history: …, horizon: …}."
        )
    return splits


def windowed(splits: Splits, window: Mapping[str, int]) -> Splits:
    """The same splits under a protocol."""
    cut = {name: Windowed(data, **window) for name, data in splits.named().items()}
    train, valid, test = (cut.pop(name, None) for name in ("train", "valid", "test"))
    assert test is not None
    return Splits(splits.name, train, valid, test, dict(cut), splits.generation_seconds)


def _opened(plan: Plan, folder: Path, say: Callable[[str], None]) -> Splits:
    from sciops.data.open import open_dataset

    if isinstance(plan.dataset, dict):
        return _from_files(plan, plan.dataset)
    path = locate(plan, plan.dataset)
    if path.suffix not in (".yaml", ".yml"):
        return _complete(plan.name, open_dataset(path), plan.trains)
    from sciops.data.generate import generate
    from sciops.data.recipe import load_recipe

    recipe = load_recipe(path)
    target = folder / recipe.name
    say(f"data: {path} → {target}")
    started = time.perf_counter()
    generate(recipe, target)
    elapsed = time.perf_counter() - started
    splits = _complete(recipe.name, open_dataset(target, recipe.make_problem()), plan.trains)
    if splits.generation_seconds is None and splits.train is not None:
        splits.generation_seconds = elapsed
    return splits


def _from_files(plan: Plan, files: dict[str, str]) -> Splits:
    from sciops.data.open import open_dataset

    opened: dict[str, Dataset] = {}
    for split, path in files.items():
        found = open_dataset(locate(plan, path))
        opened[split] = found[split] if split in found else next(iter(found.values()))
    return _complete(plan.name, opened, plan.trains)


def _complete(name: str, opened: dict[str, Dataset], trains: bool) -> Splits:
    """Check that test exists and, if a solver is trained, train; without a validation part the last tenth of train
    serves as one."""
    from sciops.data.part import split_off

    opened = dict(opened)
    for needed in ("train", "test") if trains else ("test",):
        if needed not in opened:
            raise UsageError(f"{name}: the data has no '{needed}' split; it has {', '.join(opened)}.")
    train, valid, test = opened.pop("train", None), opened.pop("valid", None), opened.pop("test")
    if valid is None and train is not None and trains:
        if len(train) < 10:
            raise DataError(f"{name}: {len(train)} training cases are too few to split off a validation part.")
        train, valid = split_off(train, len(train) // 10)
    seconds = [d.generation_seconds for d in (train, valid) if d is not None and d.generation_seconds is not None]
    return Splits(name, train, valid, test, opened, sum(seconds) if seconds else None)

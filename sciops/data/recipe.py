"""Recipes: a YAML file that determines every number of a dataset.

    name: darcy_smooth                    # optional, the file's stem otherwise
    problem: {class_path: sciops.problems.darcy.Darcy, init_args: {low: 3.0, high: 12.0}}
    grid: {shape: [211, 211], lower: [0, 0], upper: [1, 1], layout: node}
    splits: {train: 1000, valid: 100, test: 100}
    root_seed: 0
    reference: {tol: 1.0e-10, refine: 2}  # solve on the grid refined k times, keep the shared points
    dtype: float32                        # of the stored arrays; the reference is solved in float64
    batch: 8                              # cases solved together; part of the recipe since it fixes chunks

Case ids run through the splits in the order written; the seed of a case is a hash of root seed and id.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from sciops.core.config import build, check_keys
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.problem import Problem
from sciops.core.random import case_seed
from sciops.data.header import require_usable

DTYPES = {"float32": torch.float32, "float64": torch.float64}
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Reference:
    """How the truth is made: relative residual tolerance and refinement of the solve grid."""

    tol: float = 1e-10
    refine: int = 1


@dataclass(frozen=True)
class Recipe:
    """A dataset, determined to the last bit (on one machine)."""

    name: str
    problem: dict[str, Any]
    grid: Grid
    splits: dict[str, int]
    root_seed: int = 0
    reference: Reference = field(default_factory=Reference)
    dtype: str = "float32"
    batch: int = 8

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name) or self.name.startswith("."):
            raise UsageError(
                f"name may hold letters, digits, _, - and dots, since files are named by it; got '{self.name}'."
            )
        if not self.splits or any(name not in SPLITS for name in self.splits):
            raise UsageError(f"splits may be {', '.join(SPLITS)}; got {', '.join(map(str, self.splits)) or 'none'}.")
        if not 0 < self.reference.tol < 1:
            raise UsageError(f"reference.tol must lie between 0 and 1; got {self.reference.tol!r}.")
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype must be {' or '.join(DTYPES)}; got {self.dtype!r}.")
        k = self.reference.refine
        if k % 2 == 0 and "cell" in self.grid.layout:
            raise UsageError(
                f"reference.refine must be odd on cell layouts, because the cell centres of a grid refined {k} "
                f"times are not centres of the coarse cells; use {k + 1} or a node layout."
            )

    def make_problem(self) -> Problem:
        """Build the problem (trusted: the user wrote this configuration) and check that it fits the grid."""
        problem = build(self.problem, Problem)
        require_usable(problem, self.grid)
        return problem

    def ids(self, split: str) -> range:
        """Case ids of a split."""
        start = 0
        for name, count in self.splits.items():
            if name == split:
                return range(start, start + count)
            start += count
        raise UsageError(f"{self.name} has splits {', '.join(self.splits)}; got '{split}'.")

    def seeds(self, ids: range | list[int]) -> list[int]:
        return [case_seed(self.root_seed, i) for i in ids]

    @property
    def solve_grid(self) -> Grid:
        return self.grid if self.reference.refine == 1 else self.grid.refined(self.reference.refine)

    @property
    def digest(self) -> str:
        """Hash of everything that determines the numbers (not the name)."""
        table = asdict(self)
        del table["name"]
        return sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]

    def resized(self, splits: Mapping[str, int] | None = None, shape: tuple[int, ...] | None = None) -> "Recipe":
        """The same law with other numbers of cases or points (for tests and trials)."""
        grid = self.grid if shape is None else self.grid.resized(shape)
        return Recipe(
            self.name,
            self.problem,
            grid,
            dict(splits or self.splits),
            self.root_seed,
            self.reference,
            self.dtype,
            self.batch,
        )


def load_recipe(source: str | Path | Mapping[str, Any]) -> Recipe:
    """Read a recipe from YAML (or from a mapping); unknown keys raise UsageError with a suggestion."""
    if isinstance(source, Mapping):
        return parse_recipe(dict(source), "recipe")
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"Recipe {path} does not exist; datasets/*.yaml holds the ones that come with sciops.")
    import yaml

    try:
        table = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"Recipe {path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(table, dict):
        raise UsageError(f"Recipe {path} must be a mapping with problem, grid and splits.")
    return parse_recipe({"name": path.stem} | table, str(path))


def parse_recipe(table: dict[str, Any], where: str) -> Recipe:
    """Check keys and types, one clear sentence per mistake."""
    check_keys(table, ("name", "problem", "grid", "splits", "root_seed", "reference", "dtype", "batch"), where)
    for key in ("problem", "grid", "splits"):
        if key not in table:
            raise UsageError(f"{where} lacks the key '{key}'.")
    for key in ("problem", "grid", "splits", "reference"):
        if not isinstance(table.get(key) or {}, dict):
            raise UsageError(f"{where}: '{key}' must be a mapping; got {table[key]!r}.")
    check_keys(table["problem"], ("class_path", "init_args"), f"{where}, problem")
    grid = table["grid"]
    check_keys(grid, ("shape", "lower", "upper", "layout"), f"{where}, grid")
    if "shape" not in grid:
        raise UsageError(f"{where}, grid lacks the key 'shape'.")
    reference = table.get("reference") or {}
    check_keys(reference, ("tol", "refine"), f"{where}, reference")
    shape = grid["shape"] if isinstance(grid["shape"], list) else [grid["shape"]]
    integers = {f"grid.shape[{j}]": (n, 2) for j, n in enumerate(shape)}
    integers |= {f"splits.{name}": (count, 1) for name, count in table["splits"].items()}
    integers |= {key: (table[key], least) for key, least in (("root_seed", 0), ("batch", 1)) if key in table}
    integers["reference.refine"] = reference.get("refine", 1), 1
    for name, (value, least) in integers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{where}: {name} must be an integer of at least {least}; got {value!r}.")
    try:
        box = Grid.box(
            shape, _numbers(grid.get("lower", 0.0)), _numbers(grid.get("upper", 1.0)), grid.get("layout", "node")
        )
        settings = Reference(float(reference.get("tol", 1e-10)), reference.get("refine", 1))
    except (TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise UsageError(f"{where}: {error}") from None
        raise UsageError(f"{where}: grid or reference holds a value of the wrong type ({error}).") from None
    optional = {key: table[key] for key in ("root_seed", "dtype", "batch") if key in table}
    return Recipe(
        str(table.get("name", "dataset")), table["problem"], box, table["splits"], reference=settings, **optional
    )


def _numbers(value: Any) -> float | list[float]:
    """Box ends as floats: YAML writes 1e-3 as text and 1 as an integer."""
    return [float(v) for v in value] if isinstance(value, list) else float(value)

"""The YAML of a comparison: which data, which contestants, which metrics, how long."""

import hashlib
import inspect
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sciops.compare.meter import Protocol
from sciops.core.config import build, check_keys, resolve_class
from sciops.core.errors import UsageError
from sciops.core.solver import Budget, Solver

KEYS = (
    "title",
    "dataset",
    "solvers",
    "metrics",
    "headline",
    "seeds",
    "fit_seconds",
    "solve",
    "timing",
    "memory",
    "batch",
    "test_cases",
    "transfer",
    "shifts",
)
SOLVER_KEYS = ("name", "class_path", "init_args", "seeds", "ladder")
METRICS = ("rel_l2", "rel_l2_p95", "rel_h1", "band_low", "band_mid", "band_high", "max", "boundary", "residual")


@dataclass(frozen=True)
class Contestant:
    """One solver class with its arguments, run once per seed if it is trained."""

    name: str
    class_path: str
    init_args: Mapping[str, Any]
    seeds: tuple[int, ...]
    ladder: bool = True
    """Also run its other settings, for the work–precision curve and the time at equal error."""

    def make(self, seed: int | None = None) -> Solver:
        """A fresh solver; `seed` is passed on where the class takes one."""
        arguments = dict(self.init_args)
        if seed is not None and "seed" in inspect.signature(resolve_class(self.class_path)).parameters:
            arguments["seed"] = seed
        return build({"class_path": self.class_path, "init_args": arguments}, Solver)  # type: ignore[type-abstract]

    @property
    def digest(self) -> str:
        return fingerprint({"class_path": self.class_path, "init_args": dict(self.init_args)})


@dataclass(frozen=True)
class Plan:
    """A comparison, read from YAML and checked before any computation."""

    name: str
    title: str
    dataset: str | dict[str, str]
    solvers: tuple[Contestant, ...]
    metrics: tuple[str, ...] = METRICS
    headline: str = "rel_l2"
    fit_seconds: float | None = None
    solve: Budget = field(default_factory=Budget)
    timing: Protocol = field(default_factory=Protocol)
    memory: bool = True
    batch: int = 16
    test_cases: int | None = None
    transfer: tuple[float, ...] = ()
    transfer_cases: int = 16
    shifts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    folder: Path = field(default_factory=Path.cwd)

    @property
    def digest(self) -> str:
        """Hash of everything that decides the numbers."""
        return fingerprint({k: v for k, v in vars(self).items() if k not in ("folder", "title")})


def fingerprint(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def roots() -> list[Path]:
    """Where bare names are looked up: the working folder first, then the source tree of the package."""
    return [Path.cwd(), Path(__file__).resolve().parents[2]]


def find(name: str) -> Path:
    """The YAML of a comparison: a path, or a bare name under experiments/compare/."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if Path(name).is_file():
            return Path(name)
        raise UsageError(f"compare: there is no file {name}.")
    known: list[str] = []
    for root in roots():
        folder = root / "experiments" / "compare"
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
        known += [p.stem for p in folder.glob("*.yaml")]
    raise UsageError(f"compare: no comparison '{name}'; known: {', '.join(sorted(set(known))) or 'none'}, or a path.")


def read(path: Path) -> Plan:
    """Parse and check a comparison; every mistake is one sentence that names the key."""
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(raw, dict):
        raise UsageError(f"{path} must be a mapping with the keys {', '.join(KEYS)}.")
    check_keys(raw, KEYS, str(path))
    for needed in ("dataset", "solvers"):
        if not raw.get(needed):
            raise UsageError(f"{path} lacks the key '{needed}'.")
    seeds = tuple(raw.get("seeds", (0,)))
    transfer = raw.get("transfer") or {}
    check_keys(transfer, ("factors", "cases"), f"{path}: transfer")
    for key, accepted in (("timing", Protocol), ("solve", Budget)):
        check_keys(raw.get(key) or {}, inspect.signature(accepted).parameters, f"{path}: {key}")
    headline = raw.get("headline", "rel_l2")
    metrics = tuple(raw.get("metrics", METRICS))
    return Plan(
        name=path.stem,
        title=raw.get("title", path.stem),
        dataset=_expand(raw["dataset"]),
        solvers=tuple(_contestant(entry, seeds, path) for entry in raw["solvers"]),
        metrics=metrics if headline in metrics else (headline, *metrics),
        headline=headline,
        fit_seconds=raw.get("fit_seconds"),
        solve=Budget(**(raw.get("solve") or {})),
        timing=Protocol(**(raw.get("timing") or {})),
        memory=bool(raw.get("memory", True)),
        batch=int(raw.get("batch", 16)),
        test_cases=raw.get("test_cases"),
        transfer=tuple(transfer.get("factors", ())),
        transfer_cases=int(transfer.get("cases", 16)),
        shifts=raw.get("shifts") or {},
        folder=path.resolve().parent,
    )


def _contestant(entry: Any, seeds: tuple[int, ...], path: Path) -> Contestant:
    if isinstance(entry, str):
        entry = {"class_path": entry}
    if not isinstance(entry, dict) or "class_path" not in entry:
        raise UsageError(f"{path}: every entry of solvers needs a class_path; got {entry!r}.")
    check_keys(entry, SOLVER_KEYS, f"{path}: solver")
    made = Contestant("", entry["class_path"], entry.get("init_args") or {}, ())
    solver = made.make(0)  # checks the class and its arguments now, before any computation
    own = tuple(entry.get("seeds", seeds)) if solver.trained else (0,)
    ladder = entry.get("ladder", True)
    if not isinstance(ladder, bool):
        raise UsageError(f"{path}: ladder of {entry['class_path']} must be true or false; got {ladder!r}.")
    return Contestant(entry.get("name", solver.name), made.class_path, made.init_args, own, ladder)


def _expand(value: Any) -> Any:
    """${NAME} and ${NAME:-default} in dataset paths."""
    if isinstance(value, dict):
        return {k: _expand(v) for k, v in value.items()}
    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", lambda m: os.environ.get(m[1], m[2] or ""), str(value))


def locate(plan: Plan, path: str) -> Path:
    """A path named in the plan: relative to the working folder, the plan's own folder, or the source tree."""
    candidates = [Path(path), plan.folder / path, *(root / path for root in roots())]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise UsageError(f"{plan.name}: dataset file '{path}' does not exist (looked beside the plan and in {Path.cwd()}).")

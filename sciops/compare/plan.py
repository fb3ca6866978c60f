"""The YAML of a comparison: which data, which contestants, which metrics, how long."""

import hashlib
import inspect
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sciops.compare.meter import Protocol
from sciops.core.config import build, check_keys, resolve_class
from sciops.core.errors import UsageError
from sciops.core.solver import KINDS, Budget, Solver
from sciops.data.windows import Window

KEYS = (
    "title",
    "dataset",
    "datasets",
    "window",
    "solvers",
    "metrics",
    "headline",
    "goal",
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
SOLVER_KEYS = ("name", "class_path", "init_args", "seeds", "ladder", "solve", "test_cases", "only", "except")
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
    solve: Budget | None = None
    """Its own limits of a solve instead of those of the plan."""
    only: tuple[str, ...] | None = None
    """In a suite: the datasets that it runs on; None: all."""
    test_cases: int | None = None
    """The first cases of every split that it solves, where they are fewer than the plan's."""

    def make(self, seed: int | None = None) -> Solver:
        """A fresh solver; `seed` is passed on where the class takes one."""
        arguments = dict(self.init_args)
        if seed is not None and "seed" in inspect.signature(resolve_class(self.class_path)).parameters:
            arguments["seed"] = seed
        return build({"class_path": self.class_path, "init_args": arguments}, Solver)  # type: ignore[type-abstract]

    @property
    def kind(self) -> str:
        """classical | learned | per-instance."""
        solver = self.make(0)
        return "learned" if solver.trained else solver.kind

    @property
    def digest(self) -> str:
        return fingerprint({"class_path": self.class_path, "init_args": dict(self.init_args)})


@dataclass(frozen=True)
class Plan:
    """A comparison, read from YAML and checked before any computation.

    One with `datasets` (name → what `dataset` would say) is a suite: the same contestants on each of them.
    """

    name: str
    title: str
    dataset: str | dict[str, str]
    solvers: tuple[Contestant, ...]
    metrics: tuple[str, ...] = METRICS
    headline: str = "rel_l2"
    goal: float | None = None
    """In a suite: the headline error up to which a problem counts as solved."""
    fit_seconds: float | None = None
    solve: Budget = field(default_factory=Budget)
    timing: Protocol = field(default_factory=Protocol)
    memory: bool = True
    batch: int = 16
    test_cases: int | None = None
    transfer: tuple[float, ...] = ()
    """Resolution transfer: factors on the number of intervals of the training grid, one column each."""
    transfer_cases: int = 16
    transfer_refine: int | None = None
    """Make and solve its cases once, on the training grid refined so many times, and stride them to every column: one
    truth for all grids, with what lies between their points. Without it every grid has cases and truth of its own."""
    shifts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    datasets: Mapping[str, str | dict[str, str]] = field(default_factory=dict)
    window: Mapping[str, int] | None = None
    """Of trajectories: the protocol {history, horizon, start, stride, frames_apart}, one for all rows."""
    folder: Path = field(default_factory=Path.cwd)

    @property
    def protocol(self) -> str:
        """Name of the window, "ten_to_ten"; empty without one."""
        return "" if self.window is None else Window(**self.window).name

    @property
    def trains(self) -> bool:
        """Does any contestant learn from the training split?"""
        return any(contestant.kind == "learned" for contestant in self.solvers)

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
    if raw.get("dataset") and raw.get("datasets"):
        raise UsageError(f"{path} has 'dataset' and 'datasets'; keep one: datasets for several, compared one by one.")
    for needed, other in (("dataset", "datasets"), ("solvers", "solvers")):
        if not raw.get(needed) and not raw.get(other):
            raise UsageError(f"{path} lacks the key '{needed}'.")
    datasets = _datasets(raw.get("datasets") or {}, path)
    seeds = tuple(raw.get("seeds", (0,)))
    transfer = raw.get("transfer") or {}
    check_keys(transfer, ("factors", "cases", "refine"), f"{path}: transfer")
    refine = transfer.get("refine")
    if refine is not None and not (isinstance(refine, int) and refine >= 1):
        raise UsageError(f"{path}: transfer.refine must be an integer of at least 1; got {refine!r}.")
    check_keys(raw.get("timing") or {}, inspect.signature(Protocol).parameters, f"{path}: timing")
    solvers = tuple(_contestant(entry, seeds, path, datasets) for entry in raw["solvers"])
    _require_names(solvers, datasets, path)
    headline = raw.get("headline", "rel_l2")
    window = _window(raw.get("window"), path)
    title = raw.get("title", path.stem)
    metrics = tuple(raw.get("metrics", METRICS))
    return Plan(
        name=path.stem,
        title=title if window is None else f"{title} · {Window(**window).describe()}",
        dataset=_expand(raw.get("dataset") or ""),
        solvers=solvers,
        metrics=metrics if headline in metrics else (headline, *metrics),
        headline=headline,
        goal=None if raw.get("goal") is None else float(raw["goal"]),
        fit_seconds=raw.get("fit_seconds"),
        solve=_budget(raw.get("solve") or {}, f"{path}: solve"),
        timing=Protocol(**(raw.get("timing") or {})),
        memory=bool(raw.get("memory", True)),
        batch=int(raw.get("batch", 16)),
        test_cases=raw.get("test_cases"),
        transfer=tuple(transfer.get("factors", ())),
        transfer_cases=int(transfer.get("cases", 16)),
        transfer_refine=refine,
        shifts=raw.get("shifts") or {},
        datasets=datasets,
        window=window,
        folder=path.resolve().parent,
    )


def _datasets(given: Any, path: Path) -> dict[str, Any]:
    """Name → path (or split → file); a list of paths is named by the stems of its files."""
    if isinstance(given, list):
        named = {Path(str(entry)).stem: entry for entry in given}
        if len(named) < len(given):
            raise UsageError(f"{path}: two entries of datasets have the same file name; write them as name: path.")
        given = named
    if not isinstance(given, dict) or not all(isinstance(v, str | dict) for v in given.values()):
        raise UsageError(f"{path}: datasets must map names to recipes or folders, or be a list of them; got {given!r}.")
    for name in given:
        if not re.fullmatch(r"\w[\w.-]*", str(name)):
            raise UsageError(
                f"{path}: datasets become folders, so names hold letters, digits, _ . and -; got '{name}'."
            )
    return {str(name): _expand(value) for name, value in given.items()}


def _window(given: Any, path: Path) -> dict[str, int] | None:
    """The protocol over trajectories, checked."""
    if given is None:
        return None
    if not isinstance(given, dict) or "history" not in given or "horizon" not in given:
        raise UsageError(f"{path}: window must map history and horizon to numbers of frames; got {given!r}.")
    check_keys(given, inspect.signature(Window).parameters, f"{path}: window")
    try:
        return vars(Window(**given))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _budget(given: Any, where: str) -> Budget:
    check_keys(given, inspect.signature(Budget).parameters, where)
    return Budget(**given)


def _chosen(entry: dict[str, Any], datasets: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    """The datasets of a suite that a contestant runs on, from its `only` or `except`; None: all."""
    if "only" not in entry and "except" not in entry:
        return None
    if "only" in entry and "except" in entry:
        raise UsageError(f"{where} has 'only' and 'except'; keep one.")
    key = "only" if "only" in entry else "except"
    given = [entry[key]] if isinstance(entry[key], str) else entry[key]
    if not datasets:
        raise UsageError(f"{where}: '{key}' chooses among the datasets of a suite; this plan has one dataset.")
    names = pick_names(given, datasets, f"{where}: {key}")
    return tuple(name for name in datasets if (name in names) == (key == "only"))


def pick_names(given: Sequence[str], datasets: Mapping[str, Any], where: str) -> list[str]:
    """The names, checked against the datasets of a suite."""
    for name in given:
        if name not in datasets:
            raise UsageError(f"{where} names '{name}'; the datasets are {', '.join(datasets)}.")
    return list(given)


def _require_names(solvers: Sequence[Contestant], datasets: Mapping[str, Any], path: Path) -> None:
    """Two solvers of one name would become one row; in a suite one name may have other settings on other datasets."""
    for place in datasets or [""]:
        names = [c.name for c in solvers if c.only is None or place in c.only]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            where = f" on {place}" if place else ""
            raise UsageError(f"{path}: two solvers are named '{twice}'{where}; give each a 'name' of its own.")


def _contestant(entry: Any, seeds: tuple[int, ...], path: Path, datasets: Mapping[str, Any]) -> Contestant:
    if isinstance(entry, str):
        entry = {"class_path": entry}
    if not isinstance(entry, dict) or "class_path" not in entry:
        raise UsageError(f"{path}: every entry of solvers needs a class_path; got {entry!r}.")
    check_keys(entry, SOLVER_KEYS, f"{path}: solver")
    made = Contestant("", entry["class_path"], entry.get("init_args") or {}, ())
    solver = made.make(0)  # checks the class and its arguments now, before any computation
    if solver.kind not in KINDS:
        raise UsageError(
            f"{path}: kind of {entry['class_path']} must be one of {', '.join(KINDS)}; got {solver.kind!r}."
        )
    own = tuple(entry.get("seeds", seeds if solver.trained else (made.init_args.get("seed", 0),)))
    ladder = entry.get("ladder", True)
    if not isinstance(ladder, bool):
        raise UsageError(f"{path}: ladder of {entry['class_path']} must be true or false; got {ladder!r}.")
    where = f"{path}: {entry['class_path']}"
    limit = entry.get("test_cases")
    if limit is not None and not (isinstance(limit, int) and limit >= 1):
        raise UsageError(f"{where}: test_cases must be 1 or more; got {limit!r}.")
    return Contestant(
        entry.get("name", solver.name),
        made.class_path,
        made.init_args,
        own,
        ladder,
        None if entry.get("solve") is None else _budget(entry["solve"], f"{where}: solve"),
        _chosen(entry, datasets, where),
        limit,
    )


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

"""What a comparison found: rows that survive an interruption, and the records other programs read."""

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1


@dataclass
class Score:
    """One metric of one row: the combined value, its bootstrap interval, and the per-case values behind it."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""
    per_case: list[float] = field(default_factory=list)


@dataclass
class Row:
    """One solver at one setting with one seed, on one data split. Times are seconds."""

    solver: str
    setting: str
    seed: int
    kind: str  # classical | learned | per-instance | reference
    needs: list[str]
    split: str = "test"
    grid: str = ""
    status: str = "ok"  # ok | partial | refused | failed
    message: str = ""
    n_cases: int = 0
    successes: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    parameters: int = 0
    fit_seconds: float = 0.0
    setup_seconds: float = 0.0
    matrix_setup_seconds: float | None = None  # of one case's own matrix: part of its latency
    latency: dict[str, float] | None = None
    throughput: dict[str, float] | None = None
    memory_bytes: float | None = None
    iterations: float | None = None
    iterations_saved: float | None = None  # against the same method without its warm start or network
    points: float | None = None  # collocation points, where the solver says how many
    judged_seconds: list[float] = field(default_factory=list)  # of every solve that was judged, per case
    anytime: list[tuple[float, float]] = field(default_factory=list)  # (seconds, error) of the first case on the way
    protocol: str = ""  # frames in and out of a rollout, "ten_to_ten"
    over_time: list[tuple[float, float, float, float]] = field(default_factory=list)  # time, mean, low, high of rel. L²
    default: bool = True  # the solver's own setting, not another rung of its ladder
    key: str = ""

    @property
    def label(self) -> str:
        return self.solver if self.default or not self.setting else f"{self.solver} {self.setting}"

    @property
    def verdict(self) -> str:
        """ "ok", or what stands against it: "unresolved" (all cases), "2 of 8 max_iter", "refused", "failed"."""
        if self.status in ("ok", "refused"):
            return self.status
        bad = {name: count for name, count in sorted(self.statuses.items()) if name != "ok"}
        if list(bad.values()) == [self.n_cases]:
            return next(iter(bad))
        return ", ".join(f"{count} of {self.n_cases} {name}" for name, count in bad.items()) or self.status

    def score(self, metric: str) -> float | None:
        found = self.scores.get(metric)
        return None if found is None else found.value

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Row":
        raw = json.loads(text)
        raw["scores"] = {k: Score(**v) for k, v in raw["scores"].items()}
        raw["anytime"] = [(seconds, error) for seconds, error in raw.get("anytime", [])]
        raw["over_time"] = [tuple(point) for point in raw.get("over_time", [])]
        return cls(**raw)


@dataclass
class Results:
    """Everything that the tables, plots and records are made from."""

    name: str
    title: str
    problem: str
    equation: str
    headline: str
    metrics: list[str]
    rows: list[Row]
    matrix: list[tuple[str, str]] = field(default_factory=list)  # solver, "" or why not
    transfer: list[Row] = field(default_factory=list)
    shifts: list[Row] = field(default_factory=list)
    floor: float | None = None
    generation_seconds: float | None = None
    protocol: str = ""  # of trajectories: the one window that all rows share
    truth_residual: float | None = None  # of the stored truth itself: the floor of the residual column
    provenance: dict[str, Any] = field(default_factory=dict)

    def records(self) -> Iterator[dict[str, Any]]:
        """The stable records of results.jsonl: problem, solver, setting, split, grid, seed, metric, value, low,
        high, status, n_cases, note. Missing values are null. Times are seconds, memory is bytes."""
        from sciops.compare.derive import derived

        facts = derived(self)
        for row in [*self.rows, *self.transfer, *self.shifts]:
            base = {
                "schema": SCHEMA,
                "problem": self.problem,
                "solver": row.solver,
                "setting": row.setting,
                "default": row.default,
                "kind": row.kind,
                "split": row.split,
                "grid": row.grid,
                "seed": row.seed,
                "status": row.status,
                "n_cases": row.n_cases,
            } | ({"protocol": row.protocol} if self.protocol else {})
            values = {name: Score(None, note=row.message) for name in self.metrics} | row.scores
            values["success_rate"] = Score(row.successes / row.n_cases if row.n_cases else 0.0, note=row.message)
            if row.split == "test" and row.status in ("ok", "partial"):
                values["parameters"] = Score(float(row.parameters))
                values["fit_seconds"] = Score(row.fit_seconds)
                values["setup_seconds"] = Score(row.setup_seconds)
                for name, timing in (("latency_seconds", row.latency), ("seconds_per_case", row.throughput)):
                    if timing:
                        note = "noisy: quartiles spread over 20 %" if noisy(timing) else ""
                        note = "one run: the solve that was judged" if timing.get("judged") else note
                        values[name] = Score(timing["median"], timing["low"], timing["high"], note)
                if row.memory_bytes is not None:
                    values["peak_memory_bytes"] = Score(row.memory_bytes)
                for name in ("iterations", "iterations_saved", "points", "matrix_setup_seconds"):
                    if getattr(row, name) is not None:
                        values[name] = Score(getattr(row, name))
                for name, (value, note) in facts.get(row.key, {}).items():
                    values[name] = Score(value, note=note)
            for metric, score in values.items():
                yield base | {
                    "metric": metric,
                    "value": score.value,
                    "low": score.low,
                    "high": score.high,
                    "note": score.note,
                }


def noisy(timing: dict[str, float]) -> bool:
    """Do the quartiles of a timing lie more than 20 % of the median apart?"""
    return timing["high"] - timing["low"] > 0.2 * timing["median"]


def write_atomically(path: Path, text: str) -> None:
    """Write beside the target and rename, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def provenance(config_digest: str, data_digest: str) -> dict[str, Any]:
    """Versions, commit, device, threads, load: what is needed to judge and to repeat the numbers."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    versions = {}
    for package in ("sciops", "torch", "numpy", "scipy", "pyamg", "lightning", "neuraloperator"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    ).stdout.strip()
    device = "cpu"
    if torch.accelerator.is_available():
        device = str(torch.accelerator.current_accelerator())
    return {
        "versions": versions,
        "python": platform.python_version(),
        "commit": commit or "not a git checkout",
        "device": device,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "config": config_digest,
        "data": data_digest,
    }

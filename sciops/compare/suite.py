"""A suite: one comparison over many datasets, each in its own folder, and the tables that lay them side by side."""

import html
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sciops.compare.plan import Contestant, Plan, locate, pick_names
from sciops.compare.plots import draw_suite, pictures
from sciops.compare.report import anytime_csv, document, elsewhere, finite_records, machine, page, write
from sciops.compare.results import SCHEMA, Results, Row, write_atomically
from sciops.compare.run import Comparison, Say, compare
from sciops.compare.sources import load_splits
from sciops.compare.table import (
    Line,
    average,
    csv_text,
    estimate_cell,
    grouped,
    latex,
    median_timing,
    number,
    timed,
)
from sciops.core.errors import UsageError
from sciops.core.problem import Problem
from sciops.metrics.catalogue import named

ABSENT = "·"
"""The cell of a solver that is not entered for a problem."""


SILENT = "Silent failures: called a success, error over ten times the solver's own estimate"


@dataclass
class Suite:
    """The results of every problem, in the order of the plan; `broken` says what kept a problem from running."""

    plan: Plan
    found: dict[str, Results] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    problems: list[Line] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [name for name in self.plan.datasets if name in self.found or name in self.broken]

    def rows(self, solver: str, problem: str) -> list[Row]:
        """The solver's own setting on a problem, one row per seed."""
        return grouped(self.found[problem].rows).get(solver, []) if problem in self.found else []

    def records(self) -> Iterator[dict[str, Any]]:
        """Those of every problem; a problem that could not run has one failed record per solver."""
        for name in self.names:
            if name in self.found:
                yield from finite_records(self.found[name])
                continue
            for contestant in entered(self.plan, name):
                yield {
                    "schema": SCHEMA,
                    "problem": name,
                    "solver": contestant.name,
                    "setting": "",
                    "default": True,
                    "kind": contestant.kind,
                    "split": "test",
                    "grid": "",
                    "seed": contestant.seeds[0],
                    "status": "failed",
                    "n_cases": 0,
                    "metric": self.plan.headline,
                    "value": None,
                    "low": None,
                    "high": None,
                    "note": self.broken[name],
                }


def chosen(plan: Plan, only: Sequence[str] | None) -> list[str]:
    """Names of the datasets to run: all, or those asked for, in the order of the plan."""
    if not only:
        return list(plan.datasets)
    names = pick_names(only, plan.datasets, "--only")
    return [name for name in plan.datasets if name in names]


def entered(plan: Plan, name: str) -> tuple[Contestant, ...]:
    """The contestants on one dataset."""
    return tuple(c for c in plan.solvers if c.only is None or name in c.only)


def member(plan: Plan, name: str) -> Plan:
    """The comparison on one dataset of the suite; raises UsageError if its file or its contestants are missing."""
    solvers = entered(plan, name)
    if not solvers:
        raise UsageError(f"{plan.name}: no solver is entered for '{name}'; loosen an 'only' or 'except', or drop it.")
    part = replace(plan, name=name, title=f"{plan.title}: {name}", solvers=solvers, datasets={})
    part = replace(part, dataset=plan.datasets[name])
    for path in part.dataset.values() if isinstance(part.dataset, dict) else [part.dataset]:
        locate(part, path)
    return part


def run_suite(plan: Plan, names: Sequence[str], out: Path, data: Path, say: Say) -> Suite:
    """Run the comparison on each dataset into out/NAME; what is finished there is kept, as for a single one.

    A problem that cannot run at all becomes a column that says so; the others go on.
    """
    parts = [member(plan, name) for name in names]  # every missing file is told before the first hour is spent
    suite = Suite(plan)
    for i, part in enumerate(parts, start=1):
        say(f"{part.name} ({i} of {len(parts)})")
        try:
            splits = replace(load_splits(part, data, say), name=part.name)
            results = compare(part, splits, out / part.name, say)
            write(results, splits.test, out / part.name)
        except Exception as error:
            suite.broken[part.name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            say(f"{part.name}: {suite.broken[part.name]}")
            continue
        suite.found[part.name] = results
        suite.problems.append(_about(part.name, splits.test.problem, results))
    return suite


def compatibility(plan: Plan, names: Sequence[str], data: Path, say: Say) -> list[Line]:
    """Solver × problem: who can run, before any solve; the reasons come with the run."""
    lines: dict[str, Line] = {c.name: {"solver": c.name} for c in plan.solvers}
    for name in names:
        part = member(plan, name)
        reasons = dict(Comparison(part, load_splits(part, data, say), Path(), say).matrix())
        for solver, line in lines.items():
            line[name] = ABSENT if solver not in reasons else "no" if reasons[solver] else "yes"
    return list(lines.values())


# ---- tables


def sections(suite: Suite) -> dict[str, list[Line]]:
    """Title → table, in reading order; rows are solvers, columns problems, or the grids and laws of one problem."""
    headline = suite.plan.headline
    found = {
        f"Error ({headline})": _error_table(suite),
        "Seconds per solve": _grid(suite, lambda rows, _: timed(median_timing([row.latency for row in rows]))),
        "Error estimate ÷ error": _grid(suite, lambda rows, _: estimate_cell(rows)),
        "Points used": _grid(suite, lambda rows, _: _count([row.points for row in rows])),
    }
    for metric in suite.plan.metrics:
        if metric != headline and named(metric).needs_std:
            found[metric] = _grid(suite, lambda rows, _, metric=metric: _value(rows, metric))  # type: ignore[misc]
    for name, results in suite.found.items():
        found |= {f"{title}: {name}": lines for title, lines in elsewhere(results).items()}
    found["Not solved, and why"] = _reasons(suite)
    found[SILENT] = _silent(suite)
    found["Problems"] = suite.problems
    kept = {title: lines for title, lines in found.items() if lines}
    return {title: lines for title, lines in kept.items() if any(set(line.values()) - {""} for line in lines)}


def _grid(suite: Suite, cell: Callable[[list[Row], Results], str]) -> list[Line]:
    """One line per solver that has something to say; nothing at all where none has."""
    lines = []
    for solver in _order(suite):
        line: Line = {"solver": solver}
        for problem in suite.names:
            rows = suite.rows(solver, problem)
            line[problem] = cell(rows, suite.found[problem]) if rows else ""
        if any(text not in ("", "—") for name, text in line.items() if name != "solver"):
            lines.append(line)
    return lines


def _error_table(suite: Suite) -> list[Line]:
    lines = []
    for solver in _order(suite):
        line: Line = {"solver": solver}
        for problem in suite.names:
            rows = suite.rows(solver, problem)
            if rows:
                line[problem] = _error_cell(rows, suite.found[problem])
            else:
                line[problem] = "failed" if problem in suite.broken and _enters(suite, solver, problem) else ABSENT
        total = sum(_enters(suite, solver, problem) for problem in suite.names)
        counts = _solved(suite, solver)
        line["ok"] = f"{counts[0]}/{total}"
        if suite.plan.goal is not None:
            line[f"≤ {suite.plan.goal:g}"] = f"{counts[1]}/{total}"
        lines.append(line)
    return lines


def _error_cell(rows: list[Row], results: Results) -> str:
    """The error; beside it, where the solver does not call every case a success, what it says instead."""
    value = average([row.score(results.headline) for row in rows])
    verdict = next((row.verdict for row in rows if row.status != "ok"), "")
    if value is None:
        return verdict or "—"
    return number(value, results.floor) + (f" ({verdict})" if verdict else "")


def _value(rows: list[Row], metric: str) -> str:
    value = average([row.score(metric) for row in rows])
    return "" if value is None else number(value)


def _count(values: Sequence[float | None]) -> str:
    value = average(values)
    return "" if value is None else f"{value:.0f}"


def _enters(suite: Suite, solver: str, problem: str) -> bool:
    return any(c.name == solver for c in entered(suite.plan, problem))


def _solved(suite: Suite, solver: str) -> tuple[int, int]:
    """Problems that ended ok on every case and seed, and those of them with at most the goal's error."""
    ok = good = 0
    for problem in suite.names:
        rows = suite.rows(solver, problem)
        if not rows or any(row.status != "ok" for row in rows):
            continue
        error = average([row.score(suite.plan.headline) for row in rows])
        ok += 1
        good += error is not None and suite.plan.goal is not None and error <= suite.plan.goal
    return ok, good


def _order(suite: Suite) -> list[str]:
    """Most problems solved first, then the smaller geometric mean of the errors, then the order of the plan."""
    listed = dict.fromkeys(c.name for c in suite.plan.solvers)
    names = [name for name in listed if any(_enters(suite, name, problem) for problem in suite.names)]

    def key(solver: str) -> tuple[int, int, float]:
        errors = [row.score(suite.plan.headline) for problem in suite.names for row in suite.rows(solver, problem)]
        logs = [math.log(max(e, 1e-300)) for e in errors if e is not None and math.isfinite(e)]
        ok, good = _solved(suite, solver)
        return -good, -ok, sum(logs) / len(logs) if logs else math.inf

    return sorted(names, key=key)


def _reasons(suite: Suite) -> list[Line]:
    """One line per solver and reason, with the problems that it holds for; problems that could not run come first."""
    lines: list[Line] = [
        {"solver": "(all)", "problems": name, "what": "failed", "why": why} for name, why in suite.broken.items()
    ]
    told: dict[tuple[str, str, str], list[str]] = {}
    for solver in _order(suite):
        for problem in suite.names:
            bad = next((row for row in suite.rows(solver, problem) if row.status != "ok"), None)
            if bad is not None:
                told.setdefault((solver, bad.verdict, bad.message), []).append(problem)
    return lines + [
        {"solver": solver, "problems": ", ".join(names), "what": what, "why": why}
        for (solver, what, why), names in told.items()
    ]


def _silent(suite: Suite) -> list[Line]:
    """Problems where a solver calls every case a success while the error of some is far above its own estimate."""
    lines = []
    for solver in _order(suite):
        for problem in suite.names:
            for row in suite.rows(solver, problem):
                score = row.scores.get("error_estimate_ratio")
                low = [ratio for ratio in score.per_case if ratio < 0.1] if score and row.status == "ok" else []
                if low:
                    lines.append(
                        {
                            "solver": solver,
                            "problem": problem,
                            "cases": f"{len(low)} of {row.n_cases}",
                            "error": number(row.score(suite.plan.headline), suite.found[problem].floor),
                            "lowest estimate ÷ error": f"{min(low):.2g}",
                        }
                    )
    return lines


def _about(name: str, problem: Problem, results: Results) -> Line:
    row = results.rows[0]
    return {
        "problem": name,
        "equation": results.equation,
        "solution": str(getattr(problem, "exact_solution", None) or "—"),
        "grid": row.grid,
        "cases": str(row.n_cases),
        "label error": number(results.floor),
    }


def summary(suite: Suite) -> list[str]:
    """The facts above the tables, as sentences."""
    lines = [
        "Cells hold the error over the test cases of each problem; beside it, in brackets, what the solver says where "
        f"it does not call every case a success. “{ABSENT}” marks problems that a solver is not entered for; “≤” an "
        "error below that of the labels. “ok” counts problems with success on every case, by the solver's own status."
    ]
    if suite.plan.goal is not None:
        lines.append(
            f"“≤ {suite.plan.goal:g}” counts those of them with at most that {suite.plan.headline}: the difference to "
            "“ok” is what a solver calls a success at a larger error."
        )
    if suite.found:
        lines.append(machine(next(iter(suite.found.values())).provenance))
    return lines


def write_suite(suite: Suite, out: Path) -> list[Path]:
    """Write results.jsonl (every record of every problem), table.md, table.csv, table.tex, report.html, suite.png and,
    where a solver recorded its way, anytime.csv into `out`; the problems' own files lie in out/NAME."""
    plan, tables, intro = suite.plan, sections(suite), summary(suite)
    records = list(suite.records())
    facts = _provenance(suite)
    drawn = draw_suite(list(suite.found.values()), plan.title, plan.headline, out) if suite.found else None
    links = "".join(f"<li><a href='{n}/report.html'>{html.escape(n)}</a></li>" for n in suite.found)
    extra = f"<h2>One report per problem</h2><ul>{links}</ul>"
    texts = {
        "results.jsonl": "".join(json.dumps(record, allow_nan=False, default=str) + "\n" for record in records),
        "table.md": document(plan.title, intro, tables, facts),
        "table.csv": csv_text(records),
        "table.tex": "\n".join(latex(lines) for lines in list(tables.values())[:2]),
        "report.html": page(plan.title, intro, tables, pictures([drawn] if drawn else []), facts, extra),
    }
    if any(row.anytime for results in suite.found.values() for row in results.rows):
        texts["anytime.csv"] = anytime_csv(list(suite.found.values()))
    for name, text in texts.items():
        write_atomically(out / name, text)
    return [out / name for name in texts] + ([drawn] if drawn else [])


def _provenance(suite: Suite) -> dict[str, Any]:
    if not suite.found:
        return {"config": suite.plan.digest}
    parts = {name: results.provenance for name, results in suite.found.items()}
    wall = sum(facts["wall_seconds_of_this_run"] for facts in parts.values())
    return next(iter(parts.values())) | {
        "config": suite.plan.digest,
        "data": {name: facts["data"] for name, facts in parts.items()},
        "wall_seconds_of_this_run": round(wall, 1),
    }

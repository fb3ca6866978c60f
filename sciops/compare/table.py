"""The tables: one line per solver, seeds aggregated, numbers below the label error shown as "≤ floor"."""

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from sciops.compare.derive import Facts, derived
from sciops.compare.results import Results, Row, noisy

Line = dict[str, str]

OPTIONAL = ("of which matrix set-up", "iterations", "iterations saved")
"""Columns of the cost table that are left out where no solver has anything to say."""

ACCURACY = {"rel_l2": "rel L²", "rel_l2_median": "median", "rel_l2_p95": "p95", "rel_h1": "rel H¹"}


def main_tables(results: Results) -> dict[str, list[Line]]:
    """Accuracy and cost, one line per solver at its own setting, best headline error first."""
    facts = derived(results)
    groups = _grouped(results.rows)
    order = sorted(groups, key=lambda name: _sort_value(groups[name], results.headline))
    return {
        "Accuracy": [_accuracy(name, groups[name], results, facts) for name in order],
        "Cost": _without_empty([_cost(name, groups[name], facts) for name in order], OPTIONAL),
    }


def ladder_table(results: Results) -> list[Line]:
    """Every setting with its error and time: the numbers behind the work–precision curve."""
    lines = []
    for row in results.rows:
        if row.status in ("ok", "partial"):
            lines.append(
                {
                    "solver": row.label if row.kind == "classical" else f"{row.label} (seed {row.seed})",
                    results.headline: _number(row.score(results.headline), results.floor),
                    "latency": _clock(row.latency),
                    "per case, batched": _clock(row.throughput),
                    "iterations": "" if row.iterations is None else f"{row.iterations:.1f}",
                }
            )
    return lines


def elsewhere_table(rows: Sequence[Row], results: Results, ratio: bool) -> list[Line]:
    """Solver × split: error on other grids, or on shifted laws with its ratio to the in-distribution error."""
    splits = list(dict.fromkeys(row.split for row in rows))
    own = {name: _mean([r.score(results.headline) for r in g]) for name, g in _grouped(results.rows).items()}
    lines = []
    for name in dict.fromkeys(row.solver for row in rows):
        line: Line = {"solver": name}
        for split in splits:
            group = [row for row in rows if row.solver == name and row.split == split]
            value = _mean([row.score(results.headline) for row in group])
            bad = next((row for row in group if row.status in ("refused", "failed")), None)
            text = _number(value) if bad is None else f"{bad.status}: {bad.message}"
            if ratio and value is not None and own.get(name):
                text += f" (×{value / own[name]:.2g})"  # type: ignore[operator]
            grid = next((row.grid for row in rows if row.split == split), "")
            line[f"{split} ({grid})" if not ratio else split] = text
        lines.append(line)
    return lines


def matrix_table(results: Results) -> list[Line]:
    return [
        {"solver": name, "can run": "no" if reason else "yes", "why not": reason} for name, reason in results.matrix
    ]


def _accuracy(name: str, rows: list[Row], results: Results, facts: Facts) -> Line:
    first = rows[0]
    rank = facts.get(first.key, {}).get("rank")
    line: Line = {"#": f"{rank[0]:.0f}" if rank and rank[0] else "", "solver": name, "needs": ", ".join(first.needs)}
    for metric in results.metrics:
        line[ACCURACY.get(metric, metric)] = _score(rows, metric, results)
    total = sum(row.n_cases for row in rows)
    good = sum(row.successes for row in rows)
    line["success"] = f"{good / total:.0%}" if total and first.status != "refused" else ""
    line["seeds"] = str(len(rows))
    line["status"] = _status(rows)
    return line


def _cost(name: str, rows: list[Row], facts: Facts) -> Line:
    first = rows[0]
    own = [facts.get(row.key, {}) for row in rows]
    even = [f["break_even_solves"] for f in own if "break_even_solves" in f]
    line: Line = {
        "solver": name,
        "latency (n = 1)": _clock(_median_timing([row.latency for row in rows])),
        "of which matrix set-up": _seconds(_mean([row.matrix_setup_seconds for row in rows])).replace("—", ""),
        "per case, batched": _clock(_median_timing([row.throughput for row in rows])),
        "set-up": _seconds(_mean([row.setup_seconds for row in rows])),
        "fit": _seconds(_mean([row.fit_seconds for row in rows])) if first.kind == "learned" else "—",
        "classical at equal error": "—",
        "speed-up": "—",
        "break-even solves": "—",
        "parameters": f"{first.parameters:,}" if first.parameters else "—",
        "peak memory (batch)": "" if first.memory_bytes is None else f"{first.memory_bytes / 2**20:.0f} MiB",
        "iterations": _count([row.iterations for row in rows]),
        "iterations saved": _count([row.iterations_saved for row in rows]),
    }
    speed = [f["speedup_at_equal_error"] for f in own if "speedup_at_equal_error" in f]
    if speed:
        seconds = _mean([f["equal_error_seconds"][0] for f in own if "equal_error_seconds" in f])
        line["classical at equal error"] = f"{_seconds(seconds)} {speed[0][1]}"
        line["speed-up"] = f"{_mean([s[0] for s in speed]):.2f}×"
    if even:
        counts = [value for value, _ in even if value is not None]
        never = next((note for value, note in even if value is None), "")
        line["break-even solves"] = f"{statistics.fmean(counts):,.0f}" if len(counts) == len(even) else never
    return line


def _status(rows: list[Row]) -> str:
    bad = next((row for row in rows if row.status != "ok"), None)
    if bad is None:
        return "ok"
    if bad.status == "partial":
        return ", ".join(f"{count} {name}" for name, count in sorted(bad.statuses.items()))
    return f"{bad.status}: {bad.message}"


def _score(rows: list[Row], metric: str, results: Results) -> str:
    scores = [row.scores[metric] for row in rows if metric in row.scores]
    values = [s.value for s in scores if s.value is not None]
    if not values:
        return scores[0].note if scores else "—"
    floor = results.floor if metric in ("rel_l2", "rel_l2_median", "rel_l2_p95", "rel_l2@fno") else None
    if len(values) > 1:
        return f"{_number(statistics.fmean(values), floor)} ± {statistics.stdev(values):.1g}"
    interval = scores[0]
    shown = _number(values[0], floor)
    if metric == results.headline and interval.low is not None and not shown.startswith("≤"):
        shown += f" [{interval.low:.3g}, {interval.high:.3g}]"
    return shown


def _number(value: float | None, floor: float | None = None) -> str:
    if value is None:
        return "—"
    return f"≤ {floor:.1e}" if floor is not None and value < floor else f"{value:.3g}"


def _count(values: Sequence[float | None]) -> str:
    mean = _mean(values)
    return "" if mean is None else f"{mean:.1f}"


def _without_empty(lines: list[Line], columns: Sequence[str]) -> list[Line]:
    """The lines without those of the columns in which no line has anything to say."""
    empty = {name for name in columns if not any(line[name] for line in lines)}
    return [{name: text for name, text in line.items() if name not in empty} for line in lines]


def _seconds(value: float | None) -> str:
    if value is None:
        return "—"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale or unit == "µs":
            return f"{value / scale:.3g} {unit}"
    raise AssertionError("unreachable")


def _clock(timing: dict[str, float] | None) -> str:
    if not timing:
        return "—"
    return _seconds(timing["median"]) + (" (noisy)" if noisy(timing) else "")


def _median_timing(timings: list[dict[str, float] | None]) -> dict[str, float] | None:
    known = [t for t in timings if t]
    return sorted(known, key=lambda t: t["median"])[len(known) // 2] if known else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def _grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.default:
            groups.setdefault(row.solver, []).append(row)
    return groups


def _sort_value(rows: list[Row], metric: str) -> float:
    value = _mean([row.score(metric) for row in rows])
    return float("inf") if value is None else value


# ---- formats


def markdown(lines: list[Line]) -> str:
    """A GitHub table."""
    if not lines:
        return ""
    names = list(lines[0])
    clean: Callable[[str], str] = lambda text: text.replace("|", "\\|")  # noqa: E731
    body = ["| " + " | ".join(clean(line.get(name, "")) for name in names) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *body]) + "\n"


def latex(lines: list[Line]) -> str:
    """A booktabs tabular; special characters escaped."""
    names = list(lines[0])
    swaps = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "²": "$^2$", "¹": "$^1$", "±": r"$\pm$", "≤": r"$\le$"}
    swaps |= {"×": r"$\times$", "µ": r"$\mu$", "—": "--"}

    def clean(text: str) -> str:
        return "".join(swaps.get(character, character) for character in text)

    body = [" & ".join(clean(line.get(name, "")) for name in names) + r" \\" for line in lines]
    head = [
        rf"\begin{{tabular}}{{{'l' * len(names)}}}",
        r"\toprule",
        " & ".join(map(clean, names)) + r" \\",
        r"\midrule",
    ]
    return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def csv_text(results: Results) -> str:
    """All records in long form, the same as results.jsonl."""
    records = list(results.records())
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def rich_table(lines: list[Line]) -> Any:
    """The same table for a terminal."""
    from rich.table import Table

    table = Table(header_style="bold", row_styles=["", "dim"])
    for name in lines[0] if lines else []:
        table.add_column(name, overflow="fold", justify="left" if name in ("solver", "needs", "status") else "right")
    for line in lines:
        table.add_row(*line.values())
    return table

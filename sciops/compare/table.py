"""The tables: one line per solver, seeds aggregated, numbers below the label error shown as "≤ floor"."""

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from sciops.compare.derive import Facts, derived
from sciops.compare.results import Results, Row, noisy

Line = dict[str, str]

OPTIONAL = ("protocol", "of which matrix set-up", "iterations", "iterations saved", "points", "error estimate ÷ error")
"""Columns that are left out where no solver has anything to say."""

TEXT = (
    "solver",
    "needs",
    "status",
    "why not",
    "problem",
    "problems",
    "what",
    "why",
    "equation",
    "solution",
    "protocol",
)
"""Columns of words, which stand left in a terminal."""

ACCURACY = {"rel_l2": "rel L²", "rel_l2_median": "median", "rel_l2_p95": "p95", "rel_h1": "rel H¹"}


def main_tables(results: Results) -> dict[str, list[Line]]:
    """Accuracy and cost, one line per solver at its own setting, best headline error first, those without a single
    success last."""
    facts = derived(results)
    groups = grouped(results.rows)
    order = sorted(groups, key=lambda name: _sort_value(groups[name], results.headline))
    return {
        "Accuracy": _without_empty([_accuracy(name, groups[name], results, facts) for name in order], OPTIONAL),
        "Cost": _without_empty([_cost(name, groups[name], facts) for name in order], OPTIONAL),
    }


def ladder_table(results: Results) -> list[Line]:
    """Every setting with its error and time: the numbers behind the work–precision curve."""
    lines = []
    for row in results.rows:
        if row.status in ("ok", "partial"):
            lines.append(
                {
                    "solver": f"{row.label} (seed {row.seed})" if row.kind == "learned" else row.label,
                    results.headline: number(row.score(results.headline), results.floor) + mark(row),
                    "latency": timed(row.latency),
                    "per case, batched": timed(row.throughput),
                    "iterations": "" if row.iterations is None else f"{row.iterations:.1f}",
                }
            )
    return lines


def elsewhere_table(rows: Sequence[Row], results: Results, ratio: bool) -> list[Line]:
    """Solver × split: error on other grids, or on shifted laws with its ratio to the in-distribution error."""
    splits = list(dict.fromkeys(row.split for row in rows))
    own = {name: average([r.score(results.headline) for r in g]) for name, g in grouped(results.rows).items()}
    lines = []
    for name in dict.fromkeys(row.solver for row in rows):
        line: Line = {"solver": name}
        for split in splits:
            group = [row for row in rows if row.solver == name and row.split == split]
            value = average([row.score(results.headline) for row in group])
            bad = next((row for row in group if row.status in ("refused", "failed")), None)
            text = number(value) if bad is None else f"{bad.status}: {bad.message}"
            if ratio and value is not None and own.get(name):
                text += f" (×{value / own[name]:.2g})"  # type: ignore[operator]
            text += "".join(mark(row) for row in group[:1])
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
    line["protocol"] = first.protocol
    for metric in results.metrics:
        marked = mark(first) if metric == results.headline else ""
        line[ACCURACY.get(metric, metric)] = _score(rows, metric, results) + marked
    line["error estimate ÷ error"] = estimate_cell(rows)
    total = sum(row.n_cases for row in rows)
    good = sum(row.successes for row in rows)
    line["success"] = f"{good / total:.0%}" if total and first.status != "refused" else ""
    line["seeds"] = str(len(rows))
    most = max(row.n_cases for row in results.rows)
    fewer = f" (first {first.n_cases} cases)" if first.n_cases < most and first.status != "refused" else ""
    line["status"] = _status(rows) + fewer
    return line


def _cost(name: str, rows: list[Row], facts: Facts) -> Line:
    first = rows[0]
    own = [facts.get(row.key, {}) for row in rows]
    even = [f["break_even_solves"] for f in own if "break_even_solves" in f]
    line: Line = {
        "solver": name,
        "latency (n = 1)": timed(median_timing([row.latency for row in rows])),
        "of which matrix set-up": duration(average([row.matrix_setup_seconds for row in rows])).replace("—", ""),
        "per case, batched": timed(median_timing([row.throughput for row in rows])),
        "set-up": duration(average([row.setup_seconds for row in rows])),
        "fit": duration(average([row.fit_seconds for row in rows])) if first.kind == "learned" else "—",
        "classical at equal error": "—",
        "speed-up": "—",
        "break-even solves": "—",
        "parameters": f"{first.parameters:,}" if first.parameters else "—",
        "peak memory (batch)": "" if first.memory_bytes is None else f"{first.memory_bytes / 2**20:.0f} MiB",
        "points": _count([row.points for row in rows]).removesuffix(".0"),
        "iterations": _count([row.iterations for row in rows]),
        "iterations saved": _count([row.iterations_saved for row in rows]),
    }
    speed = [f["speedup_at_equal_error"] for f in own if "equal_error_seconds" in f]
    if speed:
        seconds = average([f["equal_error_seconds"][0] for f in own if "equal_error_seconds" in f])
        line["classical at equal error"] = f"{duration(seconds)} {speed[0][1]}"
        line["speed-up"] = f"{average([s[0] for s in speed]):.3g}×"
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
        counts = ", ".join(f"{count} {name}" for name, count in sorted(bad.statuses.items()))
        return f"{counts}: {bad.message}" if bad.message else counts
    return f"{bad.status}: {bad.message}"


def _score(rows: list[Row], metric: str, results: Results) -> str:
    scores = [row.scores[metric] for row in rows if metric in row.scores]
    values = [s.value for s in scores if s.value is not None]
    if not values:
        return scores[0].note if scores else "—"
    floor = results.floor if metric in ("rel_l2", "rel_l2_median", "rel_l2_p95", "rel_l2@fno") else None
    if len(values) > 1:
        return f"{number(statistics.fmean(values), floor)} ± {statistics.stdev(values):.1g}"
    interval = scores[0]
    shown = number(values[0], floor)
    if metric == results.headline and interval.low is not None and not shown.startswith("≤"):
        shown += f" [{interval.low:.3g}, {interval.high:.3g}]"
    return shown


def number(value: float | None, floor: float | None = None) -> str:
    if value is None:
        return "—"
    return f"≤ {floor:.1e}" if floor is not None and value < floor else f"{value:.3g}"


def _count(values: Sequence[float | None]) -> str:
    mean = average(values)
    return "" if mean is None else f"{mean:.1f}"


def _without_empty(lines: list[Line], columns: Sequence[str]) -> list[Line]:
    """The lines without those of the columns in which no line has anything to say."""
    empty = {name for name in columns if not any(line.get(name) for line in lines)}
    return [{name: text for name, text in line.items() if name not in empty} for line in lines]


def duration(value: float | None) -> str:
    if value is None:
        return "—"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale or unit == "µs":
            return f"{value / scale:.3g} {unit}"
    raise AssertionError("unreachable")


def timed(timing: dict[str, float] | None) -> str:
    if not timing:
        return "—"
    remark = " (once)" if timing.get("judged") else " (noisy)" if noisy(timing) else ""
    return duration(timing["median"]) + remark


def median_timing(timings: list[dict[str, float] | None]) -> dict[str, float] | None:
    known = [t for t in timings if t]
    return sorted(known, key=lambda t: t["median"])[len(known) // 2] if known else None


def average(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.default:
            groups.setdefault(row.solver, []).append(row)
    return groups


def _sort_value(rows: list[Row], metric: str) -> tuple[bool, float]:
    value = average([row.score(metric) for row in rows])
    return not any(row.successes for row in rows), float("inf") if value is None else value


def mark(row: Row) -> str:
    """What stands behind the error of a row without a single success: an error, but no answer to trust."""
    return f" ({row.verdict})" if row.status == "partial" and not row.successes else ""


def estimate_cell(rows: Sequence[Row]) -> str:
    """Median of the solver's error estimate ÷ its error; over several cases with the share within a factor of ten."""
    ratio, near = (average([row.score(f"error_estimate_{name}") for row in rows]) for name in ("ratio", "within_10"))
    if ratio is None or near is None:
        return ""
    return f"{ratio:.2g}" + (f", {near:.0%} within 10×" if rows[0].n_cases > 1 else "")


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
    if not lines:
        return ""
    names = list(lines[0])
    swaps = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "²": "$^2$", "¹": "$^1$", "±": r"$\pm$", "≤": r"$\le$"}
    swaps |= {"×": r"$\times$", "µ": r"$\mu$", "—": "--", "÷": r"$\div$"}

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


def csv_text(records: Sequence[dict[str, Any]]) -> str:
    """Records in long form, the same as results.jsonl."""
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
        table.add_column(name, overflow="fold", justify="left" if name in TEXT else "right")
    for line in lines:
        table.add_row(*line.values())
    return table

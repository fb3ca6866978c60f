"""Conclusions from the rows: time at equal error, break-even number of solves, ranks with ties."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sciops.metrics.base import Metric
from sciops.metrics.catalogue import named
from sciops.metrics.statistics import paired_test

if TYPE_CHECKING:
    from sciops.compare.results import Results, Row

Facts = dict[str, dict[str, tuple[float | None, str]]]


@dataclass(frozen=True)
class Baseline:
    """The fastest classical setting at least as accurate as a given error."""

    label: str
    seconds: float
    error: float


def baseline(rows: Sequence["Row"], metric: str, error: float, clock: str = "latency") -> Baseline | None:
    """Strongest classical solver at equal error: least time among all settings with error ≤ `error`."""
    found = [
        Baseline(row.label, getattr(row, clock)["median"], value)
        for row in rows
        if row.kind == "classical" and row.status == "ok" and getattr(row, clock)
        if (value := row.score(metric)) is not None and value <= error
    ]
    return min(found, key=lambda b: b.seconds, default=None)


def break_even(investment: float, baseline_seconds: float, solver_seconds: float) -> float:
    """N* = (data generation + fit)/(t_baseline − t_solver); infinite ("never") if the difference is ≤ 0."""
    gain = baseline_seconds - solver_seconds
    # Six decimals of a solve: rounding in the quotient must not add a whole solve.
    return float(math.ceil(round(investment / gain, 6))) if gain > 0 else math.inf


def derived(results: "Results") -> Facts:
    """Per row key: rank and, for learned and per-instance rows with a success, seconds of the baseline at equal error
    and the ratio; for learned rows the break-even solves too."""
    facts: Facts = {}
    ranks = ranked(results)
    for row in results.rows:
        own: dict[str, tuple[float | None, str]] = {}
        if row.default and row.solver in ranks:
            how = "by paired test on" if row.n_cases > 1 else "by"
            own["rank"] = (float(ranks[row.solver]), f"{how} the headline metric; equal ranks are ties")
        error = row.score(results.headline)
        if row.kind in ("learned", "per-instance") and row.successes and row.latency and error is not None:
            # Below the label error the truth cannot tell solvers apart.
            own |= _against_classical(row, max(error, results.floor or 0.0), results)
        facts[row.key] = own
    return facts


def _against_classical(row: "Row", level: float, results: "Results") -> dict[str, tuple[float | None, str]]:
    """Time of the strongest classical solver at the error `level`, and what the row gains on it, for both clocks."""
    own: dict[str, tuple[float | None, str]] = {}
    investment = (results.generation_seconds or 0.0) + row.fit_seconds
    for clock, suffix in (("latency", ""), ("throughput", "_batched")):
        timing = getattr(row, clock)
        rival = baseline(results.rows, results.headline, level, clock)
        if timing is None:
            continue
        if rival is None:
            some = any(r.kind == "classical" and r.status == "ok" for r in results.rows)
            why = "no classical setting in the table is as accurate" if some else "no classical solver in the table"
            own[f"speedup_at_equal_error{suffix}"] = (None, why)
        else:
            own[f"equal_error_seconds{suffix}"] = (rival.seconds, rival.label)
            own[f"speedup_at_equal_error{suffix}"] = (rival.seconds / timing["median"], rival.label)
        if row.kind == "per-instance":  # nothing is invested beforehand, so nothing can pay off
            continue
        if rival is None:
            own[f"break_even_solves{suffix}"] = (None, why)
            continue
        count = break_even(investment, rival.seconds, timing["median"])
        never = "" if math.isfinite(count) else "never: not faster than "
        note = f"{never}{rival.label} (error {rival.error:.3g})"
        own[f"break_even_solves{suffix}"] = (count if math.isfinite(count) else None, note)
    return own


def ranked(results: "Results") -> dict[str, int]:
    """Rank of every solver (its own setting, per-case errors averaged over seeds) on the headline metric.

    Walking down the sorted list, a solver shares the rank of the leader of its group unless the paired bootstrap
    tells the two apart at the 5 % level, on the cases that both have (the first ones of the split). A single case
    cannot be resampled: there, errors below the label error tie.
    """
    metric = named(results.headline)
    table: dict[str, list[torch.Tensor]] = {}
    for row in results.rows:
        score = row.scores.get(results.headline)
        if row.default and row.status == "ok" and score and score.per_case:
            table.setdefault(row.solver, []).append(torch.tensor(score.per_case, dtype=torch.float64))
    means = {name: torch.stack(parts).mean(0) for name, parts in table.items() if len({len(p) for p in parts}) == 1}
    order = sorted(means, key=lambda name: float(means[name].mean()), reverse=not metric.lower_is_better)
    ranks: dict[str, int] = {}
    leader = ""
    for position, name in enumerate(order, start=1):
        if leader and _tie(metric, means[leader], means[name], results.floor or 0.0):
            ranks[name] = ranks[leader]
        else:
            ranks[name], leader = position, name
    return ranks


def _tie(metric: Metric, a: torch.Tensor, b: torch.Tensor, floor: float) -> bool:
    n = min(len(a), len(b))
    a, b = a[:n], b[:n]
    if n > 1:
        return paired_test(metric, a, b).tie
    return bool(torch.equal(a, b) or (metric.lower_is_better and max(float(a), float(b)) <= floor))

"""Conclusions from the rows: time at equal error, break-even number of solves, ranks with ties."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

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
    """Per row key: rank and, for learned rows, seconds of the baseline at equal error, ratio, break-even solves."""
    facts: Facts = {}
    ranks = ranked(results)
    for row in results.rows:
        own: dict[str, tuple[float | None, str]] = {}
        if row.default and row.solver in ranks:
            own["rank"] = (float(ranks[row.solver]), "by paired test on the headline metric; equal ranks are ties")
        error = row.score(results.headline)
        if row.kind == "learned" and row.latency and error is not None:
            # Below the label error the truth cannot tell solvers apart.
            level = max(error, results.floor or 0.0)
            investment = (results.generation_seconds or 0.0) + row.fit_seconds
            for clock, suffix in (("latency", ""), ("throughput", "_batched")):
                timing = getattr(row, clock)
                rival = baseline(results.rows, results.headline, level, clock)
                if timing is None:
                    continue
                if rival is None:
                    some = any(r.kind == "classical" and r.status == "ok" for r in results.rows)
                    why = "no classical setting in the table is as accurate" if some else "no classical solver can run"
                    own[f"break_even_solves{suffix}"] = (None, why)
                    continue
                count = break_even(investment, rival.seconds, timing["median"])
                never = "" if math.isfinite(count) else "never: not faster than "
                note = f"{never}{rival.label} (error {rival.error:.3g})"
                own[f"equal_error_seconds{suffix}"] = (rival.seconds, rival.label)
                own[f"speedup_at_equal_error{suffix}"] = (rival.seconds / timing["median"], rival.label)
                own[f"break_even_solves{suffix}"] = (count if math.isfinite(count) else None, note)
        facts[row.key] = own
    return facts


def ranked(results: "Results") -> dict[str, int]:
    """Rank of every solver (its own setting, per-case errors averaged over seeds) on the headline metric.

    Walking down the sorted list, a solver shares the rank of the leader of its group unless the paired bootstrap
    tells the two apart at the 5 % level.
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
        if leader and paired_test(metric, means[leader], means[name]).tie:
            ranks[name] = ranks[leader]
        else:
            ranks[name], leader = position, name
    return ranks

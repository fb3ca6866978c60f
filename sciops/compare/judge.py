"""One contestant on one split: solve in batches, score every case once, keep a few fields for the pictures."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.compare.meter import synchronise
from sciops.compare.results import Row, Score
from sciops.core.cases import Cases
from sciops.core.dataset import Dataset
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import ADVICE, Status
from sciops.core.solver import Budget, Solution, Solver, checked
from sciops.metrics.base import Metric, scores
from sciops.metrics.catalogue import named
from sciops.metrics.rollout import frame_errors
from sciops.metrics.statistics import bootstrap

DRAWS = 2000
KEPT_FIELDS = 3


@dataclass
class Judged:
    """Scores and status of a split, the first predictions, mean counts (iterations, points) where there are some,
    seconds per case of every call, and the anytime curve of the first case."""

    scores: dict[str, Score]
    statuses: Counter[str]
    fields: Field
    n_cases: int
    successes: int
    message: str
    iterations: float | None
    iterations_saved: float | None = None
    points: float | None = None
    seconds: list[float] = field(default_factory=list)
    anytime: list[tuple[float, float]] = field(default_factory=list)
    over_time: list[tuple[float, float, float, float]] = field(default_factory=list)


def bring(cases: Cases, solver: Solver, out: Grid) -> Cases:
    """The cases on the grid and in the precision that the solver asks for: done before its clock starts."""
    brought = cases.on(solver.input_grid(cases.domain, out))
    return brought.to(dtype=torch.float64) if solver.double else brought


def judge(
    solver: Solver, dataset: Dataset, metrics: Sequence[Metric], batch: int, budget: Budget, limit: int | None = None
) -> Judged:
    """Solve all cases of the split on its own grid and score them.

    Cases without a finite answer are left out of the scores and counted in `statuses`; the note says so.
    """
    n = min(len(dataset), limit or len(dataset))
    stacks: dict[str, list[Tensor]] = {m.name: [] for m in metrics}
    reasons: dict[str, str] = {}
    statuses: Counter[str] = Counter()
    counts: dict[str, list[float]] = {"iterations": [], "iterations_saved": [], "points": []}
    estimates: list[Tensor] = []
    seconds: list[float] = []
    anytime: list[tuple[float, float]] = []
    kept: list[Field] = []
    frames: list[Tensor] = []
    advice = ""
    for start in range(0, n, batch):
        index = slice(start, min(start + batch, n))
        cases, truth = dataset.cases(index), dataset.truth(index)
        brought = bring(cases, solver, dataset.grid)
        started = time.perf_counter()
        solution = checked(solver.solve(brought, dataset.grid, budget))
        synchronise()
        seconds.append((time.perf_counter() - started) / len(cases))
        statuses.update(status.value for status in solution.status)
        advice = advice or _advice(solution)
        facts = solution.stats | solver.unclocked(brought, dataset.grid, solution, budget)
        for name, values in counts.items():
            if name in facts:
                values += torch.as_tensor(facts[name]).flatten().tolist()
        if start < KEPT_FIELDS:
            kept.append(solution.field[: KEPT_FIELDS - start])
        if start == 0:
            anytime = _anytime(solution, truth[0])
        if "error_estimate" in solution.stats:
            label = None if dataset.label_error is None else dataset.label_error[index]
            estimates.append(_estimate_and_error(solution, truth, label))
        _score(solution, truth, cases, metrics, stacks, reasons)
        if len(truth.times) > 1:
            frames.append(frame_errors(solution.field.to(torch.float64), truth.to(torch.float64)).cpu())
    good = statuses[Status.OK.value]
    found = {m.name: _combine(m, stacks[m.name], reasons.get(m.name, ""), n) for m in metrics}
    if estimates:
        found |= _estimate_scores(torch.cat(estimates), n)
    means = {name: sum(values) / len(values) if values else None for name, values in counts.items()}
    curve = _over_time(torch.cat(frames), truth.times) if frames else []
    return Judged(found, statuses, Field.cat(kept), n, good, advice, **means, seconds=seconds, anytime=anytime,
                  over_time=curve)  # fmt: skip


def _over_time(errors: Float[Tensor, "n t"], times: tuple[float, ...]) -> list[tuple[float, float, float, float]]:
    """(time, mean, 10 %, 90 % quantile over cases) of the relative L² error; frames without a finite one are left
    out."""
    points = []
    for t, column in zip(times, errors.unbind(1), strict=True):
        known = column[column.isfinite()]
        if len(known):
            low, high = torch.quantile(known, known.new_tensor([0.1, 0.9])).tolist()
            points.append((float(t), float(known.mean()), low, high))
    return points


def _advice(solution: Solution) -> str:
    """What to do about the first case without success: the solver's own sentence where it has one per case."""
    own = solution.stats.get("advice")
    own = own if isinstance(own, list) and len(own) == len(solution.status) else solution.advice
    return next((a or ADVICE[s] for a, s in zip(own, solution.status, strict=True) if s is not Status.OK), "")


def _score(
    solution: Solution,
    truth: Field,
    cases: Cases,
    metrics: Sequence[Metric],
    stacks: dict[str, list[Tensor]],
    reasons: dict[str, str],
) -> None:
    finite = torch.tensor(solution.field.finite())
    pick = torch.nonzero(finite)[:, 0]
    if not len(pick):
        return
    prediction = solution.field[pick].to(torch.float64)
    reference, chosen = truth[pick].to(torch.float64), cases[pick]
    std = None if solution.std is None else solution.std[pick].to(torch.float64)
    for metric in metrics:
        if metric.name in reasons:
            continue
        reason = metric.applies(prediction, chosen)
        if reason is None and metric.needs_std and std is None:
            reason = "the solver gives no uncertainty"
        if reason:
            reasons[metric.name] = reason
            continue
        stacks[metric.name].append(scores(metric, prediction, reference, chosen, std).detach().cpu())


def _combine(metric: Metric, parts: list[Tensor], reason: str, n: int) -> Score:
    if reason:
        return Score(None, note=f"n/a: {reason}")
    if not parts:
        return Score(None, note="no case has a finite answer")
    stacked = torch.cat(parts)
    low, high = bootstrap(metric, stacked, draws=DRAWS) if len(stacked) > 1 else (None, None)
    per_case = stacked.reshape(len(stacked), -1)
    note = "" if len(stacked) == n else f"over the {len(stacked)} of {n} cases with a finite answer"
    return Score(metric.combine(stacked), low, high, note, per_case.mean(1).tolist() if per_case.shape[1] == 1 else [])


def _anytime(solution: Solution, truth: Field) -> list[tuple[float, float]]:
    """(seconds, relative L² error) of the first case for every field of the trace that has a time."""
    times = solution.stats.get("trace_seconds")
    if not solution.trace or times is None or len(times) != len(solution.trace):
        return []
    metric, reference = named("rel_l2"), truth.to(torch.float64)
    errors = [metric.combine(metric.per_case(part[0].to(torch.float64), reference)) for part in solution.trace]
    return [(float(s), e) for s, e in zip(times, errors, strict=True) if math.isfinite(e)]


def _estimate_and_error(solution: Solution, truth: Field, label: Tensor | None) -> Float[Tensor, "k 2"]:
    """The solver's own estimate of the relative L² error beside the error, for the cases that have both.

    Neither counts as less than the label error, below which the truth cannot tell.
    """
    estimate = torch.as_tensor(solution.stats["error_estimate"], dtype=torch.float64).flatten().cpu()
    pick = torch.nonzero(torch.tensor(solution.field.finite()) & estimate.isfinite())[:, 0]
    if not len(pick):
        return estimate.new_zeros((0, 2))
    metric = named("rel_l2")
    error = metric.per_case(solution.field[pick].to(torch.float64), truth[pick].to(torch.float64)).flatten().cpu()
    pairs = torch.stack([estimate[pick], error], dim=1)
    floor = torch.finfo(torch.float64).eps if label is None else label.double().cpu()[pick, None]
    return torch.maximum(pairs, torch.as_tensor(floor, dtype=torch.float64))


def _estimate_scores(pairs: Float[Tensor, "k 2"], n: int) -> dict[str, Score]:
    """Median of estimate ÷ error, and the share of cases in which it lies within a factor of ten of one."""
    if not len(pairs):
        none = Score(None, note="the solver gave no estimate of its error")
        return {"error_estimate_ratio": none, "error_estimate_within_10": none}
    ratio = pairs[:, 0] / pairs[:, 1]
    near = (ratio.log10().abs() <= 1).double()
    note = "" if len(ratio) == n else f"over the {len(ratio)} of {n} cases with an estimate"
    return {
        "error_estimate_ratio": Score(float(ratio.median()), note=note, per_case=ratio.tolist()),
        "error_estimate_within_10": Score(float(near.mean()), note=note, per_case=near.tolist()),
    }


def truth_residual(dataset: Dataset, batch: int, limit: int | None = None) -> float | None:
    """The residual metric of the stored truth: no solver can be told from it below this; None without an equation."""
    metric = named("residual")
    n = min(len(dataset), limit or len(dataset))
    parts = []
    for start in range(0, n, batch):
        index = slice(start, min(start + batch, n))
        truth, cases = dataset.truth(index).to(torch.float64), dataset.cases(index).to(torch.float64)
        if metric.applies(truth, cases):
            return None
        parts.append(metric.per_case(truth, truth, cases).detach().cpu())
    return metric.combine(torch.cat(parts))


def failed_row(row: Row, error: Exception) -> Row:
    """The row of a contestant that raised: it says what happened, and the comparison goes on."""
    row.status = "failed"
    row.statuses = {Status.FAILED.value: row.n_cases}
    row.message = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"[:500]
    return row


def filled(row: Row, judged: Judged) -> Row:
    """The row with what was judged."""
    row.scores, row.statuses = judged.scores, dict(judged.statuses)
    row.n_cases, row.successes = judged.n_cases, judged.successes
    row.iterations, row.iterations_saved, row.points = judged.iterations, judged.iterations_saved, judged.points
    row.judged_seconds, row.anytime, row.over_time = judged.seconds, judged.anytime, judged.over_time
    row.status = "ok" if judged.successes == judged.n_cases else "partial"
    if not any(s.value is not None for s in judged.scores.values()):
        row.status = "failed"
    row.message = judged.message
    return row

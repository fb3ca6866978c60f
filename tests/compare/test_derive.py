import math

import torch

from sciops.compare.derive import baseline, break_even, derived, ranked
from sciops.compare.results import Results, Row, Score


def row(solver, error, seconds, kind="classical", default=True, per_case=(), fit=0.0, status="ok"):
    timing = {"median": seconds, "low": seconds, "high": seconds}
    return Row(
        solver=solver,
        setting="" if default else "n/2",
        seed=0,
        kind=kind,
        needs=[],
        status=status,
        n_cases=8,
        successes=8,
        scores={"rel_l2": Score(error, per_case=list(per_case))},
        latency=timing,
        throughput=timing,
        fit_seconds=fit,
        default=default,
        key=f"{solver}-{default}",
    )


def results(rows, floor=None):
    return Results("n", "t", "p", "e", "rel_l2", ["rel_l2"], rows, floor=floor, generation_seconds=20.0)


def test_break_even_formula():
    assert break_even(100.0, 0.3, 0.1) == 500
    assert break_even(100.0, 0.1, 0.1) == math.inf
    assert break_even(100.0, 0.1, 0.3) == math.inf


def test_baseline_is_the_fastest_setting_that_is_accurate_enough():
    rows = [
        row("direct", 1e-3, 0.5),
        row("direct", 2e-2, 0.1, default=False),
        row("cg", 1e-3, 0.4),
        row("cg broken", 1e-9, 0.001, status="failed"),
        row("net", 1e-9, 0.001, kind="learned"),
    ]
    assert baseline(rows, "rel_l2", 3e-2).seconds == 0.1
    assert baseline(rows, "rel_l2", 5e-3).label == "cg"
    assert baseline(rows, "rel_l2", 1e-4) is None


def test_learned_rows_get_speedup_and_break_even():
    net = row("net", 1e-2, 0.1, kind="learned", fit=180.0)
    facts = derived(results([row("direct", 1e-3, 0.5), net]))[net.key]
    assert facts["speedup_at_equal_error"][0] == 5.0
    assert facts["break_even_solves"][0] == 500  # (20 + 180)/(0.5 − 0.1)
    slow = row("slow net", 1e-2, 0.9, kind="learned", fit=180.0)
    value, note = derived(results([row("direct", 1e-3, 0.5), slow]))[slow.key]["break_even_solves"]
    assert value is None
    assert "never" in note and "direct" in note


def test_errors_below_the_floor_are_compared_at_the_floor():
    net = row("net", 1e-5, 0.1, kind="learned", fit=1.0)
    rows = [row("direct", 1e-3, 0.5), net]
    assert derived(results(rows))[net.key]["break_even_solves"][0] is None
    assert derived(results(rows, floor=2e-3))[net.key]["break_even_solves"][0] is not None


def test_ranks_show_ties():
    torch.manual_seed(0)
    base = torch.rand(60)
    noise = 1e-4 * torch.randn(60)
    rows = [
        row("a", 0.0, 1.0, per_case=base.tolist()),
        row("same as a", 0.0, 1.0, per_case=(base + noise - noise.mean()).tolist()),
        row("worse", 0.0, 1.0, per_case=(base + 0.5).tolist()),
    ]
    assert ranked(results(rows)) == {"a": 1, "same as a": 1, "worse": 3}

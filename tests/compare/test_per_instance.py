"""Rows of solvers that take one case at a time: statuses, error estimates, curves, clocks, their place in the table."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sciops import Field, Solution, Solver
from sciops.compare.derive import derived
from sciops.compare.judge import judge
from sciops.compare.meter import Protocol
from sciops.compare.plan import Contestant, Plan
from sciops.compare.report import write
from sciops.compare.results import Row
from sciops.compare.run import compare
from sciops.compare.sources import Splits, load_splits
from sciops.compare.table import main_tables
from sciops.core.config import resolve_class
from sciops.core.dataset import MemoryDataset
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.solver import Budget
from sciops.metrics.catalogue import named
from sciops.problems.poisson import Poisson

FAKE = f"{Path(__file__).parent}/per_instance.py"


def contestant(name, path=f"{FAKE}:Polynomials", only=None, solve=None, test_cases=None, **arguments):
    return Contestant(name, path, arguments, (0,), False, solve, only, test_cases)


DIRECT = contestant("differences", "sciops.solvers.sparse_direct.SparseDirect")


def data(formula="sin(a*x)", n=1, label=1e-15, **parameters):
    problem = Poisson(ndim=1, exact_solution=formula, parameters=parameters or {"a": [3.0, 3.0]})
    cases = problem.sample(range(n), Grid.box(65, 0.0, 1.0))
    return MemoryDataset(cases, problem.reference(cases).field, torch.full((n,), label, dtype=torch.float64))


def plan(*solvers, **changes):
    base = Plan("one", "One", "", tuple(solvers), timing=Protocol(2, 0.3, 1), memory=False)
    metrics = ("rel_l2", "max", "coverage_50", "coverage_95", "crps", "sharpness")
    return replace(base, **{"metrics": metrics} | changes)


def run(chosen, test, folder):
    return compare(chosen, Splits("one", None, None, test), folder, lambda line: None)


def test_one_test_case_is_enough_and_only_successes_are_ranked(tmp_path):
    results = run(plan(contestant("P"), contestant("short", degree=8), DIRECT), data(), tmp_path)
    rows = {row.solver: row for row in results.rows}
    assert [rows[s].kind for s in ("P", "short", "differences")] == ["per-instance", "per-instance", "classical"]
    assert rows["P"].scores["rel_l2"].low is None
    # Degree 8 is more accurate than differences here, but does not call itself resolved: no success, no rank.
    assert rows["short"].score("rel_l2") < rows["differences"].score("rel_l2")
    assert (rows["short"].status, rows["short"].verdict) == ("partial", "unresolved")
    facts = derived(results)
    assert facts[rows["P"].key]["rank"][0] == 1 and facts[rows["differences"].key]["rank"][0] == 2
    assert "rank" not in facts[rows["short"].key]
    accuracy, cost = main_tables(results).values()
    assert [line["solver"] for line in accuracy] == ["P", "differences", "short"]
    marked = accuracy[-1]
    assert marked["rel L²"].endswith("(unresolved)") and marked["success"] == "0%"
    assert marked["status"].startswith("1 unresolved: The equation's residual stays high")
    assert marked["needs"] == "boundary, residual"
    assert [line["points"] for line in cost] == ["48", "", "24"]
    files = {path.name for path in write(results, data(), tmp_path)}
    assert {"anytime.png", "anytime.csv", "work_precision.png"} <= files


def test_time_at_equal_error_is_against_classical_solvers_alone(tmp_path):
    exact = data("1 + a*x**2", a=[1.0, 2.0])  # differences of a parabola are exact
    results = run(plan(contestant("P"), contestant("Q", degree=12), DIRECT), exact, tmp_path)
    rows = {row.solver: row for row in results.rows}
    facts = derived(results)[rows["P"].key]
    assert facts["equal_error_seconds"] == (rows["differences"].latency["median"], "differences")
    assert facts["speedup_at_equal_error"][0] == pytest.approx(
        rows["differences"].latency["median"] / rows["P"].latency["median"]
    )
    assert not any(name.startswith("break_even") for name in facts)
    assert "speedup_at_equal_error" not in derived(results)[rows["differences"].key]
    curved = run(plan(contestant("P"), DIRECT), data(), tmp_path / "curved")
    value, why = derived(curved)[curved.rows[0].key]["speedup_at_equal_error"]
    assert value is None and why == "no classical setting in the table is as accurate"


def test_an_unresolved_answer_is_no_bar_for_others(tmp_path):
    bar = contestant("bar", f"{FAKE}:ClassicalPolynomials", degree=8)
    results = run(plan(contestant("P"), bar, DIRECT), data(), tmp_path)
    rows = {row.solver: row for row in results.rows}
    assert (rows["bar"].kind, rows["bar"].verdict) == ("classical", "unresolved")
    rows["P"].scores["rel_l2"].value = 1e-2  # both others are more accurate; the faster of them does not count
    rows["bar"].latency = {"median": 1e-9, "low": 1e-9, "high": 1e-9}
    assert derived(results)[rows["P"].key]["equal_error_seconds"][1] == "differences"


def test_estimates_are_held_against_the_error_of_each_case(tmp_path):
    test = data(n=8, a=[2.0, 9.0])
    pair = contestant("P", degree=12), contestant("bold", degree=12, optimism=1e-4)
    results = run(plan(*pair, metrics=("rel_l2",), timing=Protocol(1, 0.0, 1)), test, tmp_path)
    honest, bold = results.rows
    solution = resolve_class(f"{FAKE}:Polynomials")(degree=12).solve(test.cases(), test.grid)
    error = named("rel_l2").per_case(solution.field, test.truth())
    ratio = solution.stats["error_estimate"] / error
    found = honest.scores["error_estimate_ratio"]
    assert found.per_case == pytest.approx(ratio.tolist(), rel=1e-6)
    assert found.value == pytest.approx(float(ratio.median()), rel=1e-6)
    assert bold.score("error_estimate_ratio") == pytest.approx(1e-4 * found.value, rel=1e-6)
    shares = [row.score("error_estimate_within_10") for row in (honest, bold)]
    assert shares == [float(((r > 0.1) & (r < 10)).double().mean()) for r in (ratio, 1e-4 * ratio)]
    assert shares[0] != shares[1]
    line = next(line for line in main_tables(results)["Accuracy"] if line["solver"] == "P")
    assert line["error estimate ÷ error"].endswith("within 10×")


def test_below_the_label_error_an_estimate_is_not_judged():
    test = data(label=1e-3)
    found = judge(resolve_class(f"{FAKE}:Polynomials")(), test, [named("rel_l2")], 4, Budget())
    assert found.scores["error_estimate_ratio"].value == 1.0


def test_predicted_deviations_reach_the_metrics(tmp_path):
    results = run(plan(contestant("P", degree=12, optimism=30.0), DIRECT), data(n=4, a=[5.0, 9.0]), tmp_path)
    row, direct = results.rows
    solution = resolve_class(f"{FAKE}:Polynomials")(degree=12, optimism=30.0).solve(
        data(n=4, a=[5.0, 9.0]).cases(), Grid.box(65, 0.0, 1.0)
    )
    std = solution.std.values.mean()
    # The band is constant in space and the half width of the 90 % interval is 1.645 σ.
    assert row.score("sharpness") == pytest.approx(2 * 1.6448536 * float(std), rel=1e-6)
    assert row.score("coverage_95") >= row.score("coverage_50")
    assert direct.scores["crps"].value is None and "no uncertainty" in direct.scores["crps"].note


class Traced(Solver):
    """Halves its error at every step of the trace; the last but one field is not finite."""

    kind = "per-instance"

    def __init__(self, truth):
        self.truth = truth

    def solve(self, cases, out, budget=None):
        scaled = [replace(self.truth[:1], values=self.truth[:1].values * (1 + 0.5**k)) for k in range(4)]
        scaled[2] = replace(scaled[2], values=scaled[2].values * torch.nan)
        stats = {"trace_seconds": [0.1, 0.2, 0.3, 0.4]}
        return Solution(self.truth, [Status.OK] * len(cases), stats, trace=scaled)


def test_the_anytime_curve_is_the_error_of_the_first_case():
    test = data(n=2)
    curve = judge(Traced(test.truth()), test, [named("rel_l2")], 4, Budget()).anytime
    assert [seconds for seconds, _ in curve] == [0.1, 0.2, 0.4]
    assert [error for _, error in curve] == pytest.approx([1.0, 0.5, 0.125])
    row = Row("s", "", 0, "per-instance", [], anytime=curve)
    assert Row.from_json(row.to_json()).anytime == row.anytime


def test_long_solves_are_not_repeated_for_the_clock(tmp_path):
    counted = resolve_class(f"{FAKE}:Counted")
    counted.solves = 0
    clock = Protocol(2, 0.0, 1, once=1.0)
    chosen = plan(contestant("long", f"{FAKE}:Counted", pause=1.1), contestant("short"), timing=clock)
    results = run(chosen, data(n=2), tmp_path)
    long, short = results.rows
    assert counted.solves == 1
    assert long.latency["median"] > 1.1 and long.latency["judged"]
    assert "judged" not in short.latency and short.throughput["judged"]
    assert [line["latency (n = 1)"].endswith("(once)") for line in main_tables(results)["Cost"]] == [
        line["solver"] == "long" for line in main_tables(results)["Cost"]
    ]


def test_a_kept_row_takes_its_kind_from_the_class_of_today(tmp_path, monkeypatch):
    before = run(plan(contestant("P"), metrics=("rel_l2",)), data(), tmp_path).rows[0]
    monkeypatch.setattr(resolve_class(f"{FAKE}:Polynomials"), "kind", "classical")
    after = run(plan(contestant("P"), metrics=("rel_l2",)), data(), tmp_path).rows[0]
    assert (before.kind, after.kind) == ("per-instance", "classical")
    assert after.latency == before.latency and after.judged_seconds == before.judged_seconds


def test_a_contestant_may_have_limits_of_its_own(tmp_path):
    chosen = plan(contestant("P"), contestant("none", solve=Budget(seconds=0.0)))
    rows = run(chosen, data(), tmp_path).rows
    assert [row.verdict for row in rows] == ["ok", "budget"]
    assert rows[1].score("rel_l2") == pytest.approx(1.0)
    assert "budget" in rows[1].message


def test_a_slow_contestant_may_solve_the_first_cases_only(tmp_path):
    test = data(n=8, a=[2.0, 4.0])
    slow = contestant("P", test_cases=3)
    results = run(plan(slow, DIRECT, transfer=(0.5,)), test, tmp_path)
    few, all_of_them = results.rows
    assert (few.n_cases, few.successes, all_of_them.n_cases) == (3, 3, 8)
    whole = run(plan(contestant("P"), DIRECT), test, tmp_path / "whole").rows[0]
    assert few.scores["rel_l2"].per_case == whole.scores["rel_l2"].per_case[:3]
    lines = {line["solver"]: line for line in main_tables(results)["Accuracy"]}
    assert lines["P"]["status"] == "ok (first 3 cases)" and lines["differences"]["status"] == "ok"
    # Compared on the three that both have: spectral accuracy against second order.
    assert (lines["P"]["#"], lines["differences"]["#"]) == ("1", "2")
    # It never saw a grid, so there is no transfer to other grids to measure.
    assert {row.solver for row in results.transfer} == {"interpolated truth", "differences"}
    # Asked for all of them later, nothing of the shorter run is taken for an answer.
    again = run(plan(contestant("P"), DIRECT), test, tmp_path).rows[0]
    assert again.n_cases == 8


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("s", "", 0, "classical", [], n_cases=8, successes=8, statuses={"ok": 8}), "ok"),
        (
            Row("s", "", 0, "classical", [], status="partial", n_cases=8, statuses={"ok": 6, "budget": 2}),
            "2 of 8 budget",
        ),
        (Row("s", "", 0, "classical", [], status="partial", n_cases=2, statuses={"unresolved": 2}), "unresolved"),
        (Row("s", "", 0, "classical", [], status="failed", n_cases=1, statuses={"nonfinite": 1}), "nonfinite"),
        (Row("s", "", 0, "classical", [], status="refused", n_cases=1), "refused"),
    ],
)
def test_verdicts_are_a_word_or_a_count(row, verdict):
    assert row.verdict == verdict


def test_a_test_split_alone_serves_untrained_solvers_only(tmp_path):
    (tmp_path / "alone.yaml").write_text(
        "problem: {class_path: sciops.problems.poisson.Poisson, init_args: {ndim: 1, modes: 4}}\n"
        "grid: {shape: [17]}\nsplits: {test: 2}\n"
    )
    quiet = lambda line: None  # noqa: E731
    chosen = plan(contestant("P"), dataset=str(tmp_path / "alone.yaml"))
    splits = load_splits(chosen, tmp_path / "data", quiet)
    assert splits.train is None and splits.valid is None and len(splits.test) == 2
    assert splits.generation_seconds is None
    trained = contestant("Mean", f"{Path(__file__).parent / 'contestants.py'}:Mean")
    with pytest.raises(UsageError, match="no 'train' split"):
        load_splits(replace(chosen, solvers=(trained,)), tmp_path / "data", quiet)


def test_fields_of_the_pictures_prefer_successes(tmp_path):
    from sciops.compare.plots import representatives

    results = run(plan(contestant("short", degree=8), DIRECT), data(), tmp_path)
    assert [key.label for key in representatives(results, 1)] == ["differences"]
    assert isinstance(data().truth(), Field)


def test_memory_is_that_of_the_cases_a_solver_sees_at_once(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "sciops.compare.run.peak_memory", lambda solver, cases, *rest: seen.append(len(cases.seeds)) or 1.0
    )
    chosen = plan(contestant("P", test_cases=3), replace(DIRECT, test_cases=3), memory=True, batch=4, metrics=("max",))
    run(chosen, data(n=5, a=[2.0, 3.0]), tmp_path)
    assert seen == [1, 3]

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sciops.compare.meter import Protocol
from sciops.compare.plan import Contestant, Plan
from sciops.compare.report import write
from sciops.compare.run import compare

FILE = Path(__file__).parent / "contestants.py"
KEYS = {"problem", "solver", "metric", "value", "status", "n_cases", "seed"}


def contestant(name, seeds=(0,), **arguments):
    return Contestant(name, f"{FILE}:{name}", arguments, tuple(seeds))


def plan(*solvers, **changes):
    base = Plan("tiny", "A tiny comparison", "", tuple(solvers), timing=Protocol(2, 0.05, 1), memory=False, batch=4)
    return replace(base, metrics=("rel_l2", "rel_h1", "residual"), **changes)


@pytest.fixture
def quiet():
    return []


def test_everything_is_written_and_failures_are_rows(splits, tmp_path, quiet):
    chosen = plan(
        contestant("Jacobi", sweeps=300),
        contestant("Mean", seeds=(0, 1)),
        contestant("Crashes"),
        contestant("Diverges"),
        contestant("NeedsStep"),
        transfer=(0.5, 1.0, 2.0),
        transfer_cases=4,
        shifts={"rougher": {"tau": 1.0}},
    )
    results = compare(chosen, splits, tmp_path, quiet.append)
    files = write(results, splits.test, tmp_path)
    assert {p.name for p in files} >= {"results.jsonl", "table.md", "table.csv", "report.html", "work_precision.png"}
    rows = {(r.solver, r.setting, r.seed): r for r in results.rows}
    assert rows["Crashes", "", 0].status == "failed"
    assert "moon" in rows["Crashes", "", 0].message
    assert rows["NeedsStep", "", 0].status == "refused"
    assert "step" in rows["NeedsStep", "", 0].message
    bad = rows["Diverges", "", 0]
    assert bad.status == "partial"
    assert bad.statuses == {"ok": 6, "nonfinite": 2}
    assert "6 of 8" in bad.scores["rel_l2"].note
    # Damped Jacobi has two rungs; more sweeps are more accurate, and the discretisation error bounds the better one.
    assert rows["Jacobi", "", 0].score("rel_l2") < rows["Jacobi", "Jacobi 30", 0].score("rel_l2")
    assert rows["Jacobi", "", 0].score("rel_l2") < 0.05 < rows["Mean", "", 0].score("rel_l2")

    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert all(record.keys() >= KEYS for record in records)
    assert {r["status"] for r in records} == {"ok", "partial", "failed", "refused"}
    assert {r["seed"] for r in records if r["solver"] == "Mean"} == {0, 1}
    headline = [r for r in records if r["solver"] == "Jacobi" and r["metric"] == "rel_l2" and r["default"]]
    assert [r["split"] for r in headline] == ["test", "grid ×0.5", "grid ×1", "grid ×2"]
    even = [r for r in records if r["metric"] == "break_even_solves"]
    assert len(even) == 2
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http://" not in page and "https://" not in page
    table = (tmp_path / "table.md").read_text()
    assert "moon" in table and "Resolution transfer" in table and "rougher" in table


def test_a_contestant_without_ladder_runs_its_own_setting_alone(splits, tmp_path, quiet):
    alone = replace(contestant("Jacobi", sweeps=300), ladder=False)
    results = compare(plan(alone), splits, tmp_path, quiet.append)
    assert {r.setting for r in results.rows if r.solver == "Jacobi"} == {""}
    whole = compare(plan(contestant("Jacobi", sweeps=300)), splits, tmp_path / "whole", quiet.append)
    assert {r.setting for r in whole.rows if r.solver == "Jacobi"} == {"", "Jacobi 30"}


def test_a_second_run_resumes_and_tries_failures_again(splits, tmp_path, quiet):
    chosen = plan(contestant("Mean"), contestant("Crashes"))
    first = compare(chosen, splits, tmp_path, quiet.append)
    second = compare(chosen, splits, tmp_path, quiet.append)
    assert any("kept" in line for line in quiet)
    logs = list(tmp_path.glob("fits/*/fits.txt"))
    assert len(logs) == 1
    assert logs[0].read_text() == "fit\n"
    assert first.rows[0].scores == second.rows[0].scores
    assert first.rows[0].latency == second.rows[0].latency


def test_an_interruption_keeps_finished_rows(splits, tmp_path, quiet, monkeypatch):
    chosen = plan(contestant("Mean"), contestant("Jacobi"))

    def interrupt(line):
        quiet.append(line)
        if line.startswith("Jacobi"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(chosen, splits, tmp_path, interrupt)
    assert len(list((tmp_path / "rows").glob("*.json"))) == 1
    results = compare(chosen, splits, tmp_path, quiet.append)
    assert [r.status for r in results.rows if r.default] == ["ok", "ok"]
    assert next(tmp_path.glob("fits/*/fits.txt")).read_text() == "fit\n"


def test_other_data_or_arguments_are_computed_anew(splits, tmp_path, quiet):
    compare(plan(contestant("Jacobi", sweeps=300)), splits, tmp_path, quiet.append)
    before = len(list((tmp_path / "rows").glob("*.json")))
    compare(plan(contestant("Jacobi", sweeps=200)), splits, tmp_path, quiet.append)
    assert len(list((tmp_path / "rows").glob("*.json"))) > before


def test_reference_rung_of_the_transfer_table_vanishes_on_its_own_grid(splits, tmp_path, quiet):
    results = compare(plan(contestant("Jacobi"), transfer=(1.0, 2.0)), splits, tmp_path, quiet.append)
    own, fine = (r for r in results.transfer if r.solver == "interpolated truth")
    assert own.score("rel_l2") < 1e-10
    assert 1e-10 < fine.score("rel_l2") < 0.2


def test_the_residual_of_the_truth_is_the_truncation_error_of_the_scheme(splits, tmp_path, quiet):
    results = compare(plan(contestant("Jacobi")), splits, tmp_path, quiet.append)
    # Modes up to 8 on 16 intervals: |k²h²/12| of the symbol −k² is up to a tenth, and far from rounding.
    assert 1e-3 < results.truth_residual < 0.2
    assert compare(plan(contestant("Jacobi")), splits, tmp_path, quiet.append).truth_residual == results.truth_residual

import csv
import json
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from sciops.cli import main
from sciops.compare.plan import find, read
from sciops.compare.suite import ABSENT, SILENT, chosen, member, run_suite, sections, write_suite
from sciops.core.errors import UsageError

HERE = Path(__file__).parent
FAKE = f"{HERE}/per_instance.py"
DIRECT = {"name": "differences", "class_path": "sciops.solvers.sparse_direct.SparseDirect", "ladder": False}


def recipe(formula):
    return {
        "problem": {
            "class_path": "sciops.problems.poisson.Poisson",
            "init_args": {"ndim": 1, "exact_solution": formula},
        },
        "grid": {"shape": [65], "lower": [0], "upper": [1], "layout": "node"},
        "splits": {"test": 1},
        "dtype": "float64",
    }


@pytest.fixture(autouse=True)
def pictures(request, monkeypatch):
    """Drawing takes longer than all else here; one test draws the suite's own picture."""
    monkeypatch.setattr("sciops.compare.report.draw", lambda *_: [])
    if "side_by_side" not in request.node.name:
        monkeypatch.setattr("sciops.compare.suite.draw_suite", lambda *_: None)


def suite_of(folder, solvers, **changes):
    """A plan over two problems: one that polynomials resolve and one that they do not."""
    for name, formula in (("smooth", "sin(3*x)"), ("wavy", "sin(60*x)")):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe(formula)))
    plan = {
        "datasets": ["smooth.yaml", "wavy.yaml"],
        "metrics": ["rel_l2", "max", "coverage_95"],
        "timing": {"repeats": 2, "seconds": 0.3, "warmup": 1},
        "memory": False,
        "solvers": solvers,
    }
    (folder / "two.yaml").write_text(yaml.safe_dump(plan | changes))
    return read(folder / "two.yaml")


def run(plan, folder, names=None):
    said = []
    suite = run_suite(plan, names or list(plan.datasets), folder / "out", folder / "data", said.append)
    return suite, said


@pytest.fixture
def polynomials():
    return {"name": "polynomials", "class_path": f"{FAKE}:Polynomials"}


def test_the_tables_lie_side_by_side_and_mark_what_is_not_resolved(tmp_path, polynomials):
    extra = {"name": "longer", "class_path": f"{FAKE}:Polynomials", "init_args": {"degree": 24}, "except": "wavy"}
    plan = suite_of(tmp_path, [DIRECT, polynomials, extra], goal=1e-6)
    suite, _ = run(plan, tmp_path)
    tables = sections(suite)
    errors = {line["solver"]: line for line in tables["Error (rel_l2)"]}
    assert list(errors["differences"]) == ["solver", "smooth", "wavy", "ok", "≤ 1e-06"]
    # (kh)²/12 of the second-order scheme, and spectral accuracy where degree 16 is enough.
    assert 1e-5 < float(errors["differences"]["smooth"]) < 1e-3
    assert suite.found["smooth"].rows[1].score("rel_l2") < 1e-12
    assert errors["polynomials"]["wavy"].endswith("(unresolved)")
    assert errors["longer"]["wavy"] == ABSENT
    assert [errors[s]["ok"] for s in ("differences", "polynomials", "longer")] == ["2/2", "1/2", "1/1"]
    assert [errors[s]["≤ 1e-06"] for s in ("differences", "polynomials", "longer")] == ["0/2", "1/2", "1/1"]
    assert [line["solver"] for line in tables["Not solved, and why"]] == ["polynomials"]
    assert "residual stays high" in tables["Not solved, and why"][0]["why"]
    assert {line["solver"] for line in tables["coverage_95"]} == {"polynomials", "longer"}
    assert tables["Points used"][0]["smooth"] in ("48", "72")
    assert [line["solution"] for line in tables["Problems"]] == ["sin(3*x)", "sin(60*x)"]

    files = {path.name for path in write_suite(suite, tmp_path / "out")}
    assert files >= {"results.jsonl", "table.md", "table.csv", "table.tex", "report.html", "suite.png", "anytime.csv"}
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    own = [
        json.loads(line)
        for name in plan.datasets
        for line in (tmp_path / "out" / name / "results.jsonl").read_text().splitlines()
    ]
    assert records == own
    assert {r["problem"] for r in records} == {"smooth", "wavy"}
    shares = {(r["solver"], r["problem"]): r["value"] for r in records if r["metric"] == "success_rate"}
    assert shares["polynomials", "wavy"] == 0 and shares["polynomials", "smooth"] == 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "smooth/report.html" in page and "data:image/png;base64," in page
    with (tmp_path / "out" / "anytime.csv").open() as file:
        curve = [
            line for line in csv.DictReader(file) if (line["problem"], line["solver"]) == ("smooth", "polynomials")
        ]
    assert len(curve) == 3
    # Degrees 4, 8, 16 for sin 3x: each step at least squares the accuracy.
    steps = [float(line["rel_l2"]) for line in curve]
    assert steps[1] < steps[0] ** 2 * 10 and steps[2] < 1e-12
    assert [float(line["seconds"]) for line in curve] == sorted(float(line["seconds"]) for line in curve)


def test_a_success_far_above_its_own_estimate_is_listed(tmp_path, polynomials):
    bold = {"name": "bold", "class_path": f"{FAKE}:Polynomials", "init_args": {"degree": 12, "optimism": 1e-9}}
    suite, _ = run(suite_of(tmp_path, [polynomials, bold], datasets={"smooth": "smooth.yaml"}), tmp_path)
    (line,) = sections(suite)[SILENT]
    ratio = suite.found["smooth"].rows[1].score("error_estimate_ratio")
    assert (line["solver"], line["cases"]) == ("bold", "1 of 1")
    assert float(line["lowest estimate ÷ error"]) == pytest.approx(ratio, rel=0.05) and ratio < 0.1


def test_a_suite_resumes_and_an_interruption_keeps_finished_problems(tmp_path, polynomials):
    plan = suite_of(tmp_path, [polynomials])

    def interrupt(line):
        if line.startswith("wavy"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(plan, list(plan.datasets), tmp_path / "out", tmp_path / "data", interrupt)
    assert (tmp_path / "out" / "smooth" / "results.jsonl").exists()
    suite, said = run(plan, tmp_path)
    assert sum("kept" in line for line in said) == 1
    again, said = run(plan, tmp_path)
    assert sum("kept" in line for line in said) == 2
    assert not any(line.startswith("timing") for line in said)
    for name in plan.datasets:
        assert again.found[name].rows == suite.found[name].rows


def test_a_problem_that_cannot_run_is_a_column_and_not_the_end(tmp_path, polynomials):
    plan = suite_of(tmp_path, [polynomials])
    flat = {"class_path": "sciops.problems.poisson.Poisson", "init_args": {"ndim": 1, "condition": "periodic"}}
    broken = recipe("") | {"problem": flat, "grid": {"shape": [64], "layout": "periodic"}}
    (tmp_path / "wavy.yaml").write_text(yaml.safe_dump(broken))
    suite, _ = run(plan, tmp_path)
    (line,) = sections(suite)["Error (rel_l2)"]
    assert line["wavy"] == "failed" and line["ok"] == "1/2"
    assert "periodic" in sections(suite)["Not solved, and why"][0]["why"]
    write_suite(suite, tmp_path / "out")
    records = [json.loads(text) for text in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    (failed,) = [r for r in records if r["problem"] == "wavy"]
    assert failed["status"] == "failed" and failed["value"] is None and "periodic" in failed["note"]
    assert failed["kind"] == "per-instance"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "smooth.yaml"}, ["'dataset' and 'datasets'"]),
        ({"datasets": 3}, ["datasets", "list"]),
        ({"datasets": ["a/x.yaml", "b/x.yaml"]}, ["same file name"]),
        ({"datasets": {"a b": "x.yaml"}}, ["'a b'", "letters"]),
        ({"solvers": [{"class_path": f"{FAKE}:Polynomials", "only": ["smoth"]}]}, ["'smoth'", "smooth, wavy"]),
        ({"solvers": [{"class_path": f"{FAKE}:Polynomials", "only": [], "except": []}]}, ["'only' and 'except'"]),
        (
            {"datasets": None, "dataset": "x.yaml", "solvers": [{"class_path": f"{FAKE}:Polynomials", "only": ["x"]}]},
            ["one dataset"],
        ),
        ({"solvers": [{"class_path": f"{FAKE}:Polynomials", "solve": {"second": 3}}]}, ["second", "seconds"]),
        ({"solvers": [f"{FAKE}:Polynomials"] * 2}, ["two solvers", "'Polynomials 16' on smooth"]),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, polynomials, change, words):
    with pytest.raises(UsageError) as error:
        suite_of(tmp_path, **{"solvers": [polynomials]} | change)
    for word in words:
        assert word in str(error.value)


def test_the_suite_of_high_frequencies_enters_every_problem_against_the_classical_bar():
    plan = read(find("high_frequency"))
    assert not plan.trains
    for name in plan.datasets:
        kinds = {c.name: c.kind for c in member(plan, name).solvers}
        assert kinds["Chebyshev"] == "classical" and "per-instance" in kinds.values()


def test_one_name_may_have_other_settings_on_other_problems(tmp_path, polynomials):
    split = [polynomials | {"only": ["smooth"]}, polynomials | {"only": ["wavy"], "init_args": {"degree": 8}}]
    suite, _ = run(suite_of(tmp_path, split), tmp_path)
    (line,) = sections(suite)["Points used"]
    assert (line["smooth"], line["wavy"]) == ("48", "24")


def test_other_grids_have_a_table_for_each_problem_on_screen_and_on_paper(tmp_path, monkeypatch, capsys):
    suite_of(tmp_path, [DIRECT], transfer={"factors": [0.5, 1, 2], "cases": 1})
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "two.yaml", "--out", "found"]) == 0
    shown, paper = capsys.readouterr().out, (tmp_path / "found" / "table.md").read_text()
    for name in ("smooth", "wavy"):
        assert f"Resolution transfer: {name}" in shown
        own = (tmp_path / "found" / name / "table.md").read_text().split("## Resolution transfer")[1].split("##")[0]
        assert f"## Resolution transfer: {name}\n\n{own.strip()}" in paper
        rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in own.split("\n") if row.startswith("|")]
        titles, line = rows[0], next(row for row in rows if row[0] == "differences")
        assert titles == ["solver", "grid ×0.5 (33 node)", "grid ×1 (65 node)", "grid ×2 (129 node)"]
        assert all(cell in shown for cell in line)
        errors = [float(cell) for cell in line[1:]]
        # The scheme has order two: where the waves are long, every grid has a quarter of the error of the one before.
        assert name == "wavy" or all(b == pytest.approx(a / 4, rel=0.02) for a, b in pairwise(errors)), errors
        assert errors == sorted(errors, reverse=True)


def test_missing_files_and_empty_fields_are_told_before_anything_runs(tmp_path, polynomials):
    plan = suite_of(tmp_path, [polynomials | {"only": ["smooth"]}])
    with pytest.raises(UsageError, match=r"no solver is entered for 'wavy'"):
        run(plan, tmp_path)
    plan = suite_of(tmp_path, [polynomials], datasets={"smooth": "smooth.yaml", "gone": "gone.yaml"})
    with pytest.raises(UsageError, match=r"gone\.yaml"):
        run(plan, tmp_path)
    assert not (tmp_path / "out").exists()
    assert chosen(plan, ["smooth"]) == ["smooth"]
    with pytest.raises(UsageError, match="'wavy'"):
        chosen(plan, ["wavy"])
    assert member(plan, "smooth").dataset == "smooth.yaml"


def test_the_command_line_runs_a_chosen_problem(tmp_path, polynomials, monkeypatch, capsys):
    suite_of(tmp_path, [polynomials, DIRECT])
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "two.yaml", "--only", "wavy", "--out", "found"]) == 0
    shown = capsys.readouterr().out
    assert "unresolved" in shown and "Seconds per solve" in shown
    assert not (tmp_path / "found" / "smooth").exists()
    assert main(["compare", "two.yaml", "--dry-run"]) == 0
    assert "polynomials" in capsys.readouterr().out
    assert main(["compare", "two.yaml", "--only", "nope"]) == 2
    assert "'nope'" in capsys.readouterr().err

import json
from pathlib import Path

import pytest

from sciops.cli import main

CONTESTANTS = Path(__file__).parents[1] / "compare" / "contestants.py"
RECIPE = """
problem: {class_path: sciops.problems.poisson.Poisson, init_args: {modes: 6}}
grid: {shape: [17, 17], lower: [0, 0], upper: [1, 1], layout: node}
splits: {train: 8, valid: 2, test: 4}
"""
PLAN = """
dataset: tiny.yaml
metrics: [rel_l2]
timing: {{repeats: 2, seconds: 0.05, warmup: 1}}
memory: false
solvers:
  - class_path: {file}:Jacobi
    init_args: {{sweeps: 50}}
  - class_path: {file}:Mean
  - class_path: {file}:Crashes
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "plan.yaml").write_text(PLAN.format(file=CONTESTANTS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_compare_from_an_empty_folder_with_solvers_of_the_users_own(folder, capsys):
    assert main(["compare", "plan.yaml", "--out", "found"]) == 0
    shown = capsys.readouterr()
    assert "Accuracy" in shown.out and "moon" in shown.out and "report.html" in shown.out
    records = [json.loads(line) for line in (folder / "found" / "results.jsonl").read_text().splitlines()]
    assert {"Jacobi 50", "Mean", "Crashes"} == {r["solver"] for r in records}
    assert {r["problem"] for r in records} == {"tiny"}
    assert main(["compare", "plan.yaml", "--out", "found"]) == 0
    assert "kept" in capsys.readouterr().err


def test_a_dry_run_prints_the_matrix_and_computes_nothing(folder, capsys):
    assert main(["compare", "plan.yaml", "--dry-run"]) == 0
    assert "can run" in capsys.readouterr().out
    assert not (folder / "results").exists()


def test_generate_verify_info_convert(folder, capsys):
    assert main(["generate", "tiny.yaml"]) == 0
    file = str(folder / "data" / "tiny" / "data" / "test" / "tiny.hdf5")
    assert main(["verify", file, "--cases", "2"]) == 0
    assert main(["info", file]) == 0
    assert "−Δu = f" in capsys.readouterr().out
    assert main(["convert", file, "out.hdf5", "--to", "pdebench"]) == 0
    assert main(["info", "out.hdf5"]) == 0
    assert "passed" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["compare", "nothing_of_that_name"], 2, "no comparison"),
        (["compare", "absent.yaml"], 2, "no file"),
        (["generate", "absent.yaml"], None, "absent.yaml"),
        (["info", "absent.hdf5"], 1, "does not exist"),
        (["check", "no.such.Class"], 2, "no"),
        (["fit", "--config", "absent.yaml"], 2, "absent.yaml"),
    ],
)
def test_mistakes_are_one_sentence_and_an_exit_code(folder, capsys, arguments, code, words):
    found = main(arguments)
    assert found == code if code is not None else found in (1, 2)
    message = capsys.readouterr().err.strip()
    assert message.startswith("sciops: ") and words in message
    assert "Traceback" not in message and "\n" not in message


def test_unexpected_errors_hide_the_traceback_until_asked(folder, capsys, monkeypatch):
    def broken(path):
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("sciops.data.info.describe", broken)
    assert main(["info", "x"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert main(["info", "x", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for verb in ("fit", "validate", "test", "predict", "compare", "generate", "verify", "info", "convert", "check"):
        assert f"\n    {verb}" in shown

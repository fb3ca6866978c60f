from pathlib import Path

import pytest

from sciops.compare.plan import find, locate, read
from sciops.core.errors import UsageError

HERE = Path(__file__).parent


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_reads_contestants_and_passes_seeds_to_trained_solvers_only(tmp_path):
    plan = read(
        write(
            tmp_path,
            f"""
dataset: x.yaml
seeds: [3, 4]
solvers:
  - class_path: {HERE}/contestants.py:Mean
  - {{name: J, class_path: "{HERE}/contestants.py:Jacobi", init_args: {{sweeps: 5}}, ladder: false}}
""",
        )
    )
    assert [(c.name, c.seeds) for c in plan.solvers] == [("Mean", (3, 4)), ("J", (0,))]
    assert [c.ladder for c in plan.solvers] == [True, False]
    assert plan.solvers[0].make(4).seed == 4
    assert plan.solvers[1].make(4).sweeps == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dataset: x\nsolver: []", ["solver", "solvers", "Did you mean"]),
        ("dataset: x", ["lacks", "solvers"]),
        ("- a", ["mapping"]),
        ("dataset: [x", ["not valid YAML"]),
        ("dataset: x\nsolvers: [{class_path: sciops.solvers.nope.X}]", ["sciops.solvers.nope"]),
        ("dataset: x\nsolvers: [{class_path: sciops.problems.poisson.Poisson}]", ["not a Solver"]),
        ("dataset: x\ntiming: {repeat: 3}\nsolvers: [{class_path: a.B}]", ["repeat", "repeats"]),
        ("dataset: x\nsolvers: [{class: a.B}]", ["class_path"]),
        (
            f"dataset: x\nsolvers: [{{class_path: '{HERE}/contestants.py:Mean', ladder: 3}}]",
            ["ladder", "true or false"],
        ),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, text, words):
    with pytest.raises(UsageError) as error:
        read(write(tmp_path, text))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_unknown_argument_of_a_solver_is_named(tmp_path):
    text = f"dataset: x\nsolvers: [{{class_path: '{HERE}/contestants.py:Jacobi', init_args: {{sweep: 3}}}}]"
    with pytest.raises(UsageError, match=r"no argument 'sweep'.*sweeps"):
        read(write(tmp_path, text))


def test_bare_names_and_paths(tmp_path):
    assert find("poisson").name == "poisson.yaml"
    with pytest.raises(UsageError, match=r"known: .*poisson"):
        find("poison")
    with pytest.raises(UsageError, match="no file"):
        find(str(tmp_path / "absent.yaml"))


def test_dataset_paths_expand_variables_and_are_found_beside_the_plan(tmp_path, monkeypatch):
    (tmp_path / "there.h5").write_text("")
    monkeypatch.setenv("MY_DATA", "there.h5")
    plan = read(
        write(
            tmp_path,
            f"dataset: {{test: '${{MY_DATA}}', train: '${{NO_SUCH:-other.h5}}'}}\n"
            f"solvers: ['{HERE}/contestants.py:Jacobi']",
        )
    )
    assert plan.dataset == {"test": "there.h5", "train": "other.h5"}
    assert locate(plan, "there.h5") == tmp_path.resolve() / "there.h5"
    with pytest.raises(UsageError, match="does not exist"):
        locate(plan, "other.h5")

"""Class paths: names resolve, misspelt ones get one sentence, data files never execute code."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sciops.core.config import build, check_keys, resolve_class, spec
from sciops.core.errors import UsageError
from sciops.core.problem import DataOnly, Problem
from sciops.core.solver import Solver
from sciops.problems.darcy import Darcy
from sciops.problems.poisson import Poisson


def refused(path, match: str, trusted: bool = True) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        resolve_class(path, trusted)
    assert "\n" not in str(caught.value)


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf8")
    return str(folder / name)


def test_package_paths_resolve_trusted_or_not() -> None:
    assert resolve_class("sciops.problems.darcy.Darcy") is Darcy
    assert resolve_class("sciops.problems.darcy.Darcy", trusted=False) is Darcy


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("sciops.problems.darcy.Darci", "did you mean Darcy"),
        ("sciops.problems.darci.Darcy", "No module named 'sciops.problems.darci'"),
        ("nosuchpackage.Thing", "No module named 'nosuchpackage'"),
        ("Darcy", "package.module.Class"),
        ("..Darcy", "package.module.Class"),
        ("sciops.problems.darcy.", "package.module.Class"),
        ("", "package.module.Class"),
        (3, "package.module.Class"),
        ("nosuchfile.py:Mine", "does not exist"),
        ("sciops.problems.darcy.discrete_reference", "no class"),
    ],
)
def test_misspelt_paths_get_one_sentence(path, match: str) -> None:
    if isinstance(path, str):
        refused(path, match)
    else:
        with pytest.raises((UsageError, TypeError)):  # TypeError: the annotation is enforced in the tests
            resolve_class(path)


def test_a_users_file_is_loaded_once_by_path(tmp_path: Path) -> None:
    file = write(tmp_path, "mine_once.py", "from sciops.core.solver import Solver\nclass Mine(Solver):\n    pass\n")
    found = resolve_class(f"{file}:Mine")
    assert issubclass(found, Solver)
    assert resolve_class(f"{file}:Mine") is found
    assert resolve_class(f"{found.__module__}.Mine", trusted=False) is found
    refused(f"{file}:Mime", "did you mean Mine")


def test_a_broken_file_is_reported_every_time_and_leaves_nothing_behind(tmp_path: Path) -> None:
    for text in ("class Mine(:\n", "import nosuchpackage\nclass Mine: pass\n"):
        file = write(tmp_path, "broken_one.py", text)
        for _ in range(2):
            refused(f"{file}:Mine", "cannot be imported")
        assert "sciops_user_broken_one" not in sys.modules
    file = write(tmp_path, "broken_one.py", "raise RuntimeError('mine')\n")
    with pytest.raises(RuntimeError, match="mine"):
        resolve_class(f"{file}:Mine")
    write(tmp_path, "broken_one.py", "class Mine:\n    pass\n")
    assert resolve_class(f"{file}:Mine").__name__ == "Mine"


def test_files_never_make_the_program_import_code(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb_module.py"
    bomb.write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')\nclass Mine: pass\n", encoding="utf8")
    sys.path.insert(0, str(tmp_path))
    try:
        refused("bomb_module.Mine", "not imported", trusted=False)
        refused(f"{bomb}:Mine", "would execute", trusted=False)
        refused("sciops_user_bomb_module.Mine", "bomb_module.py:Mine", trusted=False)
        for name in ("bomb_module.Mine", f"{bomb}:Mine"):
            with pytest.raises(UsageError):
                build({"class_path": name}, Problem, trusted=False)
    finally:
        sys.path.remove(str(tmp_path))
    assert not (tmp_path / "exploded").exists()


def test_a_class_of_another_kind_is_never_called() -> None:
    for path in ("subprocess.Popen", "pathlib.Path", "sciops.core.grid.Grid"):
        with pytest.raises(UsageError, match="is not a Problem"):
            build({"class_path": path, "init_args": {"args": ["true"]}}, Problem, trusted=False)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"class_path": "sciops.problems.darcy.Darcy", "init_args": {"hihg": 3.0}}, "no argument 'hihg'.*high"),
        ({"class_path": "sciops.problems.darcy.Darcy", "args": {}}, "Unknown key.*args.*init_args"),
        ({"class_path": "sciops.problems.darcy.Darcy", "init_args": [1]}, "must be a mapping"),
        ({"init_args": {}}, "class_path"),
        ({"class_path": "sciops.problems.poisson.Poisson", "init_args": {"condition": "robin"}}, "dirichlet, neumann"),
        ({"class_path": "sciops.problems.darcy.Darcy", "init_args": {"low": 5.0, "high": 2.0}}, "low ≤ high"),
        ({"class_path": "sciops.problems.poisson.Poisson", "init_args": {"parameters": {"a": [1, 2]}}}, "manufactured"),
        ({"class_path": "sciops.problems.poisson.Poisson", "init_args": {"ndim": 4}}, "1 to 3"),
    ],
)
def test_wrong_configurations_get_one_sentence(config: dict, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        build(config, Problem)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "problem",
    [
        Poisson(),
        Poisson(ndim=1, condition="neumann", exact_solution="sin(a*x)", parameters={"a": (1, 2)}),
        Darcy(law="trigonometric"),
        DataOnly(input_names=("a", "b"), output_names=("u",), ndim=1),
    ],
    ids=lambda p: type(p).__name__,
)
def test_spec_and_build_are_inverse_through_json(problem: Problem) -> None:
    import json

    written = json.loads(json.dumps(spec(problem)))
    assert build(written, Problem, trusted=False) == problem


def test_spec_needs_a_dataclass() -> None:
    with pytest.raises(UsageError, match="frozen dataclass"):
        spec(Solver())


@dataclass(frozen=True)
class Local(Problem):
    ndim: int = 1


def test_a_bare_string_is_a_class_path() -> None:
    assert build(f"{__name__}.Local", Problem) == Local()


def test_check_keys_suggests_the_closest() -> None:
    check_keys({"grid": 1}, ["grid", "count"], "recipe")
    with pytest.raises(UsageError, match="Did you mean 'grid'"):
        check_keys({"girds": 1}, ["grid", "count"], "recipe")

"""The rooms of the house: no import points back, `import sciops` is light, files stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "sciops"
FILES = sorted(PACKAGE.rglob("*.py"))

# Lowest first. Rooms on one level may import each other, because the order among them is free.
LEVELS = (
    {"core"},
    {"numerics"},
    {"problems", "models"},
    {"data", "metrics", "solvers"},
    {"train", "compare", "embed"},
    {"cli"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

HEAVY = ("lightning", "neuralop", "h5py", "scipy", "matplotlib", "pyamg", "rich", "gpytorch", "jsonargparse", "yaml")


def room_of(module: str) -> str | None:
    """`sciops.core.grid` → core; the package's own __init__ gathers the public names and has no room."""
    parts = module.split(".")
    return parts[1] if parts[0] == "sciops" and len(parts) > 1 else None


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool) -> list[tuple[int, str]]:
    """(line, module) of every run-time import, inside functions too; `if TYPE_CHECKING:` blocks do not run."""
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            # `from sciops import core` names a room in the alias.
            found += [(node.lineno, f"{base}.{alias.name}" if base == "sciops" else base) for alias in node.names]
    return found


def backward(module: str, found: list[tuple[int, str]]) -> list[str]:
    mine = room_of(module)
    if mine is None:
        return []
    return [
        f"{module}:{line} imports {target}, which lies above {mine}/"
        for line, target in found
        if (other := room_of(target)) in LEVEL and LEVEL[other] > LEVEL[mine]
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_import_points_back(file: Path) -> None:
    module = module_of(file)
    found = imports(file.read_text(encoding="utf8"), module, file.name == "__init__.py")
    assert not backward(module, found)
    if room_of(module) is not None:
        root = [t for _, t in found if t == "sciops" or ((room := room_of(t)) and room not in {*LEVEL, "__version__"})]
        assert not root, f"{module} imports {root} through the package root; import from the defining module."


def test_every_room_has_a_level() -> None:
    rooms = {f.relative_to(PACKAGE).parts[0].removesuffix(".py") for f in FILES} - {"__init__", "__main__"}
    assert rooms <= set(LEVEL), f"room(s) {sorted(rooms - set(LEVEL))} have no place in the layers."


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from sciops.numerics.krylov import ConjugateGradients", 1),
        ("def f():\n    from sciops.problems import poisson", 1),
        ("import sciops.train.losses as x", 1),
        ("from sciops import compare", 1),
        ("from ..solvers.gp import GP", 1),
        ("if TYPE_CHECKING:\n    from sciops.problems.poisson import Poisson", 0),
        ("from sciops.core.grid import Grid", 0),
        ("from .grid import Grid\nimport torch", 0),
    ],
)
def test_the_layer_check_sees_what_it_should(source: str, count: int) -> None:
    assert len(backward("sciops.core.problem", imports(source, "sciops.core.problem", False))) == count


def test_importing_sciops_loads_torch_and_numpy_alone() -> None:
    code = f"import sys, sciops; print([m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_files_stay_small_and_have_names_that_mean_something() -> None:
    assert not [str(f) for f in FILES if f.stem in ("utils", "util", "helpers", "misc", "common")]
    long = {str(f.relative_to(PACKAGE)): n for f in FILES if (n := len(f.read_text().splitlines())) > 400}
    assert not long, f"more than 400 lines: {long}"

"""`-pc_type python -pc_python_type sciops.embed.petsc.PC` in a petsc4py program, beside PETSc's own preconditioners.

All cases of one number of ranks run in one process: a start with torch takes seconds, a solve does not.
"""

from pathlib import Path
from typing import Any

import pytest
from petsc_support import HERE, batch, error_of_one_step, execute, interpreter, solved

pytestmark = pytest.mark.embed

OURS = ["-pc_type", "python", "-pc_python_type", "sciops.embed.petsc.PC", "-pc_sciops_model"]
STAND_IN = [*OURS, "x", "-stand_in"]
SQUARE = ["-points", "128,128", "-ksp_type", "cg"]
BOX = ["-points", "28,24,20", "-contrast", "1e3", "-ksp_type", "cg"]
STRIPE = ["-points", "96,64", "-dmda", "0", "-contrast", "1e6", "-pc_sciops_precision", "32"]
SMALL = ["-points", "24,20", "-ksp_type", "cg"]
ONCE = ["-ksp_type", "richardson", "-ksp_max_it", "1"]
NATIVE = ["-pc_sciops_on_failure", "native"]
REFUSALS = {
    "sign": ([*STAND_IN, "linear", "-sign", "-1"], "wrong sign"),
    "asymmetric": ([*STAND_IN, "linear", "-skew", "1"], "not symmetric"),
    "two unknowns": ([*STAND_IN, "linear", "-dof", "2"], "one unknown per point is needed"),
    "no shape": ([*STAND_IN, "linear", "-dmda", "0"], "no -pc_sciops_shape is given"),
    "other shape": ([*STAND_IN, "linear", "-dmda", "0", "-pc_sciops_shape", "20,24"], "no neighbours"),
    "nonlinear in cg": ([*STAND_IN, "nonlinear"], "-ksp_type cg stalls; use -ksp_type fcg, fgmres or gcr"),
    "not finite": ([*STAND_IN, "broken"], "not finite"),
    "no model": (OURS[:-1], "No model is given"),
    "missing": ([*OURS, "/nowhere.sciops"], "There is no artefact /nowhere.sciops"),
    "choice": ([*STAND_IN, "linear", "-pc_sciops_on_failure", "maybe"], "must be stop or native"),
}
FAILURES = {"native sign": "sign", "native broken": "not finite", "native nonlinear": "nonlinear in cg"}


@pytest.fixture(scope="module")
def failures() -> dict[str, Any]:
    cases = {name: [*SMALL, *options] for name, (options, _) in REFUSALS.items()}
    cases |= {name: [*SMALL, *REFUSALS[of][0], *NATIVE] for name, of in FAILURES.items()}
    return batch(cases | {"bar": [*SMALL, "-pc_type", "ilu"]})


@pytest.fixture(scope="module")
def solves(multigrid_2d: Path, multigrid_3d: Path, direction_2d: Path) -> dict[str, Any]:
    cases: dict[str, list[object]] = {}
    for faces in ("dirichlet", "neumann"):
        two = [*SQUARE, "-faces", faces, "-solves", 2]
        cases |= {faces: [*two, *OURS, multigrid_2d], f"{faces} bar": [*two, "-pc_type", "icc"]}
    for method in ("fcg", "fgmres"):
        wide = [*STRIPE, "-ksp_type", method, *OURS, multigrid_2d, "-pc_sciops_shape", "96,64"]
        cases |= {f"stripe {method}": wide}
    cases |= {"box": [*BOX, *OURS, multigrid_3d], "box bar": [*BOX, "-pc_type", "icc"]}
    cases |= {"direction": ["-points", "24,20", *ONCE, *OURS, direction_2d]}
    for faces in ("dirichlet", "neumann"):
        case = ["-points", "48,40", "-faces", faces, "-ksp_type", "fgmres", *STAND_IN, "nonlinear"]
        cases |= {f"nonlinear {faces}": case}
    return batch(cases)


@pytest.fixture(scope="module")
def two_ranks(multigrid_2d: Path) -> dict[str, Any]:
    planes = ["-points", "40,48", "-ksp_type", "cg", "-dmda", "0", *STAND_IN, "linear"]
    cases = {
        "bar": [*SQUARE, "-pc_type", "bjacobi", "-sub_pc_type", "icc"],
        "plain": [*SQUARE, *OURS, multigrid_2d],
        "overlap": [*SQUARE, *OURS, multigrid_2d, "-pc_sciops_overlap", 4],
        "planes": [*planes, "-pc_sciops_shape", "40,48", "-pc_sciops_overlap", 2],
        "wrong planes": [*planes, "-pc_sciops_shape", "48,20,2"],
        "sign": [*SMALL, *STAND_IN, "linear", "-sign", "-1"],
        "broken": [*SMALL, *STAND_IN, "broken"],
    }
    return batch(cases, ranks=2)


@pytest.mark.parametrize("faces", ["dirichlet", "neumann"])
def test_iterations_far_below_incomplete_cholesky(solves: dict[str, Any], faces: str) -> None:
    """128×128, jumps of 10 and then 100 in one program; the exact solution is known."""
    ours, bar = solves[faces], solves[f"{faces} bar"]
    for solve in range(2):
        assert ours["reason"][solve] > 0
        assert ours["iterations"][solve] < bar["iterations"][solve] / 3
        assert ours["error"][solve] < 1e-5


@pytest.mark.parametrize("method", ["fcg", "fgmres"])
def test_jumps_of_a_million_without_a_dmda(solves: dict[str, Any], method: str) -> None:
    ours = solves[f"stripe {method}"]
    assert ours["reason"][0] > 0 and ours["iterations"][0] < 40


def test_three_dimensions(solves: dict[str, Any]) -> None:
    ours, bar = solves["box"], solves["box bar"]
    assert ours["reason"][0] > 0 and ours["error"][0] < 1e-5
    assert ours["iterations"][0] < bar["iterations"][0] / 1.5


@pytest.mark.parametrize("faces", ["dirichlet", "neumann"])
def test_nonlinear_maps_in_a_flexible_method(solves: dict[str, Any], faces: str) -> None:
    """The mean of Neumann solutions too: fgmres leaves the null space to the preconditioner."""
    ours = solves[f"nonlinear {faces}"]
    assert ours["reason"][0] > 0 and ours["iterations"][0] < 60 and ours["error"][0] < 1e-4


def test_directions_are_those_of_the_artefact(solves: dict[str, Any], direction_2d: Path) -> None:
    """One Richardson step from zero is x = f(b)."""
    assert solves["direction"]["error"][0] == pytest.approx(error_of_one_step(direction_2d), rel=1e-4)


def test_overlap_between_two_ranks_saves_iterations(two_ranks: dict[str, Any]) -> None:
    bar, plain, wide, planes = (two_ranks[name] for name in ("bar", "plain", "overlap", "planes"))
    for ours in (plain, wide, planes):
        assert ours["reason"][0] > 0 and ours["error"][0] < 1e-5
    assert wide["iterations"][0] < plain["iterations"][0] < bar["iterations"][0]


def test_failures_reach_all_ranks(two_ranks: dict[str, Any]) -> None:
    """Nobody waits for a rank that has stopped: the next case of the batch was answered."""
    assert "wrong sign" in two_ranks["sign"]["raised"]
    assert "which are no neighbours" in two_ranks["wrong planes"]["raised"]
    assert two_ranks["broken"]["reason"][0] < 0


@pytest.mark.parametrize("name", REFUSALS)
def test_stops_with_one_sentence(failures: dict[str, Any], name: str) -> None:
    said = failures[name]["raised"]
    assert REFUSALS[name][1] in said and said.endswith(".") and "\n" not in said
    assert said.startswith(("UsageError", "DataError"))


@pytest.mark.parametrize("name", FAILURES)
def test_native_goes_on_with_one_warning(failures: dict[str, Any], name: str) -> None:
    found = failures[name]
    assert found["reason"][0] > 0 and found["iterations"] == failures["bar"]["iterations"]
    assert len(found["warnings"]) == 1 and "Going on with incomplete factors" in found["warnings"][0]


def test_programs_end_cleanly() -> None:
    """PETSc 3.18 without the finaliser destroys the preconditioner after Python is gone."""
    program = [interpreter(), str(HERE / "petsc_program.py"), *SMALL, *STAND_IN]
    assert solved([*program, "linear"])["iterations"][0] < 12
    status, _, errors = execute([*program, "nonlinear"])
    assert status == 1 and errors.strip().splitlines()[-1].startswith("sciops.core.errors.UsageError: ")

"""The plugin in a C program that knows PETSc alone: built, loaded by -dll_prepend, compared, made to fail."""

import subprocess
from pathlib import Path

import pytest
from petsc_support import HERE, error_of_one_step, execute, interpreter, needs, solved

from sciops.core.errors import UsageError
from sciops.embed import petsc_build

pytestmark = pytest.mark.embed

SQUARE = ["-da_grid_x", "128", "-da_grid_y", "128", "-contrast", "10", "-ksp_type", "cg"]
BOX = ["-dim", "3", "-da_grid_x", "28", "-da_grid_y", "24", "-da_grid_z", "20", "-contrast", "1e3", "-ksp_type", "cg"]


@pytest.fixture(scope="module")
def built(library: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """(the program, the options that load the plugin)."""
    needs("mpicc", "pkg-config")
    try:
        petsc_build.petsc_flags()
    except UsageError as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("petsc")
    program = petsc_build.program(petsc_build.PLUGIN / "examples" / "poisson.c", out)
    plugin = petsc_build.build(out, library)
    return str(program), ["-dll_prepend", str(plugin), "-pc_type", "sciops", "-pc_sciops_model"]


def test_the_program_knows_nothing_of_torch(built: tuple[str, list[str]]) -> None:
    program, (_, plugin, *_) = built
    linked = [subprocess.run(["ldd", file], capture_output=True, text=True).stdout for file in (program, plugin)]
    assert "libpetsc" in linked[0] and "torch" not in linked[0] and "sciops" not in linked[0]
    assert "libsciops.so" in linked[1] and "not found" not in linked[1]


@pytest.mark.parametrize("faces", ["dirichlet", "neumann"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_iterations_below_incomplete_cholesky(
    built: tuple[str, list[str]], multigrid_2d: Path, faces: str, ranks: int
) -> None:
    program, ours = built
    case = [program, *SQUARE, "-faces", faces]
    bar = solved([*case, "-pc_type", "bjacobi", "-sub_pc_type", "icc"], ranks)
    found = solved([*case, *ours, str(multigrid_2d), "-pc_sciops_overlap", "4"], ranks)
    assert found["reason"][0] > 0 and found["error"][0] < 1e-5
    assert found["iterations"][0] < bar["iterations"][0] / 3


def test_three_dimensions(built: tuple[str, list[str]], multigrid_3d: Path) -> None:
    program, ours = built
    bar = solved([program, *BOX, "-pc_type", "icc"])
    found = solved([program, *BOX, *ours, str(multigrid_3d)])
    assert found["reason"][0] > 0 and found["error"][0] < 1e-5
    assert found["iterations"][0] < bar["iterations"][0] / 1.5


def test_directions_are_those_of_the_artefact(built: tuple[str, list[str]], direction_2d: Path) -> None:
    """The plugin in a Python program, where one Richardson step from zero is x = f(b)."""
    _, ours = built
    case = [interpreter(), str(HERE / "petsc_program.py"), "-points", "24,20", "-ksp_type", "richardson"]
    found = solved([*case, "-ksp_max_it", "1", *ours, str(direction_2d)])
    assert found["error"][0] == pytest.approx(error_of_one_step(direction_2d), rel=1e-4)


def test_refusals_stop_with_one_sentence(
    built: tuple[str, list[str]], multigrid_2d: Path, direction_2d: Path, tmp_path: Path
) -> None:
    program, ours = built
    small = [program, "-da_grid_x", "64", "-da_grid_y", "64", "-ksp_type", "cg"]
    cases = {
        "No model is given": [*small, *ours[:-1]],
        "stalls; use -ksp_type fcg, fgmres or gcr": [*small, *ours, str(direction_2d)],
        "The matrix has the wrong sign": [*small, "-scale", "-1", *ours, str(multigrid_2d)],
        "was made for grids of 2 axes": [
            program,
            "-dim",
            "3",
            "-da_grid_z",
            "16",
            *small[1:],
            *ours,
            str(multigrid_2d),
        ],
        "nowhere": [*small, *ours, str(tmp_path / "nowhere.sciops")],
    }
    for sentence, command in cases.items():
        status, answer, errors = execute(command)
        assert status != 0 and not answer
        assert [line for line in errors.splitlines() if sentence in line and line.rstrip().endswith(".")], errors


def test_the_scale_of_the_matrix_changes_nothing(built: tuple[str, list[str]], multigrid_2d: Path) -> None:
    program, ours = built
    case = [program, "-da_grid_x", "48", "-da_grid_y", "40", "-ksp_type", "cg", *ours, str(multigrid_2d)]
    assert solved([*case, "-scale", "1e9"])["iterations"] == solved(case)["iterations"]


def test_native_goes_on_with_one_warning(built: tuple[str, list[str]], tmp_path: Path) -> None:
    program, ours = built
    case = [program, "-da_grid_x", "48", "-da_grid_y", "40", "-ksp_type", "cg"]
    bar = solved([*case, "-pc_type", "bjacobi"])
    found = solved([*case, *ours, str(tmp_path / "nowhere.sciops"), "-pc_sciops_on_failure", "native"])
    assert found["iterations"] == bar["iterations"] and found["stderr"].count("Warning:") == 1


def test_build_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"has no libsciops\.so; run `sciops build capi` first"):
        petsc_build.build(tmp_path, tmp_path)
    monkeypatch.setenv("MPICC", "no-such-compiler")
    with pytest.raises(UsageError, match="'no-such-compiler' is not installed"):
        petsc_build.compiler()

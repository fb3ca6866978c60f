"""The plugin inside OpenFOAM's own solvers: same fields as the native run, fewer iterations, grids as they are."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from openfoam_support import plugin_folder

from sciops.embed import openfoam_cases as openfoam

pytestmark = [
    pytest.mark.embed,
    pytest.mark.skipif(shutil.which("icoFoam") is None, reason="icoFoam is not installed (package openfoam)"),
    pytest.mark.skipif(openfoam.tutorials() is None, reason="no tutorials (package openfoam-examples)"),
]


@pytest.fixture(scope="module")
def plugin(library: Path) -> Path:
    return plugin_folder(library)


def apart(case: Path, other: Path, pressure: str = "p") -> float:
    """Largest difference of p and U, relative to their largest values."""
    pairs = [(openfoam.field(case, name), openfoam.field(other, name)) for name in (pressure, "U")]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


@pytest.fixture(scope="module")
def native_cavity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """20 x 20, 20 steps."""
    case = openfoam.cavity(tmp_path_factory.mktemp("native") / "case", 20, 20, openfoam.DIC)
    openfoam.mesh(case)
    return case, openfoam.run(case).iterations()


@pytest.mark.parametrize("outer", ["preconditioner", "flexible"])
def test_small_cavity_agrees_in_fewer_iterations(
    tmp_path: Path, plugin: Path, multigrid_2d: Path, native_cavity: tuple[Path, list[int]], outer: str
) -> None:
    case = openfoam.cavity(tmp_path, 20, 20, getattr(openfoam, outer)(multigrid_2d))
    openfoam.mesh(case)
    log = openfoam.run(case, plugin)
    assert log.code == 0, log.text[-2000:]
    assert log.grids == [("20x20", "addressing")]
    assert apart(case, native_cavity[0]) < 1e-9
    assert np.mean(log.iterations()) < 0.6 * np.mean(native_cavity[1])


@pytest.mark.parametrize("method", ["geometry", "topology"])
def test_every_way_to_find_the_grid_gives_the_same_solver(
    tmp_path: Path, plugin: Path, multigrid_2d: Path, native_cavity: tuple[Path, list[int]], method: str
) -> None:
    text = openfoam.preconditioner(multigrid_2d, f"grid {method};")
    case = openfoam.cavity(tmp_path, 20, 20, text)
    openfoam.mesh(case)
    log = openfoam.run(case, plugin)
    assert log.grids == [("20x20", method)]
    assert apart(case, native_cavity[0]) < 1e-9
    assert np.mean(log.iterations()) < 0.6 * np.mean(native_cavity[1])


def test_large_cavity_agrees_in_far_fewer_iterations(tmp_path: Path, plugin: Path, multigrid_2d: Path) -> None:
    native = openfoam.cavity(tmp_path / "native", 128, 3, openfoam.DIC)
    case = openfoam.cavity(tmp_path / "case", 128, 3, openfoam.preconditioner(multigrid_2d))
    for folder in (native, case):
        openfoam.mesh(folder)
    before, log = openfoam.run(native), openfoam.run(case, plugin)
    assert log.grids == [("128x128", "addressing")]
    assert apart(case, native) < 1e-9
    assert np.mean(log.iterations()) < 0.3 * np.mean(before.iterations())


@pytest.fixture(scope="module")
def broken_dam(tmp_path_factory: pytest.TempPathFactory, plugin: Path, multigrid_2d: Path) -> tuple[Path, openfoam.Run]:
    """Five steps with the plugin."""
    case = openfoam.dam_break(tmp_path_factory.mktemp("dam"), 5, openfoam.preconditioner(multigrid_2d))
    openfoam.mesh(case)
    return case, openfoam.run(case, plugin)


@pytest.mark.parametrize("renumber", [False, True], ids=["as-built", "renumbered"])
def test_dam_break_with_changing_density(
    tmp_path: Path, plugin: Path, multigrid_2d: Path, broken_dam: tuple[Path, openfoam.Run], renumber: bool
) -> None:
    native = openfoam.dam_break(tmp_path / "native", 5, openfoam.DIC)
    openfoam.mesh(native, renumber=renumber)
    before = openfoam.run(native)
    if renumber:
        case = openfoam.dam_break(tmp_path / "case", 5, openfoam.preconditioner(multigrid_2d))
        openfoam.mesh(case, renumber=True)
        log = openfoam.run(case, plugin)
    else:
        case, log = broken_dam
    assert log.code == 0, log.text[-2000:]
    assert log.grids == [("46x50", "geometry")]
    assert apart(case, native, "p_rgh") < 1e-8
    assert np.mean(log.iterations("p_rgh")) < 0.8 * np.mean(before.iterations("p_rgh"))


def test_a_stale_set_up_costs_iterations_not_accuracy(
    tmp_path: Path, plugin: Path, multigrid_2d: Path, broken_dam: tuple[Path, openfoam.Run]
) -> None:
    fresh, before = broken_dam
    stale = openfoam.dam_break(tmp_path, 5, openfoam.preconditioner(multigrid_2d, "reuse 0.3;"))
    openfoam.mesh(stale)
    log = openfoam.run(stale, plugin)
    assert apart(stale, fresh, "p_rgh") < 1e-8
    assert log.iterations("p_rgh") != before.iterations("p_rgh")
    assert np.mean(log.iterations("p_rgh")) < 2 * np.mean(before.iterations("p_rgh"))


def test_backward_facing_step_of_curvilinear_blocks(tmp_path: Path, plugin: Path, multigrid_2d: Path) -> None:
    native = openfoam.backward_step(tmp_path / "native", 3, openfoam.DIC)
    case = openfoam.backward_step(tmp_path / "case", 3, openfoam.flexible(multigrid_2d))
    for folder in (native, case):
        openfoam.mesh(folder)
    before, log = openfoam.run(native), openfoam.run(case, plugin)
    assert log.code == 0, log.text[-2000:]
    assert log.grids == [("223x57", "topology")]
    assert apart(case, native) < 1e-8
    assert np.mean(log.iterations()) < np.mean(before.iterations())


def test_renumbered_cavity_is_found(
    tmp_path: Path, plugin: Path, multigrid_2d: Path, native_cavity: tuple[Path, list[int]]
) -> None:
    case = openfoam.cavity(tmp_path, 20, 20, openfoam.preconditioner(multigrid_2d))
    openfoam.mesh(case, renumber=True)
    log = openfoam.run(case, plugin)
    assert log.grids == [("20x20", "geometry")]
    assert np.mean(log.iterations()) < 0.6 * np.mean(native_cavity[1])


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed (package openmpi-bin)")
@pytest.mark.parametrize("outer", ["preconditioner", "flexible"])
def test_two_ranks_agree(
    tmp_path: Path, plugin: Path, multigrid_2d: Path, native_cavity: tuple[Path, list[int]], outer: str
) -> None:
    case = openfoam.cavity(tmp_path, 20, 20, getattr(openfoam, outer)(multigrid_2d))
    openfoam.mesh(case, ranks=2)
    log = openfoam.run(case, plugin, ranks=2)
    assert log.code == 0, log.text[-2000:]
    assert log.grids == [("10x20", "addressing")] * 2
    assert apart(case, native_cavity[0]) < 1e-9
    assert np.mean(log.iterations()) < np.mean(native_cavity[1])


def test_nonlinear_directions_need_the_flexible_solver(
    tmp_path: Path, plugin: Path, direction_2d: Path, native_cavity: tuple[Path, list[int]]
) -> None:
    case = openfoam.cavity(tmp_path, 20, 20, openfoam.flexible(direction_2d))
    openfoam.mesh(case)
    log = openfoam.run(case, plugin)
    assert log.code == 0, log.text[-2000:]
    assert apart(case, native_cavity[0]) < 1e-9
    refused = openfoam.cavity(tmp_path / "refused", 20, 2, openfoam.preconditioner(direction_2d))
    openfoam.mesh(refused)
    log = openfoam.run(refused, plugin)
    assert log.code == 1
    assert "is nonlinear, which conjugate gradients cannot use; choose it with 'solver sciopsFCG'" in log.text


def test_three_dimensions(tmp_path: Path, plugin: Path, multigrid_3d: Path) -> None:
    native = openfoam.cavity(tmp_path / "native", 12, 5, openfoam.DIC, ndim=3)
    case = openfoam.cavity(tmp_path / "case", 12, 5, openfoam.preconditioner(multigrid_3d), ndim=3)
    for folder in (native, case):
        openfoam.mesh(folder)
    before, log = openfoam.run(native), openfoam.run(case, plugin)
    assert log.code == 0, log.text[-2000:]
    assert log.grids == [("12x12x12", "addressing")]
    assert apart(case, native) < 1e-9
    assert np.mean(log.iterations()) < np.mean(before.iterations())

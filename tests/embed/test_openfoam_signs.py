"""Matrices of either sign, of the wrong sign, and singular ones: laplacianFoam, ∂T/∂t − ∇·(D ∇T) = s on the square."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from openfoam_support import plugin_folder

from sciops.embed import openfoam_cases as openfoam

pytestmark = [
    pytest.mark.embed,
    pytest.mark.skipif(shutil.which("laplacianFoam") is None, reason="laplacianFoam is not installed (openfoam)"),
]
DIRICHLET = "fixedWalls { type fixedValue; value uniform 0; }"
NEUMANN = "fixedWalls { type zeroGradient; }"
SOURCE = """{name}
{{
    type scalarSemiImplicitSource; active yes; selectionMode cellSet; cellSet {name}; volumeMode specific;
    injectionRateSuSp {{ T ({rate} 0); }}
}}
"""


@pytest.fixture(scope="module")
def plugin(library: Path) -> Path:
    return plugin_folder(library)


def conduction(folder: Path, solver: str, walls: str, diffusivity: float, time: str, sources: bool = False) -> Path:
    """20 x 20 cells of 5 mm; the lid at T = 1. With `sources` the left half is heated and the right one cooled."""
    openfoam.cavity(folder, 20, 1, solver)
    lid = walls.replace("fixedWalls", "movingLid").replace("uniform 0", "uniform 1")
    openfoam.write(
        folder / "0/T",
        f"dimensions [0 0 0 1 0 0 0]; internalField uniform 0.5; "
        f"boundaryField {{ {walls} {lid} frontAndBack {{ type empty; }} }}",
        "volScalarField",
    )
    openfoam.write(folder / "constant/transportProperties", f"DT [0 2 -1 0 0 0 0] {diffusivity};")
    schemes = folder / "system/fvSchemes"
    schemes.write_text(
        schemes.read_text().replace("ddtSchemes { default Euler; }", f"ddtSchemes {{ default {time}; }}")
    )
    openfoam.write(
        folder / "system/fvSolution",
        f"solvers {{ T {{ {solver} tolerance 1e-11; relTol 0; }} }} SIMPLE {{ nNonOrthogonalCorrectors 0; }}",
    )
    control = folder / "system/controlDict"
    control.write_text(control.read_text().replace("icoFoam", "laplacianFoam"))
    openfoam.mesh(folder)
    if sources:
        rates = {"left": 1, "right": -1}
        text = "".join(SOURCE.format(name=name, rate=rate) for name, rate in rates.items())
        openfoam.write(folder / "constant/fvOptions", text)
        box = "{{ name {n}; type cellSet; action new; source boxToCell; box ({a} 0 0) ({b} 1 1); }}"
        sets = box.format(n="left", a=0, b=0.05) + box.format(n="right", a=0.05, b=1)
        openfoam.write(folder / "system/topoSetDict", f"actions ( {sets} );")
        openfoam.must(folder, "topoSet")
    return folder


def test_a_matrix_with_positive_diagonal(tmp_path: Path, plugin: Path, multigrid_2d: Path) -> None:
    native = conduction(tmp_path / "native", openfoam.DIC, DIRICHLET, 1.0, "steadyState")
    before = openfoam.run(native)
    for outer in (openfoam.preconditioner, openfoam.flexible):
        case = conduction(tmp_path / outer.__name__, outer(multigrid_2d), DIRICHLET, 1.0, "steadyState")
        log = openfoam.run(case, plugin)
        assert log.code == 0, log.text[-2000:]
        np.testing.assert_allclose(openfoam.field(case, "T"), openfoam.field(native, "T"), rtol=0, atol=1e-9)
        assert log.iterations("T")[0] < 0.7 * before.iterations("T")[0]


def test_couplings_of_the_wrong_sign_are_refused(tmp_path: Path, plugin: Path, multigrid_2d: Path) -> None:
    """A negative diffusivity under a short time step: positive diagonal, positive couplings, still definite."""
    reason = "a coupling of the matrix has the sign of its diagonal"
    native = conduction(tmp_path / "dic", openfoam.DIC, DIRICHLET, -1e-4, "Euler")
    case = conduction(
        tmp_path / "native", openfoam.flexible(multigrid_2d, "onFailure native;"), DIRICHLET, -1e-4, "Euler"
    )
    stop = conduction(tmp_path / "stop", openfoam.preconditioner(multigrid_2d), DIRICHLET, -1e-4, "Euler")
    before, log, end = openfoam.run(native), openfoam.run(case, plugin), openfoam.run(stop, plugin)
    assert log.code == 0 and log.text.count(reason) == 1
    assert log.iterations("T") == before.iterations("T")
    np.testing.assert_array_equal(openfoam.field(case, "T"), openfoam.field(native, "T"))
    assert end.code == 1 and end.text.count(reason) == 1


def test_a_closed_box_without_reference(tmp_path: Path, plugin: Path, multigrid_2d: Path) -> None:
    """All rows sum to zero: the solution is known up to a constant, which stays that of the start."""
    case = conduction(tmp_path / "case", openfoam.flexible(multigrid_2d), NEUMANN, 1.0, "steadyState", sources=True)
    native = conduction(tmp_path / "native", openfoam.DIC, NEUMANN, 1.0, "steadyState", sources=True)
    before, log = openfoam.run(native), openfoam.run(case, plugin)
    assert log.code == 0, log.text[-2000:]
    temperature, expected = openfoam.field(case, "T"), openfoam.field(native, "T")
    assert np.ptp(expected) > 1e-4
    np.testing.assert_allclose(temperature - 0.5, expected - expected.mean(), rtol=0, atol=1e-8 * np.ptp(expected))
    assert log.iterations("T")[0] < 0.7 * before.iterations("T")[0]

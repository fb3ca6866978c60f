"""Patches that join or close a mesh in other ways than walls: cyclic pairs, wedges around an axis."""

import functools
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from openfoam_support import plugin_folder

from sciops.embed import openfoam_cases as openfoam

pytestmark = [
    pytest.mark.embed,
    pytest.mark.skipif(shutil.which("icoFoam") is None, reason="icoFoam is not installed (package openfoam)"),
]
SIDE, ANGLE = 0.1, math.radians(2.5)
OUT, UP = SIDE * math.cos(ANGLE), SIDE * math.sin(ANGLE)
WEDGE = f"""vertices ( (0 0 0) (0.1 0 0) (0.1 {OUT} {-UP}) (0 {OUT} {-UP}) (0.1 {OUT} {UP}) (0 {OUT} {UP}) );
blocks ( hex (0 1 2 3 0 1 4 5) (20 20 1) simpleGrading (1 1 1) ); edges ();
boundary
(
    movingLid {{ type wall; faces ((3 2 4 5)); }} fixedWalls {{ type wall; faces ((1 2 4 1) (0 0 5 3)); }}
    front {{ type wedge; faces ((0 1 2 3)); }} back {{ type wedge; faces ((0 1 4 5)); }}
    axis {{ type empty; faces ((0 1 1 0)); }}
);"""


@pytest.fixture(scope="module")
def plugin(library: Path) -> Path:
    return plugin_folder(library)


def periodic(folder: Path, pressure: str) -> Path:
    """The cavity with its left and right walls joined, and a lid whose speed varies along it."""
    case = openfoam.cavity(folder, 20, 10, pressure)
    edit(
        case / "system/blockMeshDict",
        "fixedWalls { type wall; faces ((0 4 7 3) (2 6 5 1) (1 5 4 0)); }",
        "fixedWalls { type wall; faces ((1 5 4 0)); } left { type cyclic; neighbourPatch right; faces ((0 4 7 3)); } "
        "right { type cyclic; neighbourPatch left; faces ((2 6 5 1)); }",
    )
    for name in ("U", "p"):
        edit(case / "0" / name, "boundaryField {", "boundaryField { left { type cyclic; } right { type cyclic; }")
    speeds = " ".join(f"({math.sin(2 * math.pi * (i + 0.5) / 20)} 0 0)" for i in range(20))
    edit(case / "0/U", "value uniform (1 0 0)", f"value nonuniform List<vector> 20 ( {speeds} )")
    openfoam.mesh(case)
    return case


def wedge(folder: Path, pressure: str) -> Path:
    """A cylinder of 5 degrees with a moving mantle, 20 x 20 cells; those at the axis are prisms."""
    case = openfoam.cavity(folder, 20, 10, pressure)
    openfoam.write(case / "system/blockMeshDict", WEDGE)
    for name in ("U", "p"):
        sides = "front { type wedge; } back { type wedge; } axis { type empty; }"
        edit(case / "0" / name, "frontAndBack { type empty; }", sides)
    openfoam.mesh(case)
    return case


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


Case = Callable[[Path, str], Path]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], tuple[Path, list[int]]]:
    """The case as OpenFOAM solves it by itself, and its iterations."""

    @functools.cache
    def answer(make: Case) -> tuple[Path, list[int]]:
        case = make(tmp_path_factory.mktemp("native"), openfoam.DIC)
        return case, openfoam.run(case).iterations()

    return answer


@pytest.mark.parametrize("outer", ["preconditioner", "flexible"])
@pytest.mark.parametrize(("make", "fewer"), [(periodic, 0.9), (wedge, 0.6)], ids=["cyclic", "wedge"])
def test_same_fields_in_fewer_iterations(
    tmp_path: Path, plugin: Path, multigrid_2d: Path, native, make: Case, fewer: float, outer: str
) -> None:
    """The cycle knows nothing of the couplings across a cyclic pair: they cost iterations, not accuracy."""
    expected, before = native(make)
    case = make(tmp_path, getattr(openfoam, outer)(multigrid_2d))
    log = openfoam.run(case, plugin)
    assert log.code == 0, log.text[-2000:]
    assert log.grids == [("20x20", "addressing")]
    for name in ("p", "U"):
        a, b = openfoam.field(case, name), openfoam.field(expected, name)
        assert float(np.abs(a - b).max()) < 1e-8 * float(np.abs(b).max())
    assert np.mean(log.iterations()) < fewer * np.mean(before)

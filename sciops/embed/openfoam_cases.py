"""Small OpenFOAM cases: written or copied, run with any pressure solver, and read back.

The cavity is written here; the dam break and the backward-facing step are the tutorials of the installed OpenFOAM
(Debian: package openfoam-examples), found by `tutorials()` and copied, never changed in place.
"""

import gzip
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sciops.core.errors import UsageError

DIC = "solver PCG; preconditioner DIC;"
GAMG = "solver GAMG; smoother GaussSeidel;"
"""Rows to be compared: how the pressure is solved, without tolerances."""

HEADER = "FoamFile {{ version 2.0; format ascii; class {kind}; object {name}; }}\n"


def preconditioner(artefact: Path, more: str = "") -> str:
    """An entry for PCG with a trained multigrid cycle."""
    return f'solver PCG; preconditioner {{ preconditioner sciops; model "{artefact}"; {more} }}'


def flexible(artefact: Path, more: str = "") -> str:
    """An entry for flexible conjugate gradients with any artefact."""
    return f'solver sciopsFCG; model "{artefact}"; {more}'


def environment(folder: Path, plugin: Path | None = None) -> dict[str, str]:
    """Variables under which OpenFOAM's programs start in a folder, with the plugin's folder on the library path."""
    variables = dict(os.environ) | {"PWD": str(folder.resolve())}
    variables.setdefault("WM_PROJECT_DIR", "/usr/share/openfoam")
    if plugin is not None:
        paths = [str(plugin), variables.get("LD_LIBRARY_PATH", "")]
        variables["LD_LIBRARY_PATH"] = ":".join(path for path in paths if path)
    variables["OMPI_ALLOW_RUN_AS_ROOT"] = variables["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    return variables


def tutorials() -> Path | None:
    """The folder of OpenFOAM's tutorial cases, or None."""
    folders = [os.environ.get("FOAM_TUTORIALS", ""), "/usr/share/doc/openfoam-examples/examples"]
    return next((Path(folder) for folder in folders if folder and Path(folder).is_dir()), None)


def cavity(folder: Path, cells: int, steps: int, pressure: str, tolerance: float = 1e-10, ndim: int = 2) -> Path:
    """Lid-driven cavity, Re 10, `cells` to a side, Courant number 1/2: icoFoam, closed walls, reference cell 0.

    With ndim 3 it is a cube of cells³ whose front and back are walls.
    """
    depth, layers = (0.01, 1) if ndim == 2 else (0.1, cells)
    walls = "frontAndBack { type empty; faces ((0 3 2 1) (4 5 6 7)); }"
    if ndim == 3:
        walls = "frontAndBack { type wall; faces ((0 3 2 1) (4 5 6 7)); }"
    points = " ".join(f"({x} {y} {z})" for z in (0, depth) for x, y in ((0, 0), (0.1, 0), (0.1, 0.1), (0, 0.1)))
    write(
        folder / "system/blockMeshDict",
        f"vertices ( {points} ); blocks ( hex (0 1 2 3 4 5 6 7) ({cells} {cells} {layers}) simpleGrading (1 1 1) ); "
        "edges (); boundary ( movingLid { type wall; faces ((3 7 6 2)); } "
        f"fixedWalls {{ type wall; faces ((0 4 7 3) (2 6 5 1) (1 5 4 0)); }} {walls} );",
    )
    sides = "type noSlip;" if ndim == 3 else "type empty;"
    write(
        folder / "0/U",
        "dimensions [0 1 -1 0 0 0 0]; internalField uniform (0 0 0); boundaryField { fixedWalls { type noSlip; } "
        f"movingLid {{ type fixedValue; value uniform (1 0 0); }} frontAndBack {{ {sides} }} }}",
        "volVectorField",
    )
    sides = "type zeroGradient;" if ndim == 3 else "type empty;"
    write(
        folder / "0/p",
        "dimensions [0 2 -2 0 0 0 0]; internalField uniform 0; boundaryField { fixedWalls { type zeroGradient; } "
        f"movingLid {{ type zeroGradient; }} frontAndBack {{ {sides} }} }}",
        "volScalarField",
    )
    write(folder / "constant/transportProperties", "nu 0.01;")
    write(
        folder / "system/fvSchemes",
        "ddtSchemes { default Euler; } gradSchemes { default Gauss linear; } "
        "divSchemes { default none; div(phi,U) Gauss linear; } laplacianSchemes { default Gauss linear orthogonal; } "
        "interpolationSchemes { default linear; } snGradSchemes { default orthogonal; }",
    )
    write(
        folder / "system/fvSolution",
        f"solvers {{ p {{ {pressure} tolerance {tolerance}; relTol 0; }} pFinal {{ $p; }} "
        "U { solver smoothSolver; smoother symGaussSeidel; tolerance 1e-12; relTol 0; } } "
        "PISO { nCorrectors 2; nNonOrthogonalCorrectors 0; pRefCell 0; pRefValue 0; }",
    )
    _control(folder, "icoFoam", 0.5 * 0.1 / cells, steps)
    return folder


def dam_break(folder: Path, steps: int, pressure: str, tolerance: float = 1e-12) -> Path:
    """Two-phase dam break with an obstacle, five blocks on 46 x 50 places: interFoam, coefficients change each step."""
    _copy("multiphase/interFoam/laminar/damBreak/damBreak", folder)
    initial = folder / "0/alpha.water"
    if not initial.exists():
        shutil.copy(folder / "0/alpha.water.orig", initial)
    _replace_solver(folder, "p_rgh", f"{pressure} tolerance {tolerance}; relTol 0;")
    _control(folder, "interFoam", 1e-3, steps)
    return folder


def backward_step(folder: Path, steps: int, pressure: str, tolerance: float = 1e-11) -> Path:
    """Backward-facing step, curvilinear blocks on 223 x 57 places: simpleFoam, `steps` steady iterations."""
    _copy("incompressible/simpleFoam/pitzDaily", folder)
    _replace_solver(folder, "p", f"{pressure} tolerance {tolerance}; relTol 0;")
    _control(folder, "simpleFoam", 1, steps)
    return folder


@dataclass(frozen=True)
class Run:
    """What a run printed."""

    text: str
    code: int

    def iterations(self, field: str = "p") -> list[int]:
        """Iterations of every solve of the field."""
        found = re.findall(rf"Solving for {field}, .*No Iterations (\d+)", self.text)
        return [int(number) for number in found]

    @property
    def seconds(self) -> float:
        """OpenFOAM's ExecutionTime: CPU seconds at the end of the last step."""
        return self._clock()[-1]

    @property
    def steady_seconds(self) -> float:
        """The same without the first step."""
        return self._clock()[-1] - self._clock()[0]

    def _clock(self) -> list[float]:
        return [float(number) for number in re.findall(r"ExecutionTime = ([\d.]+) s", self.text)]

    @property
    def grids(self) -> list[tuple[str, str]]:
        """Grids that the plugin found, and how: ("46x50", "geometry")."""
        return re.findall(r"cells on a grid of (\S+) \((\w+)\)", self.text)


def mesh(folder: Path, renumber: bool = False, ranks: int = 1, split: str = "(2 1 1)") -> None:
    """blockMesh, then setFields where the case has it, renumberMesh and decomposePar where asked."""
    must(folder, "blockMesh")
    if (folder / "system/setFieldsDict").exists():
        must(folder, "setFields")
    if renumber:
        must(folder, "renumberMesh", "-overwrite")
    if ranks > 1:
        text = f"numberOfSubdomains {ranks}; method simple; coeffs {{ n {split}; }}"
        write(folder / "system/decomposeParDict", text)
        must(folder, "decomposePar", "-force")


def run(folder: Path, plugin: Path | None = None, ranks: int = 1, limit: float = 600) -> Run:
    """Run the case's application; `plugin` is the folder of libsciopsFoam.so."""
    application = re.search(r"application (\w+);", (folder / "system/controlDict").read_text())
    assert application
    command = [application[1]]
    if ranks > 1:
        command = ["mpirun", "--oversubscribe", "-np", str(ranks), application[1], "-parallel"]
    if plugin is not None:
        with (folder / "system/controlDict").open("a") as control:
            control.write('libs ("libsciopsFoam.so");\n')
    result = subprocess.run(
        command, cwd=folder, env=environment(folder, plugin), capture_output=True, text=True, timeout=limit
    )
    if ranks > 1 and result.returncode == 0:
        must(folder, "reconstructPar", "-latestTime")
    return Run(result.stdout + result.stderr, result.returncode)


def field(folder: Path, name: str) -> NDArray[np.float64]:
    """Internal values of a field at the last written time: (cells,) or (cells, 3)."""
    times = [path for path in folder.iterdir() if re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", path.name)]
    text = (max(times, key=lambda path: float(path.name)) / name).read_text()
    body = re.search(r"internalField\s+nonuniform List<(\w+)>\s*\d+\s*\((.*?)\)\s*;", text, re.S)
    if body is None:
        raise UsageError(f"The field {name} of {folder} is not a list of ASCII values: run the case first.")
    values = np.array(body[2].replace("(", " ").replace(")", " ").split(), dtype=np.float64)
    return values.reshape(-1, 3) if body[1] == "vector" else values


def _control(folder: Path, application: str, step: float, steps: int) -> None:
    write(
        folder / "system/controlDict",
        f"application {application}; startFrom startTime; startTime 0; stopAt endTime; endTime {step * steps:.12g}; "
        f"deltaT {step:.12g}; writeControl timeStep; writeInterval {steps}; writeFormat ascii; writePrecision 16; "
        "writeCompression off; timeFormat general; timePrecision 12; runTimeModifiable no; adjustTimeStep no; maxCo 1; "
        "maxAlphaCo 1; maxDeltaT 1;\n",
    )


def write(path: Path, text: str, kind: str = "dictionary") -> None:
    """A dictionary or field of a case, with its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER.format(kind=kind, name=path.name) + text + "\n")


def _copy(case: str, folder: Path) -> None:
    source = tutorials()
    if source is None or not (source / case).is_dir():
        raise UsageError(
            f"The tutorial case {case} is missing: install OpenFOAM's tutorials (Debian: openfoam-examples)."
        )
    for path in (source / case).rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(source / case)
            target.parent.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes()
            if target.suffix == ".gz":
                target, data = target.with_suffix(""), gzip.decompress(data)
            target.write_bytes(data)


def _replace_solver(folder: Path, name: str, text: str) -> None:
    path = folder / "system/fvSolution"
    body, count = re.subn(rf"(\n\s*{name}\s*\{{)[^}}]*\}}", lambda m: f"{m[1]} {text} }}", path.read_text(), count=1)
    if not count:
        raise UsageError(f"There is no solver of {name} in {path}.")
    path.write_text(body)


def must(folder: Path, *command: str) -> None:
    """Run one of OpenFOAM's utilities in the case."""
    result = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
    if result.returncode:
        raise UsageError(f"{command[0]} failed in {folder}: {(result.stdout + result.stderr)[-400:]}")

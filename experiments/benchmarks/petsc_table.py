"""An exported multigrid as a PETSc preconditioner beside PETSc's own: iterations and CPU seconds, whoever wins.

One row per system and preconditioner: iterations to a true residual of 1e-8, CPU seconds of the set-up (`KSPSetUp`) and
of the solve, their sum, all for flexible conjugate gradients and, in brackets, for FGMRES(30), but not with incomplete
factors, with which it stagnates. One right-hand side of white noise, one process, one thread, the least of `--repeats`
(of one where a solve takes more than 2 s). Systems: Poisson and `HighContrast` inclusions of 10⁶ on
256², 512² and 48³ cells, walls held at zero. Ours is set up anew for each; its model is loaded once, outside the clock.
hypre is left out where PETSc was built without it.

    source .ci/embed-petsc
    OMP_NUM_THREADS=1 python experiments/benchmarks/petsc_table.py MODEL2D.sciops MODEL3D.sciops

Runs under SCIOPS_PETSC_PYTHON where this Python has no petsc4py.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

if find_spec("petsc4py") is None:
    python = os.environ.get("SCIOPS_PETSC_PYTHON")
    if not python:
        raise SystemExit("This Python has no petsc4py and SCIOPS_PETSC_PYTHON names no other; source .ci/embed-petsc.")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH"))))
    os.execv(python, [python, *sys.argv])

import petsc4py
import scipy.sparse as sp

petsc4py.init([sys.argv[0]])
from petsc4py import PETSc  # noqa: E402

from sciops.core.grid import Grid  # noqa: E402
from sciops.embed.artifact import Artifact  # noqa: E402
from sciops.embed.petsc import PC  # noqa: E402
from sciops.problems.high_contrast import HighContrast  # noqa: E402

TOLERANCE, LIMIT = 1e-8, 2000
NATIVE = {"gamg": "gamg", "hypre BoomerAMG": "hypre", "icc": "icc", "ilu": "ilu"}


def poisson(shape: tuple[int, ...]) -> sp.csr_matrix:
    """−∇·∇ in cells of width one, walls half a cell away."""
    total = sp.csr_matrix((math.prod(shape), math.prod(shape)))
    for axis, n in enumerate(shape):
        line = sp.diags([-np.ones(n - 1), np.r_[3.0, np.full(n - 2, 2.0), 3.0], -np.ones(n - 1)], [-1, 0, 1])
        before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        total = total + sp.kron(sp.kron(sp.eye(before), line), sp.eye(after))
    return sp.csr_matrix(total)


def inclusions(shape: tuple[int, ...]) -> sp.csr_matrix:
    n = len(shape)
    problem = HighContrast(ndim=n, family="inclusions", contrast=1e6)
    grid = Grid(shape, (0.0,) * n, (1.0,) * n, ("cell",) * n)
    return sp.csr_matrix(problem.matrix(problem.sample([7], grid, dtype=torch.float64)).to_scipy())


def systems(names: list[str]) -> Iterator[tuple[str, tuple[int, ...], sp.csr_matrix]]:
    for name in names:
        n, _, power = name.partition("^")
        shape = (int(n),) * int(power or 2)
        yield f"Poisson {name}", shape, poisson(shape)
        yield f"inclusions ×1e6 {name}", shape, inclusions(shape)


def solve(A: Any, b: Any, method: str, name: str, ours: PC | None) -> tuple[int, float, float, float]:
    """Iterations, CPU seconds of set-up and solve, |b − A x| / |b|."""
    x = A.createVecRight()
    ksp = PETSc.KSP().create()
    ksp.setType(method)
    ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
    ksp.setTolerances(rtol=TOLERANCE, atol=0.0, max_it=LIMIT)
    pc = ksp.getPC()
    if ours is not None:
        pc.setType("python")
        pc.setPythonContext(ours)
    else:
        pc.setType(NATIVE[name])
    ksp.setOperators(A)
    start = time.process_time()
    ksp.setUp()
    ready = time.process_time()
    ksp.solve(b, x)
    end = time.process_time()
    r = b.duplicate()
    A.mult(x, r)
    r.aypx(-1.0, b)
    found = ksp.getIterationNumber(), ready - start, end - ready, r.norm() / b.norm()
    ksp.destroy()
    return found


def cell(A: Any, b: Any, method: str, name: str, ours: PC | None, repeats: int) -> tuple[str, str, str, str]:
    """Text of iterations, set-up, solve and sum."""
    if method == "fgmres" and name in ("icc", "ilu"):
        return ("–",) * 4
    try:
        runs = [solve(A, b, method, name, ours)]
        while len(runs) < repeats and runs[-1][2] < 2.0:
            runs.append(solve(A, b, method, name, ours))
    except PETSc.Error as error:
        return (f"failed ({error.ierr})", "–", "–", "–")
    count, *_, residual = runs[0]
    reached = residual <= 2 * TOLERANCE
    setup, took = min(run[1] for run in runs), min(run[2] for run in runs)
    return (str(count) if reached else f">{count}", f"{setup:.2f}", f"{took:.2f}", f"{setup + took:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artefacts", type=Path, nargs="+", help="multigrid artefacts, 2-D, 3-D or both")
    parser.add_argument("--sizes", nargs="+", default=["256", "512", "48^3"], metavar="N", help="256, 48^3, …")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = {Artifact.load(path).manifest.ndim: path for path in options.artefacts}
    own = dict.fromkeys(NATIVE, None)
    for name in list(own):
        pc = PETSc.PC().create()
        try:
            pc.setType(NATIVE[name])
        except PETSc.Error:
            del own[name]
            print(f"PETSc {'.'.join(map(str, PETSc.Sys.getVersion()))} was built without {name}.")
    print("| system | preconditioner | iterations | set-up, s | solve, s | sum, s |\n|---|---|---|---|---|---|")
    for title, shape, matrix in systems(options.sizes):
        matrix.sort_indices()
        indices = matrix.indptr.astype(PETSc.IntType), matrix.indices.astype(PETSc.IntType)
        A = PETSc.Mat().createAIJ(matrix.shape, csr=(*indices, matrix.data))
        b = A.createVecRight()
        b.setArray(np.random.default_rng(0).standard_normal(len(matrix.indptr) - 1))
        rows = ["sciops", *own] if len(shape) in models else list(own)
        for row in rows:
            ours = PC(model=str(models[len(shape)]), shape=shape[::-1]) if row == "sciops" else None
            if ours is not None:
                solve(A, b, "fcg", row, ours)  # loads the model
            fcg, fgmres = (cell(A, b, method, row, ours, options.repeats) for method in ("fcg", "fgmres"))
            texts = " | ".join(f"{one} ({other})" for one, other in zip(fcg, fgmres, strict=True))
            print(f"| {title} | {row} | {texts} |", flush=True)


if __name__ == "__main__":
    main()

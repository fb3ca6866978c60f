"""The classical bar: pressure on MAC grids by every classical solver, beside conjugate gradients on a CSR matrix.

Table per grid and scene: iterations and CPU seconds to 1e-4 | 1e-6 | 1e-8 (relative residual), set-up apart, and how
many times faster than conjugate gradients the whole is (set-up and solve to 1e-8). Scenes: "box" (p = 0 beyond every
wall) and "mixed" (closed walls, open top, a fifth of the cells solid balls, pockets without air removed). The
right-hand side is standard normal in the liquid. Set-up starts from face weights; for solvers of SciPy matrices it
includes the assembly. Single runs, one thread, CPU seconds. Solvers with a history are run once, and their times to
looser tolerances are shares of it; others are run per tolerance. Conjugate gradients on CSR are SciPy's, timed over
`--csr-steps` steps, since each costs the same; their number is that of the same recursion in compiled loops.

    OMP_NUM_THREADS=1 python experiments/benchmarks/classical_pressure.py --grids 512x512 64x64x64
"""

import argparse
import importlib.util
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sciops.core.face_operator import FaceOperator
from sciops.core.grid import Grid
from sciops.core.linear import LinearSolver, Status
from sciops.numerics.compiled.aggregation import AggregationMultigrid
from sciops.numerics.compiled.base import PlainCompiledCG
from sciops.numerics.compiled.incomplete import IncompleteCholesky
from sciops.numerics.transforms import dst, idst
from sciops.problems.pressure import Pressure
from sciops.solvers.amgcl_cg import Amgcl
from sciops.solvers.hypre_cg import Hypre
from sciops.solvers.pyamg_cg import Pyamg

TOLERANCES = (1e-4, 1e-6, 1e-8)
SCENES = {"box": "box", "mixed": "random_solids"}
SOLVERS: dict[str, Callable[[], LinearSolver]] = {
    "CG compiled": PlainCompiledCG,
    "IC(0)": IncompleteCholesky,
    "MIC(0)": lambda: IncompleteCholesky(0.97),
    "aggregation": AggregationMultigrid,
    "pyamg SA": lambda: Pyamg("smoothed_aggregation"),
    "pyamg RS": Pyamg,
}
if importlib.util.find_spec("pyamgcl"):
    SOLVERS |= {"AMGCL SA": Amgcl, "AMGCL RS": lambda: Amgcl("ruge_stuben")}
if importlib.util.find_spec("petsc4py"):
    SOLVERS["hypre"] = Hypre
Row = tuple[list[int], list[float], float]
"""Iterations and seconds per tolerance, set-up seconds."""


def system(space: tuple[int, ...], scene: str, seed: int) -> tuple[FaceOperator, Tensor]:
    problem = Pressure(ndim=len(space), scene=SCENES[scene], forcing="white")
    cases = problem.sample([seed], Grid.box(space, layout="cell"))
    return problem.matrix(cases), problem.right_hand_side(cases).double()


def measured(solver: LinearSolver, A: FaceOperator, b: Tensor) -> Row:
    """One solve with a history, or one per tolerance."""
    begun = time.process_time()
    state = solver.setup(A)
    set_up = time.process_time() - begun
    counts, seconds = [], []
    for tol in reversed(TOLERANCES):
        begun = time.process_time()
        answer = solver.solve(state, b, tol=tol, maxiter=100_000)
        spent = time.process_time() - begun
        if answer.status != [Status.OK]:
            raise RuntimeError(f"{type(solver).__name__} ended {answer.status[0].value} at {tol:g}.")
        history, total = answer.history[:, 0], int(answer.iterations[0])
        if len(history) > 1:
            counts = [int((history > goal).sum()) for goal in TOLERANCES]
            return counts, [spent * count / max(total, 1) for count in counts], set_up
        counts.insert(0, total)
        seconds.insert(0, spent)
    return counts, seconds, set_up


def csr(A: FaceOperator, b: Tensor, counts: list[int], steps: int) -> Row:
    """scipy.sparse.linalg.cg on the active cells, timed over some steps."""
    from scipy.sparse.linalg import cg

    rows = np.flatnonzero(A.active[0].numpy().ravel())
    matrix, rhs = A.to_scipy(0)[rows][:, rows].tocsr(), b[0].numpy().ravel()[rows]
    done: list[int] = []
    begun = time.process_time()
    cg(matrix, rhs, rtol=1e-30, atol=0.0, maxiter=min(steps, counts[-1]), callback=lambda _: done.append(1))
    each = (time.process_time() - begun) / len(done)
    return counts, [each * count for count in counts], 0.0


def transformed(A: FaceOperator, b: Tensor) -> Row:
    """The box by sine transforms: p = 0 one cell beyond the walls."""
    axes, largest = range(1, b.dim()), float(A.faces[0].max())
    begun = time.process_time()
    total: Tensor | float = 0.0
    for axis in axes:
        m = b.shape[axis]
        values = 2 - 2 * torch.cos(torch.pi * torch.arange(1, m + 1, dtype=b.dtype) / (m + 1))
        total = total + largest * values.reshape(*(-1 if a == axis else 1 for a in range(b.dim())))
    x = idst(dst(b, 1, tuple(axes)) / total, 1, tuple(axes))
    spent = time.process_time() - begun
    residual = float((b - A.matvec(x)).norm() / b.norm())
    if residual > 1e-10:
        raise RuntimeError(f"The sine transform left a residual of {residual:.1e}.")
    return [1] * 3, [spent] * 3, 0.0


def table(space: tuple[int, ...], scene: str, seed: int, steps: int, chosen: list[str]) -> Table:
    A, b = system(space, scene, seed)
    size = "×".join(map(str, space))
    shown = Table(title=f"{scene} {size}: {int(A.active.sum())} unknowns")
    for name in ("solver", "iterations", "solve [CPU s]", "set-up [CPU s]", "× faster than CG (CSR)"):
        shown.add_column(name, justify="left" if name == "solver" else "right")
    rows: dict[str, Row] = {}
    plain = measured(PlainCompiledCG(), A, b)
    rows["CG (CSR)"] = csr(A, b, plain[0], steps)
    for name in chosen:
        rows[name] = plain if name == "CG compiled" else measured(SOLVERS[name](), A, b)
    if scene == "box":
        rows["sine transform"] = transformed(A, b)
    base = rows["CG (CSR)"][1][-1]
    for name, (counts, seconds, set_up) in rows.items():
        ratio = base / (set_up + seconds[-1])
        spent = " | ".join(f"{s:.3g}" for s in seconds)
        shown.add_row(name, " | ".join(map(str, counts)), spent, f"{set_up:.3g}", f"{ratio:.1f}")
    return shown


def warm_up(chosen: list[str]) -> None:
    """Compile every kernel once; compilation is no part of a solve."""
    for space in ((16, 16), (8, 8, 8)):
        for scene in SCENES:
            A, b = system(space, scene, 0)
            for name in chosen:
                solver = SOLVERS[name]()
                solver.solve(solver.setup(A), b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grids", nargs="+", default=["256x256", "48x48x48"], help="cells per axis, like 512x512")
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), choices=SCENES)
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS), choices=SOLVERS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csr-steps", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warm_up(options.solvers)
    for grid in options.grids:
        space = tuple(int(m) for m in grid.split("x"))
        for scene in options.scenes:
            Console(width=140).print(table(space, scene, options.seed, options.csr_steps, options.solvers))


if __name__ == "__main__":
    main()

"""Every linear solver on every hard family: a new matrix for every solve, set-up counted, to a certified 1e-8.

CPU seconds (all threads together) of set-up and solve on the same system, one right-hand side of white noise. The
matrix is handed over in the form that each solver wants: sparse rivals get their CSR matrix for nothing. The last
lines give, for each of ours, the geometric mean over the problems of (best of the others / ours) in set-up + solve.
Results are kept in a JSON file after every cell, so that an interrupted run goes on.

    python experiments/benchmarks/linear_suite.py --sizes 512 128^3 --out runs/linear_suite.json
    python experiments/benchmarks/linear_suite.py --sizes 128 32^3 --out runs/linear_suite_small.json     # a minute
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, LinearSolver, Status
from sciops.core.problem import Problem
from sciops.core.solver import Solver
from sciops.problems.high_contrast import HighContrast
from sciops.problems.pressure import Pressure
from sciops.solvers.aggregation_cg import AggregationCG
from sciops.solvers.amgcl_cg import AmgclCG
from sciops.solvers.boxmg_cg import BoxmgCG
from sciops.solvers.hypre_cg import HypreCG
from sciops.solvers.incomplete_cg import IncompleteCG
from sciops.solvers.learned_multigrid import LearnedMultigrid
from sciops.solvers.plain_cg import PlainCG
from sciops.solvers.pyamg_cg import PyamgCG

FAMILIES: dict[str, Callable[[int], Problem]] = {
    "voxel solids": lambda ndim: Pressure(ndim=ndim, scene="random_solids"),
    "box": lambda ndim: Pressure(ndim=ndim, scene="box"),
    "lognormal σ=3": lambda ndim: HighContrast(ndim=ndim, family="lognormal", sigma=3.0),
    "inclusions ×1e-3": lambda ndim: HighContrast(ndim=ndim, family="inclusions", contrast=1e-3),
    "inclusions ×1e3": lambda ndim: HighContrast(ndim=ndim, family="inclusions", contrast=1e3),
    "inclusions ×1e6": lambda ndim: HighContrast(ndim=ndim, family="inclusions", contrast=1e6),
    "channels ×1e4": lambda ndim: HighContrast(ndim=ndim, family="channels", contrast=1e4),
    "anisotropy 1e-2": lambda ndim: HighContrast(ndim=ndim, family="anisotropy", contrast=1e-2),
}
CONSTANT = ("box",)
"""Constant coefficients: shown, and compared with aggregation alone, not part of the geometric mean."""
OURS = ("BoxMG", "BoxMG, no trial", "learned multigrid")
SOLVERS: dict[str, Callable[[], Solver]] = {
    "BoxMG": BoxmgCG,
    "BoxMG, no trial": lambda: BoxmgCG("box"),
    "aggregation": AggregationCG,
    "AMGCL RS": lambda: AmgclCG("ruge_stuben"),
    "AMGCL SA": lambda: AmgclCG("smoothed_aggregation"),
    "pyamg RS": lambda: PyamgCG("ruge_stuben"),
    "pyamg SA": lambda: PyamgCG("smoothed_aggregation"),
    "hypre": HypreCG,
    "MIC(0)": lambda: IncompleteCG(modified=0.97),
    "CG": PlainCG,
}


def linear(solver: Solver) -> LinearSolver:
    found = solver.linear  # type: ignore[attr-defined]
    assert isinstance(found, LinearSolver)
    return found


def measure(solver: LinearSolver, A: LinearOperator, b: torch.Tensor, maxiter: int) -> dict[str, object]:
    begun = time.process_time()
    state = solver.setup(A)
    set_up = time.process_time()
    answer = solver.solve(state, b, tol=1e-8, maxiter=maxiter)
    done = time.process_time()
    true = (A.project(b) - A.matvec(answer.x)).norm() / A.project(b).norm()
    return {
        "iterations": int(answer.iterations[0]),
        "applications": int(answer.applications),
        "setup": set_up - begun,
        "solve": done - set_up,
        "residual": float(true),
        "ok": answer.status[0] is Status.OK and float(true) < 1e-7,
        "status": answer.status[0].value,
    }


def grid_of(size: str) -> Grid:
    n, _, power = size.partition("^")
    return Grid.box(int(n), ndim=int(power or 2), layout="cell")


def warm(names: list[str], families: list[str]) -> None:
    """Compile every kernel once, on systems so small that nothing else is timed away."""
    for ndim, n in ((2, 32), (3, 12)):
        for family in families:
            A, b = system(family, Grid.box(n, ndim=ndim, layout="cell"))
            for name in names:
                try:
                    measure(linear(SOLVERS[name]()), A, b, 50)
                except Exception as error:
                    print(f"{name} on {family}, {ndim}-D: {error}")


def system(family: str, grid: Grid) -> tuple[LinearOperator, torch.Tensor]:
    problem = FAMILIES[family](grid.ndim)
    cases = problem.sample([1], grid)
    A = problem.matrix(cases)
    noise = torch.randn((1, *A.space), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b = A.project(torch.where(A.diagonal() > 0, noise, 0.0))
    matrix = A.to_scipy(0)
    A.to_scipy = lambda i=0: matrix  # type: ignore[method-assign]
    return A, b


def table(found: dict[str, dict[str, object]], sizes: list[str], names: list[str], families: list[str]) -> None:
    console = Console(width=220)
    for size in sizes:
        shown = Table(title=f"{size}: iterations (products) / CPU s of solve [set-up]; — did not reach 1e-8")
        for column in ("family", *names):
            shown.add_column(column)
        for family in families:
            cells = []
            for name in names:
                cell = found.get(f"{size}|{family}|{name}")
                if cell is None:
                    cells.append("")
                elif not cell["ok"]:
                    cells.append(f"— ({cell['status']})")
                else:
                    cells.append(f"{_iterations(cell)} / {cell['solve']:.3f} [{cell['setup']:.3f}]")
            shown.add_row(family, *cells)
        console.print(shown)
    for ours in (name for name in OURS if name in names):
        ratios = []
        for size in sizes:
            for family in families:
                if family not in CONSTANT and (r := ratio(found, size, family, ours, names)) is not None:
                    ratios.append(r)
                    console.print(f"{ours}: best of the others / ours = {r:.2f} on {family}, {size}")
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            console.print(f"{ours}: geometric mean over {len(ratios)} problems {mean:.2f}, worst {min(ratios):.2f}")
        for size in sizes:
            own, other = (found.get(f"{size}|box|{name}") for name in (ours, "aggregation"))
            if own and other:
                console.print(f"{ours}, constant coefficients, {size}: {_total(own) / _total(other):.2f} × aggregation")


def ratio(found: dict, size: str, family: str, ours: str, names: list[str]) -> float | None:
    own = found.get(f"{size}|{family}|{ours}")
    others = [found.get(f"{size}|{family}|{name}") for name in names if name not in OURS]
    times = [_total(cell) for cell in others if cell and cell["ok"]]
    return min(times) / _total(own) if own and own["ok"] and times else None


def _iterations(cell: dict) -> str:
    """With all products with A in brackets where steps took more than one cycle, and so more than one product."""
    products = cell.get("applications", 0)
    return f"{cell['iterations']} ({products})" if products > cell["iterations"] + 4 else str(cell["iterations"])


def _total(cell: dict) -> float:
    return cell["setup"] + cell["solve"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["512", "128^3"])
    parser.add_argument("--solvers", nargs="+", choices=[*SOLVERS, "learned multigrid"])
    parser.add_argument("--weights", help="checkpoint of a learned multigrid of the dimension of all sizes")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--maxiter", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=1, help="the least time of so many runs")
    parser.add_argument("--out", type=Path, default=Path("runs/linear_suite.json"))
    arguments = parser.parse_args()
    if arguments.weights:
        SOLVERS["learned multigrid"] = lambda: LearnedMultigrid.from_checkpoint(arguments.weights)
    arguments.solvers = arguments.solvers or list(SOLVERS)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    missing = [
        (size, family)
        for size in arguments.sizes
        for family in arguments.families
        if any(f"{size}|{family}|{name}" not in found for name in arguments.solvers)
    ]
    if missing:
        warm(arguments.solvers, arguments.families)
    for size, family in missing:
        A, b = system(family, grid_of(size))
        for name in arguments.solvers:
            key = f"{size}|{family}|{name}"
            if key in found:
                continue
            try:
                runs = [measure(linear(SOLVERS[name]()), A, b, arguments.maxiter) for _ in range(arguments.repeats)]
                found[key] = min(runs, key=_total)
            except Exception as error:  # a rival that cannot run is a cell that says so
                found[key] = {"ok": False, "status": f"{type(error).__name__}: {error}"[:80]}
            print(key, found[key], flush=True)
            arguments.out.write_text(json.dumps(found, indent=1))
    table(found, arguments.sizes, arguments.solvers, arguments.families)


if __name__ == "__main__":
    main()

"""Four million unknowns: peak resident memory and CPU time of matrix-free solvers, each in a process of its own.

Scene: closed walls, open top, 20 % random solids, white-noise right-hand side, tolerance 1e-8. The peak is that of the
whole process, interpreter, libraries, geometry and matrix included.

    python experiments/benchmarks/linear_memory.py
"""

import argparse
import resource
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

SIZES = {"2048^2": (2, 2048), "160^3": (3, 160)}
SOLVERS = {
    "aggregation": "sciops.solvers.aggregation_cg.AggregationCG",
    "BoxMG": "sciops.solvers.boxmg_cg.BoxmgCG",
    "MIC(0)": "sciops.solvers.incomplete_cg.IncompleteCG",
}


def one(size: str, solver: str, family: str) -> None:
    """Solve one system and print its facts: the body of a child process."""
    from sciops.core.config import build
    from sciops.core.grid import Grid
    from sciops.core.problem import Problem
    from sciops.core.solver import Solver
    from sciops.problems.high_contrast import HighContrast
    from sciops.problems.pressure import Pressure

    ndim, n = SIZES[size]
    problem: Problem = Pressure(ndim=ndim) if family == "solids" else HighContrast(ndim=ndim, family="inclusions")
    grid = Grid.box(n, ndim=ndim, layout="cell")
    cases = problem.sample([1], grid)
    A, b = problem.system(cases)
    del cases
    arguments = {"modified": 0.97} if solver.startswith("MIC") else {}
    linear = build({"class_path": SOLVERS[solver], "init_args": arguments}, Solver).linear  # type: ignore
    begun = time.process_time()
    state = linear.setup(A)
    middle = time.process_time()
    answer = linear.solve(state, b, tol=1e-8, maxiter=2000)
    end = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows = int((A.diagonal() > 0).sum())
    print(
        f"{rows:,}|{int(answer.iterations[0])}|{middle - begun:.2f}|{end - middle:.2f}|"
        f"{float(answer.residual[0]):.1e}|{answer.status[0].value}|{peak:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS), choices=list(SOLVERS))
    parser.add_argument("--families", nargs="+", default=["solids", "inclusions"], choices=["solids", "inclusions"])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one)
        return
    shown = Table(title="CPU seconds include the loading of compiled kernels")
    for column in (
        "grid",
        "family",
        "solver",
        "unknowns",
        "iterations",
        "set-up s",
        "solve s",
        "residual",
        "status",
        "peak GiB",
    ):
        shown.add_column(column)
    for size in arguments.sizes:
        for family in arguments.families:
            for solver in arguments.solvers:
                if family == "inclusions" and solver != "BoxMG":
                    continue  # thousands of steps for the others
                child = [sys.executable, __file__, "--one", size, solver, family]
                done = subprocess.run(child, capture_output=True, text=True, check=False)
                facts = done.stdout.strip().split("|") if done.returncode == 0 else [done.stderr.strip()[-80:]]
                shown.add_row(size, family, solver, *facts)
    Console(width=160).print(shown)


if __name__ == "__main__":
    main()

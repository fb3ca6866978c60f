"""A thousand random systems of all families and odd sizes: does every solve end with a certified residual?

Every system has its own seed, family, size (odd and even, 2-D and 3-D) and right-hand side. Printed per family: solves,
failures (status other than ok, or a true residual above ten times the tolerance), and the distribution of iterations.

    python experiments/benchmarks/linear_failures.py --count 1000
"""

import argparse
from collections import defaultdict

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sciops.core.config import build
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.core.solver import Solver
from sciops.problems.high_contrast import HighContrast
from sciops.problems.pressure import Pressure

FAMILIES = (
    ("solids", lambda d: Pressure(ndim=d)),
    ("cut cells", lambda d: Pressure(ndim=d, fractional=True)),
    ("free surface", lambda d: Pressure(ndim=d, scene="free_surface", ghost_fluid=True)),
    ("plume", lambda d: Pressure(ndim=d, scene="plume")),
    ("moving solids, ρ 1:1000", lambda d: Pressure(ndim=d, scene="moving_solids", contrast=1e3)),
    ("lognormal σ=3", lambda d: HighContrast(ndim=d, family="lognormal")),
    ("white lognormal σ=2", lambda d: HighContrast(ndim=d, family="white_lognormal")),
    ("inclusions ×1e-3", lambda d: HighContrast(ndim=d, family="inclusions", contrast=1e-3)),
    ("inclusions ×1e6", lambda d: HighContrast(ndim=d, family="inclusions", contrast=1e6)),
    ("channels ×1e4", lambda d: HighContrast(ndim=d, family="channels")),
    ("anisotropy 1e-2", lambda d: HighContrast(ndim=d, family="anisotropy")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--solver", default="sciops.solvers.boxmg_cg.BoxmgCG", help="class path of a Discrete solver")
    parser.add_argument("--tol", type=float, default=1e-8)
    arguments = parser.parse_args()
    solver = build({"class_path": arguments.solver}, Solver)  # type: ignore[type-abstract]
    linear = solver.linear  # type: ignore[attr-defined]
    counts: dict[str, list[int]] = defaultdict(list)
    failures: dict[str, list[str]] = defaultdict(list)
    draw = torch.Generator().manual_seed(0)
    for seed in track(range(arguments.count), "systems"):
        name, make = FAMILIES[seed % len(FAMILIES)]
        ndim = 3 if float(torch.rand((), generator=draw)) < 0.4 else 2
        low, high = (17, 97) if ndim == 2 else (9, 29)
        shape = torch.randint(low, high, (ndim,), generator=draw).tolist()
        problem: Problem = make(ndim)
        cases = problem.sample([seed], Grid.box(shape, layout="cell"))
        A, b = problem.system(cases)
        answer = linear.solve(linear.setup(A), b, tol=arguments.tol, maxiter=200)
        b = A.project(torch.where(A.diagonal() > 0, b, 0.0))
        true = float((b - A.matvec(answer.x)).norm() / b.norm()) if float(b.norm()) > 0 else 0.0
        counts[name].append(int(answer.iterations[0]))
        if answer.status[0] is not Status.OK or not true <= 10 * arguments.tol:
            failures[name].append(f"seed {seed} {'×'.join(map(str, shape))} {answer.status[0].value} {true:.1e}")
    shown = Table(title=f"{arguments.count} random systems to {arguments.tol:g}")
    for column in ("family", "solves", "failures", "median iterations", "most"):
        shown.add_column(column)
    for name, found in counts.items():
        shown.add_row(
            name, str(len(found)), str(len(failures[name])), str(sorted(found)[len(found) // 2]), str(max(found))
        )
    console = Console(width=140)
    console.print(shown)
    console.print(f"{sum(map(len, failures.values()))} failures in {arguments.count} systems")
    for name, lines in failures.items():
        if lines:
            console.print(f"{name}: " + "; ".join(lines[:5]))


if __name__ == "__main__":
    main()

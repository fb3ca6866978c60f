"""Multigrid against its promises: convergence factors by coefficient law and size, and time against sparse direct.

Table 1: residual contraction of one V(2,2)-cycle (geometric mean of the last four of 20 cycles), median and worst of
many draws of the coefficient, the worst of the bare cycle without its correction of slow modes, and the steps of
conjugate gradients to 1e-8, which use the bare cycle.
Table 2: CPU time per case of multigrid-preconditioned conjugate gradients (set-up and solve, to 1e-8) beside
scipy.sparse.linalg.spsolve and SuperLU with symmetric ordering, run alternately on the same systems, single thread.
"with assembly" adds the assembly of the stencil, and for the direct methods its conversion to a sparse matrix.

    python experiments/benchmarks/multigrid_contraction.py --points 33 65 129 257 --draws 16
"""

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.grid import Grid
from sciops.core.problem import Problem
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.krylov import ConjugateGradients
from sciops.numerics.multigrid import Multigrid
from sciops.problems.darcy import Darcy
from sciops.problems.poisson import Poisson
from sciops.solvers.sparse_direct import SuperLU

Result = TypeVar("Result")
FAMILIES: dict[str, Problem] = {
    "Poisson": Poisson(),
    "smooth 3/12": Darcy(),
    "rough 2/12": Darcy(low=2.0, high=12.0, tau=5.0),
    "trigonometric": Darcy(law="trigonometric"),
    **{
        f"two-phase 1/{contrast:.0e} τ={tau:.0f}".replace("e+0", "e"): Darcy(low=1.0, high=contrast, tau=tau)
        for contrast in (1e2, 1e3, 1e4)
        for tau in (3.0, 5.0)
    },
}
AT_ONCE = 1_000_000
"""Unknowns of a batch: bounds the memory of the search for slow modes."""


def contraction(A: StencilOperator, cycle: Callable[[Tensor], Tensor], cycles: int = 20) -> Tensor:
    """Asymptotic factor of ‖A e‖ under e ← e − B A e, of each case."""
    e = torch.randn((A.n, *A.space), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sizes = []
    for _ in range(cycles + 1):
        r = A.matvec(e)
        sizes.append(r.flatten(1).norm(dim=1))
        e = e - cycle(r)
    return (sizes[-1] / sizes[-5]) ** 0.25


def convergence_table(points: list[int], draws: int) -> Table:
    table = Table(title=f"V(2,2) contraction per cycle over {draws} draws")
    for column in ("law", "grid", "median", "worst (seed)", "bare cycle, worst", "steps of conjugate gradients"):
        table.add_column(column, justify="left" if column in ("law", "grid") else "right")
    for name, problem in FAMILIES.items():
        for n in points:
            seeds = list(range(1 if name == "Poisson" else draws))
            size = max(1, AT_ONCE // n**2)
            parts = [convergence(problem, seeds[i : i + size], n) for i in range(0, len(seeds), size)]
            full, bare, steps = (torch.cat(column) for column in zip(*parts, strict=True))
            table.add_row(
                name,
                f"{n}²",
                f"{float(full.median()):.3f}",
                f"{float(full.max()):.3f} ({seeds[int(full.argmax())]})",
                f"{float(bare.max()):.3f}",
                f"{int(steps.min())}–{int(steps.max())}",
            )
        table.add_section()
    return table


def convergence(problem: Problem, seeds: list[int], n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Per case: contraction, contraction without the correction of slow modes, steps of conjugate gradients."""
    A, b = problem.system(problem.sample(seeds, Grid.box(n, ndim=2)))
    assert isinstance(A, StencilOperator)
    full, bare = (contraction(A, Multigrid(modes=modes).setup(A)) for modes in (Multigrid.modes, 0))
    solver = ConjugateGradients(Multigrid())
    return full, bare, solver.solve(solver.setup(A), b, tol=1e-8).iterations


def timed(work: Callable[..., Result], *arguments: object) -> tuple[float, Result]:
    begun = time.process_time()
    result = work(*arguments)
    return time.process_time() - begun, result


def timing_table(points: list[int], cases: int, repeats: int) -> Table:
    table = Table(title=f"CPU milliseconds per case, {cases} cases, rough 2/12, best of {repeats} alternating runs")
    for column in ("grid", "method", "set-up", "solve", "total", "vs spsolve", "with assembly", "vs spsolve"):
        table.add_column(column, justify="left" if column in ("grid", "method") else "right")
    for n in points:
        problem = FAMILIES["rough 2/12"]
        sampled = problem.sample(list(range(cases)), Grid.box(n, ndim=2))
        best = timings(problem, sampled, repeats)
        assembly, matrix = best.pop("assembly")[0], best.pop("matrix")[0]
        base = sum(best["spsolve"])
        for method, (setup, solve) in best.items():
            direct = method in ("spsolve", "SuperLU symmetric")
            extra = assembly + (matrix if direct else 0.0)
            total = setup + solve
            table.add_row(
                f"{n}²",
                method,
                *(f"{1e3 * value:.2f}" for value in (setup, solve, total)),
                f"{base / total:.1f}×",
                f"{1e3 * (total + extra):.2f}",
                f"{(base + assembly + matrix) / (total + extra):.1f}×",
            )
        table.add_section()
    return table


def timings(problem: Problem, sampled: Cases, repeats: int) -> dict[str, tuple[float, float]]:
    """Best (set-up, solve) seconds per case of every method; direct methods are run on the first two cases."""
    from scipy.sparse.linalg import spsolve

    A, b = problem.system(sampled)
    assert isinstance(A, StencilOperator)
    few = A.select(torch.arange(2))
    iterative = {
        "multigrid CG V(2,2) single": ConjugateGradients(Multigrid(precision=torch.float32)),
        "multigrid CG V(2,2) double": ConjugateGradients(Multigrid()),
        "multigrid CG V(1,1) double": ConjugateGradients(Multigrid(1, 1)),
    }
    runs: dict[str, list[tuple[float, float]]] = {}

    def note(name: str, setup: float, solve: float, cases: int) -> None:
        runs.setdefault(name, []).append((setup / cases, solve / cases))

    for _ in range(repeats):
        note("assembly", timed(problem.system, sampled)[0], 0.0, A.n)
        for i in range(2):
            convert, matrix = timed(lambda case: few.to_scipy(case).tocsc(), i)
            note("matrix", convert, 0.0, 1)
            note("spsolve", 0.0, timed(spsolve, matrix, b[i].flatten().numpy())[0], 1)
            factorise, state = timed(SuperLU().setup, A.select(torch.tensor([i])))
            note("SuperLU symmetric", max(factorise - convert, 0.0), timed(SuperLU().solve, state, b[i : i + 1])[0], 1)
        for name, solver in iterative.items():
            setup, groups = timed(solver.setup, A)
            note(name, setup, timed(solver.solve, groups, b)[0], A.n)
    return {name: min(pairs, key=sum) for name, pairs in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, nargs="+", default=[33, 65, 129, 257, 513])
    parser.add_argument("--timing-points", type=int, nargs="*", default=[129, 257])
    parser.add_argument("--draws", type=int, default=16, help="draws per law and grid of the first table")
    parser.add_argument("--cases", type=int, default=16, help="cases of the second table")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=140)
    console.print(convergence_table(options.points, options.draws))
    if options.timing_points:
        console.print(timing_table(options.timing_points, options.cases, options.repeats))


if __name__ == "__main__":
    main()

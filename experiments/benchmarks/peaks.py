"""The peak problems by physics-informed networks: relative L² errors over seeds at equal CPU time.

    python experiments/benchmarks/peaks.py --problems one,two,nine --seeds 0 1 2 3 4 --budget 180 [--rows default,adam]

Every row is one configuration of PINN for all problems. Errors are relative L² errors on a uniform grid of 257² nodes
that no solver saw (the zero function has error 1), as median [quartiles] over the seeds; `est/err` is the median ratio
of the solver's own error estimate to the error, `MSE` the median mean square error on the same grid. CPU-seconds of one
thread (process time), the estimate included. Rows: default; uniform (points that ignore the residual), no-weak (no rows
of low modes), one-net (one network of the box with first weights at the source), glorot (the same with plain weights),
adam (Adam at 1e-3, one network, uniform points redrawn).
`smooth` is −Δu = 2π² sin πx sin πy on [−1, 1]².
"""

import argparse
import statistics
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from sciops.core.grid import Grid
from sciops.core.problem import Problem
from sciops.core.solver import Budget
from sciops.problems.peaks import NinePeaks, OnePeak, TwoPeaks
from sciops.problems.poisson import Poisson
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn import PINN

SAMPLERS = "sciops.solvers.samplers.uniform."
ROWS: dict[str, dict[str, Any]] = {
    "default": {},
    "uniform": {"sampler": SAMPLERS + "Uniform"},
    "no-weak": {"weak_modes": 0},
    "one-net": {"local": False},
    "glorot": {"initialisation": "network"},
    "adam": {
        "initialisation": "network",
        "optimiser": {"name": "adam", "lr": 1e-3},
        "weak_modes": 0,
        "sampler": SAMPLERS + "UniformResample",
        "max_steps": 10**6,
    },
}


def problem_of(name: str) -> Problem:
    made: dict[str, Any] = {"one": OnePeak, "two": TwoPeaks, "nine": NinePeaks}
    if name == "smooth":
        return Poisson(ndim=2, exact_solution="sin(pi*x)*sin(pi*y)")
    return made[name]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default="one,two")
    parser.add_argument("--rows", default="default,adam")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--budget", type=float, default=180.0, help="CPU-seconds of one solve")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title=f"peaks: {arguments.budget:g} CPU-s, seeds {arguments.seeds}")
    for column in ("problem", "row", "relative L² error", "MSE", "est/err", "CPU s", "steps", "P", "status"):
        table.add_column(column)
    for name in arguments.problems.split(","):
        problem = problem_of(name)
        grid = Grid.box(257, -1.0, 1.0, ndim=2)
        x = grid.points(torch.float64)
        equation = Equation(problem.sample([0], Grid.box(33, -1.0, 1.0, ndim=2)))
        exact = problem.exact(equation.case, x[None])
        assert exact is not None
        truth = exact[0, 0].detach()
        for row in arguments.rows.split(","):
            runs = [solve(equation, row, seed, arguments.budget, x, truth) for seed in arguments.seeds]
            errors = [run["error"] for run in runs]
            table.add_row(
                name,
                row,
                spread(errors),
                f"{statistics.median(errors) ** 2 * float(truth.square().mean()):.1e}",
                f"{statistics.median(run['ratio'] for run in runs):.2f}",
                f"{statistics.median(run['seconds'] for run in runs):.0f}",
                str(statistics.median(run["steps"] for run in runs)),
                str(runs[0]["parameters"]),
                ", ".join(sorted({run["status"] for run in runs})),
            )
    Console(width=140).print(table)


def solve(
    equation: Equation, row: str, seed: int, budget: float, x: torch.Tensor, truth: torch.Tensor
) -> dict[str, Any]:
    solver = PINN(**{"clock": "cpu", "seed": seed, "max_steps": 10**5} | ROWS[row])
    begun = time.process_time()
    answer = solver.solve_case(equation, Budget(seconds=budget))
    seconds = time.process_time() - begun
    u = torch.cat([answer.u(part) for part in x.split(8192)])
    error = float((u - truth).norm() / truth.norm())
    estimate = answer.error_estimate if answer.error_estimate is not None else float("nan")
    print(
        f"{type(equation.problem).__name__} {row} seed {seed}: error {error:.2e}, estimate {estimate:.2e}, "
        f"{seconds:.1f} CPU-s, {answer.iterations} steps, {answer.points} points, {answer.status.value}",
        flush=True,
    )
    return {
        "error": error,
        "ratio": estimate / error,
        "seconds": seconds,
        "steps": answer.iterations,
        "parameters": answer.stats["parameters"],
        "status": answer.status.value,
    }


def spread(errors: list[float]) -> str:
    if len(errors) == 1:
        return f"{errors[0]:.1e}"
    low, middle, high = statistics.quantiles(errors, n=4, method="inclusive")
    return f"{middle:.1e} [{low:.1e}, {high:.1e}]"


if __name__ == "__main__":
    main()

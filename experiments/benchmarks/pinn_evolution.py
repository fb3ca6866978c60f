"""Physics-informed networks in space and time: Burgers (ν = 0.01/π), Allen–Cahn, KdV and convection (β = 30).

    OMP_NUM_THREADS=1 python experiments/benchmarks/pinn_evolution.py [--only burgers,kdv] [--seeds 5] [--seconds 300]

One solver, `PINN`, tanh network in float64, initial values (and for Burgers the boundary) exact by construction,
periodic axes embedded: damped Gauss–Newton with points at large residuals, and beside it Adam with uniform points and
the same CPU seconds. Relative L² error on a 257 × 101 grid of (x, t) against the exact solution (Burgers: Cole and
Hopf; convection: closed form; others: the spectral reference): median and quartiles over the seeds, CPU seconds.
Evaluations for the table are not on the clock.
"""

from statistics import median, quantiles
from typing import Any

import torch
from pinn_runs import chosen, options_of, train
from rich.console import Console
from rich.table import Table

from sciops.core.grid import Grid
from sciops.core.problem import Problem
from sciops.models.trial import Trial
from sciops.problems.allen_cahn_evolution import AllenCahnEvolution
from sciops.problems.burgers import Burgers
from sciops.problems.convection import Convection
from sciops.problems.kdv import KdV

PROBLEMS: dict[str, Problem] = {
    "burgers": Burgers(),
    "allen_cahn": AllenCahnEvolution(),
    "kdv": KdV(),
    "convection": Convection(),
}
GAUSS_NEWTON = {"name": "gauss_newton", "bold": 0.0, "decrease": 3.0, "increase": 2.0}
METHODS: dict[str, dict[str, Any]] = {
    "Gauss–Newton, adaptive": {"width": 20, "depth": 3, "optimiser": GAUSS_NEWTON, "every": 10},
    "Adam, uniform": {
        "width": 20,
        "depth": 3,
        "optimiser": "adam",
        "sampler": "sciops.solvers.samplers.uniform.Uniform",
        "initialisation": "network",
    },
}


def grid_of(problem: Problem, nx: int = 257, nt: int = 101) -> Grid:
    layout = ["periodic" if "periodic" in pair else "node" for pair in problem.boundary.kinds]
    low, high = (0.0, 2 * torch.pi) if isinstance(problem, Convection) else (-1.0, 1.0)
    return Grid.box([nx - (layout[0] == "periodic"), nt], [low, 0.0], [high, 1.0], layout=layout)


def run(
    problem: Problem, options: dict[str, Any], seconds: float, seed: int, verbose: bool
) -> tuple[float, float, int]:
    """Relative error, CPU seconds and steps of one training."""
    case = problem.sample([0], grid_of(problem, 17, 9))
    x = grid_of(problem).points(torch.float64)
    exact = problem.exact(case, x[None])
    assert exact is not None
    truth = exact[0, 0].detach()

    def errors(trial: Trial) -> tuple[float, ...]:
        with torch.no_grad():
            return (float((trial(x)[:, 0] - truth).norm() / truth.norm()),)

    return train(case, options, seconds, seed, errors, verbose)


def main() -> None:
    given = options_of(__doc__, 300.0)
    torch.set_num_threads(1)
    table = Table("problem", "method", "error, median", "quartiles", "CPU s", "steps")
    for name, problem in PROBLEMS.items():
        for method, options in METHODS.items():
            if not chosen(given, name, method):
                continue
            found = [run(problem, options, given.seconds, seed, given.verbose) for seed in range(given.seeds)]
            errors = [e for e, _, _ in found]
            low, _, high = quantiles(errors, n=4) if len(errors) > 1 else (errors[0],) * 3
            spent, steps = median(s for _, s, _ in found), median(k for _, _, k in found)
            quarts = f"{low:.2e} … {high:.2e}"
            table.add_row(name, method, f"{median(errors):.2e}", quarts, f"{spent:.0f}", f"{steps:.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

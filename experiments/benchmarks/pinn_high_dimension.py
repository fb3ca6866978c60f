"""Physics-informed networks in ten dimensions: a peak that fills 5e-5 of the box [−1, 1]^10, linear and cubic.

    OMP_NUM_THREADS=1 python experiments/benchmarks/pinn_high_dimension.py [--only linear] [--seeds 5] [--seconds 600]

−Δu = f and −Δu + u − u³ = f with u = exp(−10|x|²). One solver, `PINN`: the source is found by a tempered path of
densities from the box to f², the path is the law of the collocation points, the trial function a network (2 × 28) in a
window around the source, steps are damped Gauss–Newton. The window is a Gaussian of 2.5 standard deviations of f², 1.5
times as long as the solution is: both are Gaussians, which suits this problem; the solution is not in the trial space.
Beside it Adam with uniform points and the same CPU seconds. Relative L² error at the problem's test points (half
uniform in the ball of radius 0.7, half in the box): median and quartiles over the seeds, and the two halves apart.
Evaluations for the table are not on the clock; the zero function has error 1.
"""

from statistics import median, quantiles
from typing import Any

import torch
from pinn_runs import chosen, options_of, train
from rich.console import Console
from rich.table import Table

from sciops.core.grid import Grid
from sciops.models.trial import Trial
from sciops.problems.peaks import Peaks, TenDimensional, TenDimensionalCubic

PROBLEMS: dict[str, Peaks] = {"linear": TenDimensional(), "cubic": TenDimensionalCubic()}
GAUSS_NEWTON = {"name": "gauss_newton", "mu": 1e-2, "bold": 0.0, "decrease": 5.0, "increase": 3.0}
METHODS: dict[str, dict[str, Any]] = {
    "Gauss–Newton, tempered": {"every": 5, "optimiser": GAUSS_NEWTON},
    "Adam, uniform": {
        "width": 28,
        "depth": 2,
        "optimiser": "adam",
        "sampler": "sciops.solvers.samplers.uniform.Uniform",
        "initialisation": "network",
    },
}


def run(problem: Peaks, options: dict[str, Any], seconds: float, seed: int, verbose: bool) -> tuple[float, ...]:
    """Relative error, its parts in the box and in the ball, CPU seconds and steps of one training."""
    case = problem.sample([0], Grid.box(2, -1.0, 1.0, ndim=problem.ndim))
    x = problem.test_points()
    truth = problem.solution({}, x[None])[0]
    half = len(x) - len(x) // 2  # the points of the box come first

    def errors(trial: Trial) -> tuple[float, ...]:
        with torch.no_grad():
            e = (trial(x)[:, 0] - truth) / truth.norm()
        return float(e.norm()), float(e[:half].norm()), float(e[half:].norm())

    return train(case, options, seconds, seed, errors, verbose)


def main() -> None:
    given = options_of(__doc__, 600.0)
    torch.set_num_threads(1)
    table = Table("problem", "method", "error, median", "quartiles", "in the box", "in the ball", "CPU s", "steps")
    for name, problem in PROBLEMS.items():
        for method, options in METHODS.items():
            if not chosen(given, name, method):
                continue
            found = [run(problem, options, given.seconds, seed, given.verbose) for seed in range(given.seeds)]
            errors = [entry[0] for entry in found]
            low, _, high = quantiles(errors, n=4) if len(errors) > 1 else (errors[0],) * 3
            box, ball, spent, steps = (median(column) for column in list(zip(*found, strict=True))[1:])
            numbers = (f"{median(errors):.2e}", f"{low:.2e} … {high:.2e}", f"{box:.2e}", f"{ball:.2e}")
            table.add_row(name, method, *numbers, f"{spent:.0f}", f"{steps:.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

"""Three ways to one solution: a network on the energy, one on the strong residual, the energy in a spectral basis.

    OMP_NUM_THREADS=1 python experiments/benchmarks/deep_ritz.py [--seconds 30] [--seeds 1] [--only scherk,cubic_2d]

Every recipe of datasets/energy: relative L² error at 5000 random points, the solver's own estimate of it, status and
CPU-seconds. Deep Ritz by natural gradient with the Hessian and the H¹ metric, and by Adam; the strong residual by
Gauss–Newton with the same network (16 neurons, 3 layers); `EnergyDescent` as the bar. `--seconds` are CPU-seconds per
network, medians over the seeds.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from sciops.core.solver import Budget
from sciops.data.recipe import load_recipe
from sciops.solvers.collocation import CollocationSolver, Equation
from sciops.solvers.deep_ritz import DeepRitz
from sciops.solvers.energy_descent import EnergyDescent
from sciops.solvers.pinn import PINN

FOLDER = Path(__file__).parents[2] / "datasets" / "energy"
NETWORK = {"width": 16, "depth": 3}


def solvers(seed: int) -> dict[str, CollocationSolver]:
    return {
        "energy descent (classical)": EnergyDescent(),
        "deep Ritz, natural, Hessian": DeepRitz(**NETWORK, clock="cpu", steps=10_000, seed=seed),
        "deep Ritz, natural, H1": DeepRitz("natural", "h1", **NETWORK, clock="cpu", steps=10_000, seed=seed),
        "deep Ritz, Adam": DeepRitz("adam", **NETWORK, clock="cpu", steps=2000, seed=seed),
        "strong residual, Gauss-Newton": PINN(**NETWORK, clock="cpu", max_steps=10_000, seed=seed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="CPU-seconds per network")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="names of recipes, by commas")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in arguments.only.split(",") if name] or sorted(p.stem for p in FOLDER.glob("*.yaml"))
    for name in names:
        recipe = load_recipe(FOLDER / f"{name}.yaml")
        problem = recipe.make_problem()
        equation = Equation(problem.sample([0], recipe.grid))
        x = equation.interior_points(5000, torch.Generator().manual_seed(2024))
        exact = problem.exact(equation.case, x[None])[0, 0].detach()
        print(f"\n{name}: {problem.describe()}")
        for label in solvers(0):
            runs = []
            for seed in range(arguments.seeds):
                started = time.process_time()
                answer = solvers(seed)[label].solve_case(equation, Budget(seconds=arguments.seconds))
                seconds = time.process_time() - started
                error = float((answer.u(x).detach() - exact).norm() / exact.norm())
                runs.append((error, answer.error_estimate, seconds, answer.iterations, answer.status.value))
            error, seconds = (statistics.median(run[k] for run in runs) for k in (0, 2))
            estimates = [run[1] for run in runs if run[1] is not None]
            estimate = f"{statistics.median(estimates):.1e}" if estimates else "      -"
            steps, states = statistics.median(run[3] for run in runs), ",".join(sorted({run[4] for run in runs}))
            print(
                f"  {label:31s} {error:.1e}  estimate {estimate}  {seconds:6.1f} CPU-s  {steps:6.0f} steps  {states}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""The high-frequency problems by per-instance solvers: error at random points, points used, CPU time, honesty.

    python experiments/benchmarks/high_frequency.py [--solvers gsmp,chebyshev] [--only adv] [--three] [--seeds 3]

Every solver has one configuration for all problems (its defaults). Errors are relative L² errors against the closed
form at 3000 uniform random points that no solver saw. `waves` is the highest number of wavelengths of u along an axis;
`points` counts every point of the box or its boundary at which a solver asked for the equation to make its answer (the
held-out points of the residual are extra); `est/err` is the solver's error estimate over the true error. CPU-seconds of
one thread (process time). `--seeds` repeats GSMP with other points and reports the worst error.
A solver other than the two named is given by its class path.
"""

import argparse
import math
import time
from pathlib import Path

import torch

from sciops.core.config import build
from sciops.core.linear import Status
from sciops.core.solver import Budget
from sciops.data.recipe import load_recipe
from sciops.solvers.collocation import CollocationSolver, Equation

ROOT = Path(__file__).parents[2] / "datasets" / "high_frequency"
ELEVEN = {
    "p1_single": 100.0,
    "p1_sincos": 106.0,
    "p1_mix": 100 / (2 * math.pi),
    "p1_xsin": 200.0,
    "p1_x2": 500 / (2 * math.pi),
    "ac1_single": 100.0,
    "ac1_sincos": 106.0,
    "p2_sinsin": 100.0,
    "p2_add": 26.0,
    "ac2_mix": 100 / (2 * math.pi),
    "adv": 200 / (2 * math.pi),
}
SECOND = {"helmholtz": 150 / (2 * math.pi), "homogenisation": 25.0, "chirp": 150 / math.pi, "layer": float("nan")}
THREE = {"p3_sinsinsin": 100.0}
NAMES = {"gsmp": "sciops.solvers.gsmp.GSMP", "chebyshev": "sciops.solvers.chebyshev.ChebyshevCollocation"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solvers", default="gsmp")
    parser.add_argument("--only", default="")
    parser.add_argument("--three", action="store_true", help="add the 3-D problem")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    problems = ELEVEN | SECOND | (THREE if arguments.three else {})
    if arguments.only:
        problems = {name: (ELEVEN | SECOND | THREE)[name] for name in arguments.only.split(",")}
    head = (
        f"{'problem':15s} {'solver':10s} {'error':>8s} {'est/err':>8s} {'residual':>8s} {'points':>7s} {'waves':>6s} "
    )
    print(head + f"{'CPU s':>6s}  status")
    for name, waves in problems.items():
        recipe = load_recipe(ROOT / f"{name}.yaml")
        problem = recipe.make_problem()
        equation = Equation(problem.sample([0], recipe.grid))
        for solver_name in arguments.solvers.split(","):
            lines = []
            for seed in range(arguments.seeds if solver_name == "gsmp" else 1):
                options = {"seed": seed} if solver_name == "gsmp" else {}
                path = NAMES.get(solver_name, solver_name)
                solver = build({"class_path": path, "init_args": options}, CollocationSolver)
                started = time.process_time()
                answer = solver.solve_case(equation, Budget(seconds=arguments.seconds))
                seconds = time.process_time() - started
                x = equation.interior_points(3000, torch.Generator().manual_seed(2024))
                exact = problem.exact(equation.case, x[None])
                assert exact is not None
                u = exact[0, 0]
                error = float((torch.cat([answer.u(part) for part in x.split(500)]) - u).norm() / u.norm())
                ratio = float("nan") if answer.error_estimate is None else answer.error_estimate / max(error, 1e-300)
                who = answer.stats.get("fallback")
                note = f" by {who}" if who else ""
                note += f": {answer.advice}" if answer.status is not Status.OK else ""
                row = f"{error:8.1e} {ratio:8.2g} {answer.residual:8.1e} {answer.points:7d} {waves:6.0f} {seconds:6.2f}"
                lines.append((error, f"{name:15s} {solver_name:10.10s} {row}  {answer.status.value}{note}"))
            worst = max(lines)
            print(worst[1] + (f" (worst of {len(lines)} seeds)" if len(lines) > 1 else ""), flush=True)


if __name__ == "__main__":
    main()

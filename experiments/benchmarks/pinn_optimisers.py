"""Optimisers of physics-informed networks side by side: −Δu = 2π² sin πx sin πy on [−1, 1]², hard Dirichlet data.

    OMP_NUM_THREADS=1 python experiments/benchmarks/pinn_optimisers.py [--seeds 3] [--seconds 12] [--only gn,adam]

tanh network of 2 × 20 neurons (501 parameters), 1000 fixed uniform points, float64. Every method gets the same first
weights, points and CPU-seconds; the residual is scaled to unit mean square for the zero network. Relative L² error on
a 101² grid, at checkpoints of CPU time (evaluations for the table are not on the clock): median over the seeds and,
at the end, quartiles. One step of the quasi-Newton methods is ten iterations.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from sciops.core.grid import Grid
from sciops.models.hard_boundary import HardBoundary
from sciops.models.mlp import MLP
from sciops.numerics.optimisers import SOAP, GaussNewton, SSBroyden
from sciops.problems.poisson import Poisson
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn_rows import EquationRows, Sites, flat_parameters

BOX = ((-1.0, -1.0), (1.0, 1.0))
CHECKPOINTS = (1.0, 2.0, 5.0, 12.0)


@dataclass
class Run:
    """One optimiser from one seed: the loss it minimises and what it reached when."""

    trial: HardBoundary
    rows: EquationRows
    errors: dict[float, float] = field(default_factory=dict)
    steps: int = 0

    def __post_init__(self) -> None:
        axis = torch.linspace(-1, 1, 101, dtype=torch.float64)
        self.grid = torch.cartesian_prod(axis, axis)
        self.exact = (math.pi * self.grid).sin().prod(1)

    def error(self) -> float:
        with torch.no_grad():
            return float((self.trial(self.grid)[:, 0] - self.exact).norm() / self.exact.norm())

    def closure(self, optimiser: Any) -> Tensor:
        optimiser.zero_grad()
        loss = self.rows.loss()
        loss.backward()
        return loss


def scene(seed: int, points: int) -> Run:
    problem = Poisson(ndim=2, exact_solution="sin(pi*x)*sin(pi*y)")
    equation = Equation(problem.sample([0], Grid.box((64, 64), *BOX)))
    net = MLP(2, width=20, depth=2, lower=BOX[0], upper=BOX[1], seed=seed)
    trial = HardBoundary(net, *BOX, [(axis, side) for axis in (0, 1) for side in (0, 1)])
    x = equation.interior_points(points, torch.Generator().manual_seed(seed))
    rows = EquationRows(trial, Sites(equation.case, x), weight=1 / math.pi**4)
    return Run(trial, rows)


Advance = Callable[[], bool]
"""One step; False where the method cannot go on."""


def torch_method(make: Callable[[list[Tensor]], Any]) -> Callable[[Run], Advance]:
    def begin(run: Run) -> Advance:
        optimiser = make(list(run.trial.parameters()))

        def advance() -> bool:
            before = None if not isinstance(optimiser, torch.optim.LBFGS) else flat_parameters(run.trial)
            optimiser.step(lambda: run.closure(optimiser))
            if before is not None and torch.equal(before, flat_parameters(run.trial)):
                return False
            return getattr(optimiser, "status", "ok") == "ok"

        return advance

    return begin


def gauss_newton(**options: Any) -> Callable[[Run], Advance]:
    def begin(run: Run) -> Advance:
        optimiser = GaussNewton(flat_parameters(run.trial), **options)

        def advance() -> bool:
            step = optimiser.step(run.rows)
            vector_to_parameters(optimiser.best, run.trial.parameters())
            return step.accepted

        return advance

    return begin


METHODS: dict[str, tuple[str, Callable[[Run], Advance]]] = {
    "adam": ("Adam 1e-3", torch_method(lambda p: torch.optim.Adam(p, lr=1e-3))),
    "soap": ("SOAP 3e-3", torch_method(lambda p: SOAP(p, lr=3e-3))),
    "lbfgs": (
        "L-BFGS (50)",
        torch_method(
            lambda p: torch.optim.LBFGS(
                p,
                max_iter=10,
                history_size=50,
                line_search_fn="strong_wolfe",
                tolerance_grad=0.0,
                tolerance_change=0.0,
            )
        ),
    ),
    "bfgs": ("BFGS", torch_method(lambda p: SSBroyden(p, method="bfgs", max_iter=10))),
    "ssbroyden": ("SSBroyden", torch_method(lambda p: SSBroyden(p, max_iter=10))),
    "gn_plain": (
        "Gauss–Newton, damping alone",
        gauss_newton(accelerate=False, bold=0.0, decrease=10.0, increase=4.0),
    ),
    "gn_accelerated": ("Gauss–Newton, geodesic acceleration", gauss_newton(bold=0.0)),
    "gn": ("Gauss–Newton, acceleration and bold steps", gauss_newton()),
}


def measure(begin: Callable[[Run], Advance], run: Run, seconds: float) -> Run:
    """Advance until the CPU time is used, reading the error at the checkpoints."""
    checkpoints = [c for c in CHECKPOINTS if c < seconds] + [seconds]
    spent, start, going = 0.0, time.process_time(), True
    advance = begin(run)
    for checkpoint in checkpoints:
        while going and spent < checkpoint:
            going = advance()
            run.steps += 1
            now = time.process_time()
            spent, start = spent + now - start, now
        run.errors[checkpoint] = run.error()
        start = time.process_time()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="CPU-seconds for each method and seed")
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--only", default=",".join(METHODS), help=f"of {', '.join(METHODS)}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=140)
    run = scene(0, arguments.points)
    gauss_newton()(run)()  # first calls pay for imports
    run.closure(torch.optim.SGD(run.trial.parameters()))

    table = Table(title=f"relative L² error, median of {arguments.seeds} seeds")
    table.add_column("method")
    found: dict[str, list[Run]] = {}
    for seed in range(arguments.seeds):
        for name in arguments.only.split(","):
            run = measure(METHODS[name][1], scene(seed, arguments.points), arguments.seconds)
            found.setdefault(name, []).append(run)
            console.print(f"seed {seed}, {name}: {run.steps} steps, {run.errors[arguments.seconds]:.1e}")
    checkpoints = list(next(iter(found.values()))[0].errors)
    for checkpoint in checkpoints:
        table.add_column(f"{checkpoint:g} CPU-s", justify="right")
    table.add_column("quartiles", justify="right")
    table.add_column("steps", justify="right")
    for name, runs in found.items():
        last = [run.errors[checkpoints[-1]] for run in runs]
        low, _, high = quantiles(last, n=4, method="inclusive") if len(last) > 1 else (last[0],) * 3
        table.add_row(
            METHODS[name][0],
            *[f"{median(run.errors[c] for run in runs):.1e}" for c in checkpoints],
            f"{low:.1e} … {high:.1e}",
            f"{median(run.steps for run in runs):.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()

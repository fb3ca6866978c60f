"""What the benchmarks of physics-informed networks share: their options, and one training against a CPU clock."""

import argparse
import time
from collections.abc import Callable
from typing import Any

from sciops.core.cases import Cases
from sciops.models.trial import Trial
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn import PINN

LOOK = {"adam": 500}
"""Steps between looks at the held-out residual: the network with the lowest one is the answer."""


def options_of(description: str | None, seconds: float) -> argparse.Namespace:
    """--only, --methods, --seeds, --seconds (with its default) and --verbose."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="problems, separated by commas")
    parser.add_argument("--methods", default="", help="first letters of methods, separated by commas")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=seconds, help="CPU seconds of each training")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def chosen(given: argparse.Namespace, problem: str, method: str) -> bool:
    """Does the user want this row?"""
    return (not given.only or problem in given.only.split(",")) and (
        not given.methods or method.startswith(tuple(given.methods.split(",")))
    )


def train(
    case: Cases,
    options: dict[str, Any],
    seconds: float,
    seed: int,
    errors: Callable[[Trial], tuple[float, ...]],
    verbose: bool,
) -> tuple[float, ...]:
    """The errors of the answer, CPU seconds and steps. Evaluations of errors on the way are not on the clock."""
    start, paused, shown = time.process_time(), 0.0, 10.0
    training = PINN(clock="cpu", seed=seed, **options).training(Equation(case))
    while (spent := time.process_time() - start - paused) < seconds and not training.done:
        training.step()
        if training.steps % LOOK.get(training.stages[training.stage].name, 5) == 0:
            training.look()
        if verbose and spent > shown:
            before = time.process_time()
            shares = ", ".join(f"{e:.2e}" for e in errors(training.trial))
            print(
                f"  {spent:.0f} s, step {training.steps}, {len(training.points)} points: loss "
                f"{training.losses[-1]:.2e}, error {shares}",
                flush=True,
            )
            shown, paused = 1.3 * shown, paused + time.process_time() - before
    training.settle()
    found = errors(training.trial)
    if verbose:
        print(f"  seed {seed}, answer after {spent:.0f} s: error {', '.join(f'{e:.2e}' for e in found)}", flush=True)
    return (*found, spent, training.steps)

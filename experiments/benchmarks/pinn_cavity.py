"""The lid-driven cavity for all Reynolds numbers from 100 to 1000 by one physics-informed network.

    OMP_NUM_THREADS=1 python experiments/benchmarks/pinn_cavity.py [--rows gauss_newton,adam] [--seeds 0 1]

The Reynolds number is the third coordinate of the network, u, v and p are its outputs. Errors are the largest absolute
ones of u on the vertical and v on the horizontal centreline at Re 100, 400 and 1000 (the lid moves with velocity 1):
against the published values (Ghia, Ghia, Shin 1982: 17 points a line), and against this package's classical solver on
201 points (staggered differences on 128² and 64² cells, extrapolated). The first line says how far these two are apart.
CPU seconds of one thread. Rows: gauss_newton; uniform (the same, points that ignore the residual); published_loss (the
same, but the loss weighs the corners like the rest, as published); adam (Adam at 1e-3 on uniform points redrawn).
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sciops.core.grid import Grid
from sciops.core.solver import Budget
from sciops.problems.cavity import LidDrivenCavity
from sciops.problems.ghia import GHIA_U, GHIA_V, GHIA_X, GHIA_Y
from sciops.solvers.collocation import Equation, Function
from sciops.solvers.pinn import PINN

NUMBERS = (100, 400, 1000)
SIZE: dict[str, Any] = {"width": 20, "depth": 3, "points": 2500, "max_points": 2500, "boundary_points": 500}
UNIFORM = "sciops.solvers.samplers.uniform."
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gauss_newton": ({}, {"every": 10}),
    "uniform": ({}, {"every": 10, "sampler": UNIFORM + "UniformResample"}),
    "published_loss": ({"corner": 0.0}, {"every": 10}),
    "adam": ({}, {"optimiser": {"name": "adam", "lr": 1e-3}, "sampler": UNIFORM + "UniformResample"}),
}
"""Arguments of the problem and of the solver."""


def lines(points: int = 201) -> list[tuple[int, np.ndarray, dict[int, np.ndarray] | None]]:
    """(unknown, coordinates along its centreline, published values): Ghia's points, then a fine line, of u and of v."""
    fine = np.linspace(0, 1, points)
    found: list[tuple[int, np.ndarray, dict[int, np.ndarray] | None]] = []
    for k, s, table in ((0, GHIA_Y, GHIA_U), (1, GHIA_X, GHIA_V)):
        found.append((k, np.array(s), {re: np.array(values) for re, values in table.items()}))
        found.append((k, fine, None))
    return found


def on_line(k: int, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = np.full_like(s, 0.5)
    return (half, s) if k == 0 else (s, half)


class Classical:
    """Centreline velocities of the classical solver."""

    def __init__(self, problem: LidDrivenCavity) -> None:
        self.fine, self.coarse = (problem.flows([float(n) for n in NUMBERS], n) for n in (128, 64))

    def __call__(self, re: int, k: int, s: np.ndarray) -> np.ndarray:
        a, b = (flow[float(re)].at(*on_line(k, s))[:, k] for flow in (self.fine, self.coarse))
        return a + (a - b) / 3


def network_line(problem: LidDrivenCavity, u: Function, re: int, k: int, s: np.ndarray) -> np.ndarray:
    m = np.full_like(s, (re - problem.low) / (problem.high - problem.low))
    return u(torch.from_numpy(np.stack([*on_line(k, s), m], 1)))[:, k].detach().numpy()


def errors(found: Any, classical: Classical) -> list[float]:
    """Largest errors of u and v at every Reynolds number against Ghia, then against the classical solver."""
    ghia, reference = [], []
    for re in NUMBERS:
        for k, s, table in lines():
            values = found(re, k, s)
            gap = np.abs(values - (classical(re, k, s) if table is None else table[re]))
            (reference if table is None else ghia).append(float(np.nanmax(gap)))
    return ghia + reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="gauss_newton")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=150.0, help="CPU seconds of each training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    classical = Classical(LidDrivenCavity())
    table = Table("row", "seed", "u, v: Ghia 100", "400", "1000", "u, v: classical 100", "400", "1000", "facts")
    show(table, "classical", "·", errors(classical, classical), "")
    for row in given.rows.split(","):
        for seed in given.seeds:
            numbers, facts = run(row, seed, given.seconds, classical)
            show(table, row, str(seed), numbers, facts)
    Console(width=170).print(table)


def show(table: Table, row: str, seed: str, numbers: list[float], facts: str) -> None:
    pairs = [f"{a:.3f}, {b:.3f}" for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
    table.add_row(row, seed, *pairs, facts)
    print(row, seed, *pairs, facts, flush=True)


def run(row: str, seed: int, seconds: float, classical: Classical) -> tuple[list[float], str]:
    of_problem, of_solver = ROWS[row]
    problem = LidDrivenCavity(**of_problem)
    solver = PINN(**SIZE | of_solver, clock="cpu", seed=seed, max_steps=10**6)
    equation, begun = Equation(problem.sample([0], Grid.box(9, ndim=3))), time.process_time()
    answer = solver.solve_case(equation, Budget(seconds=seconds))
    spent = time.process_time() - begun
    facts = f"{spent:.0f} s, {answer.iterations} steps, residual {answer.residual:.1e}, {answer.status.value}"
    return errors(lambda re, k, s: network_line(problem, answer.u, re, k, s), classical), facts


if __name__ == "__main__":
    main()

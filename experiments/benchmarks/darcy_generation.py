"""Cases per second of Darcy generation: sciops' batched multigrid against a loop over SciPy's sparse direct solve.

Both make the same cases (two-phase 3/12) on the same grid with the same second-order scheme and the same label error
(Richardson with the observed order, from solves with a half and a quarter of the intervals). The loop assembles its
matrix with NumPy, the way one would write it by hand, and is run in one process and in as many as sciops uses. Repeats
are interleaved.

    python experiments/benchmarks/darcy_generation.py [--size 128] [--cases 64] [--workers 2] [--repeats 3]
"""

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sciops.core.grid import Grid
from sciops.core.random import case_seed
from sciops.problems.darcy import Darcy

PROBLEM = Darcy()


def batched(seeds: list[int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """sciops: sample and solve a batch; returns (u, label_error)."""
    torch.set_num_threads(1)
    solution = PROBLEM.reference(PROBLEM.sample(seeds, Grid.box(size, ndim=2)))
    return solution.field.values[:, 0, 0].numpy(), solution.stats["label_error"].numpy()


def looped(seeds: list[int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """The loop: sample, assemble and spsolve one case after the other, on the grid and on its two coarser ones."""
    torch.set_num_threads(1)
    answers, errors = [], []
    grids = [Grid.box(size, ndim=2)]
    for _ in range(2):
        grids.append(grids[-1].resized((grids[-1].shape[0] - 1) // 2 + 1))
    for seed in seeds:
        solved = [direct(PROBLEM.sample([seed], g).input("a")[0].numpy(), g.spacing[0]) for g in grids]
        answers.append(solved[0])
        errors.append(label_error(solved, grids))
    return np.stack(answers), np.array(errors)


def direct(a: np.ndarray, h: float) -> np.ndarray:
    """Five-point scheme with arithmetic face averages, assembled as diagonals and solved by SuperLU."""
    from scipy.sparse import diags
    from scipy.sparse.linalg import spsolve

    west = 0.5 * (a[1:-1, 1:-1] + a[:-2, 1:-1]) / h**2
    east = 0.5 * (a[1:-1, 1:-1] + a[2:, 1:-1]) / h**2
    south = 0.5 * (a[1:-1, 1:-1] + a[1:-1, :-2]) / h**2
    north = 0.5 * (a[1:-1, 1:-1] + a[1:-1, 2:]) / h**2
    m = west.shape[1]
    centre = (west + east + south + north).ravel()
    up = north.copy()
    up[:, -1] = 0
    matrix = diags(
        [centre, -up.ravel()[:-1], -up.ravel()[:-1], -east.ravel()[:-m], -east.ravel()[:-m]],
        [0, 1, -1, m, -m],
        format="csc",
    )
    u = np.zeros_like(a)
    u[1:-1, 1:-1] = spsolve(matrix, np.ones(centre.size)).reshape(west.shape)
    return u


def label_error(solved: list[np.ndarray], grids: list[Grid]) -> float:
    """‖u_h − u_2h‖/((2^p − 1)‖u_h‖) with the observed order p, at least ½ and at most the expected one."""
    from sciops.core.interpolate import resample

    def norm(values: np.ndarray, grid: Grid) -> float:
        return float(np.sqrt((grid.weights().numpy() * values**2).sum()))

    distances = []
    for k in range(2):
        lifted = resample(torch.from_numpy(solved[k + 1])[None, None], grids[k + 1], grids[k], "cubic")[0, 0].numpy()
        distances.append(norm(solved[k] - lifted, grids[k]))
    order = min(max(np.log2(distances[1] / distances[0]), 0.5), PROBLEM.label_order)
    return distances[0] / (2**order - 1) / norm(solved[0], grids[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="nodes per axis")
    parser.add_argument("--cases", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    seeds = [case_seed(0, i) for i in range(options.cases)]

    def chunks(length: int) -> list[list[int]]:
        return [seeds[i : i + length] for i in range(0, len(seeds), length)]

    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        # One untimed call per worker: imports and first-call costs are nobody's solve time.
        sizes = [options.size] * options.workers
        list(pool.map(batched, [seeds[:2]] * options.workers, sizes))
        list(pool.map(looped, [seeds[:1]] * options.workers, sizes))

        def parallel(function, length):
            parts = chunks(length)
            return list(pool.map(function, parts, [options.size] * len(parts)))

        share = -(-options.cases // options.workers)
        runs = {
            f"sciops, {options.workers} processes": lambda: parallel(batched, options.batch),
            "SciPy loop, 1 process": lambda: [looped(seeds, options.size)],
            f"SciPy loop, {options.workers} processes": lambda: parallel(looped, share),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        answers = {}
        for _ in range(options.repeats):
            for name, run in runs.items():
                start = time.perf_counter()
                parts = run()
                seconds[name].append(time.perf_counter() - start)
                answers[name] = [np.concatenate(column) for column in zip(*parts, strict=True)]

    names = list(runs)
    mine, loop = answers[names[0]], answers[names[1]]
    worst = float(np.abs(mine[0] - loop[0]).max() / np.abs(loop[0]).max())
    table = Table(title=f"Darcy two-phase 3/12, {options.size}² nodes, {options.cases} cases")
    for column in ("way", "cases/s", "ratio to the loop", "mean label error"):
        table.add_column(column)
    base = statistics.median(seconds[names[1]])
    for name in names:
        t = statistics.median(seconds[name])
        table.add_row(name, f"{options.cases / t:.1f}", f"{base / t:.2f}", f"{answers[name][1].mean():.4e}")
    Console().print(table)
    print(f"largest difference of the solutions: {worst:.1e} of max |u|")


if __name__ == "__main__":
    main()

"""Cases per second of Darcy generation: sciops' batched multigrid against a loop over SciPy's sparse direct solve.

Both make the same cases (two-phase 3/12) on the same grid with the same second-order scheme and the same label error
(Richardson, from a second solve with half the intervals). The loop assembles its matrix with NumPy, the way one would
write it by hand, and is run in one process and in as many as sciops uses. Repeats are interleaved.

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
    """The loop: sample, assemble and spsolve one case after the other, on the grid and on the halved grid."""
    torch.set_num_threads(1)
    answers, errors = [], []
    fine_grid = Grid.box(size, ndim=2)
    coarse_grid = fine_grid.resized((size - 1) // 2 + 1)
    for seed in seeds:
        fine, coarse = (
            direct(PROBLEM.sample([seed], grid).input("a")[0].numpy(), grid.spacing[0])
            for grid in (fine_grid, coarse_grid)
        )
        answers.append(fine)
        errors.append(label_error(fine, coarse, fine_grid, coarse_grid))
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


def label_error(fine: np.ndarray, coarse: np.ndarray, fine_grid: Grid, coarse_grid: Grid) -> float:
    from sciops.core.interpolate import resample

    lifted = resample(torch.from_numpy(coarse)[None, None], coarse_grid, fine_grid, "cubic")[0, 0].numpy()
    w = fine_grid.weights().numpy()
    order = 2**PROBLEM.label_order - 1
    return float(np.sqrt((w * (fine - lifted) ** 2).sum() / (w * fine**2).sum()) / order)


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

"""Trajectories per second of Navier–Stokes generation: sciops' batched solver against a per-case NumPy loop.

The loop is the pseudo-spectral code that one writes by hand: real transforms of NumPy, u·∇ω from four inverse and one
forward transform, 2/3 rule, Crank–Nicolson for viscosity, Heun for advection, one case after the other. Both sides take
the same steps of the same scheme on the same grid from the same initial fields; sciops runs in `--workers` processes of
one thread, the loop in one and in as many. A further row is what a recipe does: steps chosen by the flow, order four,
label error included; it is compared with the loop at `--published` (its time is that of one step times their number).

Seconds are CPU seconds of the processes by default, so that a busy machine changes little: a run on w processes counts
as their sum over w. `--clock wall` takes the time on the wall.

    python experiments/benchmarks/navier_stokes_generation.py [--size 64] [--cases 32] [--steps 50] [--workers 2]
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sciops.core.grid import Grid
from sciops.core.random import case_seed
from sciops.problems.navier_stokes import NavierStokes

SIGMA = math.sqrt(2) * 7**1.5
Part = tuple[np.ndarray, float]
"""Last frames (n, s, s) and the CPU seconds that they took."""


def start(seeds: list[int], size: int, viscosity: float):
    problem = NavierStokes(viscosity=viscosity, sigma=SIGMA, scheme="crank_nicolson")
    return problem, problem.sample(seeds, Grid.box(size, layout="periodic", ndim=2))


def batched(seeds: list[int], size: int, viscosity: float, dt: float, steps: int) -> Part:
    """sciops: the cases of a batch at once."""
    torch.set_num_threads(1)
    problem, cases = start(seeds, size, viscosity)
    begin = time.process_time()
    state = problem.propagator(cases, dt, steps)(problem.initial(cases), 0.0)
    return state[:, 0].numpy(), time.process_time() - begin


def looped(seeds: list[int], size: int, viscosity: float, dt: float, steps: int) -> Part:
    """The loop: one case after the other."""
    problem, cases = start(seeds, size, viscosity)
    force, fields = problem.force(cases.domain).numpy(), cases.input("vorticity").numpy()
    begin = time.process_time()
    answers = np.stack([march(w, force, viscosity, dt, steps) for w in fields])
    return answers, time.process_time() - begin


def march(w: np.ndarray, force: np.ndarray, viscosity: float, dt: float, steps: int) -> np.ndarray:
    """One trajectory with NumPy."""
    n = len(w)
    kx = 2 * np.pi * np.fft.fftfreq(n, 1 / n)[:, None]
    ky = 2 * np.pi * np.fft.rfftfreq(n, 1 / n)[None]
    squares = kx**2 + ky**2
    inverse = np.where(squares > 0, 1 / np.where(squares > 0, squares, 1), 0)
    highest = 2 * np.pi * ((n - 1) // 3)
    kept = (np.abs(kx) <= highest) & (np.abs(ky) <= highest)
    f_hat, w_hat = np.fft.rfft2(force), np.fft.rfft2(w) * kept
    implicit, explicit = 1 + dt / 2 * viscosity * squares, 1 - dt / 2 * viscosity * squares

    def slope(w_hat: np.ndarray) -> np.ndarray:
        psi = w_hat * inverse
        u = np.fft.irfft2(1j * ky * psi, s=(n, n))
        v = np.fft.irfft2(-1j * kx * psi, s=(n, n))
        wx = np.fft.irfft2(1j * kx * w_hat, s=(n, n))
        wy = np.fft.irfft2(1j * ky * w_hat, s=(n, n))
        return f_hat - np.fft.rfft2(u * wx + v * wy) * kept

    for _ in range(steps):
        before = slope(w_hat)
        after = slope((explicit * w_hat + dt * before) / implicit)
        w_hat = (explicit * w_hat + dt / 2 * (before + after)) / implicit
    return np.fft.irfft2(w_hat, s=(n, n))


def recipe_way(seeds: list[int], size: int, viscosity: float, frames: int) -> tuple[float, float, float]:
    """Reference with label error, as `sciops generate` does it: CPU seconds, mean label error, mean steps."""
    torch.set_num_threads(1)
    problem = NavierStokes(viscosity=viscosity, sigma=SIGMA, frames=frames)
    cases = problem.sample(seeds, Grid.box(size, layout="periodic", ndim=2))
    begin = time.process_time()
    stats = problem.reference(cases).stats
    return time.process_time() - begin, float(stats["label_error"].mean()), float(stats["steps"].double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="points per axis")
    parser.add_argument("--viscosity", type=float, default=1e-3)
    parser.add_argument("--cases", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--dt", type=float, default=5e-3)
    parser.add_argument("--published", type=float, default=1e-4, help="step of the published generator")
    parser.add_argument("--frames", type=int, default=5, help="unit times of the row of the recipe")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    options = parser.parse_args()
    seeds = [case_seed(0, i) for i in range(options.cases)]
    arguments = (options.size, options.viscosity, options.dt, options.steps)

    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:

        def run(function: Callable[..., Part], length: int, processes: int) -> tuple[np.ndarray, float]:
            parts = [seeds[i : i + length] for i in range(0, len(seeds), length)]
            begin = time.perf_counter()
            if processes == 1:
                made = [pool.submit(function, part, *arguments).result() for part in parts]
            else:
                made = list(pool.map(function, parts, *([value] * len(parts) for value in arguments)))
            wall = time.perf_counter() - begin
            cpu = sum(seconds for _, seconds in made) / processes
            return np.concatenate([values for values, _ in made]), cpu if options.clock == "cpu" else wall

        # One untimed call per worker: imports and first-call costs are nobody's solve time.
        for function in (batched, looped):
            list(
                pool.map(function, [seeds[:2]] * options.workers, *([v] * options.workers for v in (*arguments[:3], 2)))
            )
        share = -(-options.cases // options.workers)
        runs = {
            f"sciops, {options.workers} processes": lambda: run(batched, options.batch, options.workers),
            "NumPy loop, 1 process": lambda: run(looped, options.cases, 1),
            f"NumPy loop, {options.workers} processes": lambda: run(looped, share, options.workers),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        answers = {}
        for _ in range(options.repeats):
            for name, call in runs.items():
                answers[name], taken = call()
                seconds[name].append(taken)
        few = seeds[: max(1, options.batch // 4)]
        cpu, error, steps = pool.submit(recipe_way, few, options.size, options.viscosity, options.frames).result()

    names = list(runs)
    print(
        f"{options.size}² points, ν = {options.viscosity:g}, {options.cases} cases, "
        f"{options.steps} steps of {options.dt:g}"
    )
    table = Table(title=f"{options.clock} seconds, median of {options.repeats}")
    for column in ("way", "ms a step and case", "ratio to the loop"):
        table.add_column(column)
    middle = {name: statistics.median(taken) for name, taken in seconds.items()}
    for name in names:
        each = middle[name] / options.cases / options.steps
        table.add_row(name, f"{1e3 * each:.3f}", f"{middle[names[1]] / middle[name]:.2f}")
    Console().print(table)
    gap = np.abs(answers[names[0]] - answers[names[1]]).max() / np.abs(answers[names[1]]).max()
    print(f"largest difference of the trajectories at t = {options.steps * options.dt:g}: {gap:.1e} of max |ω|")
    own = cpu / len(few) / options.workers
    loop = middle[names[1]] / options.cases / options.steps * options.frames / options.published
    print(
        f"recipe: {own:.2f} s for t = 0 … {options.frames} of a case on {options.workers} processes (CPU), "
        f"{steps:.0f} steps, label error {error:.1e}; the loop with steps of {options.published:g}: {loop:.0f} s, "
        f"{loop / own:.0f} times as long"
    )


if __name__ == "__main__":
    main()

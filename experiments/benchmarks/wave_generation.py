"""Wave trajectories: cases per CPU second, label errors of meshes, and what a forecast is worth that does nothing.

1. Cases a second on a 64×64 mesh, 64 frames, two layers, absorbing sides: sciops' batched differences and batched Q1
   elements against a loop that assembles Q1 matrices with scikit-fem and steps one case after the other with SciPy's
   sparse products, the way one would write it by hand. Runs are interleaved; CPU seconds.
2. Label errors of the law of `datasets/wave.yaml` by mesh and scheme (Richardson).
3. Relative L² error of persistence and of linear extrapolation, u(t + d) from u(t) and u(t − d), by d.

    OMP_NUM_THREADS=1 python experiments/benchmarks/wave_generation.py [--cases 16] [--repeats 3]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sciops.core.grid import Grid
from sciops.problems.wave import Wave

LAYERED = {"layers": 2, "sides": "absorbing"}
MESH = Grid.box(65, ndim=2)


def batched(scheme: str) -> Callable[[list[int]], np.ndarray]:
    """sciops: all cases at once."""
    problem = Wave(scheme=scheme, **LAYERED)
    return lambda seeds: problem.frames_of(problem.sample(seeds, MESH)).numpy()


def looped(seeds: list[int]) -> np.ndarray:
    """One case after the other: assembly by scikit-fem, steps by SciPy."""
    from scipy.sparse import diags
    from skfem import Basis, BilinearForm, ElementQuad1, FacetBasis, MeshQuad
    from skfem.helpers import dot, grad

    problem = Wave(scheme="fem", **LAYERED)
    line = np.linspace(0, 1, 65)
    mesh = MeshQuad.init_tensor(line, line)
    basis, edge = Basis(mesh, ElementQuad1()), FacetBasis(mesh, ElementQuad1())
    place = np.rint(mesh.p[0] * 64).astype(int) * 65 + np.rint(mesh.p[1] * 64).astype(int)
    answers = []
    for seed in seeds:
        params = problem.sample([seed], Grid.box(3, ndim=2)).params
        ratio, frequency = float(params["speed"][0, 1]), float(params["frequency"])
        sx, sy = params["position"][0].tolist()

        def speed(x: np.ndarray, ratio: float = ratio) -> np.ndarray:
            return np.where(x[1] < 0.5, 1.0, ratio)

        K = BilinearForm(lambda u, v, w, c=speed: c(w.x) ** 2 * dot(grad(u), grad(v))).assemble(basis).tocsr()
        M = np.asarray(BilinearForm(lambda u, v, w: u * v).assemble(basis).sum(1)).ravel()
        C = np.asarray(BilinearForm(lambda u, v, w, c=speed: c(w.x) * u * v).assemble(edge).sum(1)).ravel()
        steps = 4  # per frame: ½ h over the fastest speed of the law
        dt = problem.every / steps
        A = diags(dt**2 / M) @ K
        plus, minus = 1 / (1 + dt / 2 * C / M), 1 - dt / 2 * C / M
        g = problem.amplitude * np.exp(-((mesh.p[0] - sx) ** 2 + (mesh.p[1] - sy) ** 2) / (2 * problem.width**2))
        u = np.zeros(mesh.p.shape[1])
        before, frames = u.copy(), [u]
        for k in range(63 * steps):
            a = (np.pi * (frequency * k * dt - 1)) ** 2
            pull = dt**2 * (1 - 2 * a) * np.exp(-a) * g - A @ u
            # At rest u⁻ = u⁺ − 2 dt·0 gives half the pull in the first step.
            after = u + pull / 2 if k == 0 else plus * (2 * u - minus * before + pull)
            before, u = u, after
            if (k + 1) % steps == 0:
                frames.append(u)
        on_grid = np.empty((64, 65 * 65))
        on_grid[:, place] = np.stack(frames)
        answers.append(on_grid.reshape(64, 65, 65))
    return np.stack(answers)


def speed(console: Console, cases: int, repeats: int) -> None:
    ways = {"differences, batched": batched("fd"), "Q1 elements, batched": batched("fem"), "Q1 elements, loop": looped}
    seeds, answers = list(range(cases)), {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            started = time.process_time()
            answers[name] = way(seeds)
            if repeat:  # the first round loads libraries
                seconds[name].append(time.process_time() - started)
    table = Table("way", "cases per CPU second", "times the loop", "rel. L² to the loop")
    loop = answers["Q1 elements, loop"]
    base = statistics.median(seconds["Q1 elements, loop"])
    for name in ways:
        took = statistics.median(seconds[name])
        gap = np.linalg.norm(answers[name] - loop) / np.linalg.norm(loop)
        table.add_row(name, f"{cases / took:.1f}", f"{base / took:.1f}", f"{gap:.1e}")
    console.print(f"{cases} cases, 64×64 mesh, 64 frames, 252 steps, two layers, absorbing sides", table)


def labels(console: Console) -> None:
    table = Table("mesh", "differences: median, largest", "Q1: median, largest", "differences, two layers, absorbing")
    seeds = list(range(8))
    for n in (32, 64, 128, 256):
        row = [f"{n}×{n}"]
        for options in ({}, {"scheme": "fem"}, LAYERED):
            if n == 256 and options == LAYERED:
                row.append("·")
                continue
            problem = Wave(**options)
            error = problem.reference(problem.sample(seeds, Grid.box(n + 1, ndim=2))).stats["label_error"]
            row.append(f"{float(error.median()):.1e}, {float(error.max()):.1e}")
        table.add_row(*row)
    console.print("Estimated label errors, 8 cases, whole trajectories", table)


def difficulty(console: Console) -> None:
    problem = Wave()
    u = torch.as_tensor(problem.frames_of(problem.sample(list(range(16)), Grid.box(129, ndim=2))))[..., ::4, ::4]
    table = Table("d · 64", "persistence", "extrapolation")
    for d in (1, 2, 3, 4, 6, 8):
        past, now, later = u[:, : -2 * d], u[:, d:-d], u[:, 2 * d :]
        errors = [(guess - later).norm() / later.norm() for guess in (now, 2 * now - past)]
        table.add_row(str(d), *(f"{float(e):.2f}" for e in errors))
    console.print("Forecasts that know nothing, law of datasets/wave.yaml, 16 cases", table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    speed(console, options.cases, options.repeats)
    labels(console)
    difficulty(console)


if __name__ == "__main__":
    main()

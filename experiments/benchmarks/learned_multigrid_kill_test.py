"""Does the learned multigrid beat the untrained one? Same kernels, iterations and CPU seconds, set-up counted.

    W=runs/high_contrast/learned_multigrid/checkpoints/best.ckpt
    python experiments/benchmarks/learned_multigrid_kill_test.py --weights $W
    … --ndim 3 --sizes 32 128 --weights …          the same in 3-D
    … --recipe FILE --weights …                    steps per factor e on the held-out matrices of a training recipe

Prints one table per size: the geometry of these cases was not seen in training. "point" and "incomplete" are the
smoothers of operator-dependent multigrid; "learned" changes relaxation (point only), interpolation and coarse scale.
Untrained in 3-D, matrices with a wide gap in their weights get W-cycles with corrections for stiff islands, which the
advised method does without; `--same-cycle` takes them from the untrained one too, to see what learning alone changes.
Seconds are CPU seconds of one thread, set-up + solve to 1e-8, the smaller of two runs, mean over the cases.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml

from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.data.matrix_data import MatrixData
from sciops.numerics.compiled.box_multigrid import BoxMultigrid
from sciops.numerics.compiled.boxmg import BoxOptions
from sciops.problems.high_contrast import HighContrast
from sciops.problems.pressure import Pressure
from sciops.solvers.learned_multigrid import LearnedMultigrid
from sciops.solvers.learned_multigrid_module import LearnedMultigridModule, steps_per_e_fold

FIRST_SEED = 900_000
SMOOTHERS: tuple[Literal["point", "incomplete"], ...] = ("point", "incomplete")
WITHIN = 1.2


def families(ndim: int) -> dict[str, Problem]:
    table: dict[str, Problem] = {
        "box": Pressure(ndim=ndim, scene="box"),
        "random solids": Pressure(ndim=ndim, scene="random_solids"),
        "lognormal σ=3": HighContrast(ndim=ndim),
        "white lognormal σ=2": HighContrast(ndim=ndim, family="white_lognormal"),
    }
    for contrast in (1e3, 1e6, 1e-3, 1e-6):
        table[f"inclusions {contrast:g}"] = HighContrast(ndim=ndim, family="inclusions", contrast=contrast)
    table["channels 1e4"] = HighContrast(ndim=ndim, family="channels")
    table["anisotropy 1e-2"] = HighContrast(ndim=ndim, family="anisotropy")
    return table


def measure(solver: Any, A: Any, b: torch.Tensor) -> tuple[int, float, float, bool]:
    """Iterations, set-up and solve seconds of one system."""
    best = (math.inf, math.inf)
    for _ in range(2):
        begun = time.process_time()
        state = solver.setup(A)
        ready = time.process_time()
        found = solver.solve(state, b, tol=1e-8, maxiter=300)
        best = min(best, (ready - begun, time.process_time() - ready), key=sum)
    return int(found.iterations[0]), *best, found.status[0] is Status.OK


def held_out(recipe: str, net: Any) -> str:
    """Steps per factor e on the validation matrices of a training recipe, without and with the network."""
    given = yaml.safe_load(Path(recipe).read_text())
    data = MatrixData(**given["data"]["init_args"])
    data.setup()
    h = LearnedMultigridModule(**given["model"]["init_args"]).hparams
    sums, count = [0.0, 0.0], 0
    with torch.no_grad():
        for batch in data.val_dataloader():
            count += len(batch.b)
            for i, adviser in enumerate((None, net)):
                k = h["steps"] + 2 + h["late"]
                n = steps_per_e_fold(batch, adviser, k, h["sweeps"], smoother=h["smoother"])
                sums[i] += float(n.log().sum())
    without, learned = (math.exp(total / count) for total in sums)
    return (
        f"held-out matrices of {Path(recipe).name}: {without:.3f} steps per factor e untrained, {learned:.3f} learned"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--ndim", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--families", nargs="+", help="parts of names of the rows to run; all of them if not given")
    parser.add_argument("--recipe", help="the file it was trained with: compare on its held-out matrices, and stop")
    parser.add_argument("--same-cycle", action="store_true", help="V-cycles without islands for the untrained as well")
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = families(given.ndim)
    if given.families:
        table = {name: problem for name, problem in table.items() if any(part in name for part in given.families)}
        if not table:
            parser.error(f"no family is called {given.families}; there are {list(families(given.ndim))}")
    learned = LearnedMultigrid.from_checkpoint(given.weights)
    if given.recipe:
        print(held_out(given.recipe, learned.module.net))
        return
    solvers: dict[str, Any] = {}
    for smoother in SMOOTHERS:
        silent = (lambda matrix, depth: None) if given.same_cycle else None
        solvers[smoother] = BoxMultigrid("box", BoxOptions(smoother=smoother), silent, target=None)
        advised = LearnedMultigrid(smoother=smoother)
        advised.load(given.weights)
        solvers[f"learned {smoother}"] = advised.linear
    print(f"{learned.parameters()} weights, {given.ndim}-D, {given.cases} unseen cases per cell\n")
    for size in given.sizes:
        print(f"### {size}{'²' if given.ndim == 2 else '³'}\n")
        print("| family | " + " | ".join(f"{name}: iterations, set-up + solve s" for name in solvers) + " |")
        print("|---" * (len(solvers) + 1) + "|")
        gains: dict[str, list[tuple[float, float]]] = {smoother: [] for smoother in SMOOTHERS}
        for name, problem in table.items():
            rows: dict[str, list[Any]] = {key: [] for key in solvers}
            for seed in range(FIRST_SEED, FIRST_SEED + given.cases):
                cases = problem.sample([seed], Grid.box(size, ndim=given.ndim, layout="cell"))
                A = problem.matrix(cases)
                b = A.project(problem.right_hand_side(cases))
                for key, solver in solvers.items():
                    rows[key].append(measure(solver, A, b))
            cells, means = [], {}
            for key, found in rows.items():
                steps, setup, solve = (float(np.mean([row[j] for row in found])) for j in range(3))
                means[key] = (steps, setup + solve)
                failed = sum(not row[3] for row in found)
                cells.append(f"{steps:g}, {setup:.3f} + {solve:.3f}" + (f", {failed} failed" if failed else ""))
            for smoother in SMOOTHERS:
                plain, other = means[smoother], means[f"learned {smoother}"]
                gains[smoother].append((plain[0] / other[0], plain[1] / other[1]))
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
        print()
        for kind, ratios in gains.items():
            steps, seconds = (math.exp(float(np.mean(np.log([ratio[j] for ratio in ratios])))) for j in range(2))
            verdict = "learning pays" if seconds > WITHIN else f"untrained is within {WITHIN}×"
            print(
                f"{kind}: untrained / learned, geometric mean: {steps:.2f} in iterations, {seconds:.2f} in seconds "
                f"(best family {max(r[0] for r in ratios):.2f} and {max(r[1] for r in ratios):.2f}): {verdict}\n",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Iterations of deep conjugate directions in two dimensions, beside plain CG: sizes and geometry unlike the training.

    python experiments/benchmarks/dcdm_table.py                         print, training first what is not trained yet
    python experiments/benchmarks/dcdm_table.py --seeds 0 1 2 3 --energy-seeds 0 1 --out dcdm_table.md
    python experiments/benchmarks/dcdm_table.py --largest 128           leave the larger grids out

One network, the "64" without biases, is trained on the empty 64² box with zero Dirichlet data (experiments/pressure/
dcdm.yaml: published loss; dcdm_energy.yaml: the energy contraction) and used everywhere else as it is. Boxes hold 0 one
cell outside; the other scenes have closed walls, an open top and discs of radius 0.04 to 0.12 up to 2 or 20 % of the
area, airless pockets taken out. b is white noise on the unknowns, NumPy's default_rng(i), i = 0, 1, 2 at 64² and i = 0
above; scenes likewise. Every entry is the number of iterations to ‖b − A x‖ = 1e-4, 1e-6, 1e-8 of ‖b‖ from x = 0; "–"
means not within the cap (300 with two directions kept and 150 otherwise up to 128², 120 above). CPU seconds are of one
thread.

The first table has medians over right-hand sides and training seeds, the second median [least, most] of the same runs,
beside the counts of another implementation of the same set-up (REFERENCE), and whether those lie between least / 1.15
and 1.15 most. What was measured is kept in --records, by the bytes of the weights: a run that was cut off goes on.
"""

import argparse
import hashlib
import json
import math
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sciops.cli import main as sciops
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, LinearSolver
from sciops.data.residual_sources import box_operator
from sciops.numerics.flexible_cg import FlexibleCG
from sciops.numerics.krylov import ConjugateGradients
from sciops.problems.pressure import Pressure
from sciops.solvers.conjugate_directions import ConjugateDirections, NetworkPreconditioner

ROOT = Path(__file__).resolve().parents[2]
GOALS = (1e-4, 1e-6, 1e-8)
MARGIN = 1.15
EPOCHS = 15

Case = tuple[int, float | None]
"""Cells per axis and share of solid; None is the box."""

BOXES: tuple[Case, ...] = ((64, None), (128, None), (256, None), (512, None))
SCENES: tuple[Case, ...] = ((64, 0.02), (64, 0.2), (128, 0.02), (128, 0.2), (256, 0.02), (256, 0.2))
WINDOWS = (2, 10, 0, 2)
TITLES = ("DCDM k=2", "k=10", "k=0", "energy loss, k=2")

REFERENCE: dict[Case, tuple[str, ...]] = {
    (64, None): ("9/15/20", "9/13/16", "22/37/53", "9/14/19"),
    (128, None): ("17/27/37", "17/22/34", "72/135/–", "14/19/27"),
    (256, None): ("30/53/74", "29/44/66", "–/–/–", "25/42/62"),
    (512, None): ("63/–/–", "62/96/–", "–/–/–", ""),
    (64, 0.02): ("40/65/98", "32/54/74", "–/–/–", ""),
    (64, 0.2): ("66/105/161", "46/76/101", "–/–/–", "117/206/282"),
    (128, 0.2): ("77/145/227", "63/98/139", "–/–/–", "130/–/–"),
    (256, 0.2): ("–/–/–", "119/–/–", "–/–/–", ""),
}
"""An independent replication: same network, data, loss, steps and peak learning rate, other code, one training seed,
one right-hand side (on boxes the first of ours: plain CG then needs the same number of iterations in both codes)."""


@dataclass(frozen=True)
class Trained:
    """A network and the name of its weights."""

    solver: ConjugateDirections
    digest: str

    @classmethod
    def of(cls, config: str, seed: int) -> "Trained":
        """The network of a run, trained now if there is none."""
        name = f"pressure/{config}" + (f"_seed{seed}" if seed else "")
        run = ROOT / "runs" / name
        file = run / "checkpoints" / "best.ckpt"
        if not file.is_file():
            source = ROOT / "experiments" / "pressure" / f"{config}.yaml"
            runs = ("--runs", str(ROOT / "runs"), "--name", name)
            if sciops(["fit", "--config", str(source), *runs, "--seed_everything", str(seed)]):
                raise SystemExit(f"training {name} failed")
        if len((run / "metrics.csv").read_text(encoding="utf8").splitlines()) <= EPOCHS:
            raise SystemExit(f"{run} is unfinished: resume it with --ckpt_path last, or delete the folder")
        solver = ConjugateDirections.from_checkpoint(file)
        digest = hashlib.sha256()
        for weight in solver.linear_solver().preconditioner.net.state_dict().values():  # type: ignore[union-attr]
            digest.update(weight.contiguous().numpy().tobytes())
        return cls(solver, digest.hexdigest()[:16])

    def linear_solver(self, window: int) -> FlexibleCG:
        preconditioner = self.solver.linear_solver().preconditioner
        assert isinstance(preconditioner, NetworkPreconditioner)
        return FlexibleCG(preconditioner=preconditioner, window=window)


def system(case: Case, seed: int) -> tuple[LinearOperator, torch.Tensor]:
    """The matrix of a scene and white noise on its unknowns."""
    n, share = case
    A = box_operator((n, n)) if share is None else scene(n, share, seed)
    b = torch.from_numpy(np.random.default_rng(seed).standard_normal((1, n, n)))
    return A, torch.where(A.diagonal() > 0, b, 0.0)


def scene(n: int, share: float, seed: int) -> LinearOperator:
    """Voxelised discs in a closed box that is open at its top, air one cell above it."""
    problem = Pressure(scene="random_solids", parameters={"share": share})
    return problem.matrix(problem.sample([seed], Grid.box((n, n), layout="cell")))


def cap(n: int, window: int) -> int:
    return 120 if n > 128 else 300 if window == 2 else 150


def counts(solver: LinearSolver, A: LinearOperator, b: torch.Tensor, maxiter: int) -> tuple[list[float], float, int]:
    """Iterations to each goal (infinite if not reached), CPU seconds per iteration, directions that were replaced."""
    begun = time.process_time()
    found = solver.solve(solver.setup(A), b, tol=GOALS[-1], maxiter=maxiter)
    spent = (time.process_time() - begun) / max(1, int(found.iterations[0]))
    history = found.history[:, 0].tolist()
    reached = [next((k for k, size in enumerate(history) if size <= goal), math.inf) for goal in GOALS]
    return reached, spent, int(found.stats["fallbacks"][0]) if "fallbacks" in found.stats else 0


class Records:
    """Counts by solver, problem and right-hand side, in a file of one JSON object a line."""

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text(encoding="utf8").splitlines() if file.is_file() else []
        self.known = {row["key"]: row for row in map(json.loads, lines)}

    def measure(self, case: Case, network: Trained | None, window: int) -> list[dict]:
        """One record per right-hand side; without a network, plain CG."""
        found = []
        for seed in range(3 if case[0] <= 64 else 1):
            limit = cap(case[0], window) if network else 5000
            key = f"{network.digest if network else 'CG'} k={window} {case[0]} {case[1]} b={seed} cap={limit}"
            if key not in self.known:
                solver = network.linear_solver(window) if network else ConjugateGradients()
                reached, seconds, fallbacks = counts(solver, *system(case, seed), limit)
                self.known[key] = {"key": key, "counts": reached, "seconds": seconds, "fallbacks": fallbacks}
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with self.file.open("a", encoding="utf8") as handle:
                    handle.write(json.dumps(self.known[key]) + "\n")
            found.append(self.known[key])
        return found


def shown(value: float) -> str:
    return "–" if value == math.inf else f"{value:.0f}"


def medians(runs: Sequence[dict]) -> str:
    columns = zip(*(run["counts"] for run in runs), strict=True)
    return "/".join(shown(statistics.median_high(column)) for column in columns)


def scatter(runs: Sequence[dict]) -> str:
    columns = list(zip(*(run["counts"] for run in runs), strict=True))
    return " / ".join(f"{shown(statistics.median_high(c))} [{shown(min(c))}, {shown(max(c))}]" for c in columns)


def agrees(runs: Sequence[dict], reference: str) -> str:
    """Does each count of the reference lie within the scatter, widened by MARGIN?"""
    columns = zip(*(run["counts"] for run in runs), strict=True)
    values = [math.inf if text == "–" else float(text) for text in reference.split("/")]
    inside = [min(c) / MARGIN <= value <= MARGIN * max(c) for c, value in zip(columns, values, strict=True)]
    return "/".join("yes" if one else "no" for one in inside)


def title(case: Case) -> str:
    return f"{case[0]}² box" if case[1] is None else f"{case[0]}², walls + {100 * case[1]:g} % solid"


def markdown(header: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *table]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(records: Records, networks: Sequence[Sequence[Trained]], cases: Sequence[Case]) -> str:
    """`networks`: those of each column."""
    first, others, replaced = [], [], 0
    for case in cases:
        plain = records.measure(case, None, 0)
        runs = [
            [run for net in nets for run in records.measure(case, net, window)]
            for nets, window in zip(networks, WINDOWS, strict=True)
        ]
        replaced += sum(run["fallbacks"] for column in runs for run in column)
        times = [f"{1e3 * statistics.median(run['seconds'] for run in column):.2g}" for column in (plain, runs[0])]
        first.append((title(case), medians(plain), *map(medians, runs), *times))
        print(" | ".join(first[-1]), flush=True)
        for name, found, reference in zip(TITLES, runs, REFERENCE.get(case, ("",) * len(runs)), strict=True):
            others.append((title(case), name, str(len(found)), scatter(found), reference or "not run",
                           agrees(found, reference) if reference else ""))  # fmt: skip
    others.sort(key=lambda row: TITLES.index(row[1]))
    header = ("problem", "CG", *TITLES, "ms/it. CG", "ms/it. k=2")
    compared = ("problem", "method", "runs", "median [least, most]", "reference replication", f"within, × {MARGIN}")
    note = f"directions replaced by the guard in all these solves: {replaced}"
    return "\n\n".join((markdown(header, first), markdown(compared, others), note))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="dcdm", help="of the published loss: dcdm, or dcdm_clipped")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="training seeds, published loss, k = 2")
    parser.add_argument("--window-seeds", type=int, nargs="+", default=[0], help="those of k = 10 and k = 0")
    parser.add_argument("--energy-seeds", type=int, nargs="+", default=[0], help="those of the energy loss")
    parser.add_argument("--largest", type=int, default=512, help="largest grid")
    parser.add_argument("--largest-scene", type=int, default=256, help="largest grid with walls and solids")
    parser.add_argument("--records", type=Path, default=ROOT / "runs" / "pressure" / "dcdm_table.jsonl")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    recipes = (options.recipe, options.recipe, options.recipe, "dcdm_energy")
    seeds = (options.seeds, options.window_seeds, options.window_seeds, options.energy_seeds)
    networks = [[Trained.of(recipe, seed) for seed in own] for recipe, own in zip(recipes, seeds, strict=True)]
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread")
    limits = (options.largest, min(options.largest, options.largest_scene))
    cases = [case for case in (*BOXES, *SCENES) if case[0] <= limits[case[1] is not None]]
    text = tables(Records(options.records), networks, cases)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf8")
    print("\n" + text)


if __name__ == "__main__":
    main()

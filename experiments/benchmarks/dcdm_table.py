"""Iterations of deep conjugate directions in two dimensions, beside plain CG: sizes and geometry unlike the training.

    python experiments/benchmarks/dcdm_table.py                         print, training first what is not trained yet
    python experiments/benchmarks/dcdm_table.py --seeds 0 1 2 --out experiments/results/dcdm_table.md
    python experiments/benchmarks/dcdm_table.py --largest 128           leave the larger grids out

One network, the "64" without biases, is trained on the empty 64² box with zero Dirichlet data (experiments/pressure/
dcdm.yaml: published loss; dcdm_energy.yaml: the energy contraction) and used everywhere else as it is. Boxes hold 0 one
cell outside; the other scenes have closed walls, an open top and discs of radius 0.04 to 0.12 up to 2 or 20 % of the
area, airless pockets taken out. b is white noise on the unknowns. Every entry is the number of iterations to
‖b − A x‖ = 1e-4, 1e-6, 1e-8 of ‖b‖ from x = 0; "–" means not within the cap (300 with two directions kept and 150
otherwise up to 128², 120 above). Up to 128² the median of three systems, above one. The second table repeats columns
for networks from other seeds. CPU seconds are of one thread.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from sciops.cli import main as sciops
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, LinearSolver
from sciops.data.residual_sources import box_operator
from sciops.numerics.flexible_cg import FlexibleCG
from sciops.numerics.krylov import ConjugateGradients
from sciops.problems.pressure import Pressure
from sciops.solvers.conjugate_directions import ConjugateDirections

ROOT = Path(__file__).resolve().parents[2]
GOALS = (1e-4, 1e-6, 1e-8)
EPOCHS = 15
BOXES = (64, 128, 256, 512)
SCENES = ((64, 0.02), (64, 0.2), (128, 0.02), (128, 0.2), (256, 0.02), (256, 0.2))
COLUMNS = (("dcdm", 2), ("dcdm", 10), ("dcdm", 0), ("dcdm_energy", 2))
TITLES = ("CG", "DCDM k=2", "k=10", "k=0", "energy loss, k=2")


def trained(config: str, seed: int) -> ConjugateDirections:
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
    return ConjugateDirections.from_checkpoint(file)


def system(n: int, share: float | None, seed: int) -> tuple[LinearOperator, torch.Tensor]:
    """The matrix of a scene (share None: the box) and white noise on its unknowns."""
    A = box_operator((n, n)) if share is None else scene(n, share, seed)
    b = torch.randn((1, n, n), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return A, torch.where(A.diagonal() > 0, b, 0.0)


def scene(n: int, share: float, seed: int) -> LinearOperator:
    """Voxelised discs in a closed box that is open at its top, air one cell above it."""
    problem = Pressure(scene="random_solids", parameters={"share": share})
    return problem.matrix(problem.sample([seed], Grid.box((n, n), layout="cell")))


def counts(solver: LinearSolver, A: LinearOperator, b: torch.Tensor, cap: int) -> tuple[list[float], float]:
    """Iterations to each goal (infinite if not reached) and CPU seconds per iteration."""
    begun = time.process_time()
    found = solver.solve(solver.setup(A), b, tol=GOALS[-1], maxiter=cap)
    spent = (time.process_time() - begun) / max(1, int(found.iterations[0]))
    history = found.history[:, 0].tolist()
    reached = [next((k for k, size in enumerate(history) if size <= goal), float("inf")) for goal in GOALS]
    return reached, spent


def medians(runs: Sequence[Sequence[float]]) -> str:
    values = [statistics.median_high(column) for column in zip(*runs, strict=True)]
    return "/".join("–" if value == float("inf") else f"{value:.0f}" for value in values)


def title(n: int, share: float | None) -> str:
    return f"{n}² box" if share is None else f"{n}², walls + {100 * share:g} % solid"


def rows(networks: dict[str, ConjugateDirections], largest: int) -> list[tuple[str, ...]]:
    """One row per problem: counts by column, then milliseconds of CPU time per iteration of CG and of k = 2."""
    table = []
    for n, share in [(n, None) for n in BOXES] + list(SCENES):
        if n > largest:
            continue
        found: list[list[list[float]]] = [[] for _ in range(1 + len(COLUMNS))]
        spent: list[list[float]] = [[] for _ in range(1 + len(COLUMNS))]
        for seed in range(3 if n <= 128 else 1):
            A, b = system(n, share, seed)
            solvers: list[tuple[LinearSolver, int]] = [(ConjugateGradients(), 5000)]
            for config, window in COLUMNS:
                cap = 120 if n > 128 else 300 if window == 2 else 150
                preconditioner = networks[config].linear_solver().preconditioner
                solvers.append((FlexibleCG(preconditioner=preconditioner, window=window), cap))
            for i, (solver, cap) in enumerate(solvers):
                reached, seconds = counts(solver, A, b, cap)
                found[i].append(reached)
                spent[i].append(seconds)
        times = [f"{1e3 * statistics.median(spent[i]):.2g}" for i in (0, 1)]
        table.append((title(n, share), *(medians(f) for f in found), *times))
        print(" | ".join(table[-1]), flush=True)
    return table


def scatter(seeds: Sequence[int], config: str) -> list[tuple[str, ...]]:
    """k = 2 on small problems, one column per training seed."""
    solvers = [trained(config, seed).linear_solver() for seed in seeds]
    table = []
    for n, share in ((64, None), (128, None), (256, None), (64, 0.2), (128, 0.2)):
        systems = [system(n, share, seed) for seed in range(3 if n <= 128 else 1)]
        cap = 120 if n > 128 else 300
        table.append((title(n, share), *(medians([counts(s, A, b, cap)[0] for A, b in systems]) for s in solvers)))
        print(f"{config} | " + " | ".join(table[-1]), flush=True)
    return table


def markdown(header: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *table]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="training seeds; the first fills the table")
    parser.add_argument("--largest", type=int, default=512, help="largest grid")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    networks = {config: trained(config, options.seeds[0]) for config in dict(COLUMNS)}
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread")
    parts = [markdown(("problem", *TITLES, "ms/it. CG", "ms/it. k=2"), rows(networks, options.largest))]
    if len(options.seeds) > 1:
        for config in networks:
            header = (f"{config}, k=2", *(f"seed {seed}" for seed in options.seeds))
            parts.append(markdown(header, scatter(options.seeds, config)))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text("\n\n".join(parts) + "\n", encoding="utf8")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()

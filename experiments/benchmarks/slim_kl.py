"""Sparse kernel weights from many workers: the lines they find, what they exchange, and what the fit is worth.

Table 1: signals of three lines (amplitudes 1, 0.7, 0.3) on 500 frequencies, on the grid and moved by up to half a
cell, dealt out at random. Per number of workers and rounding: draws with the lines of one worker (exactly, and to
one cell), rounds, bytes of all messages in the most expensive round and on average, bits of a whole fit as a share of
sending the same rounds in float64, and the normalised mean squared error on held-out points.
Table 2: −u″ = f with the lines of sin 6x cos 100x at random points: the same for workers that own points.
--processes runs every consensus in real processes over gloo (the numbers are the same bits; it takes longer).

    OMP_NUM_THREADS=1 python experiments/benchmarks/slim_kl.py --draws 5 --workers 1 4 8
"""

import argparse
import math
import time
import warnings
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sciops.numerics.slim_kl.discover import discover_distributed
from sciops.numerics.slim_kl.protocol import Consensus, Settings
from sciops.numerics.slim_kl.quantise import Quantiser
from sciops.numerics.slim_kl.support import same_support, support
from sciops.solvers.slim_kl import SlimKL

LINES = {60: 1.0, 200: 0.7, 333: 0.3}
ROUNDINGS = {
    "none": Quantiser(0.0),
    "Δ = 1e-3 of the largest": Quantiser(1e-3),
    "Δ = 1e-1 of the largest": Quantiser(1e-1),
    "Δ = 1e-3 absolute": Quantiser(1e-3, relative=False, differences=False),
    "Δ = 1e-1 absolute": Quantiser(1e-1, relative=False, differences=False),
}
COLUMNS = ("same lines", "to one cell", "rounds", "max B/round", "mean B/round", "B/worker/round", "bits / float64")


@dataclass
class Tally:
    """One line of a table, over draws."""

    exact: int = 0
    near: int = 0
    rounds: int = 0
    largest: int = 0
    bytes: int = 0
    plain: int = 0
    nmse: float = 0.0
    seconds: float = 0.0
    draws: int = 0

    def add(self, lines: Tensor, alone: Tensor, grid: Tensor, consensus: Consensus | None) -> None:
        self.draws += 1
        self.exact += same_support(lines, alone, grid)
        self.near += same_support(lines, alone, grid, cells=1)
        if consensus is not None:
            sent = [r.bytes for r in consensus.rounds]
            self.rounds += len(sent)
            self.largest = max(self.largest, *sent)
            self.bytes += sum(sent)
            self.plain += len(sent) * 2 * len(consensus.rounds[0].up) * 8 * len(consensus.theta)

    def cells(self, workers: int) -> list[str]:
        start = [f"{self.exact}/{self.draws}", f"{self.near}/{self.draws}"]
        if not self.rounds:
            return [*start, *["–"] * 5]
        mean = self.bytes / self.rounds
        return [
            *start,
            f"{self.rounds / self.draws:.0f}",
            str(self.largest),
            f"{mean:.0f}",
            f"{mean / workers:.0f}",
            f"{self.bytes / self.plain:.4f}",
        ]


def signal(seed: int, noise: float, on_grid: bool, points: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.arange(points, dtype=torch.float64)
    y = torch.zeros_like(x)
    for index, amplitude in LINES.items():
        offset, phase = torch.rand(2, generator=random, dtype=torch.float64).tolist()
        mu = 0.5 / 499 * (index + (0.0 if on_grid else offset - 0.5))
        y += amplitude * torch.cos(2 * math.pi * (mu * x + phase))
    return x, y / y.std() + noise**0.5 * torch.randn(points, generator=random, dtype=torch.float64)


def regression(options: argparse.Namespace, on_grid: bool) -> Table:
    kind = "on the grid" if on_grid else "between grid points"
    table = Table(title=f"Three lines {kind}, {options.points} points, noise variance {options.noise:g}")
    for name in ("workers", "rounding", *COLUMNS, "NMSE", "CPU s"):
        table.add_column(name, justify="right")
    tallies: dict[tuple[int, str], Tally] = {}
    for seed in range(options.draws):
        x, y = signal(seed, options.noise, on_grid, options.points)
        test = torch.rand(len(x), generator=torch.Generator().manual_seed(seed + 999)) < 0.2
        alone: Tensor | None = None
        for workers in [1, *(w for w in options.workers if w > 1)]:
            for name, quantiser in ROUNDINGS.items() if workers > 1 else [("–", Quantiser())]:
                begun = time.process_time()
                model = SlimKL(
                    workers=workers, noise=options.noise, sample=1.0, processes=options.processes and workers > 1,
                    settings=Settings(quantiser, rho=options.rho, seed=seed),
                ).fit(x[~test], y[~test])  # fmt: skip
                mean, _ = model.predict(x[test])
                assert model.fitted is not None
                lines = model.fitted.support()
                alone = lines if alone is None else alone
                tally = tallies.setdefault((workers, name), Tally())
                tally.add(lines, alone, model.fitted.frequencies, model.fitted.consensus)
                tally.nmse += float((mean - y[test]).square().mean() / y[test].var())
                tally.seconds += time.process_time() - begun
    for (workers, name), tally in tallies.items():
        end = [f"{tally.nmse / tally.draws:.2e}", f"{tally.seconds / tally.draws:.1f}"]
        table.add_row(str(workers), name, *tally.cells(workers), *end)
    return table


def equation(options: argparse.Namespace) -> Table:
    points = options.points
    table = Table(title=f"−u″ = f, u = sin 6x cos 100x on [0, 2π], {points} random points")
    for name in ("workers", "rounding", *COLUMNS, "lines of u found [rad/unit]"):
        table.add_column(name, justify="right")
    length = 2 * math.pi
    mu = torch.arange(1, 240, dtype=torch.float64) / (1.37 * length)
    alone: list[Tensor] = []
    for workers in [1, *(w for w in options.workers if w > 1)]:
        for name, quantiser in list(ROUNDINGS.items())[:3] if workers > 1 else [("none", Quantiser(0.0))]:
            tally, shown = Tally(), ""
            for seed in range(options.draws):
                random = torch.Generator().manual_seed(seed)
                x = length * torch.rand(points, generator=random, dtype=torch.float64)
                f = 0.5 * (106**2 * torch.sin(106 * x) - 94**2 * torch.sin(94 * x))
                phase = 2 * math.pi * x[:, None] * mu
                features = (2 * math.pi * mu[:, None]).square() * torch.stack((phase.cos(), phase.sin()), -1)
                blocks = torch.randperm(points, generator=random).tensor_split(workers)
                found = discover_distributed(
                    [features[i] for i in blocks], [f[i] for i in blocks],
                    settings=Settings(quantiser, rho=1.0, seed=seed), processes=options.processes and workers > 1,
                )  # fmt: skip
                lines = support(found.weights, mu[:, None])
                if workers == 1:
                    alone.append(lines)
                tally.add(lines, alone[seed], mu[:, None], found.consensus)
                shown = ", ".join(f"{2 * math.pi * float(m):.1f}" for m in mu[lines])
            table.add_row(str(workers), name, *tally.cells(workers), shown)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--points", type=int, default=400)
    parser.add_argument("--noise", type=float, default=1e-3)
    parser.add_argument("--rho", type=float, default=1e-10, help="ρ at the start (published: 1e-10)")
    parser.add_argument("--processes", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # that a coarse absolute Δ does not settle is what the table shows
    console = Console(width=170)
    for on_grid in (True, False):
        console.print(regression(options, on_grid))
    console.print(equation(options))


if __name__ == "__main__":
    main()

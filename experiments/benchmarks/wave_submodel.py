"""Classical submodelling of waves: what the trace of a coarse global model is worth on the edge and inside.

Law of `datasets/wave_trace_coarse.yaml`: two layers, open sides, zone of interest [¼, ¾]² at h = 1/64, 64 frames.
Rows: the true trace (what 64 frames lose between them), traces of global models on coarser meshes, no waves at all.
Errors are relative L², mean over cases: of the trace, and of the field inside the submodel that it drives.

    OMP_NUM_THREADS=1 python experiments/benchmarks/wave_submodel.py [--cases 8]
    OMP_NUM_THREADS=1 python experiments/benchmarks/wave_submodel.py --networks dense succession:24

With --networks also traces that a network makes of that of 16×16 cells: u = coarse + G(coarse), G four convolutions of
width 24 and seven points over (share of the way around, time), dense or compressed before training, on `--train` other
waves, in as many steps of Adam as the others. "train" is CPU time.
"""

import argparse
import time
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sciops.core.cases import Cases
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.models.compressed import compress
from sciops.models.compressed.curve import relative_l2
from sciops.models.wave_cnn import WaveCNN
from sciops.numerics.wave_submodel import trace_of
from sciops.problems.wave_submodel import WaveTrace

LAYERED = {"layers": 2, "sides": "absorbing"}
GRID = Grid.box((128, 64), upper=(1.0, 63 / 64), layout=("periodic", "node"))


FROM = 16  # cells per axis of the global model that networks start from


def error(found: Tensor, true: Tensor) -> float:
    return float(relative_l2(found, true).mean())


def frames(problem: WaveTrace, cases: Cases) -> Tensor:
    """u on the window (n, t, x, y) from the run on the whole square."""
    waves = problem.model.cases_of(cases.params, problem.zone(GRID), problem.moments(GRID))
    return problem.model.frames_of(waves)


def edge(values: Tensor) -> Tensor:
    """The edge of frames on the window, as a field on GRID (n, 1, p, t)."""
    return trace_of(values).transpose(1, 2)[:, None]


def pairs(seeds: list[int]) -> tuple[Tensor, Tensor]:
    """Coarse and true traces, float32."""
    problem = WaveTrace(wave=LAYERED, given="coarse", coarse=FROM)
    cases = problem.sample(seeds, GRID)
    return cases.inputs.values[:, 0].float(), edge(frames(problem, cases)).float()


def network(case: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = WaveCNN(1, 1, bc=["periodic", "free"])
    scheme, _, rank = case.partition(":")
    return net if case == "dense" else compress(net, scheme, float(rank) if "." in rank else int(rank))


def train(net: nn.Module, x: Tensor, y: Tensor, steps: int, batch: int, lr: float, seed: int) -> float:
    """CPU seconds."""
    started, g = time.process_time(), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        rows = torch.randint(len(x), (batch,), generator=g)
        loss = relative_l2(x[rows] + net(x[rows]), y[rows]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cycle.step()
    return time.process_time() - started


def main(arguments: list[str] | None = None) -> dict[str, tuple[float, float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--networks", nargs="*", default=[], help="dense, scheme:rank or scheme:fraction")
    parser.add_argument("--train", type=int, default=96, help="waves to learn from")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    seeds = list(range(args.cases))
    torch.set_num_threads(1)
    problem = WaveTrace(wave=LAYERED)
    cases = problem.sample(seeds, GRID)
    whole = frames(problem, cases)
    field, trace = whole[:, :, None, 1:-1, 1:-1], Field.steady(edge(whole), GRID, ("u",))
    table = Table("trace from", "on the edge", "inside", "parameters", "train, CPU s")
    found: dict[str, tuple[float, float]] = {}

    def row(name: str, guess: Field, *facts: str) -> None:
        inside = problem.inside(cases, guess).values[..., 1:-1, 1:-1]
        found[name] = error(guess.values, trace.values), error(inside, field)
        table.add_row(name, *(f"{e:.2g}" for e in found[name]), *facts)

    row("the truth, 64 frames", trace)
    told = {}
    for mesh in (8, 16, 32):
        told[mesh] = WaveTrace(wave=LAYERED, given="coarse", coarse=mesh).sample(seeds, GRID).inputs.values
        row(f"{mesh}×{mesh} cells", replace(trace, values=told[mesh]))
    row("nothing", trace * 0.0)
    if args.networks:
        x, y = pairs(list(range(10_000, 10_000 + args.train)))
        scale = y.std()
    for case in args.networks:
        net = network(case, args.seed)
        spent = train(net, x / scale, y / scale, args.steps, args.batch, args.lr, args.seed)
        start = told[FROM][:, 0].float() / scale
        with torch.no_grad():
            guess = (scale * (start + net(start))).double()[:, None]
        count = sum(p.numel() for p in net.parameters())
        row(f"{FROM}×{FROM} cells and a network, {case}", replace(trace, values=guess), str(count), f"{spent:.0f}")
    Console(width=120).print(table)
    return found


if __name__ == "__main__":
    main()

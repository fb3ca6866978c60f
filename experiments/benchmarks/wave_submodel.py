"""Classical submodelling of waves: what the trace of a coarse global model is worth on the edge and inside.

Law of `datasets/wave_trace_coarse.yaml`: two layers, open sides, zone of interest [¼, ¾]² at h = 1/64, 64 frames.
Rows: the true trace (what 64 frames lose between them), traces of global models on coarser meshes, no waves at all.
Errors are relative L², mean over cases: of the trace, and of the field inside the submodel that it drives. These are
the bars for networks that forecast the trace.

    OMP_NUM_THREADS=1 python experiments/benchmarks/wave_submodel.py [--cases 8]
"""

import argparse
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.problems.wave_submodel import WaveTrace

LAYERED = {"layers": 2, "sides": "absorbing"}
GRID = Grid.box((128, 64), upper=(1.0, 63 / 64), layout=("periodic", "node"))


def error(found: torch.Tensor, true: torch.Tensor) -> float:
    return float(((found - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=8)
    seeds = list(range(parser.parse_args().cases))
    torch.set_num_threads(1)
    problem = WaveTrace(wave=LAYERED)
    cases = problem.sample(seeds, GRID)
    waves = problem.model.cases_of(cases.params, problem.zone(GRID), problem.moments(GRID))
    field = problem.model.frames_of(waves)[:, :, None, 1:-1, 1:-1]
    trace = problem.reference(cases).field
    table = Table("trace from", "on the edge", "inside")

    def row(name: str, guess: Field) -> None:
        inside = problem.inside(cases, guess).values[..., 1:-1, 1:-1]
        table.add_row(name, f"{error(guess.values, trace.values):.1e}", f"{error(inside, field):.1e}")

    row("the truth, 64 frames", trace)
    for mesh in (8, 16, 32):
        told = WaveTrace(wave=LAYERED, given="coarse", coarse=mesh).sample(seeds, GRID)
        row(f"{mesh}×{mesh} cells", replace(trace, values=told.inputs.values))
    row("nothing", trace * 0.0)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

"""Pressure solves of real OpenFOAM cases: trained multigrid beside PCG-DIC and GAMG.

One row per case and method: mean iterations per pressure solve, OpenFOAM's ExecutionTime (CPU seconds of the whole
run, in brackets without the first step, in which models are loaded), seconds relative to PCG-DIC, and the largest
difference of p and U at the end to the run with PCG-DIC, relative to their largest values. Every method gets the same
tolerance. Cases: cavities (icoFoam, one block), dam break (interFoam, coefficients change in every solve),
backward-facing step (simpleFoam, stretched curvilinear blocks). Needs the packages openfoam and openfoam-examples.

    sciops build openfoam
    OMP_NUM_THREADS=1 python experiments/benchmarks/openfoam_cases.py MODEL.sciops --library sciops_lib/lib

What the advice of a network adds to the operator-dependent cycle: the same cycle without one as a further row.

    sciops export multigrid --ndim 2 --precision 32 --out plain.sciops
    OMP_NUM_THREADS=1 python experiments/benchmarks/openfoam_cases.py MODEL.sciops --beside plain.sciops
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sciops.core.errors import UsageError
from sciops.embed import openfoam_cases as openfoam

Maker = Callable[[Path, str], Path]


def cases(names: list[str], quick: bool) -> dict[str, tuple[Maker, str]]:
    """Each case: how to make it with a pressure solver, and the field that is solved for."""
    share = 5 if quick else 1
    every: dict[str, tuple[Maker, str]] = {
        "cavity 128": (lambda f, p: openfoam.cavity(f, 128, 20 // share, p), "p"),
        "cavity 256": (lambda f, p: openfoam.cavity(f, 256, 10 // share, p, 1e-8), "p"),
        "cavity 20": (lambda f, p: openfoam.cavity(f, 20, 100 // share, p), "p"),
        "dam break": (lambda f, p: openfoam.dam_break(f, 50 // share, p), "p_rgh"),
        "backward step": (lambda f, p: openfoam.backward_step(f, 20 // share, p), "p"),
    }
    unknown = [name for name in names if name not in every]
    if unknown:
        raise UsageError(f"There is no case {unknown[0]!r}; choose from {', '.join(every)}.")
    return {name: every[name] for name in names or every}


def methods(
    artefact: Path | None, beside: list[Path], direction: Path | None, precision: int, native_only: bool
) -> dict[str, str]:
    rows = {"PCG-DIC": openfoam.DIC, "GAMG": openfoam.GAMG}
    if native_only:
        return rows
    more = f"precision {precision}; "
    for other in beside:
        rows[f"PCG sciops, {other.stem}"] = openfoam.preconditioner(other.resolve(), more)
    if artefact is not None:
        rows["PCG sciops"] = openfoam.preconditioner(artefact.resolve(), more)
        rows["PCG sciops, reuse 0.1"] = openfoam.preconditioner(artefact.resolve(), more + "reuse 0.1;")
        rows["sciopsFCG"] = openfoam.flexible(artefact.resolve(), more)
    if direction is not None:
        rows["sciopsFCG, directions"] = openfoam.flexible(direction.resolve(), more)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artefact", type=Path, nargs="?", help="a multigrid artefact, NAME.sciops")
    parser.add_argument(
        "--beside", type=Path, nargs="*", default=[], metavar="OTHER.sciops", help="multigrid artefacts to compare with"
    )
    parser.add_argument("--direction", type=Path, help="a direction artefact, NAME.sciops")
    parser.add_argument("--library", type=Path, default=Path("sciops_lib/lib"), help="folder of libsciopsFoam.so")
    parser.add_argument("--cases", nargs="*", default=[], metavar="NAME", help="some of the cases")
    parser.add_argument("--precision", type=int, default=32, choices=(32, 64))
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps")
    parser.add_argument("--native-only", action="store_true", help="PCG-DIC and GAMG alone")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each; the shortest counts")
    parser.add_argument("--markdown", action="store_true", help="rows for a document")
    options = parser.parse_args()
    plugin = options.library.resolve()
    rows = methods(options.artefact, options.beside, options.direction, options.precision, options.native_only)
    if not options.native_only and not (plugin / "libsciopsFoam.so").exists():
        raise SystemExit(f"There is no libsciopsFoam.so in {plugin}: run `sciops build openfoam` or give --library.")

    table = Table(title="OpenFOAM, pressure solves")
    for column in (
        "case",
        "cells",
        "method",
        "solves",
        "iterations",
        "seconds",
        "÷ PCG-DIC",
        "difference p, U",
        "grid",
    ):
        table.add_column(column)
    for name, (make, pressure) in cases(options.cases, options.quick).items():
        reference: tuple[np.ndarray, np.ndarray, float] | None = None
        for method, text in rows.items():
            seconds, steady = float("inf"), float("inf")
            for _ in range(options.repeats):
                with tempfile.TemporaryDirectory() as scratch:
                    case = make(Path(scratch), text)
                    openfoam.mesh(case)
                    log = openfoam.run(case, plugin if "sciops" in method else None)
                    if log.code:
                        break
                    seconds, steady = min(seconds, log.seconds), min(steady, log.steady_seconds)
                    p, u = openfoam.field(case, pressure), openfoam.field(case, "U")
            if log.code:
                table.add_row(name, "", method, "failed: " + log.text.strip().splitlines()[-1][:60])
                continue
            reference = reference or (p, u, seconds)
            apart = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip((p, u), reference[:2], strict=True)]
            counts = log.iterations(pressure)
            found = " ".join(f"{grid} ({how})" for grid, how in log.grids)
            table.add_row(
                name, str(p.size), method, str(len(counts)), f"{np.mean(counts):.1f}", f"{seconds:.2f} ({steady:.2f})",
                f"{seconds / reference[2]:.2f}", f"{apart[0]:.0e}, {apart[1]:.0e}", found,
            )  # fmt: skip
    if options.markdown:
        rows_of_text = zip(*(column.cells for column in table.columns), strict=True)
        print(*("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows_of_text), sep="\n")
    else:
        Console(width=140).print(table)


if __name__ == "__main__":
    main()

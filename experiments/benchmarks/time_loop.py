"""A trained step in the time loop of a C program beside its rivals: the whole chain from a finished run to the table.

    sciops fit --config experiments/heat_steps/patches.yaml
    python experiments/benchmarks/time_loop.py runs/heat_steps/patches [--library sciops_lib/lib] [--markdown]

Exports the run (or takes a NAME.sciops), builds the C library where there is none, compiles the example time_loop.c and
runs it where sources switch and where they change smoothly, at each tolerance. Rows: where the conjugate gradients of
every step start. Columns: steps that the start made alone (accepted), proposals that did not lower the energy
(refused), iterations, CPU seconds of starts, network calls and solves together (the least of all repeats), the same
relative to the start from the previous state, mean and worst error of the start relative to that state's in the norm of
A, and the difference of the last state to a loop to 1e-12. One thread. Fails where a loop is less accurate than its
tolerance allows.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sciops.embed.artifact import Artifact
from sciops.embed.build import SOURCES, build_capi
from sciops.embed.export import export

COLUMNS = ("accepted", "refused", "iterations", "seconds", "error", "worst", "difference")
WIDTH = 34
"""Characters of a row's name in the program's table."""


def artefact(run: Path, path: Path) -> Path:
    """The run for its training grid, in float32, since the outer iteration is in float64 anyway."""
    if (run / "manifest.json").is_file():
        return run
    export(run, path, precisions=[32], one_grid=True)
    return path


def compiled(library: Path, folder: Path) -> Path:
    if not (library / "libsciops.so").is_file():
        print(f"There is no libsciops.so in {library}: building it.")
        build_capi(folder)
        library = folder / "lib"
    library, program = library.resolve(), folder / "time_loop"
    source, flags = str(SOURCES / "examples" / "time_loop.c"), [f"-I{SOURCES / 'include'}", f"-L{library}", "-lsciops"]
    command = ["cc", "-O3", "-march=native", source, *flags, "-lm", f"-Wl,-rpath,{library}", "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def rows(program: Path, *arguments: str) -> dict[str, dict[str, float]]:
    """The program's table: numbers of every row by column."""
    text = subprocess.run([str(program), *arguments], check=True, capture_output=True, text=True).stdout
    found = {}
    for line in text.splitlines()[1:]:
        numbers = line[WIDTH:].replace("(", " ").replace(")", " ").split()
        found[line[:WIDTH].strip()] = dict(zip(COLUMNS, map(float, numbers), strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run of `sciops fit`, a checkpoint, or an artefact NAME.sciops")
    parser.add_argument("--out", type=Path, help="keep the artefact as this folder, NAME.sciops")
    parser.add_argument("--library", type=Path, default=Path("sciops_lib/lib"), help="folder of libsciops.so")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--tolerances", nargs="*", default=["1e-2", "1e-3", "1e-6"])
    parser.add_argument("--scenarios", nargs="*", default=["switching", "smooth"])
    parser.add_argument("--exponent", default="1.3333333333333333", help="of the conductivity, as in training")
    parser.add_argument("--seed", default="1", help="of the sources")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the least seconds count")
    parser.add_argument("--markdown", action="store_true", help="rows for a document")
    options = parser.parse_args()
    table = Table(title=f"{options.steps} steps with {options.run}")
    for column in (
        "sources", "tolerance", "start", "accepted", "refused", "iterations", "seconds", "÷ state", "error (worst)",
        "difference",
    ):  # fmt: skip
        table.add_column(column)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path, program = (
            artefact(options.run, options.out or folder / "heat_step.sciops"),
            compiled(options.library, folder),
        )
        facts = Artifact.load(path).manifest
        if facts.step is None or [c["name"] for c in facts.inputs] != ["u", "f"]:
            raise SystemExit(f"{options.run} is no one-step operator with the channels u and f.")
        size, dt = str(facts.grid["shape"][0]), str(facts.step["dt"])
        for scenario in options.scenarios:
            for tolerance in options.tolerances:
                end = (str(options.steps), tolerance, scenario, options.exponent, options.seed)
                runs = [rows(program, str(path.resolve()), size, dt, *end) for _ in range(options.repeats)]
                least = {name: min(found[name]["seconds"] for found in runs) for name in runs[0]}
                state = least["previous state"]
                for name, row in runs[0].items():
                    table.add_row(
                        scenario, tolerance, name, f"{row['accepted']:.0f}", f"{row['refused']:.0f}",
                        f"{row['iterations']:.0f}", f"{least[name]:.4f}", f"{least[name] / state:.2f}",
                        f"{row['error']:.3f} ({row['worst']:.3f})", f"{row['difference']:.1e}",
                    )  # fmt: skip
    if options.markdown:
        print("| " + " | ".join(str(column.header) for column in table.columns) + " |")
        print("|" + "---|" * len(table.columns))
        rows_of_text = zip(*(column.cells for column in table.columns), strict=True)
        print(*("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows_of_text), sep="\n")
    else:
        Console(width=150).print(table)


if __name__ == "__main__":
    main()

"""The verbs `export`, `recompile` and `info` on artefacts, as the command line calls them."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciops.core.errors import UsageError
from sciops.embed.manifest import MANIFEST, Manifest, read_manifest, verify

if TYPE_CHECKING:
    from rich.table import Table


def add_verbs(verbs: Any) -> None:
    """Add `export` and `recompile` to the parsers of the command line."""
    verb = verbs.add_parser("export", help="compile a trained model for C, Fortran, OpenFOAM, PETSc, SciPy")
    verb.add_argument(
        "source", metavar="RUN", help="a checkpoint or its folder, or the word multigrid for the untrained method"
    )
    verb.add_argument("--out", type=Path, required=True, help="the artefact to write, NAME.sciops")
    verb.add_argument("--precision", default="32,64", help="32, 64 or 32,64 (default)")
    verb.add_argument("--march", help="instruction set, for example x86-64-v3 (default there) or native")
    verb.add_argument("--ndim", type=int, help="2 or 3, of an untrained multigrid")
    verb.add_argument("--name", help="name in the manifest (default: that of the run)")
    verb.add_argument(
        "--convert", metavar="METHOD", help="of an operator: what it becomes on another grid (point, lattice, …)"
    )
    verb.add_argument("--shape", type=int, nargs="+", metavar="N", help="points of that grid along each axis")
    verb.add_argument(
        "--one-grid",
        action="store_true",
        help="of an operator: for its training grid alone, without a search for sizes",
    )
    verb.add_argument("--onnx", action="store_true", help="write model.onnx besides, where it is exact")
    verb.add_argument("--overwrite", action="store_true", help="replace an artefact of that name")
    verb.set_defaults(run=_export)

    verb = verbs.add_parser("recompile", help="compile an artefact again, for this torch and processor")
    verb.add_argument("artefact", type=Path, help="a folder NAME.sciops")
    verb.add_argument("--march", help="instruction set (default: that of the artefact); native for this processor")
    verb.set_defaults(run=_recompile)


def is_artefact(path: Path) -> bool:
    """Whether `sciops info` should describe this as an artefact."""
    return path.is_dir() and (path.suffix == ".sciops" or (path / MANIFEST).is_file())


def table(path: Path) -> "Table":
    """What an artefact says about itself, after its checksums were compared."""
    from rich.markup import escape
    from rich.table import Table

    manifest = read_manifest(path)
    verify(path, manifest)
    grid = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for key, value in lines(manifest):
        grid.add_row(key, escape(value))
    grid.add_row("checksums", f"{len(manifest.files)} files as exported")
    return grid


def lines(manifest: Manifest) -> list[tuple[str, str]]:
    """The facts of a manifest as pairs of text."""
    m = manifest
    claims = [
        name for name, holds in (("linear", m.linear), ("symmetric", m.symmetric), ("positive", m.positive)) if holds
    ]
    found = [("name", m.name), ("kind", f"{m.kind}, {m.ndim}-D" + (f" ({', '.join(claims)})" if claims else ""))]
    found.append(("precision", " and ".join(f"float{bits}" for bits in m.precisions)))
    found += [(f"input {c['name']}", _channel(c)) for c in m.inputs]
    found += [(f"output {c['name']}", f"in {c['unit']}" if c.get("unit") else "no unit given") for c in m.outputs]
    found.append(("grid sizes", _sizes(m)))
    if m.grid:
        box = " × ".join(f"[{lo:g}, {up:g}]" for lo, up in zip(m.grid["lower"], m.grid["upper"], strict=True))
        native = "×".join(map(str, m.grid["shape"]))
        found.append(("trained on", f"{native} points ({', '.join(m.grid['layout'])}) of {box}"))
    if m.boundary:
        found.append(("boundary", ", ".join(f"{lo}|{up}" for lo, up in m.boundary)))
    if m.step:
        found.append(("step", f"dt = {m.step['dt']:g}, {m.step['history']} frame(s) in, {m.step['block']} out"))
    if m.multigrid:
        found.append(("cycle", f"{m.multigrid['sweeps']} sweep(s), smoother {m.multigrid['smoother']}"))
    found.append(("programs", ", ".join(m.entries)))
    found.append(("compiled for", " ".join(filter(None, (m.march or "native", m.isa and f"({m.isa})")))))
    found.append(("versions", ", ".join(f"{k} {v}" for k, v in m.versions.items())))
    found.append(("created", m.created))
    for key in ("float32", "float64"):
        if key in m.checks:
            found.append((f"check {key}", f"differs from the model by {max(m.checks[key]['difference'].values()):.1e}"))
    return found + [("remark", text) for text in m.remarks]


def _channel(channel: dict[str, Any]) -> str:
    unit = f"in {channel['unit']}" if channel.get("unit") else ""
    known = channel.get("lower") is not None and channel.get("upper") is not None
    seen = f"trained from {channel['lower']:.4g} to {channel['upper']:.4g}" if known else ""
    return ", ".join(filter(None, (unit, seen))) or "range unknown"


def _sizes(manifest: Manifest) -> str:
    shape = manifest.shape
    if not shape.get("dynamic"):
        return "the training grid alone"
    parts = []
    for multiple, rest, low, high in zip(
        *(shape[k] for k in ("multiple", "remainder", "minimum", "maximum")), strict=True
    ):
        law = "" if multiple == 1 else f" of {multiple}·k" + (f" + {rest}" if rest else "")
        parts.append(f"{low} to {high}{law}" if high is not None else f"{low} on{law}")
    return " × ".join(parts)


def _export(options: argparse.Namespace) -> int:
    """Compile a trained model into one folder that C, Fortran, OpenFOAM, PETSc and SciPy programs load."""
    from sciops.embed.export import export

    words = options.precision.split(",")
    if not words or set(words) - {"32", "64"}:
        raise UsageError(f"--precision takes 32, 64 or 32,64; got {options.precision}.")
    try:
        with progress() as say:
            manifest = export(
                options.source, options.out, [int(word) for word in words], options.march, options.ndim, options.name,
                options.onnx, options.overwrite, say, options.convert, options.shape, options.one_grid,
            )  # fmt: skip
    except KeyboardInterrupt:
        print(f"\nInterrupted; {options.out} is as it was before.", file=sys.stderr)
        return 130
    print(options.out)
    for remark in manifest.remarks:
        print(remark)
    return 0


def _recompile(options: argparse.Namespace) -> int:
    """Compile the programs of an artefact again for the torch and the processor of this machine."""
    from sciops.embed.recompile import recompile

    with progress() as say:
        recompile(options.artefact, options.march, say)
    print(options.artefact)
    return 0


@contextmanager
def progress() -> Iterator[Callable[..., None]]:
    """(text, share of the work that is done or None): a bar with what is being done, on terminals; elsewhere a line
    for each text. The first text with a share of 0 says what is to come and stays."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if not console.is_terminal:
        yield lambda text, share=None: console.print(text, markup=False)
        return
    columns = (SpinnerColumn(), BarColumn(20), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading the model", total=None)

        def say(text: str, share: float | None = None) -> None:
            if share == 0.0 and bar.tasks[0].total is None:
                console.print(text, markup=False)
            bar.update(task, description=text, total=None if share is None else 1.0, completed=share or 0.0)

        yield say

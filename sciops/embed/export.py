"""`sciops export`: a trained model as a folder that other programs load without Python."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sciops.core.errors import UsageError
from sciops.embed.check import check
from sciops.embed.compile import (
    ExportFailed,
    Program,
    compiled,
    cpu_seconds,
    packaged,
    portable_march,
    save_source,
    traced,
)
from sciops.embed.manifest import PRECISIONS, Manifest
from sciops.embed.shapes import one_size, operator_program
from sciops.embed.sources import Source, find_source

Say = Callable[..., None]
"""(text, share of the expected work that is done, where it is known)."""
SECONDS = {
    ("multigrid", 2): {"setup": 50, "down": 22, "up": 20},
    ("multigrid", 3): {"setup": 60, "down": 30, "up": 50},
}
"""CPU seconds that programs of these kinds and axes took to compile (`checks` of manifests), by part; others: USUAL."""
USUAL = 20


def export(
    run: str | Path,
    out: str | Path,
    precisions: Sequence[int] = (32, 64),
    march: str | None = None,
    ndim: int | None = None,
    name: str | None = None,
    onnx: bool = False,
    overwrite: bool = False,
    say: Say = lambda text, share=None: None,
    convert: str | None = None,
    shape: Sequence[int] | None = None,
    one_grid: bool = False,
) -> Manifest:
    """Compile what `run` names into the folder `out` (NAME.sciops); nothing is left behind where that fails.

    run         a checkpoint or a folder that holds one, or "multigrid" with `ndim` for the untrained method
    precisions  of the arithmetic: 32, 64 or both; one that the network refuses is left out with a remark
    march       instruction set: by default one that other machines have too; "native" for this one
    onnx        model.onnx besides, where it is exact
    convert, shape   a method of `Converted` and a grid: what the network becomes there, for that grid alone
    one_grid    of an operator: for the training grid alone, without the search for the sizes that it takes
    Cost: tens of CPU seconds per program and precision. Needs a C++ compiler; the artefact needs none.
    """
    source = find_source(run, ndim, name, convert, shape)
    if one_grid:
        if source.module is None or source.manifest.grid is None:
            named = f"{source.manifest.name} is a {source.manifest.kind}"
            raise UsageError(f"One grid alone is for operators; {named}, which takes any size.")
        source.manifest.shape = one_size(source.manifest.grid["shape"])
    return export_source(source, out, precisions, march, onnx, overwrite, say)


def export_source(
    source: Source,
    out: str | Path,
    precisions: Sequence[int] = (32, 64),
    march: str | None = None,
    onnx: bool = False,
    overwrite: bool = False,
    say: Say = lambda text, share=None: None,
) -> Manifest:
    """The same of a model in memory, see `sources.solver_source`. An interruption leaves what was there before."""
    out = Path(out)
    if not precisions or set(precisions) - set(PRECISIONS):
        raise UsageError(f"precisions are 32 and 64; got {', '.join(map(str, precisions)) or 'none'}.")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already; choose another name or allow to overwrite it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    manifest = source.manifest
    manifest.march = portable_march() if march is None else march
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch) / "artefact"
        folder.mkdir()
        made: dict[int, list[Program]] = {}
        seconds: dict[str, float] = {}
        work = Work(manifest, sorted(set(precisions)), say)
        for bits in work.precisions:
            programs = _programs(source, bits, bool(made), say)
            if programs is not None:
                made[bits] = programs
                work.announce(programs)
                manifest.isa = write_package(programs, folder, bits, manifest.march, source.threads, seconds, work)
        manifest.precisions = sorted(made)
        manifest.checks = {"compile_cpu_seconds": seconds}
        if onnx:
            from sciops.embed.onnx import write_onnx

            say("writing model.onnx", 1.0)
            manifest.remarks.append(write_onnx(manifest, made, folder))
        manifest.stamp()
        manifest.write(folder)
        say("comparing the compiled programs with the model", 1.0)
        manifest.checks |= check(folder, manifest, made)
        manifest.write(folder)
        if out.exists():
            out.rename(Path(scratch) / "old")
        folder.rename(out)
    return manifest


class Work:
    """What is to be compiled and how much of it is done, by the seconds that such programs have taken."""

    def __init__(self, manifest: Manifest, precisions: list[int], say: Say) -> None:
        self.manifest, self.precisions, self.say = manifest, precisions, say
        self.total = self.done = 0.0

    def expected(self, program: Program) -> float:
        parts = SECONDS.get((self.manifest.kind, self.manifest.ndim), {})
        return parts.get(program.entry.rpartition("_")[2], USUAL)

    def announce(self, programs: list[Program]) -> None:
        """Before the first program is compiled: which ones, and how long that takes."""
        if self.total:
            return
        self.total = len(self.precisions) * sum(map(self.expected, programs))
        names = ", ".join(program.entry for program in programs)
        kinds = " and ".join(f"float{bits}" for bits in self.precisions)
        minutes = max(1, round(self.total / 60))
        count = f"{len(programs)} programs" if len(programs) > 1 else "one program"
        self.say(
            f"{count} to compile in {kinds} ({names}): about {minutes} minute{'s' if minutes > 1 else ''} of one core; "
            "an interruption leaves nothing behind",
            0.0,
        )

    def start(self, program: Program, bits: int) -> None:
        self.say(f"compiling {program.entry} in float{bits}", self.done / self.total if self.total else None)

    def finish(self, program: Program) -> None:
        self.done += self.expected(program)


def _programs(source: Source, bits: int, others: bool, say: Say) -> list[Program] | None:
    """The programs in a precision, None where the network refuses it and there is another."""
    dtype = PRECISIONS[bits]
    if source.programs is not None:
        return source.programs(dtype)
    assert source.module is not None
    try:
        return [operator_program(source.module(dtype), source.manifest, dtype, say)]
    except UsageError as error:
        if bits == 64 and others:
            source.manifest.remarks.append(f"No float64: {error}")
            return None
        raise


def write_package(
    programs: list[Program], folder: Path, bits: int, march: str, threads: int, seconds: dict[str, float], work: Work
) -> str:
    """Trace, keep the source of and compile all programs of a precision; the instruction set that was used."""
    files: dict[str, list[Any]] = {}
    for program in programs:
        work.start(program, bits)
        started = cpu_seconds()
        exported = traced(program)
        save_source(exported, folder / f"source.{program.entry}.float{bits}.pt2")
        files[program.entry] = compiled(exported, march, threads)
        seconds[f"{program.entry}.float{bits}"] = round(cpu_seconds() - started, 1)
        work.finish(program)
    return packaged(folder / f"model.float{bits}.pt2", files)


__all__ = ["ExportFailed", "export", "export_source", "write_package"]

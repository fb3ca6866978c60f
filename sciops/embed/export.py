"""`sciops export`: a trained model as a folder that other programs load without Python."""

import shutil
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
from sciops.embed.shapes import operator_program
from sciops.embed.sources import Source, find_source

Say = Callable[[str], None]


def export(
    run: str | Path,
    out: str | Path,
    precisions: Sequence[int] = (32, 64),
    march: str | None = None,
    ndim: int | None = None,
    name: str | None = None,
    onnx: bool = False,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Manifest:
    """Compile what `run` names into the folder `out` (NAME.sciops); nothing is left behind where that fails.

    run         a checkpoint or a folder that holds one, or "multigrid" with `ndim` for the untrained method
    precisions  of the arithmetic: 32, 64 or both; one that the network refuses is left out with a remark
    march       instruction set: by default one that other machines have too; "native" for this one
    onnx        model.onnx besides, where it is exact
    Cost: tens of CPU seconds per program and precision. Needs a C++ compiler; the artefact needs none.
    """
    return export_source(find_source(run, ndim, name), out, precisions, march, onnx, overwrite, say)


def export_source(
    source: Source,
    out: str | Path,
    precisions: Sequence[int] = (32, 64),
    march: str | None = None,
    onnx: bool = False,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Manifest:
    """The same of a model in memory, see `sources.solver_source`."""
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
        for bits in sorted(set(precisions)):
            programs = _programs(source, bits, bool(made), say)
            if programs is not None:
                made[bits] = programs
                manifest.isa = write_package(programs, folder, bits, manifest.march, source.threads, seconds, say)
        manifest.precisions = sorted(made)
        manifest.checks = {"compile_cpu_seconds": seconds}
        if onnx:
            from sciops.embed.onnx import write_onnx

            manifest.remarks.append(write_onnx(manifest, made, folder))
        manifest.stamp()
        manifest.write(folder)
        say("comparing the compiled programs with the model")
        manifest.checks |= check(folder, manifest, made)
        manifest.write(folder)
        if out.exists():
            shutil.rmtree(out) if out.is_dir() else out.unlink()
        folder.rename(out)
    return manifest


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
    programs: list[Program], folder: Path, bits: int, march: str, threads: int, seconds: dict[str, float], say: Say
) -> str:
    """Trace, keep the source of and compile all programs of a precision; the instruction set that was used."""
    files: dict[str, list[Any]] = {}
    for program in programs:
        say(f"compiling {program.entry} in float{bits}")
        started = cpu_seconds()
        exported = traced(program)
        save_source(exported, folder / f"source.{program.entry}.float{bits}.pt2")
        files[program.entry] = compiled(exported, march, threads)
        seconds[f"{program.entry}.float{bits}"] = round(cpu_seconds() - started, 1)
    return packaged(folder / f"model.float{bits}.pt2", files)


__all__ = ["ExportFailed", "export", "export_source", "write_package"]

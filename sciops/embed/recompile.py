"""`sciops recompile`: the same artefact for another torch or another processor, from the traced programs it carries."""

import contextlib
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from sciops.core.errors import DataError
from sciops.embed.check import check
from sciops.embed.compile import Program, compiled, cpu_seconds, packaged, quiet
from sciops.embed.manifest import Manifest, read_manifest, verify


def recompile(folder: str | Path, march: str | None = None, say: Callable[[str], None] = lambda text: None) -> Manifest:
    """Compile all programs of an artefact again, in place; the old one stays where that fails.

    The sources are graphs of torch operations and plain tensors: what would unpickle an object raises DataError.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    names = [source_name(entry, bits) for bits in manifest.precisions for entry in manifest.entries]
    verify(folder, manifest, names)
    manifest.march = manifest.march if march is None else march
    threads = 1 if manifest.kind == "multigrid" else 0
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        fresh = Path(scratch) / "artefact"
        fresh.mkdir()
        made: dict[int, list[Program]] = {}
        seconds: dict[str, float] = {}
        for bits in manifest.precisions:
            files: dict[str, list[Any]] = {}
            made[bits] = []
            for entry, names_of in manifest.entries.items():
                say(f"compiling {entry} in float{bits}")
                started, file = cpu_seconds(), source_name(entry, bits)
                exported = read_source(folder / file)
                shutil.copy2(folder / file, fresh / file)
                files[entry] = compiled(exported, manifest.march, threads)
                seconds[f"{entry}.float{bits}"] = round(cpu_seconds() - started, 1)
                module, arguments = exported.module(check_guards=False), exported.example_inputs[0]
                made[bits].append(Program(entry, module, arguments, (), names_of["inputs"], names_of["outputs"]))
            manifest.isa = packaged(fresh / f"model.float{bits}.pt2", files)
        if "model.onnx" in manifest.files:
            verify(folder, manifest, ["model.onnx"])
            shutil.copy2(folder / "model.onnx", fresh / "model.onnx")
        manifest.checks = {"compile_cpu_seconds": seconds}
        manifest.stamp()
        manifest.write(fresh)
        say("comparing the compiled programs with their sources")
        manifest.checks |= check(fresh, manifest, made)
        manifest.write(fresh)
        old = Path(scratch) / "old"
        folder.rename(old)
        fresh.rename(folder)
    return manifest


def source_name(entry: str, bits: int) -> str:
    return f"source.{entry}.float{bits}.pt2"


def read_source(path: Path) -> Any:
    """The ExportedProgram in a file that `torch.export.save` wrote, without unpickling any object."""
    try:
        with quiet(), no_pickles():
            return torch.export.load(path)
    except Exception as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"{path} is no traced program that can be read safely ({text}); export the model again."
        ) from None


@contextlib.contextmanager
def no_pickles() -> Iterator[None]:
    """torch.load reads tensors alone and pickle reads nothing, whatever a file says."""
    load = torch.load

    def tensors(*args: Any, **options: Any) -> Any:
        return load(*args, **(options | {"weights_only": True}))

    def refuse(*args: Any, **options: Any) -> Any:
        raise DataError("it holds pickled objects, and reading them could run code")

    with (
        mock.patch.object(torch, "load", tensors),
        mock.patch.object(pickle, "loads", refuse),
        mock.patch.object(pickle, "load", refuse),
        mock.patch.object(torch._C, "_pickle_load_obj", refuse),
    ):
        yield

"""From modules to compiled packages: tracing with free sizes where they allow it, then ahead-of-time compilation."""

import contextlib
import logging
import platform
import resource
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sciops.core.errors import SciopsError

Free = dict[int, Any]
"""Axis of an argument → torch.export.Dim."""


class ExportFailed(SciopsError):
    """The network cannot be turned into a compiled program."""


@dataclass
class Program:
    """One entry of a package: a module, tensors to trace it with, which of their axes are free, and names."""

    entry: str
    module: nn.Module
    arguments: tuple[Tensor, ...]
    free: tuple[Free, ...]
    inputs: list[str]
    outputs: list[str]


def portable_march() -> str:
    """An instruction set that other machines of the kind have as well; "" where there is no common name for one."""
    return "x86-64-v3" if platform.machine() in ("x86_64", "AMD64") else ""


def traced(program: Program) -> Any:
    """The ExportedProgram, valid for axes of length 1 too. ExportFailed if the network's code fixes a free axis."""
    import torch.fx.experimental._config as symbolic

    try:
        with torch.no_grad(), quiet(), symbolic.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            free = program.free if any(program.free) else None
            return torch.export.export(program.module.eval(), program.arguments, dynamic_shapes=free, strict=False)
    except Exception as error:  # every network fails in its own way, and all of them mean the same here
        text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportFailed(f"{program.entry} cannot be traced: {text.strip().rstrip('.:')}.") from error


def compiled(exported: Any, march: str, threads: int) -> list[Any]:
    """The files of one entry, for `packaged`. `threads`: of the compiled loops, 0: those of the process at run time."""
    from torch._inductor import aot_compile

    # Indices come from constant tables; unrolled sums over them would be most of the code.
    options: dict[str, Any] = {
        "aot_inductor.package": True,
        "assert_indirect_indexing": False,
        "unroll_reductions_threshold": 1,
    }
    if march != "native":
        options |= {"cpp.march": march, "cpp.simdlen": 256} if march else {}
    options |= {"cpp.threads": threads} if threads else {"cpp.dynamic_threads": True}
    module = exported.module(check_guards=False)
    arguments = exported.example_inputs[0]
    try:
        with torch.no_grad(), quiet():
            return list(aot_compile(module, arguments, options=options))  # type: ignore[arg-type]
    except Exception as error:  # the compiler's own
        text = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ExportFailed(f"Compilation failed: {text.rstrip('.')}; is a C++ compiler (g++) installed?") from error


def packaged(path: Path, files: dict[str, list[Any]]) -> str:
    """Write all entries into one package; the instruction set that they were compiled for."""
    from torch._inductor.package import package_aoti

    package_aoti(str(path), files)
    loader: Any = torch._C._aoti.AOTIModelPackageLoader  # type: ignore[attr-defined]
    return str(loader.load_metadata_from_package(str(path), next(iter(files))).get("AOTI_CPU_ISA", ""))


def cpu_seconds() -> float:
    """CPU seconds of this process and of the compilers it has started."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the compiler's own remarks; ours are sentences."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch._inductor", "torch.export", "torch._dynamo")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def save_source(exported: Any, path: Path) -> None:
    with quiet():
        torch.export.save(exported, path)

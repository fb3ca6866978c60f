"""Peak memory of solving a batch: device counters, or the peak resident set of a fresh process on the CPU."""

import multiprocessing
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from sciops.core.cases import Cases
from sciops.core.grid import Grid
from sciops.core.solver import Budget, Solver


def peak_memory(solver: Solver, cases: Cases, out: Grid, budget: Budget, timeout: float = 120.0) -> float | None:
    """Bytes above the level before the call; None if the solver cannot be sent to another process in time."""
    if cases.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        solver.solve(cases, out, budget)
        return float(torch.cuda.max_memory_allocated() - before)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, solver, cases, out, budget), daemon=True)
    try:
        process.start()
    except (AttributeError, TypeError, ValueError, OSError):  # a solver that cannot be pickled
        return None
    sender.close()
    try:
        return float(receiver.recv()) if receiver.poll(timeout) else None
    except EOFError:
        return None
    finally:
        process.terminate()
        process.join()


def _child(sender: Any, solver: Solver, cases: Cases, out: Grid, budget: Budget) -> None:
    solver.solve(cases[:1], out, budget)  # lazy imports and first-call buffers are not the batch's memory
    before = _restart_peak()
    solver.solve(cases, out, budget)
    sender.send(max(_peak() - before, 0))


def _restart_peak() -> int:
    """Resident bytes now; on Linux the kernel's high-water mark restarts from here."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # another system: the mark keeps the highest level since the start of the process
        return _peak()
    return _status_line("VmRSS")


def _peak() -> int:
    """Highest resident bytes since the mark was restarted."""
    if Path("/proc/self/status").exists():
        return _status_line("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_line(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))

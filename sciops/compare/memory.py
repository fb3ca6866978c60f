"""Peak memory of one solve: device counters, or the peak resident set of a fresh process on the CPU."""

import multiprocessing
import resource
import sys
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
    before = _peak_resident()
    solver.solve(cases, out, budget)
    sender.send(max(_peak_resident() - before, 0))


def _peak_resident() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""Fair clocks: synchronised, warmed up, interleaved, and told as median and quartiles."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Protocol:
    """Warm up until two runs differ by less than 5 % (at most `warmup` runs); then repeat each call until
    `repeats` runs or `seconds` of its own clock have passed, whichever comes first, but at least 3 runs.

    A per-instance solve that took longer than `once` seconds when it was judged is not run again for the clock.
    """

    repeats: int = 20
    seconds: float = 5.0
    warmup: int = 10
    once: float = 5.0


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quartiles over `repeats` runs; `first` is the first call ever made."""

    median: float
    low: float
    high: float
    first: float
    repeats: int

    @property
    def spread(self) -> float:
        """Interquartile range over median; above 0.2 the figure is flagged as noisy."""
        return (self.high - self.low) / self.median if self.median else 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def once(seconds: float) -> dict[str, float]:
    """The timing of a call that is not repeated because it was long: its one run, the solve that was judged."""
    return {"median": seconds, "low": seconds, "high": seconds, "first": seconds, "repeats": 1.0, "judged": 1.0}


def synchronise() -> None:
    """Wait for the accelerator, so that a clock reading means finished work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def clock(call: Callable[[], object]) -> float:
    """Wall seconds of one synchronised call."""
    synchronise()
    start = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - start


def measure(
    calls: dict[str, Callable[[], object]],
    protocol: Protocol,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Timing]:
    """Time several calls with interleaved repeats, so that drift of the machine hits all alike."""
    first: dict[str, float] = {}
    runs: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        progress(name)
        first[name] = previous = clock(call)
        spent = previous
        for _ in range(protocol.warmup - 1):
            if spent > protocol.seconds:
                break
            now = clock(call)
            spent += now
            if abs(now - previous) < 0.05 * previous:
                break
            previous = now
    active = list(calls)
    while active:
        for name in list(active):
            runs[name].append(clock(calls[name]))
            enough = len(runs[name]) >= protocol.repeats or sum(runs[name]) >= protocol.seconds
            if enough and len(runs[name]) >= min(3, protocol.repeats):
                active.remove(name)
    return {name: _summary(times, first[name]) for name, times in runs.items()}


def _summary(times: list[float], first: float) -> Timing:
    if len(times) < 2:
        return Timing(times[0], times[0], times[0], first, len(times))
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, low, high, first, len(times))

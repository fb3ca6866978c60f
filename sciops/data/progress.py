"""Progress for long commands: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(total: int, label: str, quiet: bool = False, every: float = 10.0) -> Iterator[Callable[[int], None]]:
    """Yield `advance(n)`. Off-terminal: one line to stderr at most every `every` seconds, and one at the end."""
    if quiet:
        yield lambda n: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total)
            yield lambda n: bar.advance(task, n)
    else:
        yield _lines(total, label, every)


def _lines(total: int, label: str, every: float) -> Callable[[int], None]:
    started = last = time.monotonic()
    done = 0

    def advance(n: int) -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if done >= total or now - last >= every:
            last = now
            rate = done / max(now - started, 1e-9)
            print(f"{label}: {done}/{total} cases, {rate:.1f} cases/s", file=sys.stderr, flush=True)

    return advance

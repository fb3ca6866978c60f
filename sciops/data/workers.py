"""Worker processes that give the same bits as one process and never outlive their parent."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from sciops.core.errors import DataError


def map_unordered(function: Callable[..., int], arguments: Sequence[tuple[Any, ...]], workers: int) -> Iterator[int]:
    """Results of function(*a) for every a, as they finish; a failure in a worker is raised here."""
    if workers == 1 or len(arguments) == 1:
        for each in arguments:
            yield function(*each)
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(arguments)), context, initializer=_follow_parent) as pool:
        futures = [pool.submit(function, *each) for each in arguments]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise DataError(
                "A worker process died (most likely out of memory); finished parts are kept: run the same command "
                "with fewer workers, or a recipe with a smaller batch."
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _follow_parent() -> None:
    """Leave when the parent dies: after `kill -9` a pool worker would otherwise wait for work for ever."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_leave, args=(parent.sentinel,), daemon=True).start()


def _wait_and_leave(sentinel: int) -> None:
    from multiprocessing.connection import wait

    wait([sentinel])
    os._exit(1)

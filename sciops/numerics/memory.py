"""What the C library does with freed memory."""

from functools import lru_cache

import torch

BLOCK = 31 * 2**20


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Let the process keep freed blocks of some megabytes instead of handing them back and asking for them anew.

    Short steps on arrays of a megabyte otherwise spend a good part of their time on page faults. glibc keeps blocks as
    large as the largest one (up to 32 MiB) that was freed so far: one such block is made and freed here, once a
    process. Other C libraries are not affected.
    """
    block = torch.empty(BLOCK, dtype=torch.uint8)
    del block

"""Seeds: every case owns one, so any case can be rebuilt alone, in any order, on any worker."""

import hashlib

import torch


def case_seed(root_seed: int, case_id: int, stream: str = "") -> int:
    """63-bit seed = SHA-256(root seed, case id, stream): independent of order, batch and process."""
    digest = hashlib.sha256(f"{root_seed}/{case_id}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int) -> torch.Generator:
    """A CPU generator: drawing on the CPU gives the same numbers whatever device solves the case."""
    return torch.Generator().manual_seed(seed)

"""What a format says about a file: its header and where each channel lives."""

from dataclasses import dataclass, field
from typing import NamedTuple

from sciops.data.header import Header


class Source(NamedTuple):
    """Where one scalar channel lives: a member with axes [N][T][*s][components]."""

    member: str
    component: tuple[int, ...] = ()
    sample_varying: bool = True
    time_varying: bool = False
    dim_varying: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Contents:
    """What a format finds in a file. `per_case`: case_id, seed, residual, label_error → member."""

    header: Header
    count: int
    sources: dict[str, Source]
    per_case: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    boundary: dict[str, str] = field(default_factory=dict)
    fingerprint: str | None = None

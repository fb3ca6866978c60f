"""What every host program asks of an artefact before it preconditions with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciops.core.errors import UsageError

if TYPE_CHECKING:
    from sciops.embed.artifact import Artifact

NONFINITE = "The network answered with values that are not finite; use precision 64 or another model."


def load(path: str | Path, precision: int = 0, threads: int = 0) -> "Artifact":
    """The artefact NAME.sciops, its files checked. `threads` of torch in this process; 0 leaves them alone."""
    import torch

    from sciops.embed.artifact import Artifact

    if threads > 0:
        torch.set_num_threads(threads)
    return Artifact.load(path, precision)


def is_linear(artifact: Any) -> bool:
    """May conjugate gradients use it: linear, symmetric and positive? Refuses what is no preconditioner."""
    facts = artifact.manifest
    if facts.kind not in ("multigrid", "direction"):
        raise UsageError(
            f"'{facts.name}' is an artefact of kind {facts.kind}; kinds multigrid and direction are preconditioners."
        )
    return bool(facts.linear and facts.symmetric and facts.positive)

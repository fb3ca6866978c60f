"""Model files: plain tensors, numbers and strings that say which network they belong to; reading runs no code."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from sciops.core.errors import DataError, UsageError

SCHEMA = 1
KEY = "sciops"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint on the CPU, tensors and plain values only (`weights_only`)."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"Checkpoint {path} does not exist; train one with `sciops fit` or name another file.")
    if not is_zipfile(path):  # what torch.save has written since 2020
        raise DataError(f"Checkpoint {path} is truncated or no checkpoint at all; train it again or name another file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, OSError, ValueError, LookupError) as error:
        if "weights_only" in str(error) or "Weights only" in str(error):
            raise DataError(
                f"Checkpoint {path} holds Python objects beside tensors and plain values, and reading them could run "
                "code; save its state_dict alone, or make it again with `sciops fit`."
            ) from None
        raise DataError(f"Checkpoint {path} is damaged; train it again or name another file.") from None
    if not isinstance(content, dict) or "state_dict" not in content:
        raise DataError(f"Checkpoint {path} has no state_dict; it was not written by sciops or Lightning.")
    return content


def read_model(path: str | Path) -> dict[str, Any]:
    """A checkpoint that sciops wrote: `state_dict`, `hyper_parameters` and the facts under "sciops"."""
    content = read_checkpoint(path)
    facts = content.get(KEY)
    if not isinstance(facts, dict):
        raise DataError(f"Checkpoint {path} does not say which model it holds (no '{KEY}' entry); make it with sciops.")
    if facts.get("schema") != SCHEMA:
        raise DataError(
            f"Checkpoint {path} has schema {facts.get('schema')}, but this version reads schema {SCHEMA}; train it "
            "again or use the sciops version that wrote it."
        )
    return content


def require_match(
    mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], models: tuple[str, str], where: str
) -> None:
    """Raise UsageError, in one sentence, if weights `theirs` of models[1] do not fit `mine` of models[0]."""
    missing = sorted(set(mine) - set(theirs))
    surplus = sorted(set(theirs) - set(mine))
    reshaped = [k for k in mine if k in theirs and mine[k].shape != theirs[k].shape]
    if not (missing or surplus or reshaped):
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} weights are missing (first {missing[0]})")
    if surplus:
        parts.append(f"{len(surplus)} are unknown here (first {surplus[0]})")
    if reshaped:
        key = reshaped[0]
        parts.append(f"{len(reshaped)} have another shape ({key}: {_size(theirs[key])} against {_size(mine[key])})")
    raise UsageError(
        f"{where} holds another model: it was saved from {models[1]}, this is {models[0]}; {', '.join(parts)}; "
        "use the configuration it was trained with, or another checkpoint."
    )


def describe_net(spec: Mapping[str, Any] | None) -> str:
    """`MgNO(width=24, layers=4)` from a class path and its arguments."""
    if not spec:
        return "an unnamed network"
    arguments = ", ".join(f"{k}={v}" for k, v in (spec.get("init_args") or {}).items())
    return f"{str(spec['class_path']).rpartition('.')[2]}({arguments})"


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"

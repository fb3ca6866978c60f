"""What a supervised operator knows of its data: channels, grid, boundary, and how a network is fitted to them."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.config import build, check_keys, resolve_class, spec
from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.solvers.checkpoint import SCHEMA


def varying_inputs(dataset: Dataset) -> list[str]:
    """Names of the inputs that are not one and the same number over all cases and points."""
    values = dataset.cases().inputs.values[:, 0]
    names = [channel.name for channel in dataset.problem.inputs]
    return [
        name for name, value in zip(names, values.unbind(1), strict=True) if bool((value != value.flatten()[0]).any())
    ]


def data_facts(dataset: Dataset, kept: Sequence[str]) -> dict[str, Any]:
    """Plain facts of a training set. `kept`: the inputs that the network sees; of the others, those that never vary
    carry no information, and their values are recorded in `constants`."""
    problem = dataset.problem
    names = [channel.name for channel in problem.inputs]
    varying = varying_inputs(dataset)
    first = dataset.cases(slice(0, 1))
    if not varying:
        raise UsageError(
            f"Every input of {type(problem).__name__} is constant over the {len(dataset)} training cases "
            f"({', '.join(names)}); there is nothing to learn from."
        )
    grid = dataset.grid
    return {
        "schema": SCHEMA,
        "problem": spec(problem),
        "inputs": names,
        "kept": list(kept),
        "constants": {
            name: float(first.input(name).flatten()[0]) for name in names if name not in kept and name not in varying
        },
        "outputs": [channel.name for channel in problem.outputs],
        "ranges": ranges(dataset.cases().inputs.values[:, 0], names),
        "grid": {k: list(getattr(grid, k)) for k in ("shape", "lower", "upper", "layout")},
        "boundary": [list(pair) for pair in problem.boundary.kinds],
        "fingerprint": dataset.fingerprint,
    }


def ranges(values: Float[Tensor, "n c *s"], names: Sequence[str]) -> dict[str, list[float]]:
    """Least and largest value of every channel."""
    return {name: [float(v.min()), float(v.max())] for name, v in zip(names, values.unbind(1), strict=True)}


def grid_of(facts: Mapping[str, Any]) -> Grid:
    """The training grid."""
    table = facts["grid"]
    return Grid(*(tuple(table[k]) for k in ("shape", "lower", "upper", "layout")))


def complete(net: Mapping[str, Any] | str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The network's class path and arguments with everything that the data determines filled in, unless given.

    Recognised constructor arguments: in_channels, out_channels, ndim, bc (one condition per axis), layout, native (the
    training grid as a table of shape, lower, upper, layout); of a step in time frames and frame_channels, how many
    frames come first among the channels and how many channels one has.
    """
    check_net(net)
    net = {"class_path": net} if isinstance(net, str) else net
    given = dict(net.get("init_args") or {})
    accepted = inspect.signature(resolve_class(net["class_path"])).parameters
    derived = {"in_channels": len(facts["kept"]), "out_channels": len(facts["outputs"]), "ndim": len(facts["boundary"])}
    if "history" in facts and not facts["time_axis"]:
        derived |= {"frames": facts["history"], "frame_channels": len(facts["outputs"]) // facts["block"]}
    for name, channels in (("in_channels", facts["kept"]), ("out_channels", facts["outputs"])):
        if name in accepted and given.get(name, len(channels)) != len(channels):
            raise UsageError(
                f"net {name}={given[name]}, but the data has {len(channels)} such channel(s) ({', '.join(channels)}); "
                f"leave {name} out, or choose the inputs of the data (constant ones are left out unless named)."
            )
    table: dict[str, Any] = {k: v for k, v in derived.items() if k in accepted}
    if "bc" in accepted and "bc" not in given:
        table["bc"] = _conditions(facts["boundary"], net["class_path"])
    walls = {kind for kind in facts["grid"]["layout"] if kind != "periodic"}
    if "layout" in accepted and len(walls) == 1:
        table["layout"] = walls.pop()
    if "native" in accepted:
        table["native"] = {name: list(values) for name, values in facts["grid"].items()}
    return {**net, "init_args": table | given}


def check_net(net: Mapping[str, Any] | str) -> None:
    """Raise UsageError for a class path or an argument that does not exist, before any data is made or read."""
    if isinstance(net, str):
        net = {"class_path": net}
    if not isinstance(net, Mapping) or "class_path" not in net:
        raise UsageError(f"net must be a mapping with class_path and init_args; got {net!r}.")
    parameters = inspect.signature(resolve_class(net["class_path"])).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        check_keys(dict(net.get("init_args") or {}), parameters, net["class_path"].rpartition(".")[2])


def build_net(net: Mapping[str, Any]) -> nn.Module:
    """The network; argument values that a constructor refuses become a UsageError."""
    return build(dict(net), nn.Module)


def accepts(net: nn.Module, facts: Mapping[str, Any], shape: tuple[int, ...], dry: bool = True) -> str | None:
    """Why the network cannot map the kept inputs on a grid of this shape to the outputs; None if it can.

    Runs a copy of the network once: with `dry` on the meta device, which follows shapes without arithmetic but
    overlooks a wrong number of channels; else on one zero case.
    """
    device = "meta" if dry else "cpu"
    x = torch.zeros((1, len(facts["kept"]), *shape), device=device, dtype=dtype_of(net))
    try:
        with torch.no_grad():
            found = tuple(copy.deepcopy(net).to(device)(x).shape)
    except ValueError as error:
        return str(error)
    except (RuntimeError, TypeError, IndexError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        return f"{type(net).__name__} cannot take an input of shape {tuple(x.shape)} (n, c, *space): {first}"
    wanted = (1, len(facts["outputs"]), *shape)
    return None if found == wanted else f"{type(net).__name__} returns shape {found}, the problem needs {wanted}"


def dtype_of(module: nn.Module) -> torch.dtype:
    """Floating dtype of the first parameter."""
    return next((p.dtype for p in module.parameters()), torch.float32)


def _conditions(kinds: Sequence[Sequence[str]], path: str) -> list[str]:
    for axis, (lo, up) in enumerate(kinds):
        if lo != up:
            raise UsageError(
                f"{path} encodes one boundary condition per axis, but axis {'xyz'[axis]} has '{lo}' below and '{up}' "
                "above; give bc in init_args."
            )
    return [lo for lo, _ in kinds]

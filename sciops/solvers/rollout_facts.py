"""What a one-step operator knows of its trajectories: channels of one call, the time between frames, the protocol."""

from collections.abc import Mapping
from typing import Any

import torch

from sciops.core.cases import Cases
from sciops.core.config import spec
from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.core.evolution import Evolution
from sciops.core.problem import DataOnly, Problem
from sciops.data.windows import Windowed, frame_names, spacing, trajectory
from sciops.solvers.checkpoint import SCHEMA
from sciops.solvers.operator_facts import varying_inputs


def moves(problem: Problem) -> str | None:
    """Why a problem has no trajectories; None if it has, or if only its data can tell."""
    if isinstance(problem, Evolution | DataOnly):
        return None
    return (
        f"needs trajectories, and {type(problem).__name__} is steady; give a problem that moves "
        "(sciops.core.evolution.Evolution)"
    )


def initial_inputs(cases: Cases) -> list[str]:
    """Inputs that are a channel of the initial state, not a coefficient: named like an output, or equal to a channel of
    `Evolution.initial`."""
    problem = cases.problem
    names = [channel.name for channel in problem.inputs]
    found = {channel.name for channel in problem.outputs} & set(names)
    if isinstance(problem, Evolution):
        state = problem.initial(cases)
        found |= {name for name in names for k in range(state.shape[1]) if torch.equal(cases.input(name), state[:, k])}
    return [name for name in names if name in found]


def step_facts(train: Dataset, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Plain facts of the trajectories and of one call; `asked`: the hyper-parameters of `RolloutModule`."""
    problem, first = train.problem, train.cases(slice(0, 1))
    names = [channel.name for channel in problem.inputs]
    outputs = tuple(channel.name for channel in problem.outputs)
    times = trajectory(train, slice(0, 1)).times
    initial, varying = initial_inputs(train.cases(slice(0, 2))), varying_inputs(train)
    coefficients = asked["coefficients"]
    if coefficients is None:
        coefficients = [name for name in names if name in varying and name not in initial]
    parameters = _parameters(train, asked["parameters"])
    for name in coefficients:
        if name not in names:
            raise UsageError(f"coefficients: the data has the inputs {', '.join(names)}; got '{name}'.")
    history = asked["history"] or (train.window.history if isinstance(train, Windowed) else 1)
    given = train.window.history if isinstance(train, Windowed) else history
    if history > given:
        raise UsageError(
            f"The network asks for {history} frames of history, but the protocol {train.window.name} gives {given}; "  # type: ignore[attr-defined]
            f"use history: {given} or less."
        )
    block = history if asked["time_axis"] else asked["block"] or 1
    horizon = len(times) - given
    steps = {"one_step": 1, "noise": 1, "pushforward": asked["steps"] or 2}.get(asked["strategy"])
    fixed = [*coefficients, *parameters]
    frames = outputs if asked["time_axis"] else frame_names(outputs, history)
    return {
        "schema": SCHEMA,
        "task": "step",
        "problem": spec(problem),
        "inputs": names,
        "outputs": list(outputs),
        "kept": [*frames, *fixed, *(["time"] if asked["time"] else [])],
        "initial": initial,
        "constants": {
            name: float(first.input(name).flatten()[0])
            for name in names
            if name not in coefficients and name not in initial and name not in varying
        },
        "coefficients": list(coefficients),
        "parameters": parameters,
        "time": bool(asked["time"]),
        "time_axis": bool(asked["time_axis"]),
        "residual": bool(asked["residual"]),
        "history": history,
        "block": block,
        "steps": steps or asked["steps"] or max(1, horizon // block),
        "stride": train.window.stride if isinstance(train, Windowed) else 1,
        "every": spacing(times),
        "protocol": train.window.name if isinstance(train, Windowed) else "",
        "spread": _spread(train) if asked["strategy"] == "noise" else [],
        "grid": {k: list(getattr(train.grid, k)) for k in ("shape", "lower", "upper", "layout")},
        "boundary": [list(pair) for pair in problem.boundary.kinds],
        "fingerprint": train.fingerprint,
    }


def as_the_network_sees(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Channels, axes and boundary of one call: several frames a call are channels, or a further axis in front."""
    if not facts["time_axis"]:
        return {**facts, "outputs": list(facts["outputs"]) * facts["block"]}
    grid = {k: list(v) for k, v in facts["grid"].items()}
    grid["shape"] = [facts["history"], *grid["shape"]]
    return {**facts, "grid": grid, "boundary": [["neumann", "neumann"], *facts["boundary"]]}


def _parameters(train: Dataset, asked: list[str] | None) -> list[str]:
    params = {name: value for name, value in train.cases().params.items() if value.dim() == 1}
    if asked is None:
        return [name for name, value in params.items() if bool((value != value[0]).any())]
    for name in asked:
        if name not in params:
            raise UsageError(f"parameters: the cases have {', '.join(params) or 'no scalars'}; got '{name}'.")
    return list(asked)


def _spread(train: Dataset) -> list[float]:
    """Standard deviation of every output over cases, frames and points."""
    values = trajectory(train).values.double().transpose(1, 2).transpose(0, 1).flatten(1)
    return values.std(1).tolist()

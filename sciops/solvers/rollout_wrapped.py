"""Any solver of steady maps as a trajectory solver: it learns or computes one step, the adapter feeds it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sciops.core.cases import Cases
from sciops.core.config import build
from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget, FitReport, Solution, Solver, View, checked
from sciops.data.windows import OneStep, step_inputs, step_problem
from sciops.solvers.rollout import on_grid, present, steps_to


class Rolled(Solver):
    """u_{t+1} = S(u_{t−h+1}, …, u_t, a) for a solver S of steady maps, fed with its own answers.

    S sees a data-only problem: the input channels are the frames "w@-1", "w@0" (the present) and the named
    coefficients, its output the next frame (`data.windows.OneStep`). `fit` hands it these pairs; a solver that has its
    weights already (an object, or `load`) is rolled out as it is, with the time between frames `every`.

    solver        {class_path, init_args} or a solver
    history       frames that a step is given
    coefficients  inputs of the cases that it is given too
    every         time of a step; fitting takes it from the data

    A case keeps the first status of its steps that is not OK. For networks `Rollout` is the richer choice: it trains
    through several steps. Cost: one solve of S a step.
    """

    needs = frozenset({View.DATA})

    def __init__(
        self,
        solver: dict[str, Any] | Solver,
        history: int = 1,
        coefficients: Sequence[str] = (),
        every: float | None = None,
        name: str | None = None,
    ) -> None:
        if history < 1:
            raise UsageError(f"history must be 1 or more; got {history}.")
        self.inner = solver if isinstance(solver, Solver) else build(solver, Solver)  # type: ignore[type-abstract]
        self.history, self.coefficients = history, tuple(coefficients)
        self.every, self._name = every, name
        self.trained, self.kind = self.inner.trained, self.inner.kind  # type: ignore[misc]

    @property
    def name(self) -> str:
        return self._name or f"{self.inner.name}, rolled out"

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        from sciops.solvers.rollout_facts import moves

        reason = super().refuses(problem, grid) or moves(problem)
        return reason or self.inner.refuses(step_problem(problem, self.history, self.coefficients), grid)

    def fit(self, train: Dataset, val: Dataset, budget: Budget | None = None) -> FitReport:
        first, second = (OneStep(data, self.history, self.coefficients) for data in (train, val))
        self.every = first.every
        return self.inner.fit(first, second, budget)

    def prepare(self, cases: Cases, out: Grid) -> None:
        frames = present(cases).values[:, -self.history :]
        self.inner.prepare(self._step_cases(frames, cases), cases.domain)

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        field = present(cases)
        if len(field.times) < self.history:
            raise UsageError(
                f"{self.name} takes {self.history} frames of history, but the cases bring {len(field.times)}; use a "
                f"window with history: {self.history} or more."
            )
        if self.every is None:
            raise UsageError(f"{self.name} does not know the time of a step: fit it, or give every.")
        wanted = steps_to(cases.times, field.times[-1], self.every, self.name)
        frames = field.values[:, -self.history :]
        made, status = [frames[:, -1]], [Status.OK] * len(cases)
        for _ in range(max(wanted)):
            answer = checked(self.inner.solve(self._step_cases(frames, cases), cases.domain, budget))
            made.append(answer.field.values[:, 0])
            frames = torch.cat([frames[:, 1:], answer.field.values], 1)
            status = [old if old is not Status.OK else new for old, new in zip(status, answer.status, strict=True)]
        values = on_grid(torch.stack([made[k] for k in wanted], 1), cases, out)
        return checked(Solution(Field(values, out, field.channels, cases.times), status))

    def _step_cases(self, frames: torch.Tensor, cases: Cases) -> Cases:
        problem = step_problem(cases.problem, self.history, self.coefficients)
        names = tuple(channel.name for channel in problem.inputs)
        values = step_inputs(frames, cases, self.coefficients)
        return Cases(problem, cases.domain, Field.steady(values, cases.domain, names))

    def parameters(self) -> int:
        return self.inner.parameters()

    def save(self, path: Path) -> None:
        self.inner.save(path)
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "rolled.json").write_text(json.dumps({"every": self.every, "history": self.history}))

    def load(self, path: Path) -> None:
        facts = json.loads((Path(path) / "rolled.json").read_text())
        if facts["history"] != self.history:
            raise UsageError(
                f"{path} holds a step from {facts['history']} frame(s) of history, this solver has {self.history}; use "
                f"history: {facts['history']}."
            )
        self.every = facts["every"]
        self.inner.load(path)

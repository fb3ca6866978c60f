"""Any network as a trajectory solver: learns one step from trajectories, answers by feeding itself."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.cases import Cases
from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.core.evolution import Evolution
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.interpolate import resample
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget, Solution, Solver, checked
from sciops.data.normalise import Kind
from sciops.solvers.operator import OperatorSolver

BLOWN = "the rollout left the finite numbers; train with strategy unrolled, noise or pushforward, or with more data."

FAR = 10.0
"""Times the largest value in the training data: beyond it an answer is no success."""


class Rollout(OperatorSolver):
    """û_{t+1} = G_θ(u_{t−h+1}, …, u_t; a), or u_t + G_θ: one network call a step, fed with its own answers.

    A Lightning run of `RolloutModule` behind the solver contract: best weights by the free-running error on the
    validation split, affordable epochs within a budget, resume as in `OperatorSolver`. Starts from the last frames of
    `cases.history`, else (h = 1) from the initial state that the inputs say; answers at all asked times that lie whole
    steps after it.

    net          {class_path, init_args} or a module; channels, ndim, bc and layout follow from the problem
    history      h frames in; by default all that the training data gives as history, else 1
    strategy     one_step | unrolled | noise | pushforward, with `steps` and `noise`; see `RolloutModule`
    residual     the network answers increments; block: frames per call; time_axis: convolutions over (t, *s), a block
                 of h frames in, the next h out
    coefficients, parameters, time    what it sees beside the frames; by default what varies, and no time
    normalise_*  of the stacked inputs and of the answers (increments if residual), fitted on single calls in training
    Other options as in `OperatorSolver` (its `inputs` is `coefficients` here).

    Cost of a solve: frames / block calls. Errors grow with the number of calls; answers that leave the finite numbers
    end as NONFINITE, those ten times as large as anything in the training data as UNRESOLVED. UsageError, in one
    sentence, for too little history, times between steps, another number of channels.
    Reference: Li et al., ICLR 2021 (autoregressive Navier–Stokes).
    """

    def __init__(
        self,
        net: dict[str, Any] | nn.Module,
        history: int | None = None,
        strategy: Literal["one_step", "unrolled", "noise", "pushforward"] = "one_step",
        steps: int | None = None,
        noise: float = 0.01,
        residual: bool = False,
        block: int | None = None,
        time_axis: bool = False,
        coefficients: list[str] | None = None,
        parameters: list[str] | None = None,
        time: bool = False,
        recompute: bool = False,
        normalise_input: Kind = "channel",
        normalise_output: Kind = "channel",
        batch_size: int = 20,
        **options: Any,
    ) -> None:
        super().__init__(
            net, normalise_input=normalise_input, normalise_output=normalise_output, batch_size=batch_size, **options
        )
        if self.inputs is not None:
            raise UsageError("Rollout names its input channels by coefficients, not by inputs.")
        self.settings |= {
            "history": history,
            "strategy": strategy,
            "steps": steps,
            "noise": noise,
            "residual": residual,
            "block": block,
            "time_axis": time_axis,
            "coefficients": coefficients,
            "parameters": parameters,
            "time": time,
            "recompute": recompute,
        }
        self._module()  # refuse wrong settings now, before any data is read

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        from sciops.solvers.operator_facts import accepts, build_net, complete
        from sciops.solvers.rollout_facts import as_the_network_sees, moves

        reason = Solver.refuses(self, problem, grid) or moves(problem)
        if reason:
            return reason
        outputs = [channel.name for channel in problem.outputs]
        h, axis = self.settings["history"] or 1, self.settings["time_axis"]
        given = {} if isinstance(self.net_spec, nn.Module) else self.net_spec.get("init_args") or {}
        # How many channels a call has, only the data can tell; whether the network fits the grid, this can.
        count = given.get("in_channels", len(outputs) * (1 if axis else h))
        facts = as_the_network_sees(
            {
                "kept": [f"channel {j}" for j in range(count)],
                "outputs": outputs,
                "block": h if axis else self.settings["block"] or 1,
                "history": h,
                "time_axis": axis,
                "boundary": problem.boundary.kinds,
                "grid": {"shape": list(grid.shape), "layout": list(grid.layout)},
            }
        )
        if isinstance(self.net_spec, nn.Module) or (axis and not self.settings["history"]):
            return None
        try:
            return accepts(build_net(complete(self.net_spec, facts)), facts, tuple(facts["grid"]["shape"]))
        except UsageError as error:
            return str(error).rstrip(".")

    def _module(self) -> Any:
        from sciops.solvers.rollout_module import RolloutModule

        return RolloutModule(self.net_spec, **self.settings)

    def _ready(self, train: Dataset, val: Dataset) -> tuple[Any, Any]:
        from sciops.data.datamodule import in_batches
        from sciops.data.normalise import Normaliser
        from sciops.solvers.training import Loaders

        module = self._module()
        normalisers = (Normaliser(self.normalisers[0]), Normaliser(self.normalisers[1]))
        module.prepare(train, [], *normalisers)
        first = in_batches(module.rows(train, True), self.batch_size, self.seed, True)
        second = in_batches(module.rows(val, False), self.batch_size, self.seed, False)
        return module, Loaders(module.facts["coefficients"], first, second, normalisers)

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        from sciops.data.trajectories import fixed_channels

        module = self._require()
        module.to(cases.device)
        self._check_constants(cases)
        if self._pinned():
            cases = cases.on(module.grid)
        facts = module.facts
        frames, start = self._history(cases)
        steps = steps_to(cases.times, start, facts["every"], self.name)
        fixed = fixed_channels(cases, facts["coefficients"], facts["parameters"])
        parts = []
        with torch.inference_mode():
            for past, still in zip(frames.split(self.batch_size), fixed.split(self.batch_size), strict=True):
                now = past.new_full((len(past),), start)
                made = module.roll(past, still, now, max(steps)) if max(steps) else past[:, :0]
                parts.append(torch.cat([past[:, -1:].to(made), made], 1)[:, steps])
        u = torch.cat(parts).clone().to(cases.dtype)
        field = Field(on_grid(u, cases, out), out, tuple(facts["outputs"]), cases.times)
        solution = checked(
            Solution(field, [Status.OK] * len(cases), {"network_calls": -(-max(steps) // facts["block"])})
        )
        solution.stats["advice"] = ["" if s is Status.OK else BLOWN for s in solution.status]
        _call_flight(solution, u, facts)
        return solution

    def _history(self, cases: Cases) -> tuple[Float[Tensor, "n h c *s"], float]:
        """The frames from which the network starts, and the time of the last."""
        facts = self._require().facts
        names, h = [channel.name for channel in cases.problem.outputs], facts["history"]
        if names != facts["outputs"]:
            raise UsageError(
                f"{self.name} was trained on {len(facts['outputs'])} output channel(s) "
                f"({', '.join(facts['outputs'])}), but the cases have {len(names)} "
                f"({', '.join(names)}); train it on this problem."
            )
        field = present(cases)
        if len(field.times) < h:
            raise UsageError(
                f"{self.name} was trained on {h} frames of history, but the cases bring {len(field.times)}; use a "
                f"window with history: {h} or more, or train it with history: {len(field.times)}."
            )
        gaps = [b - a for a, b in zip(field.times[-h:], field.times[-h + 1 :], strict=False)] if h > 1 else []
        if any(abs(gap - facts["every"]) > 1e-6 * facts["every"] for gap in gaps):
            raise UsageError(
                f"{self.name} was trained on frames {facts['every']:g} apart, but the history has them {gaps[0]:g} "
                "apart; use the spacing of the training."
            )
        return field.values[:, -h:], field.times[-1]


def _call_flight(solution: Solution, u: Float[Tensor, "n t c *s"], facts: dict[str, Any]) -> None:
    """Answers that have left the training data far behind, but not yet the finite numbers, are no success."""
    ranges = facts.get("ranges") or {}
    for c, name in enumerate(facts["outputs"]):
        seen = [max(map(abs, pair)) for key, pair in ranges.items() if key.split("@")[0] == name]
        largest = u[:, :, c].flatten(1).abs().amax(1).tolist()
        for i, value in enumerate(largest):
            if seen and value > FAR * max(seen) > 0 and solution.status[i] is Status.OK:
                solution.status[i] = Status.UNRESOLVED
                solution.stats["advice"][i] = (
                    f"the rollout reached |{name}| = {value:.3g}, where the training data stay below {max(seen):.3g}; "
                    "train longer, or with strategy unrolled, noise or pushforward."
                )


def steps_to(times: Sequence[float], start: float, every: float, name: str) -> list[int]:
    """How many steps after the start each asked frame lies; UsageError for a time between steps."""
    found = [(t - start) / every for t in times]
    for t, k in zip(times, found, strict=True):
        if k < -1e-6 or abs(k - round(k)) > 1e-4:
            raise UsageError(
                f"{name} steps by {every:g} from t = {start:g}, so it has no frame at t = {t:g}; ask for times "
                f"{start:g} + k·{every:g}."
            )
    return [round(k) for k in found]


def present(cases: Cases) -> Field:
    """The frames that a solver is given: the history, or the frame at t = 0 that the inputs say."""
    if cases.history is not None:
        return cases.history
    if not isinstance(cases.problem, Evolution):
        raise UsageError(
            f"{type(cases.problem).__name__} does not say where its cases start; give them a history (a window)."
        )
    state, t = cases.problem.start(cases)
    names = tuple(channel.name for channel in cases.problem.outputs)
    return Field(cases.problem.frame(cases, state)[:, None], cases.domain, names, (t,))


def on_grid(u: Float[Tensor, "n t c *s"], cases: Cases, out: Grid) -> Float[Tensor, "n t c *q"]:
    """Frames on another grid: by Fourier series where all axes are periodic, else by cubics."""
    if out == cases.domain:
        return u
    rule: Literal["spectral", "cubic"] = "spectral" if set(out.layout) == {"periodic"} else "cubic"
    flat = resample(u.flatten(0, 1), cases.domain, out, rule, cases.problem.boundary)
    return flat.unflatten(0, u.shape[:2])

"""A network trained on one grid, asked on others: converted to an operator, between interpolations, or as it is."""

import copy
import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.cases import Cases
from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.interpolate import Rule, resample
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget, FitReport, Solution, Solver, checked
from sciops.models.conversion.layout import ConversionError
from sciops.models.conversion.operator import METHODS, NeuralOperatorModule, to_neural_operator
from sciops.solvers.operator import OperatorSolver
from sciops.solvers.warm import built

Kind = Literal["linear", "cubic", "fourier"]


class FromSource(Solver):
    """What the solvers of this file share: `source`, a network that one of them trains and all of them use.

    source  an OperatorSolver (Rollout is one), or {class_path, init_args} of one; training, weights and files are its
            own. In a comparison, solvers whose sources are described alike train it once, in a folder beside theirs,
            and all report the seconds of that training.
    """

    trained = True

    def __init__(self, source: OperatorSolver | dict[str, Any], name: str | None = None, seed: int = 0) -> None:
        made = built(source, seed)
        if not isinstance(made, OperatorSolver):
            raise UsageError(
                f"source must be a trained network, sciops.solvers.operator.OperatorSolver or Rollout; got "
                f"{type(made).__name__}."
            )
        self.source, self._name = made, name
        self.needs = made.needs
        self.workdir: Path | None = None
        self._described = None if isinstance(source, Solver) else json.dumps([source, seed], sort_keys=True)

    @property
    def name(self) -> str:
        return self._name or f"{self.source.name}, {self.way}"

    @property
    @abstractmethod
    def way(self) -> str:
        """How it answers, in a few words."""

    @property
    def native(self) -> Grid:
        """The grid of the training."""
        if self.source.module is None:
            raise UsageError(f"{self.name} has no weights yet: call fit(train, val) or load(path) first.")
        return self.source.module.grid

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        # A network that takes its own grid alone is no reason: that is what these solvers are for.
        return self.source.refuses(problem, grid if self.source.module is None else self.native)

    def fit(self, train: Dataset, val: Dataset, budget: Budget | None = None) -> FitReport:
        """Train the source, or load it where a solver with the same source has trained it in this comparison."""
        folder = self._shared(train, val, budget)
        if folder is None:
            return self.source.fit(train, val, budget)
        note = folder / "fit.json"
        if note.is_file():
            self.source.load(folder)
            told = json.loads(note.read_text())
            return FitReport(**(told | {"status": Status(told["status"])}))
        folder.mkdir(parents=True, exist_ok=True)
        self.source.workdir = folder
        report = self.source.fit(train, val, budget)
        self.source.save(folder)
        note.write_text(json.dumps(asdict(report) | {"status": report.status.value}))  # last: it says all is there
        return report

    def _shared(self, train: Dataset, val: Dataset, budget: Budget | None) -> Path | None:
        """Where the source of this description, trained on these data within this time, is kept."""
        if self.workdir is None or self._described is None:
            return None
        identity = [self._described, train.fingerprint, val.fingerprint, None if budget is None else budget.seconds]
        return self.workdir.parent / f"source-{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}"

    def parameters(self) -> int:
        return self.source.parameters()

    def save(self, path: Path) -> None:
        self.source.save(path)

    def load(self, path: Path) -> None:
        self.source.load(path)

    def prepare(self, cases: Cases, out: Grid) -> None:
        self.source.prepare(cases, out)


class AsIs(FromSource):
    """The source as it runs on any grid by itself: convolutions shrink with the mesh width, pooling and norms see
    other neighbours. The row that a conversion is measured against."""

    @property
    def way(self) -> str:
        return "as it is"

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        return self.source.refuses(problem, grid)

    def input_grid(self, stored: Grid, out: Grid) -> Grid:
        return self.source.input_grid(stored, out)

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        return self.source.solve(cases, out, budget)


class Converted(FromSource):
    """The source as an operator between functions, by `to_neural_operator`: inputs keep their resolution.

    method  "point" | "lattice" | "integral" | "spectral" | "paper_rule", see there. On the training grid all give the
            answers of the source to the bit; `point` and `lattice` give them at its points on every refinement.

    Normalisers with one number per channel are kept. Refuses those with one per grid point (their grid is the training
    grid), compiled networks, convolutions over time, and, before it is trained, a network that the method has no rule
    for: `fit` raises the ConversionError of a dry run of the untrained one. Inputs are taken on the asked
    grid; if they live on another one, the answer is interpolated as in OperatorSolver. `operator.report` says which
    rule each layer followed in the last call off the training grid. Cost: `sciops.models.conversion.operator`.
    Berner et al., "Principled approaches for extending neural architectures to function spaces", 2025.
    """

    def __init__(
        self,
        source: OperatorSolver | dict[str, Any],
        method: str = "point",
        name: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(source, name, seed)
        if method not in METHODS:
            raise UsageError(f"method must be one of {', '.join(METHODS)}; got '{method}'.")
        self.method = method
        self._operator: NeuralOperatorModule | None = None

    @property
    def way(self) -> str:
        return f"converted ({self.method})"

    @property
    def operator(self) -> NeuralOperatorModule:
        """The operator; it shares its weights with the network of the source."""
        grid, net = self.native, self.source.module.net
        if self._operator is None or self._operator.source is not net:
            self._operator = converted(net, grid, self.method)
        return self._operator

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        reason = super().refuses(problem, grid)
        if reason:
            return reason
        layout, settings = set(grid.layout), self.source.settings
        if self.method == "lattice" and "node" in layout:
            return "method='lattice' has no meaning on node grids, whose walls would lie between walls; use 'point'"
        if self.method == "spectral" and layout != {"periodic"}:
            return "method='spectral' needs periodic axes; use 'point' or 'integral' between walls"
        if "pixel" in self.source.normalisers:
            return "per-point normalisers tie the source to its training grid; normalise by 'channel' or 'scalar'"
        if settings.get("compile"):
            return "a compiled network cannot be intercepted; set compile: false"
        if settings.get("time_axis"):
            return "convolutions over time have another refinement than those over space; set time_axis: false"
        return None

    def fit(self, train: Dataset, val: Dataset, budget: Budget | None = None) -> FitReport:
        """As for the others; a network without a conversion is refused before any time goes into its training."""
        reason = self.refuses(train.problem, train.grid)
        if reason:
            raise ConversionError(f"{self.name} was not trained: {reason.rstrip('.')}.")
        self._try(train, val)
        return super().fit(train, val, budget)

    def _try(self, train: Dataset, val: Dataset) -> None:
        """Convert a copy of the network with the weights that it starts from, and run it once on a finer grid."""
        from sciops.solvers.operator_facts import dtype_of
        from sciops.solvers.training import quiet

        with torch.random.fork_rng(), quiet():
            module, _ = copy.deepcopy(self.source)._ready(train, val)
        net = module.net.eval()
        channels = len(module.seen(module.facts)["kept"])
        converted(net, module.grid, self.method, torch.zeros((1, channels, *module.grid.shape), dtype=dtype_of(net)))

    def input_grid(self, stored: Grid, out: Grid) -> Grid:
        return out if self.source.module is not None and out.layout == self.native.layout else stored

    def prepare(self, cases: Cases, out: Grid) -> None:
        super().prepare(cases, out)
        _ = self.operator

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        if cases.domain.layout != self.native.layout or not cases.domain.same_box(self.native):
            raise UsageError(
                f"{self.name} was trained on {self.native.describe()} and answers on other numbers of points of that "
                f"box and layout; got inputs on {cases.domain.describe()}."
            )
        with self._in_place():
            return self.source.solve(cases, out, budget)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The operator where the source calls its network."""
        module, operator = self.source.module, self.operator
        module.net = operator
        try:
            yield
        finally:
            module.net = operator.source


class Interpolated(FromSource):
    """Inputs brought to the training grid, the source there, its answer brought back: the simplest operator.

    kind  "linear"; "cubic": Lagrange between walls, the trigonometric interpolant along periodic axes; "fourier":
          periodic axes alone, inputs without the frequencies that the training grid does not carry
    Nothing finer than the training grid is seen or answered. As good as any conversion where the fields have nothing
    there; the resolution transfer of a comparison shows the limit, interpolated truth, beside it.
    """

    def __init__(
        self,
        source: OperatorSolver | dict[str, Any],
        kind: str = "linear",
        name: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(source, name, seed)
        if kind not in get_args(Kind):
            raise UsageError(f"kind must be one of {', '.join(get_args(Kind))}; got '{kind}'.")
        self.interpolation = cast("Kind", kind)

    @property
    def way(self) -> str:
        return f"interpolated ({self.interpolation})"

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        if self.interpolation == "fourier" and set(grid.layout) != {"periodic"}:
            return "kind='fourier' needs periodic axes; use 'linear' or 'cubic' between walls"
        return super().refuses(problem, grid)

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        native, domain, rule = self.native, cases.domain, self.interpolation
        if domain != native:
            past = cases.history
            cases = replace(
                replace(cases, seeds=None).on(native) if cases.boundary else replace(cases, history=None),
                domain=native,
                inputs=replace(cases.inputs, values=moved(cases.inputs.values, domain, native, rule), domain=native),
                history=past and replace(past, values=moved(past.values, domain, native, rule), domain=native),
                provenance="interpolated",
                seeds=None,
            )
        solution = self.source.solve(cases, native, budget)
        u = solution.field
        field = Field(moved(u.values, native, out, rule), out, u.channels, u.times)
        return checked(replace(solution, field=field))


def converted(net: nn.Module, grid: Grid, method: str, example: Tensor | None = None) -> NeuralOperatorModule:
    """A network of a grid as an operator on its box."""
    ends = list(zip(grid.lower, grid.upper, strict=True))
    return to_neural_operator(net, grid.shape, ends, kinds(grid), method, example=example)


def kinds(grid: Grid) -> tuple[str, ...]:
    """Layouts in the words of `to_neural_operator`."""
    return tuple("vertex" if layout == "node" else layout for layout in grid.layout)


def moved(values: Float[Tensor, "n t c *s"], source: Grid, target: Grid, kind: Kind) -> Float[Tensor, "n t c *r"]:
    """Frames on another grid."""
    if source == target:
        return values
    flat = values.flatten(0, 1)
    rule: Rule = "linear" if kind == "linear" else "cubic"
    if kind == "fourier":
        for axis, (n, m) in enumerate(zip(source.shape, target.shape, strict=True), start=2):
            flat = low_pass(flat, axis, m) if m < n else flat
    return resample(flat, source, target, rule).unflatten(0, values.shape[:2])


def low_pass(values: Float[Tensor, "n c *s"], axis: int, points: int) -> Float[Tensor, "n c *s"]:
    """The frequencies along a periodic axis that so many points carry."""
    n = values.shape[axis]
    hat = torch.fft.rfft(values, dim=axis)
    hat = hat.narrow(axis, 0, min(points // 2 + 1, hat.shape[axis]))
    return torch.fft.irfft(hat, n=n, dim=axis)

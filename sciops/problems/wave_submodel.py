"""Waves on the edge of a zone of interest, and the submodel inside that they drive."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.interpolate import resample
from sciops.core.linear import Status
from sciops.core.problem import Channel, Problem
from sciops.core.solver import Solution
from sciops.numerics.wave_leapfrog import FACES
from sciops.numerics.wave_submodel import submodel, trace_of
from sciops.problems.wave import Wave, whole_square, window

GIVEN = ("parameters", "coarse")


@dataclass(frozen=True)
class WaveTrace(Problem):
    """ρ u_tt − ∇·(μ ∇u) + η u_t = f on (0, 1)²; wanted is u on the edge of the window [lower, upper]² over time.

    What submodelling needs: a cheap forecast of the values on the edge of a zone of interest, from which a fine model
    inside, `inside(cases, trace)`, computes the rest with the physics kept. Judge a trace by what it does there: the
    metric `sciops.metrics.submodel.Inside`.
    `wave`: arguments of `Wave` (its `frames` and `every` do not matter: the grid says which times).
    `given`: "parameters", the source's position (source_x, source_y), its frequency and the speed ratios of further
    layers, as constant channels; or "coarse", the trace of the same wave on a mesh of `coarse`² cells (the global model
    of classical submodelling), moved to the fine edge by cubics.

    Grid: axis x is the share of the way around the window, periodic, a multiple of 4 points, from the lower left corner
    along y = lower; axis y is time, nodes from 0. The mesh width inside is 4 (upper − lower)/points and must fit a
    lattice of the square. Offers data alone. Output: u. Reference: the run on the whole square at that mesh width,
    with `Wave`'s label error, measured on the trace.
    Reference: Boukraichi, Akkari, Casenave, Ryckelynck, arXiv:2304.04964 (task; the data are ours).
    """

    wave: Mapping[str, Any] = field(default_factory=dict)
    lower: float = 0.25
    upper: float = 0.75
    given: str = "parameters"
    coarse: int = 16

    ndim = 2
    linear = False
    boundary = Boundary((("periodic", "periodic"), ("free", "free")))

    def __post_init__(self) -> None:
        if self.given not in GIVEN:
            raise UsageError(f"WaveTrace given must be one of {', '.join(GIVEN)}; got '{self.given}'.")
        if not 0 <= self.lower < self.upper <= 1:
            raise UsageError(f"WaveTrace needs 0 ≤ lower < upper ≤ 1; got {self.lower} and {self.upper}.")
        object.__setattr__(self, "wave", dict(self.wave))
        if self.given == "coarse":
            self._coarse_window()
        object.__setattr__(self, "inputs", tuple(Channel(name, interpolation="linear") for name in self._names()))

    @cached_property
    def model(self) -> Wave:
        """The wave problem behind it."""
        try:
            return Wave(**self.wave)
        except TypeError as error:
            raise UsageError(f"WaveTrace: wave takes the arguments of Wave ({error}).") from None

    def _names(self) -> list[str]:
        if self.given == "coarse":
            return ["coarse"]
        names = ["source_x", "source_y"] + ["frequency"] * (self.model.source == "ricker")
        return names + [f"ratio_{k + 1}" for k in range(1, self.model.layers)]

    def sample(
        self,
        seeds: Sequence[int],
        grid: Grid,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Cases:
        zone, times = self.zone(grid), self.moments(grid)
        waves = replace(self.model.sample(seeds, zone, torch.float64, device), times=times)
        if self.given == "coarse":
            values = self._coarse_trace(waves, zone)[:, None]
        else:
            values = self._constants(waves.params)[..., None, None].expand(-1, -1, *grid.shape).clone()
        inputs = Field.steady(values, grid, self._names())
        ids = torch.tensor(seeds, dtype=torch.int64)
        return Cases(self, grid, inputs, waves.params, seeds=ids).to(dtype=dtype)

    def formula(self, cases: Cases, x: Float[Tensor, "n N d"]) -> dict[str, Float[Tensor, "n N"]]:
        if self.given == "coarse" or "position" not in cases.params:
            return {}
        constants = self._constants(cases.params).to(x)
        return {name: constants[:, j, None].expand(x.shape[:-1]) for j, name in enumerate(self._names())}

    def _constants(self, params: dict[str, Tensor]) -> Float[Tensor, "n c"]:
        columns = [params["position"]]
        if self.model.source == "ricker":
            columns.append(params["frequency"][:, None])
        return torch.cat([*columns, params["speed"][:, 1:] / self.model.speed], 1)

    # ---- where the edge is

    def zone(self, grid: Grid) -> Grid:
        """The grid of the window whose edge nodes are the points of the first axis."""
        self.boundary.check(grid)
        points = grid.shape[0]
        if points % 4 or (grid.lower[0], grid.upper[0]) != (0.0, 1.0):
            raise UsageError(
                f"WaveTrace needs a multiple of 4 points around the window, on [0, 1]; got {points} on "
                f"[{grid.lower[0]}, {grid.upper[0]}]."
            )
        made = Grid.box(points // 4 + 1, self.lower, self.upper, ndim=2)
        whole_square(made)
        return made

    def moments(self, grid: Grid) -> tuple[float, ...]:
        """The times of the second axis."""
        if grid.lower[1] != 0.0 or grid.layout[1] != "node":
            raise UsageError(f"WaveTrace needs times from 0 as nodes; got {grid.layout[1]} from {grid.lower[1]}.")
        return tuple(k * grid.spacing[1] for k in range(grid.shape[1]))

    def _coarse_window(self) -> Grid:
        ends = [self.lower * self.coarse, self.upper * self.coarse]
        if any(abs(e - round(e)) > 1e-9 for e in ends) or ends[1] - ends[0] < 2.5:
            raise UsageError(
                f"WaveTrace coarse = {self.coarse} must put nodes on the edge of [{self.lower}, {self.upper}]² and at "
                "least three cells inside."
            )
        return Grid.box(round(ends[1] - ends[0]) + 1, self.lower, self.upper, ndim=2)

    def _coarse_trace(self, waves: Cases, zone: Grid) -> Float[Tensor, "n p t"]:
        rough = self._coarse_window()
        cases = self.model.cases_of(waves.params, rough, waves.times)
        frames = self.model.frames_of(cases)
        fine = resample(frames.flatten(0, 1)[:, None], rough, zone, "cubic")[:, 0].unflatten(0, frames.shape[:2])
        return trace_of(fine).transpose(1, 2)

    # ---- truth, and what a trace is good for

    def reference(self, cases: Cases, tol: float = 1e-10) -> Solution:
        """The trace of the wave on the whole square; `stats` as `Wave.reference`, for the trace."""
        values, stats = self.model.trusted(self._waves(cases, cases.domain), trace_of)
        answer = Field.steady(values.transpose(1, 2)[:, None], cases.domain, ("u",))
        return Solution(answer, [Status.OK if fine else Status.NONFINITE for fine in answer.finite()], stats)

    def _waves(self, cases: Cases, grid: Grid) -> Cases:
        if "position" not in cases.params:
            raise UsageError("WaveTrace computes waves from the parameters of its law; these cases have none.")
        return self.model.cases_of(cases.params, self.zone(grid), self.moments(grid))

    def inside(self, cases: Cases, trace: Field) -> Field:
        """u in the window at the times of the trace, edge included: the submodel with the medium and the source of the
        cases and the edge that is given, with the wave problem's own scheme at the mesh width of the trace."""
        assert isinstance(trace.domain, Grid)
        waves = self._waves(cases, trace.domain).to(dtype=trace.values.dtype, device=trace.values.device)
        zone = waves.domain
        part = window(zone)
        cells = self.model.stiffness(waves)[(slice(None), *(slice(p.start, p.stop - 1) for p in part))]
        system = self.model.assemble(cells, zone.spacing, dict.fromkeys(FACES, "dirichlet"))
        force = self.model.force(waves)
        cut = (slice(None), *part)
        frames, _ = submodel(
            system,
            trace.values[:, 0, 0].transpose(1, 2),
            waves.times,
            self.model.courant * min(zone.spacing) / self.model.fastest,
            None if force is None else lambda t: force(t)[cut],
            waves.input("u0") if self.model.source == "pulse" else None,
        )
        return Field(frames[:, :, None], zone, ("u",), waves.times)

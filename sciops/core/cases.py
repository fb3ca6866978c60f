"""Cases: n instances of a problem, each of which knows which PDE it came from."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciops.core.boundary import face_axis
from sciops.core.errors import UsageError
from sciops.core.field import Field, Index, selection
from sciops.core.grid import Grid
from sciops.core.interpolate import interpolate, resample

if TYPE_CHECKING:
    from sciops.core.problem import Problem


@dataclass(frozen=True, eq=False)
class Cases:
    """n instances: input fields on a grid, scalar parameters, boundary data, and where they came from.

    `inputs.values` (n, 1, c, *s) in the order of `problem.inputs`; `params[name]` (n,) or (n, k);
    `boundary[face]` (n, *face shape), absent faces are zero; `seeds` let the generator rebuild a case on any
    grid. `provenance` says how the inputs reached this grid: generated | stored | interpolated.

    Problems that move: `times` are those of the asked frames; `history` (n, t, c, *s) holds frames of the outputs that
    a solver is given, the last one is the present. Without it the start is what the inputs say at t = 0.
    """

    problem: "Problem"
    domain: Grid
    inputs: Field
    params: dict[str, Tensor] = field(default_factory=dict)
    boundary: dict[str, Tensor] = field(default_factory=dict)
    ids: Int[Tensor, " n"] | None = None
    seeds: Int[Tensor, " n"] | None = None
    times: tuple[float, ...] = (0.0,)
    provenance: str = "generated"
    history: Field | None = None

    def __post_init__(self) -> None:
        names = tuple(channel.name for channel in self.problem.inputs)
        if self.inputs.channels != names:
            raise UsageError(
                f"{type(self.problem).__name__} takes the input channels {list(names)}; "
                f"got {list(self.inputs.channels)}."
            )
        if self.history is not None and (self.history.domain != self.domain or self.history.n != self.inputs.n):
            raise UsageError(
                f"history must hold frames of the {self.inputs.n} cases on {self.domain.describe()}; got "
                f"{self.history.n} on {self.history.domain.describe()}."
            )

    def __len__(self) -> int:
        return self.inputs.n

    @property
    def dtype(self) -> torch.dtype:
        return self.inputs.values.dtype

    @property
    def device(self) -> torch.device:
        return self.inputs.values.device

    def __getitem__(self, index: Index) -> "Cases":
        chosen = selection(index)

        def pick(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[chosen]

        return replace(
            self,
            inputs=self.inputs[chosen],
            params={k: v[chosen] for k, v in self.params.items()},
            boundary={k: v[chosen] for k, v in self.boundary.items()},
            ids=pick(self.ids),
            seeds=pick(self.seeds),
            history=None if self.history is None else self.history[chosen],
        )

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> "Cases":
        def move(table: dict[str, Tensor]) -> dict[str, Tensor]:
            return {k: v.to(dtype=dtype, device=device) for k, v in table.items()}

        return replace(
            self,
            inputs=self.inputs.to(dtype, device),
            params=move(self.params),
            boundary=move(self.boundary),
            history=None if self.history is None else self.history.to(dtype, device),
        )

    def input(self, name: str) -> Float[Tensor, "n *s"]:
        """One input channel on the grid, at the first time."""
        return self.inputs.channel(name)[:, 0]

    def values(self) -> SimpleNamespace:
        """Inputs on the grid as c.a, c.f, … (n, *s), and parameters as (n, 1, …) arrays that broadcast."""
        space = (1,) * self.domain.ndim
        table = {name: self.inputs.values[:, 0, j] for j, name in enumerate(self.inputs.channels)}
        table |= {k: v.reshape(len(self), *space) for k, v in self.params.items() if v.dim() == 1}
        return SimpleNamespace(**table)

    def at(self, x: Float[Tensor, "m N d"]) -> SimpleNamespace:
        """Inputs at points x as c.a, c.f, … (n, N), and parameters as (n, 1); m is n or 1.

        Uses the problem's exact formula where the generator stored its parameters, else interpolation by each
        channel's rule. `c.exactness[name]` records which ("formula" | "linear" | "cubic" | …): it bounds what
        a meshless method can reach. Differentiable in x.
        """
        if x.shape[0] != len(self):
            x = x.expand(len(self), -1, -1)
        formulas = self.problem.formula(self, x)
        table: dict[str, object] = {k: v.reshape(len(self), 1) for k, v in self.params.items() if v.dim() == 1}
        exactness = {}
        for j, channel in enumerate(self.problem.inputs):
            if channel.name in formulas:
                table[channel.name], exactness[channel.name] = formulas[channel.name], "formula"
            else:
                rule = "cubic" if channel.interpolation == "spectral" else channel.interpolation
                values = self.inputs.values[:, 0, j : j + 1]
                table[channel.name] = interpolate(values, self.domain, x, rule)[:, 0]
                exactness[channel.name] = rule
        return SimpleNamespace(**table, exactness=exactness)

    def on_face(self, face: str, x: Float[Tensor, "m N d"]) -> Float[Tensor, "n N"]:
        """Stored data of a face ("x0", "x1", …) at points on it, by cubic interpolation; zero where there are none."""
        x = x.expand(len(self), -1, -1)
        if face not in self.boundary:
            return torch.zeros(x.shape[:-1], dtype=self.dtype, device=self.device)
        data = self.boundary[face]
        if self.domain.ndim == 1:
            return data.reshape(len(self), 1).expand(x.shape[:-1])
        axis, _ = face_axis(face)
        along = [j for j in range(self.domain.ndim) if j != axis]
        return interpolate(data[:, None], self._face_grid(axis, self.domain), x[..., along], "cubic")[:, 0]

    def on(self, grid: Grid) -> "Cases":
        """The same cases on another grid: rebuilt by the generator if it can, else interpolated."""
        if grid == self.domain:
            return self
        rebuilt = self.problem.rebuild(self, grid)
        history = self._history_on(grid)
        if rebuilt is not None:
            return replace(rebuilt, times=self.times, history=history)
        parts = [
            resample(
                self.inputs.values[:, 0, j : j + 1],
                self.domain,
                grid,
                channel.interpolation,
                self.problem.boundary,
            )
            for j, channel in enumerate(self.problem.inputs)
        ]
        return replace(
            self,
            domain=grid,
            inputs=Field.steady(torch.cat(parts, dim=1), grid, self.inputs.channels),
            boundary={name: self._face_on(name, data, grid) for name, data in self.boundary.items()},
            provenance="interpolated",
            history=history,
        )

    def _history_on(self, grid: Grid) -> Field | None:
        """The frames on another grid: by Fourier series along periodic axes, else by cubics."""
        if self.history is None:
            return None
        flat = self.history.values.flatten(0, 1)
        moved = resample(flat, self.domain, grid, "cubic", self.problem.boundary)
        return replace(self.history, values=moved.unflatten(0, self.history.values.shape[:2]), domain=grid)

    def _face_on(self, name: str, data: Tensor, grid: Grid) -> Tensor:
        if self.domain.ndim == 1:
            return data
        axis, _ = face_axis(name)
        return resample(data[:, None], self._face_grid(axis, self.domain), self._face_grid(axis, grid), "cubic")[:, 0]

    @staticmethod
    def _face_grid(axis: int, g: Grid) -> Grid:
        keep = [j for j in range(g.ndim) if j != axis]
        shape, lower, upper, layout = ([values[j] for j in keep] for values in (g.shape, g.lower, g.upper, g.layout))
        return Grid.box(shape, lower, upper, layout)  # type: ignore[arg-type]

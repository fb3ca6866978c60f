"""The lid-driven cavity for a range of Reynolds numbers, the number being a coordinate."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary, Condition
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Channel, Problem
from sciops.core.solver import Solution

if TYPE_CHECKING:
    from sciops.numerics.cavity_flow import CavityFlow


@dataclass(frozen=True)
class LidDrivenCavity(Problem):
    """(u·∇)u + ∇p = νΔu, ∇·u = 0 in (x, y) ∈ [0, 1]², for all Re = low + (high − low) m, m ∈ [0, 1], at once; ν = 1/Re.

    Three coordinates (x, y, m), three unknowns (u, v, p), three equations: momentum in x and y, continuity; m is a
    parameter, nothing is differentiated in it. On the lid y = 1 the velocity is (1, 0), on the other walls 0; p has no
    condition and is determined up to a function of m (the reference has zero mean). The faces of m are free.
    The velocity jumps in the upper corners. The published loss weighs the lid by 2 − 4|x − ½|, which vanishes there:
    `conditions()` carries it. Close to the jump ν∇²u grows like 1/r², which no smooth function follows: `loss_weight`
    multiplies the residual by r²/(r² + `corner`²) for both corners, r the distance; `corner` 0: not at all, as in
    the published loss. Input: ν, a field of m alone.

    Reference: `numerics/cavity_flow.py` on `cells`² and (`cells`/2)² cells for every m of the grid, with cubic splines
    between, extrapolated by their order 2. `label_error` is the size of that correction to the velocity, an upper
    estimate; p is infinite in the upper corners and converges away from them. Published values: `problems/ghia.py`.
    Reference: Ghia, Ghia, Shin, J. Comput. Phys. 48 (1982) 387–411; arXiv:2402.11283 (parametric form, lid weight).
    """

    low: float = 100.0
    high: float = 1000.0
    cells: int = 128
    corner: float = 0.05

    ndim = 3
    inputs = (Channel("nu"),)
    outputs = (Channel("u"), Channel("v"), Channel("p"))
    linear = False
    gauge = (2,)
    boundary = Boundary((("dirichlet", "dirichlet"), ("dirichlet", "dirichlet"), ("free", "free")))

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise UsageError(f"LidDrivenCavity needs 0 < low ≤ high; got {self.low} and {self.high}.")
        if not self.corner >= 0:
            raise UsageError(f"LidDrivenCavity needs corner ≥ 0, a distance; got {self.corner}.")
        if self.cells < 8 or self.cells % 2:
            raise UsageError(f"LidDrivenCavity needs an even number of cells ≥ 8; got {self.cells}.")

    def reynolds(self, m: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Re at values of the third coordinate."""
        return self.low + (self.high - self.low) * m

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        u, v, p = u

        def momentum(w: Any, slope: Any) -> Any:
            diffused = d.partial(w, (2, 0, 0)) + d.partial(w, (0, 2, 0))
            return u * d.partial(w, (1, 0, 0)) + v * d.partial(w, (0, 1, 0)) + slope - c.nu * diffused

        return (
            momentum(u, d.partial(p, (1, 0, 0))),
            momentum(v, d.partial(p, (0, 1, 0))),
            d.partial(u, (1, 0, 0)) + d.partial(v, (0, 1, 0)),
        )

    def conditions(self) -> list[Condition]:
        walls = [Condition(face, output) for face in ("x0", "x1", "y0") for output in (0, 1)]
        return [*walls, Condition("y1", 0, data=_lid, weight=lid_weight), Condition("y1", 1, weight=lid_weight)]

    def loss_weight(self, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"] | None:
        if not self.corner:
            return None
        height = (1 - x[..., 1]).square()
        left, right = (height + (x[..., 0] - side).square() for side in (0.0, 1.0))
        area = self.corner**2
        return (left / (left + area) * right / (right + area)).square()

    def boundary_at(self, cases: Cases, face: str, x: Float[Tensor, "m N d"]) -> Float[Tensor, "n N"]:
        raise UsageError(
            "LidDrivenCavity has several unknowns: read its conditions() face by face and unknown by unknown."
        )

    def sample(
        self,
        seeds: Sequence[int],
        grid: Grid,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Cases:
        self.boundary.check(grid)
        if min(grid.lower) < 0 or max(grid.upper) > 1:
            raise UsageError(f"LidDrivenCavity lives on [0, 1]³; got lower {grid.lower}, upper {grid.upper}.")
        nu = (1 / self.reynolds(grid.axis(2))).expand(len(seeds), 1, *grid.shape)
        cases = Cases(self, grid, Field.steady(nu, grid, ("nu",)), seeds=torch.tensor(seeds, dtype=torch.int64))
        return cases.to(dtype=dtype, device=device)

    def formula(self, cases: Cases, x: Float[Tensor, "n N d"]) -> dict[str, Float[Tensor, "n N"]]:
        return {"nu": 1 / self.reynolds(x[..., 2])}

    def flows(self, reynolds: Sequence[float], cells: int | None = None) -> "dict[float, CavityFlow]":
        """Reference flows at some Reynolds numbers: velocities and pressure at any (x, y)."""
        return _flows(tuple(sorted({float(r) for r in reynolds})), cells or self.cells)

    def reference(self, cases: Cases, tol: float = 1e-10) -> Solution:
        grid, n = cases.domain, len(cases)
        levels = self.reynolds(grid.axis(2)).tolist()
        plane = torch.stack(torch.meshgrid(grid.axis(0), grid.axis(1), indexing="ij"), -1).reshape(-1, 2).numpy()

        def on_grid(cells: int) -> Tensor:
            found = self.flows(levels, cells)
            values = torch.stack([torch.from_numpy(found[re].at(plane[:, 0], plane[:, 1])) for re in levels], -1)
            return values.permute(1, 0, 2).reshape(3, *grid.shape)

        fine, coarse = on_grid(self.cells), on_grid(self.cells // 2)
        correction = (fine - coarse) / 3
        error = correction[:2].norm() / fine[:2].norm()
        field = (fine + correction).expand(n, -1, -1, -1, -1).to(cases.dtype).to(cases.device)
        stats = {
            "label_error": error.expand(n),
            "label_method": "staggered differences, extrapolated; size of the correction of the velocity",
        }
        return Solution(Field.steady(field, grid, [c.name for c in self.outputs]), [Status.OK] * n, stats)


def lid_weight(x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
    """2 − 4|x − ½|: from 0 in the corners of the lid to 2 in its middle."""
    return 2 - 4 * (x[..., 0] - 0.5).abs()


def _lid(cases: Cases, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
    return torch.ones_like(x[..., 0])


@lru_cache(maxsize=8)
def _flows(reynolds: tuple[float, ...], cells: int) -> "dict[float, CavityFlow]":
    from sciops.numerics.cavity_flow import sweep_cavity

    return sweep_cavity(list(reynolds), cells)

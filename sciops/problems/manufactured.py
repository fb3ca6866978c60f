"""Problems whose cases are closed forms: u is a formula, forcing and boundary data follow from it."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import AXES, Boundary, axis_names
from sciops.core.calculus import Autodiff
from sciops.core.cases import Cases
from sciops.core.errors import UsageError, ViewMissing
from sciops.core.expression import evaluate
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Channel, Problem
from sciops.core.random import generator
from sciops.core.solver import Solution, View
from sciops.problems.reference import discrete_reference

Numbers = Mapping[str, Tensor]
"""Parameter name → one value per case, (n,)."""


class Manufactured(Problem):
    """L(u) = f in the box, u = g on its faces, with u known as a formula, f = L(u) and g read off it.

    A subclass is a frozen dataclass with the fields `exact_solution` (a formula in x, y, z, x4, … and parameters),
    `parameters` (name → [low, high], one uniform draw per case from its seed) and, where several make sense, `ndim`;
    it writes `operator`, the left side. f is the operator applied to the formula by automatic differentiation, always
    in float64 and rounded to the type of the cases last; `forcing` may be overridden where a closed form is exact.
    `numbers` names fields of the subclass (a wavenumber, a width) that formulas may use and that `parameters` may
    draw per case instead.

    Without parameters all cases are equal. Closed forms belong to cases that carry their seeds: cases whose seeds
    were dropped may have been changed, so they are interpolated and solved like data.
    """

    exact_solution: str | None
    parameters: Mapping[str, Sequence[float]]
    numbers: tuple[str, ...] = ()
    condition: str = "dirichlet"
    max_ndim: int = 3

    inputs: tuple[Channel, ...] = (Channel("f"),)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not 1 <= self.ndim <= self.max_ndim:
            raise UsageError(f"{name} ndim must be 1 to {self.max_ndim}; got {self.ndim}.")
        ranges = {}
        for key, limits in self.parameters.items():
            if len(limits) != 2 or not limits[0] <= limits[1]:
                raise UsageError(f"{name} parameter '{key}' must be [low, high]; got {limits}.")
            if key in (*AXES, *axis_names(self.ndim), *(channel.name for channel in self.inputs)):
                raise UsageError(f"{name} parameter '{key}' has the name of a coordinate or an input; rename it.")
            ranges[key] = (float(limits[0]), float(limits[1]))
        object.__setattr__(self, "parameters", ranges)  # equal whether it came from Python or from YAML
        object.__setattr__(self, "boundary", Boundary.of(self.condition, self.ndim))

    # ---- what a subclass writes

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        """L(u), the left side, in the words of the calculus d."""
        raise ViewMissing(f"{type(self).__name__} lacks its equation: write operator(d, u, c), the left side.")

    def solution(self, params: Numbers, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        """u at points, differentiable in x."""
        assert self.exact_solution is not None
        fixed = {name: x.new_tensor(getattr(self, name)) for name in self.numbers}
        return expression_at(self.exact_solution, params, x, fixed)

    def coefficients(self, params: Numbers, x: Float[Tensor, "n N d"]) -> dict[str, Float[Tensor, "n N"]]:
        """Closed forms of the inputs other than f at points, differentiable in x."""
        return {}

    def forcing(self, params: Numbers, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        """f = L(u) at points, differentiable in x where x asks for it."""
        with torch.enable_grad():
            d = Autodiff(x)
            u = self.solution(params, d.x)
            u = u if u.requires_grad else u + 0.0 * d.x[..., 0]  # a constant solution
            f = self.operator(d, u, self._namespace(params, d.x))
        return f if x.requires_grad else f.detach()

    # ---- what follows

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        return self.operator(d, u, c) - c.f

    def number(self, c: Any, name: str) -> Any:
        """A field named in `numbers`, or its draw where `parameters` has it."""
        return getattr(c, name, getattr(self, name))

    def sample(
        self,
        seeds: Sequence[int],
        grid: Grid,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Cases:
        self.boundary.check(grid)
        device = torch.device(device)
        params = {k: v.to(device) for k, v in draw_parameters(self.parameters, seeds).items()}
        x = grid.points(torch.float64, device).expand(len(seeds), -1, -1)
        known = self.closed_forms(params, x)
        values = torch.stack([known[channel.name].detach() for channel in self.inputs], 1)
        values = values.reshape(len(seeds), len(self.inputs), *grid.shape)
        data = boundary_data(lambda p: self.solution(params, p), grid, self.boundary, len(seeds), torch.float64, device)
        inputs = Field.steady(values, grid, [channel.name for channel in self.inputs])
        ids = torch.tensor(seeds, dtype=torch.int64)
        return Cases(self, grid, inputs, params, data, seeds=ids).to(dtype=dtype)

    def closed_forms(self, params: Numbers, x: Float[Tensor, "n N d"]) -> dict[str, Float[Tensor, "n N"]]:
        """Every input at points."""
        return self.coefficients(params, x) | {"f": self.forcing(params, x)}

    def formula(self, cases: Cases, x: Float[Tensor, "n N d"]) -> dict[str, Float[Tensor, "n N"]]:
        if not made(cases):
            return {}
        known = self.closed_forms(cases.params, x.double())
        return {name: values.to(x.dtype) for name, values in known.items()}

    def exact(self, cases: Cases, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n c N"] | None:
        return self.solution(cases.params, x.double())[:, None].to(x.dtype) if made(cases) else None

    def reference(self, cases: Cases, tol: float = 1e-10) -> Solution:
        """The closed form on the grid. `label_error` bounds its rounding: that of the values, ε, and that of the
        arguments, ε Σ_j |x_j ∂_j u|, in the relative L² norm. `residual` is that of the second-order differences,
        so it says how well the grid resolves u and nothing of the truth."""
        if not made(cases):
            if View.SYSTEM in self.views():
                return discrete_reference(self, cases, tol)
            raise UsageError(f"{type(self).__name__}: cases without seeds have no closed form; sample them again.")
        grid = cases.domain
        x = grid.points(torch.float64, cases.device).expand(len(cases), -1, -1)
        with torch.enable_grad():
            d = Autodiff(x)
            values = self.solution(cases.params, d.x)
            slopes = d.gradient(values + 0.0 * d.x[..., 0]).detach()
        u = values.detach()
        stats = {
            "residual": self._relative_residual(cases, u.reshape(len(cases), *grid.shape).to(cases.dtype)),
            "label_error": _rounding(u, (x * slopes).abs().sum(-1), cases.dtype),
            "label_method": "exact",
        }
        field = u.reshape(len(cases), 1, *grid.shape).to(cases.dtype)
        return Solution(Field.steady(field, grid, [c.name for c in self.outputs]), [Status.OK] * len(cases), stats)

    def _relative_residual(self, cases: Cases, u: Float[Tensor, "n *s"]) -> Float[Tensor, " n"]:
        """‖R(u)‖/‖f‖ on the grid; where f is zero, over the residual of u's boundary values continued by zero."""
        size = _norms(cases.input("f"))
        if bool((size == 0).any()):
            zero = self.embed(cases, torch.zeros_like(self.unknowns(cases.domain, u)))
            size = torch.where(size == 0, _norms(self.residual_on_grid(cases, zero)), size)
        return _norms(self.residual_on_grid(cases, u)) / size.clamp_min(torch.finfo(size.dtype).tiny)

    def _namespace(self, params: Numbers, x: Float[Tensor, "n N d"]) -> SimpleNamespace:
        """What `cases.at(x)` offers to a residual, but for f."""
        table: dict[str, Any] = {k: v.to(x.dtype).reshape(-1, 1) for k, v in params.items()}
        return SimpleNamespace(**table | self.coefficients(params, x))


def made(cases: Cases) -> bool:
    """Are these cases as their generator made them, so that closed forms hold?"""
    return cases.seeds is not None and cases.provenance != "interpolated"


def draw_parameters(ranges: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> dict[str, Float[Tensor, " n"]]:
    """One uniform draw from [low, high] per parameter and case, from the case's own seed."""
    draws = torch.stack([torch.rand(max(len(ranges), 1), generator=generator(s), dtype=torch.float64) for s in seeds])
    return {name: low + (high - low) * draws[:, j] for j, (name, (low, high)) in enumerate(sorted(ranges.items()))}


def expression_at(
    expression: str, params: Numbers, x: Float[Tensor, "n N d"], fixed: Numbers | None = None
) -> Float[Tensor, "n N"]:
    """The formula in x, y, z, the per-case parameters and fixed numbers at the points."""
    variables = dict(zip(axis_names(x.shape[-1]), x.unbind(-1), strict=True)) | dict(fixed or {})
    variables |= {name: value.to(x.dtype)[:, None].expand(x.shape[:2]) for name, value in params.items()}
    return evaluate(expression, variables)


def boundary_data(
    exact: Callable[[Tensor], Tensor],
    grid: Grid,
    boundary: Boundary,
    n: int,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Float[Tensor, "n *face"]]:
    """Dirichlet values and outward normal derivatives of the exact solution on every face with a condition."""
    data = {}
    for name, axis, side, kind in boundary.faces():
        if kind == "free":
            continue
        others = [grid.axis(j, dtype, device) for j in range(grid.ndim) if j != axis]
        wall = torch.full((1,), (grid.lower, grid.upper)[side][axis], dtype=dtype, device=device)
        mesh = torch.meshgrid(*others[:axis], wall, *others[axis:], indexing="ij")
        x = torch.stack(mesh, -1).reshape(1, -1, grid.ndim).expand(n, -1, -1)
        if kind == "dirichlet":
            values = exact(x)
        else:
            d = Autodiff(x)
            values = d.gradient(exact(d.x))[..., axis] * (1.0 if side else -1.0)
        data[name] = values.detach().reshape(n, *(len(axis_points) for axis_points in others))
    return data


def _norms(values: Float[Tensor, "n *s"]) -> Float[Tensor, " n"]:
    # One case at a time, so that a case rebuilt alone has the same bits as in its batch.
    return torch.stack([case.norm() for case in values])


def _rounding(u: Float[Tensor, "n N"], slope: Float[Tensor, "n N"], dtype: torch.dtype) -> Float[Tensor, " n"]:
    """Relative L² rounding of a formula: its values in the stored type, its arguments in float64."""
    sizes = _norms(u).clamp_min(torch.finfo(torch.float64).tiny)
    stored = math.sqrt(u.shape[1]) * torch.finfo(dtype).eps
    return stored + torch.finfo(torch.float64).eps * _norms(slope) / sizes

"""Poisson's equation with random-field forcing or a manufactured solution."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary
from sciops.core.calculus import Autodiff
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Channel, Problem
from sciops.core.solver import Solution
from sciops.numerics.random_fields import basis_functions, draw_modes, spectral_root, synthesise
from sciops.problems.manufactured import boundary_data, draw_parameters, expression_at
from sciops.problems.reference import discrete_reference, zero_mean

BASIS = {"dirichlet": "sine", "neumann": "cosine", "periodic": "fourier"}


@dataclass(frozen=True)
class Poisson(Problem):
    """−Δu = f in the box, u = g or ∂u/∂n = g on its faces, or periodic.

    Random forcing (default): f = Σ_k ξ_k σ(κ_k² + τ²)^{−α/2} φ_k over the first `modes` eigenfunctions per axis
    of −Δ with the problem's own boundary condition (sine, cosine or Fourier), ξ_k ~ N(0, 1), constant mode
    dropped. The solution is then known mode by mode, u = Σ_k f_k κ_k^{−2} φ_k, and is exact to rounding.
    Manufactured: `exact` is a formula in x, y, z and `parameters` (name → [low, high], uniform per case); f
    and g follow by automatic differentiation, for example `exact="sin(a*x)*exp(y)"`.

    Neumann and periodic solutions have zero mean. Inputs: f; output: u.
    """

    ndim: int = 2
    condition: str = "dirichlet"
    tau: float = 5.0
    alpha: float = 2.0
    sigma: float = 100.0
    modes: int = 64
    exact_solution: str | None = None
    parameters: Mapping[str, Sequence[float]] = field(default_factory=dict)

    inputs = (Channel("f", interpolation="spectral"),)
    constant_coefficient = 1.0

    def __post_init__(self) -> None:
        if self.ndim not in (1, 2, 3):
            raise UsageError(f"Poisson ndim must be 1, 2 or 3; got {self.ndim}.")
        if self.condition not in BASIS:
            raise UsageError(f"Poisson condition must be one of {', '.join(BASIS)}; got '{self.condition}'.")
        if self.parameters and self.exact_solution is None:
            raise UsageError("Poisson parameters belong to a manufactured solution: set exact_solution too.")
        if self.exact_solution is not None and self.condition == "periodic":
            raise UsageError("Poisson exact_solution needs condition dirichlet or neumann, not periodic.")
        ranges = {}
        for name, limits in self.parameters.items():
            if len(limits) != 2 or not limits[0] <= limits[1]:
                raise UsageError(f"Poisson parameter '{name}' must be [low, high]; got {limits}.")
            ranges[name] = (float(limits[0]), float(limits[1]))
        object.__setattr__(self, "parameters", ranges)  # equal whether it came from Python or from YAML
        object.__setattr__(self, "boundary", Boundary.of(self.condition, self.ndim))
        if self.exact_solution is not None:  # a formula is not band-limited
            object.__setattr__(self, "inputs", (Channel("f", interpolation="cubic"),))

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        return -d.laplacian(u) - c.f

    # ---- laws of the cases

    def sample(
        self,
        seeds: Sequence[int],
        grid: Grid,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Cases:
        self.boundary.check(grid)
        ids = torch.tensor(seeds, dtype=torch.int64)
        if self.exact_solution is None:
            f = synthesise(self._modes(seeds, grid), grid, BASIS[self.condition]).to(dtype=dtype, device=device)
            return Cases(self, grid, Field.steady(f[:, None], grid, ("f",)), seeds=ids)
        params = {k: v.to(dtype=dtype, device=device) for k, v in draw_parameters(self.parameters, seeds).items()}
        x = grid.points(dtype, torch.device(device)).expand(len(seeds), -1, -1)
        f = self._forcing(params, x).detach().reshape(len(seeds), 1, *grid.shape)
        data = boundary_data(
            lambda p: self._exact(params, p), grid, self.boundary, len(seeds), dtype, torch.device(device)
        )
        return Cases(self, grid, Field.steady(f, grid, ("f",)), params, data, seeds=ids)

    def _modes(self, seeds: Sequence[int], grid: Grid) -> Float[Tensor, "n *k"]:
        root = spectral_root(grid, BASIS[self.condition], self.modes, self.tau, self.alpha)
        return self.sigma * root * draw_modes(seeds, self.modes, self.ndim)

    def _exact(self, params: Mapping[str, Tensor], x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        assert self.exact_solution is not None
        return expression_at(self.exact_solution, params, x)

    def _forcing(self, params: Mapping[str, Tensor], x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        d = Autodiff(x)
        return -d.laplacian(self._exact(params, d.x))

    def _dropped(self, coefficients: Float[Tensor, "n *k"], grid: Grid) -> Float[Tensor, " n"]:
        """Relative L² norm of the modes that the grid cannot carry (Parseval)."""
        carried = torch.ones((), dtype=torch.bool)
        for axis in range(self.ndim):
            kept = basis_functions(grid, axis, BASIS[self.condition], self.modes).any(0)
            carried = carried[..., None] & kept
        energy = coefficients.square()
        return torch.stack([torch.sqrt(case[~carried].sum() / case.sum()) for case in energy])

    # ---- closed forms

    def formula(self, cases: Cases, x: Float[Tensor, "n N d"]) -> dict[str, Float[Tensor, "n N"]]:
        return {} if self.exact_solution is None else {"f": self._forcing(cases.params, x)}

    def exact(self, cases: Cases, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n c N"] | None:
        return None if self.exact_solution is None else self._exact(cases.params, x)[:, None]

    def reference(self, cases: Cases, tol: float = 1e-10) -> Solution:
        """Exact where it is known (random modes from their seeds, formulas), else the discrete reference.

        A grid too coarse for all `modes` carries a truncated forcing; `label_error` then holds what the answer lacks.
        """
        grid = cases.domain
        dropped = torch.zeros(len(cases), dtype=torch.float64)
        if self.exact_solution is not None:
            x = grid.points(cases.dtype, cases.device).expand(len(cases), -1, -1)
            u = self._exact(cases.params, x).detach().reshape(len(cases), *grid.shape)
            measured = self.residual_on_grid(cases, u)
        elif cases.seeds is not None:
            seeds = cases.seeds.tolist()
            squares = spectral_root(grid, BASIS[self.condition], self.modes, 0.0, 2.0)  # κ⁻², 0 at the constant
            coefficients = self._modes(seeds, grid) * squares
            dropped = self._dropped(coefficients, grid)
            u = synthesise(coefficients, grid, BASIS[self.condition])
            u = u.to(dtype=cases.dtype, device=cases.device)
            operator, b = self.spectral_system(cases)
            measured = operator.matvec(self.unknowns(grid, u)) - b
        else:
            return discrete_reference(self, cases, tol)
        if self.condition != "dirichlet":
            u = zero_mean(u, grid)
        scale = cases.input("f").flatten(1).norm(dim=1)
        stats = {
            "residual": measured.flatten(1).norm(dim=1) / scale,
            "label_error": dropped + math.sqrt(grid.size) * torch.finfo(cases.dtype).eps,
            "label_method": "exact",
        }
        return Solution(Field.steady(u[:, None], grid, ("u",)), [Status.OK] * len(cases), stats)

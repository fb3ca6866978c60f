"""Poisson's equation with random-field forcing or a manufactured solution."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Channel
from sciops.core.solver import Solution
from sciops.numerics.random_fields import basis_functions, draw_modes, evaluate_series, spectral_root, synthesise
from sciops.problems.manufactured import Manufactured, made
from sciops.problems.reference import discrete_reference, zero_mean

BASIS = {"dirichlet": "sine", "neumann": "cosine", "periodic": "fourier"}


@dataclass(frozen=True)
class Poisson(Manufactured):
    """−Δu = f in the box, u = g or ∂u/∂n = g on its faces, or periodic.

    Random forcing (default): f = Σ_k ξ_k σ(κ_k² + τ²)^{−α/2} φ_k over the first `modes` eigenfunctions per axis
    of −Δ with the problem's own boundary condition (sine, cosine or Fourier), ξ_k ~ N(0, 1), constant mode
    dropped. The solution is then known mode by mode, u = Σ_k f_k κ_k^{−2} φ_k, and is exact to rounding.
    Manufactured: `exact_solution` is a formula in x, y, z and `parameters` (name → [low, high], uniform per case); f
    and g follow by automatic differentiation, for example `exact_solution="sin(a*x)*exp(y)"`. Chirps and other
    high frequencies are formulas too: `exact_solution="sin(150*x**2)"`.

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
        if self.condition not in BASIS:
            raise UsageError(f"Poisson condition must be one of {', '.join(BASIS)}; got '{self.condition}'.")
        if self.parameters and self.exact_solution is None:
            raise UsageError("Poisson parameters belong to a manufactured solution: set exact_solution too.")
        if self.exact_solution is not None and self.condition == "periodic":
            raise UsageError("Poisson exact_solution needs condition dirichlet or neumann, not periodic.")
        super().__post_init__()
        if self.exact_solution is not None:  # a formula is not band-limited
            object.__setattr__(self, "inputs", (Channel("f", interpolation="cubic"),))

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return -d.laplacian(u)

    def energy(self, d: Any, u: Any, c: Any) -> Any:
        """½|∇u|² − f u; with Neumann data g the functional has the further term −∫ g u over those faces."""
        return 0.5 * sum(g**2 for g in d.grad(u)) - c.f * u

    # ---- laws of the cases

    def sample(
        self,
        seeds: Sequence[int],
        grid: Grid,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Cases:
        if self.exact_solution is not None:
            return super().sample(seeds, grid, dtype, device)
        self.boundary.check(grid)
        ids = torch.tensor(seeds, dtype=torch.int64)
        f = synthesise(self._modes(seeds, grid), grid, BASIS[self.condition]).to(dtype=dtype, device=device)
        return Cases(self, grid, Field.steady(f[:, None], grid, ("f",)), seeds=ids)

    def _modes(self, seeds: Sequence[int], grid: Grid) -> Float[Tensor, "n *k"]:
        root = spectral_root(grid, BASIS[self.condition], self.modes, self.tau, self.alpha)
        return self.sigma * root * draw_modes(seeds, self.modes, self.ndim)

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
        """f at points. Random forcing: the series itself, with the modes that `cases.domain` carries, so that it is
        the function whose values are stored there; a coarse grid drops modes from both alike."""
        if self.exact_solution is not None:
            return super().formula(cases, x)
        if cases.seeds is None or not made(cases):
            return {}
        coefficients = self._modes(cases.seeds.tolist(), cases.domain).to(x.device)
        f = evaluate_series(coefficients, cases.domain, BASIS[self.condition], x.double())
        return {"f": f.to(x.dtype)}

    def exact(self, cases: Cases, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n c N"] | None:
        return None if self.exact_solution is None else super().exact(cases, x)

    def reference(self, cases: Cases, tol: float = 1e-10) -> Solution:
        """Exact where it is known (random modes from their seeds, formulas), else the discrete reference.

        A grid too coarse for all `modes` carries a truncated forcing; `label_error` then holds what the answer lacks.
        """
        grid = cases.domain
        if self.exact_solution is not None:
            solution = super().reference(cases, tol)
            u = solution.field.values[:, 0, 0]
            if self.condition != "dirichlet" and made(cases):
                solution.field = Field.steady(zero_mean(u, grid)[:, None], grid, ("u",))
            return solution
        if cases.seeds is None or not made(cases):
            return discrete_reference(self, cases, tol)
        squares = spectral_root(grid, BASIS[self.condition], self.modes, 0.0, 2.0)  # κ⁻², 0 at the constant
        coefficients = self._modes(cases.seeds.tolist(), grid) * squares
        u = synthesise(coefficients, grid, BASIS[self.condition])
        u = u.to(dtype=cases.dtype, device=cases.device)
        operator, b = self.spectral_system(cases)
        measured = operator.matvec(self.unknowns(grid, u)) - b
        if self.condition != "dirichlet":
            u = zero_mean(u, grid)
        scale = cases.input("f").flatten(1).norm(dim=1)
        stats = {
            "residual": measured.flatten(1).norm(dim=1) / scale,
            "label_error": self._dropped(coefficients, grid) + math.sqrt(grid.size) * torch.finfo(cases.dtype).eps,
            "label_method": "exact",
        }
        return Solution(Field.steady(u[:, None], grid, ("u",)), [Status.OK] * len(cases), stats)

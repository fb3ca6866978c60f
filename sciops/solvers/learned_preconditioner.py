"""A trained operator as nonlinear preconditioner of a certified solve."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sciops.core.calculus import Stencil
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, LinearSolution
from sciops.core.problem import Problem
from sciops.core.solver import Solver
from sciops.numerics.flexible_cg import Apply, FlexibleCG
from sciops.numerics.guards import Unknowns, prepared, unit
from sciops.numerics.reductions import inner, wide
from sciops.solvers.discrete import Discrete
from sciops.solvers.warm import Assisted

DAMPING = 0.8
"""Jacobi weight that suits the rough modes of second-order stencils in 2-D."""


class LearnedPreconditioner(Assisted):
    """A u = b by flexible conjugate gradients with z = G(a, …, forcing ← r), G the operator a ↦ u of `first`.

    Method: the error solves the same equation with the residual as forcing and homogeneous boundary data, so an
    operator that was trained with a varying forcing is a map r ↦ z ≈ A⁻¹r. The residual enters scaled to the root mean
    square of the case's own forcing, where the network was trained; guards and stop are those of `FlexibleCG`.
    `forcing`: the input channel that the right-hand side is linear in, point by point (checked).
    `sweeps`: damped Jacobi sweeps on A z = r after the forward, which take out the rough error that networks leave.
    `window`, `guard`: see FlexibleCG. `warm`: start from the operator's own answer as well.
    stats: iterations, network_calls, fallbacks. The comparison counts iterations_saved against the same method with
    its Jacobi fallback alone.
    Cost per step: one forward and `sweeps` + 1 products. Helps while the residual looks like the training forcings;
    after a few digits it does not, and the guard falls back. Problems whose forcing never varied in training (constant
    f) are an error.
    References: Kaneda et al., ICML 2023; Rudikov et al., ICML 2024; Zhang et al., Nat. Mach. Intell. 6 (2024), for
    networks between relaxations.
    """

    def __init__(
        self,
        operator: Solver | dict[str, Any],
        forcing: str = "f",
        window: int | None = 2,
        guard: float = 1e-3,
        sweeps: int = 2,
        warm: bool = False,
        resolution: float = 1.0,
        tol: float = 1e-8,
        maxiter: int = 500,
        batch: int = 32,
        seed: int = 0,
    ) -> None:
        linear = FlexibleCG(None, window=window, guard=guard)
        super().__init__(operator, linear, seed, resolution=resolution, tol=tol, maxiter=maxiter, batch=batch)
        self.forcing, self.sweeps, self.warm = forcing, sweeps, warm

    @property
    def method(self) -> str:
        return f"{self.first.name} in FlexibleCG"

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        reason = super().refuses(problem, grid)
        names = [channel.name for channel in problem.inputs]
        if reason is None and self.forcing not in names:
            return f"has no input '{self.forcing}' to put the residual in; set forcing to one of {', '.join(names)}"
        return reason

    def unassisted(self) -> Discrete:
        linear = replace(self._flexible(), preconditioner=self._flexible().fallback)
        return Discrete(linear, self.resolution, self.tol, self.maxiter, self.batch)

    def set_up(self, A: LinearOperator, cases: Cases) -> Any:
        return self._flexible().setup(A)

    def solve_cases(self, state: Any, cases: Cases, b: Tensor, tol: float, maxiter: int) -> LinearSolution:
        self._check_forcing()
        forward = self._map(cases, state.unknowns.mask)
        apply = Apply(lambda r: self._smoothed(state.unknowns, forward(r).to(r), r))
        x0 = None
        if self.warm:
            x0 = cases.problem.unknowns(cases.domain, self.answer_of_first(cases, cases.domain).to(b))
        ready = replace(state, learned=prepared(apply, state.unknowns.A))
        return self._flexible().solve(ready, b, x0=x0, tol=tol, maxiter=maxiter)

    def _flexible(self) -> FlexibleCG:
        assert isinstance(self.linear, FlexibleCG)
        return self.linear

    def _check_forcing(self) -> None:
        facts = getattr(getattr(self.first, "module", None), "facts", None)
        if facts is not None and self.forcing not in facts["kept"]:
            raise UsageError(
                f"{self.first.name} was trained with a constant {self.forcing} and does not take it as an input, so no "
                "residual can be put in its place; train it on cases whose forcing varies, or use Warm."
            )

    def _map(self, cases: Cases, mask: Tensor | None) -> Any:
        """r ↦ z at the unknowns; `mask` says which cells have a row."""
        problem, grid = cases.problem, cases.domain
        bare = replace(cases, boundary={}, seeds=None)
        column = cases.inputs.channels.index(self.forcing)
        level = _rms(cases.inputs.values[:, 0, column])
        zero, one = (problem.right_hand_side(self._with(bare, column, value)) for value in (0.0, 1.0))
        gain = one - zero
        if mask is not None:
            gain = torch.where(mask, gain, 1.0)  # in solid cells the residual is zero, whatever the forcing
        if bool((gain == 0).any()):
            raise UsageError(
                f"The right-hand side of {type(problem).__name__} does not depend on {self.forcing} at every point, so "
                "a residual cannot take its place; name another channel as forcing."
            )
        homogeneous = Stencil(grid, problem.boundary)

        def apply(r: Tensor) -> Tensor:
            f = homogeneous.embed(r / gain)
            size = _rms(f)
            f = f * wide(torch.where(size > 0, level / torch.where(size > 0, size, 1.0), 0.0), f)
            return problem.unknowns(grid, self.answer_of_first(self._with(bare, column, f), grid))

        return apply

    def _smoothed(self, unknowns: Unknowns, z: Tensor, r: Tensor) -> Tensor:
        """z, scaled by an exact line search, after damped Jacobi sweeps on A z = r."""
        if self.sweeps < 1 or unknowns.diagonal is None:
            return z
        z, _ = unit(unknowns.clean(z))
        product = unknowns.A.matvec(z)
        a = inner(z, product)
        step = wide(torch.where(a > 0, inner(z, r) / torch.where(a > 0, a, 1.0), 0.0), z)
        z, product = step * z, step * product
        inverse = torch.where(unknowns.diagonal > 0, DAMPING / unknowns.diagonal, 0.0)
        for sweep in range(self.sweeps):
            z = z + inverse * (r - product)
            if sweep + 1 < self.sweeps:
                product = unknowns.A.matvec(z)
        return z

    @staticmethod
    def _with(cases: Cases, column: int, value: Tensor | float) -> Cases:
        values = cases.inputs.values.clone()
        values[:, 0, column] = value
        return replace(cases, inputs=Field(values, cases.inputs.domain, cases.inputs.channels, cases.inputs.times))


def _rms(f: Tensor) -> Tensor:
    """Root mean square of each case, 1 where f is 0."""
    size = (inner(f, f) / f[0].numel()).sqrt()
    return torch.where(size > 0, size, 1.0)

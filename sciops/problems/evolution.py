"""Periodic evolution equations as boundary-value problems in space and time, with a spectral reference."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Channel, Problem
from sciops.core.solver import Solution
from sciops.numerics.etdrk4 import Stage, Trajectory, evolve

LOWER, LENGTH = -1.0, 2.0


class PeriodicEvolution(Problem, ABC):
    """u_t = L u + N(u), periodic in x on [−1, 1], t in [0, 1] the second axis, u(x, 0) = u₀(x).

    A subclass is a frozen dataclass that writes the residual for the calculi (with f = 0 as its input), u₀ and its
    Fourier coefficients, and for the reference the symbol of L, N in Fourier space and the stages of the integration.

    Reference: Fourier series in x, fourth-order exponential time differencing in t (`numerics/etdrk4.py`), tenth-order
    interpolation between stored times: `exact` holds at any point and is differentiable. It is computed once a process
    and problem, in float64 on the host. `label_error` is its distance to a coarser run.
    Grid: periodic in x, nodes in t. Face y0 Dirichlet, the final y1 free. Input: f, which is zero; output: u.
    """

    ndim = 2
    inputs = (Channel("f"),)
    linear = False
    boundary = Boundary((("periodic", "periodic"), ("dirichlet", "free")))

    # ---- what a subclass writes

    @abstractmethod
    def initial(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """u₀."""

    @abstractmethod
    def initial_coefficients(self, modes: int) -> Tensor:
        """One-sided Fourier coefficients of u₀ on [−1, 1], k = 0 … modes, as `torch.fft.rfft` with norm "forward"."""

    def face_values(self, face: str, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        """Initial values in closed form."""
        return self.initial(x[:, 0])

    @abstractmethod
    def symbol_of(self, k: Tensor) -> Tensor:
        """λ(k) of L at wavenumbers πj."""

    @abstractmethod
    def nonlinear(self, modes: int) -> Callable[[Tensor], Tensor]:
        """N on modes + 1 coefficients."""

    @abstractmethod
    def stages(self, coarser: int = 1) -> Sequence[Stage]:
        """The integration from 0 to 1; `coarser` divides the number of steps, and of modes where they limit."""

    # ---- what follows

    def trajectory(self, coarser: int = 1) -> Trajectory:
        """The reference solution, computed at the first call."""
        return _trajectory(self, coarser)

    def sample(
        self,
        seeds: Sequence[int],
        grid: Grid,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Cases:
        self.boundary.check(grid)
        if grid.lower[0] != LOWER or grid.lengths[0] != LENGTH or grid.lower[1] != 0.0 or grid.upper[1] > 1.0:
            raise UsageError(
                f"{type(self).__name__} lives on x in [−1, 1] and t in [0, T], T ≤ 1; got lower {grid.lower}, upper "
                f"{grid.upper}."
            )
        n = len(seeds)
        start = self.initial(grid.axis(0)).expand(n, -1)
        inputs = Field.steady(torch.zeros(n, 1, *grid.shape, dtype=torch.float64), grid, ("f",))
        cases = Cases(self, grid, inputs, {}, {"y0": start}, seeds=torch.tensor(seeds, dtype=torch.int64))
        return cases.to(dtype=dtype, device=device)

    def formula(self, cases: Cases, x: Float[Tensor, "n N d"]) -> dict[str, Float[Tensor, "n N"]]:
        return {"f": torch.zeros_like(x[..., 0])}

    def exact(self, cases: Cases, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n c N"] | None:
        """The reference at points; u₀ itself at t = 0."""
        points = x.double().reshape(-1, 2)
        u = self.trajectory()(points.cpu()).to(x.device)
        u = torch.where(points[:, 1] <= 0, self.initial(points[:, 0]), u)
        return u.reshape(x.shape[0], 1, x.shape[1]).to(x.dtype)

    def boundary_at(self, cases: Cases, face: str, x: Float[Tensor, "m N d"]) -> Float[Tensor, "n N"]:
        if face != "y0":
            return super().boundary_at(cases, face, x)
        return self.initial(x[..., 0]).expand(len(cases), -1)

    def reference(self, cases: Cases, tol: float = 1e-10) -> Solution:
        """The trajectory on the grid. `label_error`: relative L² distance to the coarser run."""
        grid, n = cases.domain, len(cases)
        x = grid.points(torch.float64)
        u, coarse = (torch.where(x[:, 1] <= 0, self.initial(x[:, 0]), self.trajectory(k)(x)) for k in (1, 2))
        error = (u - coarse).norm() / u.norm() + torch.finfo(cases.dtype).eps
        field = u.reshape(1, 1, *grid.shape).expand(n, -1, -1, -1).to(cases.dtype).to(cases.device)
        stats = {"label_error": error.expand(n), "label_method": "Fourier series and ETDRK4, against a coarser run"}
        return Solution(Field.steady(field, grid, ("u",)), [Status.OK] * n, stats)


@lru_cache(maxsize=4)
def _trajectory(problem: PeriodicEvolution, coarser: int) -> Trajectory:
    stages = problem.stages(coarser)
    start = problem.initial_coefficients(stages[0].modes).to(torch.complex128)
    with torch.no_grad():
        made = evolve(start, problem.symbol_of, problem.nonlinear, stages, LOWER, LENGTH)
    # A resolved end state has no weight in its last modes.
    size, modes = made.stages[-1][1].abs(), stages[-1].modes
    if size.shape[1] > 0.9 * modes and float(size[:, -modes // 10 :].max()) > 1e-8 * float(size.max()):
        raise UsageError(f"{type(problem).__name__}: {modes} modes do not resolve the solution at t = 1; give more.")
    return made

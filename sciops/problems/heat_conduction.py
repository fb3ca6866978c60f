"""Heat conduction with switching sources, stepped by the implicit scheme of a program that is to be served."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.evolution import Evolution, Step
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import FunctionOperator, LinearOperator, LinearSolution, Status
from sciops.core.problem import Channel
from sciops.core.random import generator
from sciops.core.solver import Solution
from sciops.numerics.krylov import PlainFrame, pcg

UNITS = (
    (0.20, 0.30, 0.07),
    (0.55, 0.20, 0.05),
    (0.80, 0.45, 0.09),
    (0.35, 0.65, 0.05),
    (0.65, 0.75, 0.08),
    (0.10, 0.85, 0.06),
)
"""Place and width of the sources: the plan of one device."""

LOOSE = 1e-4
"""Relative residual of the steps before t = 0, which make the states likely and are no labels."""


@dataclass(frozen=True)
class HeatConduction(Evolution):
    """∂_t u = ∇·(k(u) ∇u) − γu + f on the periodic unit square, k = k₀ (1 + u)^−p, heated by units that switch.

    A thin plate that loses heat to its surroundings; u ≥ 0 is the temperature above them in units of theirs, p = 4/3
    about silicon's. What is asked is not this equation but its *scheme*: one step of length `every` is

        A(u) v = u + dt f,   A(u) v = (1 + γ dt) v − dt ∇_h·(k̄ ∇_h v)

    with k taken at the old state and averaged on faces, second-order differences on n × n points (backward Euler with
    lagged coefficients). A is symmetric positive, changes at every step, and A ≥ 1 + γ dt. An operator that is trained
    on these frames learns the discrete steps of a host program, not the solution of the equation: on another grid they
    are other steps.

    Law: sources P exp(−r²/2s²), periodic, one for each of `units`, rows [x, y, s], with P uniform in [2, 8] per case,
    each turned on or off with probability `switching` before every step. From u = 0, `warmup` such steps are made (to
    1e-4), the sources switch once more and are held for the `frames` steps of the trajectory: the step after a switch,
    then the next ones. Inputs: u at t = 0 and f; output u. Reference: the steps themselves by conjugate gradients,
    preconditioned by the step with constant k; `label_error` adds up their relative residuals, it is no error in time
    or space. Cost of a step: about 15 iterations of two transforms.
    """

    k0: float = 0.05
    exponent: float = 4.0 / 3.0
    loss: float = 1.0
    every: float = 1.0
    frames: int = 2
    units: Sequence[Sequence[float]] = UNITS
    switching: float = 0.3
    warmup: int = 4

    ndim = 2
    inputs = (Channel("u", interpolation="spectral"), Channel("f", interpolation="spectral"))
    outputs = (Channel("u", interpolation="spectral"),)
    boundary = Boundary((("periodic", "periodic"), ("periodic", "periodic")))

    def __post_init__(self) -> None:
        if not (self.k0 > 0 and self.exponent >= 0 and self.loss >= 0):
            raise UsageError(
                f"HeatConduction needs k0 > 0, exponent ≥ 0 and loss ≥ 0; got {self.k0}, {self.exponent}, {self.loss}."
            )
        if self.frames < 1 or not self.every > 0 or self.warmup < 0:
            raise UsageError(
                f"HeatConduction needs frames ≥ 1, every > 0 and warmup ≥ 0; got {self.frames}, {self.every}, "
                f"{self.warmup}."
            )
        units = tuple(tuple(float(value) for value in unit) for unit in self.units)
        if not units or any(len(unit) != 3 or not unit[2] > 0 for unit in units):
            raise UsageError(f"HeatConduction units are rows [x, y, width > 0], at least one; got {self.units}.")
        object.__setattr__(self, "units", units)
        if not 0 < self.switching <= 1:
            raise UsageError(f"HeatConduction switching is a probability in (0, 1]; got {self.switching}.")

    # ---- cases

    def sample(
        self,
        seeds: Sequence[int],
        grid: Grid,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Cases:
        self._check(grid)
        shapes = units_on(grid, self.units).to(device)
        powers = torch.stack([self.powers(seed) for seed in seeds]).to(device)
        u = torch.zeros((len(seeds), *grid.shape), dtype=torch.float64, device=device)
        # Unit by unit: a matrix product would round by the size of the batch.
        sources = sum(powers[:, :, j, None, None] * shape for j, shape in enumerate(shapes)).transpose(0, 1)
        for f in sources[:-1]:
            u = self.advance(u, f, grid, self.every, LOOSE)[0]
        values = torch.stack([u, sources[-1]], 1).to(dtype)
        times = tuple(k * self.every for k in range(self.frames + 1))
        ids = torch.tensor(seeds, dtype=torch.int64)
        return Cases(self, grid, Field.steady(values, grid, ("u", "f")), seeds=ids, times=times)

    def powers(self, seed: int) -> Float[Tensor, "t j"]:
        """Power of every unit before each of the warmup + 1 switchings' steps."""
        draw, count = generator(seed), len(self.units)
        strength = 2.0 + 6.0 * torch.rand(count, generator=draw, dtype=torch.float64)
        start = torch.rand(count, generator=draw) < 0.5
        flips = torch.rand((self.warmup + 1, count), generator=draw) < self.switching
        return torch.where((flips.cumsum(0) % 2 == 1) ^ start, strength, 0.0)

    def _check(self, grid: Grid) -> None:
        self.boundary.check(grid)
        if grid.lower != (0.0, 0.0) or grid.upper != (1.0, 1.0):
            raise UsageError(f"HeatConduction lives on [0, 1)²; got lower {grid.lower} and upper {grid.upper}.")

    # ---- steps

    def conductivity(self, u: Tensor) -> Tensor:
        """k(u); rounding below u = 0 is not carried into the power."""
        return self.k0 * (1.0 + u.clamp_min(0.0)) ** -self.exponent

    def step_matrix(self, u: Float[Tensor, "n x y"], grid: Grid, dt: float) -> LinearOperator:
        """A(u) of a step of length dt."""
        k = self.conductivity(u)
        faces = [dt / (2 * h**2) * (k + k.roll(-1, axis)) for axis, h in enumerate(grid.spacing, start=1)]
        stay = 1.0 + self.loss * dt

        def apply(v: Tensor) -> Tensor:
            y = stay * v
            for axis, face in enumerate(faces, start=1):
                flux = face * (v.roll(-1, axis) - v)
                y = y.sub_(flux).add_(flux.roll(1, axis))
            return y

        tags = frozenset({"symmetric", "positive"})
        return FunctionOperator(apply, len(u), tuple(grid.shape), u.dtype, u.device, tags)

    def advance(
        self, u: Float[Tensor, "n x y"], f: Float[Tensor, "n x y"], grid: Grid, dt: float, tol: float
    ) -> tuple[Float[Tensor, "n x y"], Float[Tensor, " n"], list[Status]]:
        """One step of length dt to a relative residual `tol`, started from the old state: v, residuals, statuses.

        Case by case, because sums and transforms round by the size of the batch: no bit of a case depends on others.
        """
        made = [self._advance(*one, grid, dt, tol) for one in zip(u.split(1), f.split(1), strict=True)]
        v, residual = (torch.cat(parts) for parts in ([m.x for m in made], [m.residual for m in made]))
        return v, residual, [m.status[0] for m in made]

    def _advance(self, u: Tensor, f: Tensor, grid: Grid, dt: float, tol: float) -> LinearSolution:
        A = self.step_matrix(u, grid, dt)
        symbol = torch.full((), 1.0 + self.loss * dt, dtype=u.dtype, device=u.device)
        mean = dt * self.k0 * 2.0 ** (-self.exponent / 2)  # k at u ≈ 0.4
        for axis, (n, h) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
            k = torch.arange(n if axis == 0 else n // 2 + 1, dtype=u.dtype, device=u.device)
            symbol = symbol[..., None] + mean * (2 / h * torch.sin(torch.pi * k / n)) ** 2
        frame = PlainFrame(A, lambda r: torch.fft.irfft2(torch.fft.rfft2(r) / symbol, s=tuple(grid.shape)))
        return pcg(A, u + dt * f, frame, u, tol, maxiter=500)

    def initial(self, cases: Cases) -> Float[Tensor, "n k x y"]:
        return cases.inputs.values[:, 0, :1]

    def stepper(self, cases: Cases, dt: float) -> Step:
        self._check(cases.domain)
        f, tol = cases.input("f"), 1e-10 if cases.dtype == torch.float64 else 1e-6
        return lambda state, t: self.advance(state[:, 0], f, cases.domain, dt, tol)[0][:, None]

    def largest_step(self, cases: Cases) -> float:
        return math.inf

    def reference(self, cases: Cases, tol: float = 1e-10) -> Solution:
        """Frames `every` apart in float64, each one step from the frame before it."""
        self._check(cases.domain)
        state, t = self.start(cases)
        u, f = state[:, 0].double(), cases.input("f").double()
        residual = torch.zeros(len(cases), dtype=torch.float64, device=cases.device)
        total, status = residual.clone(), [Status.OK] * len(cases)
        frames = []
        for end in cases.times:
            count = round((end - t) / self.every)
            if count < 0 or abs(end - t - count * self.every) > 1e-9 * self.every:
                raise UsageError(f"HeatConduction has frames {t:g} + k·{self.every:g}; got t = {end:g}.")
            for _ in range(count):
                u, left, ended = self.advance(u, f, cases.domain, self.every, tol)
                residual, total = torch.maximum(residual, left), total + left
                status = [old if old is not Status.OK else new for old, new in zip(status, ended, strict=True)]
            t = end
            frames.append(u)
        field = Field(torch.stack(frames, 1)[:, :, None].to(cases.dtype), cases.domain, ("u",), cases.times)
        stats: dict[str, Any] = {"residual": residual, "label_error": total + torch.finfo(cases.dtype).eps}
        return Solution(field, status, stats | {"label_method": "implicit Euler steps, the scheme itself"})

    def invariants(self) -> dict[str, Callable[[Field], Float[Tensor, "n t"]]]:
        """∫u, which sources and the loss alone change: (1 + γ dt) ∫v = ∫u + dt ∫f at every step."""
        return {"heat": lambda field: field.values.flatten(2).mean(2)}


def units_on(grid: Grid, units: Sequence[Sequence[float]]) -> Float[Tensor, "j x y"]:
    """exp(−r²/2s²) around each place [x, y, s], with |sin π d|/π per axis for the distance d on the torus."""
    table = torch.tensor(units, dtype=torch.float64)[..., None, None]
    square = torch.zeros((), dtype=torch.float64)
    for axis, x in enumerate(grid.mesh(torch.float64)):
        square = square + (torch.sin(torch.pi * (x - table[:, axis])) / torch.pi) ** 2
    return torch.exp(-square / (2 * table[:, 2] ** 2))

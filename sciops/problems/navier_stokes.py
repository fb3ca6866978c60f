"""Two-dimensional incompressible flow on the torus in its vorticity, from random initial fields."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from sciops.core.boundary import Boundary
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.evolution import Evolution, Step, round_up
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Channel
from sciops.core.solver import Solution
from sciops.numerics.random_fields import gaussian_field
from sciops.numerics.vorticity import SCHEMES, Vorticity

LIMIT = {"etdrk4": 2.5, "crank_nicolson": 1.0}
"""Largest dt·μ, μ the frequency at which advection turns a kept mode, for which a scheme is stable."""


ORDER = {"etdrk4": 4, "crank_nicolson": 2}

SHARES = {1: 1.0, 2: 0.75, 4: 0.5}
"""Points per axis of the runs with longer steps, as a share of those of the finest run."""


@dataclass(frozen=True)
class NavierStokes(Evolution):
    """∂_t ω + u·∇ω = νΔω + f on [0, 1)², periodic, u = (∂_y ψ, −∂_x ψ), −Δψ = ω.

    f = `forcing`·(sin 2π(x+y) + cos 2π(x+y)). Law: ω(0) ~ N(0, σ²(−Δ+τ²)^{−α}) without its mean, cut off at the modes
    that 256² points keep after dealiasing. Frames at 0, `every`, …, `frames`·`every`; the frame at 0 is the input.

    Scheme: Fourier modes with the 2/3 rule (`numerics/vorticity.py`), in time `etdrk4` (order 4) or `crank_nicolson`
    (order 2, Heun for advection). Steps of the reference are chosen for each case and frame so that
    dt·max 2π(K_x|u| + K_y|v|) ≤ `courant`·L, K the highest mode, L = 2.5 (etdrk4) or 1 (crank_nicolson) the limit of
    stability; or they are `step_size` where that is given.
    `label_error`: relative L² distances over all frames to the same runs on ¾ and ½ of the points per axis, with steps
    two and four times as long, extrapolated (`extrapolated`) with the order observed between them.
    Input and output: vorticity. Stats of the reference: `steps` of each case. Cost: 4 evaluations a step and case.
    Memory: all frames on the solve grid, twice.
    Reference: Li, Kovachki, Azizzadenesheli, Liu, Bhattacharya, Stuart, Anandkumar, ICLR 2021, §5.3 (ν = 1e-3, 1e-4,
    1e-5; dt = 1e-4 on 256² points).
    """

    viscosity: float = 1e-5
    forcing: float = 0.1
    frames: int = 20
    every: float = 1.0
    scheme: str = "etdrk4"
    courant: float = 0.5
    step_size: float | None = None
    sigma: float = 7**0.75
    tau: float = 7.0
    alpha: float = 2.5
    modes: int = 171

    ndim = 2
    inputs = (Channel("vorticity", interpolation="spectral"),)
    outputs = (Channel("vorticity", interpolation="spectral"),)
    boundary = Boundary((("periodic", "periodic"), ("periodic", "periodic")))

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UsageError(f"NavierStokes scheme must be {' or '.join(SCHEMES)}; got '{self.scheme}'.")
        if not (self.viscosity >= 0 and math.isfinite(self.viscosity)):
            raise UsageError(f"NavierStokes viscosity must not be negative; got {self.viscosity}.")
        if self.frames < 1 or not self.every > 0:
            raise UsageError(f"NavierStokes needs frames ≥ 1 and every > 0; got {self.frames} and {self.every}.")
        if not 0 < self.courant <= 0.5:
            raise UsageError(
                "NavierStokes courant is a share of the stable limit in (0, 0.5], since steps twice as long tell the "
                f"error; got {self.courant}."
            )
        if self.step_size is not None and not self.step_size > 0:
            raise UsageError(f"NavierStokes step_size must be positive; got {self.step_size}.")

    # ---- cases

    def sample(
        self,
        seeds: Sequence[int],
        grid: Grid,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Cases:
        self._check(grid)
        w = gaussian_field(seeds, grid, "fourier", self.tau, self.alpha, self.sigma, self.modes)
        inputs = Field.steady(w[:, None].to(dtype=dtype, device=device), grid, ("vorticity",))
        params = {"viscosity": torch.full((len(seeds),), self.viscosity, dtype=dtype, device=device)}
        times = tuple(k * self.every for k in range(self.frames + 1))
        return Cases(self, grid, inputs, params, seeds=torch.tensor(seeds, dtype=torch.int64), times=times)

    def force(self, grid: Grid) -> Float[Tensor, "x y"]:
        """f on a grid."""
        x, y = grid.mesh(torch.float64)
        phase = 2 * torch.pi * (x + y)
        return self.forcing * (torch.sin(phase) + torch.cos(phase))

    def _check(self, grid: Grid) -> None:
        self.boundary.check(grid)
        if grid.lower != (0.0, 0.0) or grid.upper != (1.0, 1.0):
            raise UsageError(f"NavierStokes lives on [0, 1)²; got lower {grid.lower} and upper {grid.upper}.")

    # ---- steps

    def flow(self, cases: Cases, share: float = 1.0) -> Vorticity:
        """The pseudo-spectral scheme on the grid of the cases, or with a share of its points per axis."""
        self._check(cases.domain)
        shape = [max(4, round(share * n)) for n in cases.domain.shape]
        force = self.force(cases.domain.resized(shape)) if self.forcing else None
        return Vorticity(shape, self.viscosity, force, self.scheme, cases.dtype, cases.device)

    def initial(self, cases: Cases) -> Float[Tensor, "n k x y"]:
        return cases.inputs.values[:, 0]

    def stepper(self, cases: Cases, dt: float) -> Step:
        return self.propagator(cases, dt, 1)

    def propagator(self, cases: Cases, dt: float, steps: int) -> Step:
        flow = self.flow(cases)
        return lambda state, t: flow.grid(flow.advance(flow.spectrum(state[:, 0]), dt, steps))[:, None]

    def largest_step(self, cases: Cases) -> float:
        """From |u|, |v| ≤ ¼ max|ω| on this torus and max|ω(t)| ≤ max|ω(0)| + t max|f|: a bound, no estimate.

        Heun's method amplifies a frequency μ by e^{dt³μ⁴/8} a unit of time: for crank_nicolson this stays below e over
        the whole run.
        """
        state, t = self.start(cases)
        duration = max(max(cases.times) - t, self.every)
        largest = float(torch.nan_to_num(state, 0.0, 0.0, 0.0).abs().max()) if len(state) else 0.0
        flow = self.flow(cases)
        frequency = 2 * math.pi * sum(flow.kept) / 4 * (largest + duration * abs(self.forcing) * math.sqrt(2))
        if frequency == 0:
            return math.inf
        limit = LIMIT[self.scheme] / frequency
        if self.scheme == "crank_nicolson":
            limit = min(limit, (8 / duration / frequency**4) ** (1 / 3))
        return limit

    # ---- the trusted solution

    def reference(self, cases: Cases, tol: float = 1e-10) -> Solution:
        """Frames at `cases.times`; `tol` has no part in it, resolution and steps decide."""
        state, t = self.start(cases)
        finest = self.flow(cases)
        hat = finest.spectrum(state[:, 0])
        frames, steps = self._integrate(finest, hat, t, cases.times, 1)
        moved = [k for k, when in enumerate(cases.times) if when > t]  # the start is known exactly
        distances = []
        for longer in (2, 4):
            coarse = self.flow(cases, SHARES[longer])
            found, _ = self._integrate(coarse, finest.resized(hat, coarse), t, cases.times, longer)
            distances.append(
                _relative(finest, [coarse.resized(found[k], finest) for k in moved], [frames[k] for k in moved])
            )
        near, far = distances
        error = extrapolated(near, far, ORDER[self.scheme]) + torch.finfo(cases.dtype).eps
        values = torch.stack(
            [state[:, 0] if when == t else finest.grid(frame) for when, frame in zip(cases.times, frames, strict=True)],
            1,
        )
        field = Field(values[:, :, None], cases.domain, ("vorticity",), cases.times)
        status = [Status.OK if fine else Status.NONFINITE for fine in field.finite()]
        method = f"{self.scheme}, against runs on 3/4 and 1/2 of the points with longer steps, by the observed order"
        return Solution(field, status, {"label_error": error, "label_method": method, "steps": steps})

    def _integrate(
        self, flow: Vorticity, hat: Complex[Tensor, "n ky kx"], t: float, times: Sequence[float], longer: int
    ) -> tuple[list[Complex[Tensor, "n ky kx"]], Tensor]:
        """Spectra at the times, and the steps that each case took, `longer` times as long as those of the finest run.
        What a case does depends on it alone."""
        frames = []
        taken = torch.zeros(len(hat), dtype=torch.int64)
        gain = flow.forcing_rate()
        for end in times:
            length = end - t
            if length > 0:
                expected = flow.rate(hat).double().cpu() + length * gain
                counts = self._counts(length, expected, longer)
                moved = torch.empty_like(hat)
                waiting = torch.ones(len(hat), dtype=torch.bool)
                while bool(waiting.any()):
                    count = int(counts[waiting].min())
                    chosen = (waiting & (counts == count)).nonzero()[:, 0].to(hat.device)
                    made = flow.advance(hat[chosen], length / count, count)
                    taken[chosen.cpu()] += count
                    moved[chosen] = made
                    # A flow that has become faster than expected goes through the frame again.
                    needed = self._counts(length, 0.8 * flow.rate(made).double().cpu(), longer)
                    enough = needed <= count
                    waiting[chosen.cpu()[enough]] = False
                    counts[chosen.cpu()[~enough]] = needed[~enough]
                hat, t = moved, end
            frames.append(hat)
        return frames, taken

    def _counts(self, length: float, rate: Float[Tensor, " n"], longer: int) -> Tensor:
        """Steps for a stretch of time; chosen ones have at most three leading bits, so that cases share them."""
        if self.step_size is not None:
            return torch.full_like(rate, round_up(length / (self.step_size * longer)), dtype=torch.int64).clamp_min(1)
        # On fewer points the highest mode turns more slowly: there the step is longer at the same Courant number.
        allowed = self.courant * LIMIT[self.scheme] * SHARES[longer] * longer
        needed = torch.nan_to_num(length * rate / allowed, 1.0, 1.0, 1.0).clamp(1.0, 1e9)
        unit = 2.0 ** (torch.floor(torch.log2(needed)) - 2).clamp_min(0)
        return (torch.ceil(needed / unit) * unit).long()

    # ---- quantities

    def invariants(self) -> dict[str, Callable[[Field], Float[Tensor, "n t"]]]:
        """½∫|u|², ½∫ω², ∫ω: the first two are conserved without viscosity and forcing, the last always."""
        return {"energy": energy, "enstrophy": enstrophy, "mean_vorticity": mean_vorticity}


def energy(field: Field) -> Float[Tensor, "n t"]:
    """½∫|u|² = ½ Σ_k |ω̂_k|²/|2πk|² of a vorticity on the unit torus."""
    w = field.channel("vorticity")
    hat = torch.fft.fft2(w, norm="forward")
    kx, ky = (2 * torch.pi * torch.fft.fftfreq(n, 1 / n, dtype=w.dtype, device=w.device) for n in w.shape[-2:])
    squares = kx[:, None] ** 2 + ky**2
    inverse = torch.where(squares > 0, 1 / squares.clamp_min(1e-30), 0.0)
    return 0.5 * (hat.abs() ** 2 * inverse).sum((-2, -1))


def enstrophy(field: Field) -> Float[Tensor, "n t"]:
    """½∫ω²."""
    return 0.5 * field.channel("vorticity").square().mean((-2, -1))


def mean_vorticity(field: Field) -> Float[Tensor, "n t"]:
    """∫ω."""
    return field.channel("vorticity").mean((-2, -1))


def extrapolated(near: Float[Tensor, " n"], far: Float[Tensor, " n"], order: int) -> Float[Tensor, " n"]:
    """Error of the finest run from its distances to those on ¾ and ½ of the points with steps 2 and 4 times as long.

    Errors ∝ h^p of the grid have distances (4/3)^p − 1 and 2^p − 1, which tells p, at least 1. But the steps, of this
    order, let the first distance be at most 2^order − 1 errors.
    """
    low, high = torch.ones_like(near), torch.full_like(near, 60.0)
    for _ in range(40):
        p = 0.5 * (low + high)
        steeper = near * (2**p - 1) < far * ((4 / 3) ** p - 1)
        low, high = torch.where(steeper, p, low), torch.where(steeper, high, p)
    return near / ((4 / 3) ** low - 1).clamp(max=2.0**order - 1)


def _relative(flow: Vorticity, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """‖a − b‖/‖b‖ over the frames, case by case, by Parseval's identity for half spectra."""
    weight = torch.where(flow.ky == 0, 1.0, 2.0)

    def square(frames: Sequence[Tensor]) -> Tensor:
        return torch.stack([torch.stack([(weight * case.abs() ** 2).sum() for case in frame]) for frame in frames])

    if not b:
        return flow.squares.new_zeros(0)
    gap = square([p - q for p, q in zip(a, b, strict=True)]).sum(0)
    return (gap / square(b).sum(0).clamp_min(1e-300)).sqrt()

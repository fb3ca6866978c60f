"""Waves in a square: constant or layered media, walls or open sides, finite elements or differences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from sciops.core.interpolate import resample
from sciops.core.linear import Status
from sciops.core.problem import Channel
from sciops.core.random import generator
from sciops.core.solver import Solution
from sciops.numerics.wave_fd import difference_limit, difference_system
from sciops.numerics.wave_leapfrog import FACES, SIDES, WaveSystem, leapfrog, march, ricker
from sciops.problems.reference import richardson_factor

KIND = {"dirichlet": "dirichlet", "neumann": "neumann", "absorbing": "free"}


@dataclass(frozen=True)
class Wave(Evolution):
    """ρ u_tt − ∇·(μ ∇u) + η u_t = f on (0, 1)², μ = ρc², starting at rest.

    Medium: `layers` layers of equal thickness along y, the first of speed `speed`, the others of `speed` times a ratio
    uniform in `ratio`; one layer is a homogeneous medium. ρ = `density`, η = `damping`.
    `source`: "ricker", f = `amplitude` · w(t) g(x) with a Ricker wavelet of peak `frequency` (uniform, Hz, delayed by
    one period) and u = 0 at the start; or "pulse", f = 0 and u = g at the start. g is a Gaussian of standard deviation
    `width` at a position uniform in the square [position]². `sides`: dirichlet (u = 0), neumann (μ ∂u/∂n = 0) or
    absorbing (μ ∂u/∂n = −√(ρμ) u_t, exact at normal incidence), one for all or a mapping from x0, x1, y0, y1.

    Scheme: "fd", five points, or "fem", `element`s q1 or p1 with lumped mass (`numerics/wave_fd.py`, `wave_fem.py`),
    both with central differences in time and steps of at most `courant` · h / (largest speed); second order, first
    where layers end inside cells. Stepped state: (u, u_t, −M⁻¹K u).
    Frames: u at k · `every`, k = 0 … `frames` − 1. Inputs: c (at an interface the root mean square of both sides) and
    source (`amplitude` · g) or u0 (g). Parameters: position (n, 2), speed (n, layers), frequency (n).

    Grids: nodes of a lattice on the square, on all of it or on a window [lower, upper]; of a window only the frames are
    read, the waves are computed on the whole square from the parameters. u alone does not determine the future, and of
    a window not even (u, u_t) does: classical solvers start from the inputs at t = 0, whatever `history` says.
    Cases of yours (any c, source, u0 at nodes of the whole square; `frequency` with a source) need no parameters.
    References: Cohen, Higher-Order Numerical Methods for Transient Wave Equations (2002); Engquist, Majda,
    Math. Comp. 31 (1977); the stand-in of Boukraichi et al., arXiv:2304.04964, whose own constants are not public.
    """

    source: str = "ricker"
    layers: int = 1
    speed: float = 1.0
    ratio: Sequence[float] = (1.0, 2.0)
    sides: str | Mapping[str, str] = "dirichlet"
    density: float = 1.0
    damping: float = 0.0
    frequency: Sequence[float] = (2.0, 4.0)
    width: float = 0.05
    position: Sequence[float] = (0.2, 0.8)
    amplitude: float = 1000.0
    frames: int = 64
    every: float = 1 / 64
    scheme: str = "fd"
    element: str = "q1"
    courant: float = 0.5

    ndim = 2

    def __post_init__(self) -> None:
        check(self)
        for name in ("ratio", "frequency", "position"):  # lists from YAML become tuples
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        kinds = [KIND[self.side(face)] for face in FACES]
        shape = "source" if self.source == "ricker" else "u0"
        object.__setattr__(self, "boundary", Boundary(((kinds[0], kinds[1]), (kinds[2], kinds[3]))))
        object.__setattr__(self, "inputs", (Channel("c", interpolation="linear"), Channel(shape)))

    def side(self, face: str) -> str:
        """What holds on a side."""
        return self.sides if isinstance(self.sides, str) else self.sides.get(face, "dirichlet")

    @property
    def times(self) -> tuple[float, ...]:
        return tuple(k * self.every for k in range(self.frames))

    @property
    def fastest(self) -> float:
        """The largest speed that the law can draw."""
        return self.speed * (max(1.0, self.ratio[1]) if self.layers > 1 else 1.0)

    # ---- the law

    def sample(
        self,
        seeds: Sequence[int],
        grid: Grid,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Cases:
        whole_square(grid)
        # One stream a case, always of the same length: the position does not move when a layer is added.
        draws = torch.stack([torch.rand(3 + 64, generator=generator(s), dtype=torch.float64) for s in seeds])
        low, high = self.position
        params = {"position": low + (high - low) * draws[:, :2]}
        ratios = self.ratio[0] + (self.ratio[1] - self.ratio[0]) * draws[:, 3 : 2 + self.layers]
        params["speed"] = self.speed * torch.cat([torch.ones_like(draws[:, :1]), ratios], 1)
        if self.source == "ricker":
            params["frequency"] = self.frequency[0] + (self.frequency[1] - self.frequency[0]) * draws[:, 2]
        made = self.cases_of(params, grid, self.times)
        return replace(made, seeds=torch.tensor(seeds, dtype=torch.int64)).to(dtype=dtype, device=device)

    def cases_of(self, params: dict[str, Tensor], grid: Grid, times: tuple[float, ...]) -> Cases:
        """Cases from parameters: position (n, 2), speed (n, layers) and, with a Ricker source, frequency (n)."""
        position = params["position"]
        x = grid.points(device=position.device).expand(len(position), -1, -1)
        made = self._formulas(params, x)
        values = torch.stack([made[c.name].reshape(-1, *grid.shape) for c in self.inputs], 1).to(position.dtype)
        inputs = Field.steady(values, grid, [c.name for c in self.inputs])
        return Cases(self, grid, inputs, params, times=times)

    def formula(self, cases: Cases, x: Float[Tensor, "n N d"]) -> dict[str, Float[Tensor, "n N"]]:
        return self._formulas(cases.params, x) if "position" in cases.params else {}

    def _formulas(self, params: dict[str, Tensor], x: Float[Tensor, "n N 2"]) -> dict[str, Float[Tensor, "n N"]]:
        square = (x - params["position"][:, None].to(x)).square().sum(-1)
        bump = torch.exp(-square / (2 * self.width**2))
        speed = params["speed"].to(x)
        y = x[..., 1].detach() * self.layers
        inside = [(y + shift).floor().long().clamp(0, self.layers - 1) for shift in (-1e-9, 1e-9)]
        c = torch.stack([speed.gather(1, i) for i in inside]).square().mean(0).sqrt()
        return {"c": c, "u0": bump} if self.source == "pulse" else {"c": c, "source": self.amplitude * bump}

    # ---- the equation in space

    def semidiscrete(self, cases: Cases) -> WaveSystem:
        """M u″ + C u′ + K u = M f on the whole square, at the mesh width of the cases."""
        sides = {face: self.side(face) for face in FACES}
        return self.assemble(self.stiffness(cases), cases.domain.spacing, sides)

    def stiffness(self, cases: Cases) -> Float[Tensor, "m cx cy"]:
        """μ = ρc² on the cells of the whole square; m = 1 where all cases share it."""
        return self.density * self._cell_speeds(cases, whole_square(cases.domain)).square()

    def assemble(
        self, stiffness: Float[Tensor, "m cx cy"], spacing: Sequence[float], sides: Mapping[str, str]
    ) -> WaveSystem:
        """The problem's scheme on any rectangle of cells."""
        if self.scheme == "fd":
            return difference_system(stiffness, spacing, sides, self.density, self.damping)
        from sciops.numerics.wave_fem import element_system

        return element_system(stiffness, spacing, sides, self.density, self.damping, self.element)

    def _cell_speeds(self, cases: Cases, grid: Grid) -> Float[Tensor, "m cx cy"]:
        """c on cells: by layers where the law made the case, else the root mean square of the corners; m = 1 where all
        cases share it."""
        cells = [n - 1 for n in grid.shape]
        if "speed" in cases.params:
            speed = cases.params["speed"].to(cases.dtype)
            middle = (torch.arange(cells[1], dtype=torch.float64, device=speed.device) + 0.5) * (self.layers / cells[1])
            c = speed[:, middle.long().clamp(max=self.layers - 1)][:, None].expand(-1, cells[0], -1)
            c = c[:1] if self.layers == 1 else c
        else:
            square = self._whole(cases, grid, "c").square()
            if not bool((self._whole(cases, grid, "c") > 0).all()):
                raise UsageError("Wave needs a speed c > 0 everywhere; the input c holds values that are not.")
            rows = square[:, 1:] + square[:, :-1]
            c = ((rows[:, :, 1:] + rows[:, :, :-1]) / 4).sqrt()
        if not bool((c > 0).all()):
            raise UsageError(f"Wave needs a speed c > 0 everywhere; the least one is {float(c.min()):g}.")
        return c

    def _whole(self, cases: Cases, grid: Grid, name: str) -> Float[Tensor, "n X Y"]:
        """An input on the whole square: from its formula, or stored."""
        if "position" in cases.params and name != "c":
            x = grid.points().to(cases.device).expand(len(cases), -1, -1)
            return self._formulas(cases.params, x)[name].reshape(-1, *grid.shape).to(cases.dtype)
        if grid != cases.domain:
            raise UsageError("Wave computes a window from the parameters of its law; these cases have none.")
        return cases.input(name)

    def force(self, cases: Cases) -> Callable[[float], Tensor] | None:
        """t ↦ f on the whole square, None without one."""
        if self.source == "pulse":
            return None
        if "frequency" not in cases.params:
            raise UsageError("Wave with source 'ricker' needs params['frequency'] in Hz.")
        shape = self._whole(cases, whole_square(cases.domain), "source")
        frequency = cases.params["frequency"].to(cases.dtype)[:, None, None]
        return lambda t: ricker(t, frequency) * shape

    # ---- stepping

    def initial(self, cases: Cases) -> Float[Tensor, "n k *w"]:
        """(u, u_t, −M⁻¹K u) at t = 0 on the whole square."""
        return self._rest(cases, self.semidiscrete(cases))

    def _rest(self, cases: Cases, system: WaveSystem) -> Tensor:
        grid = whole_square(cases.domain)
        u = self._whole(cases, grid, "u0") if self.source == "pulse" else None
        return system.rest(system.mass.new_zeros(len(cases), *grid.shape) if u is None else u)

    def start(self, cases: Cases) -> tuple[Float[Tensor, "n k *w"], float]:
        """The state at t = 0: frames of u do not hold the velocity, the inputs and parameters hold everything."""
        return self.initial(cases), 0.0

    def frame(self, cases: Cases, state: Float[Tensor, "n k *w"]) -> Float[Tensor, "n c *s"]:
        return state[(slice(None), slice(0, 1), *window(cases.domain))]

    def stepper(self, cases: Cases, dt: float) -> Step:
        """One central difference in time; UsageError where dt is longer than `largest_step`."""
        return leapfrog(self.semidiscrete(cases), dt, self.force(cases))

    def largest_step(self, cases: Cases) -> float:
        """2/√λ, λ a bound of the spectrum of M⁻¹K: h/(√2 c) for differences, h/c for q1, 2h/(3c) for p1."""
        grid = whole_square(cases.domain)
        top = float(self._cell_speeds(cases, grid).max()) ** 2
        if self.scheme == "fd":
            return difference_limit(top, grid.spacing)
        from sciops.numerics.wave_fem import element_limit

        return element_limit(top, grid.spacing, self.element)

    # ---- truth

    def reference(self, cases: Cases, tol: float = 1e-10) -> Solution:
        """Frames by the problem's own scheme on the grid of the cases, with steps of `courant` · h / fastest speed.

        `label_error`: Richardson's ‖u_h − u_2h‖/((2^p − 1)‖u_h‖) over all frames, from runs with a half and a quarter
        of the intervals and steps; p is observed, ½ ≤ p ≤ 2. `residual`: defect of the last step's recursion.
        """
        frames, stats = self.trusted(cases)
        answer = Field(frames[:, :, None], cases.domain, ("u",), cases.times)
        status = [Status.OK if fine else Status.NONFINITE for fine in answer.finite()]
        return Solution(answer, status, stats)

    def trusted(
        self, cases: Cases, read: Callable[[Tensor], Tensor] = lambda frames: frames
    ) -> tuple[Float[Tensor, "n t ..."], dict[str, Any]]:
        """`read` of the frames on the window, with residual, label error and its method as `reference` states them."""
        grid, part = whole_square(cases.domain), window(cases.domain)
        frames, defect = self._run(cases, grid, part)
        grids = [grid]
        for _ in range(2):
            grids.append(grids[-1].resized([max((n - 1) // 2 + 1, 4) for n in grids[-1].shape]))
        coarse = [self._run(self._moved(cases, g), g)[0] for g in grids[1:]]
        values, errors = read(frames), []
        for i in range(len(cases)):  # one at a time: a case alone has the bits of its batch, and memory stays small
            lifted = [
                resample(run[i][:, None], g, grid, "cubic")[:, 0] for run, g in zip(coarse, grids[1:], strict=True)
            ]
            half, quarter = (read(frame[(None, slice(None), *part)])[0] for frame in lifted)
            first, second = (values[i] - half).norm(), (half - quarter).norm()
            factor = richardson_factor(float(first), float(second), 2.0)
            errors.append(first * factor / values[i].norm().clamp_min(1e-300))
        method = "Richardson, observed order up to 2"
        return values, {"residual": defect, "label_error": torch.stack(errors), "label_method": method}

    def _moved(self, cases: Cases, grid: Grid) -> Cases:
        if "position" in cases.params:
            return self.cases_of(cases.params, grid, cases.times)
        return cases.on(grid)

    def _run(self, cases: Cases, grid: Grid, keep: tuple[slice, ...] = ()) -> tuple[Tensor, Tensor]:
        system = self.semidiscrete(cases)
        # The step of the law, not of the batch, so that a case rebuilt alone has the same bits.
        fastest = self.fastest if "speed" in cases.params else float(self._cell_speeds(cases, grid).max())
        dt = self.courant * min(grid.spacing) / fastest
        return march(system, self._rest(cases, system), cases.times, dt, self.force(cases), keep)

    def frames_of(self, cases: Cases) -> Float[Tensor, "n t *s"]:
        """u on the grid of the cases at their times, without an estimate of its error."""
        return self._run(cases, whole_square(cases.domain), window(cases.domain))[0]

    def invariants(self) -> dict[str, Callable[[Field], Float[Tensor, "n t"]]]:
        """Energy of the frames in a closed homogeneous medium that no force acts on; else nothing is conserved."""
        closed = all(self.side(face) != "absorbing" for face in FACES)
        if self.source == "ricker" or self.layers > 1 or self.damping or not closed:
            return {}
        return {"energy": lambda u: frame_energy(u, self.speed, self.density)}


def frame_energy(u: Field, speed: float, density: float) -> Float[Tensor, "n t"]:
    """½ ∫ ρ u_t² + ρc² |∇u|² with u_t by central differences of the frames (one-sided, second order, at the ends):
    exact to O(every² + h²). Needs three frames; equal spacing."""
    if len(u.times) < 3:
        raise UsageError(f"The energy of a wave needs at least three frames; got {len(u.times)}.")
    values, grid = u.values[:, :, 0], u.domain
    assert isinstance(grid, Grid)
    velocity = torch.gradient(values, spacing=u.times[1] - u.times[0], dim=1, edge_order=2)[0]
    weights = grid.weights(values.dtype, values.device)
    total = (weights * velocity.square()).sum((-2, -1))
    for axis in (0, 1):
        n = grid.shape[axis]
        slope = values.diff(dim=2 + axis) / grid.spacing[axis]
        ends = weights.select(axis, 1).unsqueeze(axis).expand(*(n - 1 if j == axis else -1 for j in (0, 1)))
        total = total + speed**2 * (ends * slope.square()).sum((-2, -1))
    return 0.5 * density * total


def whole_square(grid: Grid) -> Grid:
    """The lattice of the grid continued to all of [0, 1]²; UsageError where it does not fit."""
    if grid.ndim != 2 or set(grid.layout) != {"node"}:
        raise UsageError(f"Wave needs a two-dimensional grid of nodes; got {grid.describe()}.")
    counts = [round(1 / h) for h in grid.spacing]
    for h, n, low, up in zip(grid.spacing, counts, grid.lower, grid.upper, strict=True):
        shift = low / h
        if abs(n * h - 1) > 1e-9 or abs(shift - round(shift)) > 1e-6 or low < -1e-9 or up > 1 + 1e-9:
            raise UsageError(
                "Wave needs [0, 1]² or a window of it whose nodes lie on a lattice of the square; got "
                f"{grid.describe()} on {grid.lower}–{grid.upper}."
            )
    return Grid.box([n + 1 for n in counts])


def window(grid: Grid) -> tuple[slice, ...]:
    """Where the nodes of the grid are in `whole_square(grid)`."""
    first = [round(low / h) for low, h in zip(grid.lower, grid.spacing, strict=True)]
    return tuple(slice(k, k + n) for k, n in zip(first, grid.shape, strict=True))


def check(wave: Wave) -> None:
    """Raise UsageError with one sentence for the first argument that makes no sense."""
    if wave.source not in ("ricker", "pulse"):
        raise UsageError(f"Wave source must be ricker or pulse; got '{wave.source}'.")
    if wave.scheme not in ("fd", "fem"):
        raise UsageError(f"Wave scheme must be fd or fem; got '{wave.scheme}'.")
    if wave.element not in ("q1", "p1"):
        raise UsageError(f"Wave element must be q1 or p1; got '{wave.element}'.")
    table = dict.fromkeys(FACES, wave.sides) if isinstance(wave.sides, str) else dict(wave.sides)
    for face, kind in table.items():
        if face not in FACES or kind not in SIDES:
            raise UsageError(f"Wave sides map {', '.join(FACES)} to {', '.join(SIDES)}; got '{face}': '{kind}'.")
    if not wave.speed > 0 or not wave.ratio[0] > 0:
        raise UsageError(f"Wave speeds must be positive; got speed = {wave.speed:g} and ratio = {list(wave.ratio)}.")
    if not wave.density > 0:
        raise UsageError(f"Wave density must be positive; got {wave.density:g}.")
    if not wave.damping >= 0:
        raise UsageError(f"Wave damping must not be negative; got {wave.damping:g}.")
    if not 1 <= wave.layers <= 64:
        raise UsageError(f"Wave layers must be 1 to 64; got {wave.layers}.")
    for name in ("ratio", "frequency", "position"):
        pair = getattr(wave, name)
        if len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
            raise UsageError(f"Wave {name} must be [low, high] with 0 ≤ low ≤ high; got {list(pair)}.")
    for name in ("width", "every", "courant"):
        if not getattr(wave, name) > 0:
            raise UsageError(f"Wave {name} must be positive; got {getattr(wave, name):g}.")
    if wave.frames < 2:
        raise UsageError(f"Wave frames must be at least 2; got {wave.frames}.")

"""Waves that leave: the Helmholtz equation with an impedance condition, a source and a random medium."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.problem import Channel, Problem
from sciops.core.random import case_seed, generator
from sciops.core.solver import Solution, View
from sciops.numerics.finite_elements import WeakForm, bilinear
from sciops.numerics.helmholtz_operators import ComplexWaveStencil, WaveStencil
from sciops.numerics.random_fields import draw_modes, evaluate_series, spectral_root, synthesise
from sciops.problems.helmholtz_truth import at_points, require_positive, resolved_reference
from sciops.problems.manufactured import made

MEDIA = ("smooth", "layered", "constant")
MODES = 24
"""Cosine modes per axis of the smooth medium."""


@dataclass(frozen=True)
class HelmholtzAbsorbing(Problem):
    """−Δu − k² u = f in (0,1)², ∂u/∂n − i k u = 0 on the walls, u = u_re + i u_im complex.

    Law: k = wavenumber/s with the relative wave speed s = 1 + contrast·tanh(g) (`smooth`: g a Gaussian field of
    variance one and covariance (−Δ + τ²)^{−4}), s constant in each of `layers` layers of random thickness, tilt and
    speed in [1 − contrast, 1 + contrast] (`layered`), or s = 1. f is a Gaussian of width `source_width` and unit
    integral, its centre uniform in [0.2, 0.8]².

    First-order absorbing condition (Engquist, Majda): waves that meet a wall at a right angle leave, others are partly
    reflected. The problem is well posed for every k. Energy: Im ∫ f ū = −∮ k |u|² holds for the solution of the
    system too, digit by digit.

    The system is that of bilinear elements, k interpolated from the nodes, complex symmetric, given to solvers as a
    real symmetric indefinite one for (u_re, u_im) (`ComplexWaveStencil`). No residual of the calculus is offered: it
    could not state the walls. Truth: elements of degree 6.
    Inputs: k, f; outputs: u_re, u_im.
    References: Engquist, Majda, Math. Comp. 31 (1977); Melenk, Sauter, SIAM J. Numer. Anal. 49 (2011) (wavenumber and
    degree).
    """

    wavenumber: float = 40.0
    medium: str = "smooth"
    contrast: float = 0.3
    tau: float = 8.0
    layers: int = 4
    source_width: float = 0.03

    ndim = 2
    inputs = (Channel("k"), Channel("f"))
    outputs = (Channel("u_re"), Channel("u_im"))
    boundary = Boundary.of("free", 2)
    stacked = True
    definite = False

    def __post_init__(self) -> None:
        if self.medium not in MEDIA:
            raise UsageError(f"HelmholtzAbsorbing medium must be one of {', '.join(MEDIA)}; got '{self.medium}'.")
        if not (self.wavenumber > 0 and math.isfinite(self.wavenumber)):
            raise UsageError(f"HelmholtzAbsorbing wavenumber must be positive; got {self.wavenumber}.")
        if not 0 <= self.contrast < 1:
            raise UsageError(f"HelmholtzAbsorbing contrast must lie in [0, 1); got {self.contrast}.")
        if not (self.source_width > 0 and self.layers >= 1 and self.tau > 0):
            raise UsageError(
                f"HelmholtzAbsorbing needs source_width > 0, layers ≥ 1, tau > 0; got {self.source_width}, "
                f"{self.layers}, {self.tau}."
            )
        if self.medium == "layered":
            object.__setattr__(self, "inputs", (Channel("k", interpolation="nearest"), Channel("f")))

    def views(self) -> set[View]:
        return {View.DATA, View.SYSTEM}

    # ---- laws of the cases

    def sample(
        self,
        seeds: Sequence[int],
        grid: Grid,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Cases:
        if grid.ndim != 2 or grid.lower != (0.0, 0.0) or grid.upper != (1.0, 1.0) or set(grid.layout) != {"node"}:
            raise UsageError(f"HelmholtzAbsorbing lives on the nodes of the unit square; got {grid.describe()}.")
        draws = [torch.rand(2, generator=generator(case_seed(s, 0, "source")), dtype=torch.float64) for s in seeds]
        centre = 0.2 + 0.6 * torch.stack(draws)
        x = grid.points().expand(len(seeds), -1, -1)
        k = (self.wavenumber / self._speed(seeds, grid, None)).reshape(len(seeds), -1)
        values = torch.stack([k, self._source(centre, x)], 1).reshape(len(seeds), 2, *grid.shape)
        values = values.to(dtype=dtype, device=device)
        params = {"centre": centre.to(dtype=dtype, device=device)}
        ids = torch.tensor(seeds, dtype=torch.int64)
        return Cases(self, grid, Field.steady(values, grid, ("k", "f")), params, seeds=ids)

    def _source(self, centre: Float[Tensor, "n 2"], x: Float[Tensor, "n N 2"]) -> Float[Tensor, "n N"]:
        square = ((x - centre[:, None]) ** 2).sum(-1)
        return torch.exp(-square / (2 * self.source_width**2)) / (2 * math.pi * self.source_width**2)

    def _speed(self, seeds: Sequence[int], grid: Grid, x: Float[Tensor, "n N 2"] | None) -> Tensor:
        """s at points, or on the grid (n, *s) where none are given."""
        points = grid.points().expand(len(seeds), -1, -1) if x is None else x
        if self.medium == "constant":
            s = torch.ones_like(points[..., 0])
        elif self.medium == "layered":
            s = torch.stack([self._layers(seed, p) for seed, p in zip(seeds, points, strict=True)])
        else:
            root = spectral_root(grid, "cosine", MODES, self.tau, 4.0)
            coefficients = draw_modes(seeds, MODES, 2) * (root / root.norm())
            if x is None:
                g = synthesise(coefficients, grid, "cosine")
            else:
                g = evaluate_series(coefficients.to(x.device), grid, "cosine", x)
            s = 1 + self.contrast * torch.tanh(g)
        return s.reshape(len(seeds), *grid.shape) if x is None else s

    def _layers(self, seed: int, x: Float[Tensor, "N 2"]) -> Float[Tensor, " N"]:
        draw = torch.rand(2 * self.layers, generator=generator(case_seed(seed, 0, "layers")), dtype=torch.float64).to(x)
        depth, tilt = draw[1 : self.layers].sort().values, 0.4 * (draw[0] - 0.5)
        speed = 1 + self.contrast * (2 * draw[self.layers :] - 1)
        height = x[:, 1] + tilt * (x[:, 0] - 0.5)
        return speed[torch.bucketize(height.detach().contiguous(), depth)]

    # ---- closed forms

    def formula(self, cases: Cases, x: Float[Tensor, "n N d"]) -> dict[str, Float[Tensor, "n N"]]:
        if cases.seeds is None or not made(cases):
            return {}
        wide = x.double()
        known = {"f": self._source(cases.params["centre"].double(), wide)}
        known["k"] = self.wavenumber / self._speed(cases.seeds.tolist(), cases.domain, wide)
        return {name: value.to(x.dtype) for name, value in known.items()}

    def weak_form(self, case: Cases) -> WeakForm:
        """The equation for elements of any degree."""
        return WeakForm(
            (0.0, 0.0),
            (1.0, 1.0),
            square=lambda x: at_points(case, "k", x) ** 2,
            impedance=lambda x: at_points(case, "k", x),
            forcing=lambda x: at_points(case, "f", x),
        )

    def largest_wavenumber(self, case: Cases) -> float:
        return max(float(case.input("k").max()), 1.2 / self.source_width)

    # ---- the system

    def matrix(self, cases: Cases) -> ComplexWaveStencil:
        """∫ ∇u·∇v − k² u v − i ∮ k u v, per unit volume."""
        k = cases.input("k")
        require_positive(k, "k", "HelmholtzAbsorbing")
        elements = bilinear(cases.domain)
        reaction = elements.mass(elements.at_quadrature(k) ** 2)
        real = WaveStencil(elements.stiffness(k) - reaction, reaction, (False, False))
        return ComplexWaveStencil(real, elements.wall_mass(k))

    def right_hand_side(self, cases: Cases) -> Float[Tensor, "n *m"]:
        """∫ f v with f interpolated from the nodes; f is real, so the imaginary equation has none."""
        elements, f = bilinear(cases.domain), cases.input("f")
        b = elements.load(f)
        return torch.stack([b, torch.zeros_like(b)], 1)

    def unknowns(self, grid: Grid, u: Float[Tensor, "n *s"]) -> Float[Tensor, "n *m"]:
        return u

    def embed(self, cases: Cases, v: Float[Tensor, "n *m"]) -> Float[Tensor, "n *s"]:
        return v

    def residual_on_grid(self, cases: Cases, u: Float[Tensor, "n *s"]) -> Float[Tensor, "n *m"]:
        """A u − b for u (n, 2, *s)."""
        A, b = self.system(cases)
        return A.matvec(u) - b

    def power(self, cases: Cases, u: Float[Tensor, "n *s"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """(−Im ∫ f ū put in by the source, ∮ k |u|² leaving through the walls) of fields u (n, 2, *s), by the elements'
        quadrature: equal for solutions of the system."""
        cell = math.prod(cases.domain.spacing)
        walls = self.matrix(cases).absorbing
        out = sum((part * walls.matvec(part)).flatten(1).sum(1) for part in u.unbind(1)) * cell
        put = (self.right_hand_side(cases)[:, 0] * u[:, 1]).flatten(1).sum(1) * cell
        return put, torch.as_tensor(out)

    def reference(self, cases: Cases, tol: float = 1e-10) -> Solution:
        """Elements of degree 6; `label_error` is their distance to degree 5."""
        require_positive(cases.input("k"), "k", "HelmholtzAbsorbing")
        return resolved_reference(self, cases, tol)

"""The Helmholtz benchmark of operator learning: sound in a closed box, driven through part of one wall."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.problem import Channel, Problem
from sciops.core.random import generator
from sciops.core.solver import Solution
from sciops.numerics.finite_elements import WeakForm, bilinear, distance_to_resonance, hat_averages
from sciops.numerics.helmholtz_operators import WaveStencil
from sciops.numerics.random_fields import evaluate_series, synthesise
from sciops.problems.helmholtz_truth import (
    at_points,
    distance,
    high_degree_answer,
    require_positive,
    resolved_reference,
    solution,
    verdict,
)
from sciops.problems.manufactured import made

TRUTHS = ("discrete", "resolved")


@dataclass(frozen=True)
class HelmholtzNeumann(Problem):
    """−Δu − (ω/c)² u = 0 in (0,1)², ∂u/∂n = 1 on the top wall where |x − ½| ≤ half_width, 0 on the rest of the walls.

    Law: c = mean + amplitude·tanh(g), g = Σ ξ_k (π²|k|² + τ²)^{−α/2} φ_k over the `modes` lowest cosine modes but the
    constant, ξ_k ~ N(0, 1). Everything is real, nothing is damped: the solution exists unless ω is an eigenfrequency.

    The system is that of bilinear elements, 3×3 Gauss points, c interpolated from the nodes; symmetric and indefinite
    (some 200 negative eigenvalues at ω = 1000), rows per unit volume. The residual of the calculus is its limit.
    `truth`: "discrete", the published one: the solution of that system on the grid of the cases; "resolved": elements
    of degree 6, four digits of the equation itself. They are far apart: twelve points per wavelength shift the
    eigenvalues of the box by more than their spacing, and `label_error` of the discrete truth, its distance to the
    resolved one, says so. Where ω² comes within 10⁻⁸ (relative) of an eigenvalue the status is UNRESOLVED, with advice;
    `stats["resonance"]` has that distance for every case.
    Input: c; output: u. Cost at 101²: about 0.1 s a case.
    References: de Hoop, Huang, Qian, Stuart, J. Mach. Learn. 1 (2022) (the benchmark); Babuška, Sauter, SIAM J. Numer.
    Anal. 34 (1997) (pollution).
    """

    omega: float = 1000.0
    mean: float = 20.0
    amplitude: float = 1.0
    tau: float = 3.0
    alpha: float = 2.0
    modes: int = 100
    half_width: float = 0.15
    truth: str = "discrete"

    ndim = 2
    inputs = (Channel("c"),)
    boundary = Boundary.of("neumann", 2)
    galerkin = True
    definite = False

    def __post_init__(self) -> None:
        if not (self.omega > 0 and math.isfinite(self.omega)):
            raise UsageError(f"HelmholtzNeumann omega must be positive; got {self.omega}.")
        if not self.mean > self.amplitude >= 0:
            raise UsageError(
                f"HelmholtzNeumann needs mean > amplitude ≥ 0, so that c stays positive; got mean={self.mean}, "
                f"amplitude={self.amplitude}."
            )
        if not (0 < self.half_width <= 0.5 and self.modes >= 1):
            raise UsageError(
                f"HelmholtzNeumann needs 0 < half_width ≤ 0.5 and modes ≥ 1; got half_width={self.half_width}, "
                f"modes={self.modes}."
            )
        if self.truth not in TRUTHS:
            raise UsageError(f"HelmholtzNeumann truth must be one of {', '.join(TRUTHS)}; got '{self.truth}'.")

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        return -d.laplacian(u) - (self.omega / c.c) ** 2 * u

    # ---- laws of the cases

    def sample(
        self,
        seeds: Sequence[int],
        grid: Grid,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Cases:
        self._require_box(grid)
        g = synthesise(self._coefficients(seeds), grid, "cosine")
        c = (self.mean + self.amplitude * torch.tanh(g)).to(dtype=dtype, device=device)
        flux = self._flux_means(grid).to(c).expand(len(seeds), -1)
        ids = torch.tensor(seeds, dtype=torch.int64)
        return Cases(self, grid, Field.steady(c[:, None], grid, ("c",)), boundary={"y1": flux}, seeds=ids)

    def _require_box(self, grid: Grid) -> None:
        if grid.ndim != 2 or grid.lower != (0.0, 0.0) or grid.upper != (1.0, 1.0) or set(grid.layout) != {"node"}:
            raise UsageError(f"HelmholtzNeumann lives on the nodes of the unit square; got {grid.describe()}.")

    def _coefficients(self, seeds: Sequence[int]) -> Float[Tensor, "n k k"]:
        """ξ_k (π²|k|² + τ²)^{−α/2} on a lattice that holds the lowest modes."""
        index = torch.tensor(lowest_modes(self.modes))
        size = int(index.max()) + 1
        root = (math.pi**2 * (index**2).sum(1).double() + self.tau**2) ** (-self.alpha / 2)
        padded = -(-self.modes // 16) * 16  # torch fills normals in blocks of 16: more modes keep the old ones
        out = torch.zeros((len(seeds), size, size), dtype=torch.float64)
        for row, seed in zip(out, seeds, strict=True):
            noise = torch.randn(padded, generator=generator(seed), dtype=torch.float64)[: self.modes]
            row[index[:, 0], index[:, 1]] = noise * root
        return out

    def _flux_means(self, grid: Grid) -> Float[Tensor, " s"]:
        """∂u/∂n against the hats of the top wall: ½ at a node where the flux jumps."""
        start, end = 0.5 - self.half_width, 0.5 + self.half_width
        return torch.from_numpy(hat_averages(start, end, grid.axis(0).tolist()))

    # ---- closed forms

    def formula(self, cases: Cases, x: Float[Tensor, "n N d"]) -> dict[str, Float[Tensor, "n N"]]:
        if cases.seeds is None or not made(cases):
            return {}
        coefficients = self._coefficients(cases.seeds.tolist()).to(x.device)
        g = evaluate_series(coefficients, cases.domain, "cosine", x.double())
        return {"c": (self.mean + self.amplitude * torch.tanh(g)).to(x.dtype)}

    def boundary_at(self, cases: Cases, face: str, x: Float[Tensor, "m N d"]) -> Float[Tensor, "n N"]:
        """∂u/∂n at points: a step, which no interpolation of node values would keep."""
        x = x.expand(len(cases), -1, -1)
        inside = (x[..., 0] - 0.5).abs() <= self.half_width
        return inside.to(x.dtype) if face == "y1" else torch.zeros_like(x[..., 0])

    def weak_form(self, case: Cases) -> WeakForm:
        """The equation for elements of any degree, on meshes with a line where the flux jumps."""
        edges = (0.5 - self.half_width, 0.5 + self.half_width)
        return WeakForm(
            (0.0, 0.0),
            (1.0, 1.0),
            square=lambda x: (self.omega / at_points(case, "c", x)) ** 2,
            flux=lambda x: ((x[:, 1] > 1 - 1e-9) & (abs(x[:, 0] - 0.5) <= self.half_width)).astype(np.float64),
            breaks=(edges, ()),
        )

    def largest_wavenumber(self, case: Cases) -> float:
        return self.omega / float(case.input("c").min())

    # ---- the system

    def matrix(self, cases: Cases) -> WaveStencil:
        """Bilinear elements: ∫ ∇u·∇v − (ω/c)² u v, per unit volume."""
        c = cases.input("c")
        require_positive(c, "c", "HelmholtzNeumann")
        elements = bilinear(cases.domain)
        reaction = elements.mass((self.omega / elements.at_quadrature(c)) ** 2)
        return WaveStencil(elements.stiffness(c) - reaction, reaction, (False, False))

    def right_hand_side(self, cases: Cases) -> Float[Tensor, "n *m"]:
        """∮ g v from the wall data of the cases, whatever they are (node values, linear in between means per hat)."""
        b = torch.zeros((len(cases), *cases.domain.shape), dtype=cases.dtype, device=cases.device)
        for face, axis, side, _ in self.boundary.faces():
            if face in cases.boundary:
                means = cases.boundary[face].to(b).clone()
                means[:, [0, -1]] *= 0.5
                b.select(axis + 1, -side).add_(means / cases.domain.spacing[axis])
        return b

    def residual_on_grid(self, cases: Cases, u: Float[Tensor, "n *s"]) -> Float[Tensor, "n *m"]:
        """A u − b of the elements."""
        A, b = self.system(cases)
        return A.matvec(u) - b

    # ---- the truth

    def reference(self, cases: Cases, tol: float = 1e-10) -> Solution:
        """`truth` says which; sparse LU case by case. `label_error` measures the distance to the equation."""
        require_positive(cases.input("c"), "c", "HelmholtzNeumann")
        if self.truth == "resolved":
            return resolved_reference(self, cases, tol)
        from scipy.sparse.linalg import splu

        double = cases.to(dtype=torch.float64, device="cpu")
        A, b = self.matrix(double), self.right_hand_side(double)
        rows, facts, statuses = [], [], []
        for i in range(len(cases)):
            matrix, rhs = A.to_scipy(i).tocsc(), b[i].numpy().ravel()
            factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.01, options={"SymmetricMode": True})
            u = factors.solve(rhs)
            u = u + factors.solve(rhs - matrix @ u)
            residual = float(np.linalg.norm(rhs - matrix @ u) / np.linalg.norm(rhs))
            resonance = distance_to_resonance(factors.solve, A.reaction_matrix(i), u)
            values = u.reshape(cases.domain.shape)
            far = distance(high_degree_answer(self, double[i : i + 1]).on(cases.domain), values, cases.domain)
            rows.append(values[None])
            facts.append((residual, far, resonance))
            statuses.append(verdict(residual, resonance, tol))
        return solution(self, cases, rows, facts, statuses, "bilinear elements against degree 6")


@lru_cache(maxsize=8)
def lowest_modes(count: int) -> tuple[tuple[int, int], ...]:
    """The `count` pairs (i, j) ≠ (0, 0) of smallest i² + j², ties in the order of i."""
    size = math.isqrt(4 * count) + 2
    pairs = [(i, j) for i in range(size) for j in range(size) if i or j]
    return tuple(sorted(pairs, key=lambda p: (p[0] ** 2 + p[1] ** 2, p[0]))[:count])

"""Darcy flow with random coefficients: two-phase, multi-scale trigonometric or lognormal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator
from sciops.core.problem import Channel, Problem
from sciops.core.random import generator
from sciops.core.solver import Solution
from sciops.core.stencil_operator import StencilOperator, offsets
from sciops.numerics.random_fields import gaussian_field
from sciops.problems.reference import discrete_reference

LAWS = ("two_phase", "trigonometric", "lognormal")


@dataclass(frozen=True)
class Darcy(Problem):
    """−∇·(a ∇u) = f in (0,1)², u = 0 on the boundary, f constant.

    Laws of the coefficient, with g ~ N(0, σ²(−Δ + τ²)^{−α}) in the Neumann cosine basis without constant mode:

    * `two_phase`: a = high where g ≥ 0, else low. Published sets: smooth (low 3, high 12, τ = 3), rough
      (low 2, high 12, τ = 5), both α = 2.
    * `trigonometric`: a = ∏_{k=1}^{6} (1 + ½cos(a_k π(x+y)))(1 + ½sin(a_k π(y−3x))), a_k ~ U[2^{k−1}, 1.5·2^{k−1}].
    * `lognormal`: a = exp(g), smooth: the law for order tests.

    Second-order differences with arithmetic face averages of nodal a. Discontinuous coefficients reduce the order
    of the reference to one (`label_order`). Inputs: a, f; output: u. On another grid the coefficient is made anew
    from its seed, so that a classical solver sees the equation and not an interpolated picture of it.
    References: Li et al., ICLR 2021, A.3.2 (two-phase); He, Liu, Xu, ICLR 2024, §5 (rough, multi-scale).
    """

    law: Literal["two_phase", "trigonometric", "lognormal"] = "two_phase"
    low: float = 3.0
    high: float = 12.0
    tau: float = 3.0
    alpha: float = 2.0
    sigma: float = 1.0
    modes: int = 128
    forcing: float = 1.0
    ndim: int = 2

    inputs = (Channel("a", interpolation="linear"), Channel("f", interpolation="linear"))

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise UsageError(f"Darcy law must be one of {', '.join(LAWS)}; got '{self.law}'.")
        if not 0 < self.low <= self.high:
            raise UsageError(f"Darcy needs 0 < low ≤ high; got low={self.low}, high={self.high}.")
        if self.law == "trigonometric" and self.ndim != 2:
            raise UsageError(f"The trigonometric law is two-dimensional; got ndim={self.ndim}.")
        object.__setattr__(self, "boundary", Boundary.of("dirichlet", self.ndim))
        object.__setattr__(self, "label_order", 1.0 if self.law == "two_phase" else 2.0)

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        return -d.div_flux(c.a, u) - c.f

    def energy(self, d: Any, u: Any, c: Any) -> Any:
        return 0.5 * c.a * sum(g**2 for g in d.grad(u)) - c.f * u

    def sample(
        self,
        seeds: Sequence[int],
        grid: Grid,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Cases:
        params: dict[str, Tensor] = {}
        if self.law == "trigonometric":
            low = 2.0 ** torch.arange(6, dtype=torch.float64)
            draws = torch.stack([torch.rand(6, generator=generator(s), dtype=torch.float64) for s in seeds])
            params["frequency"] = (low * (1 + 0.5 * draws)).to(dtype=dtype, device=device)
            x = grid.points(dtype, torch.device(device)).expand(len(seeds), -1, -1)
            a = _trigonometric(params["frequency"], x).reshape(len(seeds), *grid.shape)
        else:
            g = gaussian_field(
                seeds,
                grid,
                "cosine",
                self.tau,
                self.alpha,
                self.sigma,
                self.modes,
                device=device,
            )  # in float64, so that no point changes its phase with the dtype
            a = (
                torch.exp(g)
                if self.law == "lognormal"
                else torch.where(g >= 0, g.new_tensor(self.high), g.new_tensor(self.low))
            )
            a = a.to(dtype)
        values = torch.stack([a, torch.full_like(a, self.forcing)], dim=1)
        ids = torch.tensor(seeds, dtype=torch.int64)
        return Cases(self, grid, Field.steady(values, grid, ("a", "f")), params, seeds=ids)

    def formula(self, cases: Cases, x: Float[Tensor, "n N d"]) -> dict[str, Float[Tensor, "n N"]]:
        known = {"f": torch.full_like(x[..., 0], self.forcing)}
        if "frequency" in cases.params:
            known["a"] = _trigonometric(cases.params["frequency"].to(x.dtype), x)
        return known

    def matrix(self, cases: Cases) -> LinearOperator:
        """The matrix straight from the face coefficients on node grids: a tenth of the cost of probing the residual."""
        if set(cases.domain.layout) != {"node"} or cases.boundary:
            return super().matrix(cases)
        a = cases.input("a")
        inner = (slice(None),) + (slice(1, -1),) * self.ndim
        places = offsets(self.ndim)
        stencil = a.new_zeros((len(cases), len(places), *(n - 2 for n in cases.domain.shape)))
        centre = len(places) // 2
        for axis, h in enumerate(cases.domain.spacing):
            for step in (-1, 1):
                beside = list(inner)
                beside[axis + 1] = slice(1 + step, a.shape[axis + 1] - 1 + step)
                face = (a[inner] + a[tuple(beside)]).mul_(0.5 / h**2)
                stencil[:, centre] += face
                # A wall holds u = 0: its face counts in the diagonal only.
                face.select(axis + 1, 0 if step < 0 else -1).zero_()
                stencil[:, places.index(tuple(step * int(j == axis) for j in range(self.ndim)))] = -face
        tags = frozenset({"symmetric", "positive"}) if bool((a > 0).all()) else frozenset({"symmetric"})
        return StencilOperator(stencil, (False,) * self.ndim, tags)

    def reference(self, cases: Cases, tol: float = 1e-10) -> Solution:
        return discrete_reference(self, cases, tol)


def _trigonometric(frequency: Float[Tensor, "n 6"], x: Float[Tensor, "n N 2"]) -> Float[Tensor, "n N"]:
    a = torch.ones_like(x[..., 0])
    along, across = torch.pi * (x[..., 0] + x[..., 1]), torch.pi * (x[..., 1] - 3 * x[..., 0])
    for k in range(frequency.shape[1]):
        w = frequency[:, k, None]
        a = a * (1 + 0.5 * torch.cos(w * along)) * (1 + 0.5 * torch.sin(w * across))
    return a

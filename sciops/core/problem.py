"""The PDE, written once: a residual against a calculus, a law of random cases, a trusted reference."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary, Condition
from sciops.core.calculus import Autodiff, Differential, Forward, Jet, Spectral, State, Stencil, Symbol, request_of
from sciops.core.cases import Cases
from sciops.core.errors import UsageError, ViewMissing
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import FunctionOperator, LinearOperator
from sciops.core.solver import Solution, View
from sciops.core.stencil_operator import StencilOperator, probe_stencil


@dataclass(frozen=True)
class Channel:
    """One named scalar input or output and the rule by which it moves between grids when it must."""

    name: str
    interpolation: Literal["nearest", "linear", "cubic", "spectral"] = "cubic"


class Problem:
    """R(u; inputs) = 0 on a box with boundary conditions. Subclasses are frozen dataclasses.

    A subclass gives `ndim`, `inputs`, `outputs`, `boundary`, `residual` and `sample`; everything else follows:
    the linear system is read off the residual (A v = R(v) − R(0), b = −R(0)), its symbol from the Symbol
    calculus, the residual metric from the Stencil. Override a view only for speed (the system: `matrix` and
    `right_hand_side`).

    `linear`: residual affine in u. `constant_coefficient`: the a of −a Δu when it is a number (fast transforms
    apply). `label_order`: expected order of the reference discretisation, used in its error estimate. `gauge`: outputs
    that the equations leave open up to a constant, or a function of the coordinates of free axes (a pressure); the one
    of zero mean over the other axes is meant. `layout`: of the axes of its grids that are not periodic, where others do
    not fit. `galerkin`: the system is that of finite elements, which approaches the residual's with the mesh but does
    not equal it; `residual_on_grid` is A u − b then. `stacked`: the unknowns of the system are all output fields at
    once, (n, outputs, *s), else one field (n, *s). `definite`: False where the symmetric system is known to have
    eigenvalues of both signs, so that solvers for positive ones refuse before anything is assembled.
    """

    ndim: int
    inputs: tuple[Channel, ...]
    outputs: tuple[Channel, ...] = (Channel("u"),)
    boundary: Boundary
    linear: bool = True
    constant_coefficient: float | None = None
    label_order: float = 2.0
    gauge: tuple[int, ...] = ()
    layout: str = "node"
    galerkin: bool = False
    stacked: bool = False
    definite: bool = True

    # ---- what a subclass writes

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        """R(u; c) in the words of the calculus d; u is one array per output channel (a tuple if several)."""
        raise ViewMissing(f"{type(self).__name__} has data only: it offers no residual.")

    def sample(
        self,
        seeds: Sequence[int],
        grid: Grid,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Cases:
        """One random case per seed, on the grid; equal seeds on two grids mean the same functions."""
        raise ViewMissing(f"{type(self).__name__} has no generator: it offers stored cases only.")

    def reference(self, cases: Cases, tol: float = 1e-10) -> Solution:
        """Trusted solution on cases.domain; stats carry per-case `residual`, `label_error`, and `label_method`."""
        raise ViewMissing(f"{type(self).__name__} has no reference solver.")

    def exact(self, cases: Cases, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n c N"] | None:
        """The solution at any points, where a closed form or a reference far below any solver's error exists; else
        None."""
        return None

    def formula(self, cases: Cases, x: Float[Tensor, "n N d"]) -> dict[str, Float[Tensor, "n N"]]:
        """Inputs at points in closed form (differentiable in x), for those channels that have one."""
        return {}

    def invariants(self) -> dict[str, Callable[[Field], Float[Tensor, "n t"]]]:
        """Named conserved quantities Q(field); none by default."""
        return {}

    # ---- what follows

    def views(self) -> set[View]:
        """What this problem offers to solvers."""
        offered = {View.DATA}
        if type(self).residual is not Problem.residual:
            offered |= {View.RESIDUAL, View.BOUNDARY}
            if self.linear and not self.boundary.has_free:  # a free face leaves too few or too many rows
                offered.add(View.SYSTEM)
        for view, method in ((View.ENERGY, "energy"), (View.STEP, "step")):
            if hasattr(self, method):
                offered.add(view)
        return offered

    def describe(self) -> str:
        """First line of the docstring: the equation."""
        return (type(self).__doc__ or type(self).__name__).strip().splitlines()[0]

    def rebuild(self, cases: Cases, grid: Grid) -> Cases | None:
        """The same cases made anew on another grid from their seeds; None if there is no generator or seed."""
        if cases.seeds is None or type(self).sample is Problem.sample or not cases.domain.same_box(grid):
            return None
        made = self.sample(cases.seeds.tolist(), grid, cases.dtype, cases.device)
        return replace(made, ids=cases.ids)

    def stencil(self, cases: Cases) -> Stencil:
        """The finite-difference calculus on the grid of the cases, with their boundary data."""
        return Stencil(cases.domain, self.boundary, cases.boundary)

    def residual_on_grid(self, cases: Cases, u: Float[Tensor, "n *s"]) -> Float[Tensor, "n *m"]:
        """R(u) at the unknowns of the grid, by second-order differences."""
        d = self.stencil(cases)
        return d.restrict(self.residual(d, u, cases.values()))

    def residual_at(
        self,
        cases: Cases,
        u: Callable[[Float[Tensor, "n N d"]], Any],
        x: Float[Tensor, "m N d"],
    ) -> Any:
        """R(u) (n, N) at scattered points (shared by the cases or one set each), by automatic differentiation of u; one
        array per equation where there are several.

        Where u is a trial function of points (`u.derivatives`, one function for all cases), its own forward pass makes
        the derivatives; otherwise reverse passes do.
        """
        d: Autodiff | Forward
        points = x.expand(len(cases), -1, -1)
        derive = getattr(u, "derivatives", None)
        if derive is None:
            d = Autodiff(points)
            return self.residual(d, u(d.x), cases.at(d.x))
        flat = derive(points.reshape(-1, self.ndim), request_of(self, cases)[0])
        shaped = {key: value.reshape(*points.shape[:2], -1).unbind(-1) for key, value in flat.items()}
        d = Forward(points, [{key: value[j] for key, value in shaped.items()} for j in range(len(self.outputs))])
        return d.evaluate(self.residual, cases.at)

    def symbol(self, cases: Cases, x: Float[Tensor, "m N d"]) -> Differential:
        """Coefficients of ∂^α u in the residual at points x, shared or one set per case (linear problems)."""
        d = Symbol(x.expand(len(cases), -1, -1))
        return self.residual(d, d.u, cases.at(d.x))

    def tangent(self, cases: Cases, x: Float[Tensor, "m N d"], state: State) -> Differential:
        """Σ_α c_α ∂^α u + constant that touches the residual at a state given by its derivatives at the points: one
        step of Newton's method solves tangent = 0. Linear problems: their symbol, whatever the state."""
        if self.linear:
            return self.symbol(cases, x)
        d = Jet(x.expand(len(cases), -1, -1), state)
        return d.linearise(self.residual(d, d.u, cases.at(d.x)))

    def boundary_at(self, cases: Cases, face: str, x: Float[Tensor, "m N d"]) -> Float[Tensor, "n N"]:
        """Boundary data at points of a face: from the closed form of the solution where there is one, else cubic
        interpolation of the stored data. Units as in `BoundaryData`."""
        _, axis, side, kind = next(entry for entry in self.boundary.faces() if entry[0] == face)
        d = Autodiff(x.expand(len(cases), -1, -1))
        if kind == "free":
            raise UsageError(f"{type(self).__name__}: face {face} is free, it has no boundary data.")
        exact = self.exact(cases, d.x)
        if exact is None:
            return cases.on_face(face, x)
        if kind == "dirichlet":
            return exact[:, 0].detach()
        return d.gradient(exact[:, 0])[..., axis].detach() * (1.0 if side else -1.0)

    def conditions(self) -> list[Condition]:
        """Conditions on the faces, unknown by unknown; periodic axes and free faces have none.

        With one output they follow from `boundary` and `boundary_at`; with several, a subclass writes them.
        """
        if len(self.outputs) > 1:
            raise ViewMissing(f"{type(self).__name__} has several unknowns: it must list its own conditions().")

        def data(face: str) -> Callable[[Cases, Tensor], Tensor]:
            return lambda cases, x: self.boundary_at(cases, face, x)

        return [Condition(name, 0, kind, data(name)) for name, _, _, kind in self.boundary.faces() if kind != "free"]

    def loss_weight(self, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"] | None:
        """Factor of the squared residual in a loss at points, where some matter less; None: one everywhere."""
        return None

    def unknowns(self, grid: Grid, u: Float[Tensor, "n *s"]) -> Float[Tensor, "n *m"]:
        """Values at the unknowns: all points minus boundary nodes that hold Dirichlet values."""
        return Stencil(grid, self.boundary).restrict(u)

    def embed(self, cases: Cases, v: Float[Tensor, "n *m"]) -> Float[Tensor, "n *s"]:
        """Full-grid array from the unknowns, boundary nodes filled with their data."""
        return self.stencil(cases).embed(v)

    def system(self, cases: Cases) -> tuple[LinearOperator, Float[Tensor, "n *m"]]:
        """A v = b on the unknowns, read off the residual: A v = R(v) − R(0), b = −R(0).

        Rows are per unit volume (entries ~ 1/h²); Neumann node rows are halved so that A is symmetric. Pure
        Neumann or periodic problems get `nullspace = "constant"`. Cost: 3^d + 1 residual evaluations.
        """
        return self.matrix(cases), self.right_hand_side(cases)

    def right_hand_side(self, cases: Cases) -> Float[Tensor, "n *m"]:
        """b = −R(0) with the boundary data in place: one residual evaluation."""
        d = self.stencil(cases)
        zero = torch.zeros((len(cases), *d.unknown_shape), dtype=cases.dtype, device=cases.device)
        return -d.restrict(self.residual(d, d.embed(zero), cases.values())) * d.row_weights(zero)

    def matrix(self, cases: Cases) -> LinearOperator:
        """A alone. Where `constant_coefficient` is a number it depends on the grid only and may be kept."""
        if View.SYSTEM not in self.views():
            raise ViewMissing(f"{type(self).__name__} offers no linear system.")
        d = self.stencil(cases)
        zero = torch.zeros((len(cases), *d.unknown_shape), dtype=cases.dtype, device=cases.device)
        weights = d.row_weights(zero)
        # All cases share one matrix when the coefficient is a number: probe it once.
        shared = self.constant_coefficient is not None
        probed = cases[:1] if shared else cases
        homogeneous = Stencil(cases.domain, self.boundary)
        values = probed.values()
        offset = homogeneous.restrict(self.residual(homogeneous, homogeneous.embed(zero[: len(probed)]), values))
        # Probes of the size of h²·f: a huge forcing must not round away the matrix entries that it is added to.
        size = 1.0 + min(cases.domain.spacing) ** 2 * float(offset.abs().amax())
        size = 2.0 ** math.ceil(math.log2(size)) if math.isfinite(size) else 1.0

        def apply(v: Tensor) -> Tensor:
            full = homogeneous.embed(v * size)
            return (homogeneous.restrict(self.residual(homogeneous, full, values)) - offset) * (weights / size)

        periodic = tuple(layout == "periodic" for layout in cases.domain.layout)
        stencil = probe_stencil(apply, len(probed), d.unknown_shape, periodic, dtype=cases.dtype, device=cases.device)
        # Differences of a constant vanish exactly, so A·1 tells a small reaction term from rounding even in float32.
        singular = bool(
            apply(torch.ones_like(zero[: len(probed)])).abs().amax()
            <= torch.finfo(cases.dtype).eps * stencil.abs().amax()
        )
        A = StencilOperator(stencil, periodic, nullspace="constant" if singular else None)
        if shared:
            A = StencilOperator(stencil.expand(len(cases), *stencil.shape[1:]), periodic, A.tags, A.nullspace)
        return A

    def spectral_system(self, cases: Cases) -> tuple[LinearOperator, Float[Tensor, "n *m"]]:
        """A v = b of the Spectral calculus, matrix-free."""
        d, mask = Spectral(cases.domain, self.boundary, cases.boundary), Stencil(cases.domain, self.boundary)
        c = cases.values()
        zero = torch.zeros((len(cases), *mask.unknown_shape), dtype=cases.dtype, device=cases.device)

        def residual(v: Tensor) -> Tensor:
            return mask.restrict(self.residual(d, mask.embed(v), c))

        constant = residual(zero)
        operator = FunctionOperator(
            lambda v: residual(v) - constant, len(cases), mask.unknown_shape, cases.dtype, cases.device
        )
        return operator, -constant


@dataclass(frozen=True)
class DataOnly(Problem):
    """u = G(a): input and output fields from a file, equation unknown. Offers the DATA view alone."""

    input_names: Sequence[str] = ("a",)
    output_names: Sequence[str] = ("u",)
    ndim: int = 2
    wall: str | Sequence[str] = "dirichlet"  # one kind for all axes, or one per axis
    interpolation: Literal["nearest", "linear", "cubic"] = "linear"

    def __post_init__(self) -> None:
        if self.interpolation not in ("nearest", "linear", "cubic"):
            raise UsageError(f"interpolation must be nearest, linear or cubic; got '{self.interpolation}'.")
        walls = (self.wall,) * self.ndim if isinstance(self.wall, str) else tuple(self.wall)
        fixed = {
            "input_names": tuple(self.input_names),
            "output_names": tuple(self.output_names),
            "inputs": tuple(Channel(name, self.interpolation) for name in self.input_names),
            "outputs": tuple(Channel(name) for name in self.output_names),
            "boundary": Boundary(tuple((kind, kind) for kind in walls)),
            "wall": self.wall if isinstance(self.wall, str) else walls,
        }
        for name, value in fixed.items():  # frozen dataclass: lists from YAML become tuples here
            object.__setattr__(self, name, value)

"""The published objective of GP-HM: values of u at the nodes of a grid and kernel parameters, fitted jointly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.calculus import Calculus, Order, State
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.numerics.kronecker import Kronecker, mode_product
from sciops.numerics.spectral_covariance import FAMILIES, covariance, grid_lags, toeplitz
from sciops.solvers.collocation import Equation

JITTER = 1e-6


class NodeCalculus(Calculus):
    """∂^n along axis j is U ×_j (K_j⁽ⁿ⁾ C_j^{-1}): the derivative of the conditional mean given values at the nodes.

    u: (1, N) values at all nodes, row-major. The inverses of the other axes cancel, so a derivative costs one
    triangular solve and one product per axis that it touches. `known` holds derivatives to add to those of `u`.
    """

    def __init__(self, x: Tensor, u: Tensor, kernels: "AxisKernels", known: "Frozen | None" = None) -> None:
        self.x, self.u, self.kernels, self.known = x, u, kernels, known
        self.own = u if known is None else u - known((0,) * kernels.ndim)
        self.solved: dict[int, Tensor] = {}

    @property
    def ndim(self) -> int:
        return self.kernels.ndim

    def partial(self, u: Float[Tensor, "1 N"], order: Order) -> Float[Tensor, "1 N"]:
        if u is self.u and self.known is not None and any(order):
            return self._own(self.own, order) + self.known(order)
        return self._own(u, order)

    def _own(self, u: Tensor, order: Order) -> Tensor:
        values, touched = u.reshape(self.kernels.shape), False
        for axis, times in enumerate(order):
            if not times:
                continue
            if u is self.own and not touched:
                if axis not in self.solved:
                    self.solved[axis] = self.kernels.C.solve_axis(values, axis)
                solved = self.solved[axis]
            else:
                solved = self.kernels.C.solve_axis(values, axis)
            values, touched = mode_product(self.kernels.matrix(axis, times), solved, axis), True
        return values.reshape(1, -1)

    def div_flux(self, a: Any, u: Any) -> Any:
        orders = [tuple(int(j == axis) for j in range(self.ndim)) for axis in range(self.ndim)]
        return sum(self.partial(a * self.partial(u, order), order) for order in orders)


class AxisKernels:
    """K_j⁽ⁿ⁾ and C_j = K_j + jitter·I of every axis at given parameters, from their N lags."""

    def __init__(self, model: "GPHMObjective", axes: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        self.shape, self.ndim, self.model, self.axes = model.nodes.shape, model.nodes.ndim, model, axes
        self.lags = [grid_lags(n, h, axes[0][0]) for n, h in zip(model.nodes.shape, model.nodes.spacing, strict=True)]
        self.values: list[dict[int, Tensor]] = []
        for lag, axis, orders in zip(self.lags, axes, model.orders, strict=True):
            found = covariance(model.kernel, lag, sorted(orders), *axis)
            self.values.append(dict(zip(sorted(orders), found, strict=True)))
        self.C = Kronecker(
            [self._jittered(toeplitz(values[0]), model.jitter) for values in self.values]
        )  # the derivatives carry no jitter

    @staticmethod
    def _jittered(K: Tensor, jitter: float) -> Tensor:
        return K + jitter * torch.eye(len(K), dtype=K.dtype, device=K.device)

    def matrix(self, axis: int, order: int) -> Tensor:
        """K_j⁽ⁿ⁾ between nodes."""
        if order not in self.values[axis]:
            self.model.orders[axis].add(order)
            (self.values[axis][order],) = covariance(self.model.kernel, self.lags[axis], (order,), *self.axes[axis])
        return toeplitz(self.values[axis][order], order)


class Frozen:
    """Derivatives at the nodes of a fit that no longer changes; the null fit where there is none."""

    def __init__(self, model: "GPHMObjective") -> None:
        with torch.no_grad():
            self.model, self.kernels = model, model.kernels()
            self.calculus = NodeCalculus(model.x, model.values_at_nodes().detach(), self.kernels, model.known)
        self.cache: dict[Order, Tensor] = {}

    def __call__(self, order: Order) -> Tensor:
        if order not in self.cache:
            with torch.no_grad():
                self.cache[order] = self.calculus.partial(self.calculus.u, order).detach()
        return self.cache[order]


class GPHMObjective(nn.Module):
    """−L(U, Θ, log τ, log v), to be minimised over everything jointly.

        L = −½ log|C| − ½ vec(U)ᵀC⁻¹vec(U) + λ_b [½ N_b log τ − ½ τ Σ_b (u_b − g_b)²] + ½ M log v − ½ v Σ_c R_c²

    C = ⊗_j C_j over the axes of the node grid, R the problem's own residual at every node with derivatives by the
    conditional mean, b all nodes on faces (those on two faces count twice). "Jeffreys prior" of the weights is nothing
    but their logarithms as unknowns.

    nodes          uniform grid that includes the faces
    max_frequency  F of every axis: μ starts at Q equal steps from 0 to F cycles per unit
    boundary_weight  λ_b
    noise_cap      largest log τ and log v (the objective is unbounded where both gaps vanish); None as published
    normalised     Σ_q w_q = 1 on all axes but the first, whose scale is otherwise undetermined against it
    first          a fit to add to: its parameters are frozen, log τ is carried over ("extra GP")

    Start: U = 0, log τ = log v = 0, log w = −log Q, s = 0. Cost O(Σ M_j³ + M Σ M_j) per evaluation. The loss is no
    measure of quality: it is unbounded, and settings change its scale. Fails with torch.linalg.LinAlgError where
    jitter no longer keeps C positive definite. Reference: Fang et al., ICLR 2024.
    """

    def __init__(
        self,
        equation: Equation,
        nodes: Grid,
        kernel: str = "student_t",
        components: int = 30,
        max_frequency: Sequence[float] = (20.0,),
        boundary_weight: float = 200.0,
        jitter: float = JITTER,
        noise_cap: float | None = None,
        normalised: bool = False,
        first: "GPHMObjective | None" = None,
    ) -> None:
        super().__init__()
        if kernel not in FAMILIES:
            raise UsageError(f"kernel must be one of {', '.join(FAMILIES)}; got '{kernel}'.")
        if set(nodes.layout) != {"node"}:
            raise UsageError(f"GP-HM needs nodes on the faces (layout node); got {nodes.describe()}.")
        self.equation, self.nodes, self.kernel, self.jitter = equation, nodes, kernel, jitter
        self.boundary_weight, self.noise_cap, self.normalised = boundary_weight, noise_cap, normalised
        self.known = None if first is None else Frozen(first)
        like = equation.lower
        self.x = nodes.points(torch.float64, like.device)[None]
        self.inputs = equation.case.at(self.x)
        self._prepare_faces()
        self.u = nn.Parameter(torch.zeros(nodes.shape, dtype=torch.float64, device=like.device))
        ceilings = list(max_frequency) * (nodes.ndim if len(max_frequency) == 1 else 1)
        # As the reference computes it, so that the published values are met to rounding.
        steps = torch.linspace(0.0, 1.0, components, dtype=torch.float64, device=like.device)
        self.log_weight = nn.ParameterList(torch.full_like(steps, -math.log(components)) for _ in ceilings)
        self.s = nn.ParameterList(torch.zeros_like(steps) for _ in ceilings)
        self.mu = nn.ParameterList(steps * ceiling for ceiling in ceilings)
        self.log_tau: nn.Parameter = nn.Parameter(like.new_zeros(()))
        if first is not None:
            self.log_tau.data.copy_(first.log_tau.data)
        self.log_v = nn.Parameter(like.new_zeros(()))
        self.orders: list[set[int]] = [{0} for _ in nodes.shape]
        with torch.no_grad():
            self.loss()  # finds out which derivatives the equation needs
        if first is not None:
            self.orders = [a | b for a, b in zip(self.orders, first.orders, strict=True)]

    def _prepare_faces(self) -> None:
        self.faces: list[tuple[Tensor, dict[Order, Tensor], Tensor]] = []
        index = torch.arange(self.nodes.size, device=self.x.device).reshape(self.nodes.shape)
        for face in self.equation.faces:
            here = index.select(face.axis, -1 if face.side else 0).reshape(-1)
            rows = self.equation.boundary_rows(face, self.x[0, here])
            self.faces.append((here, rows.terms, rows.rhs))

    # ---- the objective

    def values_at_nodes(self) -> Float[Tensor, "1 N"]:
        """U, with the values of the frozen fit where there is one."""
        own = self.u.reshape(1, -1)
        return own if self.known is None else own + self.known((0,) * self.nodes.ndim)

    def kernels(self) -> AxisKernels:
        """Matrices at the current parameters."""
        axes = []
        for j, (log_weight, s, mu) in enumerate(zip(self.log_weight, self.s, self.mu, strict=True)):
            axes.append((log_weight.log_softmax(-1) if self.normalised and j else log_weight, s, mu))
        return AxisKernels(self, axes)

    def noise(self) -> tuple[Tensor, Tensor]:
        """log τ and log v, capped where asked."""
        if self.noise_cap is None:
            return self.log_tau, self.log_v
        return self.log_tau.clamp(max=self.noise_cap), self.log_v.clamp(max=self.noise_cap)

    def gaps(self, kernels: AxisKernels) -> tuple[Float[Tensor, " b"], Float[Tensor, " N"]]:
        """u − g at the nodes on faces, R at all nodes."""
        d = NodeCalculus(self.x, self.values_at_nodes(), kernels, self.known)
        residual = self.equation.problem.residual(d, d.u, self.inputs)
        boundary = []
        for here, terms, rhs in self.faces:
            value = -rhs
            for order, coefficient in terms.items():
                value = value + coefficient * (d.partial(d.u, order) if any(order) else d.u)[0, here]
            boundary.append(value)
        return torch.cat(boundary), residual.reshape(-1)

    def loss(self) -> Float[Tensor, ""]:
        """−L."""
        kernels = self.kernels()
        boundary, residual = self.gaps(kernels)
        log_tau, log_v = self.noise()
        prior = -0.5 * kernels.C.logdet() - 0.5 * kernels.C.quadratic(self.u)
        faces = 0.5 * len(boundary) * log_tau - 0.5 * log_tau.exp() * boundary.square().sum()
        equation = 0.5 * len(residual) * log_v - 0.5 * log_v.exp() * residual.square().sum()
        return -(prior + self.boundary_weight * faces + equation)

    # ---- the answer

    @torch.no_grad()
    def snapshot(self) -> "Snapshot":
        """The answer at the current parameters; later steps do not change it."""
        kernels = self.kernels()
        axes = [(w.detach().clone(), s.detach().clone(), mu.detach().clone()) for w, s, mu in kernels.axes]
        before = None if self.known is None else self.known.model.snapshot()
        return Snapshot(self.nodes, self.kernel, axes, kernels.C.solve(self.u).detach(), before)


@dataclass
class Snapshot:
    """u(x) = Σ_nodes Π_j k_j(x_j, node_j) (C⁻¹U)_node, the conditional mean anywhere, with its derivatives."""

    nodes: Grid
    kernel: str
    axes: list[tuple[Tensor, Tensor, Tensor]]
    weights: Tensor
    before: "Snapshot | None" = None

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "P d"], order: Order | None = None) -> Float[Tensor, " P"]:
        """∂^order u at points; u itself without an order."""
        rows = []
        for j, axis in enumerate(self.axes):
            unique = x[:, j].unique()
            lag = (unique[:, None] - self.nodes.axis(j, x.dtype, x.device)).reshape(-1)
            (k,) = covariance(self.kernel, lag, (order[j] if order else 0,), *axis)
            rows.append(k.reshape(len(unique), -1))
        own = contract(self.weights, rows, x)
        return own if self.before is None else own + self.before(x, order)

    def state(self, x: Float[Tensor, "P d"]) -> State:
        """Derivatives at points."""
        return lambda order: self(x, order)


def contract(
    weights: Float[Tensor, "..."], rows: Sequence[Float[Tensor, "..."]], x: Float[Tensor, "P d"], chunk: int = 4096
) -> Float[Tensor, " P"]:
    """Σ_{i…} weights[i…] Π_j rows_j[x_j, i_j], with rows_j at the sorted unique coordinates of axis j.

    Where the points are a tensor grid this is d products of matrices and one gather; else points go in chunks.
    """
    uniques, places = zip(*(x[:, j].unique(return_inverse=True) for j in range(x.shape[1])), strict=True)
    if math.prod(len(u) for u in uniques) <= 4 * len(x):
        for axis, row in enumerate(rows):
            weights = mode_product(row, weights, axis)
        return weights[places]
    parts = []
    for where in torch.arange(len(x), device=x.device).split(chunk):
        part = rows[0][places[0][where]] @ weights.reshape(len(weights), -1)
        for row, place, n in zip(rows[1:], places[1:], weights.shape[1:], strict=True):
            part = torch.einsum("pir,pi->pr", part.reshape(len(where), n, -1), row[place[where]])
        parts.append(part[:, 0])
    return torch.cat(parts)

"""Finite elements on rectangles: bilinear ones on node grids for whole batches, and high degrees for trusted answers.

Shape functions, quadrature and numbering are scikit-fem's; sums over elements are made here for many cases at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.stencil_operator import offsets

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix

Function = Callable[[np.ndarray], np.ndarray]
"""Points (N, 2) ↦ values (N,)."""


class Bilinear:
    """Q1 elements on a uniform 2-D node grid, 3×3 Gauss points each; matrices are 9-point stencils per unit volume.

    ∫ … φ_i dx / (h_x h_y) is row i: entries ~ 1/h² as in finite differences, rows on a wall halved by themselves.
    Batched over cases, on any device. Cost: 9·16 products per element and matrix.
    """

    def __init__(self, grid: Grid) -> None:
        if grid.ndim != 2 or set(grid.layout) != {"node"}:
            raise UsageError(f"Bilinear elements need a 2-D node grid; got {grid.describe()}.")
        from skfem import Basis, ElementQuad1, MeshQuad

        lines = [grid.axis(axis).numpy() for axis in range(2)]
        basis = Basis(MeshQuad.init_tensor(*lines), ElementQuad1(), intorder=5)
        place = [np.rint((x - lo) / h) for x, lo, h in zip(basis.doflocs, grid.lower, grid.spacing, strict=True)]
        node = (place[0] * grid.shape[1] + place[1]).astype(np.int64)[basis.element_dofs]  # (4, elements)
        self.grid, self.corners = grid, torch.from_numpy(node.T.copy())
        # All elements are alike, so the first one speaks for them.
        volume = grid.spacing[0] * grid.spacing[1]
        weights = basis.dx[0] / volume
        phi = np.stack([np.asarray(f[0])[0] for f in basis.basis])
        slope = np.stack([f[0].grad[:, 0] for f in basis.basis])
        self.phi = torch.from_numpy(phi)
        self.tests = torch.from_numpy((weights * phi).T.copy())
        self.products = torch.from_numpy(np.einsum("q,iq,jq->qij", weights, phi, phi).reshape(len(weights), 16))
        self.slopes = torch.from_numpy(np.einsum("q,idq,jdq->ij", weights, slope, slope).reshape(16))
        i, j = np.divmod(node, grid.shape[1])
        step = (i[None] - i[:, None] + 1) * 3 + (j[None] - j[:, None] + 1)  # [row corner, column corner, element]
        self.slots = torch.from_numpy((step * grid.size + node[:, None]).transpose(2, 0, 1).reshape(-1).copy())

    def at_quadrature(self, values: Float[Tensor, "n *s"]) -> Float[Tensor, "n e q"]:
        """Nodal values at the Gauss points of every element."""
        corners = values.flatten(1)[:, self.corners.to(values.device)]
        return corners @ self.phi.to(corners)

    def stiffness(self, like: Tensor) -> Float[Tensor, "1 k *s"]:
        """∫ ∇u·∇v."""
        return self._sum(self.slopes.to(like).expand(1, len(self.corners), 16))

    def mass(self, weight: Float[Tensor, "n e q"]) -> Float[Tensor, "n k *s"]:
        """∫ w u v with w given at the Gauss points."""
        return self._sum(weight @ self.products.to(weight))

    def load(self, values: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        """∫ f v with f linear between the nodes."""
        corners = self.at_quadrature(values) @ self.tests.to(values)
        total = values.new_zeros((len(values), self.grid.size))
        total.index_add_(1, self.corners.reshape(-1).to(values.device), corners.reshape(len(values), -1))
        return total.reshape(values.shape)

    def wall_mass(self, weight: Float[Tensor, "n *s"]) -> Float[Tensor, "n k *s"]:
        """∮ w u v with w given at the nodes, linear along every edge; three Gauss points an edge."""
        table, grid = offsets(2), self.grid
        stencil = weight.new_zeros((len(weight), 9, *grid.shape))
        points, gauss = (weight.new_tensor(v) for v in np.polynomial.legendre.leggauss(3))
        right = (1 + points) / 2
        hats = torch.stack([1 - right, right])
        for axis in range(2):
            along = 1 - axis
            # Edge length over h_x h_y is one over the spacing across.
            factor = gauss * 0.5 / grid.spacing[axis]
            for side in (0, -1):
                w = weight.select(axis + 1, side)
                at = w[:, :-1, None] * hats[0] + w[:, 1:, None] * hats[1]
                local = torch.einsum("neq,q,iq,jq->neij", at, factor, hats, hats)
                for i in range(2):
                    for j in range(2):
                        offset = [0, 0]
                        offset[along] = j - i
                        row = stencil[:, table.index((offset[0], offset[1]))].select(axis + 1, side)
                        row.narrow(1, i, row.shape[1] - 1).add_(local[..., i, j])
        return stencil

    def _sum(self, local: Tensor) -> Tensor:
        """Element matrices (n, e, 16) → stencils (n, 9, *s)."""
        total = local.new_zeros((len(local), 9 * self.grid.size))
        total.index_add_(1, self.slots.to(local.device), local.reshape(len(local), -1))
        return total.reshape(len(local), 9, *self.grid.shape)


@lru_cache(maxsize=8)
def bilinear(grid: Grid) -> Bilinear:
    """Bilinear elements of a grid, kept."""
    return Bilinear(grid)


@dataclass(frozen=True)
class WeakForm:
    """∫ ∇u·∇v − k² u v dx − i ∮ κ u v ds = ∫ f v dx + ∮ g v ds for all v, on a rectangle.

    `square`: k²; `impedance`: κ (None: no such term, everything is real); `forcing`: f; `flux`: g, real or complex.
    Functions of points (N, 2). `breaks`: per axis, places where the data jump, which the mesh takes as lines.
    """

    lower: tuple[float, float]
    upper: tuple[float, float]
    square: Function
    impedance: Function | None = None
    forcing: Function | None = None
    flux: Function | None = None
    breaks: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())

    def mesh_lines(self, elements: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """`elements` intervals per axis, equal but for lines next to a break, which move onto it."""
        lines = []
        for axis in range(2):
            x = np.linspace(self.lower[axis], self.upper[axis], elements + 1)
            for place in self.breaks[axis]:
                nearest = 1 + int(np.argmin(np.abs(x[1:-1] - place))) if elements > 1 else 0
                if nearest and x[nearest - 1] < place < x[nearest + 1]:
                    x[nearest] = place
            lines.append(tuple(x.tolist()))
        return lines[0], lines[1]


class HighDegree:
    """Elements of degree p on a rectangle split by lines; one case at a time, on the host.

    Unknowns are scikit-fem's: nodal for degrees 1 and 2, hierarchical above; p + 2 Gauss points per direction.
    Cost of an assembly: elements·(p+1)⁴(p+2)² products.
    Reference: Szabó, Babuška, Finite Element Analysis (1991).
    """

    def __init__(self, lines: tuple[tuple[float, ...], tuple[float, ...]], degree: int) -> None:
        if degree < 1:
            raise UsageError(f"Elements need degree >= 1; got {degree}.")
        from skfem import Basis, ElementQuad1, ElementQuad2, ElementQuadP, FacetBasis, MeshQuad

        self.lines, self.degree = lines, degree
        self.element = {1: ElementQuad1, 2: ElementQuad2}.get(degree, lambda: ElementQuadP(degree))()
        mesh = MeshQuad.init_tensor(*(np.array(x) for x in lines))
        order = 2 * (degree + 2) - 1
        self.mesh, self.basis = mesh, Basis(mesh, self.element, intorder=order)
        self.walls = FacetBasis(mesh, self.element, intorder=order)
        self.size = int(self.basis.N)
        self.stiffness = self._stiffness()

    def points(self) -> np.ndarray:
        """Gauss points of the elements (N, 2)."""
        return _points(self.basis)

    def solve(self, form: WeakForm) -> "Answer":
        """Assemble, factorise (threshold pivoting, minimum degree), solve with one refinement."""
        from scipy.sparse.linalg import splu

        x = self.points()
        reaction = self.mass(form.square(x))
        A = self.stiffness - reaction
        b: Any = np.zeros(self.size)
        if form.impedance is not None:
            A = A - 1j * self.wall_mass(form.impedance(_points(self.walls)))
        if form.forcing is not None:
            b = b + self._load(self.basis, form.forcing(x))
        if form.flux is not None:
            b = b + self._load(self.walls, form.flux(_points(self.walls)))
        A = A.tocsc()
        b = b.astype(np.result_type(A.dtype, b.dtype))
        if np.iscomplexobj(b) and not np.iscomplexobj(A.data):
            A = A.astype(np.complex128)
        factors = splu(A, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.01, options={"SymmetricMode": True})
        u = factors.solve(b)
        u = u + factors.solve(b - A @ u)
        size = float(np.linalg.norm(b))
        residual = float(np.linalg.norm(b - A @ u)) / size if size else 0.0
        return Answer(self, u, residual, distance_to_resonance(factors.solve, reaction, u))

    def evaluation(self, x: np.ndarray) -> Any:
        """Sparse matrix (N, unknowns): a function of the space at points (N, 2)."""
        from scipy.sparse import csr_matrix

        cell = [
            np.clip(np.searchsorted(line, x[:, a], side="right") - 1, 0, len(line) - 2)
            for a, line in enumerate(map(np.array, self.lines))
        ]
        local, owner = self._cells()
        element = owner[cell[0], cell[1]]
        corner, edges = self.mesh.p[:, self.mesh.t[0, element]], local[:, :, element]
        X = np.einsum("ijk,jk->ik", edges, x.T - corner)
        values = np.stack([self.element.lbasis(X, i)[0] for i in range(len(self.basis.element_dofs))], 1)
        columns = self.basis.element_dofs[:, element].T
        rows = np.arange(len(x) + 1) * values.shape[1]
        return csr_matrix((values.ravel(), columns.ravel(), rows), shape=(len(x), self.size))

    def _cells(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows that turn x − first corner into local coordinates, element of each cell of the lines)."""
        p, t = self.mesh.p, self.mesh.t
        sides = np.stack([p[:, t[1]] - p[:, t[0]], p[:, t[3]] - p[:, t[0]]])  # (local axis, global axis, elements)
        centre = p[:, t].mean(1)
        i, j = (np.searchsorted(np.array(line), centre[a]) - 1 for a, line in enumerate(self.lines))
        owner = np.empty((len(self.lines[0]) - 1, len(self.lines[1]) - 1), dtype=np.int64)
        owner[i, j] = np.arange(t.shape[1])
        return sides / (sides**2).sum(1, keepdims=True), owner

    def _assemble(self, local: np.ndarray) -> "csc_matrix":
        """Element matrices (elements, …) → sparse matrix, on the pattern that all of them share."""
        from scipy.sparse import csc_matrix

        slots, rows, starts = self._pattern
        values = np.bincount(slots, local.ravel(), minlength=len(rows))
        return csc_matrix((values, rows, starts), shape=(self.size, self.size))

    @cached_property
    def _pattern(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(place of every entry of the element matrices among the stored ones, their rows, starts of the columns)."""
        dofs = self.basis.element_dofs.T.astype(np.int64)
        keys = (dofs[:, None] * self.size + dofs[:, :, None]).ravel()  # column by column, then row
        places, slots = np.unique(keys, return_inverse=True)
        columns, rows = np.divmod(places, self.size)
        starts = np.searchsorted(columns, np.arange(self.size + 1))
        return slots.ravel(), rows.astype(np.int32), starts.astype(np.int32)

    @cached_property
    def _products(self) -> np.ndarray:
        """φ_i φ_j at the Gauss points of any element: they are the same functions in all."""
        phi = np.stack([np.asarray(f[0])[0] for f in self.basis.basis])
        return (phi[:, None] * phi[None]).reshape(-1, phi.shape[-1]).T.copy()

    def _stiffness(self) -> "csc_matrix":
        local: Any = 0.0
        for axis in range(2):
            slope = np.stack([f[0].grad[axis] for f in self.basis.basis], 1)
            local = local + (slope * self.basis.dx[:, None]) @ slope.transpose(0, 2, 1)
        return self._assemble(local)

    def mass(self, weight: np.ndarray) -> "csc_matrix":
        """∫ w u v, w at `points`."""
        return self._assemble((weight.reshape(self.basis.dx.shape) * self.basis.dx) @ self._products)

    def wall_mass(self, weight: np.ndarray) -> "csc_matrix":
        """∮ w u v, w at the Gauss points of the walls."""
        from scipy.sparse import coo_matrix

        basis = self.walls
        phi = np.stack([np.asarray(f[0]) for f in basis.basis], 1)
        local = (phi * (weight.reshape(basis.dx.shape) * basis.dx)[:, None]) @ phi.transpose(0, 2, 1)
        dofs = basis.element_dofs.T
        rows, columns = (np.broadcast_to(d, local.shape).ravel() for d in (dofs[:, :, None], dofs[:, None]))
        return coo_matrix((local.ravel(), (rows, columns)), shape=(self.size, self.size)).tocsc()

    def _load(self, basis: Any, weight: np.ndarray) -> np.ndarray:
        phi = np.stack([np.asarray(f[0]) for f in basis.basis], 1)
        local = np.einsum("ekq,eq->ek", phi, weight.reshape(basis.dx.shape) * basis.dx)
        total = np.zeros(self.size, dtype=local.dtype)
        np.add.at(total, basis.element_dofs.T, local)
        return total


@lru_cache(maxsize=8)
def high_degree(lines: tuple[tuple[float, ...], tuple[float, ...]], degree: int) -> HighDegree:
    """Elements on these lines, kept."""
    return HighDegree(lines, degree)


@dataclass
class Answer:
    """A solution, its relative residual and how far the form is from an eigenvalue (see `distance_to_resonance`)."""

    space: HighDegree
    coefficients: np.ndarray
    residual: float
    resonance: float

    def on(self, grid: Grid) -> np.ndarray:
        """Values on a grid (*s)."""
        return (_evaluation(self.space, grid) @ self.coefficients).reshape(grid.shape)


@lru_cache(maxsize=8)
def _evaluation(space: HighDegree, grid: Grid) -> Any:
    return space.evaluation(grid.points().numpy())


def distance_to_resonance(solve: Function, reaction: Any, start: np.ndarray, steps: int = 2) -> float:
    """Upper bound, sharp near a resonance, of min |μ| over the eigenvalues of A x = μ M x, M = ∫ k² u v.

    A relative change of k² by μ makes the problem singular: the digits of k needed to know u at all are about −log₁₀ μ.
    Inverse iteration from `start`; cost: `steps` solves.
    """
    x, distance = start, np.inf
    for _ in range(steps):
        product = reaction @ x
        size = float(np.sqrt(abs(np.vdot(x, product))))
        if not (np.isfinite(size) and size > 0):
            break
        x = solve(product / size)
        grown = float(np.sqrt(abs(np.vdot(x, reaction @ x))))
        distance = min(distance, 1.0 / grown) if grown > 0 else distance
    return distance


def _points(basis: Any) -> np.ndarray:
    x = np.asarray(basis.global_coordinates())
    return x.reshape(2, -1).T


def hat_averages(start: float, end: float, x: Sequence[float]) -> np.ndarray:
    """Mean of the indicator of [start, end] against each hat function of equally spaced nodes x: ∫ 1 φ_i / ∫ φ_i."""
    nodes = np.array(x, dtype=np.float64)
    h = nodes[1] - nodes[0]

    def below(place: float) -> np.ndarray:
        """∫ φ_i / h up to a place on the axis, with both sides of every hat."""
        t = np.clip((np.clip(place, nodes[0], nodes[-1]) - nodes) / h, -1.0, 1.0)
        return np.where(t < 0, 0.5 * (1 + t) ** 2, 1 - 0.5 * (1 - t) ** 2)

    whole = np.ones_like(nodes)
    whole[[0, -1]] = 0.5  # half a hat at the ends
    return (below(end) - below(start)) / whole

"""Waves by finite elements: scikit-fem assembles, sparse products in torch step."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.wave_fd import held
from sciops.numerics.wave_leapfrog import FACES, WaveSystem

ELEMENTS = ("q1", "p1")


def element_system(
    stiffness: Float[Tensor, "n cx cy"],
    spacing: Sequence[float],
    sides: Mapping[str, str],
    density: float = 1.0,
    damping: float = 0.0,
    element: str = "q1",
) -> WaveSystem:
    """ρ u_tt − ∇·(μ ∇u) + η u_t = f with bilinear (q1) or linear (p1) elements on the cells of a rectangle.

    M and C are lumped by row sums, K is exact (μ is constant on each cell; p1 halves every cell into two triangles).
    One matrix of the pattern of the mesh for a shared medium, a block-diagonal one of all cases otherwise.
    q1 couples nine nodes and allows longer steps than five points do, dt ≤ h/c; its leading error has the same order
    and another constant. p1 on this mesh has the stiffness of the five-point scheme. λ_max is bounded by the largest
    eigenvalue of one element. Cost a step: 9 N multiplications in a sparse product. Assembly: element
    matrices once, their weighted sum for each case.
    Reference: Hughes, The Finite Element Method (1987), chapters 7 and 9.
    """
    from skfem import Basis, BilinearForm, ElementQuad1, ElementTriP1, FacetBasis, MeshQuad, MeshTri

    if element not in ELEMENTS:
        raise UsageError(f"element must be one of {', '.join(ELEMENTS)}; got '{element}'.")
    hx, hy = spacing
    cx, cy = stiffness.shape[1:]
    nx, ny = cx + 1, cy + 1
    kind: Any = MeshQuad if element == "q1" else MeshTri
    mesh = kind.init_tensor(np.arange(nx) * hx, np.arange(ny) * hy)
    local: Any = ElementQuad1() if element == "q1" else ElementTriP1()
    # scikit-fem numbers nodes and elements in its own way: find the place of each on the grid.
    node = np.rint(mesh.p[0] / hx).astype(int) * ny + np.rint(mesh.p[1] / hy).astype(int)
    centre = mesh.p[:, mesh.t].mean(1)
    cell = np.minimum((centre[0] / hx).astype(int), cx - 1) * cy + np.minimum((centre[1] / hy).astype(int), cy - 1)
    cells = stiffness.detach().double().cpu().reshape(len(stiffness), -1).numpy()

    def entries(form: Any, basis: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows and columns on the grid, and the entries of all element matrices, element by element fastest."""
        found = BilinearForm(form).coo_data(basis)
        return node[found.indices[0]], node[found.indices[1]], found.data

    def gradients(u: Any, v: Any, w: Any) -> Any:
        return u.grad[0] * v.grad[0] + u.grad[1] * v.grad[1]

    def product(u: Any, v: Any, w: Any) -> Any:
        return u * v

    basis = Basis(mesh, local)
    rows, columns, unit = entries(gradients, basis)
    matrices = _matrices(rows, columns, unit, [np.tile(c[cell], len(unit) // len(cell)) for c in cells], nx * ny)
    rows, _, unit = entries(product, basis)
    mass = density * np.bincount(rows, unit, nx * ny).reshape(nx, ny)
    absorbed = np.zeros((len(cells), nx * ny))
    for k, face in enumerate(FACES):
        if sides.get(face, "dirichlet") == "absorbing":
            end = (0.0, cx * hx, 0.0, cy * hy)[k]
            facets = mesh.facets_satisfying(lambda x, a=k // 2, b=end: np.abs(x[a] - b) < 1e-9, boundaries_only=True)
            rows, _, unit = entries(product, FacetBasis(mesh, local, facets=facets))
            beside = np.tile(cell[mesh.f2t[0, facets]], len(unit) // len(facets))
            for total, c in zip(absorbed, cells, strict=True):
                total += np.bincount(rows, unit * np.sqrt(density * c[beside]), nx * ny)
    lumped, free = torch.as_tensor(mass).to(stiffness), held(nx, ny, sides, stiffness)
    rate = damping / density + torch.as_tensor(absorbed.reshape(-1, nx, ny)).to(stiffness) / lumped
    largest = element_limit(float(stiffness.amax()) / density, spacing, element)
    product_with = _sparse(matrices, stiffness)
    inverse = -free / lumped

    def restore(u: Tensor) -> Tensor:
        return product_with(u.flatten(1)).reshape(u.shape) * inverse

    return WaveSystem(restore, rate * free, lumped, free, density, largest)


def _matrices(
    rows: np.ndarray, columns: np.ndarray, unit: np.ndarray, weights: list[np.ndarray], size: int
) -> list[Any]:
    """One CSR matrix a case, all of one pattern: the sum of unit · weight over equal places."""
    from scipy.sparse import csr_matrix

    places, inverse = np.unique(rows * size + columns, return_inverse=True)
    starts = np.searchsorted(places // size, np.arange(size + 1))
    return [csr_matrix((np.bincount(inverse, unit * w), places % size, starts), shape=(size, size)) for w in weights]


def _sparse(matrices: list[Any], like: Tensor) -> Callable[[Tensor], Tensor]:
    """(n, N) ↦ rows times K: one matrix for all cases, or all matrices on the diagonal of one. SciPy multiplies on the
    host, three times as fast as torch does there; torch elsewhere."""
    from scipy.sparse import block_diag

    alone = len(matrices) == 1
    joined = (matrices[0] if alone else block_diag(matrices, format="csr")).astype(str(like.dtype).rpartition(".")[2])
    if like.device.type == "cpu":
        if alone:
            return lambda u: torch.from_numpy(np.ascontiguousarray((joined @ u.detach().numpy().T).T))
        return lambda u: torch.from_numpy(joined @ u.detach().numpy().reshape(-1)).reshape(u.shape)
    with warnings.catch_warnings():  # torch says once a process that the format is in beta
        warnings.simplefilter("ignore")
        places = torch.as_tensor(joined.indptr), torch.as_tensor(joined.indices)
        csr = torch.sparse_csr_tensor(
            *places, torch.as_tensor(joined.data), joined.shape, device=like.device, check_invariants=True
        )
    if alone:
        return lambda u: (csr @ u.T).T
    return lambda u: (csr @ u.reshape(-1, 1)).reshape(u.shape)


def element_limit(top: float, spacing: Sequence[float], element: str = "q1") -> float:
    """The largest step that one element's M⁻¹K allows where μ/ρ ≤ top, which bounds that of the whole mesh."""
    hx, hy = spacing
    if element == "p1":
        x = np.array([[0.0, 0.0], [hx, 0.0], [0.0, hy]])
        slopes = np.linalg.inv(np.column_stack([np.ones(3), x]))[1:]
        matrix, share = hx * hy / 2 * slopes.T @ slopes, hx * hy / 6
    else:
        line, tent = np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([[2.0, 1.0], [1.0, 2.0]]) / 6
        matrix, share = hy / hx * np.kron(line, tent) + hx / hy * np.kron(tent, line), hx * hy / 4
    return 2 * float(np.linalg.eigvalsh(matrix).max() * top / share) ** -0.5

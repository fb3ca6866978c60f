"""Steady flow in the lid-driven unit square by Newton's method on the stream function of a staggered grid."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from sciops.core.errors import UsageError


@dataclass(frozen=True)
class CavityFlow:
    """u on vertical cell faces (n+1, n), v on horizontal ones (n, n+1), p in cells (n, n); walls included.

    Points between are reached by cubic splines through the values of their own places and those of the walls. p has
    zero mean. In the two upper corners the velocity jumps and p is infinite: values within a few cells of them depend
    on the grid. `residual` is the largest momentum residual relative to the largest term.
    """

    reynolds: float
    u: Float[np.ndarray, "m n"]
    v: Float[np.ndarray, "n m"]
    p: Float[np.ndarray, "n n"]
    residual: float

    @property
    def cells(self) -> int:
        return len(self.p)

    def at(self, x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N 3"]:
        """(u, v, p) at points."""
        from scipy.interpolate import RectBivariateSpline

        n = self.cells
        nodes, middle = np.linspace(0, 1, n + 1), (np.arange(n) + 0.5) / n
        walled = np.concatenate([[0.0], middle, [1.0]])
        lid = np.ones((n + 1, 1))
        lid[[0, -1]] = 0.0
        u = np.concatenate([np.zeros((n + 1, 1)), self.u, lid], 1)
        v = np.concatenate([np.zeros((1, n + 1)), self.v, np.zeros((1, n + 1))], 0)
        places = ((nodes, walled, u), (walled, nodes, v), (middle, middle, self.p))
        return np.stack([RectBivariateSpline(*place).ev(x, y) for place in places], -1)


def solve_cavity(
    reynolds: float, cells: int = 128, start: CavityFlow | None = None, tol: float = 1e-11, maxiter: int = 30
) -> CavityFlow:
    """Steady (u·∇)u + ∇p = Δu/Re, ∇·u = 0 in the unit square, u = (1, 0) on the lid y = 1, 0 on the other walls.

    Conservative central differences on a staggered grid with `cells`² cells, order 2. Velocities of zero divergence
    are curls u = Cψ of a stream function in the inner corners, so CᵀR(Cψ) = 0 for the momentum residual R determines ψ
    without the pressure; Newton's method with a direct factorisation solves it, started from `start` or from Stokes
    flow. p follows from GᵀG p = −GᵀR. Needs steps in Re by a factor of about three (`sweep_cavity`).
    Cost: a factorisation of cells² unknowns with 13 entries a row per iteration. Raises UsageError where the
    iteration does not converge.
    """
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    if not (reynolds > 0 and cells >= 4):
        raise UsageError(f"solve_cavity needs reynolds > 0 and cells ≥ 4; got {reynolds} and {cells}.")
    n, h, nu = cells, 1.0 / cells, 1.0 / reynolds
    ones = np.ones(n)
    D = sp.diags([-ones[:-1] / h, ones / h], [0, 1], shape=(n - 1, n), format="csr")  # cells → inner nodes
    A = sp.diags([ones[:-1] / 2, ones / 2], [0, 1], shape=(n - 1, n), format="csr")  # the same, mean
    cell, node = sp.identity(n, format="csr"), sp.identity(n - 1, format="csr")
    ends = np.zeros(n)
    ends[[0, -1]] = 2 / h**2
    across, along = D @ D.T, D.T @ D + sp.diags(ends)  # −∂² between walls at nodes, and half a cell from them
    Lu = sp.kron(across, cell) + sp.kron(node, along)
    Lv = sp.kron(cell, across) + sp.kron(along, node)
    lid = np.zeros((n - 1, n))
    lid[:, -1] = 2 / h**2
    u_cell, v_cell = sp.kron(A.T, cell).tocsr(), sp.kron(cell, A.T).tocsr()
    u_node, v_node = sp.kron(node, A).tocsr(), sp.kron(A, node).tocsr()
    dx_u, dy_u = sp.kron(D, cell).tocsr(), sp.kron(node, -D.T).tocsr()
    dy_v, dx_v = sp.kron(cell, D).tocsr(), sp.kron(-D.T, node).tocsr()
    C = sp.vstack([sp.kron(node, -D.T), sp.kron(D.T, node)]).tocsr()
    G = sp.vstack([dx_u, dy_v]).tocsr()
    viscous, split = nu * sp.block_diag([Lu, Lv]).tocsr(), (n - 1) * n
    wall = nu * np.concatenate([lid.ravel(), np.zeros(split)])

    def advection(w: np.ndarray) -> tuple[np.ndarray, Any]:
        """∇·(u ⊗ u) and its derivative."""
        u, v = w[:split], w[split:]
        uc, vc, un, vn = u_cell @ u, v_cell @ v, u_node @ u, v_node @ v
        value = np.concatenate([dx_u @ uc**2 + dy_u @ (un * vn), dy_v @ vc**2 + dx_v @ (un * vn)])
        diag = sp.diags
        slope = sp.bmat(
            [
                [dx_u @ diag(2 * uc) @ u_cell + dy_u @ diag(vn) @ u_node, dy_u @ diag(un) @ v_node],
                [dx_v @ diag(vn) @ u_node, dy_v @ diag(2 * vc) @ v_cell + dx_v @ diag(un) @ v_node],
            ]
        )
        return value, slope

    def newton(w: np.ndarray, inertia: bool) -> np.ndarray:
        value, slope = advection(w) if inertia else (0.0, 0.0 * viscous)
        r = value + viscous @ w - wall
        J = (C.T @ (slope + viscous) @ C).tocsc()
        return w - C @ splu(J, permc_spec="MMD_AT_PLUS_A").solve(C.T @ r)

    if start is None:
        w = newton(np.zeros(2 * split), inertia=False)
    else:
        if start.cells != n:
            raise UsageError(f"solve_cavity starts from a flow on the same grid; got {start.cells} cells, not {n}.")
        w = np.concatenate([start.u[1:-1].ravel(), start.v[:, 1:-1].ravel()])
    size = np.abs(C.T @ wall).max()
    for _ in range(maxiter):
        w = newton(w, inertia=True)
        r = advection(w)[0] + viscous @ w - wall
        residual = float(np.abs(C.T @ r).max() / size)
        if not np.isfinite(residual) or residual > 1e6 or residual < tol:
            break
    if not residual < max(tol, 1e-9):
        raise UsageError(
            f"solve_cavity: Newton's method stopped at residual {residual:.1e} for Re {reynolds:g} on {n}² cells; "
            "start from the flow at a lower Reynolds number."
        )
    poisson = (G.T @ G).tocsc()
    p = np.zeros(n * n)
    p[1:] = splu(poisson[1:, 1:], permc_spec="MMD_AT_PLUS_A").solve(-(G.T @ r)[1:])
    u, v = np.zeros((n + 1, n)), np.zeros((n, n + 1))
    u[1:-1], v[:, 1:-1] = w[:split].reshape(n - 1, n), w[split:].reshape(n, n - 1)
    return CavityFlow(float(reynolds), u, v, (p - p.mean()).reshape(n, n), residual)


def sweep_cavity(reynolds: list[float], cells: int = 128, factor: float = 3.0) -> dict[float, CavityFlow]:
    """Flows at several Reynolds numbers, each started from the one before, by steps in between where they are far."""
    found: dict[float, CavityFlow] = {}
    last: CavityFlow | None = None
    for target in sorted(set(reynolds)):
        while last is not None and target > factor * last.reynolds:
            last = solve_cavity(factor * last.reynolds, cells, last)
        if last is None and target > 200:
            last = solve_cavity(100.0, cells)
            while target > factor * last.reynolds:
                last = solve_cavity(factor * last.reynolds, cells, last)
        last = found[target] = solve_cavity(target, cells, last)
    return found

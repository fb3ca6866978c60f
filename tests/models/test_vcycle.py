"""The V-cycle with textbook kernels is a textbook V-cycle; with any kernels it is linear and has the right adjoint."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sciops.models.boundary import CIRCULAR, REFLECT, REPLICATE, ZEROS
from sciops.models.vcycle import Geometry, VCycle

POINT5 = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]], dtype=torch.float64)
WEIGHTING = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64) / 16
OMEGA, LEVELS, SWEEPS = 0.8, 5, 40
CASES = {ZEROS: (63, 0, 1 / 64), CIRCULAR: (64, 1, 1 / 64), REFLECT: (65, 1, 1 / 64)}  # mode: points, transfer pad, h


def textbook(mode: str) -> VCycle:
    """V(2,2) for −Δ: damped Jacobi, full weighting, bilinear interpolation."""
    _, pad, h = CASES[mode]
    geometry = Geometry((mode, mode), (3,) * (LEVELS - 1), transfer_pad=pad)
    cycle = VCycle(1, 1, [(2, 2)] * (LEVELS - 1) + [(SWEEPS, 0)], geometry, restrict_residual=True).double()
    with torch.no_grad():
        for level in range(LEVELS):
            spacing = h * 2**level
            for A in [*cycle.A[level], *([cycle.defect[level]] if level < LEVELS - 1 else [])]:
                A.weight.copy_(POINT5 / spacing**2)
            for S in cycle.S[level]:
                S.weight.zero_()
                S.weight[0, 0, 1, 1] = OMEGA * spacing**2 / 4
            if level < LEVELS - 1:
                cycle.R[level].weight.copy_(WEIGHTING)
                cycle.T[level].weight.copy_(4 * WEIGHTING)
    return cycle


def second_difference(n: int, mode: str) -> sp.csr_matrix:
    d = sp.diags([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], [-1, 0, 1]).tolil()
    if mode == REFLECT:
        d[0, 1] = d[n - 1, n - 2] = -2
    if mode == CIRCULAR:
        d[0, n - 1] = d[n - 1, 0] = -1
    return d.tocsr()


def transfers(n: int, mode: str) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """1-D full weighting and linear interpolation between n points and the next level."""
    first = 1 if mode == ZEROS else 0
    m = (n - 1) // 2 if mode == ZEROS else (n + 1) // 2
    R, P = sp.lil_matrix((m, n)), sp.lil_matrix((n, m))
    for i in range(m):
        for offset, weight in ((-1, 0.25), (0, 0.5), (1, 0.25)):
            j = 2 * i + first + offset
            if mode == CIRCULAR:
                j %= n
            inside = 0 <= j < n
            if inside:
                P[j, i] += 2 * weight  # each fine point is interpolated from its coarse neighbours
            if not inside and mode == REFLECT:
                j = -j if j < 0 else 2 * (n - 1) - j
                inside = True
            if inside:
                R[i, j] += weight
    return R.tocsr(), P.tocsr()


def matrix_cycle(f: np.ndarray, n: int, h: float, mode: str, level: int = 0) -> np.ndarray:
    D, eye = second_difference(n, mode), sp.identity(n)
    A = (sp.kron(D, eye) + sp.kron(eye, D)).tocsr() / h**2
    u, damp = np.zeros_like(f), OMEGA * h**2 / 4
    for _ in range(SWEEPS if level == LEVELS - 1 else 2):
        u = u + damp * (f - A @ u)
    if level == LEVELS - 1:
        return u
    R, P = transfers(n, mode)
    coarse = matrix_cycle(sp.kron(R, R) @ (f - A @ u), R.shape[0], 2 * h, mode, level + 1)
    u = u + sp.kron(P, P) @ coarse
    for _ in range(2):
        u = u + damp * (f - A @ u)
    return u


@pytest.mark.parametrize("mode", list(CASES))
def test_equals_sparse_matrix_vcycle(mode: str) -> None:
    n, _, h = CASES[mode]
    f = torch.randn(1, 1, n, n, dtype=torch.float64)
    f = f - f.mean() if mode == CIRCULAR else f
    ours = textbook(mode)(f).detach().numpy().ravel()
    expected = matrix_cycle(f.numpy().ravel(), n, h, mode)
    assert np.linalg.norm(ours - expected) <= 2e-14 * np.linalg.norm(expected)


def residuals(mode: str, cycles: int) -> list[float]:
    """Relative residuals of u ← u + V(f − A u) for random data."""
    n, _, h = CASES[mode]
    D, eye = second_difference(n, mode), sp.identity(n)
    A = (sp.kron(D, eye) + sp.kron(eye, D)).tocsr() / h**2
    f = torch.randn(n * n, dtype=torch.float64).numpy()
    f = f - f.mean() if mode == CIRCULAR else f
    cycle, u, norms = textbook(mode), np.zeros_like(f), []
    for _ in range(cycles):
        r = torch.from_numpy(f - A @ u).view(1, 1, n, n)
        u = u + cycle(r).detach().numpy().ravel()
        norms.append(float(np.linalg.norm(f - A @ u) / np.linalg.norm(f)))
    return norms


def test_residual_falls_at_the_textbook_rate() -> None:
    assert residuals(ZEROS, 4) == pytest.approx([0.065, 0.0088, 0.0013, 2.1e-4], rel=0.2)
    assert residuals(CIRCULAR, 4)[-1] < 1e-3


def random_cycle(mode: str = ZEROS, kernel: int = 3, **options: object) -> VCycle:
    geometry = Geometry((mode, mode), (kernel,) * 3, kernel)
    return VCycle(2, 3, [(1, 0), (1, 1), (0, 1), (2, 0)], geometry, **options).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [ZEROS, REFLECT, CIRCULAR])
@pytest.mark.parametrize("kernel", [3, 4])
@pytest.mark.parametrize("restrict_residual", [True, False])
def test_linear_and_adjoint(mode: str, kernel: int, restrict_residual: bool) -> None:
    W = random_cycle(mode, kernel, restrict_residual=restrict_residual)
    f, g = torch.randn(2, 1, 2, 21, 24, dtype=torch.float64).unbind()
    combined = W(2 * f - 3 * g)
    assert torch.linalg.vector_norm(combined - 2 * W(f) + 3 * W(g)) <= 1e-12 * torch.linalg.vector_norm(combined)
    u, pull = torch.func.vjp(W, f)
    v = torch.randn_like(u)
    assert torch.sum(W(g) * v).item() == pytest.approx(torch.sum(g * pull(v)[0]).item(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("mode", [ZEROS, CIRCULAR])
def test_self_adjoint_with_symmetric_parts(mode: str) -> None:
    """T = Rᵀ, S = Sᵀ, A = Aᵀ and equal pre- and post-smoothing make W = Wᵀ."""
    c = 3
    W = VCycle(c, c, [(1, 1), (1, 1), (2, 0)], Geometry((mode, mode), (3, 3)), restrict_residual=True).double()
    with torch.no_grad():
        for level in range(3):
            A, S = (0.2 * torch.randn(c, c, 3, 3, dtype=torch.float64) for _ in range(2))
            A, S = (w + w.transpose(0, 1).flip(2, 3) for w in (A, S))
            for part in [*W.A[level], *([W.defect[level]] if level < 2 else [])]:
                part.weight.copy_(A)
            for part in W.S[level]:
                part.weight.copy_(S)
            if level < 2:
                W.T[level].weight.copy_(W.R[level].weight)
    f, g = torch.randn(2, 1, c, 16, 16, dtype=torch.float64).unbind()
    left, right = torch.sum(W(f) * g).item(), torch.sum(f * W(g)).item()
    assert left == pytest.approx(right, rel=1e-12)
    with torch.no_grad():
        W.T[0].weight[0, 0, 0, 0] += 0.5
    assert abs(torch.sum(W(f) * g).item() - torch.sum(f * W(g)).item()) > 1e-6


def test_bias_makes_it_affine() -> None:
    W = random_cycle(bias=True)
    zero = torch.zeros(1, 2, 16, 16, dtype=torch.float64)
    assert W(zero).abs().max() > 1e-3
    assert random_cycle()(zero).abs().max() == 0


def test_levels_without_smoothing_are_refused() -> None:
    with pytest.raises(ValueError, match="coarsest"):
        VCycle(1, 1, [(1, 0), (0, 0)], Geometry((ZEROS, ZEROS), (3,)))
    with pytest.raises(ValueError, match="one \\(pre, post\\) pair per level"):
        VCycle(1, 1, [(1, 0)] * 3, Geometry((ZEROS, ZEROS), (3,)))


def interpolant(mode: str, kernel: int, f: torch.Tensor) -> torch.Tensor:
    """Down and up once, nothing else: sampling and linear interpolation (3), or cell means and copies (4)."""
    W = VCycle(1, 1, [(0, 0), (1, 0)], Geometry((mode,), (kernel,), kernel)).double().requires_grad_(False)
    down, up = ([0, 1, 0], [0.5, 1, 0.5]) if kernel == 3 else ([0, 0.5, 0.5, 0], [0, 1, 1, 0])
    W.S[1][0].weight.copy_(torch.tensor([0, 1, 0]))
    W.R[0].weight.copy_(torch.tensor(down))
    W.T[0].weight.copy_(torch.tensor(up))
    return W(f.double().view(1, 1, -1)).flatten()


@pytest.mark.parametrize(("mode", "last"), [(REFLECT, 8.0), (CIRCULAR, 4.0), (ZEROS, 4.0)])
def test_ghosts_of_an_even_node_grid(mode: str, last: float) -> None:
    """Ten nodes, sampled at 0, 2, …, 8: node 9 is the mean of node 8 and the ghost, its mirror image or f(0) = 0."""
    expected = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, last], dtype=torch.float64)
    assert torch.equal(interpolant(mode, 3, torch.arange(10)), expected)


def test_ghosts_of_an_odd_cell_grid() -> None:
    """Nine cells: the fifth coarse cell holds cell 8 and its mirror image."""
    expected = torch.tensor([0.5, 0.5, 2.5, 2.5, 4.5, 4.5, 6.5, 6.5, 8], dtype=torch.float64)
    assert torch.equal(interpolant(REPLICATE, 4, torch.arange(9)), expected)

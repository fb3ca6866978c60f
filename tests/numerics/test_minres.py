"""Minimal residuals on symmetric indefinite systems: the sparse direct answer, minimality, honest endings."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from stencils import graph_laplacian

from sciops.core.errors import NotSPD
from sciops.core.linear import FunctionOperator, LinearSolution, Status
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.flexible_cg import Apply
from sciops.numerics.krylov import ConjugateGradients, Jacobi
from sciops.numerics.minres import Minres
from sciops.numerics.multigrid import Multigrid


def helmholtz(shape: tuple[int, ...], shift: float, n: int = 3) -> tuple[StencilOperator, StencilOperator]:
    """(−Δ − shift with rough weights, which is indefinite, and −Δ)."""
    laplacian = graph_laplacian(shape, "dirichlet", 0.3, seed=0, n=n)
    stencil = laplacian.stencil.clone()
    stencil[:, stencil.shape[1] // 2] -= shift
    return StencilOperator(stencil, (False,) * len(shape)), laplacian


def run(solver: Any, A: Any, b: torch.Tensor, **options: Any) -> LinearSolution:
    return solver.solve(solver.setup(A), b, **options)


def direct(A: StencilOperator, b: torch.Tensor) -> torch.Tensor:
    rows = [scipy.sparse.linalg.spsolve(A.to_scipy(i).tocsc(), b[i].flatten().numpy()) for i in range(A.n)]
    return torch.from_numpy(np.stack(rows)).reshape(b.shape)


@pytest.mark.parametrize("kind", ["none", "jacobi", "multigrid"])
def test_indefinite_systems_agree_with_a_direct_solver(kind: str) -> None:
    A, laplacian = helmholtz((16, 15), 0.7)
    eigenvalues = np.linalg.eigvalsh(A.to_scipy(0).toarray())
    assert eigenvalues.min() < 0 < eigenvalues.max()
    assert A.tags == {"symmetric"}
    preconditioner = {"none": None, "jacobi": Jacobi(), "multigrid": Apply(Multigrid().setup(laplacian))}[kind]
    b = torch.randn((3, 16, 15), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = run(Minres(preconditioner), A, b, tol=1e-10, maxiter=1500)
    expected = direct(A, b)
    assert found.status == [Status.OK] * 3
    assert float(found.residual.max()) <= 1e-10
    assert float((found.x - expected).abs().max()) < 1e-7 * float(expected.abs().max())
    true = (b - A.matvec(found.x)).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)
    assert torch.allclose(true, found.residual, rtol=1e-6)


def test_every_residual_is_the_smallest_in_its_krylov_space() -> None:
    A, _ = helmholtz((9, 8), 0.7, n=1)
    b = torch.randn((1, 9, 8), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    matrix, rhs = A.to_scipy(0), b.flatten().numpy()
    found = run(Minres(), A, b, tol=1e-30, maxiter=15)
    basis = [rhs / np.linalg.norm(rhs)]
    for step in range(1, 15):
        K = np.linalg.qr(np.stack(basis, 1))[0]
        image = matrix @ K
        y = np.linalg.lstsq(image, rhs, rcond=None)[0]
        smallest = np.linalg.norm(rhs - image @ y) / np.linalg.norm(rhs)
        assert abs(float(found.history[step, 0]) / smallest - 1) < 1e-7
        basis.append(matrix @ K[:, -1])


def test_definite_systems_and_null_spaces() -> None:
    A = graph_laplacian((15, 14), "neumann", 0.5, seed=1, n=1)
    b = torch.randn((3, 15, 14), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    many = run(Minres(Jacobi()), A, b, tol=1e-9)  # one matrix, three right-hand sides
    expected = run(ConjugateGradients(Jacobi()), A, b, tol=1e-11)
    assert many.status == [Status.OK] * 3
    assert torch.allclose(many.x, expected.x, atol=1e-6 * float(expected.x.abs().max()))
    assert float(many.stats["projected"].min()) > 0
    start = run(Minres(), A, b, x0=expected.x, tol=1e-9)
    assert start.iterations.tolist() == [0, 0, 0]


def test_a_system_does_not_know_its_batch() -> None:
    A, _ = helmholtz((12, 13), 0.7)
    b = torch.randn((3, 12, 13), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    b[1, 3, 3] = torch.nan
    found = run(Minres(), A, b, tol=1e-9)
    assert found.status == [Status.OK, Status.NONFINITE, Status.OK]
    assert "right-hand side" in found.stats["advice"][1]
    alone = run(Minres(), A.select(torch.tensor([2])), b[2:], tol=1e-9)
    assert torch.equal(alone.x[0], found.x[2])


def test_what_cannot_work_says_so() -> None:
    A, _ = helmholtz((12, 12), 0.7)
    b = torch.randn((3, 12, 12), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    sign = torch.ones(12, 12, dtype=torch.float64)
    sign[0] = -1.0
    wrong = run(Minres(Apply(lambda r: r * sign)), A, b)
    assert Status.OK not in wrong.status or float(wrong.residual.max()) <= 1e-8
    assert any("not symmetric positive definite" in advice for advice in wrong.stats["advice"])
    tight = run(Minres(), A, b, tol=1e-18, maxiter=3000)
    assert tight.status == [Status.MAX_ITER] * 3
    assert all("rounding" in advice for advice in tight.stats["advice"])
    assert int(tight.iterations.max()) < 3000
    with pytest.raises(NotSPD, match="FGMRES"):
        Minres().setup(FunctionOperator(lambda x: x, 1, (3, 3), torch.float64))

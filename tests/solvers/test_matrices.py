"""SciPy matrices in, NumPy arrays out: every kind of matrix against a direct solver, our M inside SciPy's cg."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch

from sciops.core.errors import NotSPD, UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.linear import Status
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.compiled.aggregation import AggregationMultigrid
from sciops.numerics.compiled.box_multigrid import BoxMultigrid
from sciops.numerics.flexible_cg import FlexibleCG
from sciops.numerics.krylov import ConjugateGradients
from sciops.numerics.multigrid import Multigrid
from sciops.solvers.matrices import MatrixOperator, as_operator, as_preconditioner, solve

N = 24


def line(kind: str, n: int = N) -> sp.lil_matrix:
    T = sp.diags([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], [-1, 0, 1]).tolil()
    if kind == "neumann":
        T[0, 0] = T[-1, -1] = 1
    if kind == "periodic":
        T[0, -1] = T[-1, 0] = -1
    return T


def laplacian(kind: str, n: int = N) -> sp.csr_matrix:
    T = line(kind, n)
    return (sp.kron(T, sp.eye(n)) + sp.kron(sp.eye(n), T)).tocsr()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize("columns", [0, 3])
@pytest.mark.parametrize("linear", [None, FlexibleCG(Multigrid()), ConjugateGradients(Multigrid())])
def test_definite_matrices_of_a_grid(linear: Any, columns: int) -> None:
    A = laplacian("dirichlet")
    b = noise(N * N, columns) if columns else noise(N * N)
    x, info = solve(A, b, linear, shape=(N, N), tol=1e-10)
    assert x.shape == b.shape
    assert info.status == [Status.OK] * max(columns, 1)
    assert np.abs(x - sla.spsolve(A.tocsc(), b)).max() < 1e-7
    if linear is not None:
        assert int(info.iterations.max()) < 12
    _, info = solve(A, b, linear, shape=(N, N), x0=x, tol=1e-9)
    assert int(info.iterations.max()) == 0


def test_what_a_matrix_is_is_read_off_its_entries() -> None:
    dirichlet, neumann, periodic = (as_operator(laplacian(k), (N, N)) for k in ("dirichlet", "neumann", "periodic"))
    for A in (dirichlet, neumann, periodic):
        assert isinstance(A, StencilOperator)
        assert A.tags == {"symmetric", "positive"}
    assert dirichlet.nullspace is None
    assert neumann.nullspace == periodic.nullspace == "constant"
    assert isinstance(periodic, StencilOperator)
    assert periodic.periodic == (True, True)
    for kind, A in (("dirichlet", dirichlet), ("neumann", neumann), ("periodic", periodic)):
        assert abs(A.to_scipy() - laplacian(kind)).max() == 0
    shifted = laplacian("dirichlet") - 0.5 * sp.eye(N * N)
    assert as_operator(shifted).tags == {"symmetric"}
    assert as_operator(shifted, tags={"symmetric", "positive"}).tags == {"symmetric", "positive"}
    upwind = laplacian("dirichlet") + sp.diags([np.ones(N * N - 1)], [1])
    assert as_operator(upwind).tags == frozenset()
    far = laplacian("dirichlet") + sp.diags([np.ones(N * N)], [0]) + _pair(0, 300)
    assert type(as_operator(far, (N, N))) is MatrixOperator
    dense = as_operator(laplacian("dirichlet").toarray(), (N, N))
    assert isinstance(dense, StencilOperator)
    third = as_operator(sp.kron(laplacian("neumann", 5), sp.eye(4)).tocsr(), (5, 5, 4))
    x = torch.from_numpy(noise(1, 5, 5, 4))
    expected = sp.kron(laplacian("neumann", 5), sp.eye(4)) @ x.flatten().numpy()
    assert np.abs(third.matvec(x).flatten().numpy() - expected).max() < 1e-13


def _pair(i: int, j: int) -> sp.csr_matrix:
    return sp.csr_matrix(([-0.1, -0.1, 0.1, 0.1], ([i, j, i, j], [j, i, i, j])), shape=(N * N, N * N))


@pytest.mark.parametrize("shape", [None, (N, N)])
def test_singular_and_empty_parts_are_projected_and_noted(shape: Any) -> None:
    A = laplacian("neumann").tolil()
    i = N * 10 + 10
    for j in (i - 1, i + 1, i - N, i + N):  # an isolated cell
        A[i, j] = A[j, i] = 0
        A[j, j] -= 1
    A[i, i] = 0
    operator = as_operator(A.tocsr(), shape)
    assert type(operator) is (FaceOperator if shape else MatrixOperator)
    assert operator.nullspace == "components"
    assert abs(operator.to_scipy() - A).max() == 0
    b = noise(N * N)
    x, info = solve(operator, b, tol=1e-10)
    assert info.status == [Status.OK]
    assert x[i] == 0
    rest = np.arange(N * N) != i
    assert abs(x[rest].mean()) < 1e-12
    assert np.abs((A @ x)[rest] - (b[rest] - b[rest].mean())).max() < 1e-8
    share = np.sqrt(b[i] ** 2 + rest.sum() * b[rest].mean() ** 2) / np.linalg.norm(b)
    assert float(info.stats["projected"]) == pytest.approx(share)


def test_indefinite_unsymmetric_and_matrix_free() -> None:
    b = noise(N * N)
    for A in (
        (laplacian("dirichlet") - 0.5 * sp.eye(N * N)).tocsc(),
        (laplacian("dirichlet") + sp.diags([0.5 * np.ones(N * N - 1)], [1])).tocsc(),
    ):
        x, info = solve(A, b, tol=1e-10, maxiter=3000)
        assert info.status == [Status.OK]
        assert np.abs(x - sla.spsolve(A, b)).max() < 1e-6 * np.abs(x).max()
    with pytest.raises(NotSPD, match="Minres"):
        solve(A, b, ConjugateGradients())
    free = sla.aslinearoperator(laplacian("dirichlet"))
    x, info = solve(as_operator(free, tags={"symmetric", "positive"}), b)
    assert info.status == [Status.OK]
    assert np.linalg.norm(free @ x - b) <= 1.01e-8 * np.linalg.norm(b)


@pytest.mark.parametrize("kind", [Multigrid(), FlexibleCG(Multigrid()), BoxMultigrid("box"), AggregationMultigrid()])
def test_as_m_of_scipys_own_conjugate_gradients(kind: Any) -> None:
    A, b = laplacian("dirichlet", 48), noise(48 * 48)
    counts = []
    for M in (None, as_preconditioner(kind, A, (48, 48), tol=1e-4)):
        steps: list[int] = []
        x, info = sla.cg(A, b, M=M, rtol=1e-8, callback=lambda _, s=steps: s.append(1))
        assert info == 0
        assert np.linalg.norm(A @ x - b) < 1e-7 * np.linalg.norm(b)
        counts.append(len(steps))
    assert counts[1] * 8 < counts[0]


def test_bad_input_is_one_sentence() -> None:
    A = laplacian("dirichlet")
    for wrong, reason in (
        (A[:5], "square matrix"),
        (A * 1j, "complex"),
        (sp.csr_matrix(np.diag([1.0, np.nan])), "NaN"),
    ):
        with pytest.raises(UsageError, match=reason):
            as_operator(wrong)
    with pytest.raises(UsageError, match="does not have the matrix's 576 unknowns"):
        as_operator(A, (5, 5))
    with pytest.raises(UsageError, match=r"shape \(576,\)"):
        solve(A, noise(5))
    b = noise(N * N, 2)
    b[3, 0] = np.nan
    x, info = solve(A, b)
    assert info.status == [Status.NONFINITE, Status.OK]
    assert np.isnan(x[:, 0]).all()
    assert np.abs(A @ x[:, 1] - b[:, 1]).max() < 1e-6

"""Batched conjugate gradients: agreement with SciPy, freezing, statuses, and independence of the batch."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from stencils import coefficient, graph_laplacian, node_dirichlet

from sciops.core.errors import NotSPD, UsageError
from sciops.core.linear import FunctionOperator, Status
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.krylov import ConjugateGradients, Jacobi, Preconditioner
from sciops.numerics.multigrid import Multigrid
from sciops.numerics.reductions import row_sum, tree_sum

METHODS: list[Preconditioner | None] = [None, Jacobi(), Multigrid(), Multigrid(1, 1, precision=torch.float32)]


@pytest.mark.parametrize("jacobi", [False, True])
def test_iterates_equal_those_of_scipy(jacobi: bool) -> None:
    A = graph_laplacian((17, 13), "dirichlet", 1.0, seed=0)
    b = torch.randn((2, 17, 13), dtype=torch.float64)
    solver = ConjugateGradients(Jacobi() if jacobi else None)
    answer = solver.solve(solver.setup(A), b, tol=1e-30, maxiter=15)
    for i in range(2):
        matrix = A.to_scipy(i)
        inverse = scipy.sparse.diags(1 / matrix.diagonal()) if jacobi else None
        expected, _ = scipy.sparse.linalg.cg(matrix, b[i].flatten().numpy(), rtol=0.0, maxiter=15, M=inverse)
        assert np.abs(answer.x[i].flatten().numpy() - expected).max() < 1e-9 * np.abs(expected).max()
    assert answer.status == [Status.MAX_ITER] * 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["dirichlet", "neumann", "periodic"])
def test_solves_to_the_tolerance(method: Preconditioner | None, kind: str) -> None:
    A = graph_laplacian((21, 22), kind, 0.5, seed=1, n=3)
    u = torch.randn((3, 21, 22), dtype=torch.float64)
    if A.nullspace:
        u = u - u.mean(dim=(1, 2), keepdim=True)
    solver = ConjugateGradients(method)
    answer = solver.solve(solver.setup(A), A.matvec(u), tol=1e-11)
    assert answer.status == [Status.OK] * 3
    assert float(answer.residual.max()) <= 1.05e-11
    assert torch.allclose(answer.x, u, atol=1e-8)
    true = (A.matvec(u) - A.matvec(answer.x)).flatten(1).norm(dim=1) / A.matvec(u).flatten(1).norm(dim=1)
    assert torch.allclose(true, answer.residual, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["dirichlet", "periodic"])
def test_a_system_does_not_know_its_batch(method: Preconditioner | None, kind: str) -> None:
    shape = (45, 38)
    A = graph_laplacian(shape, kind, 0.7, seed=2, n=7)
    b = A.matvec(torch.randn((7, *shape), dtype=torch.float64))
    b[3] *= 1e-3
    solver = ConjugateGradients(method)
    together = solver.solve(solver.setup(A), b, tol=1e-9)
    in_groups = ConjugateGradients(method, block=2 * 45 * 38)
    grouped = in_groups.solve(in_groups.setup(A), b, tol=1e-9)
    assert torch.equal(together.x, grouped.x)
    for i in range(7):
        alone = solver.solve(solver.setup(A.select(torch.tensor([i]))), b[i : i + 1], tol=1e-9)
        assert torch.equal(alone.x[0], together.x[i])
        assert int(alone.iterations[0]) == int(together.iterations[i])


def test_sums_do_not_depend_on_the_rows_around() -> None:
    values = torch.randn((9, 5003), dtype=torch.float64)
    for total in (row_sum, tree_sum):
        together = total(values)
        assert torch.allclose(together, values.sum(1), atol=1e-11)
        for i in range(9):
            assert torch.equal(total(values[i : i + 1])[0], together[i])
            assert torch.equal(total(values[i:])[0], together[i])


def test_a_converged_system_is_frozen() -> None:
    A = node_dirichlet(coefficient("rough", 33, n=2), 1 / 32)
    b = torch.ones((2, *A.space), dtype=torch.float64)
    solver = ConjugateGradients(Multigrid())
    state = solver.setup(A)
    exact = solver.solve(state, b, tol=1e-13).x
    start = exact.clone()
    start[1] = 0.0
    answer = solver.solve(state, b, start, tol=1e-8)
    assert answer.iterations[0] == 0 and answer.iterations[1] > 3
    assert torch.equal(answer.x[0], exact[0])
    assert torch.equal(answer.history[:, 0], answer.history[:1, 0].expand(len(answer.history)))


def test_warm_start_saves_iterations() -> None:
    A = node_dirichlet(coefficient("smooth", 65, n=2), 1 / 64)
    b = torch.ones((2, *A.space), dtype=torch.float64)
    solver = ConjugateGradients(Multigrid())
    state = solver.setup(A)
    cold = solver.solve(state, b, tol=1e-10)
    warm = solver.solve(state, b, cold.x * (1 + 1e-5), tol=1e-10)
    assert int(warm.iterations.max()) < int(cold.iterations.min())


@pytest.mark.parametrize("method", METHODS)
def test_nan_stays_in_its_own_system(method: Preconditioner | None) -> None:
    A = node_dirichlet(coefficient("smooth", 33, n=3), 1 / 32)
    b = torch.ones((3, *A.space), dtype=torch.float64)
    solver = ConjugateGradients(method)
    clean = solver.solve(solver.setup(A), b, tol=1e-9)
    b[1, 4, 4] = float("nan")
    answer = solver.solve(solver.setup(A), b, tol=1e-9)
    assert answer.status == [Status.OK, Status.NONFINITE, Status.OK]
    assert torch.equal(answer.x[[0, 2]], clean.x[[0, 2]])


def test_iteration_limit_and_zero_right_hand_side() -> None:
    A = node_dirichlet(coefficient("smooth", 33, n=2), 1 / 32)
    b = torch.ones((2, *A.space), dtype=torch.float64)
    b[1] = 0.0
    solver = ConjugateGradients(None)
    answer = solver.solve(solver.setup(A), b, tol=1e-12, maxiter=3)
    assert answer.status == [Status.MAX_ITER, Status.OK]
    assert answer.iterations.tolist() == [3, 0]
    assert bool((answer.x[1] == 0).all())


def test_indefinite_system_diverges_as_a_status() -> None:
    shape = (1, 9, 12, 12)
    stencil = torch.zeros(shape, dtype=torch.float64)
    stencil[:, 4] = torch.where(torch.arange(144).reshape(12, 12) % 3 == 0, -2.0, 1.0)
    A = StencilOperator(stencil, (False, False), tags=frozenset({"symmetric", "positive"}))
    answer = ConjugateGradients().solve(ConjugateGradients().setup(A), torch.ones((1, 12, 12), dtype=torch.float64))
    assert answer.status == [Status.DIVERGED]


def test_untagged_operator_is_refused() -> None:
    operator = FunctionOperator(lambda x: x, 1, (5,), torch.float64)
    with pytest.raises(NotSPD, match="GMRES"):
        ConjugateGradients().setup(operator)


def test_matrix_free_operator() -> None:
    tags = frozenset({"symmetric", "positive"})
    operator = FunctionOperator(lambda x: 2 * x, 2, (6,), torch.float64, tags=tags)
    b = torch.randn((2, 6), dtype=torch.float64)
    answer = ConjugateGradients().solve(ConjugateGradients().setup(operator), b)
    assert torch.allclose(answer.x, b / 2) and answer.iterations.tolist() == [1, 1]


def test_wrong_number_of_right_hand_sides() -> None:
    A = graph_laplacian((8, 8), "dirichlet", 0.0, seed=0, n=2)
    solver = ConjugateGradients()
    with pytest.raises(UsageError, match="has 3 cases but the operator has 2"):
        solver.solve(solver.setup(A), torch.zeros((3, 8, 8), dtype=torch.float64))
    with pytest.raises(UsageError, match="use one of them"):
        solver.solve(solver.setup(A), torch.zeros((2, 8, 8)))

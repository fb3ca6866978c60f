"""Sparse matrices of structured grids: their fields, every refusal, and SciPy's and PyAMG's solvers preconditioned."""

import numpy as np
import pytest
import scipy.sparse as sparse
import scipy.sparse.linalg as splinalg
from stand_in import StandIn

from sciops.core.errors import DataError, UsageError
from sciops.embed.grid_matrix import grid_matrix
from sciops.embed.scipy import fcg, grid_of, preconditioner


def diffusion(a: np.ndarray, neumann: bool = False) -> sparse.csr_matrix:
    """−∇·(a ∇u) by cells, harmonic means on faces, values on walls half a cell away (or no flux through them)."""
    index = np.arange(a.size).reshape(a.shape)
    rows, cols, values, diagonal = [], [], [], np.zeros(a.size)
    for axis in range(a.ndim):
        low, high = (np.take(index, range(*span), axis).ravel() for span in ((a.shape[axis] - 1,), (1, a.shape[axis])))
        face = 2 * a.flat[low] * a.flat[high] / (a.flat[low] + a.flat[high])
        rows += [low, high]
        cols += [high, low]
        values += [-face, -face]
        np.add.at(diagonal, low, face)
        np.add.at(diagonal, high, face)
        if not neumann:
            for wall in (0, a.shape[axis] - 1):
                cells = np.take(index, wall, axis).ravel()
                diagonal[cells] += 2 * a.flat[cells]
    entries = np.concatenate([*values, diagonal])
    places = np.concatenate([*rows, index.ravel()]), np.concatenate([*cols, index.ravel()])
    return sparse.csr_matrix((entries, places), shape=(a.size, a.size))


def jumps(shape: tuple[int, ...], contrast: float) -> np.ndarray:
    return np.where(np.indices(shape).sum(0) // 12 % 2 == 1, contrast, 1.0)


def fields(A: sparse.csr_matrix, shape: tuple[int, ...], **options: object) -> np.ndarray:
    return grid_matrix((A.indptr, A.indices, A.data), shape, **options)


def matrix_of(out: np.ndarray) -> np.ndarray:
    """The dense matrix that the fields describe."""
    shape = out.shape[1:]
    index = np.arange(out[0].size).reshape(shape)
    A = np.diag(out[0].ravel())
    for axis in range(len(shape)):
        low, high = (np.take(index, range(*span), axis).ravel() for span in ((shape[axis] - 1,), (1, shape[axis])))
        A[low, high] = A[high, low] = -np.take(out[1 + axis], range(shape[axis] - 1), axis).ravel()
    return A


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 6)])
def test_fields_describe_the_matrix(shape: tuple[int, ...]) -> None:
    A = diffusion(jumps(shape, 7.0))
    np.testing.assert_allclose(matrix_of(fields(A, shape)), A.toarray(), rtol=1e-13)


def test_fields_of_a_permuted_grid_with_holes() -> None:
    shape, rng = (6, 9), np.random.default_rng(3)
    A = diffusion(jumps(shape, 3.0))
    cells = rng.permutation(A.shape[0])[:40]
    whole = matrix_of(fields(A[cells][:, cells], shape, cells=cells))
    np.testing.assert_allclose(whole[np.ix_(cells, cells)], A[cells][:, cells].toarray(), rtol=1e-13)
    absent = np.setdiff1d(np.arange(A.shape[0]), cells)
    assert not whole[absent].any()
    both = np.stack(np.unravel_index(cells, shape), 1)
    np.testing.assert_array_equal(
        fields(A[cells][:, cells], shape, cells=both), fields(A[cells][:, cells], shape, cells=cells)
    )


@pytest.mark.parametrize("neumann", [False, True], ids=["dirichlet", "neumann"])
def test_solvers_agree_with_a_direct_solve(neumann: bool) -> None:
    import pyamg

    shape = (96, 96)
    A = diffusion(np.ones(shape), neumann)
    b = np.random.default_rng(0).standard_normal(A.shape[0])
    b -= b.mean() if neumann else 0.0
    M = preconditioner(StandIn(), A, shape)
    found = fcg(A, b, M)
    assert found.info == 0 and found.residual <= 1e-8 and found.iterations < 15 and found.fallbacks == 0
    steps: list[int] = []
    splinalg.cg(A, b, M=sparse.diags(1 / A.diagonal()), rtol=1e-8, maxiter=1000, callback=lambda _: steps.append(1))
    assert found.iterations < len(steps) / 10
    if neumann:
        assert abs(found.x.mean()) < 1e-12
        ground = sparse.identity(A.shape[0], format="csr")[:1]
        exact = splinalg.spsolve((A + ground.T @ ground).tocsc(), b)
        exact -= exact.mean()
    else:
        exact = splinalg.spsolve(A.tocsc(), b)
        x, info = splinalg.cg(A, b, M=M, rtol=1e-8, maxiter=30)
        assert info == 0
        # ‖x − x*‖ ≤ κ·1e-8·‖x*‖, κ ≈ 8·96²/(2π²); far less in practice.
        assert np.linalg.norm(x - exact) < 1e-5 * np.linalg.norm(exact)
        x, info = pyamg.krylov.fgmres(A, b, M=M, tol=1e-8, maxiter=30)
        assert info == 0
        assert np.linalg.norm(x - exact) < 1e-5 * np.linalg.norm(exact)
    assert np.linalg.norm(found.x - exact) < 1e-5 * np.linalg.norm(exact)


def test_jumps_in_three_dimensions() -> None:
    shape = (16, 14, 12)
    A = diffusion(jumps(shape, 1e4))
    b = np.random.default_rng(1).standard_normal(A.shape[0])
    found = fcg(A, b, preconditioner(StandIn(ndim=3), A, shape))
    assert found.info == 0 and found.iterations < 25
    assert np.linalg.norm(b - A @ found.x) <= 1e-8 * np.linalg.norm(b)


def test_holes_and_another_numbering() -> None:
    shape, rng = (40, 60), np.random.default_rng(2)
    A = diffusion(np.ones(shape))
    inside = np.hypot(*(np.indices(shape) - np.array([20, 30])[:, None, None])).ravel() > 9
    cells = rng.permutation(np.flatnonzero(inside))
    A = A[cells][:, cells]
    b = rng.standard_normal(len(cells))
    found = fcg(A, b, preconditioner(StandIn(), A, shape, cells=cells))
    exact = splinalg.spsolve(A.tocsc(), b)
    assert found.info == 0 and found.iterations < 25
    assert np.linalg.norm(found.x - exact) < 1e-6 * np.linalg.norm(exact)


def test_boundary_values_kept_in_the_system() -> None:
    """Rows of the identity whose columns were not eliminated: unsymmetric, and a block-triangular preconditioner."""
    shape = (40, 40)
    A = diffusion(np.ones(shape)).tolil()
    edge = np.flatnonzero(np.pad(np.zeros((38, 38)), 1, constant_values=1).ravel())
    A[edge] = 0.0
    A[edge, edge] = 1.0
    A = A.tocsr()
    b = np.random.default_rng(5).standard_normal(A.shape[0])
    M = preconditioner(StandIn(), A, shape)
    x, info = splinalg.gmres(A, b, M=M, rtol=1e-10, maxiter=2, restart=20)
    assert info == 0 and M.calls < 25
    assert np.linalg.norm(x - splinalg.spsolve(A.tocsc(), b)) < 1e-7 * np.linalg.norm(x)


def test_floating_parts_lose_their_means() -> None:
    parts = [diffusion(np.ones((10, 12)), neumann=True), diffusion(np.ones((10, 12)))]
    A = sparse.block_diag(parts, format="csr")
    b = np.random.default_rng(4).standard_normal(240)
    found = fcg(A, b, preconditioner(StandIn(), A, (20, 12)))
    assert found.info == 0 and abs(found.x[:120].mean()) < 1e-12 < abs(found.x[120:].mean())
    right = b - np.where(np.arange(240) < 120, b[:120].mean(), 0.0)
    assert np.linalg.norm(right - A @ found.x) < 1.1e-8 * np.linalg.norm(right)


def test_nonlinear_networks_need_a_flexible_method() -> None:
    import pyamg

    shape = (32, 32)
    A = diffusion(np.ones(shape))
    b = np.random.default_rng(0).standard_normal(A.shape[0])
    with pytest.raises(UsageError, match="nonlinear network, in which cg stalls; pass flexible=True"):
        preconditioner(StandIn(linear=False), A, shape)
    M = preconditioner(StandIn(linear=False), A, shape, flexible=True)
    assert not M.linear
    _, info = splinalg.cg(A, b, M=M, rtol=1e-8, maxiter=40)
    assert info != 0  # the reason for the refusal
    assert fcg(A, b, M).info == 0
    assert pyamg.krylov.fgmres(A, b, M=M, tol=1e-8, maxiter=60)[1] == 0
    with pytest.raises(UsageError, match="no transpose"):
        M.rmatvec(b)


def test_reports_what_did_not_converge() -> None:
    A = diffusion(np.ones((32, 32)))
    b = np.ones(A.shape[0])
    found = fcg(A, b, maxiter=5)
    assert found.info == 5 and "maxiter" in found.advice and found.residual > 1e-8
    assert fcg(A, b).info == 0
    assert fcg(-A, b).info == -1


SMALL = (6, 8)
PLAIN = diffusion(np.ones(SMALL))
LOOSE = PLAIN.copy().tolil()
LOOSE[3, 4] = -0.5
POSITIVE = PLAIN.copy().tolil()
POSITIVE[3, 4] = POSITIVE[4, 3] = 0.5
WRAP = PLAIN.copy().tolil()
WRAP[0, 7] = WRAP[7, 0] = -1.0
BROKEN = PLAIN.copy()
BROKEN.data = BROKEN.data * np.nan
REFUSALS = {
    "transposed": (PLAIN, (8, 6), {}, r"joins the points \(0, 0\) and \(1, 2\).* fastest index last"),
    "size": (PLAIN, (6, 9), {}, "has 48 rows but a 6×9 grid has 54 points"),
    "axes": (PLAIN, (48,), {}, "takes? grids of 2 or 3 axes"),
    "asymmetric": (LOOSE, SMALL, {}, r"not symmetric: A\[3, 4\]"),
    "sign": (-PLAIN, SMALL, {}, r"wrong sign.*solve \(−A\) x = −b"),
    "positive coupling": (POSITIVE, SMALL, {}, "must not be positive"),
    "periodic": (WRAP, SMALL, {}, "periodic grids have no map"),
    "nan": (BROKEN, SMALL, {}, "NaN or infinite"),
    "empty": (PLAIN * 0.0, SMALL, {}, "no positive diagonal"),
    "nine points": (sparse.csr_matrix(PLAIN @ PLAIN), SMALL, {"compact": True}, "no neighbours"),
    "cells": (PLAIN, SMALL, {"cells": np.zeros(48, int)}, "must name a different point"),
    "choice": (PLAIN, SMALL, {"on_failure": "maybe"}, "'stop' or 'native'"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_are_one_sentence(name: str) -> None:
    A, shape, options, sentence = REFUSALS[name]
    with pytest.raises(UsageError, match=sentence) as caught:
        preconditioner(StandIn(), A, shape, **options)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_operators_are_no_preconditioners() -> None:
    model = StandIn()
    model.manifest.kind = "operator"
    with pytest.raises(UsageError, match="of kind operator"):
        preconditioner(model, PLAIN, SMALL)


def test_native_goes_on_with_one_warning() -> None:
    b = np.ones(PLAIN.shape[0])
    with pytest.warns(UserWarning, match="wrong sign.*Going on with the diagonal"):
        M = preconditioner(StandIn(), -PLAIN, SMALL, on_failure="native")
    assert np.allclose(M @ b, -b / PLAIN.diagonal())
    with pytest.warns(UserWarning, match="no artefact"):
        preconditioner("nowhere.sciops", PLAIN, SMALL, on_failure="native")
    with pytest.raises(UsageError, match="no artefact"):
        preconditioner("nowhere.sciops", PLAIN, SMALL)
    with pytest.raises(DataError, match="not finite"):
        preconditioner(StandIn(broken=True), PLAIN, SMALL) @ b
    M = preconditioner(StandIn(broken=True), PLAIN, SMALL, on_failure="native")
    with pytest.warns(UserWarning, match="not finite") as heard:
        found = fcg(PLAIN, b, M)
    assert found.info == 0 and len(heard) == 1 and M.fallbacks == M.calls > 1


def test_linear_triangles_of_scikit_fem() -> None:
    """P1 on halved rectangles is the five-point matrix; the unknowns come in the order of the mesh."""
    import skfem
    from skfem.models.poisson import laplace, unit_load

    lines = np.linspace(0, 1, 50) ** 1.3, np.linspace(0, 1, 40)
    basis = skfem.Basis(skfem.MeshTri.init_tensor(*lines), skfem.ElementTriP1())
    A, b, x, inner = skfem.condense(laplace.assemble(basis), unit_load.assemble(basis), D=basis.get_dofs())
    shape, cells = grid_of(basis.doflocs[:, inner].T)
    assert shape == (48, 38)
    M = preconditioner(StandIn(), A, shape, cells=cells)
    x[inner] = fcg(A, b, M).x
    exact = skfem.solve(*skfem.condense(laplace.assemble(basis), unit_load.assemble(basis), D=basis.get_dofs()))
    assert M.calls < 25 and np.linalg.norm(x - exact) < 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize("ndim", [2, 3])
def test_bilinear_elements_by_a_compact_matrix(ndim: int) -> None:
    import skfem
    from skfem.models.poisson import laplace

    mesh, element = (
        (skfem.MeshQuad.init_tensor(*[np.linspace(0, 1, 34)] * 2), skfem.ElementQuad1())
        if ndim == 2
        else (skfem.MeshHex.init_tensor(*[np.linspace(0, 1, 9)] * 3), skfem.ElementHex1())
    )
    basis = skfem.Basis(mesh, element)
    A = laplace.assemble(basis)
    shape, cells = grid_of(basis.doflocs.T)
    with pytest.raises(UsageError, match="pass compact=True"):
        preconditioner(StandIn(ndim=ndim), A, shape, cells=cells)
    near = matrix_of(fields(A, shape, cells=cells, compact=True))[np.ix_(cells, cells)]
    np.testing.assert_allclose(near.sum(1), 0.0, atol=1e-12)
    for axis in range(ndim):  # linear functions have the same energy
        u = basis.doflocs[axis]
        assert u @ near @ u == pytest.approx(u @ A @ u, rel=1e-12) == pytest.approx(1.0)
    v = np.random.default_rng(0).standard_normal((len(cells), 200))
    ratio = np.einsum("ik,ik->k", v, A @ v) / np.einsum("ik,ik->k", v, near @ v)
    assert ratio.max() <= 1 + 1e-12 and ratio.min() > 3.0 ** -(ndim - 1)
    b = np.random.default_rng(1).standard_normal(len(cells))
    found = fcg(A, b, preconditioner(StandIn(ndim=ndim), A, shape, cells=cells, compact=True))
    assert found.info == 0 and found.iterations < 30
    assert abs(found.x.mean()) < 1e-12


def test_points_that_share_a_place_are_refused() -> None:
    with pytest.raises(UsageError, match="3 points fall on fewer grid points"):
        grid_of(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1e-15]]))

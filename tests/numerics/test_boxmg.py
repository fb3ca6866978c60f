"""Operator-dependent multigrid: exact identities on small grids, contraction and iteration counts on larger ones."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix, csr_matrix

from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.linear import Status
from sciops.core.stencil_operator import StencilOperator, offsets
from sciops.numerics.compiled.box_multigrid import BoxMultigrid
from sciops.numerics.compiled.boxmg import BoxHierarchy, BoxOptions, LevelAdvice
from sciops.numerics.compiled.boxmg_incomplete import factorise, factorise_faces
from sciops.numerics.compiled.boxmg_matrix import BoxMatrix

DOUBLE = {
    f"{smoother} {cycle}": BoxOptions(smoother=smoother, cycle=cycle, precision="double", coarsest=8)
    for smoother in ("point", "incomplete")
    for cycle in ("V", "W")
}
SHAPES = [(13, 10), (8, 8), (7, 6, 9), (8, 5, 4)]


def diffusion(k: np.ndarray, walls: bool = True) -> FaceOperator:
    """Harmonic means between cells; 2K to the walls that hold u = 0, or none."""
    faces, sink = [], np.zeros_like(k)
    for axis in range(k.ndim):
        w = np.zeros_like(k)
        low, high = np.moveaxis(k, axis, 0)[:-1], np.moveaxis(k, axis, 0)[1:]
        total = low + high
        np.moveaxis(w, axis, 0)[:-1] = np.divide(2 * low * high, total, out=np.zeros_like(total), where=total > 0)
        faces.append(torch.from_numpy(w)[None])
        if walls:
            for side in (0, -1):
                np.moveaxis(sink, axis, 0)[side] += 2 * np.moveaxis(k, axis, 0)[side]
    return FaceOperator(tuple(faces), torch.from_numpy(sink)[None])


def rough(shape: tuple[int, ...], seed: int, contrast: float = 1e6, solid: float = 0.15) -> np.ndarray:
    """Two phases at random with empty cells."""
    rng = np.random.default_rng(seed)
    k = np.where(rng.random(shape) < 0.3, contrast, 1.0)
    k[rng.random(shape) < solid] = 0.0
    return k


def stencil_problem(shape: tuple[int, ...], seed: int) -> StencilOperator:
    """A random symmetric M-matrix with all 3^d couplings."""
    rng = np.random.default_rng(seed)
    table, ndim = offsets(len(shape)), len(shape)
    stencil = np.zeros((len(table), *shape))
    for m in range(len(table) // 2 + 1, len(table)):
        weights = 10 ** rng.uniform(-2, 2, shape)
        here = tuple(slice(max(0, -o), s - max(0, o)) for o, s in zip(table[m], shape, strict=True))
        there = tuple(slice(max(0, o), s - max(0, -o)) for o, s in zip(table[m], shape, strict=True))
        stencil[m][here] = -weights[here]
        stencil[-1 - m][there] = -weights[here]
    stencil[len(table) // 2] = -stencil.sum(0) + 10 ** rng.uniform(-3, 0, shape)
    return StencilOperator(torch.from_numpy(stencil)[None], (False,) * ndim)


def prolongation(matrix: BoxMatrix, weights: np.ndarray) -> csr_matrix:
    """P as a sparse matrix, written from the definition of the weights."""
    coarse, gz, plan = matrix.coarse_space, matrix.gz, matrix.plan
    fine = np.arange(matrix.unknowns).reshape(matrix.space)
    number = np.full(matrix.padded(coarse), -1)
    number[gz : gz + coarse[0], 1:-1, 1:-1] = np.arange(np.prod(coarse)).reshape(coarse)
    rows, cols, values = [], [], []
    for kz, ky, kx in np.ndindex(*coarse):
        rows.append(fine[2 * kz, 2 * ky, 2 * kx])
        cols.append(number[kz + gz, ky + 1, kx + 1])
        values.append(1.0)
        for w, (k, cz, cy, cx) in enumerate(plan.corners):
            point = tuple(2 * i + p for i, p in zip((kz, ky, kx), plan.parities[k], strict=True))
            value = weights[w, kz + gz, ky + 1, kx + 1]
            if value != 0:
                rows.append(fine[point])
                cols.append(number[kz + cz + gz, ky + cy + 1, kx + cx + 1])
                values.append(value)
    assert min(cols) >= 0
    return coo_matrix((values, (rows, cols)), shape=(matrix.unknowns, int(np.prod(coarse)))).tocsr()


def levels(matrix: BoxMatrix) -> tuple[BoxHierarchy, csr_matrix, BoxMatrix]:
    """A two-level hierarchy in float64, its prolongation and its coarse matrix."""
    options = BoxOptions(precision="double", coarsest=matrix.unknowns - 1)
    h = BoxHierarchy(matrix, options)
    assert len(h.levels) == 1
    fine = matrix.scaled(1 / h.norm)
    coarse = h._descend(fine, None)
    return h, prolongation(matrix, h.levels[0].weights), coarse


def dense(h: BoxHierarchy, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    columns = np.zeros((size, size))
    for i, unit in enumerate(np.eye(size)):
        h(unit.reshape(shape), columns[i].reshape(shape))
    return columns.T


@pytest.mark.parametrize("shape", SHAPES)
def test_matrix_round_trip(shape: tuple[int, ...]) -> None:
    for A in (diffusion(rough(shape, 0)), stencil_problem(shape, 1)):
        matrix = BoxMatrix.from_operator(A)
        assert abs(matrix.to_scipy() - A.to_scipy(0)).max() == 0
        full = StencilOperator(torch.from_numpy(matrix.stencil())[None], (False,) * len(shape), frozenset())
        assert abs(full.to_scipy(0) - A.to_scipy(0)).max() == 0
        sums = np.asarray(A.to_scipy(0).sum(1)).reshape(matrix.space)
        assert np.allclose(matrix.inside(matrix.row_sums()), sums, atol=1e-9 * np.abs(matrix.diag).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_galerkin_product(shape: tuple[int, ...]) -> None:
    for A in (diffusion(rough(shape, 2)), stencil_problem(shape, 3)):
        matrix = BoxMatrix.from_operator(A)
        h, P, coarse = levels(matrix)
        expected = P.T @ A.to_scipy(0) @ P / h.norm
        assert abs(coarse.to_scipy() - expected).max() <= 1e-14 * abs(expected).max()
        # Products of coarse stencils, too: the second level has all 3^d couplings.
        if min(coarse.shape) > 1:
            _, again, second = levels(coarse)
            product = again.T @ coarse.to_scipy() @ again / coarse.diag.max()
            assert abs(second.to_scipy() - product).max() <= 1e-14 * abs(product).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_prolongation_reproduces_constants_where_rows_sum_to_zero(shape: tuple[int, ...]) -> None:
    A = diffusion(rough(shape, 4, solid=0.0), walls=False)
    _, P, _ = levels(BoxMatrix.from_operator(A))
    # The diagonal minus its large couplings leaves the small ones with 10⁶ times the rounding.
    assert np.abs(np.asarray(P.sum(1)) - 1).max() <= 1e-15 * 1e6
    assert P.data.min() >= 0


def test_prolongation_is_linear_for_constant_coefficients() -> None:
    for shape in ((9, 11), (7, 9, 5)):
        A = diffusion(np.ones(shape), walls=False)
        _, P, _ = levels(BoxMatrix.from_operator(A))
        for axis in range(len(shape)):
            fine = np.indices(shape)[axis].astype(float)
            coarse = fine[tuple(slice(None, None, 2) for _ in shape)]
            assert np.allclose(P @ coarse.ravel(), fine.ravel(), atol=1e-12)


@pytest.mark.parametrize("smoother", DOUBLE)
@pytest.mark.parametrize("shape", SHAPES)
def test_cycle_is_symmetric_positive_and_contracts(shape: tuple[int, ...], smoother: str) -> None:
    for A in (diffusion(rough(shape, 5)), stencil_problem(shape, 6)):
        matrix = A.to_scipy(0).toarray()
        B = dense(BoxHierarchy(BoxMatrix.from_operator(A), DOUBLE[smoother]), shape)
        active = matrix.diagonal() > 0
        assert np.all(B[~active] == 0)
        assert np.all(B[:, ~active] == 0)
        matrix, B = matrix[np.ix_(active, active)], B[np.ix_(active, active)]
        scale = np.sqrt(np.outer(matrix.diagonal(), matrix.diagonal()))
        assert np.abs((B - B.T) * scale).max() <= 1e-12 * np.abs(B * scale).max()
        # Eigenvalues of BA in (0, 1]: the error never grows in the energy norm.
        root = np.linalg.cholesky(matrix)
        spectrum = np.linalg.eigvalsh(root.T @ (B + B.T) / 2 @ root)
        assert spectrum.min() > 1e-6
        assert spectrum.max() <= 1 + 1e-9


@pytest.mark.parametrize("shape", SHAPES)
def test_faces_and_stencils_have_one_incomplete_factor(shape: tuple[int, ...]) -> None:
    matrix = BoxMatrix.from_operator(diffusion(rough(shape, 3)))
    strides = np.array([s // matrix.diag.itemsize for s in matrix.diag.strides])
    diag, off = matrix.diag.reshape(-1), matrix.off.reshape(len(matrix.off), -1)
    reach, pivots = matrix.plan.offsets @ strides, (diag.copy(), diag.copy())
    general, special = off.copy(), np.zeros_like(off)
    factorise(diag, reach, matrix.plan.pairs, diag.size, general, pivots[0])
    factorise_faces(diag, off, reach, diag.size, special, pivots[1])
    scale = np.abs(diag).max()
    assert np.abs(pivots[0] - pivots[1]).max() <= 1e-13 * scale
    # Pivots of soft cells are what is left of stiff ones: 10⁶ roundings.
    assert np.abs(general - special).max() <= 1e-9 * np.abs(general).max()
    # The definition: eliminate, and add what is dropped between two cells to both of their diagonals.
    A = matrix.to_scipy().toarray()
    rest, row = A.copy(), np.flatnonzero(matrix.inside(matrix.diag).ravel() > 0)
    for i in row:
        later = [j for j in np.flatnonzero(A[i]) if j > i]
        for m in later:
            for n in later:
                fill = rest[m, i] * rest[n, i] / rest[i, i]
                if m == n or A[m, n] != 0:
                    rest[m, n] -= fill
                else:
                    rest[m, m] += abs(fill)
    found = matrix.inside(pivots[1].reshape(matrix.diag.shape)).ravel()
    assert np.abs(found[row] - rest.diagonal()[row]).max() <= 1e-12 * scale


def test_w_cycle_corrects_twice() -> None:
    """On the first coarse grid x = (2 B − B A B) b, B one V-cycle there."""
    matrix = BoxMatrix.from_operator(diffusion(rough((25, 22), 4, solid=0.0)))
    v, w = (BoxHierarchy(matrix, BoxOptions(precision="double", coarsest=50, cycle=c)) for c in ("V", "W"))
    assert len(w.levels) == 2
    P = prolongation(matrix, v.levels[0].weights)
    A = (P.T @ matrix.scaled(1 / v.norm).to_scipy() @ P).toarray()
    level = v.levels[1]

    def through(h: BoxHierarchy, b: np.ndarray) -> np.ndarray:
        inside = (slice(None), slice(1, -1), slice(1, -1))
        h.levels[1].b[inside] = b.reshape(level.space)
        h._correct(1)
        return h.levels[1].x[inside].ravel().copy()

    b = np.random.default_rng(0).standard_normal(len(A))
    once = through(v, b)
    expected = 2 * once - through(v, A @ once)
    assert np.abs(through(w, b) - expected).max() <= 1e-10 * np.abs(expected).max()
    assert np.abs(once - expected).max() > 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("smoother", DOUBLE)
def test_advice_changes_speed_not_symmetry(smoother: str) -> None:
    A = diffusion(rough((11, 12), 7))
    rng = np.random.default_rng(8)
    depths = []

    def advice(matrix: BoxMatrix, depth: int) -> LevelAdvice:
        depths.append(depth)
        scale = rng.uniform(0.2, 3, (matrix.plan.weights, *matrix.coarse_space))
        return LevelAdvice(scale, rng.uniform(0.3, 1.9, matrix.shape), None, 0.7)

    B = dense(BoxHierarchy(BoxMatrix.from_operator(A), DOUBLE[smoother], advice), A.space)
    plain = dense(BoxHierarchy(BoxMatrix.from_operator(A), DOUBLE[smoother]), A.space)
    assert depths == [0, 1, 2]
    assert np.abs(B - plain).max() > 1e-3 * np.abs(plain).max()
    active = A.active[0].numpy().ravel()
    B = B[np.ix_(active, active)]
    d = np.sqrt(A.diagonal()[0].numpy().ravel()[active])
    assert np.abs((B - B.T) * np.outer(d, d)).max() <= 1e-12 * np.abs(B * np.outer(d, d)).max()
    assert np.linalg.eigvalsh((B + B.T) / 2 * np.outer(d, d)).min() > 0


@pytest.mark.parametrize(("shape", "bound"), [((64, 64), 0.15), ((24, 24, 24), 0.2)])
def test_poisson_contraction(shape: tuple[int, ...], bound: float) -> None:
    A = diffusion(np.ones(shape))
    matrix = A.to_scipy(0)
    h = BoxHierarchy(BoxMatrix.from_operator(A), BoxOptions(precision="double"))
    e = np.random.default_rng(9).standard_normal(shape)
    z = np.zeros(shape)
    rate = 1.0
    for _ in range(12):
        before = float(e.ravel() @ (matrix @ e.ravel()))
        h((matrix @ e.ravel()).reshape(shape), z)
        e -= z
        rate = (float(e.ravel() @ (matrix @ e.ravel())) / before) ** 0.5
    assert rate <= bound


def test_single_precision_cycle_follows_the_double_one() -> None:
    shape = (40, 33)
    A = diffusion(rough(shape, 10, contrast=1e3))
    r = np.random.default_rng(11).standard_normal(shape) * A.active[0].numpy()
    single, double = np.zeros(shape), np.zeros(shape)
    matrix = BoxMatrix.from_operator(A)
    BoxHierarchy(matrix)(r, single)
    BoxHierarchy(matrix, BoxOptions(precision="double"))(r, double)
    assert np.linalg.norm(single - double) <= 1e-4 * np.linalg.norm(double)
    tiny = np.zeros(shape)
    BoxHierarchy(matrix)(r * 1e-200, tiny)
    assert np.allclose(tiny * 1e200, single, rtol=1e-5, atol=1e-6 * np.abs(single).max())


@pytest.mark.parametrize("shape", [(1,), (9,), (2, 2), (3, 1), (1, 40), (200, 3), (5, 4, 1), (2, 3, 2), (37, 2, 3)])
@pytest.mark.parametrize("smoother", ["point", "incomplete"])
def test_tiny_and_narrow_grids(shape: tuple[int, ...], smoother: str) -> None:
    A = diffusion(np.random.default_rng(12).uniform(0.1, 10, shape))
    solver = BoxMultigrid("box", BoxOptions(smoother=smoother, coarsest=4))
    x = torch.from_numpy(np.random.default_rng(13).standard_normal(shape))[None]
    answer = solver.solve(solver.setup(A), A.matvec(x), tol=1e-11)
    assert answer.status == [Status.OK]
    assert torch.allclose(answer.x, x, rtol=1e-7, atol=1e-7)


def test_bad_inputs() -> None:
    A = diffusion(np.ones((6, 6)))
    periodic = StencilOperator(torch.ones(1, 9, 6, 6, dtype=torch.float64), (True, False), frozenset({"symmetric"}))
    with pytest.raises(UsageError, match="not periodic"):
        BoxMatrix.from_operator(periodic)
    lopsided = StencilOperator(torch.ones(1, 9, 6, 6, dtype=torch.float64), (False, False), frozenset())
    with pytest.raises(UsageError, match="symmetric"):
        BoxMatrix.from_operator(lopsided)
    negative = BoxMatrix.from_operator(A)
    negative.diag[0, 3, 3] = -1
    with pytest.raises(UsageError, match="not positive definite"):
        BoxHierarchy(negative)

"""Compiled conjugate gradients: products, histories, honest statuses; incomplete factors against dense algebra."""

import numpy as np
import pytest
import torch
from face_systems import from_mask, random_mask, white
from stencils import graph_laplacian

from sciops.core.errors import NotSPD, UsageError
from sciops.core.linear import FunctionOperator, LinearOperator, Status
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.compiled.base import PlainCompiledCG
from sciops.numerics.compiled.conjugate_gradients import conjugate_gradients
from sciops.numerics.compiled.incomplete import IncompleteCholesky
from sciops.numerics.compiled.systems import faces_of, system_of
from sciops.numerics.krylov import ConjugateGradients

SPACES = [(17,), (1, 9), (9, 1), (13, 18), (1, 1, 5), (4, 1, 3), (5, 1, 1), (7, 8, 9), (1, 1)]


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("air", ["top", "none"])
def test_face_product_equals_the_operator(space: tuple[int, ...], air: str) -> None:
    A = from_mask(random_mask(space, 0.8, 1, n=2), air, roughness=0.5)
    x = torch.randn((2, *space), dtype=torch.float64)
    expected = A.matvec(x)
    for i in range(2):
        out = np.empty(space)
        dot = system_of(A, i).matvec_dot(x[i].numpy().copy(), out)
        assert np.abs(out - expected[i].numpy()).max() < 1e-13 * float(A.diagonal().max()) + 1e-300
        assert dot == pytest.approx(float((x[i] * expected[i]).sum()), abs=1e-11)


@pytest.mark.parametrize("kind", ["dirichlet", "neumann", "periodic"])
@pytest.mark.parametrize("space", [(12,), (9, 14), (6, 5, 7)], ids=str)
def test_stencil_history_equals_the_batched_one(kind: str, space: tuple[int, ...]) -> None:
    A = graph_laplacian(space, kind, 0.5, 1)
    b = torch.randn((2, *space), dtype=torch.float64)
    ours, theirs = PlainCompiledCG(), ConjugateGradients()
    got, expected = ours.solve(ours.setup(A), b, tol=1e-6), theirs.solve(theirs.setup(A), b, tol=1e-6)
    # Rounding differs and grows with the steps; the first half of them is before that.
    k = min(len(got.history), len(expected.history)) // 2
    assert torch.allclose(got.history[:k], expected.history[:k], rtol=1e-8)
    assert (got.iterations - expected.iterations).abs().max() <= 1
    assert got.status == [Status.OK] * 2 and (got.x - expected.x).abs().max() < 1e-4 * expected.x.abs().max()


def test_wide_stencils_and_shared_matrices() -> None:
    base = graph_laplacian((9, 11), "dirichlet", 0.3, 2, n=1)
    stencil = base.stencil.clone()
    for k in (0, 2, 6, 8):
        stencil[:, k] -= 0.1
        stencil[:, 4] += 0.1
    # The corners of rows at the edge point outside, where x = 0: the matrix is symmetric all the same.
    A = StencilOperator(stencil.expand(3, *stencil.shape[1:]), (False, False), base.tags)
    b = torch.randn((3, 9, 11), dtype=torch.float64)
    solver = PlainCompiledCG()
    state = solver.setup(A)
    assert state.systems[0] is state.systems[2]
    x = solver.solve(state, b, tol=1e-12).x
    for i in range(3):
        expected = np.linalg.solve(A.to_scipy(i).toarray(), b[i].numpy().ravel())
        assert np.abs(x[i].numpy().ravel() - expected).max() < 1e-9 * np.abs(expected).max()


def test_batch_rows_are_solved_alone_and_warm_starts_save_steps() -> None:
    A = from_mask(random_mask((20, 23), 0.9, 3, n=3), "top")
    b = white(A)
    solver = IncompleteCholesky()
    whole = solver.solve(solver.setup(A), b)
    part = A.select(torch.tensor([1]))
    alone = solver.solve(solver.setup(part), b[1:2])
    assert torch.equal(alone.x[0], whole.x[1]) and int(alone.iterations[0]) == int(whole.iterations[1])
    warm = solver.solve(solver.setup(A), b, x0=whole.x + 1e-5 * torch.randn_like(b))
    assert bool((warm.iterations < 0.8 * whole.iterations).all()) and warm.status == [Status.OK] * 3
    again = solver.solve(solver.setup(A), b, x0=whole.x)
    assert again.iterations.tolist() == [0, 0, 0]


@pytest.mark.parametrize("scale", [2.0**-600, 2.0**-20, 2.0**600])
def test_scaling_of_b_changes_no_step(scale: float) -> None:
    A = from_mask(random_mask((16, 16), 0.9, 4), "top")
    b = white(A)
    solver = IncompleteCholesky()
    state = solver.setup(A)
    one, other = solver.solve(state, b), solver.solve(state, b * scale)
    assert other.status == one.status == [Status.OK] and torch.equal(other.iterations, one.iterations)
    assert torch.equal(other.x / scale, one.x)


def test_incompatible_right_hand_side_is_projected() -> None:
    A = from_mask(random_mask((21, 18), 0.6, 5), "none")
    assert int(A.labels.max()) > 3
    b = torch.randn((1, 21, 18), dtype=torch.float64)
    solver = PlainCompiledCG()
    got = solver.solve(solver.setup(A), b, tol=1e-10)
    assert got.status == [Status.OK] and float(got.residual[0]) < 1e-9
    inside = A.active.double()
    compatible = solver.solve(solver.setup(A), A.project(b) * inside, tol=1e-10)
    assert (got.x - compatible.x).abs().max() < 1e-9 * got.x.abs().max()
    assert (A.project(got.x) - got.x).abs().max() < 1e-12 and bool((got.x[~A.active] == 0).all())


def test_many_right_hand_sides_for_one_matrix() -> None:
    A = from_mask(random_mask((14, 15), 0.9, 6), "top")
    b = torch.cat([white(A), 3 * white(A), torch.flip(white(A), (1,)) * A.active])
    solver = IncompleteCholesky()
    state = solver.setup(A)
    together = solver.solve(state, b)
    assert together.status == [Status.OK] * 3 and together.history.shape[1] == 3
    for i in range(3):
        assert torch.equal(together.x[i], solver.solve(state, b[i : i + 1]).x[0])


def test_statuses_are_honest() -> None:
    A = from_mask(random_mask((14, 15), 0.9, 6, n=2), "top")
    b = white(A)
    solver = IncompleteCholesky()
    state = solver.setup(A)
    poisoned = b.clone()
    poisoned[0, 3, 3] = torch.nan
    answer = solver.solve(state, poisoned)
    assert answer.status == [Status.NONFINITE, Status.OK]
    assert "right-hand side" in answer.stats["advice"][0] and answer.stats["advice"][1] == ""
    short = solver.solve(state, b, maxiter=3)
    assert short.status == [Status.MAX_ITER] * 2 and all("raise maxiter" in s for s in short.stats["advice"])
    below_rounding = solver.solve(state, b, tol=1e-20, maxiter=200)
    assert below_rounding.status == [Status.MAX_ITER] * 2 and float(below_rounding.residual.max()) < 1e-13
    assert all("below what rounding" in s for s in below_rounding.stats["advice"])
    zero = solver.solve(state, torch.zeros_like(b))
    assert zero.status == [Status.OK] * 2 and not bool(zero.x.any())
    single = solver.solve(state, b.float())
    assert single.x.dtype == torch.float32 and single.status == [Status.OK] * 2


def test_indefinite_matrices_and_preconditioners_end_diverged() -> None:
    stencil = graph_laplacian((9, 9), "dirichlet", 0.0, 7, n=1).stencil.clone()
    stencil[:, 4] -= 3.0
    lying = StencilOperator(stencil, (False, False), tags=frozenset({"symmetric", "positive"}))
    solver = PlainCompiledCG()
    b = torch.randn((1, 9, 9), dtype=torch.float64)
    assert solver.solve(solver.setup(lying), b).status == [Status.DIVERGED]
    sound = from_mask(random_mask((9, 9), 1.0, 0), "top")

    def negative(r: np.ndarray, z: np.ndarray) -> None:
        z[...] = -r

    assert conjugate_gradients(system_of(sound), negative, b[0].numpy()).status is Status.DIVERGED


def test_refusals_are_sentences() -> None:
    solver, b = IncompleteCholesky(), torch.zeros((1, 5, 5), dtype=torch.float64)
    A = from_mask(random_mask((5, 5), 1.0, 0), "top")
    with pytest.raises(UsageError, match="right-hand side has shape"):
        solver.solve(solver.setup(A), b[:, :4])
    bare: LinearOperator = FunctionOperator(lambda x: x, 1, (5, 5), torch.float64)
    with pytest.raises(NotSPD, match="IncompleteCG needs a symmetric positive"):
        solver.setup(bare)
    bare.tags = A.tags
    with pytest.raises(UsageError, match="take a FaceOperator or a StencilOperator"):
        solver.setup(bare)
    wide = StencilOperator(torch.ones((1, 9, 5, 5), dtype=torch.float64), (False, False), A.tags)
    with pytest.raises(UsageError, match="without diagonal neighbours"):
        solver.setup(wide)
    with pytest.raises(UsageError, match="modified must lie"):
        IncompleteCholesky(1.5)


@pytest.mark.parametrize("space", [(40,), (1, 40), (40, 1), (1, 40, 1)], ids=str)
def test_incomplete_factor_of_a_chain_is_exact(space: tuple[int, ...]) -> None:
    A = from_mask(random_mask(space, 1.0, 0), "all", roughness=1.0)
    solver = IncompleteCholesky()
    assert solver.solve(solver.setup(A), white(A), tol=1e-10).iterations.tolist() == [1]


@pytest.mark.parametrize("modified", [0.0, 0.97])
@pytest.mark.parametrize("kind", ["dirichlet", "periodic"])
@pytest.mark.parametrize("space", [(8, 7), (4, 5, 6)], ids=str)
def test_incomplete_factor_equals_its_definition(modified: float, kind: str, space: tuple[int, ...]) -> None:
    A = graph_laplacian(space, kind, 0.7, 3, n=1)
    dense = A.to_scipy().toarray()
    pivot, size = np.zeros(len(dense)), len(dense)
    least = 0.25 if modified else 1e-12
    for i in range(size):
        d = dense[i, i]
        for j in np.flatnonzero(dense[i, :i]):
            d -= dense[i, j] * (dense[i, j] + modified * (dense[j, j + 1 :].sum() - dense[j, i])) / pivot[j]
        pivot[i] = d if d > least * dense[i, i] else dense[i, i]
    lower = np.tril(dense, -1) + np.diag(pivot)
    matrix = lower @ np.diag(1 / pivot) @ lower.T
    r, z = np.random.default_rng(0).standard_normal(space), np.empty(space)
    factor = IncompleteCholesky(modified).build(system_of(A), A, 0)
    factor(r, z)
    assert np.abs(matrix @ z.ravel() - r.ravel()).max() < 1e-11 * np.abs(r).max() * np.linalg.cond(lower)


def test_modified_beats_incomplete_beats_plain() -> None:
    A = from_mask(random_mask((96, 96), 1.0, 0), "top")
    steps = []
    for solver in (IncompleteCholesky(0.97), IncompleteCholesky(), PlainCompiledCG()):
        steps.append(int(solver.solve(solver.setup(A), white(A)).iterations[0]))
    assert steps[0] < 0.6 * steps[1] and steps[1] < 0.5 * steps[2]


def test_stencils_become_faces() -> None:
    A = graph_laplacian((6, 7), "neumann", 0.5, 2)
    faces = faces_of(A)
    x = torch.randn((2, 6, 7), dtype=torch.float64)
    assert faces.nullspace == "components" and not bool(faces.sink.any())
    assert (faces.matvec(x) - A.matvec(x)).abs().max() < 1e-13 * A.diagonal().max()
    with pytest.raises(UsageError, match="periodic axes"):
        faces_of(graph_laplacian((6, 7), "periodic", 0.5, 2))
    stencil = A.stencil.clone()
    stencil[:, [1, 3, 5, 7]] *= -1
    with pytest.raises(UsageError, match="couplings ≤ 0"):
        faces_of(StencilOperator(stencil, (False, False), A.tags))

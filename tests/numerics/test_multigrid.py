"""Convergence factors, symmetry and exactness of the V-cycle on every boundary, size and coefficient law."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from stencils import coefficient, graph_laplacian, node_dirichlet
from torch import Tensor

from sciops.core.errors import NotSPD, UsageError
from sciops.core.grid import Grid
from sciops.core.linear import FunctionOperator
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.krylov import ConjugateGradients
from sciops.numerics.multigrid import Multigrid
from sciops.numerics.random_fields import gaussian_field


def contraction(A: StencilOperator, cycle: Callable[[Tensor], Tensor], cycles: int = 10) -> float:
    """Worst asymptotic factor of ‖A e‖ under e ← e − B A e: geometric mean of the last four cycles."""
    e = torch.randn((A.n, *A.space), dtype=torch.float64)
    sizes = []
    for _ in range(cycles + 1):
        r = A.matvec(e)
        sizes.append(r.flatten(1).norm(dim=1))
        e = e - cycle(r)
    return float(((sizes[-1] / sizes[-5]) ** 0.25).max())


@pytest.mark.parametrize("points", [33, 34, 66, 129, 257])
def test_poisson_contraction_does_not_depend_on_the_size(points: int) -> None:
    A = node_dirichlet(coefficient("poisson", points), 1 / (points - 1))
    assert contraction(A, Multigrid().setup(A)) <= 0.15


@pytest.mark.parametrize("family", ["smooth", "rough"])
@pytest.mark.parametrize("points", [33, 48, 100, 129, 257])
def test_darcy_contraction(family: str, points: int) -> None:
    A = node_dirichlet(coefficient(family, points), 1 / (points - 1))
    assert contraction(A, Multigrid().setup(A)) <= 0.3


@pytest.mark.parametrize("points", [65, 129, 257])
def test_trigonometric_contraction(points: int) -> None:
    A = node_dirichlet(coefficient("trigonometric", points), 1 / (points - 1))
    assert contraction(A, Multigrid().setup(A)) <= 0.3


@pytest.mark.slow
@pytest.mark.parametrize("family", ["poisson", "smooth", "rough", "trigonometric"])
def test_contraction_at_512(family: str) -> None:
    A = node_dirichlet(coefficient(family, 512), 1 / 511)
    assert contraction(A, Multigrid().setup(A)) <= (0.15 if family == "poisson" else 0.3)


def two_phase(points: int, seeds: list[int], low: float, high: float, tau: float) -> StencilOperator:
    """Thresholded random fields of any contrast, phases in either order."""
    g = gaussian_field(seeds, Grid.box(points, ndim=2), "cosine", tau=tau, alpha=2.0, modes=128)
    return node_dirichlet(torch.where(g >= 0, g.new_tensor(high), g.new_tensor(low)), 1 / (points - 1))


SIZES = [(33, 16), (65, 16), (129, 4), (257, 2)]
EXTREME, MILDER = [(1.0, 1e4), (1e4, 1.0)], [(1.0, 1e2), (1.0, 1e3)]


@pytest.mark.parametrize(
    ("points", "draws", "low", "high"),
    [
        *((*size, *contrast) for size in SIZES for contrast in EXTREME),
        *((*size, *contrast) for size in SIZES[:2] for contrast in MILDER),
        *(pytest.param(*size, *contrast, marks=pytest.mark.slow) for size in SIZES[2:] for contrast in MILDER),
    ],
)
def test_high_contrast_contraction(points: int, draws: int, low: float, high: float) -> None:
    for tau in (3.0, 5.0):
        A = two_phase(points, list(range(draws)), low, high, tau)
        assert contraction(A, Multigrid().setup(A), cycles=20) <= 0.3


@pytest.mark.slow
@pytest.mark.parametrize(("low", "high"), [(1.0, 1e4), (1e4, 1.0)])
def test_high_contrast_contraction_at_512(low: float, high: float) -> None:
    A = two_phase(512, [0, 1, 2, 3], low, high, tau=5.0)
    assert contraction(A, Multigrid().setup(A), cycles=20) <= 0.3


def test_the_bare_cycle_has_the_slow_modes_that_are_removed() -> None:
    """Seed 9 holds a pixel tied to no coarse point; the same cycle without its slow modes all but stops on it."""
    A = two_phase(33, [9], 1e4, 1.0, tau=5.0)
    assert contraction(A, Multigrid(modes=0).setup(A), cycles=20) >= 0.9
    hierarchy = Multigrid().setup(A)
    assert contraction(A, hierarchy, cycles=20) <= 0.3
    assert hierarchy.modes is not None and 1 <= len(hierarchy.modes.vectors) <= 8
    # V and its image are what they claim: VᵀAV = 1, and the corrected cycle is exact on V.
    for v, image in zip(hierarchy.modes.vectors, hierarchy.modes.images, strict=True):
        assert torch.allclose(A.matvec(v), image, atol=1e-8 * float(image.abs().max()))
        assert float((v * image).sum()) == pytest.approx(1.0, abs=1e-8)
        assert float((hierarchy(image) - v).norm()) <= 1e-8 * float(v.norm())


@pytest.mark.parametrize("kind", ["dirichlet", "neumann", "periodic"])
def test_the_corrected_cycle_is_symmetric_positive(kind: str) -> None:
    A = graph_laplacian((31, 34), kind, 1.0, seed=4)
    hierarchy = Multigrid().setup(A)
    assert hierarchy.modes is not None
    assert contraction(A, hierarchy, cycles=20) < 0.7 * contraction(A, Multigrid(modes=0).setup(A), cycles=20)
    for _ in range(4):
        u, v = (A.matvec(torch.randn((A.n, *A.space), dtype=torch.float64)) for _ in range(2))
        uv, vu = (u * hierarchy(v)).sum(), (v * hierarchy(u)).sum()
        assert abs(uv - vu) <= 1e-9 * float(u.norm() * hierarchy(v).norm())
        assert bool(((u * hierarchy(u)).flatten(1).sum(1) > 0).all())


def test_a_case_has_the_same_bits_alone_and_in_a_batch_of_other_contrasts() -> None:
    parts = [two_phase(65, [7], 1.0, 1e4, 5.0), two_phase(65, [7], 3.0, 12.0, 5.0), two_phase(65, [2], 1e4, 1.0, 5.0)]
    together = StencilOperator(torch.cat([part.stencil for part in parts]), parts[0].periodic)
    r = torch.randn((3, *together.space), dtype=torch.float64)
    batch = Multigrid().setup(together)
    z = batch(r)
    assert batch.modes is not None and not bool(batch.modes.vectors[:, 1].any())
    for i, part in enumerate(parts):
        assert torch.equal(Multigrid().setup(part)(r[i : i + 1])[0], z[i])


@pytest.mark.parametrize("points", [33, 129])
def test_conjugate_gradients_remove_single_modes_by_themselves(points: int) -> None:
    A = node_dirichlet(coefficient("two_phase", points, n=4), 1 / (points - 1))
    solver = ConjugateGradients(Multigrid())
    answer = solver.solve(solver.setup(A), torch.ones((A.n, *A.space), dtype=torch.float64), tol=1e-8)
    assert all(s.value == "ok" for s in answer.status)
    assert int(answer.iterations.max()) <= 20


@pytest.mark.parametrize("points", [18, 33, 65])
def test_three_dimensions(points: int) -> None:
    A = node_dirichlet(coefficient("poisson", points, ndim=3), 1 / (points - 1))
    assert contraction(A, Multigrid().setup(A), 8) <= 0.15


@pytest.mark.parametrize("points", [64, 101, 128])
def test_one_dimension_is_solved_exactly(points: int) -> None:
    """In one dimension operator-dependent interpolation is exact: one cycle is a direct solve."""
    A = graph_laplacian((points,), "dirichlet", 1.0, seed=0)
    u = torch.randn((A.n, points), dtype=torch.float64)
    assert torch.allclose(Multigrid().setup(A)(A.matvec(u)), u, atol=1e-9)


SHAPES = [(128,), (101,), (31, 32), (37, 41), (64, 10), (3, 90), (13, 13, 13), (9, 10, 11)]


@pytest.mark.parametrize("kind", ["dirichlet", "neumann", "periodic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_size_and_boundary(kind: str, shape: tuple[int, ...]) -> None:
    A = graph_laplacian(shape, kind, 0.3, seed=1)
    hierarchy = Multigrid().setup(A)
    u, v = (A.matvec(torch.randn((A.n, *shape), dtype=torch.float64)) for _ in range(2))
    uv, vu = (u * hierarchy(v)).sum(), (v * hierarchy(u)).sum()
    assert abs(uv - vu) <= 1e-12 * abs(uv) + 1e-12 * u.norm() * hierarchy(v).norm()
    assert bool(((u * hierarchy(u)).flatten(1).sum(1) > 0).all())
    solver = ConjugateGradients(Multigrid())
    answer = solver.solve(solver.setup(A), u, tol=1e-10)
    assert all(s.value == "ok" for s in answer.status) and float(answer.residual.max()) <= 1.1e-10
    assert int(answer.iterations.max()) <= 10


@pytest.mark.parametrize("kind", ["dirichlet", "neumann", "periodic"])
@pytest.mark.parametrize("shape", [(23,), (9, 12), (11, 11), (5, 4, 7)])
def test_coarse_operator_is_the_triple_product(kind: str, shape: tuple[int, ...]) -> None:
    """PᵀAP by direct products against dense matrices, with P read off the cycle's own prolongation."""
    A = graph_laplacian(shape, kind, 0.5, seed=2, n=1)
    hierarchy = Multigrid(levels=2).setup(A)
    level = hierarchy.levels[0]
    coarse = hierarchy.coarsest.inverse.shape[1]
    columns = []
    for k in range(coarse):
        for storage in (level.x, level.correction):
            storage.zero_()
        unit = torch.zeros(coarse, dtype=torch.float64)
        unit[k] = 1.0
        target = level.layout.interior(level.correction)
        target.copy_(unit.reshape(target.shape))
        level.prolong()
        column = torch.zeros((1, *shape), dtype=torch.float64)
        level.layout.merge(level.x, column)
        columns.append((column * hierarchy.root).flatten())
    P = torch.stack(columns, dim=1)
    dense = torch.from_numpy(A.to_scipy().toarray())
    product = P.T @ dense @ P
    inverse = hierarchy.coarsest.inverse[0]
    if A.nullspace is None:
        assert torch.allclose(inverse @ product, torch.eye(coarse, dtype=torch.float64), atol=1e-9)
    else:
        assert torch.allclose(inverse, torch.linalg.pinv(product, rtol=1e-10), atol=1e-8)


@pytest.mark.parametrize("sweeps", [(1, 1), (2, 2), (3, 1)])
def test_more_smoothing_contracts_more(sweeps: tuple[int, int]) -> None:
    A = node_dirichlet(coefficient("rough", 65), 1 / 64)
    assert contraction(A, Multigrid(*sweeps).setup(A)) <= {(1, 1): 0.3, (2, 2): 0.15, (3, 1): 0.15}[sweeps]


def test_single_precision_preconditioner_keeps_the_iteration_count() -> None:
    A = node_dirichlet(coefficient("two_phase", 100, n=3), 1 / 99)
    b = torch.ones((3, *A.space), dtype=torch.float64)
    counts = []
    for precision in (None, torch.float32):
        solver = ConjugateGradients(Multigrid(precision=precision))
        answer = solver.solve(solver.setup(A), b, tol=1e-10)
        assert float(answer.residual.max()) <= 1e-9
        counts.append(answer.iterations)
    assert int((counts[0] - counts[1]).abs().max()) <= 4


def test_pure_diagonal_and_disconnected_points() -> None:
    """A reaction term alone, and rows without neighbours, are handled: no division by zero."""
    stencil = torch.zeros((1, 9, 20, 20), dtype=torch.float64)
    stencil[:, 4] = 3.0
    A = StencilOperator(stencil, (False, False))
    r = torch.randn((1, 20, 20), dtype=torch.float64)
    assert torch.allclose(Multigrid().setup(A)(r), r / 3.0, atol=1e-12)


def test_couplings_across_the_box_are_ignored() -> None:
    A = node_dirichlet(coefficient("smooth", 40), 1 / 39)
    noisy = A.stencil.clone()
    noisy[:, 1, 0] = noisy[:, 7, -1] = noisy[:, 3, :, 0] = noisy[:, 5, :, -1] = -99.0
    B = StencilOperator(noisy, A.periodic, tags=A.tags)
    r = torch.randn((2, *A.space), dtype=torch.float64)
    assert torch.equal(Multigrid().setup(A)(r), Multigrid().setup(B)(r))


def test_too_many_levels_is_one_clear_sentence() -> None:
    A = node_dirichlet(coefficient("poisson", 10), 1 / 9)
    with pytest.raises(UsageError, match="too small for levels=9"):
        Multigrid(levels=9).setup(A)
    big = node_dirichlet(coefficient("poisson", 200), 1 / 199)
    with pytest.raises(UsageError, match="raise levels"):
        Multigrid(levels=1).setup(big)


def test_refusals() -> None:
    shape = (1, 9, 12, 12)
    skew = torch.zeros(shape, dtype=torch.float64)
    skew[:, 4], skew[:, 3], skew[:, 5] = 4.0, -1.0, 1.0
    with pytest.raises(NotSPD, match="symmetric"):
        Multigrid().setup(StencilOperator(skew, (False, False)))
    operator = FunctionOperator(lambda x: x, 1, (12, 12), torch.float64)
    with pytest.raises(UsageError, match="StencilOperator of radius 1"):
        Multigrid().setup(operator)


def test_direct_solve_when_the_grid_is_tiny() -> None:
    A = graph_laplacian((9, 9), "dirichlet", 1.0, seed=3)
    u = torch.randn((2, 9, 9), dtype=torch.float64)
    z = Multigrid().setup(A)(A.matvec(u))
    assert np.abs((z - u).numpy()).max() < 1e-11

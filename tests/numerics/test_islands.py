"""Stiff islands: what is found, exact identities of the balanced cycle, and the trial that chooses between cycles."""

import numpy as np
import pytest
import torch

from sciops.core.face_operator import FaceOperator
from sciops.core.linear import Status
from sciops.numerics.compiled.aggregation import AggregationMultigrid
from sciops.numerics.compiled.box_multigrid import PATIENCE, SWEEPS, BoxMultigrid, Trial, Watcher
from sciops.numerics.compiled.boxmg import BoxHierarchy, BoxOptions
from sciops.numerics.compiled.boxmg_matrix import BoxMatrix
from sciops.numerics.compiled.conjugate_gradients import Outcome, conjugate_gradients
from sciops.numerics.compiled.islands import OCTAVES, BalancedCycle, Islands, float_in_numbers, gap, stiff_parts
from sciops.numerics.compiled.repeated import RepeatedCycle, ritz_values
from sciops.numerics.compiled.systems import FaceSystem


def diffusion(k: np.ndarray) -> FaceOperator:
    """Harmonic means between cells, zero on the walls."""
    faces, sink = [], np.zeros_like(k)
    for axis in range(k.ndim):
        w, along = np.zeros_like(k), np.moveaxis(k, axis, 0)
        np.moveaxis(w, axis, 0)[:-1] = 2 * along[:-1] * along[1:] / (along[:-1] + along[1:])
        faces.append(torch.from_numpy(w)[None])
        for side in (0, -1):
            np.moveaxis(sink, axis, 0)[side] += 2 * along[side]
    return FaceOperator(tuple(faces), torch.from_numpy(sink)[None])


def blocks(contrast: float, shape: tuple[int, ...] = (9, 8, 10)) -> np.ndarray:
    """Two stiff blocks afloat, a third at the wall, one stiff cell (which has no stiff link)."""
    k = np.ones(shape)
    k[2:4, 2:5, 2:4] = contrast
    k[5:8, 3:6, 6:9] = contrast
    k[0:2, 6:8, 0:3] = contrast
    k[6, 1, 1] = contrast
    return k


def islands_of(A: FaceOperator) -> Islands:
    system = FaceSystem(A)
    stiff = stiff_parts(system)
    assert stiff is not None
    found = Islands.find(system, stiff)
    assert found is not None
    return found


def parts(found: Islands) -> np.ndarray:
    """Which cells (rows) belong to which island."""
    return found.columns.to_scipy().toarray() == 1


def test_islands_are_the_stiff_parts_afloat() -> None:
    found = islands_of(diffusion(blocks(1e6)))
    assert sorted(parts(found).sum(0)) == [12, 27]


@pytest.mark.parametrize("contrast", [1.0, 2.0, 2.0 ** (OCTAVES - 2), 1e3, 1e-3])
def test_a_gap_is_seen_where_there_is_one(contrast: float) -> None:
    threshold = gap(FaceSystem(diffusion(blocks(contrast))))
    if 1 / 40 < contrast < 40:
        assert threshold is None
    else:
        low, high = sorted((1.0, contrast))
        assert threshold is not None
        # Harmonic means with the soft side reach twice its value, those inside the stiff parts their own.
        assert 2 * low < threshold < high


def test_columns_are_one_on_their_island_and_fall_off_in_the_soft_cells_around() -> None:
    k = blocks(1e4)
    A = diffusion(k)
    found = islands_of(A)
    Z, indicator = found.columns.to_scipy().toarray(), parts(found)
    stiff = k.ravel() > 1
    stiff[np.ravel_multi_index((6, 1, 1), k.shape)] = False  # has no stiff link
    assert not (Z[stiff] * ~indicator[stiff]).any()
    assert Z.min() == 0
    assert Z[~indicator].max() < 1
    matrix = A.to_scipy(0).toarray()
    for z, inside in zip(Z.T, indicator.T, strict=True):
        # The least energy: harmonic in the soft cells, zero on other stiff ones.
        free = ~stiff
        least = inside.astype(float)
        least[free] = np.linalg.solve(matrix[np.ix_(free, free)], -(matrix @ least)[free])
        energy, jumping = z @ matrix @ z, inside @ matrix @ inside
        assert energy < 1.25 * (least @ matrix @ least) < 0.7 * jumping


@pytest.mark.parametrize("shape", [(9, 8, 10), (30, 24), (60,)], ids=str)
def test_products_and_inverse_are_those_of_the_matrix(shape: tuple[int, ...]) -> None:
    k = np.ones(shape)
    k[tuple(slice(n // 4, n // 2) for n in shape)] = 1e4
    k[tuple(slice(n - 3, n - 1) for n in shape)] = 1e4
    A = diffusion(k)
    found, matrix = islands_of(A), A.to_scipy(0)
    Z = found.columns.to_scipy().toarray()
    assert Z.shape[1] == 2
    # Kept in single precision; stiff weights meet differences of exact zero.
    assert np.abs(found.products.to_scipy().toarray() - matrix @ Z).max() <= 1e-6
    assert np.abs(found.inverse @ (Z.T @ matrix @ Z) - np.eye(found.count)).max() <= 1e-5
    r = np.random.default_rng(0).standard_normal(A.space)
    assert np.allclose(found.columns.dots(r), Z.T @ r.ravel(), atol=1e-13)
    sums = r.copy()
    found.columns.add(np.array([2.0, -3.0]), sums)
    assert np.allclose(sums.ravel(), r.ravel() + Z @ [2.0, -3.0], atol=1e-13)


def test_balanced_cycle_solves_for_islands_exactly_and_stays_symmetric_positive() -> None:
    A = diffusion(blocks(1e5))
    found, matrix = islands_of(A), A.to_scipy(0).toarray()
    options = BoxOptions(precision="double", coarsest=8, cycle="W")
    cycle = BalancedCycle(found, BoxHierarchy(BoxMatrix.from_operator(A), options))
    B = np.zeros_like(matrix)
    for i, unit in enumerate(np.eye(len(matrix))):
        z = np.zeros(A.space)
        cycle(unit.reshape(A.space), z)
        B[i] = z.ravel()
    Z = found.columns.to_scipy().toarray()
    assert np.abs(B.T @ (matrix @ Z) - Z).max() <= 1e-5  # products with A are kept in single precision
    scale = np.sqrt(np.outer(matrix.diagonal(), matrix.diagonal()))
    assert np.abs((B - B.T) * scale).max() <= 1e-9 * np.abs(B * scale).max()
    root = np.linalg.cholesky(matrix)
    spectrum = np.linalg.eigvalsh(root.T @ (B + B.T) / 2 @ root)
    assert spectrum.min() > 0.1
    assert spectrum.max() <= 1 + 1e-6


def balls(n: int, contrast: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    x = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n] * 3, indexing="ij"))
    k = np.ones((n, n, n))
    for _ in range(30):
        centre, radius = rng.random(3), rng.uniform(0.05, 0.12)
        k[((x - centre[:, None, None, None]) ** 2).sum(0) < radius**2] = contrast
    return k


@pytest.mark.parametrize("contrast", [1e6, 1e9])
def test_what_islands_are_balanced_for_is_what_slows_the_cycle_down(contrast: float) -> None:
    A = diffusion(balls(32, contrast))
    b = np.random.default_rng(0).standard_normal(A.space)
    system = FaceSystem(A)
    hierarchy = BoxHierarchy(BoxMatrix.from_operator(A))
    plain = conjugate_gradients(system, hierarchy, b)
    balanced = conjugate_gradients(system, BalancedCycle(islands_of(A), hierarchy), b)
    assert balanced.status is Status.OK
    # Eigenvalues in [0.4, 1] would mean 12 steps; float32 cycles lose a few at contrasts beyond its digits.
    assert balanced.iterations <= min(18, plain.iterations)
    assert contrast < 1e9 or 4 * balanced.iterations < plain.iterations
    # A tiny eigenvalue: a ball that coarse cells tie to its neighbours.
    assert ritz_values(plain.alphas, plain.betas)[0] < 1e-3
    assert ritz_values(balanced.alphas, balanced.betas)[0] > 0.4


def channels(n: int) -> np.ndarray:
    """Two stiff sheets from wall to wall, one cell and two thick."""
    k = np.ones((n, n, n))
    k[n // 3] = 1e4
    k[:, n // 2 : n // 2 + 2] = 1e4
    return k


def stretched(A: FaceOperator) -> FaceOperator:
    """A hundred times weaker along the first axis: too much for cells that coarsen alike along all."""
    sink = A.sink.clone()
    sink[:, 0] = sink[:, -1] = 0.0
    return FaceOperator((A.faces[0] / 100, *A.faces[1:]), sink)


def test_the_trial_keeps_aggregation_where_it_is_fast_and_leaves_it_where_it_is_not() -> None:
    solver = BoxMultigrid()
    uniform = diffusion(np.ones((24, 24, 24)))
    for A, stays in ((uniform, True), (stretched(uniform), False)):
        b = torch.from_numpy(np.random.default_rng(0).standard_normal((1, *A.space)))
        state = solver.setup(A)
        answer = solver.solve(state, b, tol=1e-9)
        trial = state.preconditions[0]
        assert isinstance(trial, Trial)
        assert (trial.second is None) is stays
        assert answer.status == [Status.OK]
        assert int(answer.iterations[0]) == len(answer.history) - 1
        aggregation = AggregationMultigrid(SWEEPS)
        alone = aggregation.solve(aggregation.setup(A), b, tol=1e-9, maxiter=int(answer.iterations[0]))
        assert (alone.status == [Status.OK]) is stays
        # What was decided stays: the next right-hand side goes to the chosen cycle at once.
        again = solver.solve(state, b, tol=1e-9)
        assert int(again.iterations[0]) <= int(answer.iterations[0])
        assert torch.allclose(again.x, answer.x, rtol=1e-6, atol=1e-7 * float(answer.x.abs().max()))


def test_stiff_parts_afloat_skip_the_trial() -> None:
    assert float_in_numbers(FaceSystem(diffusion(balls(24, 1e6)))) is not None
    assert float_in_numbers(FaceSystem(diffusion(balls(24, 1.0)))) is None
    assert float_in_numbers(FaceSystem(diffusion(balls(24, 1e-6)))) is None
    assert float_in_numbers(FaceSystem(diffusion(channels(24)))) is None
    state = BoxMultigrid().setup(diffusion(balls(24, 1e6)))
    cycle = state.preconditions[0]
    assert isinstance(cycle, RepeatedCycle)
    assert isinstance(cycle.cycle, BalancedCycle)


def watched(history: list[float], target: int | None = None, patience: float = PATIENCE) -> Watcher:
    """A watcher that has seen this history, step by step."""
    system = FaceSystem(diffusion(np.ones((4, 4))))
    watcher = Watcher(RepeatedCycle(system, lambda r, z: None), 1e-8, target, 0, patience)
    for n in range(1, len(history)):
        # A step of length one: Ritz values that stay together.
        watcher(Outcome(np.zeros(1), n, history[: n + 1], alphas=[1.0] * n, betas=[0.1] * n))
    return watcher


def test_patience() -> None:
    fast = [0.2**n for n in range(5)]
    slow = [0.9**n for n in range(5)]
    assert not watched(fast).weak
    assert watched(slow).weak
    assert not watched(slow[:4]).weak
    assert watched([1.0, 0.1, 0.1, 0.2, 0.3]).weak
    assert not watched(slow, patience=np.inf).weak


def test_a_first_cycle_is_left_early_where_it_would_miss_the_target() -> None:
    """At step 4 with a rate that makes 30 steps in all: too many for a target of 20, few enough without one."""
    history = [10 ** (-8 * n / 30) for n in range(21)]
    assert watched(history[:5], 20).weak
    assert not watched(history[:5], 25).weak
    assert not watched(history[:5]).weak
    # Nothing is left early for which there is no other cycle.
    assert not watched(history[:5], 20, np.inf).weak


def test_cycles_are_repeated_where_the_target_is_out_of_reach() -> None:
    """20 steps to 1e-8 need a mean rate of 0.4; a slower one is made up for by as many cycles as it takes."""
    for rate, times in ((0.3, 1), (0.45, 2), (0.6, 3), (0.9, 4)):
        history = [rate**n for n in range(9)]
        assert watched(history, 20, np.inf).cycle.times == times
        assert watched(history, None, np.inf).cycle.times == 1
        assert watched(history[:8], 20, np.inf).cycle.times == 1


def test_unequal_spacings_hide_no_gap() -> None:
    A = diffusion(blocks(1e3))
    flat = FaceOperator((A.faces[0] * 30, *A.faces[1:]), A.sink)
    assert gap(FaceSystem(flat)) is None
    found = islands_of(flat)
    assert sorted(parts(found).sum(0)) == [12, 27]
    Z = found.columns.to_scipy().toarray()
    assert np.abs(found.products.to_scipy().toarray() - flat.to_scipy(0) @ Z).max() <= 1e-6 * 30

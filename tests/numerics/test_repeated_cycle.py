"""Repeated cycles: Chebyshev's polynomial exactly, symmetry, positivity; Ritz values against eigenvalues."""

import numpy as np
import pytest
import torch

from sciops.core.face_operator import FaceOperator
from sciops.core.linear import Status
from sciops.numerics.compiled.aggregation import AggregationCycle
from sciops.numerics.compiled.boxmg import BoxHierarchy, BoxOptions
from sciops.numerics.compiled.boxmg_matrix import BoxMatrix
from sciops.numerics.compiled.conjugate_gradients import conjugate_gradients
from sciops.numerics.compiled.repeated import LEAST, RepeatedCycle, ritz_values, steps_left
from sciops.numerics.compiled.systems import FaceSystem


def operator(shape: tuple[int, ...], seed: int, decades: float = 2.0) -> FaceOperator:
    """Face weights within so many decades of one and a sink everywhere."""
    rng = np.random.default_rng(seed)
    faces = []
    for axis in range(len(shape)):
        w = 10 ** rng.uniform(-decades, decades, shape)
        np.moveaxis(w, axis, 0)[-1] = 0.0
        faces.append(torch.from_numpy(w)[None])
    return FaceOperator(tuple(faces), torch.from_numpy(10 ** rng.uniform(-2, 0, shape))[None])


def dense(cycle: RepeatedCycle, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    columns = np.zeros((size, size))
    for i, unit in enumerate(np.eye(size)):
        cycle(unit.reshape(shape), columns[i].reshape(shape))
    return columns.T


@pytest.mark.parametrize("kind", ["aggregation", "box"])
@pytest.mark.parametrize("times", [2, 3, 4])
def test_polynomial_of_the_cycle_is_symmetric_positive_and_chebyshevs(kind: str, times: int) -> None:
    A = operator((9, 8), 0)
    system = FaceSystem(A)
    cycle = (
        AggregationCycle(system, 2, 2.0, np.float64)
        if kind == "aggregation"
        else BoxHierarchy(BoxMatrix.from_operator(A), BoxOptions(precision="double", coarsest=8))
    )
    matrix = A.to_scipy(0).toarray()
    once = RepeatedCycle(system, cycle)
    root = np.linalg.cholesky(matrix)
    values = np.linalg.eigvalsh(root.T @ dense(once, A.space) @ root)
    several = RepeatedCycle(system, cycle, largest=float(values[-1]))
    several.times = times
    B = dense(several, A.space)
    assert several.products == (times - 1) * len(matrix)
    assert np.abs(B - B.T).max() <= 1e-11 * np.abs(B).max()
    found = np.linalg.eigvalsh(root.T @ (B + B.T) / 2 @ root)
    assert found.min() > 0
    # Eigenvalues of the polynomial: 1 − T(x)/T(x₀), x the map of [a, b] to [1, −1], x₀ that of 0.
    a, b = LEAST * values[-1], values[-1]
    polynomial = np.polynomial.Chebyshev.basis(times)
    expected = 1 - polynomial((b + a - 2 * values) / (b - a)) / polynomial((b + a) / (b - a))
    assert np.allclose(np.sort(found), np.sort(expected), atol=1e-9)
    if values[0] < LEAST * values[-1]:
        assert found[-1] / found[0] < values[-1] / values[0]


def test_more_cycles_take_fewer_steps() -> None:
    A = operator((40, 37), 1, 1.0)
    system, b = FaceSystem(A), np.random.default_rng(2).standard_normal(A.space)
    cycle = RepeatedCycle(system, AggregationCycle(system, 2, 2.0, np.float32))
    counts = []
    for times in (1, 2, 3):
        cycle.times = times
        out = conjugate_gradients(system, cycle, b)
        assert out.status is Status.OK
        counts.append(out.iterations)
        if times == 1:
            cycle.largest = float(ritz_values(out.alphas, out.betas)[-1])
    # Steps fall nearly like 1/times where the spectrum has no gaps.
    assert counts[1] <= 0.7 * counts[0]
    assert counts[2] <= 0.55 * counts[0]


def test_ritz_values_are_the_eigenvalues_once_the_space_is_full() -> None:
    A = operator((3, 2), 3)
    system = FaceSystem(A)
    out = conjugate_gradients(system, None, np.random.default_rng(4).standard_normal(A.space), tol=1e-14)
    exact = np.linalg.eigvalsh(A.to_scipy(0).toarray())
    assert np.allclose(ritz_values(out.alphas[:6], out.betas[:6]), exact, rtol=1e-8)
    early = ritz_values(out.alphas[:3], out.betas[:3])
    assert exact[0] < early[0]
    assert early[-1] < exact[-1]


def test_steps_left() -> None:
    assert steps_left([1.0, 1e-1, 1e-2, 1e-3], 1e-8) == pytest.approx(5)
    assert steps_left([1.0, 1e-1, 1e-2, 1e-4], 1e-8, 1) == pytest.approx(2)
    assert steps_left([1.0, 1.0, 1.0, 1.0], 1e-8) == np.inf
    assert steps_left([1.0, 0.1, 0.1, 0.1], 0.0) == np.inf


def test_strengthening() -> None:
    """Aggregation gets sweeps, other cycles are repeated, and both have their limits."""
    A = operator((6, 5), 6)
    system = FaceSystem(A)
    aggregation, other = AggregationCycle(system, 3, 2.0, np.float32), BoxHierarchy(BoxMatrix.from_operator(A))
    for cycle, read, most in (
        (RepeatedCycle(system, aggregation), lambda: aggregation.sweeps, 8),
        (box := RepeatedCycle(system, other), lambda: box.times, 4),
    ):
        assert not cycle.strengthen(1.0)
        before = read()
        assert cycle.strengthen(1.2)
        assert before < read() < most
        assert cycle.strengthen(9.0)
        assert read() == most
        assert not cycle.strengthen(9.0)
    assert box.times == 4
    assert RepeatedCycle(system, aggregation).times == 1

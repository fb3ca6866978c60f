"""Implicit steps of heat conduction: a Fourier multiplier, a dense matrix, balances and the maximum principle."""

import numpy as np
import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.problems.heat_conduction import HeatConduction, units_on


def made(problem, n=16, count=3, **options):
    grid = Grid.box(n, ndim=2, layout="periodic")
    cases = problem.sample(range(count), grid, **options)
    return grid, cases, problem.reference(cases)


def test_constant_conductivity_is_a_fourier_multiplier() -> None:
    problem = HeatConduction(exponent=0.0, loss=0.7, every=0.5, warmup=2)
    grid, cases, solution = made(problem)
    u, v = solution.field.values[:, 0, 0], solution.field.values[:, 1, 0]
    n = grid.shape[0]
    k = torch.arange(n, dtype=torch.float64)
    symbol = 0.05 * (2 * n * torch.sin(torch.pi * k / n)) ** 2
    whole = 1 + 0.5 * 0.7 + 0.5 * (symbol[:, None] + symbol)
    expected = torch.fft.ifft2(torch.fft.fft2(u + 0.5 * cases.input("f")) / whole).real
    assert float((v - expected).norm() / expected.norm()) < 1e-9  # relative residual 1e-10, A ≥ 1


def test_a_step_is_the_dense_system() -> None:
    """The matrix written down entry by entry, with faces that average k at the old state."""
    problem, n, dt = HeatConduction(every=0.8, warmup=3), 6, 0.8
    _, cases, solution = made(problem, n, 2)
    for i in range(2):
        u, v = (solution.field.values[i, j, 0].numpy() for j in (0, 1))
        k = 0.05 * (1 + u) ** (-4 / 3)
        A = np.zeros((n * n, n * n))
        for x in range(n):
            for y in range(n):
                row = x * n + y
                A[row, row] += 1 + dt
                for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                    a, b = (x + dx) % n, (y + dy) % n
                    face = dt * n**2 * (k[x, y] + k[a, b]) / 2
                    A[row, row] += face
                    A[row, a * n + b] -= face
        expected = np.linalg.solve(A, (u + dt * cases.input("f")[i].numpy()).ravel()).reshape(n, n)
        assert np.linalg.norm(v - expected) < 1e-9 * np.linalg.norm(expected)


def test_heat_is_balanced_and_no_point_is_colder_than_the_surroundings() -> None:
    problem = HeatConduction(loss=0.5, frames=3)
    _, cases, solution = made(problem)
    heat = problem.invariants()["heat"](solution.field)
    gained = cases.input("f").flatten(1).mean(1)[:, None]
    torch.testing.assert_close(1.5 * heat[:, 1:], heat[:, :-1] + gained, rtol=1e-7, atol=0.0)
    assert float(solution.field.values.min()) > 0.0
    assert float(solution.stats["residual"].max()) < 1e-10
    assert float(solution.stats["label_error"].max()) < 1e-8


def test_sources_switch_and_the_first_frame_is_the_state() -> None:
    problem = HeatConduction()
    grid, cases, solution = made(problem, 16, 8)
    torch.testing.assert_close(solution.field.values[:, 0], problem.initial(cases))
    powers = torch.stack([problem.powers(seed) for seed in range(200)])
    changes = (powers[:, 1:] != powers[:, :-1]).double().mean()
    assert float(changes) == pytest.approx(0.3, abs=4 * (0.21 / (200 * 24)) ** 0.5)
    assert set((powers > 0).double().mean((1, 2)).gt(0.0).tolist()) == {True}
    assert float(powers[powers > 0].min()) >= 2.0 and float(powers.max()) <= 8.0
    f = units_on(grid, [(0.95, 0.0, 0.05)])
    assert float(f[0].max()) == pytest.approx(1.0, abs=0.05) and float(f[0, 0, 0]) > 0.5 > float(f[0, 8, 0])
    # Two grids, the same functions: the sources to the bit, the state to the scheme's second order.
    fine = problem.sample(range(2), grid.resized((32, 32)))
    torch.testing.assert_close(fine.input("f")[:, ::2, ::2], cases.input("f")[:2])
    assert float((fine.input("u")[:, ::2, ::2] - cases.input("u")[:2]).norm() / fine.input("u").norm()) < 0.1


def test_frames_are_whole_steps() -> None:
    from dataclasses import replace

    problem = HeatConduction()
    _, cases, solution = made(problem, 16, 1)
    later = problem.reference(replace(cases, times=(2.0,)))
    torch.testing.assert_close(later.field.values[:, 0], solution.field.values[:, 2])
    with pytest.raises(UsageError, match=r"got t = 0\.5"):
        problem.reference(replace(cases, times=(0.5,)))
    with pytest.raises(UsageError, match="switching is a probability"):
        HeatConduction(switching=0.0)
    with pytest.raises(UsageError, match=r"lives on \[0, 1\)²"):
        problem.sample([0], Grid.box(16, 0.0, 2.0, "periodic", ndim=2))

"""Sparse kernel weights: exact steps, unbiased messages, and one consensus from many workers."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sciops.core.errors import DataError, UsageError
from sciops.numerics.slim_kl.components import LowRank, SpectralMixture, frequency_grid
from sciops.numerics.slim_kl.discover import discover_distributed
from sciops.numerics.slim_kl.majorise import Penalty, bound, minimise, smallest, start, step
from sciops.numerics.slim_kl.noise import difference_noise, spline_noise
from sciops.numerics.slim_kl.packing import dense_bits, pack, unpack
from sciops.numerics.slim_kl.protocol import Server, Settings, simulate
from sciops.numerics.slim_kl.quantise import Quantiser, Stream, stochastic_levels
from sciops.numerics.slim_kl.support import same_support, support
from sciops.numerics.slim_kl.surrogate import surrogate_minimum
from sciops.numerics.sparse_spectrum import majorise
from sciops.numerics.sparse_spectrum import support as peaks

DOUBLE = torch.float64


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def low_rank(points: int = 20, count: int = 12, rank: int = 2, seed: int = 0) -> tuple[LowRank, Tensor]:
    columns = torch.randn(points, count, rank, generator=random(seed), dtype=DOUBLE)
    return LowRank(columns), columns


def series(offset: float, noise: float = 1e-3, n: int = 240, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x (n, 1), y (n, 1) with lines at the 60th, 200th and 333rd of 500 frequencies, moved by `offset` cells."""
    grid = frequency_grid(1)
    x = torch.arange(n, dtype=DOUBLE)
    y = torch.zeros_like(x)
    for index, amplitude, phase in ((60, 1.0, 0.3), (200, 0.7, 1.0), (333, 0.3, 2.0)):
        mu = float(grid[index] + offset * grid[1])
        y += amplitude * torch.cos(2 * math.pi * mu * x + phase)
    y = y / y.std() + noise**0.5 * torch.randn(n, generator=random(seed), dtype=DOUBLE)
    return x[:, None], y[:, None], grid


def dealt(x: Tensor, y: Tensor, grid: Tensor, workers: int) -> tuple[list[SpectralMixture], list[Tensor]]:
    blocks = torch.randperm(len(x), generator=random(1)).chunk(workers)
    return [SpectralMixture(x[i], grid) for i in blocks], [y[i] for i in blocks]


# ---- components


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_spectral_mixture_equals_its_definition(axes: int) -> None:
    x = 30 * torch.rand(9, axes, generator=random(), dtype=DOUBLE)
    mu = 0.5 * torch.rand(5, axes, generator=random(1), dtype=DOUBLE)
    theta = torch.rand(5, generator=random(2), dtype=DOUBLE)
    mixture = SpectralMixture(x, mu, bandwidth=0.01)
    lag = x[:, None] - x[None]
    K = torch.exp(-2 * math.pi**2 * 0.01**2 * lag.square().sum(-1)) * torch.cos(
        2 * math.pi * mu[:, None, None] * lag
    ).prod(-1)
    torch.testing.assert_close(mixture.total(theta), torch.einsum("a,anm->nm", theta, K), rtol=0, atol=1e-13)
    W = torch.randn(9, 9, generator=random(3), dtype=DOUBLE)
    W = W + W.T
    torch.testing.assert_close(mixture.traces(W), torch.einsum("nm,amn->a", W, K), rtol=0, atol=1e-11)
    alpha = torch.randn(9, 2, generator=random(4), dtype=DOUBLE)
    torch.testing.assert_close(mixture.products(alpha), K @ alpha, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixture.across(x[:4], theta), mixture.total(theta)[:4], rtol=0, atol=1e-13)


def test_low_rank_equals_its_definition() -> None:
    components, columns = low_rank(7, 4, 3)
    K = torch.einsum("nar,mar->anm", columns, columns)
    theta, alpha = torch.rand(4, dtype=DOUBLE), torch.randn(7, 2, dtype=DOUBLE)
    torch.testing.assert_close(components.total(theta), torch.einsum("a,anm->nm", theta, K), rtol=0, atol=1e-13)
    torch.testing.assert_close(components.products(alpha), K @ alpha, rtol=0, atol=1e-12)
    quadratic = torch.einsum("nr,anm,mr->a", alpha, K, alpha)
    torch.testing.assert_close(components.quadratics(alpha), quadratic, rtol=1e-12, atol=0)
    torch.testing.assert_close(components.traces(alpha @ alpha.T), quadratic, rtol=1e-12, atol=1e-12)


def test_uniform_frequencies_cover_the_plane_and_not_its_diagonal() -> None:
    grid = frequency_grid(2)
    assert len(grid) == 225 >= 200
    assert len(torch.unique(grid, dim=0)) == 225
    assert float(grid.amin()) == 0.0 and float(grid.amax()) == 0.5
    assert int((grid[:, 0] == grid[:, 1]).sum()) == 15
    assert frequency_grid(1).shape == (500, 1)
    assert frequency_grid(5).shape == (500, 5)


# ---- the step


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=8),
    st.floats(-1e4, 1e4),
    st.floats(1e-10, 1e6),
)
@settings(max_examples=200, deadline=None)
def test_coordinate_minimum_has_no_better_neighbour(P: list[float], b: float, rho: float) -> None:
    p, slope = torch.tensor(P, dtype=DOUBLE), torch.full((len(P),), b, dtype=DOUBLE)
    z = smallest(p, slope, rho)
    assert bool((z >= 0).all() and torch.isfinite(z).all())

    def h(t: Tensor) -> Tensor:
        return torch.where(p > 0, p / t, 0.0) + slope * t + rho / 2 * t.square()

    here = h(z)
    rounding = 1e-12 * (torch.where(p > 0, p / z, 0.0) + slope.abs() * z + rho * z.square())
    for factor in (0.5, 0.99, 1.01, 2.0):
        assert bool((here <= h(z * factor + (1e-9 if factor > 1 else 0.0)) + rounding + 1e-300).all())


def test_coordinate_minimum_without_penalty_is_the_square_root() -> None:
    p, q = torch.rand(5, dtype=DOUBLE), torch.rand(5, dtype=DOUBLE)
    torch.testing.assert_close(smallest(p, q, 0.0), (p / q).sqrt(), rtol=1e-15, atol=0)
    torch.testing.assert_close(smallest(p, q, 1e-12), (p / q).sqrt(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("rho", [None, 1e-3, 1.0, 1e3])
def test_objective_never_rises_and_weights_stay_positive(rho: float | None) -> None:
    for seed in range(5):
        components, columns = low_rank(seed=seed)
        y = columns[:, 3] @ torch.ones(2, 1, dtype=DOUBLE) + 0.1 * torch.randn(
            20, 1, generator=random(seed), dtype=DOUBLE
        )
        theta = torch.rand(12, generator=random(seed), dtype=DOUBLE)
        penalty = None
        if rho is not None:
            multiplier = 30 * torch.randn(
                12, generator=random(seed + 9), dtype=DOUBLE
            )  # some pull to the negative side
            penalty = Penalty(multiplier, torch.rand(12, generator=random(seed + 5), dtype=DOUBLE), rho)
        values = []
        for _ in range(60):
            theta, objective = step(components, y, 0.01, theta, penalty)
            values.append(float(objective))
            assert bool((theta >= 0).all())
        scale = max(map(abs, values))
        assert max(b - a for a, b in pairwise(values)) <= 1e-11 * scale
        assert values[-1] < values[0] - 1.0


def test_learned_noise_never_raises_the_objective_and_finds_white_noise() -> None:
    components, _ = low_rank(200, 3, 1)
    y = 0.5 * torch.randn(200, 1, generator=random(7), dtype=DOUBLE)
    found = minimise(components, y, 3.0, torch.full((3,), 0.1, dtype=DOUBLE), steps=300, tol=1e-12, least_noise=1e-6)
    assert max(b - a for a, b in pairwise(found.history)) <= 1e-9
    assert found.noise == pytest.approx(0.25, rel=0.3)  # three standard deviations of a sample of 200


def test_bound_coefficients_are_the_gradient() -> None:
    components, _ = low_rank()
    y = torch.randn(20, 3, generator=random(2), dtype=DOUBLE)
    theta = torch.rand(12, generator=random(3), dtype=DOUBLE).requires_grad_()
    C = components.total(theta) + 0.1 * torch.eye(20, dtype=DOUBLE)
    objective = (y * torch.linalg.solve(C, y)).sum() + 3 * torch.logdet(C)
    (gradient,) = torch.autograd.grad(objective, theta)
    at = bound(components, y, 0.1, theta.detach())
    torch.testing.assert_close(at.objective, objective.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(at.q - at.p, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rho", [0.0, 5.0])
def test_closed_form_steps_reach_the_convex_subproblem_of_newton(rho: float) -> None:
    components, columns = low_rank(15, 6, 1)
    y = columns[:, 1] + 0.5 * columns[:, 4]
    theta = torch.full((6,), 0.5, dtype=DOUBLE)
    penalty = Penalty(torch.randn(6, generator=random(1), dtype=DOUBLE), torch.full((6,), 0.2, dtype=DOUBLE), rho)
    tied = penalty if rho else None
    q = bound(components, y, 0.05, theta).q
    newton = surrogate_minimum(components, y, 0.05, theta, tied)
    assert newton.converged
    z = theta.clone()
    for _ in range(600):  # the same majorisation with log|C| linearised at one point for ever
        at = bound(components, y, 0.05, z)
        b = q + (penalty.multiplier - rho * penalty.centre if rho else 0.0)
        z = smallest(z.square() * at.p, b, rho)
    C = components.total(z) + 0.05 * torch.eye(15, dtype=DOUBLE)
    value = float((y * torch.linalg.solve(C, y)).sum() + q @ z + (penalty.value(z) if rho else 0.0))
    assert newton.history[-1] == pytest.approx(value, rel=1e-5)
    assert newton.history[-1] <= value + 1e-9
    torch.testing.assert_close(newton.theta, z, rtol=1e-2, atol=5e-3)


# ---- messages


def test_rounding_is_unbiased_and_close() -> None:
    x = torch.tensor([0.0, 0.04, 0.1, 0.25, -0.33, 0.999, 3.0], dtype=DOUBLE)
    n = 40_000
    levels = stochastic_levels(x.repeat(n, 1).flatten(), 0.1, random()).reshape(n, -1).double() * 0.1
    assert float((levels - x).abs().max()) < 0.1
    # 5 standard deviations of a mean of n draws, each of at most Δ/2
    assert float((levels.mean(0) - x).abs().max()) < 5 * 0.05 / n**0.5
    exact = torch.tensor([0.0, 0.5, -2.25], dtype=DOUBLE)
    assert torch.equal(stochastic_levels(exact, 0.25, random()), torch.tensor([0, 2, -9]))
    fine = stochastic_levels(x, 1e-12, random()).double() * 1e-12
    torch.testing.assert_close(fine, x, rtol=0, atol=1.1e-12)


@given(st.lists(st.integers(-(2**20), 2**20) | st.just(0), min_size=1, max_size=80))
@settings(max_examples=200, deadline=None)
def test_packing_gives_back_what_went_in(numbers: list[int]) -> None:
    levels = torch.tensor(numbers)
    assert torch.equal(unpack(pack(levels), len(levels)), levels)


def test_packed_sizes() -> None:
    levels = torch.randint(0, 8, (500,), generator=random())
    assert dense_bits(levels) == 1500
    assert len(pack(levels)) == 5 + 188
    levels = torch.zeros(500, dtype=torch.int64)
    assert len(pack(levels)) == 2
    levels[123] = 1  # 3 + 13 + 1 bits
    assert len(pack(levels)) <= 1 + 3


def test_damaged_messages_are_refused() -> None:
    message = pack(torch.randint(-9, 9, (50,), generator=random()))
    sparse = pack(torch.tensor([0] * 40 + [700]))
    for damaged, count in ((message[:-1], 50), (message, 60), (b"", 3), (sparse[:-2], 41), (sparse, 7)):
        with pytest.raises(DataError):
            unpack(damaged, count)


@pytest.mark.parametrize("quantiser", [Quantiser(0.1), Quantiser(0.02, False, False), Quantiser(0.01, limit=60)])
def test_both_ends_of_a_stream_agree_without_bias(quantiser: Quantiser) -> None:
    zero = torch.zeros(50, dtype=DOUBLE)
    x = torch.rand(50, generator=random(), dtype=DOUBLE) ** 6
    total, largest, n = zero.clone(), 0.0, 150
    for seed in range(n):
        sender, receiver = Stream(quantiser, zero, seed), Stream(quantiser, zero)
        for target in (0.7 * x, x):
            message = sender.encode(target)
            assert torch.equal(receiver.decode(message), sender.value)
            assert quantiser.limit is None or len(message) <= quantiser.limit
        total += sender.value - x
        largest = max(largest, sender._step(int.from_bytes(message[:1], "little", signed=True)))
    assert float(total.abs().max()) / n <= 5 * largest / 2 / n**0.5


def test_relative_differences_close_in_on_a_fixed_target() -> None:
    x = torch.rand(100, generator=random(), dtype=DOUBLE)
    stream = Stream(Quantiser(0.1), torch.zeros_like(x), 3)
    for k in range(1, 8):
        stream.encode(x)
        assert float((stream.value - x).abs().max()) <= 0.1**k


# ---- consensus


def test_residual_balancing_is_symmetric() -> None:
    server = Server(2, torch.zeros(3, dtype=DOUBLE), Settings(rho=1.0))
    for primal, dual, wanted in ((1.01, 0.1, 1), (0.99, 0.1, 0), (0.1, 1.01, 2), (0.1, 0.99, 0), (1e-4, 1e-4, 3)):
        server.primal, server.dual = primal, dual
        assert server._control() == wanted


def test_one_worker_without_rounding_is_the_centralised_fit() -> None:
    components, columns = low_rank(30, 12)
    y = columns[:, 3] @ torch.ones(2, 1, dtype=DOUBLE) + 0.3 * torch.randn(30, 1, generator=random(5), dtype=DOUBLE)
    theta = torch.full((12,), 0.1, dtype=DOUBLE)
    alone = minimise(components, y, 0.09, theta, steps=3000, tol=1e-6)
    one = simulate([components], [y], 0.09, theta, Settings(Quantiser(0.0), tolerance=1e-6, steps=3000))
    assert alone.converged and one.converged
    values = [float(bound(components, y, 0.09, t).objective) for t in (alone.theta, one.theta)]
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    torch.testing.assert_close(one.theta, alone.theta, rtol=0, atol=1e-3 * float(alone.theta.max()))


@pytest.mark.parametrize("delta", [0.0, 1e-3, 1e-1])
def test_four_workers_find_what_one_finds_on_the_grid(delta: float) -> None:
    x, y, grid = series(0.0)
    components = SpectralMixture(x, grid)
    alone = minimise(components, y, 1e-3, start(components, y, 1e-3))
    lines = support(alone.theta, grid)
    assert lines.tolist() == [60, 200, 333]
    parts, values = dealt(x, y, grid, 4)
    settings = Settings(Quantiser(delta), rho=1.0)
    common = simulate(parts, values, 1e-3, torch.full((500,), 1 / 500, dtype=DOUBLE), settings)
    assert common.converged
    assert support(common.theta, grid).tolist() == [60, 200, 333]
    assert common.bits == 8 * sum(sum(r.up) + sum(r.down) for r in common.rounds)
    if delta:
        assert max(r.bytes for r in common.rounds) < 2048
    else:
        assert {r.bytes for r in common.rounds} == {4 * (4 + 4000) + 4 * (4 + 1 + 4000)}


def test_published_start_and_lines_between_grid_points() -> None:
    """ρ⁰ = 1e-10 and lines 0.4 cells off: the same lines to one cell, still under 2 kB a round."""
    x, y, grid = series(0.4, n=160, seed=3)
    components = SpectralMixture(x, grid)
    alone = support(minimise(components, y, 1e-3, start(components, y, 1e-3)).theta, grid)
    parts, values = dealt(x, y, grid, 4)
    common = simulate(parts, values, 1e-3, torch.full((500,), 1 / 500, dtype=DOUBLE), Settings())
    found = support(common.theta, grid)
    assert len(alone) == 3
    assert same_support(alone, found, grid, cells=1)
    assert max(r.bytes for r in common.rounds) < 2048


def test_messages_keep_a_limit() -> None:
    x, y, grid = series(0.0)
    parts, values = dealt(x, y, grid, 4)
    quantiser = Quantiser(1e-3, limit=110)
    theta = torch.full((500,), 1 / 500, dtype=DOUBLE)
    common = simulate(parts, values, 1e-3, theta, Settings(quantiser, rho=1.0))
    assert max(max(r.up + r.down) for r in common.rounds) <= 110 + 4 + 1
    assert support(common.theta, grid).tolist() == [60, 200, 333]


def test_absolute_steps_as_published() -> None:
    """Rounding of values to a fixed Δ leaves noise of that size; lines above it are found."""
    x, y, grid = series(0.0)
    parts, values = dealt(x, y, grid, 4)
    settings = Settings(Quantiser(1e-3, relative=False, differences=False), rho=1.0, rounds=30)
    common = simulate(parts, values, 1e-3, torch.full((500,), 1 / 500, dtype=DOUBLE), settings)
    assert support(common.theta, grid, floor=4e-3).tolist() == [60, 200, 333]


def test_workers_with_collocation_points_find_the_frequencies_of_a_solution() -> None:
    """−u″ = f with three sines: 4 workers, one worker and the centralised majorisation see the same lines."""
    length, n = 2 * math.pi, 120
    mu = torch.arange(1, 120, dtype=DOUBLE) / (1.37 * length)
    x = length * torch.rand(n, generator=random(), dtype=DOUBLE)
    lines = {26: 1.0, 51: 0.3, 95: 0.2}
    f = torch.zeros_like(x)
    for index, amplitude in lines.items():
        k = 2 * math.pi * float(mu[index])
        f += amplitude * k * k * torch.sin(k * x + index)
    phase = 2 * math.pi * x[:, None] * mu
    features = (2 * math.pi * mu[None, :, None]).square() * torch.stack((phase.cos(), phase.sin()), -1)
    unit = features / features.square().mean((0, 2)).sqrt()[:, None]
    central = peaks(majorise(unit, f[:, None]).weights).sort().values
    assert central.tolist() == list(lines)
    for workers in (1, 4):
        blocks = torch.randperm(n, generator=random(1)).chunk(workers)
        found = discover_distributed([features[i] for i in blocks], [f[i] for i in blocks], processes=False)
        assert torch.equal(support(found.weights, mu[:, None]), central)
        assert max(r.bytes for r in found.consensus.rounds) < 2048
        torch.testing.assert_close(
            found.theta * features.square().mean((0, 2)) / f.square().mean() * 2, found.weights, rtol=1e-9, atol=1e-12
        )


# ---- support, noise, bad input


def test_support_takes_peaks_and_not_shoulders() -> None:
    grid = torch.linspace(0, 0.5, 10, dtype=DOUBLE)[:, None]
    theta = torch.tensor([0.0, 0.2, 1.0, 0.9, 1e-4, 0.0, 0.5, 0.5, 0.0, 2e-3], dtype=DOUBLE)
    assert support(theta, grid).tolist() == [2, 6, 9]
    assert support(theta, grid, threshold=0.1).tolist() == [2, 6]
    assert support(theta, grid, floor=0.6).tolist() == [2]
    assert support(torch.zeros(10, dtype=DOUBLE), grid).tolist() == []
    plane = frequency_grid(2, 25)
    theta = torch.zeros(25, dtype=DOUBLE)
    theta[[6, 12, 24]] = torch.tensor([1.0, 0.9, 0.3], dtype=DOUBLE)  # (1,1) touches (2,2) at a corner
    assert support(theta, plane).tolist() == [6, 24]
    assert same_support(torch.tensor([3, 8]), torch.tensor([4, 8]), grid, cells=1)
    assert not same_support(torch.tensor([3, 8]), torch.tensor([4, 8]), grid)
    assert not same_support(torch.tensor([3]), torch.tensor([3, 8]), grid, cells=1)


def test_noise_of_smooth_data_is_found() -> None:
    x = torch.rand(400, generator=random(), dtype=DOUBLE).sort().values
    white = torch.randn(400, generator=random(1), dtype=DOUBLE)
    assert spline_noise(x, torch.sin(9 * x) + 0.3 * white) == pytest.approx(0.09, rel=0.25)
    assert spline_noise(x, torch.sin(9 * x)) < 1e-6
    plane = torch.rand(2000, 2, generator=random(2), dtype=DOUBLE)
    y = plane[:, 0] + plane[:, 1].square() + 0.3 * torch.randn(2000, generator=random(3), dtype=DOUBLE)
    assert difference_noise(plane, y) == pytest.approx(0.09, rel=0.2)


def test_bad_input_is_refused_in_a_sentence() -> None:
    components, columns = low_rank()
    y, theta = torch.randn(20, 1, dtype=DOUBLE), torch.full((12,), 0.1, dtype=DOUBLE)
    with pytest.raises(UsageError, match="not finite"):
        simulate([components], [y * torch.nan], 0.1, theta, Settings())
    with pytest.raises(UsageError, match="weights"):
        simulate([components], [y], 0.1, theta[:5], Settings())
    with pytest.raises(UsageError, match="float64"):
        LowRank(columns.float())
    with pytest.raises(UsageError, match="singular"):
        minimise(LowRank(columns[:, :1, :1]), y, 0.0, theta[:1])
    with pytest.raises(UsageError, match="step of rounding"):
        Quantiser(-1.0)
    with pytest.raises(UsageError, match="rho"):
        replace(Settings(), rho=0.0)
    with pytest.raises(UsageError, match="zero"):
        discover_distributed([columns], [0 * y], processes=False)
    with pytest.raises(UsageError, match="layout"):
        frequency_grid(1, layout="diagonal")

"""Densities on boxes: inverses, determinants, mass, sampling, starts, mixtures, tables, and what is refused."""

import math

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.random import generator
from sciops.models.densities import (
    Arcsine,
    Density,
    Flow,
    KRnet,
    MassLost,
    Mixture,
    Restricted,
    SplineFlow,
    Tabulated,
    Uniform,
    check_mass,
    safeguarded,
)
from sciops.models.densities.krnet_layers import ActNorm
from sciops.numerics.critic import midpoints


def moved(flow: Flow, size: float = 0.1) -> Flow:
    """The flow with weights away from their start."""
    random = generator(1)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(size * torch.randn(p.shape, generator=random, dtype=torch.float64).to(p.dtype))
    return flow


def corners(d: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return -torch.ones(d, dtype=dtype), torch.linspace(1, 2, d, dtype=dtype)


def spline(d: int, dtype: torch.dtype = torch.float64) -> Flow:
    return moved(SplineFlow(*corners(d, dtype)))


def krnet(d: int, step: int = 1, dtype: torch.dtype = torch.float64) -> Flow:
    return moved(KRnet(*corners(d, dtype), step=step, depth=4, rotation=True), 0.03)


FLOWS = [pytest.param(lambda t, d=d: spline(d, t), id=f"spline-{d}") for d in (1, 2, 3, 8)] + [
    pytest.param(lambda t, d=d, s=s: krnet(d, s, t), id=f"krnet-{d}-{s}") for d, s in ((1, 1), (2, 1), (3, 2), (8, 3))
]


@pytest.mark.parametrize("dtype, tol", [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("make", FLOWS)
def test_inverse(make, dtype: torch.dtype, tol: float) -> None:
    flow = make(dtype)
    low, high = corners(flow.ndim, dtype)
    x = low + (high - low) * (0.02 + 0.96 * torch.rand((200, flow.ndim), dtype=dtype))
    with torch.no_grad():
        z, log_det = flow(x)
        back, log_inverse = flow.inverse(z)
    assert (back - x).abs().max() < tol
    assert (log_det + log_inverse).abs().max() < 100 * tol
    assert back.dtype == dtype and (z - x).abs().max() > 0.01


@pytest.mark.parametrize("make", FLOWS)
def test_log_det(make) -> None:
    flow = make(torch.float64)
    low, high = corners(flow.ndim)
    x = low + (high - low) * (0.05 + 0.9 * torch.rand((6, flow.ndim), dtype=torch.float64))
    jacobian = torch.autograd.functional.jacobian(lambda y: flow(y)[0].sum(0), x).permute(1, 0, 2)
    assert (torch.linalg.slogdet(jacobian)[1] - flow(x)[1]).abs().max() < 1e-8


@pytest.mark.parametrize(("make", "n"), [(lambda: spline(2), 400), (lambda: krnet(2), 800)], ids=["spline", "krnet"])
def test_mass_on_a_grid(make, n: int) -> None:
    """KRnet's density is integrable at the enlarged walls but not smooth: the midpoint rule is of first order there."""
    flow = make()
    x = midpoints(flow.lower, flow.upper, (n, n))
    with torch.no_grad():
        assert float(flow.prob(x).mean()) * flow.volume == pytest.approx(1, abs=1e-3)
        outside = flow.upper + 1e-9
        assert flow.log_prob(torch.stack([outside, flow.lower - 1])).tolist() == [-math.inf, -math.inf]


@pytest.mark.parametrize("make", [lambda: spline(10), lambda: krnet(10, 2)])
def test_mass_in_ten_dimensions(make) -> None:
    """∫p by importance sampling from (p + uniform)/2, whose ratios stay below 2: within 3 standard errors."""
    flow, n = make(), 8000
    x = torch.cat([flow.sample(n, generator(0)), Uniform(flow.lower, flow.upper).sample(n, generator(1))])
    with torch.no_grad():
        p = flow.prob(x)
    ratio = p / (p + 1 / flow.volume)
    estimate, error = float(ratio[:n].mean() + ratio[n:].mean()), float((ratio[:n].var() + ratio[n:].var()) / n) ** 0.5
    assert abs(estimate - 1) < 3 * error and 0 < error < 0.01
    assert flow.inside(x).all()


def chi_square(density: Density, cells: int = 8, n: int = 20_000) -> tuple[float, int]:
    """Pearson's statistic of a sample's histogram against the masses of 160² midpoints, and its degrees of freedom."""
    fine = midpoints(density.lower, density.upper, (cells * 20, cells * 20))
    with torch.no_grad():
        mass = density.prob(fine).reshape(cells, 20, cells, 20).mean((1, 3)).flatten()
    x = density.sample(n, generator(3))
    index = ((x - density.lower) / (density.upper - density.lower) * cells).long().clamp(0, cells - 1)
    counts = torch.bincount(index[:, 0] * cells + index[:, 1], minlength=cells**2)
    expected = n * mass / mass.sum()
    used = expected > 5
    return float(((counts - expected) ** 2 / expected)[used].sum()), int(used.sum()) - 1


def table() -> Tabulated:
    values = torch.arange(16.0, dtype=torch.float64).reshape(4, 4)
    return Tabulated(*corners(2), values)


@pytest.mark.parametrize(
    "make",
    [
        lambda: spline(2),
        lambda: krnet(2),
        table,
        lambda: safeguarded(krnet(2), 0.3, *corners(2), generator(0)),
        lambda: Mixture([table(), spline(2)], [0.4, 0.6]),
    ],
)
def test_chi_square(make) -> None:
    statistic, freedom = chi_square(make())
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)  # some 4 standard deviations
    # The same sample against another law fails by far: the test can fail.
    assert freedom > 20


def test_chi_square_sees_a_wrong_density() -> None:
    class Wrong(Tabulated):
        def log_prob(self, x):
            return torch.where(self.inside(x), -self.log_volume, -math.inf)

    statistic, freedom = chi_square(Wrong(*corners(2), table().values))
    assert statistic > 100 * freedom


@pytest.mark.parametrize("d", [1, 2, 10])
def test_spline_flow_starts_uniform(d: int) -> None:
    flow = SplineFlow(*corners(d))
    x = Uniform(*corners(d)).sample(100, generator(0))
    assert (flow.log_prob(x) + flow.log_volume).abs().max() < 1e-14
    assert torch.equal(SplineFlow(*corners(d), seed=1)(x)[0], flow(x)[0])


def test_krnet_starts_near_uniform() -> None:
    flow = KRnet(*corners(2))
    x = midpoints(*corners(2), (100, 100))
    with torch.no_grad():
        assert float((flow.prob(x) * flow.volume - 1).abs().mean()) < 0.1


def test_actnorm_start() -> None:
    """Each actnorm passes its first batch on with mean 0 and variance 1."""
    flow = KRnet(*corners(3), step=1, depth=2, zero_start=False)
    seen: list[tuple[float, float]] = []

    def look(module, inputs, output):
        seen.extend(zip(output[0].mean(0).tolist(), output[0].var(0).tolist(), strict=True))

    handles = [m.register_forward_hook(look) for m in flow.modules() if isinstance(m, ActNorm)]
    flow.initialise(torch.rand((500, 3), dtype=torch.float64) ** 2)
    for handle in handles:
        handle.remove()
    assert len(seen) == 2 * 3 + 2 * 2 + 3
    assert all(abs(mean) < 1e-9 and abs(variance - 1) < 1e-9 for mean, variance in seen)


def test_krnet_is_triangular() -> None:
    """With step 1 the last coordinate is frozen after the first stage, so its latent needs no later stage."""
    flow = krnet(3)
    assert flow.active == [3, 2]
    x = Uniform(*corners(3)).sample(5, generator(0))
    before = flow(x)[0]
    with torch.no_grad():
        for p in flow.stages[1].parameters():
            p.add_(0.1)
    after = flow(x)[0]
    assert torch.equal(before[:, 2], after[:, 2]) and not torch.allclose(before[:, 0], after[:, 0])


def test_cut_off() -> None:
    flow = KRnet([-1.0, -1.0], [1.0, 1.0])
    x = torch.tensor([[0.0, 0.0], [1.0, -1.0], [1.005, 0.0], [1.01, 0.0]], dtype=torch.float64)
    assert flow.cut_off(x).tolist() == pytest.approx([1, 1, 0.5, 0], abs=1e-9)


@pytest.mark.parametrize("make", [lambda: spline(2), lambda: krnet(2)])
def test_rsample_follows_the_weights(make) -> None:
    """d/dα of the mean of g over rsample equals a central difference with the same random numbers."""
    flow = make()
    parameter = next(p for p in flow.parameters() if p.ndim == 1 and len(p) > 1)

    def mean() -> torch.Tensor:
        return (flow.rsample(50, generator(0)) ** 2).sum(-1).mean()

    (gradient,) = torch.autograd.grad(mean(), parameter)
    j, h = int(gradient.abs().argmax()), 1e-5
    with torch.no_grad():
        parameter[j] += h
        up = mean()
        parameter[j] -= 2 * h
        down = mean()
    assert float(gradient[j]) == pytest.approx(float(up - down) / (2 * h), rel=1e-4)


def test_arcsine_is_the_slope_of_its_quantiles() -> None:
    density = Arcsine(*corners(2))
    u, h = torch.rand((50, 2), generator=generator(0), dtype=torch.float64) * 0.98 + 0.01, 1e-6
    slopes = (density.from_unit(u + h) - density.from_unit(u - h)) / (2 * h)
    torch.testing.assert_close(density.prob(density.from_unit(u)), 1 / slopes.prod(-1), rtol=1e-7, atol=0)
    x = density.sample(4000, generator(0))
    assert density.inside(x).all() and density.log_prob(x).isfinite().all()
    near = ((x - density.lower) / (density.upper - density.lower) < 0.005).double().mean()
    assert float(near) == pytest.approx(2 / math.pi * math.asin(0.005**0.5), rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("make", [lambda t: spline(2, t), lambda t: krnet(2, dtype=t)], ids=["spline", "krnet"])
def test_spread_points_have_the_law_and_less_variance(make, dtype: torch.dtype) -> None:
    """Means of a smooth function over 1,024 points, 20 draws: right to 3 standard errors, a fifth of the deviation."""
    flow = make(dtype)
    grid = midpoints(flow.lower, flow.upper, (200, 200))

    def g(x: torch.Tensor) -> torch.Tensor:
        return torch.sin(2 * x[:, 0]) + x[:, 0] * x[:, 1]

    with torch.no_grad():
        mean = float((g(grid) * flow.prob(grid)).double().mean()) * flow.volume
    plain, spread = (
        torch.stack([g(draw(1024, generator(k))).double().mean() for k in range(20)])
        for draw in (flow.sample, flow.spread)
    )
    assert float(spread.std()) < 0.2 * float(plain.std())
    assert abs(float(spread.mean()) - mean) < 3 * float(spread.std()) / 20**0.5 + 1e-3
    x = flow.spread(100, generator(1))
    assert x.dtype == dtype and flow.inside(x).all() and not x.requires_grad
    state = torch.random.get_rng_state()
    assert torch.equal(x, flow.spread(100, generator(1)))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_density_without_a_map_spreads_by_drawing() -> None:
    assert table().spread(30, generator(0)).shape == (30, 2)


def test_restricted_rejects_and_never_clamps() -> None:
    whole, low, high = krnet(2), *corners(2)
    inner = Restricted(whole, low + 0.3, high - 0.2, generator(0), n=40_000)
    x = inner.sample(5000, generator(1))
    assert inner.inside(x).all() and not ((x == inner.lower) | (x == inner.upper)).any()
    grid = midpoints(inner.lower, inner.upper, (200, 200))
    with torch.no_grad():
        assert float(inner.prob(grid).mean()) * inner.volume == pytest.approx(1, abs=0.02)


def test_lost_mass_is_said() -> None:
    flow = spline(2)
    assert check_mass(flow, generator(0)) == pytest.approx(1, abs=0.05)

    class Thin(SplineFlow):
        def base_log_prob(self, z):
            return super().base_log_prob(z) - 1

    with pytest.raises(MassLost, match="lost its mass"):
        check_mass(Thin(*corners(2)), generator(0))
    with torch.no_grad():
        next(flow.parameters()).fill_(math.nan)
    with pytest.raises(MassLost, match="nan"):
        check_mass(flow, generator(0))
    with pytest.raises(MassLost, match="drifted"):
        Restricted(table(), [0.9999, 1.9999], [1.0, 2.0], generator(0))


def test_refusals() -> None:
    with pytest.raises(UsageError, match="one box"):
        Mixture([Uniform([0.0], [1.0]), Uniform([0.0], [2.0])], [0.5, 0.5])
    with pytest.raises(UsageError, match="activation"):
        SplineFlow([0.0, 0.0], [1.0, 1.0], activation="step")
    with pytest.raises(UsageError, match="depth even"):
        KRnet([0.0, 0.0], [1.0, 1.0], depth=3)
    with pytest.raises(UsageError, match="not all zero"):
        Tabulated([0.0], [1.0], torch.zeros(4))
    with pytest.raises(UsageError, match="finite lower < upper"):
        SplineFlow([0.0, -math.inf], [1.0, 1.0])


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = KRnet(*corners(2), seed=4, zero_start=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    second, third = KRnet(*corners(2), seed=4, zero_start=False), KRnet(*corners(2), seed=5, zero_start=False)
    x = Uniform(*corners(2)).sample(5, generator(0))
    assert torch.equal(first(x)[0], second(x)[0]) and not torch.equal(first(x)[0], third(x)[0])

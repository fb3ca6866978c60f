"""Samplers with flows: signs of the game, the baseline, tempering, the exact critic as judge, ten dimensions."""

import math
import statistics

import pytest
import torch

from sciops.core.random import generator
from sciops.models.densities import SplineFlow, Uniform
from sciops.numerics.critic import critic_density, critic_value, midpoints
from sciops.solvers.samplers import AAS, DASR, effective_size
from sciops.solvers.samplers.aas import objective
from sciops.solvers.samplers.flow_sampler import tempered

HIGH = torch.ones(2, dtype=torch.float64)
LENGTHS = (2.0, 2.0)
SMALL = {"class_path": "sciops.models.densities.SplineFlow", "init_args": {"layers": 2, "bins": 4, "width": 8}}


def wave(x: torch.Tensor) -> torch.Tensor:
    """|r| with r² = 1 + cos(πx) cos(πy)/2 on [−1, 1]²."""
    return (1 + 0.5 * torch.cos(math.pi * x[:, 0]) * torch.cos(math.pi * x[:, 1])).sqrt()


def bump(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(-20 * ((x - 0.4) ** 2).sum(-1))


def small_flow(size: float = 0.2) -> SplineFlow:
    flow, random = SplineFlow(-HIGH, HIGH, layers=2, bins=4, width=8), generator(2)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(size * torch.randn(p.shape, generator=random, dtype=p.dtype))
    return flow


class Swapped(AAS):
    """A critic that walks downhill: the mistake that the sign test must see."""

    def loss(self, x, p, target):
        return -super().loss(x, p, target)


def alpha_gain(kind: type[AAS]) -> float:
    """How much one step of the critic raises J on a fixed sample."""
    sampler = kind(flow=SMALL, lr=1e-3, coverage=None)
    sampler.start(-HIGH, HIGH, seed=0)
    x = Uniform(-HIGH, HIGH).sample(2000, generator(1))
    p = torch.full_like(x[:, 0], 0.25)
    q = bump(x) ** 2 / (bump(x) ** 2).mean()

    def value() -> float:
        return float(objective(sampler.flow, x, p, q, sampler.beta, -HIGH, HIGH).detach())

    before = value()
    sampler.step(sampler.loss(x, p, q))
    return value() - before


def theta_gain(sign: float) -> float:
    """How much one step of a network on points of p, detached, raises J on them."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()
    flow = small_flow()
    x = flow.sample(500, generator(1))

    def value() -> torch.Tensor:
        return (net(x)[:, 0] - torch.sin(3 * x[:, 0])).square().mean()

    before = value()
    gradients = torch.autograd.grad(sign * before, list(net.parameters()))
    with torch.no_grad():
        for p, g in zip(net.parameters(), gradients, strict=True):
            p -= 1e-2 * g
        return float(value() - before)


def test_signs() -> None:
    """The critic goes up, the network goes down; either with its sign swapped does the opposite."""
    assert alpha_gain(AAS) > 1e-4 and theta_gain(1.0) < -1e-6
    assert alpha_gain(Swapped) < -1e-4 and theta_gain(-1.0) > 1e-6


def test_points_carry_no_gradient_of_the_flow() -> None:
    sampler = AAS(flow=SMALL, pool=100, rounds=1, steps=1)
    sampler.start(-HIGH, HIGH)
    points = sampler.propose(50, wave)
    assert not points.x.requires_grad and not points.density.requires_grad


def test_baseline_invariance() -> None:
    """Gradients with b = 0 and b = mean q agree in expectation (200 batches); the variance is lower with b."""
    flow, random = small_flow(), generator(5)
    parameters = list(flow.parameters())
    plain, centred = [], []
    for _ in range(200):
        x = flow.sample(100, random)
        with torch.no_grad():
            p_old = flow.prob(x)
        ratio = flow.prob(x) / p_old
        q = wave(x) ** 2  # of volume mean 1
        for store, b in ((plain, 0.0), (centred, 1.0)):
            g = torch.autograd.grad(((q - b) * ratio).mean(), parameters, retain_graph=True)
            store.append(torch.cat([part.flatten() for part in g]))
    first, second = torch.stack(plain), torch.stack(centred)
    directions = torch.randn((first.shape[1], 5), generator=random, dtype=torch.float64)
    difference = (first - second) @ directions
    assert (difference.mean(0).abs() < 3 * difference.std(0) / 200**0.5).all()
    assert float(second.var(0).sum()) < 0.5 * float(first.var(0).sum())
    assert float(first.mean(0).norm()) > 0


def test_slope_by_differences() -> None:
    """The penalty from one random direction per point agrees with the exact one in expectation."""
    flow = small_flow()
    x = flow.sample(10_000, generator(0))
    with torch.no_grad():
        p = flow.prob(x)
    zero = torch.zeros_like(p)
    exact = float(objective(flow, x, p, zero, 1.0, -HIGH, HIGH).detach())
    with torch.no_grad():
        draws = torch.tensor([float(objective(flow, x, p, zero, 1.0, -HIGH, HIGH, generator(k))) for k in range(5)])
    assert float(draws.mean()) == pytest.approx(exact, rel=0.03)
    assert not torch.equal(draws[0], draws[1])


def test_beta_in_unit_coordinates() -> None:
    """β L^(d+2) in physical units: the objective on a box of edge L equals the exact critic's there."""
    p = midpoints(-HIGH, HIGH, (60, 60))
    flow, q = small_flow(0.1), wave(p) ** 2
    with torch.no_grad():
        table = flow.prob(p)
    value = objective(flow, p, torch.full_like(q, 0.25), q, 0.1 / 16, -HIGH, HIGH)
    cells = table.reshape(60, 60)
    slopes = sum(float((cells.diff(dim=k) * 30).square().sum()) for k in (0, 1)) / 900
    assert float(value) == pytest.approx(float((q * table).mean()) * 4 - 0.1 * slopes, rel=1e-2)


def test_tempering() -> None:
    log_r = -10 * torch.linspace(0, 3, 4000, dtype=torch.float64) ** 2
    weights, tau = tempered(log_r, torch.zeros_like(log_r), 2.0, 0.1)
    assert 0 < tau < 1 and effective_size(weights) == pytest.approx(400, rel=1e-3)
    assert float(weights.mean()) == pytest.approx(1)
    full, one = tempered(log_r, torch.zeros_like(log_r), 2.0, 0.0)
    assert one == 1.0 and torch.allclose(full / full[0], torch.exp(2 * log_r))
    flat, one = tempered(0 * log_r, torch.zeros_like(log_r), 2.0, 0.1)
    assert one == 1.0 and torch.allclose(flat, torch.ones_like(flat))


def test_a_law_that_fits_costs_one_round() -> None:
    calls: list[int] = []

    def residual(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return wave(x)

    arguments = {"flow": SMALL, "pool": 300, "rounds": 4, "steps": 1}
    DASR(**arguments).start(-HIGH, HIGH).propose(10, residual)
    assert calls == [300]
    DASR(**arguments, enough=1).start(-HIGH, HIGH).propose(10, residual)
    assert calls == [300] * 5


def test_warm_rounds_come_first_and_once() -> None:
    sampler = AAS(flow=SMALL, pool=300, rounds=1, steps=1, warm=2)
    sampler.start(-HIGH, HIGH)
    sampler.fit(bump)
    assert sampler.cold == 0 and sampler.beta == pytest.approx(0.005 / 1.5)  # one round of the game, χ near 1
    sampler.fit(bump)
    assert sampler.beta == pytest.approx(0.005 / 1.5**2)
    assert AAS().start([-1.0] * 10, [1.0] * 10).cold == 6 and AAS().start([-1.0] * 3, [1.0] * 3).cold == 0


@pytest.mark.parametrize("kind", [AAS, DASR])
def test_float32(kind) -> None:
    sampler = kind(flow=SMALL, pool=300, rounds=1, steps=2)
    sampler.start(-HIGH.float(), HIGH.float())
    points = sampler.propose(50, bump)
    assert points.x.dtype == points.density.dtype == torch.float32 and points.density.isfinite().all()


def l1(flow: torch.nn.Module, target: torch.Tensor, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((flow.prob(x) - target).abs().mean()) * 4


def test_large_beta_is_uniform_and_small_beta_concentrates() -> None:
    x = midpoints(-HIGH, HIGH, (40, 40))
    uniform = torch.full_like(x[:, 0], 0.25)
    stiff = AAS(flow=SMALL, beta=1e6, coverage=None, pool=500, rounds=10, steps=5, lr=1e-4)
    stiff.start(-HIGH, HIGH)
    stiff.fit(bump)
    assert l1(stiff.flow, uniform, x) < 1e-2
    sharp = AAS(flow=SMALL, beta=1e-8, coverage=None, pool=500, rounds=20, steps=5, lr=2e-2)
    sharp.start(-HIGH, HIGH)
    sharp.fit(bump)
    with torch.no_grad():
        p = sharp.flow.prob(x)
    assert float((x[p.argmax()] - 0.4).norm()) < 0.2
    assert float(p[bump(x) > 0.3].sum() / p.sum()) > 0.5  # 5 % of the volume


def test_coverage_moves_beta() -> None:
    sampler = AAS(flow=SMALL, beta=1.0, pool=500, rounds=4, steps=1)
    sampler.start(-HIGH, HIGH)
    sampler.fit(bump)
    assert sampler.chi > 0.5 and sampler.beta == pytest.approx(1.5**-4)


@pytest.mark.parametrize("kind", [AAS, DASR])
def test_a_lost_flow_is_replaced_and_said(kind) -> None:
    sampler = kind(flow=SMALL, pool=200, rounds=1, steps=1)
    sampler.start(-HIGH, HIGH)
    with torch.no_grad():
        for p in sampler.flow.parameters():
            p.fill_(math.nan)
    points = sampler.propose(400, wave)
    assert len(sampler.notes) == 1 and "restart" in sampler.notes[0]
    assert torch.isfinite(points.x).all() and torch.allclose(points.density, torch.tensor(0.25).double())
    assert sampler.propose(10, wave).x.isfinite().all() and len(sampler.notes) == 1


def test_a_flow_that_leaves_the_box_is_replaced() -> None:
    sampler = DASR(flow="sciops.models.densities.KRnet", pool=200, rounds=1, steps=1, lr=1e-9)
    sampler.start(-HIGH, HIGH)
    with torch.no_grad():
        sampler.flow.last[0].shift.sub_(5.0)  # the whole mass into the margin
    assert len(sampler.propose(10, wave)) == 10
    assert len(sampler.notes) == 1 and "drifted out" in sampler.notes[0]


def test_krnet_points_are_rejected_not_clamped() -> None:
    sampler = DASR(flow="sciops.models.densities.KRnet", pool=300, rounds=1, steps=2)
    sampler.start(-HIGH, HIGH)
    asked: list[float] = []

    def residual(x: torch.Tensor) -> torch.Tensor:
        asked.append(float(x.abs().max()))
        return wave(x)

    points = sampler.propose(3000, residual)
    assert max(asked) <= 1  # the equation is never asked beyond its domain
    assert float(points.x.abs().max()) < 1
    assert float(sampler.flow.sample(3000, generator(0)).abs().max()) > 1
    assert float(points.weights(4.0).mean()) == pytest.approx(1, abs=0.05)


def against_the_exact_critic(
    flow: str, rounds: int, steps: int, lr: float = 3e-3, seed: int = 0
) -> tuple[float, float]:
    """L¹ distance and value ratio to the exact critic of r² = 1 + cos cos/2, β = 0.1, the rate falling at the end."""
    beta, x = 0.1, midpoints(-HIGH, HIGH, (80, 80))
    q = (wave(x) ** 2).reshape(80, 80)
    exact = critic_density(q, LENGTHS, beta)
    best = float(critic_value(q, exact, LENGTHS, beta))
    config = f"sciops.models.densities.{flow}"
    sampler = AAS(
        flow=config, beta=beta / 16, coverage=None, pool=1000, rounds=rounds // 2, steps=steps, lr=lr, clip=0.5
    )
    sampler.start(-HIGH, HIGH, seed)
    sampler.fit(wave)
    sampler.rounds = rounds // 16
    for k in range(8):  # the second half of the rounds, the rate falling to zero
        sampler.optimiser.param_groups[0]["lr"] = lr * (1 - (k + 0.5) / 8)
        sampler.fit(wave)
    inner = sampler.law.components[0]
    with torch.no_grad():
        value = float(critic_value(q, inner.prob(x).reshape(80, 80), LENGTHS, beta))
    return l1(inner, exact.flatten(), x), value / best


@pytest.mark.slow
def test_spline_flow_reaches_the_analytic_critic() -> None:
    distance, ratio = against_the_exact_critic("SplineFlow", 100, 4)
    assert distance < 0.05 and 0.99 < ratio < 1


@pytest.mark.slow
def test_krnet_reaches_the_analytic_critic_with_the_enlarged_box() -> None:
    """Default sizes, 600 steps, the median of three seeds; the uniform density is 0.2 away."""
    runs = [against_the_exact_critic("KRnet", 150, 4, lr=5e-3, seed=seed) for seed in range(3)]
    assert statistics.median(distance for distance, _ in runs) < 0.1
    assert all(0.985 < ratio < 1 for _, ratio in runs)


def test_krnet_sees_the_layers_at_the_walls() -> None:
    """The pool of KRnet has several times as many points at the walls as uniform ones, and its density says so."""
    sampler = AAS(flow="sciops.models.densities.KRnet", pool=1000)
    sampler.start(-HIGH, HIGH)
    x, p = sampler.draw_pool()
    near = (x.abs() > 0.99).any(-1)
    assert int(near.sum()) > 3 * 1000 * (1 - (0.98 / 1.01) ** 2) * 0.3  # uniform ones have 18 among 300
    assert float((1 / p).mean()) == pytest.approx(2.02**2, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("flow", ["SplineFlow", "KRnet"])
def test_a_peak_in_ten_dimensions_is_found(flow: str) -> None:
    """r = Δ exp(−10|x|²), of which 4,000 uniform points see next to nothing: seven rounds put most points on it."""
    d = 10
    high = torch.ones(d, dtype=torch.float64)
    arguments = {"step": 5, "depth": 4} if flow == "KRnet" else {}

    def residual(x: torch.Tensor) -> torch.Tensor:
        s = (x**2).sum(-1)
        return ((20 * d - 400 * s) * torch.exp(-10 * s)).abs()

    sampler = DASR(flow={"class_path": f"sciops.models.densities.{flow}", "init_args": arguments}, rounds=7)
    sampler.start(-high, high)
    assert int(((sampler.first(4000).x ** 2).sum(-1) < 0.46).sum()) <= 2
    points = sampler.propose(2000, residual)
    share = float(((points.x**2).sum(-1) < 0.46).double().mean())  # u > 0.01, 5e-5 of the volume
    assert sampler.tau == 1.0 and share > 0.5

"""Samplers: laws of the points, importance weights, populations, seeds, resuming, refusals, and a user's own."""

import copy

import pytest
import torch

from sciops.core.config import build
from sciops.core.errors import UsageError
from sciops.core.random import generator
from sciops.solvers.samplers import (
    AAS,
    DASG,
    DASR,
    R3,
    RAD,
    RARD,
    Oracle,
    Points,
    Sampler,
    Uniform,
    UniformResample,
    effective_size,
)
from sciops.solvers.samplers.rad import drawn

BOX = ([-1.0, 0.0], [1.0, 3.0])
VOLUME = 6.0
SPLINE = {"class_path": "sciops.models.densities.SplineFlow", "init_args": {"layers": 2, "bins": 4, "width": 8}}
KRNET = {"class_path": "sciops.models.densities.KRnet", "init_args": {"depth": 2, "width": 8}}
SMALL = {"pool": 200, "rounds": 1, "steps": 2, "batch": 100, "flow": SPLINE}
SMALL_KR = SMALL | {"flow": KRNET}
EVERY = {
    "Uniform": {},
    "UniformResample": {},
    "RAD": {"pool": 4000},
    "RARD": {"pool": 4000},
    "R3": {},
    "Oracle": {"cells": 400},
    "DASG": SMALL,
    "DASR": SMALL_KR,
    "AAS": SMALL,
}


def make(name: str) -> Sampler:
    return build({"class_path": f"sciops.solvers.samplers.{name}", "init_args": EVERY[name]}, Sampler)  # type: ignore


def bump(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(-8 * ((x - x.new_tensor([0.3, 1.0])) ** 2).sum(-1))


def run(sampler: Sampler, seed: int, n: int = 100, rounds: int = 2) -> list[Points]:
    sampler.start(*BOX, seed=seed)
    points = [sampler.first(n)]
    for _ in range(rounds):
        points.append(sampler.refresh(points[-1], n, bump))
    return points


@pytest.mark.parametrize("name", EVERY)
def test_seeds_and_box(name: str) -> None:
    """One seed gives one history, bit for bit, whatever the global generator does; points lie in the box."""
    first = run(make(name), 5)
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    second, third = run(make(name), 5), run(make(name), 6)
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.x, b.x)
        assert (a.density is None) == (b.density is None)
        assert a.density is None or torch.equal(a.density, b.density)
        assert ((a.x >= torch.tensor(BOX[0])) & (a.x <= torch.tensor(BOX[1]))).all()
        assert a.x.dtype == torch.float64 and not a.x.requires_grad
    assert not torch.equal(first[-1].x, third[-1].x)


@pytest.mark.parametrize("name", EVERY)
def test_resuming_is_exact(name: str, tmp_path) -> None:
    sampler = make(name)
    points = run(sampler, 3, rounds=1)[-1]
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    expected = sampler.refresh(points, 100, bump)
    other = make(name).start(*BOX, seed=3)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    again = other.refresh(points, 100, bump)
    assert torch.equal(expected.x, again.x)
    assert expected.density is None or torch.equal(expected.density, again.density)


def test_a_kept_state_does_not_move() -> None:
    """A state taken in memory stays as it was while the sampler goes on."""
    sampler = make("DASG")
    run(sampler, 3, rounds=1)
    state = sampler.state_dict()
    before = copy.deepcopy(state)
    sampler.propose(10, bump)
    weights = (state["flow"], before["flow"])
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    moments = (state["optimiser"]["state"], before["optimiser"]["state"])
    assert all(torch.equal(moments[0][k]["exp_avg"], moments[1][k]["exp_avg"]) for k in moments[0])


def test_populations() -> None:
    sizes = {name: [len(p) for p in run(make(name), 0)] for name in EVERY}
    assert sizes.pop("RARD") == sizes.pop("DASG") == [100, 200, 300]
    assert all(size == [100] * 3 for size in sizes.values())
    fixed, fresh, grown = run(Uniform(), 0), run(UniformResample(), 0), run(make("RARD"), 0)
    assert fixed[-1] is fixed[0]
    assert not set(fresh[1].x.flatten().tolist()) & set(fresh[0].x.flatten().tolist())
    assert torch.equal(grown[-1].x[:200], grown[1].x)


def test_r3_keeps_every_point_above_the_mean() -> None:
    sampler = R3().start(*BOX)
    points = sampler.first(300)
    for _ in range(10):
        r = bump(points.x)
        kept = {tuple(row) for row in points.x[r > r.mean()].tolist()}
        after = sampler.refresh(points, 300, bump)
        assert kept <= {tuple(row) for row in after.x.tolist()} and len(after) == 300
        released = {tuple(row) for row in points.x[r <= r.mean()].tolist()}
        assert not released & {tuple(row) for row in after.x.tolist()}
        points = after
    assert float(bump(points.x).mean()) > 3 * float(bump(sampler.uniform(10_000).x).mean())


def histogram(x: torch.Tensor, cells: int = 6) -> torch.Tensor:
    low, high = torch.tensor(BOX[0]), torch.tensor(BOX[1])
    index = ((x - low) / (high - low) * cells).long().clamp(0, cells - 1)
    return torch.bincount(index[:, 0] * cells + index[:, 1], minlength=cells**2).double()


@pytest.mark.parametrize("k, c", [(1.0, 1.0), (2.0, 0.1)])
def test_rad_frequencies(k: float, c: float) -> None:
    """Counts per cell match ∫ (|r|^k/mean + c) over it (chi-square), n being small beside the pool."""
    sampler = RAD(k, c, pool=100_000).start(*BOX)
    x = torch.cat([sampler.propose(500, bump).x for _ in range(8)])
    fine = sampler.uniform(400_000).x
    r = bump(fine) ** k
    low, high = torch.tensor(BOX[0]), torch.tensor(BOX[1])
    index = ((fine - low) / (high - low) * 6).long().clamp(0, 5)
    law = torch.zeros(36, dtype=torch.float64).index_add_(0, index[:, 0] * 6 + index[:, 1], r / r.mean() + c)
    expected = len(x) * law / law.sum()
    used = expected > 5
    statistic = ((histogram(x) - expected) ** 2 / expected)[used].sum()
    freedom = int(used.sum()) - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5
    flat = len(x) / 36
    assert ((histogram(x) - flat) ** 2 / flat).sum() > 10 * freedom


FUNCTIONS = (lambda x: torch.ones_like(x[:, 0]), lambda x: x[:, 0], lambda x: bump(x) ** 2)


@pytest.mark.parametrize("name", ["UniformResample", "RAD", "Oracle", "DASR", "AAS"])
def test_importance_weights(name: str) -> None:
    """The mean of g/(|Ω| p) over the points is the volume mean of g, within 3 standard errors, for three g."""
    sampler = make(name)
    points = run(sampler, 1, n=1500, rounds=2)[-1]
    reference = sampler.uniform(200_000).x
    weights = points.weights(VOLUME)
    for g in FUNCTIONS:
        values = weights * g(points.x)
        error = float(values.std()) / len(points) ** 0.5 + 1e-12
        assert abs(float(values.mean() - g(reference).mean())) < 3 * error + 3e-3 * float(g(reference).std())
    assert 1 < points.ess(VOLUME) <= len(points)
    if name in ("Oracle", "DASR", "AAS"):
        assert float(weights.max()) <= 1 / 0.3 + 1e-9
        assert torch.allclose(sampler.density(points.x), points.density)


def test_weights_of_a_saturated_draw() -> None:
    """Half of a small pool: the density is that of being included, and still gives the right means."""
    pool = Uniform().start(*BOX, seed=2).uniform(2000).x
    relative = bump(pool) * 30 + 0.1
    random = generator(0)
    means = []
    for _ in range(40):
        points = drawn(pool, relative, 1000, random, VOLUME)
        means.append(float((points.weights(VOLUME) * points.x[:, 1]).mean()))
    means_t = torch.tensor(means)
    assert abs(float(means_t.mean() - pool[:, 1].mean())) < 3 * float(means_t.std()) / 40**0.5 + 2e-3
    assert len({tuple(row) for row in points.x.tolist()}) == 1000


def test_effective_size() -> None:
    assert effective_size(torch.ones(7)) == pytest.approx(7)
    assert effective_size(torch.tensor([1.0, 0.0, 0.0])) == pytest.approx(1)


def test_oracle_adapts_beta_to_its_coverage() -> None:
    sampler = Oracle(cells=900, coverage=(0.05, 0.1), beta=1.0).start(*BOX)
    points = sampler.propose(500, bump)
    assert 0.05 <= sampler.chi <= 0.1 and sampler.beta < 1
    assert float(bump(points.x).mean()) > 5 * float(bump(sampler.uniform(5000).x).mean())
    scaled = Oracle(cells=900, coverage=(0.05, 0.1), beta=1.0).start(*BOX)
    assert torch.allclose(scaled.propose(500, lambda x: 1e-8 * bump(x)).x, points.x)  # q has no units
    flat = Oracle(cells=900).start(*BOX)
    assert torch.allclose(flat.propose(10, lambda x: 0 * x[:, 0]).density, torch.tensor(1 / VOLUME).double())


class Corner(Sampler):
    """A user's sampler: everything but `propose` is inherited."""

    def propose(self, n, residual, points=None):
        x = self.uniform(n).x
        return Points(self.lower + (x - self.lower) * 0.1)


def test_a_sampler_of_ones_own() -> None:
    points = run(Corner(), 0)
    assert (points[-1].x[:, 1] <= 0.3).all() and points[-1].weights(VOLUME).eq(1).all()


@pytest.mark.parametrize("lower, upper", [([0.0], [0.0]), ([0.0, 0.0], [1.0]), ([0.0], [float("inf")])])
def test_refuses_what_is_no_box(lower, upper) -> None:
    with pytest.raises(UsageError, match="box"):
        Uniform().start(lower, upper)


def test_refusals() -> None:
    with pytest.raises(UsageError, match="not finite at 4000 of 4000"):
        RAD(pool=4000).start(*BOX).propose(10, lambda x: x[:, 0] / 0)
    with pytest.raises(UsageError, match="1 to 3 dimensions"):
        Oracle().start([0.0] * 4, [1.0] * 4)
    with pytest.raises(UsageError, match="pool of as many"):
        RARD(pool=5).start(*BOX).propose(6, bump)
    for wrong in (lambda: AAS(beta=0), lambda: DASG(uniform=0), lambda: DASR(ess=1), lambda: Oracle(coverage=(1, 0))):
        with pytest.raises(UsageError):
            wrong()
    with pytest.raises(UsageError, match="lacks"):
        make("AAS").start(*BOX).load_state_dict({"random": None})

"""Samplers: laws of the points, importance weights, populations, seeds and resuming."""

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.solvers.samplers import R3, RAD, RARD, Oracle, Points, Sampler, Uniform, UniformResample

BOX = ([-1.0, 0.0], [1.0, 3.0])
EVERY = [Uniform, UniformResample, lambda: RAD(pool=4000), lambda: RARD(pool=4000), lambda: Oracle(cells=400), R3]


def bump(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(-8 * ((x - x.new_tensor([0.3, 1.0])) ** 2).sum(-1))


def run(sampler: Sampler, seed: int, n: int = 200, rounds: int = 3) -> list[Points]:
    sampler.start(*BOX, seed=seed)
    points = [sampler.first(n)]
    for _ in range(rounds):
        points.append(sampler.refresh(points[-1], n, bump))
    return points


@pytest.mark.parametrize("make", EVERY)
def test_seeds(make) -> None:
    first, second, third = run(make(), 5), run(make(), 5), run(make(), 6)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.x, b.x)
        assert (a.density is None) == (b.density is None)
        assert a.density is None or torch.equal(a.density, b.density)
    assert not torch.equal(first[-1].x, third[-1].x)


@pytest.mark.parametrize("make", EVERY)
def test_points_stay_in_the_box(make) -> None:
    for points in run(make(), 1):
        assert ((points.x >= torch.tensor(BOX[0])) & (points.x <= torch.tensor(BOX[1]))).all()
        assert points.x.dtype == torch.float64


def test_populations() -> None:
    fixed = run(Uniform(), 0)
    assert fixed[-1] is fixed[0]
    assert len(set(run(UniformResample(), 0)[2].x.flatten().tolist()) & set(fixed[0].x.flatten().tolist())) == 0


@pytest.mark.parametrize("lower, upper", [([0.0], [0.0]), ([0.0, 0.0], [1.0]), ([0.0], [float("inf")])])
def test_refuses_what_is_no_box(lower, upper) -> None:
    with pytest.raises(UsageError, match="box"):
        Uniform().start(lower, upper)


def test_refuses_residuals_that_are_not_finite() -> None:
    with pytest.raises(UsageError, match="not finite at 4000 of 4000"):
        RAD(pool=4000).start(*BOX).propose(10, lambda x: x[:, 0] / 0)

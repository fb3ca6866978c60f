"""Burgers: the Cole–Hopf solution against its equation, a published slope, other quadratures and another integrator."""

import math

import numpy as np
import pytest
import torch

from sciops.core.calculus import Autodiff
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.problems.burgers import Burgers

GRID = Grid.box([9, 9], [-1.0, 0.0], [1.0, 1.0])


def points(n=1500, seed=0):
    x = torch.rand(1, n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[..., 0] = 2 * x[..., 0] - 1
    x[:, ::5, 0] *= 0.02  # the shock
    return x


@pytest.mark.parametrize("nu", [0.002, 0.01 / math.pi, 0.1])
def test_the_equation_holds(nu) -> None:
    problem = Burgers(nu=nu)
    cases = problem.sample([0], GRID)
    d = Autodiff(points())
    u = problem.exact(cases, d.x)[:, 0]
    residual = problem.residual(d, u, cases.at(d.x)).detach()
    assert float(residual.norm() / d.partial(u, (0, 1)).detach().norm()) < 1e-10


@pytest.mark.parametrize("nu", [0.002, 0.01 / math.pi, 1.0])
def test_the_quadrature_has_converged(nu) -> None:
    problem, x = Burgers(nu=nu), points()
    cases = problem.sample([0], GRID)
    u = problem.exact(cases, x)
    finer = Burgers(nu=nu, quadrature=1500)
    assert float((u - finer.exact(cases, x)).abs().max()) < 1e-12
    fewer = Burgers(nu=nu, quadrature=40)
    assert float((u - fewer.exact(cases, x)).abs().max()) > 1e-9  # the test can tell


def test_the_published_slope_of_the_shock() -> None:
    """Basdevant et al.: the steepest slope for ν = 0.01/π is 152.00516, at x = 0 and t = 1.6037/π."""
    problem = Burgers()
    cases = problem.sample([0], GRID)
    times = torch.linspace(1.58, 1.63, 501, dtype=torch.float64) / math.pi
    d = Autodiff(torch.stack([torch.zeros_like(times), times], -1)[None])
    slope = d.partial(problem.exact(cases, d.x)[:, 0], (1, 0))[0].detach()
    assert abs(float(slope.abs().max()) - 152.00516) < 1e-4
    assert abs(float(times[slope.abs().argmax()]) * math.pi - 1.6037) < 2e-4


def test_initial_and_boundary_values_and_symmetry() -> None:
    problem = Burgers()
    cases = problem.sample([0], GRID)
    s = torch.linspace(-1, 1, 101, dtype=torch.float64)
    t = (s + 1) / 2
    start = problem.exact(cases, torch.stack([s, 0 * s], -1)[None])[0, 0]
    torch.testing.assert_close(start, -torch.sin(math.pi * s), rtol=0, atol=1e-15)
    for wall in (-1.0, 0.0, 1.0):
        assert float(problem.exact(cases, torch.stack([0 * s + wall, t], -1)[None]).abs().max()) < 1e-13
    x = points()
    mirrored = x * torch.tensor([-1.0, 1.0])
    assert float((problem.exact(cases, x) + problem.exact(cases, mirrored)).abs().max()) < 1e-13
    soon = problem.exact(cases, torch.stack([s, 0 * s + 1e-13], -1)[None])[0, 0]
    torch.testing.assert_close(soon, start, rtol=0, atol=1e-11)


def test_another_method_finds_the_same() -> None:
    """Sine series in x on 255 points and an explicit integrator, for a viscosity that they resolve."""
    from scipy.integrate import solve_ivp

    nu, n = 0.02, 512
    x = -1 + 2 * np.arange(n) / n
    k = 1j * np.pi * np.fft.rfftfreq(n, 1 / n)

    def rate(_, u):
        hat = np.fft.rfft(u)
        return np.fft.irfft(-0.5 * k * np.fft.rfft(u * u) + nu * k**2 * hat, n)

    found = solve_ivp(rate, (0, 1), -np.sin(np.pi * x), method="DOP853", t_eval=[0.3, 1.0], rtol=1e-10, atol=1e-12)
    problem = Burgers(nu=nu)
    cases = problem.sample([0], GRID)
    for j, t in enumerate((0.3, 1.0)):
        p = torch.stack([torch.from_numpy(x), torch.full((n,), t, dtype=torch.float64)], -1)
        assert np.abs(problem.exact(cases, p[None])[0, 0].numpy() - found.y[:, j]).max() < 1e-8


def test_viscosity_may_be_drawn_per_case() -> None:
    problem = Burgers(parameters={"nu": [0.01, 0.1]})
    cases = problem.sample([1, 2], GRID)
    x = points(50).expand(2, -1, -1)
    both = problem.exact(cases, x)
    for i in range(2):
        alone = Burgers(nu=float(cases.params["nu"][i]))
        torch.testing.assert_close(both[i], alone.exact(alone.sample([0], GRID), x[:1])[0], rtol=0, atol=1e-13)
    residual = problem.residual_at(cases, lambda p: problem.exact(cases, p)[:, 0], x).detach()
    assert float(residual.abs().max()) < 1e-9


def test_the_reference_is_finite_at_the_start() -> None:
    problem = Burgers()
    solution = problem.reference(problem.sample([0], Grid.box([64, 33], [-1, 0], [1, 1])))
    assert bool(torch.isfinite(solution.field.values).all())
    assert 0 < float(solution.stats["label_error"]) < 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nu": 1e-4}, "nu ≥ 0.002"),
        ({"parameters": {"nu": [1e-5, 1.0]}}, "nu ≥ 0.002"),
        ({"parameters": {"beta": [1.0, 2.0]}}, "parameters may be nu"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        Burgers(**options)

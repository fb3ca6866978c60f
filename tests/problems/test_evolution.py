"""Convection, Allen–Cahn and KdV: orders, residuals, invariants, a soliton, another integrator, and the recipes."""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from sciops.core.calculus import Autodiff
from sciops.core.config import build, spec
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.problem import Problem
from sciops.data.generate import generate
from sciops.data.recipe import load_recipe
from sciops.data.verify import verify
from sciops.numerics.etdrk4 import ETDRK4, Stage, Trajectory, evolve
from sciops.problems.allen_cahn_evolution import AllenCahnEvolution
from sciops.problems.convection import Convection
from sciops.problems.kdv import KdV

FOLDER = Path(__file__).parents[2] / "datasets" / "pinn"
GRID = Grid.box([32, 17], [-1.0, 0.0], [1.0, 1.0], layout=["periodic", "node"])


def points(n=400, seed=0, lower=-1.0, upper=1.0):
    x = torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[:, 0] = lower + (upper - lower) * x[:, 0]
    return x


def residual(problem, x):
    """‖R(u)‖ and ‖u_t‖ by automatic differentiation of the reference."""
    cases = problem.sample([0], GRID if not isinstance(problem, Convection) else WAVES)
    d = Autodiff(x[None])
    u = problem.exact(cases, d.x)[:, 0]
    return float(problem.residual(d, u, cases.at(d.x)).detach().norm()), float(d.partial(u, (0, 1)).detach().norm())


# ---- the integrator


def test_a_constant_source_is_integrated_exactly() -> None:
    """v′ = λv + g has v = e^{λt} v₀ + g(e^{λt} − 1)/λ: every φ-function enters, for λh from 0 to 1e5."""
    rates = torch.tensor([0, 1e-9, 1e-3, -1.0, -30.0, -1e5, 1e3j, -1e6j, 2j], dtype=torch.complex128)
    h, g = 0.1, 1.0 + 0.5j
    v = torch.full_like(rates, 0.7 - 0.2j)
    stepped = ETDRK4(rates, lambda v: torch.full_like(v, g), h).step(v)
    phi = torch.where(rates.abs() > 1e-6, (torch.exp(h * rates) - 1) / rates, torch.full_like(rates, h))
    expected = torch.exp(h * rates) * v + g * phi
    assert float((stepped - expected).abs().max()) < 1e-10  # e^{iλh} itself rounds at 1e-16 |λh|


def burst(n: int) -> float:
    """Error of u′ = −30u + 90u², u(0) = 1/6, at t = 0.1 after n steps: u = 1/(3 + 3e^{30t}), stiff and nonlinear."""
    start = torch.tensor([1 / 6], dtype=torch.complex128)
    stage = Stage(0.1 / n, n // 16, 16, 0)
    made = evolve(start, lambda k: -30.0 + 0j * k, lambda K: lambda v: 90 * v * v, [stage], 0.0, 1.0)
    return abs(float(made(torch.tensor([[0.3, 0.1]], dtype=torch.float64))[0]) - 1 / (3 + 3 * math.exp(3)))


def test_order_four_in_time() -> None:
    errors = [burst(n) for n in (16, 32, 64)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(3.6 < order < 4.4 for order in orders), orders


def test_order_four_on_the_stiff_problem() -> None:
    """The equation of Korteweg and de Vries up to t = 0.4: rates up to 3000 i, time steps from 1/160 to 1/1280."""
    problem, x = KdV(delta=0.1, modes=48), points(200) * torch.tensor([1.0, 0.4])
    start = problem.initial_coefficients(48).to(torch.complex128)

    def run(steps):
        plan = [Stage(0.4 / (64 * steps), steps, 64, 48)]
        return evolve(start, problem.symbol_of, problem.nonlinear, plan, -1.0, 2.0)(x)

    runs = [run(steps) for steps in (2, 4, 16)]
    first, second = float((runs[0] - runs[2]).norm()), float((runs[1] - runs[2]).norm())
    assert 3.5 < math.log2(first / second) < 4.8, (first, second)


def test_dense_output_interpolates_to_tenth_order() -> None:
    errors = []
    for n in (48, 96):
        t = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        c = torch.stack([0 * t + 0j, torch.exp(20j * t) / 2], 1)  # u = cos(2πx + 20t)
        made = Trajectory(0.0, 1.0, ((t, c),))
        x = points(500, lower=0.0)
        errors.append(float((made(x) - torch.cos(2 * math.pi * x[:, 0] + 20 * x[:, 1])).abs().max()))
    assert 8.5 < math.log2(errors[0] / errors[1]) < 11.5 and errors[1] < 1e-8


def test_tensor_grids_and_scattered_points_agree() -> None:
    made = KdV(delta=0.1, modes=40, steps=2048).trajectory()
    grid = Grid.box([20, 11], [-1, 0], [1, 1], layout=["periodic", "node"])
    x = grid.points()
    scattered = torch.cat([made(x[i : i + 1]) for i in range(0, len(x), 7)])
    torch.testing.assert_close(made(x)[::7], scattered, rtol=0, atol=1e-13)
    with pytest.raises(UsageError, match="covers t in"):
        made(torch.tensor([[0.0, 1.1]], dtype=torch.float64))


# ---- Korteweg–de Vries


@dataclass(frozen=True)
class Soliton(KdV):
    """u = 3c sech²(√c (x − ct)/2δ): one wave that keeps its form; its periodic images are below 1e-10."""

    speed: float = 0.4

    def at(self, x):
        return 3 * self.speed / torch.cosh(math.sqrt(self.speed) / (2 * self.delta) * x) ** 2

    def initial_coefficients(self, modes):
        x = -1 + 2 * torch.arange(4 * modes, dtype=torch.float64) / (4 * modes)
        return torch.fft.rfft(self.at(x), norm="forward")[: modes + 1]


def test_a_soliton_travels_unchanged() -> None:
    problem = Soliton(modes=192, steps=4096)
    x = points(500)
    shifted = torch.remainder(x[:, 0] - problem.speed * x[:, 1] + 1, 2) - 1
    assert float((problem.trajectory()(x) - problem.at(shifted)).abs().max()) < 1e-8


def test_kdv_keeps_mass_and_momentum() -> None:
    problem = KdV(steps=4096)
    grid = Grid.box([512, 17], [-1, 0], [1, 1], layout=["periodic", "node"])
    u = problem.trajectory()(grid.points()).reshape(grid.shape)
    mass, momentum = u.mean(0), u.square().mean(0)  # exact for periodic band-limited functions
    assert float(mass.abs().max()) < 1e-14  # of cos
    assert float((momentum - 0.5).abs().max()) < 1e-7
    energy = (u**3 / 3).mean(0) - problem.delta**2 * _slope(u).square().mean(0)
    assert float((energy - energy[0]).abs().max()) < 1e-6
    assert float(u.max()) > 2.0  # solitons have formed: three times as high as what they came from, less one


def _slope(u):
    k = 1j * math.pi * torch.arange(u.shape[0] // 2 + 1, dtype=torch.float64)
    return torch.fft.irfft(k[:, None] * torch.fft.rfft(u, dim=0), n=u.shape[0], dim=0)


def test_the_equation_of_kdv_holds() -> None:
    size, scale = residual(KdV(steps=4096), points())
    assert size < 1e-6 * scale  # third derivatives amplify the error of the steps by k³


def test_too_few_modes_are_refused() -> None:
    with pytest.raises(UsageError, match="64 modes do not resolve"):
        KdV(delta=0.003, modes=64, steps=2048).trajectory()


@pytest.mark.slow
def test_the_default_reference_of_kdv() -> None:
    x = points(2000)
    u = KdV().trajectory()(x)
    finer = KdV(steps=40960, modes=320).trajectory()(x)
    assert float((u - finer).norm() / u.norm()) < 1e-11


# ---- Allen–Cahn

COARSE = AllenCahnEvolution(modes=2896, steps=1024)


def test_fourier_coefficients_of_the_initial_state() -> None:
    """The closed form against quadrature on 2²⁰ points, whose error for a kink is 1e-12."""
    n = 2**20
    x = -1 + 2 * torch.arange(n, dtype=torch.float64) / n
    sampled = torch.fft.rfft(COARSE.initial(x), norm="forward").real[:2000]
    closed = COARSE.initial_coefficients(1999)
    assert float((sampled - closed).abs().max()) < 1e-11


def test_the_equation_of_allen_cahn_holds() -> None:
    size, scale = residual(COARSE, points())
    assert size < 1e-9 * scale


def test_bounds_and_symmetry_of_allen_cahn() -> None:
    x = points(1000)
    made = COARSE.trajectory()
    u, mirrored = made(x), made(x * torch.tensor([-1.0, 1.0]))
    assert float((u - mirrored).abs().max()) < 1e-12
    assert float(u.abs().max()) < 1 + 1e-12  # the maximum principle
    cases = COARSE.sample([0], GRID)
    start = COARSE.exact(cases, (x * torch.tensor([1.0, 0.0]))[None])[0, 0]
    assert torch.equal(start, x[:, 0] ** 2 * torch.cos(math.pi * x[:, 0]))


def test_another_integrator_finds_the_same_interfaces() -> None:
    """Collocation on 2048 points with an explicit method of order eight; its aliasing of the kink decays with it."""
    from scipy.integrate import solve_ivp

    n = 2048
    x = -1 + 2 * np.arange(n) / n
    symbol = -1e-4 * (np.pi * np.arange(n // 2 + 1)) ** 2

    def rate(_, u):
        return np.fft.irfft(symbol * np.fft.rfft(u), n) + 5 * (u - u**3)

    found = solve_ivp(
        rate, (0, 0.6), x**2 * np.cos(np.pi * x), method="DOP853", t_eval=[0.3, 0.6], rtol=1e-8, atol=1e-9
    )
    for j, t in enumerate((0.3, 0.6)):
        p = torch.stack([torch.from_numpy(x), torch.full((n,), t, dtype=torch.float64)], -1)
        assert np.abs(COARSE.trajectory()(p).numpy() - found.y[:, j]).max() < 3e-6


@pytest.mark.slow
def test_the_default_reference_of_allen_cahn() -> None:
    x = points(2000)
    u = AllenCahnEvolution().trajectory()(x)
    finer = AllenCahnEvolution(modes=8192, steps=4096).trajectory()(x)
    assert float((u - finer).norm() / u.norm()) < 1e-9


# ---- convection

WAVES = Grid.box([32, 17], [0.0, 0.0], [2 * math.pi, 1.0], layout=["periodic", "node"])


@pytest.mark.parametrize("beta", [30.0, 50.0])
def test_the_equation_of_convection_holds(beta) -> None:
    size, scale = residual(Convection(beta=beta), points(lower=0.0, upper=2 * math.pi))
    assert size < 1e-10 * scale


def test_convection_wraps_around() -> None:
    problem = Convection(beta=40.0)
    x = points(lower=0.0, upper=2 * math.pi)
    cases = problem.sample([0], WAVES)
    moved = problem.exact(cases, (x + torch.tensor([2 * math.pi, 0.0], dtype=x.dtype))[None])
    torch.testing.assert_close(problem.exact(cases, x[None]), moved, rtol=0, atol=1e-13)
    assert set(cases.boundary) == {"y0"}
    torch.testing.assert_close(cases.boundary["y0"][0], torch.sin(WAVES.axis(0)), rtol=0, atol=1e-15)


# ---- what they share


@pytest.mark.parametrize("problem", [KdV(), AllenCahnEvolution(), Convection(beta=35.0)])
def test_problems_are_rebuilt_from_their_arguments(problem) -> None:
    assert build(spec(problem), Problem) == problem


def test_the_reference_on_a_grid_is_the_solution_at_its_points() -> None:
    problem = KdV(delta=0.1, modes=40, steps=4096)
    cases = problem.sample([4, 5], GRID)
    solution = problem.reference(cases)
    u = solution.field.values[:, 0, 0]
    exact = problem.exact(cases, GRID.points().expand(2, -1, -1))[:, 0].reshape(u.shape)
    assert torch.equal(u, exact)
    assert torch.equal(u[:, :, 0], cases.boundary["y0"])
    finer = KdV(delta=0.1, modes=40, steps=8192)
    better = finer.trajectory()(GRID.points()).reshape(1, *GRID.shape)
    true = float((u - better).norm() / u.norm())
    assert true < float(solution.stats["label_error"][0]) < 30 * true  # order four: 15 · 16/15 times


def test_other_boxes_and_options_are_refused() -> None:
    with pytest.raises(UsageError, match=r"lives on x in \[−1, 1\]"):
        KdV().sample([0], Grid.box([8, 8], [0, 0], [1, 1], layout=["periodic", "node"]))
    with pytest.raises(UsageError, match="layout"):
        KdV().sample([0], Grid.box([8, 8], [-1, 0], [1, 1]))
    for wrong in (
        lambda: KdV(delta=0.0),
        lambda: KdV(modes=4),
        lambda: AllenCahnEvolution(D=1e-6),
        lambda: AllenCahnEvolution(steps=10),
        lambda: Convection(beta=math.inf),
        lambda: Convection(parameters={"nu": [1.0, 2.0]}),
    ):
        with pytest.raises(UsageError):
            wrong()


def test_every_recipe_is_on_the_card() -> None:
    card = (FOLDER / "README.md").read_text()
    for path in FOLDER.glob("*.yaml"):
        recipe = load_recipe(path)
        assert f"`{path.stem}`" in card and recipe.dtype == "float64" and set(recipe.splits) == {"test"}
        assert recipe.make_problem().ndim == recipe.grid.ndim


@pytest.mark.parametrize("name", ["burgers", "convection_30", pytest.param("kdv", marks=pytest.mark.slow)])
def test_files_are_made_and_rebuilt(name, tmp_path) -> None:
    made = generate(load_recipe(FOLDER / f"{name}.yaml"), tmp_path, quiet=True)
    checked = verify(made["test"])
    assert checked.passed and checked.tolerance == 0.0

"""Navier–Stokes on the torus: law, frames, reference and its error estimate, steps, failures."""

import math
from dataclasses import replace

import pytest
import torch

from sciops.compare.check import check_problem
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.solver import View
from sciops.problems.navier_stokes import NavierStokes, energy, enstrophy, extrapolated, mean_vorticity

RELEASED = math.sqrt(2) * 7**1.5


def torus(n):
    return Grid.box(n, ndim=2, layout="periodic")


def cases(problem, n=32, seeds=(1, 2, 3), **options):
    return problem.sample(list(seeds), torus(n), **options)


def of(problem, w, times):
    """Cases with given initial vorticity (n, s, s)."""
    grid = torus(tuple(w.shape[1:]))
    return Cases(problem, grid, Field.steady(w[:, None], grid, ("vorticity",)), times=times)


def relative(a, b):
    return ((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).max().item()


def test_contract():
    problem = NavierStokes(viscosity=1e-3, frames=2, every=0.25)
    assert not [f"{r.name}: {r.message}" for r in check_problem(problem) if not r.passed]
    assert View.STEP in problem.views() and View.RESIDUAL not in problem.views()


def test_initial_fields_have_the_stated_covariance():
    """Σ_k σ²(4π²|k|²+49)^{−5/2} without k = 0 is the variance at a point."""
    problem = NavierStokes(modes=31)
    w = cases(problem, 48, range(300)).input("vorticity")
    k = torch.arange(-15, 16, dtype=torch.float64)
    squares = (k[:, None] ** 2 + k**2).flatten()
    variance = (7**1.5 * (4 * math.pi**2 * squares[squares > 0] + 49) ** -2.5).sum()
    # Some ten modes carry the variance, each with 300 draws: a relative deviation of √(2/3000).
    assert w.square().mean() == pytest.approx(float(variance), rel=4 * math.sqrt(2 / 3000))
    assert w.mean((1, 2)).abs().max() < 1e-15
    louder = cases(NavierStokes(modes=31, sigma=RELEASED), 48, range(3)).input("vorticity")
    assert torch.allclose(louder, w[:3] * RELEASED / 7**0.75)


def test_a_seed_is_one_function_on_two_grids():
    problem = NavierStokes(modes=21)
    coarse, fine = cases(problem, 24), cases(problem, 48)
    assert torch.allclose(fine.input("vorticity")[:, ::2, ::2], coarse.input("vorticity"), atol=1e-15)
    assert fine.times == tuple(float(k) for k in range(21))
    assert fine.params["viscosity"].tolist() == [1e-5] * 3


def test_frames_of_a_decaying_eddy_are_exact():
    nu, times = 0.01, (0.0, 0.5, 2.0)
    x, y = torus(20).mesh(torch.float64)
    w = (torch.sin(2 * math.pi * x) * torch.sin(2 * math.pi * y))[None]
    problem = NavierStokes(viscosity=nu, forcing=0.0)
    made = of(problem, w, times)
    exact = torch.stack([math.exp(-8 * math.pi**2 * nu * t) * w for t in times], 1)
    for solution in (problem.reference(made), problem.evolve(made, 0.1)):
        assert solution.ok and solution.field.times == times
        assert (solution.field.values[:, :, 0] - exact).abs().max() < 1e-13


def test_a_force_alone_grows_to_balance():
    """From rest f drives its own mode, which does not advect itself: f(1 − e^{−8π²νt})/(8π²ν)."""
    nu = 0.01
    problem = NavierStokes(viscosity=nu, forcing=0.1)
    made = of(problem, torch.zeros(1, 16, 16, dtype=torch.float64), (0.0, 1.0, 10.0))
    rate = 8 * math.pi**2 * nu
    solution = problem.reference(made)
    for j, t in enumerate(made.times):
        exact = problem.force(made.domain) * (1 - math.exp(-rate * t)) / rate
        assert (solution.field.values[0, j, 0] - exact).abs().max() < 1e-13


@pytest.mark.parametrize(
    ("scheme", "viscosity", "largest"),
    [("etdrk4", 5e-3, 1e-5), ("etdrk4", 1e-4, 0.3), ("crank_nicolson", 5e-3, 1e-3)],
)
def test_the_label_error_bounds_the_distance_to_a_finer_run(scheme, viscosity, largest):
    """Resolved (error of the steps) and not (error of the grid)."""
    options = {"viscosity": viscosity, "sigma": RELEASED, "frames": 2, "modes": 15}
    rough, fine = NavierStokes(**options, scheme=scheme, courant=0.2), NavierStokes(**options)
    made = cases(rough, 24, (1, 2))
    solution, truth = rough.reference(made), fine.evolve(made.on(torus(48)), 0.01).field.values[..., ::2, ::2]
    for i, estimate in enumerate(solution.stats["label_error"].tolist()):
        error = relative(solution.field.values[i : i + 1, 1:], truth[i : i + 1, 1:])
        assert 0.5 * error < estimate < 20 * error, (error, estimate)
        assert estimate < largest


@pytest.mark.parametrize("p", [1.5, 4.0, 8.0])
def test_extrapolation_of_a_power(p):
    """Errors h^p on three grids: their differences tell the smallest."""
    error = [1e-5 * s**p for s in (1.0, 4 / 3, 2.0)]
    near, far = (torch.tensor([e - error[0]], dtype=torch.float64) for e in error[1:])
    assert float(extrapolated(near, far, 4)) == pytest.approx(1e-5, rel=1e-6)
    assert float(extrapolated(near, far, 1)) >= float(near) - 1e-18  # first-order steps allow no more
    assert float(extrapolated(far, near, 4)) == pytest.approx(3 * float(far))  # no convergence: the smallest order


def test_chosen_steps_keep_the_courant_number_and_the_answer():
    options = {"viscosity": 2e-3, "sigma": RELEASED, "frames": 2, "modes": 15}
    chosen, fixed = NavierStokes(**options, courant=0.28), NavierStokes(**options, step_size=0.01)
    made = cases(chosen, 24)
    solution, small = chosen.reference(made), fixed.reference(made)
    assert small.stats["steps"].tolist() == [200] * 3
    assert solution.stats["steps"].max() < 100
    assert relative(solution.field.values, small.field.values) < 1e-5
    # The largest frequency at the frames, times the mean step, is within the Courant number and not far below.
    flow = chosen.flow(made)
    for j in range(1, 3):
        rate = flow.rate(flow.spectrum(solution.field.values[:, j, 0]))
        courant = rate * 2.0 / solution.stats["steps"]
        assert courant.max() < 1.25 * 0.7 and courant.min() > 0.25 * 0.7


def test_the_reference_of_a_case_does_not_depend_on_its_batch():
    problem = NavierStokes(viscosity=1e-4, sigma=RELEASED, frames=3)
    made = cases(problem, 32, range(5))
    together = problem.reference(made)
    for i in (0, 3):
        alone = problem.reference(made[[i]])
        assert torch.equal(alone.field.values[0], together.field.values[i])
        assert alone.stats["label_error"][0] == together.stats["label_error"][i]
        assert alone.stats["steps"][0] == together.stats["steps"][i]


@pytest.mark.parametrize("scheme", ["etdrk4", "crank_nicolson"])
def test_a_step_that_is_too_long_is_caught_and_the_named_one_works(scheme):
    problem = NavierStokes(viscosity=0.0, forcing=0.0, scheme=scheme)
    x, y = torus(16).mesh(torch.float64)
    w = 30 * (torch.sin(2 * math.pi * x) * torch.sin(2 * math.pi * y) + 0.5 * torch.cos(4 * math.pi * x + 1))
    made = of(problem, torch.stack([w, 0 * w]), (0.0, 5.0, 10.0))
    wild = problem.evolve(made, 0.25)
    assert wild.status == [Status.NONFINITE, Status.OK]
    named = float(wild.stats["advice"][0].split("dt ≤ ")[1].split(" is stable")[0])
    assert "dt = 0.25" in wild.stats["advice"][0] and named == pytest.approx(problem.largest_step(made), rel=0.01)
    tame = problem.evolve(replace(made, times=(0.0, 0.1)), named)
    assert tame.ok
    Z = enstrophy(tame.field)[0]
    assert float(Z[1] / Z[0]) == pytest.approx(1.0, abs=0.01)


def test_input_that_is_not_finite_is_a_status():
    problem = NavierStokes(frames=1, viscosity=1e-2)
    made = cases(problem, 16)
    made.inputs.values[1, 0, 0, 3, 3] = torch.nan
    for solution in (problem.reference(made), problem.evolve(made, 0.1)):
        assert solution.status == [Status.OK, Status.NONFINITE, Status.OK]


def test_a_history_is_the_start():
    problem = NavierStokes(viscosity=5e-3, sigma=RELEASED, frames=4, modes=15)
    made = cases(problem, 32)
    whole = problem.reference(made).field
    history = Field(whole.values[:, 1:3], made.domain, ("vorticity",), whole.times[1:3])
    late = replace(made, history=history, times=whole.times[3:])
    for solution in (problem.reference(late), problem.evolve(late, 0.01)):
        assert relative(solution.field.values, whole.values[:, 3:]) < 1e-5


def test_many_steps_at_once_are_single_steps():
    problem = NavierStokes(viscosity=1e-3)
    made = cases(problem)
    state = problem.initial(made)
    for k in range(5):
        state = problem.step(made, state, 0.1 * k, 0.1)
    at_once = problem.propagator(made, 0.1, 5)(problem.initial(made), 0.0)
    assert torch.allclose(state, at_once, atol=1e-14)


def test_quantities_of_a_known_field():
    """ω = 2 cos 2π(x + 2y) + 3: ψ̂ = ω̂/20π², E = ¼·4/(20π²), Z = ½(2 + 9), mean 3."""
    x, y = torus(16).mesh(torch.float64)
    w = 2 * torch.cos(2 * math.pi * (x + 2 * y)) + 3
    field = Field(torch.stack([w, 2 * w])[None, :, None], torus(16), ("vorticity",), (0.0, 1.0))
    named = NavierStokes().invariants()
    assert set(named) == {"energy", "enstrophy", "mean_vorticity"}
    for quantity, value, power in ((energy, 1 / (20 * math.pi**2), 2), (enstrophy, 5.5, 2), (mean_vorticity, 3.0, 1)):
        assert torch.allclose(quantity(field), torch.tensor([[1.0, 2.0**power]], dtype=torch.float64) * value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "heun"}, "scheme must be etdrk4 or crank_nicolson; got 'heun'"),
        ({"viscosity": -1.0}, "viscosity must not be negative; got -1.0"),
        ({"frames": 0}, "frames ≥ 1"),
        ({"courant": 3.0}, r"courant is a share of the stable limit .* tell the error; got 3.0"),
        ({"step_size": 0.0}, "step_size must be positive"),
    ],
)
def test_arguments_that_cannot_be(options, message):
    with pytest.raises(UsageError, match=message):
        NavierStokes(**options)


def test_other_boxes_are_refused():
    with pytest.raises(UsageError, match=r"lives on \[0, 1\)²"):
        NavierStokes().sample([0], Grid.box(16, 0.0, 2.0, "periodic", ndim=2))

"""Waves as a problem: cases, windows, guards, energy, label errors."""

import math
from dataclasses import replace

import pytest
import torch

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.solver import View
from sciops.data.recipe import load_recipe
from sciops.numerics.wave_leapfrog import leapfrog
from sciops.problems.wave import Wave, whole_square

SQUARE = Grid.box(33, ndim=2)


def standing(n: int, times: tuple[float, ...], problem: Wave) -> tuple[Cases, torch.Tensor]:
    """u = sin πx sin 2πy cos(√5 π c t): cases of one's own, without parameters; c = 1.5."""
    grid = Grid.box(n + 1, ndim=2)
    x, y = grid.mesh()
    shape = torch.sin(math.pi * x) * torch.sin(2 * math.pi * y)
    values = torch.stack([torch.full_like(shape, 1.5), shape])[None]
    cases = Cases(problem, grid, Field.steady(values, grid, ("c", "u0")), times=times)
    exact = torch.stack([shape * math.cos(math.sqrt(5) * math.pi * 1.5 * t) for t in times])
    return cases, exact


@pytest.mark.parametrize("options", [{"scheme": "fd"}, {"scheme": "fem"}, {"scheme": "fem", "element": "p1"}], ids=str)
def test_both_generators_converge_at_order_two(options):
    problem = Wave(source="pulse", **options)
    errors, estimates = [], []
    for n in (16, 32):
        cases, exact = standing(n, (0.0, 0.25, 0.5), problem)
        solution = problem.reference(cases)
        errors.append(float((solution.field.values[0, :, 0] - exact).norm() / exact.norm()))
        estimates.append(float(solution.stats["label_error"]))
    assert 1.9 < math.log2(errors[0] / errors[1]) < 2.1
    assert estimates[1] == pytest.approx(errors[1], rel=0.25)
    assert float(solution.stats["residual"]) < 1e-10


def test_evolve_and_reference_are_the_same_scheme():
    problem = Wave(layers=2, sides={"y1": "absorbing"}, frames=9, every=1 / 16, damping=0.2)
    cases = problem.sample([1, 2], SQUARE)
    truth = problem.reference(cases).field.values
    dt = problem.courant / 32 / problem.fastest
    assert torch.allclose(problem.evolve(cases, dt).field.values, truth, rtol=0, atol=1e-11 * float(truth.abs().max()))
    u, t = problem.initial(cases), 0.0
    assert torch.equal(problem.step(cases, u, t, dt), problem.stepper(cases, dt)(u, t))


def test_elements_and_differences_agree_on_the_law():
    gaps = []
    for n in (49, 97):
        found = []
        for scheme in ("fd", "fem"):
            problem = Wave(layers=2, scheme=scheme, frames=2, every=0.375)
            found.append(problem.reference(problem.sample([5], Grid.box(n, ndim=2))).field.values)
        gaps.append(float((found[0] - found[1]).norm() / found[0].norm()))
    assert gaps[1] < 0.03 and 1.5 < math.log2(gaps[0] / gaps[1]) < 2.5


def test_label_errors_are_those_to_a_much_finer_run():
    problem = Wave(layers=2, frames=5, every=0.125)
    seeds = [3, 4, 5]
    coarse = problem.reference(problem.sample(seeds, Grid.box(49, ndim=2)))
    fine = problem.reference(problem.sample(seeds, Grid.box(145, ndim=2))).field.values[..., ::3, ::3]
    gap = (coarse.field.values - fine).flatten(1).norm(dim=1) / fine.flatten(1).norm(dim=1)
    ratio = coarse.stats["label_error"] / gap
    assert bool(((ratio > 0.7) & (ratio < 1.5)).all()), ratio


def test_energy_stays_after_the_source_has_ended():
    problem = Wave(frequency=(4.0, 4.0), layers=2)
    cases = problem.sample([1, 2, 3], Grid.box(65, ndim=2))
    system, force = problem.semidiscrete(cases), problem.force(cases)
    dt = 0.5 / 64 / problem.fastest
    step, state, energies = leapfrog(system, dt, force), problem.initial(cases), []
    for k in range(round(2.0 / dt)):
        if k * dt >= 0.5:
            energies.append(system.energy(state))
        state = step(state, k * dt)
    stacked = torch.stack(energies)
    assert float(stacked[0].min()) > 0.1
    assert float((stacked / stacked[0] - 1).abs().max()) < 0.01


def test_open_sides_empty_the_square():
    def left(sides) -> float:
        problem = Wave(source="pulse", sides=sides, position=(0.5, 0.5))
        cases = problem.sample([1], Grid.box(65, ndim=2))
        system = problem.semidiscrete(cases)
        step, state = leapfrog(system, 0.5 / 64), problem.initial(cases)
        start = system.energy(state)
        for _ in range(192):
            state = step(state, 0.0)
        return float(system.energy(state) / start)

    # Oblique waves come back in part; after three halves of a crossing little is left.
    assert left("absorbing") < 0.02 and left("dirichlet") > 0.9
    assert 0.02 < left({"x0": "absorbing"}) < 0.9


def test_a_window_is_cut_from_the_whole():
    problem = Wave(layers=2, frames=6, every=0.1, sides="absorbing")
    whole, part = Grid.box(65, ndim=2), Grid.box(32, 17 / 64, 48 / 64, ndim=2)
    assert whole_square(part) == whole
    a, b = (problem.sample([7, 8], grid) for grid in (whole, part))
    cut = (..., slice(17, 49), slice(17, 49))
    assert torch.equal(a.inputs.values[cut], b.inputs.values)
    x, y = problem.reference(a), problem.reference(b)
    assert torch.equal(x.field.values[cut], y.field.values)
    assert torch.equal(problem.evolve(a, 0.003).field.values[cut], problem.evolve(b, 0.003).field.values)
    # The label error is that of the window.
    assert 0.5 < float((y.stats["label_error"] / x.stats["label_error"]).mean()) < 2
    finer = b.on(part.refined(2))
    assert whole_square(finer.domain).shape == (129, 129) and problem.evolve(finer, 0.002).ok


def test_one_seed_is_one_wave_on_every_grid():
    problem = Wave(layers=3, ratio=(0.5, 2.0))
    coarse, fine = (problem.sample([11, 12], Grid.box(n, ndim=2)) for n in (25, 49))
    assert torch.equal(coarse.inputs.values, fine.inputs.values[..., ::2, ::2])
    assert all(torch.equal(coarse.params[k], fine.params[k]) for k in coarse.params)
    speeds = coarse.params["speed"]
    assert speeds.shape == (2, 3) and bool((speeds[:, 0] == 1).all())
    c = coarse.input("c")
    assert torch.equal(c[:, 3, 12], speeds[:, 1]) and torch.equal(c[:, 0, 0], speeds[:, 0])
    # At an interface stands the root mean square of both sides.
    assert torch.allclose(c[:, 5, 8], ((speeds[:, 0] ** 2 + speeds[:, 1] ** 2) / 2).sqrt())
    # Adding a layer moves no source.
    assert torch.equal(Wave().sample([11, 12], SQUARE).params["position"], coarse.params["position"])


def test_too_long_a_step_is_refused_before_it_explodes():
    problem = Wave(layers=2, ratio=(2.0, 2.0))
    cases = problem.sample([1], SQUARE)
    limit = problem.largest_step(cases)
    assert limit == pytest.approx(1 / 32 / math.sqrt(2) / 2)
    assert problem.largest_step(cases) == problem.semidiscrete(cases).largest
    assert Wave(scheme="fem").largest_step(Wave(scheme="fem").sample([1], SQUARE)) == pytest.approx(1 / 32)
    with pytest.raises(UsageError, match=r"CFL violation: dt = 0\.01562 .* dt ≤ 0\.01105"):
        problem.evolve(cases, 1 / 64)
    assert problem.evolve(cases, 0.999 * limit).ok


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"speed": 0.0}, "speeds must be positive; got speed = 0"),
        ({"ratio": (-1.0, 1.0)}, "speeds must be positive"),
        ({"density": -2.0}, "density must be positive; got -2"),
        ({"damping": -0.1}, "damping must not be negative"),
        ({"source": "plane"}, "ricker or pulse"),
        ({"scheme": "spectral"}, "fd or fem"),
        ({"element": "q2"}, "q1 or p1"),
        ({"sides": "open"}, "dirichlet, neumann, absorbing"),
        ({"sides": {"z0": "neumann"}}, "'z0': 'neumann'"),
        ({"layers": 0}, "1 to 64"),
        ({"position": (0.8, 0.2)}, r"position must be \[low, high\]"),
        ({"frequency": (1.0, 2.0, 3.0)}, "frequency must be"),
        ({"width": 0.0}, "width must be positive"),
        ({"frames": 1}, "at least 2"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_a_sentence(options, words):
    with pytest.raises(UsageError, match=words):
        Wave(**options)


def test_cases_that_make_no_sense_are_refused_in_a_sentence():
    problem = Wave(source="pulse")
    cases, _ = standing(8, (0.0, 0.1), problem)
    cases.inputs.values[0, 0, 0, 3, 3] = 0.0
    with pytest.raises(UsageError, match="speed c > 0 everywhere"):
        problem.evolve(cases, 0.01)
    with pytest.raises(UsageError, match="lattice of the square"):
        problem.sample([1], Grid.box(17, upper=0.7, ndim=2))
    with pytest.raises(UsageError, match="grid of nodes"):
        problem.sample([1], Grid.box(16, ndim=2, layout="cell"))
    with pytest.raises(UsageError, match="from the parameters"):
        part = Grid.box(5, 0.25, 0.75, ndim=2)
        inputs = Field.steady(torch.ones(1, 2, 5, 5, dtype=torch.float64), part, ("c", "u0"))
        problem.initial(Cases(problem, part, inputs))
    with pytest.raises(UsageError, match="frequency"):
        ricker = Wave()
        problem_cases = replace(ricker.sample([1], SQUARE), params={})
        ricker.stepper(problem_cases, 0.01)


def test_solvers_start_at_rest_whatever_the_history():
    problem = Wave(frames=9, every=1 / 16)
    cases = problem.sample([1], SQUARE)
    truth = problem.evolve(cases, 0.01).field
    past = Field(truth.values[:, :2] * 3, SQUARE, ("u",), truth.times[:2])
    later = replace(cases, history=past, times=cases.times[2:])
    assert torch.allclose(
        problem.evolve(later, 1 / 128).field.values, problem.evolve(cases, 1 / 128).field.values[:, 2:]
    )


def test_the_energy_of_frames_is_an_invariant_where_nothing_acts():
    problem = Wave(source="pulse")
    quantity = problem.invariants()["energy"]
    frames = problem.reference(problem.sample([1, 2], Grid.box(129, ndim=2))).field
    energy = quantity(frames)
    assert energy.shape == (2, 64)
    # Frames are coarse in time (u_t to O(every²)); the initial energy is ½ ∫ |∇g|² = π/2.
    assert float((energy[:, 0] - math.pi / 2).abs().max()) < 0.03 * math.pi / 2
    assert float((energy / energy[:, :1] - 1).abs().max()) < 0.15
    halved = replace(frames, values=frames.values * torch.linspace(1, 0.5, 64)[:, None, None, None])
    assert float((quantity(halved)[:, -1] / energy[:, -1]).mean()) == pytest.approx(0.25, abs=0.03)
    for other in (Wave(), Wave(source="pulse", sides="absorbing"), Wave(source="pulse", damping=1.0)):
        assert other.invariants() == {}
    with pytest.raises(UsageError, match="three frames"):
        quantity(Field(frames.values[:, :1], frames.domain, ("u",)))


def test_views_and_types():
    problem = Wave(sides={"x0": "absorbing", "y1": "neumann"})
    assert View.STEP in problem.views() and View.RESIDUAL not in problem.views()
    assert problem.boundary.kinds == (("free", "dirichlet"), ("dirichlet", "neumann"))
    single = problem.sample([1], SQUARE, torch.float32)
    assert problem.evolve(single, 0.01).field.values.dtype is torch.float32
    assert Wave(frames=3, every=0.5).sample([1], SQUARE).times == (0.0, 0.5, 1.0)


@pytest.mark.parametrize("name", ["wave", "wave_small", "wave_window"])
def test_recipes_are_of_the_sizes_they_say(name):
    recipe = load_recipe(f"datasets/{name}.yaml")
    problem = recipe.make_problem()
    assert isinstance(problem, Wave) and problem.frames == 64
    assert whole_square(recipe.solve_grid).shape[0] >= 65
    if name != "wave_small":
        assert recipe.splits["train"] == 256 and recipe.splits["test"] == 64

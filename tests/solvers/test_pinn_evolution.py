"""Physics-informed networks in space and time, and in more than three dimensions: small cases of the benchmarks."""

import torch

from sciops.core.grid import Grid
from sciops.models.hard_boundary import HardBoundary
from sciops.problems.burgers import Burgers
from sciops.problems.convection import Convection
from sciops.problems.peaks import Peaks
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn import PINN
from sciops.solvers.pinn_initialisation import SourceDraw
from sciops.solvers.pinn_lift import negligible
from sciops.solvers.pinn_places import COMPACT, compact_share, find_places
from sciops.solvers.samplers import Tempered

STEADY = {"name": "gauss_newton", "bold": 0.0, "decrease": 3.0, "increase": 2.0}


def peak(d: int, sharpness: float = 10.0) -> Equation:
    problem = Peaks(centres=((0.0,) * d,), sharpness=sharpness)
    return Equation(problem.sample([0], Grid.box(2, -1.0, 1.0, ndim=d)))


def draw_of(equation: Equation, count: int = 1000) -> SourceDraw:
    def source(x: torch.Tensor) -> torch.Tensor:
        return equation.problem.forcing({}, x[None])[0]

    return SourceDraw(source, equation.lower, equation.upper, count, torch.Generator().manual_seed(0))


def test_viscous_burgers() -> None:
    problem = Burgers(nu=0.1)
    grid = Grid.box([33, 17], [-1.0, 0.0], [1.0, 1.0])
    case = problem.sample([0], grid)
    sampler = {"class_path": "sciops.solvers.samplers.rad.RAD", "init_args": {"pool": 3000}}
    solver = PINN(width=16, depth=2, points=1000, max_points=1000, optimiser=STEADY, sampler=sampler)
    training = solver.training(Equation(case))
    for _ in range(48):
        training.step()
    x = grid.points(torch.float64)
    truth = problem.exact(case, x[None])[0, 0]
    with torch.no_grad():
        error = float((training.trial(x)[:, 0] - truth).norm() / truth.norm())
    assert error < 1e-4


def test_periodic_axes_are_embedded() -> None:
    grid = Grid.box([16, 9], [0.0, 0.0], [2 * torch.pi, 1.0], layout=["periodic", "node"])
    problem = Convection(beta=2.0)
    case = problem.sample([0], grid)
    training = PINN(width=8, depth=1, points=300, max_points=300).training(Equation(case))
    for _ in range(20):
        training.step()
    x = grid.points(torch.float64)
    with torch.no_grad():
        u, moved = training.trial(x)[:, 0], training.trial(x + x.new_tensor([2 * torch.pi, 0.0]))[:, 0]
    truth = problem.exact(case, x[None])[0, 0]
    # The lift of the initial data is periodic only as far as the data are: to rounding.
    assert float((u - moved).abs().max()) < 1e-12
    assert float((u - truth).norm() / truth.norm()) < 1e-3


def test_the_source_is_found_in_ten_dimensions() -> None:
    equation = peak(10)
    draw = draw_of(equation)
    # f² of the peak has ⟨x_j²⟩ about 0.018; uniform points have 1/3.
    assert abs(float(draw.x.square().mean()) - 0.018) < 0.003
    # ‖∇u‖²/(d‖u‖²) = κ for a Gaussian in whole space.
    assert abs(draw.wavenumber / 10**0.5 - 1) < 0.15
    faces = [face for face in equation.faces if face.kind == "dirichlet"]
    assert negligible(equation, faces, draw)  # e⁻¹⁰ against 1
    flat = peak(10, sharpness=1.0)
    assert not negligible(flat, [f for f in flat.faces if f.kind == "dirichlet"], draw_of(flat))


def test_compact_places_in_many_dimensions() -> None:
    """⟨x_j²⟩ over f² is 0.0183 in ten dimensions, so the window is 2.5 · 0.135; two peaks are two places."""
    (place,) = find_places(draw_of(peak(10)))
    assert max(abs(c) for c in place.centre) < 0.03
    assert all(abs(length / (2.5 * 0.0183**0.5) - 1) < 0.15 for length in place.lengths)
    problem = Peaks(centres=((0.5,) * 5, (-0.5,) * 5), sharpness=10.0)
    two = Equation(problem.sample([0], Grid.box(2, -1.0, 1.0, ndim=5)))
    centres = sorted(p.centre for p in find_places(draw_of(two)))
    assert torch.tensor(centres).sub(torch.tensor([[-0.5] * 5, [0.5] * 5])).abs().max() < 0.05
    assert find_places(draw_of(peak(10, sharpness=2.0))) == []  # a window as wide as the box is no place
    assert compact_share(2) == compact_share(3) == COMPACT < compact_share(4) < compact_share(10) < 1 / 3


def test_local_networks_of_many_dimensions_vanish_far_away() -> None:
    training = PINN(points=300, max_points=300).training(peak(6))
    with torch.no_grad():
        for p in training.trial.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0), dtype=p.dtype))
        near = training.trial(torch.zeros(1, 6, dtype=torch.float64)).abs()
        far = training.trial(torch.full((1, 6), 0.9, dtype=torch.float64)).abs()
    assert float(near) > 1e-2
    assert float(far) < 1e-6  # exp(−6 · 0.81/(2 · 0.33²)) = 2e-10


def test_a_peak_in_four_dimensions() -> None:
    equation = peak(4)
    training = PINN(points=1200, max_points=1500, every=5, optimiser=STEADY).training(equation)
    assert isinstance(training.sampler, Tempered)
    assert isinstance(training.trial, HardBoundary)
    x = equation.problem.test_points(2000)  # type: ignore[attr-defined]
    truth = torch.exp(-10 * x.square().sum(1))

    def error() -> float:
        with torch.no_grad():
            return float((training.trial(x)[:, 0] - truth).norm() / truth.norm())

    assert abs(error() - 1) < 1e-3  # the zero function
    for _ in range(20):
        training.step()
    assert error() < 1e-2


def test_a_tempered_sampler_resumes_bit_for_bit() -> None:
    def bump(x: torch.Tensor) -> torch.Tensor:
        return torch.exp(-20 * (x - 0.3).square().sum(1))

    def made() -> Tempered:
        sampler = Tempered(pool=1000)
        sampler.start([-1.0] * 5, [1.0] * 5, seed=3)
        return sampler

    whole, first, second = made(), made(), made()
    whole.propose(50, bump)
    expected = whole.propose(50, bump)
    first.propose(50, bump)
    second.load_state_dict(first.state_dict())
    found = second.propose(50, bump)
    assert torch.equal(found.x, expected.x)
    assert found.density is not None and expected.density is not None
    assert torch.equal(found.density, expected.density)
    assert whole.density(found.x) is not None

"""The preconditioned H¹ gradient: its spaces, its rate m/M on every mesh, and Newton's method on top of it."""

import itertools
import math

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.numerics.energy_spaces import EnergySpace, LegendreSpace, SineSpace
from sciops.numerics.preconditioned_energy import EnergyFunctional, conjugate_gradients, h1_descent, newton
from sciops.numerics.variational import composite_gauss
from sciops.problems.cubic import Cubic
from sciops.problems.darcy import Darcy
from sciops.problems.p_laplace import PLaplace
from sciops.problems.poisson_boltzmann import PoissonBoltzmann

BOXES = [([0.0], [2.0]), ([0.0, -1.0], [1.0, 1.5]), ([0.0, 0.0, 0.0], [1.0, 2.0, 0.5])]


def spaces(lower: list[float], upper: list[float], n: int) -> list[EnergySpace]:
    return [SineSpace(lower, upper, n + 1), LegendreSpace(lower, upper, n)]


def random_coefficients(space: EnergySpace, seed: int = 0) -> torch.Tensor:
    return torch.randn(space.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("lower", "upper"), BOXES)
def test_riesz_map_inverts_the_stiffness_matrix(lower: list[float], upper: list[float]) -> None:
    for space in spaces(lower, upper, 7):
        dual = random_coefficients(space)
        fields = space.expand(space.riesz(dual))
        weighted = torch.cat([torch.zeros_like(fields[:1]), space.weights * fields[1:]])
        assert torch.allclose(space.adjoint(weighted), dual, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("lower", "upper"), BOXES)
def test_expansions_are_functions_with_their_gradient_that_vanish_on_the_faces(
    lower: list[float], upper: list[float]
) -> None:
    for space in spaces(lower, upper, 5):
        c = random_coefficients(space)
        x = space.points.clone().requires_grad_(True)
        u = space.evaluate(c, x)
        (slope,) = torch.autograd.grad(u.sum(), x)
        fields = space.expand(c)
        assert torch.allclose(fields[0], u.detach(), atol=1e-12)
        assert torch.allclose(fields[1:].T, slope, atol=1e-10)
        for axis, side in itertools.product(range(len(lower)), (lower, upper)):
            face = space.points[:20].clone()
            face[:, axis] = side[axis]
            assert float(space.evaluate(c, face).abs().max()) < 1e-12


def test_gauss_rule_is_exact_for_polynomials_of_its_degree_and_not_beyond() -> None:
    for degree, exact in ((9, True), (10, False)):
        x, w = composite_gauss([0.0, 0.0], [2.0, 1.0], [1, 1], 5)
        found = float(w @ (x[:, 0] ** degree * x[:, 1]))
        error = abs(found - 2.0 ** (degree + 1) / (degree + 1) / 2)
        assert (error < 1e-12 * 2**degree) is exact
    with pytest.raises(UsageError, match="panels"):
        composite_gauss([0.0], [1.0], 0, 5)


def test_gradient_and_hessian_are_derivatives_of_the_energy() -> None:
    case = PLaplace(p=3.0, eps=0.3).sample([0], Grid.box(9, -1.0, 1.0, ndim=2))
    space = LegendreSpace([-1.0, -1.0], [1.0, 1.0], 5)
    functional = EnergyFunctional(case, space)
    c, v, t = random_coefficients(space), random_coefficients(space, 1), 1e-4
    _, dual, hessian, _ = functional.hessian(c)
    assert torch.allclose(dual, functional.gradient(c)[1], rtol=0, atol=1e-13)
    slope = (functional.value(c + t * v) - functional.value(c - t * v)) / (2 * t)
    assert slope == pytest.approx(float((dual * v).sum()), rel=1e-6)
    bend = (functional.gradient(c + t * v)[1] - functional.gradient(c - t * v)[1]) / (2 * t)
    assert torch.allclose(bend, hessian(v), rtol=0, atol=1e-6 * float(bend.abs().max()))


# ---- the rate m/M


def gaps(functional: EnergyFunctional, smoothness: float, steps: int) -> list[float]:
    start = torch.zeros(functional.space.shape, dtype=torch.float64)
    best = functional.value(newton(functional, start, 1e-14).c)
    found = h1_descent(functional, start, smoothness, steps)
    assert found.status == "ok"
    return [E - best for E in found.energies]


@pytest.mark.parametrize("n", [8, 16, 32])
def test_h1_descent_contracts_by_one_minus_m_over_M_on_every_mesh(n: int) -> None:
    """E = ∫ ½ a|∇u|² − u with 1 ≤ a ≤ 4: m = min a and M = max a at the quadrature points."""
    coefficient = Darcy(law="two_phase", low=1.0, high=4.0)
    case = coefficient.sample([0], Grid.box(65, ndim=2))
    functional = EnergyFunctional(case, SineSpace([0.0, 0.0], [1.0, 1.0], n))
    a = functional.density.inputs.a
    m, M = float(a.min()), float(a.max())
    assert (m, M) == pytest.approx((1.0, 4.0), rel=0.5)
    history = gaps(functional, M, 40)
    resolved = [g for g in history if g > 1e-11 * history[0]]
    ratios = [b / a for a, b in itertools.pairwise(resolved)]
    assert len(ratios) > 10
    assert max(ratios) <= (1 - m / M) * (1 + 1e-6)


def test_the_rate_does_not_depend_on_the_mesh_and_that_of_plain_descent_does() -> None:
    """Cubic on |u| ≤ 1.2: M = 1 + 3·1.44/λ₁. Plain descent divides by the largest entry of the stiffness matrix."""
    case = Cubic().sample([0], Grid.box(9, ndim=2))
    M = 1 + 3 * 1.44 / (2 * math.pi**2)
    preconditioned, plain = [], []
    for n in (8, 16, 32):
        space = SineSpace([0.0, 0.0], [1.0, 1.0], n)
        functional = EnergyFunctional(case, space)
        history = gaps(functional, M, 8)
        ratios = [b / a for a, b in itertools.pairwise(history) if b > 1e-12 * history[0]]
        assert max(ratios) <= (1 - 1 / M) * (1 + 1e-6)
        preconditioned.append(ratios[0])
        top = 0.25 * 2 * (math.pi * (n - 1)) ** 2  # the largest entry of the diagonal stiffness matrix
        c = torch.zeros(space.shape, dtype=torch.float64)
        E, dual = functional.gradient(c)
        best = functional.value(newton(functional, c, 1e-14).c)
        plain.append((functional.value(c - dual / top) - best) / (E - best))
    assert max(preconditioned) - min(preconditioned) < 1e-6
    assert plain[0] < plain[1] < plain[2]
    assert 1 - plain[2] < 0.1 * (1 - plain[0])


def test_too_small_a_smoothness_is_reported() -> None:
    case = Darcy(law="two_phase", low=1.0, high=10.0).sample([0], Grid.box(33, ndim=2))
    functional = EnergyFunctional(case, SineSpace([0.0, 0.0], [1.0, 1.0], 16))
    found = h1_descent(functional, torch.zeros(functional.space.shape, dtype=torch.float64), 1.0, 50)
    assert found.status == "diverged"


# ---- Newton


@pytest.mark.parametrize("problem", [Cubic(), PoissonBoltzmann(exact_solution="3*sin(pi*x)*sin(pi*y)")], ids=str)
def test_newton_reaches_rounding_in_both_spaces_with_few_inner_iterations_on_every_mesh(problem) -> None:
    case = problem.sample([0], Grid.box(9, ndim=2))
    x = torch.rand(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = problem.exact(case, x[None])[0, 0]
    counts = []
    for n in (16, 32):
        for space in spaces([0.0, 0.0], [1.0, 1.0], n):
            found = newton(EnergyFunctional(case, space), torch.zeros(space.shape, dtype=torch.float64))
            assert found.status == "ok"
            assert float((space.evaluate(found.c, x) - exact).norm() / exact.norm()) < 1e-11
            counts.append(found.inner)
    assert max(counts) - min(counts) <= 3 and max(counts) < 40


def test_newton_says_how_it_ended() -> None:
    case = PoissonBoltzmann().sample([0], Grid.box(9, ndim=2))
    functional = EnergyFunctional(case, LegendreSpace([0.0, 0.0], [1.0, 1.0], 6))
    zero = torch.zeros(functional.space.shape, dtype=torch.float64)
    assert newton(functional, zero, maxiter=1).status == "max_iter"
    assert newton(functional, zero, deadline=0.0).status == "budget"
    assert newton(functional, zero + 1e4).status == "nonfinite"  # cosh overflows


def test_conjugate_gradients_stop_at_negative_curvature() -> None:
    A = torch.diag(torch.tensor([2.0, 1.0, -1.0], dtype=torch.float64))
    b = torch.ones(3, dtype=torch.float64)
    x, _ = conjugate_gradients(lambda v: A @ v, b, lambda v: v, 1e-12, 50)
    assert float(b @ x) > 0  # still a direction of descent
    with pytest.raises(UsageError, match="modes"):
        LegendreSpace([0.0], [1.0], 0)
    with pytest.raises(UsageError, match="intervals"):
        SineSpace([0.0], [1.0], 1)

"""Gauss–Newton: exact on linear models, gradient direction in the limit, all forms agree, nothing is lost."""

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.least_squares import (
    Chunked,
    FunctionLeastSquares,
    LeastSquares,
    Linearisation,
    MatrixFree,
    Stacked,
)
from sciops.numerics.optimisers import EnergyNaturalGradient, GaussNewton
from sciops.numerics.optimisers.normal_equations import Dual, NystromCG, Primal, gram


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decaying(rows: int, columns: int, condition: float, seed: int = 0) -> Tensor:
    """A matrix with singular values from 1 to 1/condition, geometrically."""
    k = min(rows, columns)
    U = torch.linalg.qr(normal(rows, k, seed=seed)).Q
    V = torch.linalg.qr(normal(columns, k, seed=seed + 1)).Q
    return (U * torch.logspace(0, -math.log10(condition), k, dtype=torch.float64)) @ V.T


class Linear:
    """r = A θ − b."""

    def __init__(self, A: Tensor, b: Tensor) -> None:
        self.A, self.b = A, b

    def residual(self, theta: Tensor) -> Tensor:
        return self.A @ theta - self.b

    def jacobian(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        return self.residual(theta), self.A


X = torch.linspace(-1, 1, 40, dtype=torch.float64)
NEURONS = 6


def fit(theta: Tensor) -> Tensor:
    """A one-layer tanh network minus sin 3x at 40 points."""
    a, w, b = theta.view(3, NEURONS)
    return (torch.tanh(X[:, None] * w + b) @ a - torch.sin(3 * X)) / math.sqrt(len(X))


def test_one_undamped_step_solves_a_linear_model() -> None:
    A, b = decaying(60, 20, 100.0), normal(60, seed=5)
    exact = torch.linalg.lstsq(A, b[:, None]).solution[:, 0]
    gn = GaussNewton(normal(20, seed=6), mu=0.0)
    step = gn.step(Linear(A, b))
    # Cholesky of AᵀA: relative error condition² · eps = 2e-12, times what the start adds.
    assert (gn.theta - exact).norm() < 1e-10 * exact.norm()
    assert step.accepted and step.status == "ok" and step.loss_after < step.loss_before
    assert step.loss_after == pytest.approx(0.5 * float((A @ exact - b).square().sum()), rel=1e-12)


@pytest.mark.parametrize("form", ["primal", "woodbury", "cg"])
def test_large_damping_gives_the_gradient_direction(form: str) -> None:
    problem = FunctionLeastSquares(fit)
    start = normal(3 * NEURONS, seed=1)
    r, J = problem.jacobian(start)
    gradient = J.T @ r
    gn = GaussNewton(start, mu=1e6, form=form, decrease=1.0)
    gn.step(problem)
    move = gn.theta - start
    # (JᵀJ + μ)⁻¹ = 1/μ · (1 + O(λ₁/μ)), λ₁ of order 10; θ + move is rounded at 1e-16 of θ.
    assert (move * 1e6 + gradient).norm() < 1e-4 * gradient.norm()


@pytest.mark.parametrize("shape", [(80, 30), (30, 80)])
@pytest.mark.parametrize("mu", [1e-2, 1e-6])
def test_forms_agree(shape: tuple[int, int], mu: float) -> None:
    J, w, g = decaying(*shape, 1e3), normal(shape[0], seed=3), normal(shape[1], seed=4)
    reference = torch.linalg.solve(
        J.T @ J + mu * torch.eye(shape[1], dtype=torch.float64), torch.stack([J.T @ w, g], 1)
    )
    primal, dual = Primal.of(J), Dual(J)
    products = Linearisation(w, lambda V: J @ V, lambda W: J.T @ W)
    cg = NystromCG(products, g, 15, 1e-12, 500, torch.Generator().manual_seed(0))
    for form, tolerance in ((primal, 1e-8), (dual, 1e-8), (cg, 1e-6)):
        for solve, rhs, column in ((form.solve, w, 0), (form.solve_parameters, g, 1)):
            x, used = solve(mu, rhs)
            assert used == mu
            assert (x - reference[:, column]).norm() < tolerance * reference[:, column].norm(), type(form).__name__
    assert cg.converged


def test_sketch_cuts_the_iterations() -> None:
    J, w = decaying(300, 200, 1e4), normal(300, seed=3)
    count = {}
    for rank in (2, 120):
        cg = NystromCG(
            Linearisation(w, lambda V: J @ V, lambda W: J.T @ W),
            J[0],
            rank,
            1e-10,
            2000,
            torch.Generator().manual_seed(0),
        )
        cg.solve(1e-7, w)
        count[rank] = cg.iterations
    assert cg.converged and count[120] < count[2] / 4


@pytest.mark.parametrize("rows", [False, True])
def test_gram_fills_the_triangle_that_cholesky_reads(rows: bool) -> None:
    J = normal(17, 9)
    full = J @ J.T if rows else J.T @ J
    assert torch.allclose(gram(J, rows).tril(), full.tril(), rtol=0, atol=1e-13)
    transposed = J.T.contiguous().T  # not contiguous
    assert torch.allclose(gram(transposed, rows).tril(), full.tril(), rtol=0, atol=1e-13)


def test_singular_matrix_raises_the_damping_instead_of_failing() -> None:
    A = torch.cat([normal(30, 5), torch.zeros(30, 5, dtype=torch.float64)], 1)
    gn = GaussNewton(torch.zeros(10, dtype=torch.float64), mu=0.0)
    step = gn.step(Linear(A, normal(30, seed=2)))
    assert step.accepted and step.mu > 0
    exact = torch.linalg.lstsq(A[:, :5], normal(30, seed=2)[:, None]).solution[:, 0]
    assert (gn.theta[:5] - exact).norm() < 1e-8 and gn.theta[5:].norm() < 1e-8


class Pieces(FunctionLeastSquares):
    """Hands out its rows in threes and refuses to form J at once."""

    def jacobian(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("the whole Jacobian was formed")

    def chunks(self, theta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        r, J = FunctionLeastSquares.jacobian(self, theta)
        for first in range(0, len(r), 3):
            yield r[first : first + 3], J[first : first + 3]


def test_pieces_and_products_walk_the_same_way() -> None:
    start = 0.5 * normal(3 * NEURONS, seed=1)
    pieces, whole = Pieces(fit), FunctionLeastSquares(fit)
    assert isinstance(pieces, Chunked) and isinstance(whole, LeastSquares) and isinstance(whole, MatrixFree)
    ways = {
        "whole": (GaussNewton(start, accelerate=True), whole),
        "pieces": (GaussNewton(start, accelerate=True, memory=100.0), pieces),
        "products": (GaussNewton(start, accelerate=True, form="cg", tolerance=1e-13), pieces),
    }
    for _ in range(4):
        for gn, problem in ways.values():
            assert gn.step(problem).accepted
    for name in ("pieces", "products"):
        assert (ways[name][0].theta - ways["whole"][0].theta).norm() < 1e-6 * ways["whole"][0].theta.norm(), name


def test_loss_never_rises_and_converges() -> None:
    for options in ({"accelerate": False}, {"accelerate": True}, {"halvings": 8}):
        gn, problem = GaussNewton(0.5 * normal(3 * NEURONS, seed=1), bold=0.0, **options), FunctionLeastSquares(fit)
        losses = []
        for _ in range(40):
            step = gn.step(problem)
            assert step.loss_after <= step.loss_before
            losses.append(step.loss_after)
        assert losses[-1] < 1e-6 * losses[0], options


def test_acceleration_follows_the_curved_valley() -> None:
    """Rosenbrock's r = (10(y − x²), 1 − x): the second-order correction is exact along the parabola."""

    def rosenbrock(theta: Tensor) -> Tensor:
        return torch.stack([100 * (theta[1] - theta[0] ** 2), 1 - theta[0]])

    needed = {}
    for accelerate in (False, True):
        gn = GaussNewton(torch.tensor([-1.2, 1.0], dtype=torch.float64), mu=1.0, accelerate=accelerate, bold=0.0)
        while gn.steps < 400 and gn.step(FunctionLeastSquares(rosenbrock)).loss_after > 1e-16:
            pass
        needed[accelerate] = gn.steps
        assert (gn.theta - 1).norm() < 1e-6
    assert needed[True] < needed[False]


def test_bold_steps_cut_corners_and_the_best_is_kept() -> None:
    problem, count, rises = FunctionLeastSquares(fit), {}, 0
    for bold in (0.0, 2.0):
        gn = GaussNewton(0.5 * normal(3 * NEURONS, seed=1), bold=bold)
        lowest = math.inf
        while gn.steps < 120 and lowest > 1e-12:
            step = gn.step(problem)
            rises += step.accepted and step.loss_after > step.loss_before
            lowest = min(lowest, step.loss_after)
            assert bold or step.loss_after <= step.loss_before
            assert 0.5 * float(problem.residual(gn.best).square().sum()) == pytest.approx(lowest, rel=1e-12)
        count[bold] = gn.steps
    assert rises > 0 and count[2.0] < count[0.0] / 2, (rises, count)


def test_best_is_judged_anew_on_other_points() -> None:
    gn, problem = GaussNewton(0.5 * normal(3 * NEURONS, seed=1)), FunctionLeastSquares(fit)
    while gn.steps < 100 and torch.equal(gn.best, gn.theta):
        gn.step(problem)
    ahead, uphill = gn.best, gn.theta
    assert not torch.equal(ahead, uphill)  # a bold step has just been made
    # Points where the iterate on its way uphill is exact: there it is the better one.
    gn.step(FunctionLeastSquares(lambda theta: theta - uphill))
    assert torch.equal(gn.best, uphill)
    gn.settle()
    assert torch.equal(gn.theta, uphill)
    # And back on the first points the other one would win, were it still known: only θ and `best` are compared.
    gn.step(problem)
    loss = 0.5 * float(problem.residual(gn.best).square().sum())
    assert loss <= 0.5 * float(problem.residual(uphill).square().sum())


def test_resume_repeats_the_bits() -> None:
    problem = FunctionLeastSquares(fit)
    for form in ("primal", "cg"):
        whole = GaussNewton(0.5 * normal(3 * NEURONS, seed=1), form=form, accelerate=True)
        for _ in range(3):
            whole.step(problem)
        resumed = GaussNewton(torch.zeros(3 * NEURONS, dtype=torch.float64), form=form, accelerate=True)
        resumed.load_state_dict(whole.state_dict())
        for _ in range(3):
            whole.step(problem)
            resumed.step(problem)
        assert torch.equal(whole.theta, resumed.theta) and whole.mu == resumed.mu


def test_nonfinite_keeps_the_iterate() -> None:
    start = torch.tensor([1.0, 2.0], dtype=torch.float64)
    gn = GaussNewton(start)
    step = gn.step(FunctionLeastSquares(lambda theta: torch.log(-theta)))
    assert step.status == "nonfinite" and not step.accepted and torch.equal(gn.theta, start)
    # Finite here, undefined over most of the way that the undamped step proposes.
    gn = GaussNewton(torch.tensor([3.0], dtype=torch.float64), mu=0.0, accelerate=False)
    step = gn.step(FunctionLeastSquares(lambda theta: torch.log(theta)))
    assert step.accepted and step.tries > 1 and bool(torch.isfinite(gn.theta).all())


def test_stall_is_said() -> None:
    A = normal(8, 3)
    gn = GaussNewton(torch.zeros(3, dtype=torch.float64), mu=1e-3)
    step = gn.step(Linear(A, torch.zeros(8, dtype=torch.float64)))
    assert step.status == "stalled" and not step.accepted and step.loss_after == step.loss_before == 0


def test_refusals() -> None:
    with pytest.raises(UsageError, match="float64"):
        GaussNewton(torch.zeros(3))
    with pytest.raises(UsageError, match="form"):
        GaussNewton(torch.zeros(3, dtype=torch.float64), form="qr")
    with pytest.raises(UsageError, match="weight"):
        Stacked([Linear(normal(3, 2), normal(3))], [1.0, 2.0])


def test_stacked_adds_losses_by_weight() -> None:
    parts = [Linear(normal(5, 3), normal(5, seed=1)), Linear(normal(4, 3, seed=2), normal(4, seed=3))]
    theta = normal(3, seed=4)
    stacked = Stacked(parts, [2.0, 0.25])
    r, J = stacked.jacobian(theta)
    losses = [float(part.residual(theta).square().sum()) for part in parts]
    assert float(r.square().sum()) == pytest.approx(2 * losses[0] + 0.25 * losses[1], rel=1e-14)
    assert torch.equal(r, stacked.residual(theta))
    assert torch.allclose(J, torch.func.jacrev(stacked.residual)(theta), atol=1e-14)


# ---- energies

NODES = (torch.arange(200, dtype=torch.float64) + 0.5) / 200


class Rod:
    """E(u) = ∫ ½u′² − f u on (0, 1), u = Σ θ_k sin kπx, f = π² sin πx + 4π² sin 2πx, by the midpoint rule."""

    def __init__(self, modes: int) -> None:
        k = torch.arange(1, modes + 1, dtype=torch.float64) * math.pi
        self.values, self.slopes = torch.sin(NODES[:, None] * k), k * torch.cos(NODES[:, None] * k)
        self.f = math.pi**2 * (torch.sin(math.pi * NODES) + 4 * torch.sin(2 * math.pi * NODES))

    def energy(self, theta: Tensor) -> float:
        return float((0.5 * (self.slopes @ theta).square() - self.f * (self.values @ theta)).mean())

    def tangent(self, theta: Tensor) -> tuple[float, Tensor, Tensor]:
        gradient = (self.slopes.T @ (self.slopes @ theta) - self.values.T @ self.f) / len(NODES)
        return self.energy(theta), gradient, self.slopes / math.sqrt(len(NODES))


@pytest.mark.parametrize(("form", "tolerance"), [("primal", 1e-10), ("woodbury", 1e-8)])
def test_energy_gradient_solves_a_quadratic_energy(form: str, tolerance: float) -> None:
    method = EnergyNaturalGradient(normal(8, seed=2), mu=1e-10, form=form)
    step = method.step(Rod(8))
    expected = torch.tensor([1.0, 1.0] + [0.0] * 6, dtype=torch.float64)
    assert step.accepted and (method.theta - expected).norm() < tolerance
    # E(u) = −½|u*|²_E at the minimum: −½ (π²/2 + 4π²/2).
    assert step.loss_after == pytest.approx(-1.25 * math.pi**2, rel=1e-10)


def test_energy_line_search_survives_a_steep_energy() -> None:
    """E = cosh(30 θ): the linear metric proposes far too long a step; the energy must still fall at every step."""

    class Steep:
        def energy(self, theta: Tensor) -> float:
            return float(torch.cosh(30 * theta).sum())

        def tangent(self, theta: Tensor) -> tuple[float, Tensor, Tensor]:
            return self.energy(theta), 30 * torch.sinh(30 * theta), torch.eye(len(theta), dtype=theta.dtype)

    method = EnergyNaturalGradient(torch.tensor([0.3, -0.2], dtype=torch.float64))
    energies = [method.step(Steep()).loss_after for _ in range(40)]
    assert all(after <= before for before, after in pairwise(energies))
    assert energies[-1] == pytest.approx(2.0, abs=1e-8)
    with pytest.raises(UsageError, match="float64"):
        EnergyNaturalGradient(torch.zeros(2))

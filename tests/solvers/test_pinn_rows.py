"""Rows of physics-informed least squares: equation, data, weak low modes."""

import math

import torch

from sciops.core.grid import Grid
from sciops.models.hard_boundary import HardBoundary
from sciops.models.mlp import MLP
from sciops.models.trial import Wrapped
from sciops.problems.poisson import Poisson
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn_rows import EquationRows, Sites, State, ValueRows, flat_parameters
from sciops.solvers.pinn_weak import WeakRows

FACES = [(0, 0), (0, 1), (1, 0), (1, 1)]


def equation(**options):
    problem = Poisson(**{"ndim": 2, "exact_solution": "sin(pi*x)*sin(2*pi*y)"} | options)
    return Equation(problem.sample([0], Grid.box(17, -1.0, 1.0, ndim=problem.ndim)))


class Waves(torch.nn.Module):
    """u_exact plus an error with given sine coefficients."""

    def __init__(self, coefficients):
        super().__init__()
        self.coefficients = coefficients

    def forward(self, x):
        u = torch.sin(math.pi * x[:, 0]) * torch.sin(2 * math.pi * x[:, 1])
        t = (x + 1) / 2
        for (k, m), a in self.coefficients.items():
            u = u + a * torch.sin(math.pi * k * t[:, 0]) * torch.sin(math.pi * m * t[:, 1])
        return u[:, None]


def test_weak_rows_are_the_coefficients_of_the_error():
    """Row k = λ_max (e, φ_k)/√|Ω|, φ_k L²-normalised: for Poisson every row is one coefficient of u_θ − u."""
    given = {(1, 1): 0.3, (2, 3): -0.02, (4, 4): 1e-3}
    rows = WeakRows(Wrapped(Waves(given), 2), equation(), [4, 4], [32, 32])
    found = rows._sum().detach().reshape(4, 4)
    lam_max = math.pi**2 / 4 * (16 + 16)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for (k, m), a in given.items():
        expected[k - 1, m - 1] = a * lam_max / 2  # φ = sin sin on a square of area 4; over √|Ω| = 2
    assert torch.allclose(found, expected, atol=1e-9)


def test_weak_rows_jacobian_and_loss():
    case = equation()
    trial = HardBoundary(MLP(2, 1, 5, 2, seed=1), [-1, -1], [1, 1], FACES)
    rows = WeakRows(trial, case, [3, 3], [24, 24], scale=7.0, weight=0.5)
    theta = flat_parameters(trial)
    r, J = rows.jacobian(theta)
    assert J.shape == (9, len(theta))
    assert torch.allclose(r, rows.residual(theta), rtol=1e-12)
    direction = torch.randn(len(theta), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = 1e-6
    slope = (rows.residual(theta + h * direction) - rows.residual(theta - h * direction)) / (2 * h)
    assert torch.allclose(J @ direction, slope, rtol=1e-6, atol=1e-8 * float(slope.norm()))
    rows.residual(theta)
    loss = rows.loss()
    loss.backward()
    gradient = torch.cat([p.grad.reshape(-1) for p in trial.parameters()])
    assert math.isclose(float(loss), 0.5 * float(r @ r), rel_tol=1e-12)
    assert torch.allclose(gradient, J.T @ r, rtol=1e-9, atol=1e-12)


def test_weak_rows_do_not_depend_on_the_block_size(monkeypatch):
    case = equation()
    trial = HardBoundary(MLP(2, 1, 5, 2, seed=1), [-1, -1], [1, 1], FACES)
    theta = flat_parameters(trial)
    whole = WeakRows(trial, case, [3, 3], [20, 20]).jacobian(theta)
    monkeypatch.setattr("sciops.solvers.pinn_weak.BLOCK", 60)  # three lines at a time: the last block is shorter
    parts = WeakRows(trial, case, [3, 3], [20, 20])
    assert len(parts.blocks) == 7
    assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-13) for a, b in zip(whole, parts.jacobian(theta), strict=True))


def test_equation_rows_are_the_residual_of_reverse_passes():
    case = equation(exact_solution="exp(x)*cos(y)")
    trial = HardBoundary(MLP(2, 1, 6, 2, seed=3), [-1, -1], [1, 1], FACES)
    x = case.interior_points(50, torch.Generator().manual_seed(0))
    r = EquationRows(trial, Sites(case.case, x), weight=4.0).residual(flat_parameters(trial))
    plain = case.problem.residual_at(case.case, lambda p: trial(p[0])[None, :, 0], x[None])[0]
    assert torch.allclose(r, 2 / math.sqrt(50) * plain.detach(), rtol=1e-10, atol=1e-12)


def test_value_rows_read_values_and_outward_slopes():
    trial = MLP(2, 1, 6, 2, seed=3)
    x = torch.rand(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = torch.linspace(0, 1, 7, dtype=torch.float64)
    theta = flat_parameters(trial)
    values = ValueRows(trial, x, data, weight=9.0).residual(theta)
    assert torch.allclose(values, 3 / math.sqrt(7) * (trial(x)[:, 0] - data).detach(), rtol=1e-12)
    slopes = ValueRows(trial, x, data, (1, 0), -1.0).residual(theta)
    assert torch.allclose(slopes * math.sqrt(7), -State(trial, x)((1, 0)) - data, rtol=1e-12)


def test_importance_weights_enter_as_their_roots():
    case = equation()
    trial = MLP(2, 1, 4, 1)
    x = case.interior_points(9, torch.Generator().manual_seed(0))
    weights = torch.linspace(0.5, 2, 9, dtype=torch.float64)
    theta = flat_parameters(trial)
    plain = EquationRows(trial, Sites(case.case, x)).residual(theta)
    weighted = EquationRows(trial, Sites(case.case, x), importance=weights).residual(theta)
    assert torch.allclose(weighted.square(), weights * plain.square(), rtol=1e-12)

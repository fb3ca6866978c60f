"""Physics-informed networks for several unknowns: conditions, gauges, accuracy, honesty, checkpoints."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from sciops.core.boundary import Boundary, Condition
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Channel, Problem
from sciops.core.solver import Budget
from sciops.data.case_data import CaseData
from sciops.models.mlp import MLP
from sciops.models.trial import Wrapped
from sciops.problems.cavity import LidDrivenCavity, lid_weight
from sciops.problems.kdv import KdV
from sciops.solvers.chebyshev import ChebyshevCollocation
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn import PINN
from sciops.solvers.pinn_checkpoint import TrainedPINN
from sciops.solvers.pinn_conditions import impose, system_residual
from sciops.solvers.pinn_module import PINNModule
from sciops.solvers.pinn_rows import EquationRows, MeanRows, Sites, ValueRows, flat_parameters

SMALL: dict = {"width": 10, "depth": 2, "points": 300, "max_points": 300, "boundary_points": 60}
RATE = 10 - math.sqrt(100 + 4 * math.pi**2)


def flow(x: Tensor) -> Tensor:
    """Kovasznay's flow at Re 20: an exact solution of the steady Navier–Stokes equations, p of zero mean."""
    growth, wave = torch.exp(RATE * x[..., 0]), 2 * math.pi * x[..., 1]
    mean = (math.exp(2 * RATE) - 1) / (2 * RATE)  # of growth² over 0 < x < 1
    u, v = 1 - growth * wave.cos(), RATE / (2 * math.pi) * growth * wave.sin()
    return torch.stack([u, v, (mean - growth**2) / 2], -1)


@dataclass(frozen=True)
class Kovasznay(Problem):
    """(u·∇)u + ∇p = Δu/20, ∇·u = 0 in the unit square, velocities given on its faces."""

    ndim = 2
    inputs = (Channel("nu"),)
    outputs = (Channel("u"), Channel("v"), Channel("p"))
    linear = False
    gauge = (2,)
    boundary = Boundary.of("dirichlet", 2)

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        u, v, p = u
        (ux, uy), (vx, vy), (px, py) = d.grad(u), d.grad(v), d.grad(p)
        return (
            u * ux + v * uy + px - c.nu * d.laplacian(u),
            u * vx + v * vy + py - c.nu * d.laplacian(v),
            ux + vy,
        )

    def conditions(self) -> list[Condition]:
        def data(j: int) -> Any:
            return lambda cases, x: flow(x)[..., j]

        return [Condition(face, j, data=data(j)) for face in ("x0", "x1", "y0", "y1") for j in (0, 1)]

    def exact(self, cases: Cases, x: Tensor) -> Tensor:
        return flow(x).movedim(-1, 1)

    def sample(
        self, seeds: Sequence[int], grid: Grid, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> Cases:
        nu = torch.full((len(seeds), 1, *grid.shape), 0.05, dtype=dtype)
        return Cases(self, grid, Field.steady(nu, grid, ("nu",)), seeds=torch.tensor(seeds))


def equation(problem: Problem) -> Equation:
    return Equation(problem.sample([0], Grid.box(6, ndim=problem.ndim)))


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pools that stand for the box are what takes long with networks this small."""
    monkeypatch.setattr("sciops.solvers.pinn_initialisation.POOL", {2: 400, 3: 400})
    monkeypatch.setattr("sciops.solvers.pinn.CHECKS", 400)


def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_an_exact_flow_is_found_with_its_pressure() -> None:
    case = equation(Kovasznay())
    out = Grid.box(21, ndim=2)
    solution = PINN(**SMALL, sampler="sciops.solvers.samplers.uniform.Uniform", max_steps=36).solve(case.case, out)
    truth = flow(out.points(torch.float64)).T.reshape(3, 21, 21)
    found = solution.field.values[0, 0]
    assert solution.field.channels == ("u", "v", "p") and found.shape == truth.shape
    for j, bound in enumerate((1e-3, 1e-2, 2e-2)):
        assert (found[j] - truth[j]).norm() < bound * truth[j].norm()
    assert solution.status == [Status.OK]
    assert solution.trace is not None and solution.trace[0].values.shape == solution.field.values.shape


def test_the_residual_of_a_system_sees_equations_and_conditions() -> None:
    class Flow(torch.nn.Module):
        def __init__(self, shift: float = 0.0, factor: float = 1.0) -> None:
            super().__init__()
            self.shift, self.factor = shift, factor

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * flow(x) + self.shift * torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)

    case = equation(Kovasznay())
    x = case.interior_points(200, random())
    assert system_residual(case, Wrapped(Flow(), 2, 3), x) < 1e-12
    assert system_residual(case, Wrapped(Flow(shift=3.0), 2, 3), x) < 1e-12  # pressure has no zero
    assert system_residual(case, Wrapped(Flow(factor=0.0), 2, 3), x) == pytest.approx(1.0)
    assert 0.05 < system_residual(case, Wrapped(Flow(factor=0.9), 2, 3), x) < 0.2


def test_sizes_are_those_of_the_terms() -> None:
    """At u = v = 1, all derivatives 2: |u_x| + … of the continuity equation is 4."""
    case = equation(Kovasznay())
    sites = Sites(case.case, case.interior_points(5, random()))
    table = {key: torch.full((5, 3), 1.0 if key == (0, 0) else 2.0, dtype=torch.float64) for key in sites.request}
    first, _, last = sites.sizes(table)
    assert torch.allclose(last, torch.full_like(last, 4.0))
    # u u_x and v u_y count once by each factor; p_x; ν Δu: 2·(2 + 2) + 2 + 0.05·2.
    assert torch.allclose(first, torch.full_like(first, 10.1))


def test_the_cavity_takes_the_conditions_that_the_problem_lists() -> None:
    case = equation(LidDrivenCavity())
    trial, rows = impose(case, MLP(3, 3, 6, 2, seed=3), "auto", 100.0, 50, random())
    x = case.interior_points(40, random())
    for axis, side in ((0, 0), (0, 1), (1, 0), (1, 1)):
        wall = x.clone()
        wall[:, axis] = side
        values = trial(wall).detach()
        assert not values[:, 1].any() and bool(values[:, 2].all())
        assert bool(values[:, 0].any()) == ((axis, side) == (1, 1))
    lid, mean = rows
    assert isinstance(lid, ValueRows) and isinstance(mean, MeanRows)
    assert lid.channel == 0 and torch.equal(lid.data, torch.ones(50, dtype=torch.float64))
    r = lid.residual(flat_parameters(trial))
    expected = (100 / 50 * lid_weight(lid.x[None])[0]).sqrt() * (trial(lid.x)[:, 0] - 1)
    assert torch.allclose(r, expected.detach(), rtol=1e-13)
    lid.reweigh(25.0)
    assert torch.allclose(lid.residual(flat_parameters(trial)), r / 2, rtol=1e-13)
    assert len(mean.residual(flat_parameters(trial))) == 8  # one for each of eight Reynolds numbers
    soft = impose(case, MLP(3, 3, 6, 2), "soft", 1.0, 10, random())[1]
    assert len(soft) == 9 and len({(rows.channel, float(rows.x[0, 1])) for rows in soft[:-1]}) > 2  # type: ignore[attr-defined]


def test_corners_weigh_less_in_rows_and_samplers() -> None:
    x = torch.tensor([[0.0, 1.0, 0.3], [0.05, 1.0, 0.3], [0.5, 0.0, 0.3]], dtype=torch.float64)
    weights = LidDrivenCavity(corner=0.05).loss_weight(x[None])
    assert weights is not None and torch.allclose(weights[0, :2], torch.tensor([0.0, 0.25]).double(), atol=2e-3)
    assert float(weights[0, 2]) > 0.99 and LidDrivenCavity(corner=0.0).loss_weight(x[None]) is None
    sizes = []
    for corner in (0.0, 0.05):
        training = PINN(**SMALL).training(equation(LidDrivenCavity(corner=corner)))
        sites = Sites(training.equation.case, x)
        r = EquationRows(training.trial, sites).residual(training.theta).reshape(3, 3)
        assert torch.allclose(training.magnitude(x), math.sqrt(3) * r.norm(dim=0), rtol=1e-12)
        sizes.append(training.magnitude(x))
    assert torch.allclose(sizes[1], weights[0].sqrt() * sizes[0], rtol=1e-12) and not sizes[1][0] > 0


def test_jacobians_of_systems_with_gauges() -> None:
    training = PINN(**SMALL | {"points": 20}).training(equation(LidDrivenCavity()))
    theta = training.theta
    r, J = training.problem.jacobian(theta)
    assert len(r) == 3 * 20 + 60 + 8
    direction = torch.randn(len(theta), generator=random(), dtype=torch.float64)
    h = 1e-6
    slope = (training.problem.residual(theta + h * direction) - training.problem.residual(theta - h * direction)) / (
        2 * h
    )
    assert torch.allclose(J @ direction, slope, rtol=1e-6, atol=1e-7 * float(slope.norm()))
    training.problem.residual(theta)
    loss = training.loss()
    loss.backward()
    gradient = torch.cat([p.grad.reshape(-1) for p in training.trial.parameters() if p.grad is not None])
    assert math.isclose(float(loss.detach()), 0.5 * float(r @ r), rel_tol=1e-12)
    assert torch.allclose(gradient, J.T @ r, rtol=1e-9, atol=1e-12)


def test_an_unsolved_cavity_is_not_called_solved() -> None:
    case = equation(LidDrivenCavity())
    answer = PINN(**SMALL, sampler="sciops.solvers.samplers.rad.RAD", max_steps=3).solve_case(case, Budget())
    assert answer.status is Status.UNRESOLVED and answer.error_estimate is None and answer.residual > 0.05
    assert answer.u(case.interior_points(7, random())).shape == (7, 3)


def test_who_takes_several_unknowns_and_who_refuses() -> None:
    problem, grid = LidDrivenCavity(), Grid.box(6, ndim=3)
    assert PINN().refuses(problem, grid) is None
    assert "one unknown field" in str(ChebyshevCollocation().refuses(problem, grid))
    line = Grid.box([8, 6], [-1.0, 0.0], [1.0, 1.0], layout=["periodic", "node"])
    assert PINN().refuses(KdV(), line) is None and "periodic" in str(ChebyshevCollocation().refuses(KdV(), line))
    with pytest.raises(UsageError, match="data that vanish; u does not at y1") as caught:
        PINN(**SMALL, boundary="hard").training(equation(problem))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_a_cavity_under_lightning_and_from_its_checkpoint(tmp_path: Path) -> None:
    settings = {**SMALL, "sampler": "sciops.solvers.samplers.rad.RAD", "optimiser": {"name": "adam"}}
    data = CaseData({"class_path": "sciops.problems.cavity.LidDrivenCavity"}, (6, 6, 6), steps=3, points=5)
    keeper = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_epochs=1)
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    module, runner = PINNModule(**settings), pl.Trainer(max_epochs=2, callbacks=[keeper], **quiet)
    runner.fit(module, data)
    assert 0 < float(runner.callback_metrics["val_residual"]) < 10 and len(module.probe(30, 10)) == 2
    solver, grid = TrainedPINN(str(tmp_path / "last.ckpt"), threshold=50.0), Grid.box(5, ndim=3)
    answer = solver.solve(LidDrivenCavity().sample([0], grid), grid)
    with torch.no_grad():
        expected = module.trial(grid.points(torch.float64)).T.reshape(3, 5, 5, 5)
    assert answer.ok and torch.equal(answer.field.values[0, 0], expected)
    other = solver.solve(LidDrivenCavity(high=900.0).sample([0], grid), grid)
    assert other.status == [Status.FAILED] and other.field.values.shape == answer.field.values.shape
    assert "differs in its coefficients" in other.stats["advice"][0]

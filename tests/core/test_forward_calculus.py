"""The calculus of ready-made derivatives gives every residual the value that reverse passes give it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sciops.core.calculus import LAPLACIAN, Autodiff, Forward, request_of
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.problem import Channel, Problem
from sciops.models.mlp import MLP, orders_up_to
from sciops.models.trial import Wrapped
from sciops.problems.advection import Advection
from sciops.problems.allen_cahn import AllenCahn
from sciops.problems.boundary_layer import BoundaryLayer
from sciops.problems.darcy import Darcy
from sciops.problems.helmholtz import Helmholtz
from sciops.problems.homogenisation import Homogenisation
from sciops.problems.manufactured import Manufactured
from sciops.problems.poisson import Poisson


@dataclass(frozen=True)
class Equation(Manufactured):
    """A left side given as a function, u = sin(a x) eʸ."""

    left: Callable[[Any, Any, Any], Any] = lambda d, u, c: d.laplacian(u)
    parameters = {"a": (1.0, 2.0)}  # noqa: RUF012
    exact_solution: str = "sin(a*x)*exp(y)"
    ndim: int = 2
    linear = False

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return self.left(d, u, c)


def p_laplace(d: Any, u: Any, c: Any) -> Any:
    ux, uy = d.grad(u)
    return -d.div_flux((0.01 + ux**2 + uy**2) ** 0.5, u)


def laplacian_of_powers(d: Any, u: Any, c: Any) -> Any:
    return d.laplacian(u**3) + d.partial(u * d.partial(u, (1, 0)), (0, 1))


def varying_with_the_state(d: Any, u: Any, c: Any) -> Any:
    return d.div_flux(1 + c.a * u**2 * torch.sin(d.x[..., 0]), u) + u


def third_order(d: Any, u: Any, c: Any) -> Any:
    return d.partial(d.laplacian(u), (0, 1)) + u * d.partial(u, (3, 0)) - d.partial(u, (1, 2))


NONLINEAR = [p_laplace, laplacian_of_powers, varying_with_the_state, third_order]
PROBLEMS: list[Problem] = [
    *(Poisson(ndim=d) for d in (1, 2, 3)),
    Darcy(law="lognormal"),
    Darcy(law="trigonometric"),
    AllenCahn(ndim=2, exact_solution="sin(a*x)*exp(x)", parameters={"a": [1, 3]}),
    Advection(exact_solution="sin(a*x - beta*y)", parameters={"a": [1, 3]}, beta=2.0),
    Helmholtz(ndim=3, parameters={"wavenumber": [1, 4]}),
    Homogenisation(contrast=0.5, parameters={"eps": [0.4, 0.6]}),
    BoundaryLayer(parameters={"eps": [0.01, 0.02]}),
    *(Equation(left=left) for left in NONLINEAR),
]


def label(problem: Problem) -> str:
    """The same in every process: the address of a function is not."""
    return f"{type(problem).__name__} {problem.left.__name__}" if isinstance(problem, Equation) else str(problem)


def case_of(problem: Problem) -> Any:
    layout = "periodic" if any("periodic" in kinds for kinds in problem.boundary.kinds) else "node"
    return problem.sample([3], Grid.box((9,) * problem.ndim, layout=layout))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("problem", PROBLEMS, ids=label)
def test_residuals_equal_those_of_reverse_passes(problem: Problem, gradients: bool) -> None:
    cases = case_of(problem)
    net = MLP(problem.ndim, width=7, depth=2)
    lower, upper = (torch.tensor(side, dtype=torch.float64) for side in (cases.domain.lower, cases.domain.upper))
    x = (lower + (upper - lower) * (0.05 + 0.9 * torch.rand(1, 11, problem.ndim, dtype=torch.float64))).contiguous()
    reverse = problem.residual_at(cases, lambda p: net(p[0])[None, :, 0], x)
    with torch.set_grad_enabled(gradients):
        forward = problem.residual_at(cases, net, x)
    assert forward.requires_grad == gradients
    assert (forward - reverse).abs().max() <= 1e-12 * reverse.abs().max()
    if gradients:  # the gradient of the loss agrees too
        found = [
            torch.autograd.grad(r.square().sum(), list(net.parameters()), allow_unused=True) for r in (forward, reverse)
        ]
        for ours, theirs in zip(*found, strict=True):
            assert (
                ours is None
                or theirs is None
                or torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10 * theirs.abs().max())
            )


@dataclass(frozen=True)
class Pair(Problem):
    """u_x − v Δv = f, v_x + u_yy = 0."""

    ndim = 2
    inputs = (Channel("f"),)
    outputs = (Channel("u"), Channel("v"))
    boundary = Poisson(ndim=2).boundary

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        first, second = u
        return (
            d.partial(first, (1, 0)) - second * d.laplacian(second) - c.f,
            d.partial(second, (1, 0)) + d.partial(first, (0, 2)),
        )

    def sample(self, seeds: Any, grid: Grid, dtype: Any = torch.float64, device: Any = "cpu") -> Any:
        from sciops.core.cases import Cases

        values = torch.randn(len(seeds), 1, *grid.shape, dtype=dtype)
        return Cases(self, grid, Field.steady(values, grid, ["f"]))


def test_several_unknowns() -> None:
    problem = Pair()
    cases = problem.sample([0], Grid.box((9, 9)))
    net = MLP(2, channels=2, width=6, depth=2)
    x = torch.rand(1, 13, 2, dtype=torch.float64)
    request, explicit = request_of(problem, cases)
    assert request == {(0, 0), (1, 0), (0, 2), LAPLACIAN} and not explicit
    forward = problem.residual_at(cases, net, x)
    reverse = problem.residual_at(cases, lambda p: net(p[0])[None].unbind(-1), x)
    for ours, theirs in zip(forward, reverse, strict=True):
        assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()


@pytest.mark.parametrize(
    ("problem", "request_", "explicit"),
    [
        (Poisson(ndim=3), {LAPLACIAN}, False),
        (AllenCahn(ndim=2, exact_solution="sin(a*x)", parameters={"a": [1, 3]}), {(0, 0), LAPLACIAN}, False),
        (Darcy(law="trigonometric"), {(1, 0), (0, 1), LAPLACIAN}, True),
        (Equation(left=third_order), {(0, 0), (2, 0), (0, 2), (2, 1), (0, 3), (3, 0), (1, 2)}, False),
        (Equation(left=p_laplace), {(1, 0), (0, 1), (2, 0), (1, 1), (0, 2)}, False),
    ],
    ids=["poisson", "allen-cahn", "darcy", "third order", "p-Laplace"],
)
def test_what_a_residual_reads(problem: Problem, request_: set, explicit: bool) -> None:
    with torch.no_grad():
        found, differentiated = request_of(problem, case_of(problem))
    assert differentiated == explicit
    # u itself is recorded before it is read; p-Laplace takes Δu collapsed beside the second derivatives of its flux
    assert request_ <= found <= request_ | {(0,) * problem.ndim, LAPLACIAN}


def test_mistakes_say_what_to_do() -> None:
    x = torch.rand(1, 5, 2, dtype=torch.float64)
    table = {(0, 0): x[..., 0]}
    with pytest.raises(UsageError, match="was not asked"):
        _slope(x, table)
    d = Forward(x, [orders_table(x)])
    with torch.no_grad(), pytest.raises(UsageError, match="evaluate"):
        d.partial(d.u**2, (1, 0))
    assert torch.equal(
        d.evaluate(lambda d, u, c: d.partial(u**2, (1, 0)), lambda x: None), 2 * d.u * d.partial(d.u, (1, 0))
    )


def _slope(x: Tensor, table: dict) -> Tensor:
    d = Forward(x, [table])
    return d.partial(d.u, (1, 0))


def orders_table(x: Tensor) -> dict:
    return {key: value[None, :, 0] for key, value in MLP(2).derivatives(x[0], orders_up_to(2, 2)).items()}


def test_modules_without_their_own_derivatives_fall_back_to_reverse_passes() -> None:
    cases = case_of(Poisson(ndim=2))
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    x = torch.rand(1, 9, 2, dtype=torch.float64)
    forward = cases.problem.residual_at(cases, Wrapped(net, 2), x)
    d = Autodiff(x)
    reverse = -d.laplacian(net(d.x)[..., 0]) - cases.at(x).f
    assert torch.allclose(forward, reverse, rtol=1e-13, atol=1e-13)

"""Products with Jacobians that are never formed: equal to the assembled ones, and so are the steps made from them."""

import pytest
import torch
from torch import nn

from sciops.core.grid import Grid
from sciops.models.factored import Factored, Formed, per_sample_products
from sciops.models.hard_boundary import HardBoundary
from sciops.models.local import Windowed
from sciops.models.mlp import MLP
from sciops.models.per_sample import per_sample_jacobian
from sciops.models.sums import Sum
from sciops.models.trial import Trial, Wrapped
from sciops.numerics.least_squares import MatrixFree, Stacked
from sciops.numerics.optimisers.gauss_newton import GaussNewton
from sciops.problems.poisson import Poisson
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn_rows import EquationRows, MeanRows, Sites, ValueRows, flat_parameters
from sciops.solvers.pinn_weak import WeakRows


def local_networks(channels: int = 1) -> Sum:
    """A network of the box and three of places, one of which no point of the edge reaches."""
    places = [((-0.6, -0.5), 0.08), ((0.6, -0.4), 0.08), ((0.1, 0.3), 0.02)]
    nets = [Windowed(MLP(2, channels, 5, 2, seed=2 + k), c, (length, length)) for k, (c, length) in enumerate(places)]
    return Sum([MLP(2, channels, 4, 1, seed=1), *nets], [1.0, 0.5, 1.0, 2.0])


def trial() -> HardBoundary:
    return HardBoundary(local_networks(), [-1, -1], [1, 1], [(0, 0), (0, 1), (1, 0)])


def equation() -> Equation:
    problem = Poisson(ndim=2, exact_solution="sin(pi*x)*sin(pi*y)")
    return Equation(problem.sample([0], Grid.box(17, -1.0, 1.0, ndim=2)))


def problem(net: Trial) -> Stacked:
    """Every kind of rows: those at points, those of weak modes and means, which keep their matrix."""
    case, random = equation(), torch.Generator().manual_seed(0)
    edge = case.interior_points(40, random)
    edge[:, 1] = 1.0
    rows = [
        EquationRows(net, Sites(case.case, case.interior_points(200, random))),
        ValueRows(net, edge, torch.zeros(40, dtype=torch.float64), weight=10.0),
        WeakRows(net, case, [3, 3], [24, 24]),
        MeanRows(net, edge.reshape(4, 10, 2)),
    ]
    return Stacked(rows, [1.0, 4.0, 1.0, 2.0])


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-12 * expected.abs().max())


@pytest.mark.parametrize("columns", [1, 11])
def test_products_of_local_networks_are_those_of_the_assembled_jacobian(columns: int) -> None:
    net = trial()
    whole = problem(net)
    theta = flat_parameters(net)
    r, J = whole.jacobian(theta)
    assert isinstance(whole, MatrixFree) and all(isinstance(part, MatrixFree) for part in whole.parts)
    products = whole.linearise(theta)
    V, W = draw(J.shape[1], columns), draw(J.shape[0], columns)
    assert close(products.residual, r) and close(products.forward(V), J @ V) and close(products.transpose(W), J.T @ W)
    there = theta + 0.1  # the products of the first point stay those of the first point
    whole.residual(there)
    assert close(products.forward(V), J @ V)
    assert not close(whole.linearise(there).forward(V), J @ V)


def test_several_residuals_of_shared_and_frozen_layers() -> None:
    net, x = local_networks(2), equation().interior_points(100, torch.Generator().manual_seed(1))
    net.nets[1].requires_grad_(False)
    twice = Sum([net, net], [1.0, 2.0])  # every parameter acts in two layers of the tape
    request = frozenset({(0, 0), (1, 0), "laplacian"})

    def rows(t: dict) -> list[torch.Tensor]:
        return [t["laplacian"][:, 0] * t[(0, 0)][:, 1], t[(1, 0)][:, 1] ** 2, t[(0, 0)][:, 0]]

    expected, J = per_sample_jacobian(twice, x, request, rows)
    found, products = per_sample_products(twice, x, request, rows)
    for a, b, K, made in zip(found, expected, J, products, strict=True):
        assert torch.equal(a, b) and made.shape == K.shape and type(made) is Factored
        V, W = draw(K.shape[1], 3), draw(len(x), 3)
        assert close(made.forward(V), K @ V) and close(made.transpose(W), K.T @ W)


def test_a_network_that_records_nothing_has_its_jacobian_formed() -> None:
    plain = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    x, request = draw(30, 2), frozenset({(0, 0)})
    r, products = per_sample_products(Wrapped(plain, 2), x, request, lambda t: [t[(0, 0)][:, 0]])
    assert isinstance(products[0], Formed)
    V, h = draw(25, 2), 1e-6
    theta = flat_parameters(Wrapped(plain, 2))
    ends = []
    for sign in (1, -1):
        nn.utils.vector_to_parameters(theta + sign * h * V[:, 0], plain.parameters())
        ends.append(plain(x)[:, 0].detach())
    assert (products[0].forward(V)[:, 0] - (ends[0] - ends[1]) / (2 * h)).abs().max() < 1e-8
    assert products[0].transpose(r[0][:, None]).shape == (25, 1)


def test_steps_by_conjugate_gradients_are_the_primal_ones() -> None:
    """Local networks in a sum: three steps of Nyström-preconditioned conjugate gradients and of Cholesky's factors."""
    net = trial()
    whole = problem(net)
    theta = flat_parameters(net)
    free = GaussNewton(theta, mu=1e-3, form="cg", bold=0.0, rank=40, tolerance=1e-13)
    dense = GaussNewton(theta, mu=1e-3, form="primal", bold=0.0)
    start = 0.5 * float(whole.residual(theta).square().sum())
    for _ in range(3):
        a, b = free.step(whole), dense.step(whole)
        assert a.status == b.status == "ok" and a.tries == b.tries
        assert a.loss_after == pytest.approx(b.loss_after, rel=1e-7)
    assert b.loss_after < 0.9 * start
    assert (free.theta - dense.theta).abs().max() < 1e-6 * dense.theta.abs().max()

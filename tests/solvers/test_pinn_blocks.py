"""Networks that live at places: Jacobians of which blocks vanish, and steps that leave those out, equal dense ones."""

import math

import pytest
import torch

from sciops.core.grid import Grid
from sciops.models.hard_boundary import HardBoundary
from sciops.models.local import Windowed
from sciops.models.mlp import MLP
from sciops.models.per_sample import per_sample_blocks, per_sample_jacobian
from sciops.models.sums import Sum
from sciops.numerics.block_jacobian import Blocks, Part
from sciops.numerics.least_squares import Stacked
from sciops.numerics.optimisers.gauss_newton import GaussNewton
from sciops.numerics.optimisers.normal_equations import Primal
from sciops.problems.poisson import Poisson
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn_rows import EquationRows, Sites, ValueRows, flat_parameters
from sciops.solvers.pinn_weak import WeakRows

CENTRES = ((-0.6, -0.5), (0.6, -0.4), (0.05, 0.6))
LENGTH = 0.08  # windows of radius 0.6: the first two overlap a little, many points lie in none


def network() -> Sum:
    nets = [MLP(2, 1, 4, 1, seed=1)]
    places = [Windowed(MLP(2, 1, 5, 2, seed=2 + k), c, (LENGTH, LENGTH)) for k, c in enumerate(CENTRES)]
    return Sum([*nets, *places], [1.0, 0.5, 1.0, 2.0])


def trial() -> HardBoundary:
    return HardBoundary(network(), [-1, -1], [1, 1], [(0, 0), (0, 1), (1, 0)])


def equation() -> Equation:
    problem = Poisson(ndim=2, exact_solution="sin(pi*x)*sin(pi*y)")
    return Equation(problem.sample([0], Grid.box(17, -1.0, 1.0, ndim=2)))


def problem(net: HardBoundary) -> Stacked:
    case, random = equation(), torch.Generator().manual_seed(0)
    x = case.interior_points(400, random)
    edge = case.interior_points(40, random)
    edge[:, 1] = 1.0
    rows = [
        EquationRows(net, Sites(case.case, x)),
        ValueRows(net, edge, torch.zeros(40, dtype=torch.float64), weight=10.0),
        WeakRows(net, case, [3, 3], [24, 24]),
    ]
    return Stacked(rows, [1.0, 4.0, 1.0])


class Plain:
    """The same least squares without its blocks."""

    def __init__(self, inner: Stacked) -> None:
        self.residual, self.jacobian = inner.residual, inner.jacobian


def test_a_window_ends_where_rounding_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    x = equation().interior_points(500, torch.Generator().manual_seed(1))
    request = frozenset({(0, 0), (1, 1), "laplacian"})
    cut, value = network().derivatives(x, request), network()(x)
    monkeypatch.setattr(Windowed, "reach", math.inf)
    whole = network().derivatives(x, request)
    for key in request:
        assert (cut[key] - whole[key]).abs().max() < 1e-9 * whole[key].abs().max()
    assert torch.equal(value, cut[(0, 0)])
    assert (whole[(0, 0)] != cut[(0, 0)]).any()  # there are points beyond the windows


def test_blocks_are_the_jacobian_without_its_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = trial(), equation().interior_points(300, torch.Generator().manual_seed(2))
    request = frozenset({(0, 0), "laplacian"})

    def rows(t: dict) -> list[torch.Tensor]:
        return [t["laplacian"][:, 0], t["laplacian"][:, 0] * t[(0, 0)][:, 0]]

    r, found = per_sample_blocks(net, x, request, rows)
    again, dense = per_sample_jacobian(net, x, request, rows)
    monkeypatch.setattr(Windowed, "reach", math.inf)
    plain, whole = per_sample_jacobian(net, x, request, rows)
    for a, b, c in zip(found, dense, whole, strict=True):
        assert [part.rows is None for part in a.parts] == [True, False, False, False]
        assert sum(part.values.numel() for part in a.parts) < 0.6 * c.numel()
        assert torch.equal(a.dense(), b)
        assert (b - c).abs().max() < 1e-9 * c.abs().max()
    assert all(torch.equal(a, b) for a, b in zip(r, again, strict=True))
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(r, plain, strict=True))


def test_products_of_blocks() -> None:
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    some, other = torch.tensor([1, 3, 4, 8]), torch.tensor([0, 3, 8, 9])
    empty = torch.zeros(0, dtype=torch.long)
    parts = [(some, draw(4, 3)), (None, draw(10, 2)), (empty, draw(0, 2)), (other, draw(4, 1))]
    first, made = 0, []
    for rows, values in parts:
        made.append(Part(rows, first, values))
        first += values.shape[1]
    J = Blocks(10, made)
    whole, w, basis = J.dense(), draw(10), draw(6, 10)
    assert whole.shape == (10, 8) == J.shape
    assert torch.equal(whole[some, :3], parts[0][1]) and not whole[[0, 2, 5, 6, 7, 9], :3].any()
    gram = torch.eye(8, dtype=torch.float64)
    J.add_gram(gram)
    expected = whole.T @ whole + torch.eye(8, dtype=torch.float64)
    torch.testing.assert_close(gram.tril(), expected.tril(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(J.transposed(w), whole.T @ w, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(J.projected(basis), basis @ whole, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close((J * 3.0).dense(), 3 * whole)


def test_normal_equations_and_steps_equal_the_dense_ones() -> None:
    net = trial()
    whole = problem(net)
    theta = flat_parameters(net)
    r, J = whole.jacobian(theta)
    pieces = whole.local_blocks(theta)
    assert whole.local and torch.allclose(torch.cat([part for part, _ in pieces]), r, rtol=1e-13, atol=0)
    G, size = Primal.blocked(pieces), float(J.norm()) ** 2
    assert (G.G.tril() - (J.T @ J).tril()).abs().max() < 1e-14 * size
    assert (G.transpose(r) - J.T @ r).abs().max() < 1e-14 * size
    start = a_loss = 0.5 * float(r @ r)
    sparse, dense = (GaussNewton(theta, mu=1e-3, form="primal", bold=0.0) for _ in range(2))
    for _ in range(3):
        a, b = sparse.step(whole), dense.step(Plain(whole))
        assert a.status == b.status == "ok" and a.tries == b.tries
        assert a.loss_after == pytest.approx(b.loss_after, rel=1e-9) and a.loss_after < a_loss
        a_loss = a.loss_after
    assert a_loss < 0.9 * start
    assert (sparse.theta - dense.theta).abs().max() < 1e-8 * dense.theta.abs().max()


def test_networks_of_the_whole_box_have_no_blocks() -> None:
    net = HardBoundary(MLP(2, 1, 5, 2), [-1, -1], [1, 1], [(0, 0)])
    case = equation()
    rows = EquationRows(net, Sites(case.case, case.interior_points(30, torch.Generator().manual_seed(0))))
    assert not rows.local and not Stacked([rows]).local

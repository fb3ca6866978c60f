"""Operators and derivatives along directions equal contractions of nested reverse passes; random ones are unbiased."""

from itertools import product

import pytest
import torch
from torch import Tensor

from sciops.core.calculus import LAPLACIAN
from sciops.core.errors import UsageError
from sciops.models.directional import RandomLaplacian, directional, second_order, square_of
from sciops.models.embeddings import embed
from sciops.models.hard_boundary import HardBoundary
from sciops.models.mlp import MLP, orders_up_to
from sciops.models.per_sample import per_sample_jacobian
from sciops.models.siren import Siren
from sciops.models.trial import Trial, Wrapped

D = 3


def networks() -> dict[str, Trial]:
    lower, upper = [-1.0] * D, [1.0] * D
    return {
        "tanh": MLP(D, 2, 8, 2),
        "siren": Siren(D, 2, 8, 2, omega=3.0),
        "embedded": MLP(D, 2, 8, 2, "gelu", embedding=embed(lower, upper, [0], features=8)),
        "hard": HardBoundary(MLP(D, 2, 6, 2), lower, upper, [(0, 0), (1, 1)]),
        "wrapped": Wrapped(MLP(D, 2, 6, 1), D, 2),
    }


def points(n: int) -> Tensor:
    return 2 * torch.rand(n, D, dtype=torch.float64) - 1


def key(*axes: int) -> tuple[int, ...]:
    return tuple(axes.count(j) for j in range(D))


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("vary", [False, True])
def test_second_order_operators(name: str, vary: bool) -> None:
    net, x = networks()[name], points(6)
    shape = (6,) if vary else ()
    A = torch.randn(*shape, D, D, dtype=torch.float64)  # neither symmetric nor definite
    b = torch.randn(*shape, D, dtype=torch.float64)
    known = Wrapped(net, D, 2).derivatives(x, orders_up_to(2, D))
    expected = sum(A[..., i, j, None] * known[key(i, j)] for i in range(D) for j in range(D))
    value, found = second_order(net, x, A)
    assert torch.allclose(value, net(x), rtol=1e-13, atol=1e-13)
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()
    expected = expected + sum(b[..., i, None] * known[key(i)] for i in range(D))
    found = second_order(net, x, A, b)[1]
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()
    gradients = [
        torch.autograd.grad(v.square().sum(), list(net.parameters()), allow_unused=True) for v in (found, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        assert theirs is None or torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10 * float(theirs.abs().max()))


def test_coefficients_that_are_trained() -> None:
    net, x = networks()["tanh"], points(5)
    A = torch.randn(5, D, D, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(second_order(net, x, A)[1][:, 0].sum(), A)
    hessian = net.derivatives(x, orders_up_to(2, D))
    expected = torch.stack([torch.stack([hessian[key(i, j)][:, 0] for j in range(D)], 1) for i in range(D)], 1)
    assert torch.allclose(slope, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("vary", [False, True])
def test_directional_derivatives(name: str, vary: bool) -> None:
    net, x, m = networks()[name], points(5), 2
    v = torch.randn(m, 5 if vary else 1, D, dtype=torch.float64)
    request = orders_up_to(3, m) | {LAPLACIAN}
    found = directional(net, x, v, request)
    known = Wrapped(net, D, 2).derivatives(x, orders_up_to(3, D))
    for wanted in orders_up_to(3, m):
        chosen = [k for k, times in enumerate(wanted) for _ in range(times)]
        expected = torch.zeros_like(known[key()])
        for axes in product(range(D), repeat=len(chosen)):
            weight = torch.ones(1, 1, dtype=torch.float64)
            for k, i in zip(chosen, axes, strict=True):
                weight = weight * v[k, :, i, None]
            expected = expected + weight * known[key(*axes)]
        assert (found[wanted] - expected).abs().max() < 1e-12 * expected.abs().max()
    total = found[(2, 0)] + found[(0, 2)]
    assert (found[LAPLACIAN] - total).abs().max() < 1e-12 * total.abs().max()


def test_keys_count_directions() -> None:
    with pytest.raises(UsageError, match="one per direction"):
        directional(networks()["tanh"], points(2), torch.ones(2, 1, D, dtype=torch.float64), frozenset({(1, 0, 0)}))


@pytest.mark.parametrize("law", ["rademacher", "normal", "axes"])
def test_random_directions_are_unbiased(law: str) -> None:
    """60 dimensions, 6 directions: mean and variance over 20 000 draws at one point."""
    d, count, n = 60, 6, 20_000
    net = MLP(d, width=5, depth=1)
    one = 2 * torch.rand(1, d, dtype=torch.float64) - 1
    exact = float(net.derivatives(one, frozenset({LAPLACIAN}))[LAPLACIAN].detach())
    W, c = net.weights[0].detach(), net.weights[1][0].detach()
    curvature = net.phi.jet(one @ W.T + net.biases[0].detach(), 2)[2][0]
    H = W.T @ torch.diag(c * curvature) @ W
    assert abs(float(H.trace()) - exact) < 1e-12 * float(H.abs().sum())
    estimate = RandomLaplacian(net, count, law, seed=1)
    with torch.no_grad():
        draws = [estimate.derivatives(one.expand(n, d), frozenset({LAPLACIAN}))[LAPLACIAN][:, 0] for _ in range(2)]
    off = H - torch.diag(H.diag())
    variance = {
        "rademacher": 2 * off.square().sum() / count,
        "normal": 2 * H.square().sum() / count,
        "axes": d / count * (d - count) * H.diag().var(),
    }[law]
    error = float((variance / n).sqrt())
    assert abs(float(draws[0].mean()) - exact) < 4 * error
    assert abs(float(draws[0].var() / variance) - 1) < 0.1
    # The square of one draw is biased by its variance, the product of two is not.
    spread = float((draws[0] * draws[1]).std()) / n**0.5
    assert abs(float(square_of(*draws)) - exact**2) < 4 * spread
    assert float(square_of(draws[0], draws[0])) - exact**2 > 0.8 * float(variance) > 10 * spread


def test_all_axes_are_exact_and_other_derivatives_pass() -> None:
    net, x = networks()["tanh"], points(7)
    estimate = RandomLaplacian(net, D, "axes")
    request = frozenset({LAPLACIAN, (0, 0, 0), (1, 0, 0)})
    found, known = estimate.derivatives(x, request), net.derivatives(x, request)
    assert all(torch.allclose(found[k], known[k], rtol=1e-12, atol=1e-13) for k in request)
    _, J = per_sample_jacobian(estimate, x, request, lambda t: [t[LAPLACIAN][:, 0] * t[(1, 0, 0)][:, 1]])
    _, K = per_sample_jacobian(net, x, request, lambda t: [t[LAPLACIAN][:, 0] * t[(1, 0, 0)][:, 1]])
    assert (J[0] - K[0]).abs().max() < 1e-13 * K[0].abs().max()
    with pytest.raises(UsageError, match="at most 3"):
        RandomLaplacian(net, 4, "axes")
    with pytest.raises(UsageError, match="propagate"):
        RandomLaplacian(Wrapped(net, D, 2))

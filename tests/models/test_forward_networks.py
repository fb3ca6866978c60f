"""Propagated derivatives equal nested reverse passes and known polynomials; per-sample Jacobians equal torch.func."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sciops.core.calculus import LAPLACIAN, Request
from sciops.core.errors import UsageError
from sciops.models.activations import Sine, Smooth, activation
from sciops.models.embeddings import embed
from sciops.models.mlp import MLP, orders_up_to
from sciops.models.per_sample import per_sample_jacobian
from sciops.models.siren import Siren
from sciops.models.sums import Sum
from sciops.models.trial import Trial, Wrapped


def difference(found: dict, expected: dict) -> float:
    with torch.no_grad():
        return max(float((found[k] - v).abs().max() / v.abs().max().clamp_min(1e-300)) for k, v in expected.items())


def points(n: int, d: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.rand(n, d, dtype=dtype) - 1


def randomise(net: torch.nn.Module) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))


@pytest.mark.parametrize("name", ["tanh", "sine", "gelu", "gaussian", "silu", "softplus"])
@pytest.mark.parametrize("d", [1, 2, 5, 10])
def test_the_laplacian_equals_nested_reverse_passes(name: str, d: int) -> None:
    net = MLP(d, channels=2, width=12, depth=3, activation_name=name)
    randomise(net)
    x, request = points(9, d), frozenset({(0,) * d, LAPLACIAN})
    found, expected = net.derivatives(x, request), Wrapped(net, d, 2).derivatives(x, request)
    assert difference(found, expected) < 1e-12
    losses = [(t[LAPLACIAN] * (1 + t[(0,) * d])).square().sum() for t in (found, expected)]
    gradients = [torch.autograd.grad(loss, list(net.parameters())) for loss in losses]
    assert all(
        torch.allclose(a, b, rtol=1e-11, atol=1e-11 * float(b.abs().max())) for a, b in zip(*gradients, strict=True)
    )


@pytest.mark.parametrize("name", ["tanh", "sine", "gelu", "gaussian", "silu"])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_derivatives_up_to_third_order(name: str, d: int) -> None:
    net = MLP(d, width=9, depth=2, activation_name=name, lower=[-2.0] * d, upper=[1.0] * d)
    randomise(net)
    x, request = points(7, d), orders_up_to(3, d) | {LAPLACIAN}
    assert difference(net.derivatives(x, request), Wrapped(net, d).derivatives(x, request)) < 1e-12


@pytest.mark.parametrize("order", [4, 5])
def test_higher_orders_fall_back(order: int) -> None:
    net = MLP(2, width=5, depth=2)
    x, request = points(4, 2), frozenset({(order, 0), (1, order - 1), (0, 0)})
    assert difference(net.derivatives(x, request), Wrapped(net, 2).derivatives(x, request)) < 1e-12


@pytest.mark.parametrize("power", [2, 3])
@pytest.mark.parametrize("d", [1, 3, 10])
def test_polynomial_networks(power: int, d: int) -> None:
    """φ(z) = zᵖ and one hidden layer: u = Σ_k c_k (w_k·x + b_k)ᵖ, Δu = Σ_k p(p−1) c_k |w_k|² (…)^{p−2}."""
    net = MLP(d, width=6, depth=1, activation_name=Smooth(lambda z: z**power, "power"))
    randomise(net)
    W, c, b = net.weights[0], net.weights[1][0], net.biases[0]
    x = points(8, d)
    z = x @ W.T + b
    third = (3,) + (0,) * (d - 1)
    found = net.derivatives(x, frozenset({(0,) * d, LAPLACIAN, third}))
    laplacian = power * (power - 1) * (z ** (power - 2)) @ (c * W.square().sum(1))
    assert (found[LAPLACIAN][:, 0] - laplacian).abs().max() < 1e-13 * laplacian.abs().max()
    value = (z**power) @ c + net.biases[1]
    assert (found[(0,) * d][:, 0] - value).abs().max() < 1e-13 * value.abs().max()
    constant = 6 * (c * W[:, 0] ** 3).sum() if power == 3 else torch.zeros(())
    assert (found[third][:, 0] - constant).abs().max() < 1e-13


def test_activations_and_their_derivatives() -> None:
    z = torch.linspace(-3, 3, 41, dtype=torch.float64)
    for phi in (*map(activation, ("tanh", "sine", "gelu", "gaussian", "silu", "softplus")), Sine(7.0)):
        generic = Smooth(phi.forward, "generic").jet(z, 3)
        for own, known in zip(phi.jet(z, 3), generic, strict=True):
            assert (own - known).abs().max() < 1e-12 * max(1.0, float(known.abs().max()))


@pytest.mark.parametrize("given", ["relu", torch.relu, torch.nn.ReLU(), torch.nn.LeakyReLU()])
def test_piecewise_linear_activations_are_refused(given: object) -> None:
    with pytest.raises(UsageError, match="no second derivative") as error:
        MLP(2, activation_name=given)  # type: ignore[arg-type]
    assert str(error.value).count(". ") == 0


def test_unknown_activation() -> None:
    with pytest.raises(UsageError, match="tanh, sine"):
        MLP(2, activation_name="swosh")


def nets(dtype: torch.dtype) -> dict[str, Trial]:
    lower, upper = [-1.0, 0.0, 0.0], [1.0, 2.0, 0.5]
    first = MLP(3, 2, 8, 3, lower=lower, upper=upper, dtype=dtype)
    made: dict[str, Trial] = {
        "tanh": first,
        "gelu": MLP(3, 2, 8, 2, "gelu", dtype=dtype),
        "custom": MLP(3, 2, 8, 2, lambda z: z / (1 + z * z), dtype=dtype),
        "periodic": MLP(3, 2, 8, 2, dtype=dtype, embedding=embed(lower, upper, [0, 2], 2)),
        "fourier": MLP(3, 2, 8, 2, dtype=dtype, embedding=embed(lower, upper, [1], features=12, scale=[1.0, 3.0])),
        "siren": Siren(3, 2, 10, 2, omega=4.0, dtype=dtype),
    }
    made["sum"] = Sum([first, made["siren"]], [1.0, 0.1])
    made["frozen"] = Sum([MLP(3, 2, 7, 2, dtype=dtype)]).grow(MLP(3, 2, 5, 2, "sine", dtype=dtype), 0.01, freeze=True)
    return made


def rows(t: dict) -> list[Tensor]:
    u, v = t[(0, 0, 0)].unbind(1)
    return [
        t[LAPLACIAN][:, 0] * v - t[(1, 0, 0)][:, 1] ** 2,
        t[(1, 1, 0)][:, 0] + t[(0, 0, 2)][:, 1] * u.sin() + t[(1, 0, 2)][:, 1],
    ]


REQUEST: Request = frozenset({(0, 0, 0), LAPLACIAN, (1, 0, 0), (1, 1, 0), (0, 0, 2), (1, 0, 2)})


@pytest.mark.parametrize("name", nets(torch.float64))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_per_sample_jacobians(name: str, dtype: torch.dtype) -> None:
    net = nets(dtype)[name]
    x = points(6, 3, dtype)
    found, J = per_sample_jacobian(net, x, REQUEST, rows)
    parameters = {k: p.detach() for k, p in net.named_parameters() if p.requires_grad}

    def residuals(p: dict) -> list[Tensor]:
        return rows(torch.func.functional_call(Call(net), {f"net.{k}": v for k, v in p.items()}, (x,)))

    expected = torch.func.jacrev(residuals)(parameters)
    for r, ours, known, value in zip(found, J, expected, residuals(parameters), strict=True):
        flat = torch.cat([known[k].flatten(1) for k in parameters], 1)
        eps = 1e-14 if dtype == torch.float64 else 1e-14 * 2**29
        assert (ours - flat).abs().max() < eps * flat.abs().max()
        assert torch.allclose(r, value, rtol=0, atol=eps * float(value.abs().max()))
        assert ours.dtype == r.dtype == dtype


class Call(torch.nn.Module):
    def __init__(self, net: Trial) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> dict:
        return self.net.derivatives(x, REQUEST)


def test_per_sample_jacobian_of_the_value_alone_and_of_no_parameter() -> None:
    net = MLP(2, width=4, depth=1)
    x = points(5, 2)
    _, (J,) = per_sample_jacobian(net, x, frozenset({(0, 0), LAPLACIAN}), lambda t: [t[LAPLACIAN][:, 0]])
    bias = J[:, -1]
    assert not bias.any() and J[:, :-1].any()  # Δ does not see the output bias
    _, (J,) = per_sample_jacobian(net, x, frozenset({(0, 0)}), lambda t: [t[(0, 0)][:, 0]])
    assert torch.equal(J[:, -1], torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("name", nets(torch.float64))
def test_propagated_derivatives_of_every_network(name: str) -> None:
    net = nets(torch.float64)[name]
    x, request = points(5, 3), orders_up_to(3, 3) | {LAPLACIAN}
    assert difference(net.derivatives(x, request), Wrapped(net, 3, 2).derivatives(x, request)) < 1e-12
    half = nets(torch.float32)[name].derivatives(x.float(), request)
    exact = net.derivatives(x.float().double(), request)
    assert all(value.dtype == torch.float32 for value in half.values())
    assert difference({k: v.double() for k, v in half.items()}, exact) < 1e-4


def test_modules_that_are_no_trial() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)).double()
    trial = Wrapped(net, 2)
    x, request = points(4, 2), frozenset({(0, 0), (2, 0), (1, 1)})
    _, (J,) = per_sample_jacobian(trial, x, request, lambda t: [(t[(2, 0)] * t[(0, 0)] + t[(1, 1)])[:, 0]])
    own = MLP(2, width=6, depth=1)
    with torch.no_grad():
        for p, q in zip(
            [*own.weights, *own.biases], [net[0].weight, net[2].weight, net[0].bias, net[2].bias], strict=True
        ):
            p.copy_(q)
    _, (K,) = per_sample_jacobian(own, x, request, lambda t: [(t[(2, 0)] * t[(0, 0)] + t[(1, 1)])[:, 0]])
    order = [0, 2, 1, 3]  # MLP lists weights before biases
    sizes = [p.numel() for p in own.parameters()]
    split = K.split(sizes, 1)
    assert torch.allclose(J, torch.cat([split[k] for k in order], 1), rtol=1e-12, atol=1e-14)


# ---- initial laws and embeddings


def test_periodicity_is_exact() -> None:
    lower, upper = [-1.0, 0.0, 2.0], [1.0, 2.0, 2.5]
    for features in (0, 16):
        net = MLP(3, width=8, depth=2, embedding=embed(lower, upper, [0, 2], 3, features=features))
        x = torch.tensor(lower) + points(6, 3).abs() * (torch.tensor(upper) - torch.tensor(lower))
        shift = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)  # one period of x, two of z
        request = orders_up_to(3, 3)
        assert difference(net.derivatives(x + shift, request), net.derivatives(x, request)) < 1e-11
        moved = net(x + torch.tensor([0.0, 0.7, 0.0], dtype=torch.float64))
        assert (moved - net(x)).abs().max() > 1e-3  # y is no periodic axis


def test_periodic_features_contain_every_mode() -> None:
    """sin(2π·2(x−lo)/L) is one of the features: least squares on them finds it to rounding."""
    layer = embed([-1.0, 0.0], [1.0, 1.0], [0], modes=2)
    x = points(50, 2)
    target = torch.sin(2 * math.pi * 2 * (x[:, :1] + 1) / 2) * 0.3
    assert (torch.linalg.lstsq(layer(x), target).solution.norm() - 0.3).abs() < 1e-12


def test_random_features_have_the_given_law() -> None:
    layer = embed([0.0, 0.0], [1.0, 3.0], features=4000, scale=[1.0, 5.0], seed=3)
    B = layer.frequencies[:2000]
    assert torch.equal(layer.frequencies[2000:], B)
    spread = [float(part.std()) for part in B.chunk(2)]
    assert abs(spread[0] - 1) < 0.07 and abs(spread[1] / 5 - 1) < 0.07  # 3 standard errors of 2000 draws: 0.05
    assert torch.equal(
        embed([0.0, 0.0], [1.0, 3.0], features=4000, scale=[1.0, 5.0], seed=3).frequencies, layer.frequencies
    )


def test_the_law_of_siren() -> None:
    net = Siren(3, width=400, depth=3, seed=1)
    assert float(net.weights[0].detach().abs().max()) <= 1 / 3
    assert abs(float(net.weights[0].detach().std()) / (1 / 3 / math.sqrt(3)) - 1) < 0.1
    for W in net.weights[1:]:
        limit = math.sqrt(6 / 400) / 30
        assert float(W.detach().abs().max()) <= limit
        assert abs(float(W.detach().std()) / (limit / math.sqrt(3)) - 1) < 0.1
    h = points(2000, 3)
    for W, b in list(zip(net.weights, net.biases, strict=True))[:-1]:
        h = torch.sin(30 * (h @ W.T + b))
        assert abs(float(h.detach().std()) - math.sqrt(0.5)) < 0.03  # the arcsine law of every layer has variance 1/2
    assert torch.equal(Siren(3, width=8, seed=1).weights[1], Siren(3, width=8, seed=1).weights[1])


def test_sums() -> None:
    nets_ = [MLP(2, seed=k) for k in range(2)]
    total = Sum(nets_, [2.0, -0.5])
    x = points(5, 2)
    assert torch.allclose(total(x), 2 * nets_[0](x) - 0.5 * nets_[1](x), rtol=1e-14)
    again = Sum([MLP(2), MLP(2)])
    again.load_state_dict(total.state_dict())
    assert torch.equal(again(x), total(x))
    with pytest.raises(UsageError, match="same ndim"):
        Sum([MLP(2), MLP(3)])
    with pytest.raises(UsageError, match="the sum has"):
        total.grow(MLP(2, channels=2))


class Scaled(Trial):
    """factor · net, the factor trained: a parameter outside all linear layers."""

    def __init__(self, net: MLP) -> None:
        super().__init__()
        self.ndim, self.channels, self.net = net.ndim, net.channels, net
        self.factor = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.net(x)

    def derivatives(self, x: Tensor, request: Request, tape: object = None) -> dict:
        return {key: self.factor * value for key, value in self.net.derivatives(x, request).items()}


def test_per_sample_jacobian_with_other_parameters() -> None:
    net = Scaled(MLP(3, 2, 6, 2))
    x = points(5, 3)
    _, J = per_sample_jacobian(net, x, REQUEST - {(1, 0, 2)}, lambda t: [t[LAPLACIAN][:, 0] * t[(1, 1, 0)][:, 1]])
    _, K = per_sample_jacobian(
        Wrapped(net, 3, 2), x, REQUEST - {(1, 0, 2)}, lambda t: [t[LAPLACIAN][:, 0] * t[(1, 1, 0)][:, 1]]
    )
    assert (J[0] - K[0]).abs().max() < 1e-13 * K[0].abs().max()


@pytest.mark.parametrize("name", ["tanh", "sine", "silu", torch.nn.functional.silu])
def test_second_derivatives_of_a_loss(name: Any) -> None:
    """Hessian–vector products in θ by two backward passes, and Jacobian–vector products by forward mode."""
    net = MLP(2, width=6, depth=2, activation_name=name)
    randomise(net)
    x, request = points(7, 2), frozenset({(0, 0), (1, 0), (1, 1), LAPLACIAN})
    parameters = list(net.parameters())
    direction = [torch.randn_like(p) for p in parameters]

    def product(trial: Trial) -> Tensor:
        t = trial.derivatives(x, request)
        loss = (t[LAPLACIAN] * t[(0, 0)] + t[(1, 1)] ** 2 + t[(1, 0)]).square().sum()
        slopes = torch.autograd.grad(loss, parameters, create_graph=True)
        return torch.cat([s.flatten() for s in torch.autograd.grad(slopes, parameters, direction)])

    ours, theirs = product(net), product(Wrapped(net, 2))
    assert (ours - theirs).abs().max() < 1e-11 * theirs.abs().max()

    names = [k for k, _ in net.named_parameters()]

    def laplacian(*values: Tensor) -> Tensor:
        p = {f"net.{k}": v for k, v in zip(names, values, strict=True)}
        return torch.func.functional_call(Only(net, request), p, (x,))[LAPLACIAN]

    tangent = torch.func.jvp(laplacian, tuple(parameters), tuple(direction))[1]
    _, (J,) = per_sample_jacobian(net, x, request, lambda t: [t[LAPLACIAN][:, 0]])
    known = J @ torch.cat([v.flatten() for v in direction])
    assert (tangent[:, 0] - known).abs().max() < 1e-12 * known.abs().max()


class Only(torch.nn.Module):
    def __init__(self, net: Trial, request: Request) -> None:
        super().__init__()
        self.net, self.request = net, request

    def forward(self, x: Tensor) -> dict:
        return self.net.derivatives(x, self.request)

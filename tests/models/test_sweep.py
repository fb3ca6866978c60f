"""All layers as one operation: values, first and second gradients equal those of ordinary operations."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sciops.core.calculus import LAPLACIAN, Request
from sciops.models import mlp, sweep
from sciops.models.channels import Plan, unit_seeds
from sciops.models.embeddings import embed
from sciops.models.mlp import MLP, orders_up_to

REQUESTS: dict[str, Request] = {
    "value": frozenset({(0, 0, 0)}),
    "gradient": frozenset({(1, 0, 0), (0, 0, 1)}),
    "Burgers": frozenset({(0, 0, 0), (0, 1, 0), (1, 0, 0), (2, 0, 0)}),
    "Laplacian": frozenset({LAPLACIAN}),
    "all": orders_up_to(2, 3) | {LAPLACIAN},
}


def network(name: str = "tanh", depth: int = 3, dtype: torch.dtype = torch.float64, embedded: bool = False) -> MLP:
    first = embed([-1.0] * 3, [1.0] * 3, [0]) if embedded else None
    net = MLP(3, 2, 5, depth, name, embedding=first, seed=3, dtype=dtype)
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=random, dtype=torch.float64))
    return net


def points(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.rand(count, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype) - 1


def loss_of(net: MLP, x: Tensor, request: Request) -> Tensor:
    table = net.derivatives(x, request)
    return torch.stack([((k + 1) * table[key]).sin().sum() for k, key in enumerate(sorted(request, key=str))]).sum()


def gradients(net: MLP, x: Tensor, request: Request) -> list[Tensor]:
    """The loss and its gradient; zeros where there is none."""
    loss, parameters = loss_of(net, x, request), list(net.parameters())
    slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [loss, *(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, slopes, strict=True))]


def assert_same(found: list[Tensor], known: list[Tensor], rtol: float) -> None:
    for a, b in zip(found, known, strict=True):
        assert (a - b).abs().max() <= rtol * b.abs().max()


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("name", ["tanh", "sine", "gelu"])
@pytest.mark.parametrize("embedded", [False, True])
def test_the_sweep_equals_layer_after_layer(
    request_: str, name: str, embedded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = network(name, embedded=embedded), points(11)
    found = gradients(net, x, REQUESTS[request_])
    monkeypatch.setattr(mlp, "sweepable", lambda *_: False)
    assert_same(found, gradients(net, x, REQUESTS[request_]), 1e-13)


@pytest.mark.parametrize("request_", REQUESTS)
def test_gradients_of_first_and_second_order(request_: str) -> None:
    net, x = MLP(3, 1, 2, 2), points(2)
    plan = Plan.of(REQUESTS[request_], 3)
    h, t = net.embedding.carry(x, unit_seeds(plan, x), plan)

    def channels(*given: Tensor) -> tuple[Tensor, ...]:
        return tuple(sweep.sweep(net.phi, plan, h, t, given[:3], given[3:]))

    given = [p.detach().clone().requires_grad_(True) for p in (*net.weights, *net.biases)]
    assert torch.autograd.gradcheck(channels, given)
    assert torch.autograd.gradgradcheck(channels, given)


def test_frozen_parameters_and_backward_again() -> None:
    net, x, request = network(), points(9), REQUESTS["all"]
    known = gradients(net, x, request)[1:]
    for chosen in ([1], [2, 5], [6], [3]):  # weights 0 … 3, biases 4 … 7
        for k, p in enumerate(net.parameters()):
            p.requires_grad_(k in chosen)
        loss = loss_of(net, x, request)
        loss.backward(retain_graph=True)
        loss.backward()
        for k, p in enumerate(net.parameters()):
            assert (p.grad is None) == (k not in chosen)
            assert p.grad is None or torch.allclose(p.grad, 2 * known[k], rtol=1e-13, atol=1e-13)
            p.grad = None
    net.requires_grad_(False)
    assert not loss_of(net, x, request).requires_grad


def test_one_layer_and_batched_cotangents() -> None:
    """A network without hidden layers is linear; `vmap` over backward passes is the Jacobian."""
    x, W, b = points(4), torch.randn(2, 3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    plan = Plan.of(REQUESTS["gradient"], 3)
    made = sweep.sweep(network().phi, plan, x, unit_seeds(plan, x), [W.requires_grad_()], [b])
    assert torch.allclose(made[0], x @ W.T + b) and torch.equal(made[2], W[:, 2].expand(4, 2))
    net = network()
    u = net.derivatives(x, REQUESTS["Laplacian"])[LAPLACIAN][:, 0]
    (J,) = torch.autograd.grad(
        u, net.weights[1], (torch.eye(4, dtype=u.dtype),), is_grads_batched=True, retain_graph=True
    )
    for k in range(4):
        (row,) = torch.autograd.grad(u[k], net.weights[1], retain_graph=True)
        assert torch.allclose(J[k], row, rtol=1e-12, atol=1e-13)


@pytest.mark.slow  # compiles for seconds on a new machine
@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("embedded", [False, True])
def test_compiled_loops(
    request_: str, dtype: torch.dtype, depth: int, embedded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Panels of 32 or 64 points, the last one not full, are as accurate as tensor operations."""
    net, x = network(depth=depth, dtype=dtype, embedded=embedded), points(91, dtype)
    exact = network(depth=depth, embedded=embedded)
    exact.load_state_dict({name: v.double() for name, v in net.state_dict().items()})
    known = [v.double() for v in gradients(exact, x.double(), REQUESTS[request_])]
    plain = [v.double() for v in gradients(net, x, REQUESTS[request_])]
    taken: list[type] = []
    made = sweep._Loops.forward
    monkeypatch.setattr(sweep._Loops, "forward", lambda *given: taken.append(type(given[0])) or made(*given))
    monkeypatch.setattr(sweep, "LARGE", 0)
    found = gradients(net, x, REQUESTS[request_])
    assert taken == [sweep._Loops] and all(v.dtype == dtype for v in found)
    if dtype == torch.float64:
        assert_same(found, known, 1e-12)
    else:
        rounding = max(float(((a - b).abs().max() / b.abs().max()).detach()) for a, b in zip(plain, known, strict=True))
        assert_same([v.double() for v in found], known, 3 * rounding + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_compiled_tanh(dtype: type) -> None:
    from sciops.numerics.compiled import tanh_sweep

    random = np.random.default_rng(0)
    v = random.standard_normal(4090) * 10 ** random.uniform(-12, 1.5, 4090)
    v = np.concatenate([v, [0.0, 700.0, -700.0, math.inf, -math.inf, math.nan]]).astype(dtype)
    found = v.copy()
    tanh_sweep.tanh(found)
    known = np.tanh(v.astype(np.float64))
    assert np.isnan(found[-1])
    assert np.all(np.abs(found - known)[:-1] <= 3 * np.finfo(dtype).eps * np.abs(known)[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("rows", "inner"), [(1, 1), (4, 4), (7, 9), (11, 6)])
def test_products_with_panels(dtype: Any, rows: int, inner: int) -> None:
    from sciops.numerics.compiled.tiles import BYTES, combine, correlate

    random, points, panels = np.random.default_rng(0), BYTES // np.dtype(dtype).itemsize, 3
    w, bias = random.standard_normal((inner, rows)).astype(dtype), random.standard_normal(rows + 1).astype(dtype)
    x = random.standard_normal((panels, inner, points)).astype(dtype)
    y = np.empty((panels, rows, points), dtype)
    for k in range(panels):  # the weights read as their transpose, everything behind other numbers
        combine(np.append(dtype(7), w), 1, 1, rows, rows, inner, bias, 1, x[k].ravel(), y[k].reshape(-1))
    assert np.allclose(y, w.T @ x + bias[1:, None], rtol=0, atol=100 * np.finfo(dtype).eps)
    found = np.ones(2 + rows * inner, dtype)
    correlate(y.ravel(), rows, x.ravel(), inner, panels, found, 2)
    known = 1 + np.einsum("cri,cqi->rq", y, x)
    assert np.allclose(found[2:].reshape(rows, inner), known, rtol=0, atol=1000 * np.finfo(dtype).eps * points)
    assert np.all(found[:2] == 1)


@pytest.mark.slow
def test_operations_of_the_loops() -> None:
    """What compilers are told of shapes and gradients."""
    from sciops.models import sweep_loops

    net, x, request = network(), points(40), REQUESTS["all"]
    plan = Plan.of(request, 3)
    h, t = net.embedding.carry(x, unit_seeds(plan, x), plan)
    theta = sweep_loops.joined(list(net.weights), list(net.biases)).detach().requires_grad_(True)
    given = (h, t, theta, [3, 5, 5, 5, 2], sweep_loops.described(plan))
    torch.library.opcheck(torch.ops.sciops.tanh_channels, given)

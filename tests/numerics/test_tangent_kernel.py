"""Tangent kernels: symmetric, positive, consistent in blocks, invariant, and true to the training they predict."""

import json
import math

import pytest
import torch
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.tangent_kernel import (
    RunningWeights,
    TangentKernel,
    alignment,
    decay_slope,
    effective_rank,
    participation,
    trace_weights,
)

P = 31


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def blocks() -> dict[str, tuple[Tensor, Tensor]]:
    scale = torch.logspace(0, -4, P, dtype=torch.float64)
    return {
        "boundary": (normal(10, seed=0), normal(10, P, seed=1) * scale),
        "residual": (normal(40, seed=2), 5 * normal(40, P, seed=3) * scale),
    }


def network(theta: Tensor, x: Tensor) -> Tensor:
    a, w, b = theta.view(3, 10)
    return torch.tanh(x[:, None] * w + b) @ a


def test_matrix_is_symmetric_positive_and_consistent(blocks: dict) -> None:
    kernel = TangentKernel(blocks, weights={"boundary": 4.0})
    K = kernel.matrix
    assert (K - K.T).abs().max() < 1e-14 * K.abs().max()
    values = torch.linalg.eigvalsh(K)
    assert values[0] > -1e-10 * values[-1]
    (_, J_b), (_, J_r) = blocks["boundary"], blocks["residual"]
    assert torch.allclose(K[:10, :10], 4 * J_b @ J_b.T / 10, rtol=1e-13, atol=1e-15)
    assert torch.allclose(K[:10, 10:], 2 * J_b @ J_r.T / math.sqrt(400), rtol=1e-13, atol=1e-15)
    assert float(K.trace()) == pytest.approx(
        4 * kernel.mean_diagonal()["boundary"] + kernel.mean_diagonal()["residual"], rel=1e-13
    )


@pytest.mark.parametrize("points", [12, 60])
def test_both_gram_matrices_have_these_eigenvalues(points: int) -> None:
    kernel = TangentKernel({"only": (normal(points, seed=4), normal(points, P, seed=5))})
    J = kernel.jacobian
    for other in (J @ J.T, J.T @ J):
        reference = torch.linalg.eigvalsh(other).flip(0)[: min(points, P)]
        assert torch.allclose(kernel.eigenvalues, reference, rtol=0, atol=1e-13 * float(reference[0]))
    assert torch.allclose(kernel.spectrum("only"), kernel.eigenvalues, rtol=1e-12)
    assert bool((kernel.eigenvalues.diff() <= 0).all()) and len(kernel.eigenvalues) == min(points, P)


def test_small_eigenvalues_keep_their_digits() -> None:
    """σ from 1 to 1e-10: λ = 1e-20 is far below what K itself can hold."""
    Q, R = torch.linalg.qr(normal(20, 6, seed=6)).Q, torch.linalg.qr(normal(P, 6, seed=7)).Q
    kernel = TangentKernel({"only": (normal(20, seed=8), (Q * torch.logspace(0, -10, 6, dtype=torch.float64)) @ R.T)})
    expected = torch.logspace(0, -20, 6, dtype=torch.float64) / 20
    assert torch.allclose(kernel.eigenvalues[:6], expected, rtol=1e-4)


def test_gradients_are_those_of_the_loss() -> None:
    theta = normal(30, seed=9).requires_grad_()
    x = torch.linspace(-1, 1, 25, dtype=torch.float64)
    target = torch.sin(2 * x)
    r = network(theta, x) - target
    J = torch.func.jacrev(lambda t: network(t, x))(theta.detach())
    (expected,) = torch.autograd.grad(0.5 * r.square().mean(), theta)
    kernel = TangentKernel({"fit": (r, J)})
    assert torch.allclose(kernel.gradients()["fit"], expected, rtol=1e-12, atol=1e-15)
    assert torch.allclose(kernel.jacobian.T @ kernel.residual, expected, rtol=1e-12, atol=1e-15)


def test_numbers_do_not_depend_on_the_order_of_points(blocks: dict) -> None:
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    r, J = blocks["residual"]
    one = TangentKernel(blocks).diagnose().as_dict()
    two = TangentKernel({**blocks, "residual": (r[order], J[order])}).diagnose().as_dict()
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert two[key] == pytest.approx(value, rel=1e-9, nan_ok=True), key


def test_learnable_modes_are_the_ones_that_descent_learns() -> None:
    """Gradient descent on a linear model: modes with λ·lr·steps > 1 have lost more than 1 − 1/e, others less."""
    J, r = normal(15, 15, seed=10) * torch.logspace(0, -3, 15, dtype=torch.float64), normal(15, seed=11)
    kernel = TangentKernel({"only": (r, J)})
    rate, steps = 1e-4 / float(kernel.eigenvalues[0]), 100_000
    theta = torch.zeros(15, dtype=torch.float64)
    now = kernel.residual.clone()
    decay = torch.linalg.matrix_power(torch.eye(15, dtype=torch.float64) - rate * kernel.matrix, steps)
    now = decay @ (now + kernel.jacobian @ theta)
    U = kernel.eigenvectors
    left = (U.T @ now).abs() / (U.T @ kernel.residual).abs()
    count = kernel.learnable(rate, steps)
    assert 0 < count < 15
    assert bool((left[:count] < math.exp(-1)).all()) and bool((left[count:] > math.exp(-1) * 0.99).all())
    assert kernel.projection(15) == pytest.approx(1, abs=1e-12)
    leading = (U[:, :5].T @ kernel.residual).square().sum() / kernel.residual.square().sum()
    assert kernel.projection(5) == pytest.approx(float(leading), rel=1e-12)


def test_spectral_summaries_on_known_spectra() -> None:
    flat, law = torch.ones(8, dtype=torch.float64), torch.arange(1, 101, dtype=torch.float64) ** -3.0
    assert participation(flat) == pytest.approx(8) and participation(torch.tensor([2.0, 0.0])) == pytest.approx(1)
    assert effective_rank(law, 1e-3) == 9 and effective_rank(flat, 1e-6) == 8  # 10⁻³ itself is not above 1e-3
    assert decay_slope(law) == pytest.approx(-3, rel=1e-12) and math.isnan(decay_slope(flat[:1]))
    null = torch.zeros(4, dtype=torch.float64)
    assert participation(null) == 0 and effective_rank(null, 1e-6) == 0


def test_drift_and_alignment(blocks: dict) -> None:
    kernel = TangentKernel(blocks)
    assert kernel.drift(kernel.matrix) == 0
    doubled = TangentKernel({name: (r, 2 * J) for name, (r, J) in blocks.items()})
    assert doubled.drift(kernel.matrix) == pytest.approx(3, rel=1e-12)
    g, h = normal(P, seed=1), normal(P, seed=2)
    cosine = float(g @ h / (g.norm() * h.norm()))
    assert alignment([g, 7 * h]) == pytest.approx(cosine, rel=1e-12)
    assert alignment([g, 3 * g, g]) == pytest.approx(1) and alignment([g, -g]) == pytest.approx(-1)
    assert math.isnan(alignment([0 * g]))


def test_weights_balance_the_traces(blocks: dict) -> None:
    traces = {"boundary": 2.0, "residual": 6.0, "dead": 0.0}
    assert trace_weights(traces) == {"boundary": 4.0, "residual": pytest.approx(8 / 6), "dead": 1.0}
    running = RunningWeights(0.9)
    first = running.update({"a": 1.0, "b": 3.0})
    assert first == pytest.approx({"a": 2.0, "b": 2 / 3})
    second = running.update({"a": 3.0, "b": 1.0})
    assert second == pytest.approx({"a": 0.9 * 2 + 0.1 * 2 / 3, "b": 0.9 * 2 / 3 + 0.1 * 2})
    again = RunningWeights(0.9)
    again.load_state_dict(running.state_dict())
    assert again.update({"a": 2.0, "b": 5.0}) == running.update({"a": 2.0, "b": 5.0})
    # With the paper's weights the blocks of the weighted kernel have equal traces over their points.
    weights = TangentKernel(blocks).diagnose().weights
    sums = [weights[name] * float(J.square().sum()) for name, (_, J) in blocks.items()]
    assert sums[0] == pytest.approx(sums[1], rel=1e-12)


def test_log_is_flat_and_finite(blocks: dict) -> None:
    kernel = TangentKernel(blocks)
    found = kernel.diagnose(reference=kernel.matrix)
    flat = found.as_dict()
    assert all(isinstance(value, float) and math.isfinite(value) for value in flat.values())
    assert json.loads(json.dumps(flat)) == flat
    assert flat["ntk/trace/residual"] == found.trace["residual"]
    assert found.ratio("residual", "boundary") == found.trace["residual"] / found.trace["boundary"]
    assert found.decay[10] == pytest.approx(float(kernel.eigenvalues[9] / kernel.eigenvalues[0]))
    assert 50 not in found.decay  # there are 31 eigenvalues


def test_refusals(blocks: dict) -> None:
    with pytest.raises(UsageError, match="one P"):
        TangentKernel({**blocks, "other": (normal(3, seed=0), normal(3, P + 1, seed=0))})
    with pytest.raises(UsageError, match="non-finite"):
        TangentKernel({"bad": (torch.tensor([math.nan]), torch.ones(1, 3))})
    with pytest.raises(UsageError, match="no blocks"):
        TangentKernel({})

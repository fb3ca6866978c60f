"""SOAP: Adam where nothing can be rotated, equivariant where everything can, better on skewed matrices."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.optimisers import SOAP


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rotation(n: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(n, n, seed=seed)).Q


def skewed(m: int, n: int, condition: float) -> Callable[[Tensor], Tensor]:
    """½‖A (W − W*) B‖² with A and B of that condition in rotated axes."""
    exponent = torch.log10(torch.tensor(condition, dtype=torch.float64))
    A = torch.logspace(0, -float(exponent), m, dtype=torch.float64)[:, None] * rotation(m, 1)
    B = rotation(n, 2) * torch.logspace(0, -float(exponent), n, dtype=torch.float64)
    target = normal(m, n, seed=3)
    return lambda W: 0.5 * (A @ (W - target) @ B).square().sum()


def train(make: Callable, f: Callable[[Tensor], Tensor], start: Tensor, steps: int, decay: float = 1.0) -> Tensor:
    W = torch.nn.Parameter(start.clone())
    optimiser = make([W])
    for _ in range(steps):
        optimiser.zero_grad()
        f(W).backward()
        optimiser.step()
        for group in optimiser.param_groups:
            group["lr"] *= decay
    return W.detach()


def test_without_rotations_it_is_adam() -> None:
    f = skewed(6, 4, 10.0)
    start = torch.zeros(6, 4, dtype=torch.float64)
    ours = train(lambda p: SOAP(p, lr=1e-2, betas=(0.9, 0.99), max_precond_dim=1), f, start, 30)
    adam = train(lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.9, 0.99)), f, start, 30)
    assert torch.allclose(ours, adam, rtol=1e-6, atol=1e-9)
    decayed = train(
        lambda p: SOAP(p, lr=1e-2, betas=(0.9, 0.99), max_precond_dim=1, weight_decay=0.1), f, start + 1, 30
    )
    adamw = train(lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1), f, start + 1, 30)
    assert torch.allclose(decayed, adamw, rtol=1e-6, atol=1e-9)
    vector = train(
        lambda p: SOAP(p, lr=1e-2, betas=(0.9, 0.99)), lambda w: (w**4).sum(), torch.ones(5, dtype=torch.float64), 30
    )
    plain = train(
        lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.9, 0.99)),
        lambda w: (w**4).sum(),
        torch.ones(5, dtype=torch.float64),
        30,
    )
    assert torch.allclose(vector, plain, rtol=1e-6, atol=1e-9)


def test_rotated_problems_take_rotated_steps() -> None:
    """f(P W R) from the rotated start gives Pᵀ W Rᵀ: the eigenbasis turns with the gradients. Adam fails this."""
    f, P, R = skewed(5, 4, 30.0), rotation(5, 7), rotation(4, 8)
    start = normal(5, 4, seed=9)
    for make, same in (
        (lambda p: SOAP(p, lr=1e-2, precondition_frequency=1), True),
        (lambda p: torch.optim.Adam(p, lr=1e-2), False),
    ):
        straight = train(make, f, start, 12)
        turned = train(make, lambda V: f(P @ V @ R), P.T @ start @ R.T, 12)
        distance = float((P @ turned @ R - straight).norm() / (straight - start).norm())
        assert (distance < 1e-4) == same, distance


@pytest.mark.parametrize("frequency", [2, 10])
def test_beats_adam_on_a_skewed_matrix_least_squares(frequency: int) -> None:
    f, start = skewed(12, 9, 30.0), torch.zeros(12, 9, dtype=torch.float64)
    first = float(f(start))
    # Each at the best of three learning rates, falling to zero alike.
    best = {}
    for name, make in (
        ("soap", lambda lr: lambda p: SOAP(p, lr=lr, precondition_frequency=frequency)),
        ("adam", lambda lr: lambda p: torch.optim.Adam(p, lr=lr)),
    ):
        best[name] = min(float(f(train(make(lr), f, start, 150, decay=0.96))) for lr in (0.03, 0.1, 0.3)) / first
    assert best["soap"] < best["adam"] / 10, best


def test_bases_are_the_eigenvectors() -> None:
    W = torch.nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    optimiser = SOAP([W], lr=1e-9, betas=(0.9, 0.99), precondition_frequency=1)
    for k in range(60):
        W.grad = normal(6, 1, seed=k) @ normal(1, 4, seed=100 + k) * torch.tensor(
            [1.0, 3.0, 10.0, 30.0]
        ) + 1e-3 * normal(6, 4, seed=k)
        optimiser.step()
    state = optimiser.state[W]
    Q = state["right_basis"]
    assert torch.allclose(Q.T @ Q, torch.eye(4, dtype=torch.float64), atol=1e-12)
    turned = Q.T @ state["right"] @ Q
    assert (turned - turned.diag().diag()).norm() < 0.05 * turned.norm()
    assert bool((turned.diag().diff() < 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_resume_repeats_the_bits(tmp_path, dtype: torch.dtype) -> None:
    f = skewed(6, 4, 30.0)

    def fresh() -> tuple[list[torch.nn.Parameter], SOAP]:
        parts = [
            torch.nn.Parameter(normal(6, 4, seed=1, dtype=dtype)),
            torch.nn.Parameter(normal(4, seed=2, dtype=dtype)),
        ]
        return parts, SOAP(parts, lr=1e-2)

    def advance(parts: list[torch.nn.Parameter], optimiser: SOAP) -> None:
        optimiser.zero_grad()
        (f(parts[0].double()) + parts[1].pow(4).sum()).backward()
        optimiser.step()

    parts, whole = fresh()
    for _ in range(5):  # an odd number: the next rotation is half-way
        advance(parts, whole)
    torch.save({"parts": [p.detach() for p in parts], "optimiser": whole.state_dict()}, tmp_path / "state.pt")
    other, resumed = fresh()
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    for p, value in zip(other, saved["parts"], strict=True):
        p.data.copy_(value)
    resumed.load_state_dict(saved["optimiser"])
    for _ in range(6):
        advance(parts, whole)
        advance(other, resumed)
    assert all(torch.equal(p, q) for p, q in zip(parts, other, strict=True))
    assert all(p.dtype == dtype and bool(torch.isfinite(p).all()) for p in parts)


def test_nonfinite_gradients_change_nothing() -> None:
    W = torch.nn.Parameter(normal(3, 2))
    optimiser = SOAP([W])
    for _ in range(3):
        W.grad = normal(3, 2, seed=4)
        optimiser.step()
    before, state = W.detach().clone(), {k: v for k, v in optimiser.state[W].items() if k == "step"}
    W.grad = torch.full_like(W, float("nan"))
    optimiser.step()
    assert torch.equal(W.detach(), before) and optimiser.state[W]["step"] == state["step"]
    W.grad = torch.zeros_like(W)
    optimiser.step()
    assert bool(torch.isfinite(W).all())


def test_zero_gradients_from_the_start_are_harmless() -> None:
    W = torch.nn.Parameter(normal(3, 2))
    before = W.detach().clone()
    optimiser = SOAP([W])
    for _ in range(5):
        W.grad = torch.zeros_like(W)
        optimiser.step()
    assert torch.equal(W.detach(), before)
    W.grad = normal(3, 2, seed=1)
    optimiser.step()
    assert bool(torch.isfinite(W).all())


def test_refusals() -> None:
    W = torch.nn.Parameter(normal(3, 2))
    with pytest.raises(UsageError, match="lr"):
        SOAP([W], lr=0.0)
    with pytest.raises(UsageError, match="precondition_frequency"):
        SOAP([W], precondition_frequency=0)

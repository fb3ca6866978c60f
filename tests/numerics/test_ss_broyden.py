"""Self-scaled Broyden: ends after n exact searches on quadratics, keeps H positive, resumes bit for bit."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.optimisers import SSBroyden
from sciops.numerics.optimisers.line_search import Trial, strong_wolfe
from sciops.numerics.optimisers.ss_broyden import Pair, self_scaled


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hessian(n: int, condition: float, seed: int = 0) -> Tensor:
    Q = torch.linalg.qr(normal(n, n, seed=seed)).Q
    return (Q * torch.logspace(0, math.log10(condition), n, dtype=torch.float64)) @ Q.T


def run(
    f: Callable[[Tensor], Tensor], start: Tensor, goal: float, most: int = 2000, **options
) -> tuple[int, SSBroyden]:
    """Iterations until the loss is below the goal (or `most`)."""
    theta = torch.nn.Parameter(start.clone())
    optimiser = SSBroyden([theta], max_iter=1, **options)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = f(theta)
        loss.backward()
        return loss

    for k in range(1, most + 1):
        if optimiser.step(closure) < goal or optimiser.status != "ok":
            return k, optimiser
    return most + 1, optimiser


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


@pytest.mark.parametrize("method", ["ss_broyden", "bfgs"])
@pytest.mark.parametrize("n", [3, 12])
def test_exact_searches_end_on_a_quadratic_in_n_steps(method: str, n: int) -> None:
    A = hessian(n, 100.0)
    count, _ = run(lambda x: 0.5 * x @ A @ x, normal(n, seed=1), 1e-16, method=method, sufficient=1e-10, curvature=1e-9)
    # Conjugate directions for every member of the Broyden class, scaled or not; one more as searches are not exact.
    assert count <= n + 1


def test_updates_satisfy_the_secant_equation_and_stay_positive() -> None:
    theta = torch.nn.Parameter(torch.tensor([-1.2, 1.0, 0.4, 2.0], dtype=torch.float64))
    optimiser = SSBroyden([theta], max_iter=1)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = rosenbrock(theta)
        loss.backward()
        return loss

    def gradient() -> Tensor:
        return torch.func.grad(rosenbrock)(theta.detach())

    for _ in range(25):
        before, g = theta.detach().clone(), gradient()
        optimiser.step(closure)
        s, y = theta.detach() - before, gradient() - g
        H = optimiser.state[theta]["H"]
        assert (H @ y - s).norm() < 1e-8 * s.norm()
        assert float(torch.linalg.eigvalsh(0.5 * (H + H.T))[0]) > 0
        assert (H - H.T).norm() < 1e-12 * H.norm()


def test_one_update_equals_the_written_formula() -> None:
    n = 5
    H, y, s = torch.linalg.inv(hessian(n, 10.0)), normal(n, seed=1), normal(n, seed=2)
    s = s if float(s @ y) > 0 else -s
    theta = torch.nn.Parameter(torch.zeros(n, dtype=torch.float64))
    optimiser = SSBroyden([theta])
    optimiser.state[theta]["H"] = H.clone()
    sBs = float(s @ torch.linalg.solve(H, s))
    optimiser._update(s, y, sBs)
    Hy, ys = H @ y, float(s @ y)
    yHy = float(y @ Hy)
    phi, tau = self_scaled(Pair(ys, yHy, sBs), n, first=False)
    v = s / ys - Hy / yHy
    expected = (H - torch.outer(Hy, Hy) / yHy + phi * yHy * torch.outer(v, v)) / tau + torch.outer(s, s) / ys
    assert (optimiser.state[theta]["H"] - expected).norm() < 1e-13 * expected.norm()
    # An exact pair (Hy = s) needs no correction: A = 0, θ = 0, φ = 1, τ = 1.
    assert self_scaled(Pair(2.0, 2.0, 2.0), n, first=False) == pytest.approx((1.0, 1.0))


def test_fewer_iterations_than_bfgs_on_ill_conditioned_quadratics() -> None:
    for n, condition in ((20, 1e2), (50, 1e3)):
        A = hessian(n, condition)
        count = {
            method: run(lambda x, A=A: 0.5 * x @ A @ x, normal(n, seed=n), 1e-10, method=method)[0]
            for method in ("ss_broyden", "bfgs")
        }
        assert count["ss_broyden"] < count["bfgs"] <= 2000, (n, condition, count)


@pytest.mark.parametrize("n", [2, 10, 20])
def test_rosenbrock(n: int) -> None:
    start = torch.ones(n, dtype=torch.float64)
    start[::2] = -1.2
    count = {}
    for method in ("ss_broyden", "bfgs"):
        count[method], optimiser = run(rosenbrock, start, 1e-12, method=method)
        assert optimiser.status == "ok"
        (theta,) = optimiser.param_groups[0]["params"]
        assert (theta.detach() - 1).abs().max() < 1e-5
    # From this start plain BFGS is as good; self-scaling must not cost more than a third.
    assert count["ss_broyden"] <= 4 / 3 * count["bfgs"]


def test_resume_repeats_the_bits(tmp_path) -> None:
    def fresh() -> tuple[list[torch.nn.Parameter], SSBroyden, Callable[[], Tensor]]:
        parts = [torch.nn.Parameter(normal(3, seed=1)), torch.nn.Parameter(normal(2, 2, seed=2))]
        optimiser = SSBroyden(parts, max_iter=4)

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = rosenbrock(torch.cat([p.reshape(-1) for p in parts]))
            loss.backward()
            return loss

        return parts, optimiser, closure

    parts, whole, closure = fresh()
    for _ in range(3):
        whole.step(closure)
    torch.save({"parts": [p.detach() for p in parts], "optimiser": whole.state_dict()}, tmp_path / "state.pt")
    other, resumed, again = fresh()
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    for p, value in zip(other, saved["parts"], strict=True):
        p.data.copy_(value)
    resumed.load_state_dict(saved["optimiser"])
    for _ in range(3):
        assert whole.step(closure) == resumed.step(again)
    assert all(torch.equal(p, q) for p, q in zip(parts, other, strict=True))
    assert (whole.iterations, whole.evaluations) == (resumed.iterations, resumed.evaluations)


def test_nonfinite_keeps_the_parameters() -> None:
    start = torch.tensor([1.0, 2.0], dtype=torch.float64)
    _, optimiser = run(lambda x: torch.log(-x).sum(), start, -1.0)
    assert optimiser.status == "nonfinite" and torch.equal(optimiser.param_groups[0]["params"][0].detach(), start)
    # A wall of NaN beyond the minimum: the search must step back from it, not end there.
    count, optimiser = run(lambda x: (x - 1 - torch.log(x)).sum(), torch.tensor([0.05], dtype=torch.float64), 1e-20)
    assert count < 30 and optimiser.param_groups[0]["params"][0].item() == pytest.approx(1, abs=1e-9)


def test_statuses() -> None:
    A = hessian(4, 10.0)
    _, optimiser = run(lambda x: 0.5 * x @ A @ x + 1, normal(4), 0.0, tolerance=1e-6)
    assert optimiser.status == "converged"
    _, optimiser = run(lambda x: 0.5 * x @ A @ x + 1, normal(4), 0.0, most=500)
    assert optimiser.status == "stalled"  # the loss 1 + tiny has no lower float64
    assert optimiser.param_groups[0]["params"][0].norm() < 1e-6


def test_parameters_without_gradient_stay() -> None:
    used, unused = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    optimiser = SSBroyden([used, unused])

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (used - 3).square().sum()
        loss.backward()
        return loss

    assert optimiser.step(closure) < 1e-20
    assert torch.equal(unused.detach(), torch.ones(2, dtype=torch.float64))


def test_refusals() -> None:
    with pytest.raises(UsageError, match="float64"):
        SSBroyden([torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(UsageError, match="method"):
        SSBroyden([torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))], method="dfp")
    with pytest.raises(UsageError, match="curvature"):
        SSBroyden([torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))], sufficient=0.9, curvature=0.1)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))]} for _ in range(2)]
    with pytest.raises(UsageError, match="groups"):
        SSBroyden(groups)


@pytest.mark.parametrize("first", [1e-6, 1e-2, 1.0, 50.0])
def test_line_search_meets_the_strong_wolfe_conditions(first: float) -> None:
    """φ = (α − 2)⁴ − cos 3α/5, and one that is NaN beyond 3."""
    for wall in (math.inf, 3.0):

        def evaluate(a: float, wall: float = wall) -> Trial:
            if a > wall:
                return Trial(a, math.nan, math.nan, torch.zeros(1))
            slope = 4 * (a - 2) ** 3 + 0.6 * math.sin(3 * a)
            return Trial(a, (a - 2) ** 4 - math.cos(3 * a) / 5, slope, torch.zeros(1))

        start = evaluate(0.0)
        for sufficient, curvature in ((1e-4, 0.9), (1e-4, 0.1), (1e-3, 2e-3)):
            found = strong_wolfe(evaluate, start, first, sufficient, curvature, most=40)
            assert found.loss <= start.loss + sufficient * found.length * start.slope
            assert abs(found.slope) <= -curvature * start.slope
    uphill = Trial(0.0, 1.0, 1.0, torch.zeros(1))
    assert strong_wolfe(evaluate, uphill, 1.0) is uphill

"""Flexible GMRES on matrices without symmetry: the sparse direct answer, minimality, preconditioners that fail."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from stencils import graph_laplacian
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.linear import FunctionOperator, LinearSolution, Status
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.fgmres import FGMRES
from sciops.numerics.flexible_cg import Apply
from sciops.numerics.krylov import Jacobi
from sciops.numerics.multigrid import Multigrid


def convection(shape: tuple[int, int], peclet: float, n: int = 2) -> tuple[StencilOperator, StencilOperator]:
    """(−Δ + w·∇ by central differences with a rotating wind of this mesh Péclet number, −Δ)."""
    laplacian = graph_laplacian(shape, "dirichlet", 0.0, seed=0, n=n)
    stencil = laplacian.stencil.clone()
    x, y = (torch.linspace(-1, 1, m, dtype=torch.float64) for m in shape)
    wind = (y[None] * (1 - x[:, None] ** 2), -x[:, None] * (1 - y[None] ** 2))
    for w, forward, backward in ((wind[0], 7, 1), (wind[1], 5, 3)):
        stencil[:, forward] += peclet * w * (stencil[:, forward] != 0)
        stencil[:, backward] -= peclet * w * (stencil[:, backward] != 0)
    return StencilOperator(stencil, (False, False)), laplacian


def run(solver: Any, A: Any, b: Tensor, **options: Any) -> LinearSolution:
    return solver.solve(solver.setup(A), b, **options)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["none", "jacobi", "multigrid"])
@pytest.mark.parametrize("restart", [15, 80])
def test_unsymmetric_systems_agree_with_a_direct_solver(kind: str, restart: int) -> None:
    A, laplacian = convection((15, 16), 0.8)
    assert A.tags == frozenset()
    preconditioner = {"none": None, "jacobi": Jacobi(), "multigrid": Apply(Multigrid().setup(laplacian))}[kind]
    b = noise(2, 15, 16)
    found = run(FGMRES(preconditioner, restart), A, b, tol=1e-10, maxiter=1500)
    assert found.status == [Status.OK] * 2
    for i in range(2):
        expected = scipy.sparse.linalg.spsolve(A.to_scipy(i).tocsc(), b[i].flatten().numpy())
        assert np.abs(found.x[i].flatten().numpy() - expected).max() < 1e-8 * np.abs(expected).max()
    true = (b - A.matvec(found.x)).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)
    assert torch.allclose(true, found.residual, rtol=1e-6)


def test_every_residual_is_the_smallest_in_its_krylov_space() -> None:
    A, _ = convection((9, 8), 0.8, n=1)
    b = noise(1, 9, 8)
    found = run(FGMRES(restart=20), A, b, tol=1e-30, maxiter=20)
    matrix, rhs = A.to_scipy(0), b.flatten().numpy()
    basis = [rhs / np.linalg.norm(rhs)]
    for step in range(1, 20):
        K = np.linalg.qr(np.stack(basis, 1))[0]
        image = matrix @ K
        y = np.linalg.lstsq(image, rhs, rcond=None)[0]
        smallest = np.linalg.norm(rhs - image @ y) / np.linalg.norm(rhs)
        assert abs(float(found.history[step, 0]) / smallest - 1) < 1e-8
        basis.append(matrix @ K[:, -1])


def test_a_nonlinear_map_that_sometimes_fails() -> None:
    A, laplacian = convection((14, 14), 0.8, n=3)
    b, cycle, calls = noise(3, 14, 14), Multigrid().setup(laplacian), [0]

    def moody(r: Tensor) -> Tensor:
        calls[0] += 1
        z = cycle(r) * (1 + 0.3 * torch.sin(5 * r))
        if calls[0] % 4 == 0:
            z[1] = torch.nan
        return z

    found = run(FGMRES(Apply(moody)), A, b, tol=1e-9)
    assert found.status == [Status.OK] * 3
    assert float(found.residual.max()) <= 1e-9
    assert found.stats["network_calls"] == calls[0]
    assert int(found.stats["fallbacks"][0]) == 0 < int(found.stats["fallbacks"][1])
    plain = run(FGMRES(), A, b, tol=1e-9)
    assert int(found.iterations.max()) < int(plain.iterations.min())


def test_a_system_does_not_know_its_batch() -> None:
    A, _ = convection((11, 12), 0.8, n=3)
    b = noise(3, 11, 12)
    b[0, 0, 0] = torch.inf
    b[1] *= 1e-7
    found = run(FGMRES(restart=20), A, b, tol=1e-9)
    assert found.status == [Status.NONFINITE, Status.OK, Status.OK]
    for i in (1, 2):
        alone = run(FGMRES(restart=20), A.select(torch.tensor([i])), b[i : i + 1], tol=1e-9)
        assert torch.allclose(alone.x[0], found.x[i], rtol=0, atol=1e-13 * float(found.x[i].abs().max()))
        assert int(alone.iterations) == int(found.iterations[i])


def test_starts_many_right_hand_sides_and_short_spaces() -> None:
    A, _ = convection((10, 10), 0.8, n=1)
    b = noise(4, 10, 10)
    many = run(FGMRES(restart=40), A, b, tol=1e-10)
    assert many.status == [Status.OK] * 4
    again = run(FGMRES(restart=40), A, b, x0=many.x, tol=1e-9)
    assert again.iterations.tolist() == [0] * 4
    identity = FunctionOperator(lambda x: 2 * x, 2, (5, 5), torch.float64)
    exact = run(FGMRES(), identity, noise(2, 5, 5), tol=1e-14)
    assert exact.iterations.tolist() == [1, 1]
    assert exact.status == [Status.OK] * 2


def test_what_cannot_work_says_so() -> None:
    shift = FunctionOperator(lambda x: x.roll(1, 1), 1, (40,), torch.float64)  # no progress before step 40
    b = torch.zeros(1, 40, dtype=torch.float64)
    b[0, 0] = 1.0
    stuck = run(FGMRES(restart=10), shift, b, maxiter=100)
    assert stuck.status == [Status.MAX_ITER]
    assert float(stuck.residual) > 0.5
    assert run(FGMRES(restart=40), shift, b, maxiter=100).status == [Status.OK]
    singular = FunctionOperator(
        lambda x: x * torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64), 1, (3,), torch.float64
    )
    assert run(FGMRES(), singular, torch.ones(1, 3, dtype=torch.float64), maxiter=50).status != [Status.OK]
    A, _ = convection((10, 10), 0.8)
    tight = run(FGMRES(restart=60), A, noise(2, 10, 10), tol=1e-18, maxiter=2000)
    assert tight.status == [Status.MAX_ITER] * 2
    assert all("rounding" in advice for advice in tight.stats["advice"])
    with pytest.raises(UsageError, match="restart >= 1"):
        FGMRES(restart=0)

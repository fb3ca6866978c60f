"""Compiled artefacts in SciPy's and PyAMG's solvers, against a direct solve."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sparse
import scipy.sparse.linalg as splinalg
from test_scipy_preconditioner import diffusion, jumps

from sciops.core.errors import UsageError
from sciops.embed.scipy import fcg, preconditioner

pytestmark = pytest.mark.embed


@pytest.mark.parametrize("neumann", [False, True], ids=["dirichlet", "neumann"])
def test_multigrid_on_128_points(multigrid_2d: Path, neumann: bool) -> None:
    """Jumps of a thousand; the cycle in single precision inside a solver in double."""
    A = diffusion(jumps((128, 128), 1e3), neumann)
    b = np.random.default_rng(0).standard_normal(A.shape[0])
    b -= b.mean() if neumann else 0.0
    M = preconditioner(multigrid_2d, A, (128, 128), precision=32)
    found = fcg(A, b, M)
    steps: list[int] = []
    jacobi = sparse.diags(1 / A.diagonal())
    splinalg.cg(A, b, M=jacobi, rtol=1e-8, maxiter=2000, callback=lambda _: steps.append(1))
    assert M.linear and found.info == 0 and found.iterations < len(steps) / 5
    if not neumann:
        x, info = splinalg.cg(A, b, M=M, rtol=1e-8, maxiter=200)
        assert info == 0
        exact = splinalg.spsolve(A.tocsc(), b)
        assert np.linalg.norm(x - exact) < 1e-4 * np.linalg.norm(exact)
        assert np.linalg.norm(found.x - exact) < 1e-4 * np.linalg.norm(exact)


def test_multigrid_in_three_dimensions(multigrid_3d: Path) -> None:
    shape = (24, 20, 22)
    A = diffusion(jumps(shape, 1e3))
    b = np.random.default_rng(1).standard_normal(A.shape[0])
    found = fcg(A, b, preconditioner(multigrid_3d, A, shape))
    assert found.info == 0 and found.iterations < 40


def test_directions_in_flexible_conjugate_gradients(direction_2d: Path) -> None:
    """Whatever its weights: where the network gains nothing, the scaled residual does."""
    A = diffusion(np.ones((20, 24)))
    b = np.random.default_rng(2).standard_normal(A.shape[0])
    with pytest.raises(UsageError, match="nonlinear network"):
        preconditioner(direction_2d, A, (20, 24))
    M = preconditioner(direction_2d, A, (20, 24), flexible=True)
    exact = splinalg.spsolve(A.tocsc(), b)
    found = fcg(A, b, M)
    assert found.info == 0 and np.linalg.norm(found.x - exact) < 1e-5 * np.linalg.norm(exact)

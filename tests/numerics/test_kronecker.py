"""Kronecker covariances against the dense matrices that they stand for."""

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.numerics.kronecker import Kronecker, mode_product


def factors(sizes: tuple[int, ...]) -> list[torch.Tensor]:
    made = []
    for seed, n in enumerate(sizes):
        root = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        made.append(root @ root.T + n * torch.eye(n, dtype=torch.float64))
    return made


@pytest.mark.parametrize("sizes", [(9,), (6, 7), (4, 5, 6)])
def test_algebra_equals_dense(sizes: tuple[int, ...]) -> None:
    parts = factors(sizes)
    C, dense = Kronecker(parts), torch.ones(1, 1, dtype=torch.float64)
    for part in parts:
        dense = torch.kron(dense, part)
    U = torch.randn(sizes, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    u = U.flatten()
    assert torch.equal(C.dense(), dense) and C.shape == sizes
    assert torch.allclose(C.matvec(U).flatten(), dense @ u, rtol=1e-10)
    assert torch.allclose(C.solve(U).flatten(), torch.linalg.solve(dense, u), rtol=1e-10, atol=1e-14)
    assert torch.allclose(C.logdet(), torch.linalg.slogdet(dense).logabsdet, rtol=1e-10)
    assert torch.allclose(C.quadratic(U), u @ torch.linalg.solve(dense, u), rtol=1e-10)


def test_mode_products_act_on_one_axis() -> None:
    matrix = torch.randn(2, 5, dtype=torch.float64)
    U = torch.randn(4, 5, 6, dtype=torch.float64)
    assert torch.allclose(mode_product(matrix, U, 1), torch.einsum("ij,ajb->aib", matrix, U))


def test_gradients_reach_the_factors() -> None:
    parts = [part.requires_grad_(True) for part in factors((3, 4))]
    U = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def likelihood(a: torch.Tensor, b: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        C = Kronecker([(a + a.T) / 2, (b + b.T) / 2])
        return C.logdet() + C.quadratic(u) + C.solve(u).sum()

    assert torch.autograd.gradcheck(likelihood, (*parts, U))


def test_linear_operator_takes_the_matrix_over() -> None:
    C = Kronecker(factors((3, 4, 2)))
    theirs = C.to_linear_operator()
    v = torch.randn(24, dtype=torch.float64)
    assert torch.allclose(theirs.to_dense(), C.dense())
    assert torch.allclose(theirs @ v, C.matvec(v.reshape(3, 4, 2)).flatten())
    assert torch.allclose(theirs.logdet(), C.logdet(), rtol=1e-10)


def test_failures() -> None:
    with pytest.raises(torch.linalg.LinAlgError):
        Kronecker([-torch.eye(3, dtype=torch.float64)]).logdet()
    with pytest.raises(UsageError, match="at least one factor"):
        Kronecker([])

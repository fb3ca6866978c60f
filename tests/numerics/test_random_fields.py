"""Covariance against the exact sum, one seed = one function on every grid, independence of the batch."""

import math

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.numerics.random_fields import basis_functions, draw_modes, gaussian_field, spectral_root, synthesise

CASES = [("cosine", "node"), ("cosine", "cell"), ("sine", "node"), ("sine", "cell"), ("fourier", "periodic")]


@pytest.mark.parametrize(("basis", "layout"), CASES)
def test_basis_is_orthonormal_on_the_box(basis: str, layout: str) -> None:
    grid = Grid.box(200, upper=1.7, layout=layout, ndim=1)
    phi = basis_functions(grid, 0, basis, 9)
    gram = phi.T @ (grid.weights()[:, None] * phi)
    assert torch.allclose(gram, torch.eye(9, dtype=torch.float64), atol=1e-12)


def test_convention_of_the_darcy_data() -> None:
    """a = Σ ξ_k (π²|k|²+τ²)^{−α/2} 2^{#(k_j>0)/2} cos(πk₁x)cos(πk₂y), no constant."""
    grid = Grid.box(17, ndim=2)
    g = gaussian_field([5], grid, "cosine", tau=3.0, alpha=2.0, modes=4)[0]
    xi = draw_modes([5], 4, 2)[0]
    x, y = grid.mesh()
    expected = torch.zeros_like(x)
    for k1 in range(4):
        for k2 in range(4):
            if k1 + k2:
                scale = (math.pi**2 * (k1**2 + k2**2) + 9.0) ** -1 * math.sqrt(2.0) ** ((k1 > 0) + (k2 > 0))
                expected += xi[k1, k2] * scale * torch.cos(math.pi * k1 * x) * torch.cos(math.pi * k2 * y)
    assert torch.allclose(g, expected, atol=1e-14)


@pytest.mark.parametrize(("basis", "layout"), [("cosine", "node"), ("sine", "cell"), ("fourier", "periodic")])
def test_variance_matches_the_exact_sum(basis: str, layout: str) -> None:
    grid = Grid.box(12, layout=layout, ndim=2)
    n, modes = 4000, 8
    g = gaussian_field(list(range(n)), grid, basis, tau=2.0, alpha=1.5, sigma=1.3, modes=modes)
    root = 1.3 * spectral_root(grid, basis, modes, 2.0, 1.5)
    squares = [basis_functions(grid, j, basis, modes) ** 2 for j in range(2)]
    exact = torch.einsum("kl,ik,jl->ij", root**2, *squares)
    sample = g.var(dim=0)
    # The sample variance of n normals has relative standard deviation √(2/n).
    where = exact > 1e-12
    assert ((sample - exact)[where] / exact[where]).abs().max() < 5 * math.sqrt(2 / n)
    assert g.mean(dim=0).abs().max() < 5 * (exact.max() / n).sqrt()


@pytest.mark.parametrize(("basis", "layout"), [("cosine", "node"), ("sine", "node"), ("fourier", "periodic")])
def test_same_seed_is_the_same_function_on_a_finer_grid(basis: str, layout: str) -> None:
    coarse = Grid.box(17 if layout == "node" else 16, layout=layout, ndim=2)
    fine = coarse.refined(2)
    a = gaussian_field([3, 4], coarse, basis, modes=7)
    b = gaussian_field([3, 4], fine, basis, modes=7)
    assert torch.allclose(a, b[:, ::2, ::2], atol=1e-13)


def test_coarse_grid_truncates_and_keeps_what_it_carries() -> None:
    grid, fine = Grid.box(9, ndim=1), Grid.box(65, ndim=1)
    noise = draw_modes([1], 40, 1)
    low = noise.clone()
    low[:, 9:] = 0
    assert torch.allclose(synthesise(noise, grid, "cosine"), synthesise(low, fine, "cosine")[:, ::8], atol=1e-13)


def test_more_modes_refine_the_same_function() -> None:
    for ndim in (1, 2, 3):
        few, many = draw_modes([9], 5, ndim), draw_modes([9], 8, ndim)
        assert torch.equal(few, many[(slice(None), *(slice(0, 5),) * ndim)])


def test_a_case_does_not_know_its_batch() -> None:
    grid = Grid.box((33, 40), ndim=2)
    seeds = [11, 12, 13, 14, 15, 16, 17]
    together = gaussian_field(seeds, grid, "cosine")
    for i, seed in enumerate(seeds):
        assert torch.equal(together[i], gaussian_field([seed], grid, "cosine")[0])
    assert torch.equal(together[2:5], gaussian_field(seeds[2:5], grid, "cosine"))


def test_constant_mode_on_request() -> None:
    grid = Grid.box(8, layout="periodic", ndim=1)
    root = spectral_root(grid, "fourier", 5, 2.0, 3.0, zero_mean=False)
    assert root[0] == pytest.approx(2.0**-3)
    with pytest.raises(UsageError, match="infinite variance"):
        spectral_root(grid, "fourier", 5, 0.0, 3.0, zero_mean=False)


def test_wrong_basis_for_the_grid_is_refused() -> None:
    with pytest.raises(UsageError, match="does not fit a grid axis of layout 'node'"):
        gaussian_field([1], Grid.box(8), "fourier")

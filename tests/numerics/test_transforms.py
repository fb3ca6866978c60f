"""Transforms against SciPy, eigenvalues against assembled operators, fast solves against dense ones."""

import itertools

import numpy as np
import pytest
import scipy.fft
import torch

from sciops.core.boundary import Boundary
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.numerics.transforms import dct, dst, eigenbases, eigenbasis, idct, idst, solve_poisson


@pytest.mark.parametrize("kind", [1, 2, 3])
@pytest.mark.parametrize("orthonormal", [False, True])
@pytest.mark.parametrize("n", [2, 3, 7, 16, 33])
def test_matches_scipy_and_inverts(kind: int, orthonormal: bool, n: int) -> None:
    x = torch.randn(3, n, 5, dtype=torch.float64)
    norm = "ortho" if orthonormal else None
    for ours, inverse, theirs in ((dct, idct, scipy.fft.dct), (dst, idst, scipy.fft.dst)):
        y = ours(x, kind, (1,), orthonormal)
        expected = theirs(x.numpy(), kind, axis=1, norm=norm)
        assert np.abs(y.numpy() - expected).max() <= 1e-13 * max(1.0, np.abs(expected).max())
        assert torch.allclose(inverse(y, kind, (1,), orthonormal), x, atol=1e-13)


def test_several_axes_and_dtype() -> None:
    x = torch.randn(2, 6, 9)
    y = dct(x, 2, (1, 2), orthonormal=True)
    assert y.dtype == torch.float32
    expected = scipy.fft.dctn(x.double().numpy(), 2, axes=(1, 2), norm="ortho")
    assert np.abs(y.numpy() - expected).max() < 1e-5


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="must be 1, 2 or 3; got 4"):
        dct(torch.zeros(4), 4)


ENDS = [
    ("dirichlet", "node"),
    ("dirichlet", "cell"),
    ("neumann", "node"),
    ("neumann", "cell"),
    ("periodic", "periodic"),
]


def difference_matrix(kind: str, layout: str, points: int, length: float) -> np.ndarray:
    """−δ² assembled entry by entry from the ghost rule of each end."""
    h = length / (points - 1 if layout == "node" else points)
    m = points - 2 if (kind, layout) == ("dirichlet", "node") else points
    a = 2 * np.eye(m) - np.eye(m, k=1) - np.eye(m, k=-1)
    if kind == "periodic":
        a[0, -1] -= 1
        a[-1, 0] -= 1
    elif layout == "cell":
        a[0, 0] = a[-1, -1] = 3 if kind == "dirichlet" else 1
    elif kind == "neumann":
        a[0, 1] = a[-1, -2] = -2
    return a / h**2


@pytest.mark.parametrize(("kind", "layout"), ENDS)
@pytest.mark.parametrize("points", [6, 9])
def test_eigenvalues_of_the_difference_operator(kind: str, layout: str, points: int) -> None:
    length = 1.7
    basis = eigenbasis((kind, kind), layout, points, length)
    a = torch.from_numpy(difference_matrix(kind, layout, points, length))
    u = torch.randn(1, a.shape[0], dtype=torch.float64)
    through_modes = basis.inverse(basis.stencil_eigenvalues * basis.forward(u, 1), 1)
    assert torch.allclose(through_modes.real if through_modes.is_complex() else through_modes, u @ a.T, atol=1e-10)


@pytest.mark.parametrize(("kind", "layout"), ENDS)
def test_continuous_eigenvalues_differentiate_exactly(kind: str, layout: str) -> None:
    grid = Grid.box(24, upper=2.0, layout=layout, ndim=1)
    basis = eigenbasis((kind, kind), layout, 24, 2.0)
    x = grid.axis(0)
    mode = {"dirichlet": torch.sin, "neumann": torch.cos, "periodic": torch.sin}[kind]
    factor = (2 if kind == "periodic" else 1) * 3 * torch.pi / 2.0
    u = mode(factor * x)
    inner = slice(1, -1) if (kind, layout) == ("dirichlet", "node") else slice(None)
    got = basis.inverse(basis.eigenvalues * basis.forward(u[None, inner], 1), 1)
    assert torch.allclose(got.real if got.is_complex() else got, factor**2 * u[None, inner], atol=1e-9)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(("kind", "layout"), ENDS)
def test_fast_solve_inverts_the_difference_operator(ndim: int, kind: str, layout: str) -> None:
    shape = (7, 6, 5)[:ndim]
    grid = Grid.box(shape, upper=(1.0, 1.5, 0.7)[:ndim], layout=layout)
    matrices = [difference_matrix(kind, layout, n, length) for n, length in zip(shape, grid.lengths, strict=True)]
    sizes = [len(m) for m in matrices]
    total = sum(
        np.kron(np.kron(np.eye(int(np.prod(sizes[:j]))), m), np.eye(int(np.prod(sizes[j + 1 :]))))
        for j, m in enumerate(matrices)
    )
    u = torch.randn(2, *sizes, dtype=torch.float64)
    bases = eigenbases(Boundary.of(kind, ndim), grid)
    for shift in (0.0, 3.0):
        a = torch.from_numpy(2.5 * total + shift * np.eye(len(total)))
        f = (u.flatten(1) @ a.T).reshape(u.shape)
        expected = u
        if shift == 0.0 and kind != "dirichlet":
            weight = torch.ones((), dtype=torch.float64)
            for basis in bases:
                weight = weight[..., None] * basis.row_weight
            mean = (u * weight).flatten(1).sum(1) / weight.sum()
            expected = u - mean.reshape(-1, *(1,) * ndim)
        assert torch.allclose(solve_poisson(f, bases, 2.5, shift), expected, atol=1e-9)


def test_periodic_and_walled_axes_mix() -> None:
    grid = Grid.box((16, 17), layout=("periodic", "node"))
    bases = eigenbases(Boundary((("periodic",) * 2, ("dirichlet",) * 2)), grid)
    x, y = grid.mesh()
    u = (torch.cos(2 * torch.pi * x) * torch.sin(torch.pi * y))[None, :, 1:-1]
    assert torch.allclose(solve_poisson(5 * torch.pi**2 * u, bases, spectral=True), u, atol=1e-12)


def test_mixed_ends_are_refused() -> None:
    with pytest.raises(UsageError, match="same condition at both ends"):
        eigenbasis(("dirichlet", "neumann"), "node", 9, 1.0)


def test_orthonormal_transforms_preserve_length() -> None:
    x = torch.randn(4, 11, dtype=torch.float64)
    for transform, kind in itertools.product((dct, dst), (1, 2, 3)):
        y = transform(x, kind, (-1,), True)
        assert torch.allclose(y.norm(dim=1), x.norm(dim=1), rtol=1e-13)

"""Gaussian random fields with Matérn-like covariance, drawn in mode space so that a seed names one function."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.random import generator

BASES = ("cosine", "sine", "fourier")


def gaussian_field(
    seeds: Sequence[int],
    grid: Grid,
    basis: str = "cosine",
    tau: float = 3.0,
    alpha: float = 2.0,
    sigma: float = 1.0,
    modes: int = 128,
    zero_mean: bool = True,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "n *s"]:
    """g ~ N(0, σ²(−Δ+τ²)^{−α}):  g(x) = σ Σ_k ξ_k (κ_k² + τ²)^{−α/2} φ_k(x),  ξ_k ~ N(0,1) independent.

    φ_k are the eigenfunctions of −Δ, orthonormal in L² of the box, κ_k² their eigenvalues:

    * `cosine` (homogeneous Neumann):   ∏_j √(c/L_j) cos(πk_j x_j/L_j), c = 1 for k_j = 0, else 2; k_j = 0, 1, …
    * `sine` (homogeneous Dirichlet):   ∏_j √(2/L_j) sin(πk_j x_j/L_j), k_j = 1, 2, …
    * `fourier` (periodic):             products of √(1/L), √(2/L) cos(2πk x/L), √(2/L) sin(2πk x/L)

    The first `modes` one-dimensional functions per axis are used, less those that a coarse grid cannot carry:
    one seed is one function, seen to the resolution of each grid. `zero_mean` drops the constant mode
    (the convention of the Darcy and vorticity data of the neural-operator literature).
    Cost: d dense products per case, O(modes·N). Case by case on CPU, hence bit-equal in any batch.
    Reference: Kovachki, Li, Liu, Azizzadenesheli, Bhattacharya, Stuart, Anandkumar, JMLR 24 (2023), §6.
    """
    if sigma <= 0 or alpha <= 0 or tau < 0:
        raise UsageError(f"A Gaussian field needs sigma > 0, alpha > 0, tau >= 0; got {sigma}, {alpha}, {tau}.")
    noise = draw_modes(seeds, modes, grid.ndim, torch.float64, "cpu")
    coefficients = noise * (sigma * spectral_root(grid, basis, modes, tau, alpha, zero_mean))
    return synthesise(coefficients.to(dtype=dtype, device=device), grid, basis)


def draw_modes(
    seeds: Sequence[int],
    modes: int,
    ndim: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "n *k"]:
    """Standard normal ξ of shape (n, modes, …): case i depends on seeds[i] alone.

    Numbers are dealt out in shells max(k) = 0, 1, 2, …, so more modes keep the old ones: raising `modes`
    adds detail to the same function. Always drawn in float64 on the CPU.
    """
    order = _shell_order(modes, ndim)
    # torch fills normals in blocks of 16 and treats a ragged tail differently: no tail, one stream.
    padded = -(-order.numel() // 16) * 16
    noise = torch.empty((len(seeds), modes**ndim), dtype=torch.float64)
    for row, seed in zip(noise, seeds, strict=True):
        row[order] = torch.randn(padded, generator=generator(seed), dtype=torch.float64)[: order.numel()]
    return noise.reshape(len(seeds), *(modes,) * ndim).to(dtype=dtype, device=device)


def spectral_root(
    grid: Grid, basis: str, modes: int, tau: float, alpha: float, zero_mean: bool = True
) -> Float[Tensor, "*k"]:
    """(κ_k² + τ²)^{−α/2} on the (modes, …) lattice; 0 at the constant mode if `zero_mean`."""
    _check_basis(basis)
    squares = torch.zeros((), dtype=torch.float64)
    for length in grid.lengths:
        squares = squares[..., None] + (_wavenumber(basis, modes) * math.pi / length) ** 2
    root = torch.zeros_like(squares)
    constant = squares == 0
    root[~constant] = (squares[~constant] + tau**2) ** (-alpha / 2)
    if not zero_mean and bool(constant.any()):
        if tau == 0:
            raise UsageError("With tau = 0 the constant mode has infinite variance; set zero_mean=True.")
        root[constant] = tau**-alpha
    return root


def synthesise(coefficients: Float[Tensor, "n *k"], grid: Grid, basis: str) -> Float[Tensor, "n *s"]:
    """Σ_k c_k φ_k at the points of any grid; modes that the grid cannot carry are dropped."""
    matrices = [
        basis_functions(grid, axis, basis, modes, coefficients.dtype, coefficients.device)
        for axis, modes in enumerate(coefficients.shape[1:])
    ]
    if coefficients.device.type == "cpu":
        cases = [_apply_axes(case[None], matrices) for case in coefficients]
        return torch.cat(cases) if cases else coefficients.new_zeros((0, *grid.shape))
    return _apply_axes(coefficients, matrices)


def evaluate_series(
    coefficients: Float[Tensor, "n *k"], grid: Grid, basis: str, x: Float[Tensor, "m N d"]
) -> Float[Tensor, "n N"]:
    """Σ_k c_k φ_k(x) at any points (shared or one set per case) of the grid's box, with the modes that the grid
    carries: the function whose grid values `synthesise` gives. Differentiable in x.

    Cost: O(N ∏ modes) per case; points in chunks whose first contraction fits 2²² numbers.
    """
    shape, kept = coefficients.shape[1:], []
    for axis, modes in enumerate(shape):
        number = _wavenumber(basis, modes)
        kept.append(torch.nonzero(number <= _carried(grid, axis, basis))[:, 0].to(coefficients.device))
        coefficients = coefficients.index_select(axis + 1, kept[-1])
    coefficients = coefficients.to(x.dtype)
    chunk = max(1, 2**22 // max(1, coefficients[0].numel() // max(1, coefficients.shape[1])))
    cases = []
    for case, points in zip(coefficients, x.expand(len(coefficients), -1, -1), strict=True):
        parts = []
        for part in points.split(chunk):
            phi = [
                _eigenfunctions(part[:, axis] - grid.lower[axis], grid.lengths[axis], basis, modes)[:, kept[axis]]
                for axis, modes in enumerate(shape)
            ]
            total = torch.tensordot(phi[0], case, 1)
            for values in phi[1:]:
                total = torch.einsum("pk,pk...->p...", values, total)
            parts.append(total)
        cases.append(torch.cat(parts))
    return torch.stack(cases)


def basis_functions(
    grid: Grid,
    axis: int,
    basis: str,
    modes: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "s k"]:
    """Values of the one-dimensional orthonormal eigenfunctions at the points of one axis."""
    _check_basis(basis)
    values = _eigenfunctions(grid.axis(axis) - grid.lower[axis], grid.lengths[axis], basis, modes)
    number = _wavenumber(basis, modes)
    return torch.where(number <= _carried(grid, axis, basis), values, 0.0).to(dtype=dtype, device=device)


def _eigenfunctions(x: Float[Tensor, " N"], length: float, basis: str, modes: int) -> Float[Tensor, "N k"]:
    """One-dimensional orthonormal eigenfunctions at distances x from the lower end."""
    number = _wavenumber(basis, modes).to(x)
    angle = math.pi / length * x[:, None] * number
    is_sine = torch.full((modes,), basis == "sine", device=x.device)
    if basis == "fourier":
        is_sine = (torch.arange(modes, device=x.device) % 2 == 0) & (number > 0)
    values = torch.where(is_sine, torch.sin(angle), torch.cos(angle))
    return values * torch.where(number == 0, 1.0, math.sqrt(2.0)).to(x) / math.sqrt(length)


def _carried(grid: Grid, axis: int, basis: str) -> int:
    """Highest wavenumber that the points of an axis tell apart from all lower ones (in units of π/L)."""
    points, layout = grid.shape[axis], grid.layout[axis]
    if (basis == "fourier") != (layout == "periodic"):
        raise UsageError(f"The {basis} basis does not fit a grid axis of layout '{layout}'.")
    return {
        ("cosine", "node"): points - 1,
        ("cosine", "cell"): points - 1,
        ("sine", "node"): points - 2,
        ("sine", "cell"): points,
        ("fourier", "periodic"): 2 * ((points - 1) // 2),
    }[basis, layout]


def _wavenumber(basis: str, modes: int) -> Float[Tensor, " k"]:
    """Wavenumber of each one-dimensional mode in units of π/L."""
    index = torch.arange(modes, dtype=torch.float64)
    if basis == "sine":
        return index + 1
    return index if basis == "cosine" else 2 * torch.ceil(index / 2)


def _apply_axes(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    for axis, matrix in enumerate(matrices, start=1):
        values = torch.tensordot(values, matrix, dims=([axis], [1])).movedim(-1, axis)
    return values


def _shell_order(modes: int, ndim: int) -> Tensor:
    """Flat indices of the (modes,)^ndim lattice sorted by max-norm shell, then lexicographically."""
    if modes < 1:
        raise UsageError(f"modes must be at least 1; got {modes}.")
    lattice = torch.stack(torch.meshgrid(*(torch.arange(modes),) * ndim, indexing="ij"), -1).reshape(-1, ndim)
    shell = lattice.amax(dim=1)
    return torch.argsort(shell, stable=True)


def _check_basis(basis: str) -> None:
    if basis not in BASES:
        raise UsageError(f"basis must be one of {', '.join(BASES)}; got '{basis}'.")

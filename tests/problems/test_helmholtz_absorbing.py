"""Waves that leave: manufactured plane waves, complex symmetry, energy, the free-space solution, refusals."""

import math

import numpy as np
import pytest
import torch
from scipy.special import hankel1

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.numerics.finite_elements import bilinear
from sciops.problems.helmholtz_absorbing import MEDIA, HelmholtzAbsorbing
from sciops.solvers.finite_elements import FiniteElements
from sciops.solvers.plain_cg import PlainCG
from sciops.solvers.sparse_direct import SparseDirect, SuperLU

FREE = HelmholtzAbsorbing(medium="constant")


def test_plane_waves_converge_at_order_two() -> None:
    k, turn = 10.0, 0.7
    direction = k * np.array([math.cos(turn), math.sin(turn)])
    problem, errors = HelmholtzAbsorbing(wavenumber=k, medium="constant"), []
    for n in (21, 41, 81):
        grid = Grid.box(n, ndim=2)
        cases = problem.sample([0], grid)
        x = grid.points().numpy()
        exact = np.exp(1j * x @ direction).reshape(grid.shape)
        load = np.zeros(grid.shape, dtype=complex)
        for axis in range(2):
            for side in (0, -1):
                # ∮ g v wall by wall, because g jumps at the corners.
                rate = 1j * ((1 if side else -1) * direction[axis] - k)
                load += wall_mass(grid, axis, side) * rate * exact
        b = torch.from_numpy(np.stack([load.real, -load.imag]))[None]
        A = problem.matrix(cases)
        answer = SuperLU().solve(SuperLU().setup(A), b)
        u = answer.x[0, 0].numpy() + 1j * answer.x[0, 1].numpy()
        errors.append(np.linalg.norm(u - exact) / np.linalg.norm(exact))
    assert 3.6 < errors[0] / errors[1] < 4.4 and 3.8 < errors[1] / errors[2] < 4.2, errors


def wall_mass(grid: Grid, axis: int, side: int) -> np.ndarray:
    """Lumped ∮ v on one wall, per unit volume."""
    weights = np.zeros(grid.shape)
    face = np.full(grid.shape[1 - axis], grid.spacing[1 - axis])
    face[[0, -1]] /= 2
    index: list = [slice(None)] * 2
    index[axis] = side
    weights[tuple(index)] = face / np.prod(grid.spacing)
    return weights


@pytest.mark.parametrize("medium", MEDIA)
def test_the_matrix_is_complex_symmetric(medium: str) -> None:
    problem = HelmholtzAbsorbing(medium=medium)
    A = problem.matrix(problem.sample([1, 2], Grid.box(15, ndim=2)))
    C = A.to_complex(1)
    assert abs(C - C.T).max() < 1e-12 * abs(C).max()
    assert abs(C - C.conj().T).max() > 0.01 * abs(C).max()
    assert A.tags == {"symmetric"} and A.space == (2, 15, 15)
    S = A.to_scipy(1)
    assert abs(S - S.T).max() < 1e-12 * abs(S).max()
    u = torch.randn(2, 2, 15, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product = A.matvec(u)[1].flatten()
    np.testing.assert_allclose(S @ u[1].flatten().numpy(), product.numpy(), atol=1e-9)
    w = C @ (u[1, 0] + 1j * u[1, 1]).flatten().numpy()
    np.testing.assert_allclose(np.concatenate([w.real, -w.imag]), product.numpy(), atol=1e-9)
    np.testing.assert_allclose(S.diagonal(), A.diagonal()[1].flatten().numpy(), atol=1e-12)
    spectrum = np.linalg.eigvalsh(S.toarray())
    assert np.allclose(spectrum, -spectrum[::-1], atol=1e-8 * abs(spectrum).max())  # indefinite: pairs ±λ


def test_conjugate_gradients_refuse() -> None:
    cases = FREE.sample([0], Grid.box(15, ndim=2))
    with pytest.raises(UsageError, match=r"needs a symmetric positive definite system.*use Minres"):
        PlainCG().solve(cases, cases.domain)


@pytest.mark.parametrize("medium", MEDIA)
def test_energy_put_in_leaves_through_the_walls(medium: str) -> None:
    problem, grid = HelmholtzAbsorbing(medium=medium), Grid.box(61, ndim=2)
    cases = problem.sample([0, 1], grid)
    u = SparseDirect().solve(cases, grid).field.values[:, 0]
    put, out = problem.power(cases, u)
    assert torch.all(put > 0.01) and torch.allclose(put, out, rtol=1e-10)
    put, out = problem.power(cases, 1.1 * u)
    assert not torch.allclose(put, out, rtol=1e-2)  # quadratic against linear: only the solution balances


def test_order_two_to_the_truth() -> None:
    problem, out = HelmholtzAbsorbing(wavenumber=12.0), Grid.box(21, ndim=2)
    cases = problem.sample([0, 1], out)
    truth = problem.reference(cases)
    assert truth.ok and float(truth.stats["label_error"].max()) < 3e-5
    errors = []
    for solver in (SparseDirect(resolution=2.0), SparseDirect(resolution=4.0), FiniteElements(resolution=5.0)):
        u = solver.solve(cases, out)
        assert u.ok and u.field.channels == ("u_re", "u_im")
        errors.append(float((u.field.values - truth.field.values).norm() / truth.field.values.norm()))
    assert 3.5 < errors[0] / errors[1] < 4.5 and errors[2] < 3e-5, errors


def test_outgoing_waves_of_free_space() -> None:
    """(i/4) H₀⁽¹⁾(kr), times the transform of the Gaussian, between source and walls: reflections are a few percent."""
    grid = Grid.box(81, ndim=2)
    cases = FREE.sample([0], grid)
    u = FREE.reference(cases).field.values[0, 0].numpy()
    k, width = FREE.wavenumber, FREE.source_width
    r = (grid.points() - cases.params["centre"]).norm(dim=1).numpy().reshape(grid.shape)
    ring = (r > 4 * width) & (r < 0.2)
    known = 0.25j * hankel1(0, k * r[ring]) * math.exp(-((k * width) ** 2) / 2)
    found = u[0][ring] + 1j * u[1][ring]
    assert np.linalg.norm(found - known) < 0.2 * np.linalg.norm(known)
    assert np.linalg.norm(found - known.conj()) > np.linalg.norm(known)  # incoming waves are another solution


def test_the_source_has_unit_integral() -> None:
    grid = Grid.box(81, ndim=2)
    f = FREE.sample([0, 1], grid).input("f")
    assert torch.allclose((f * grid.weights()).sum((1, 2)), torch.ones(2, dtype=torch.float64), rtol=1e-6)
    load = bilinear(grid).load(f).sum((1, 2)) * math.prod(grid.spacing)
    assert torch.allclose(load, torch.ones(2, dtype=torch.float64), rtol=1e-6)


def test_media_follow_their_laws() -> None:
    grid = Grid.box(41, ndim=2)
    smooth, layered = (HelmholtzAbsorbing(medium=m).sample(range(20), grid).input("k") for m in ("smooth", "layered"))
    for k in (smooth, layered):
        assert float(k.min()) > 40 / 1.3 - 1e-9 and float(k.max()) < 40 / 0.7 + 1e-9
    assert all(2 <= len(torch.unique(case)) <= 4 for case in layered)
    assert 0.08 < float((40 / smooth - 1).std()) < 0.3
    assert torch.all(FREE.sample([0], grid).input("k") == 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"medium": "rough"}, "must be one of smooth, layered, constant"),
        ({"contrast": 1.0}, "contrast must lie in"),
        ({"wavenumber": -1.0}, "wavenumber must be positive"),
        ({"layers": 0}, "layers ≥ 1"),
    ],
)
def test_arguments_are_checked(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        HelmholtzAbsorbing(**change)

"""Finite elements: the same matrices as scikit-fem assembles, the order of every degree, points evaluated exactly."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.finite_elements import WeakForm, bilinear, hat_averages, high_degree

SKEW = Grid.box((6, 9), upper=(1.0, 2.0))


def matrix(stencil: torch.Tensor) -> csr_matrix:
    return StencilOperator(stencil, (False, False)).to_scipy()


def independent(grid: Grid, weight: np.ndarray) -> dict[str, np.ndarray]:
    """Dense matrices by scikit-fem's own assembly, nodes in row-major order, per unit volume."""
    from skfem import Basis, BilinearForm, ElementQuad1, FacetBasis, LinearForm, MeshQuad
    from skfem.helpers import dot, grad

    mesh = MeshQuad.init_tensor(*(grid.axis(a).numpy() for a in range(2)))
    inner, walls = Basis(mesh, ElementQuad1(), intorder=5), FacetBasis(mesh, ElementQuad1(), intorder=5)
    place = np.rint(inner.doflocs / np.array(grid.spacing)[:, None]).astype(int)
    order = np.argsort(place[0] * grid.shape[1] + place[1])
    nodal = np.empty(grid.size)
    nodal[order] = weight.ravel()
    mass, stiffness = BilinearForm(lambda u, v, w: w["q"] * u * v), BilinearForm(lambda u, v, w: dot(grad(u), grad(v)))
    made = {
        "mass": mass.assemble(inner, q=inner.interpolate(nodal)),
        "walls": mass.assemble(walls, q=walls.interpolate(nodal)),
        "stiffness": stiffness.assemble(inner),
    }
    found = {name: m.toarray()[np.ix_(order, order)] for name, m in made.items()}
    found["load"] = LinearForm(lambda v, w: w["q"] * v).assemble(inner, q=inner.interpolate(nodal))[order]
    return {name: m / np.prod(grid.spacing) for name, m in found.items()}


def test_bilinear_elements_are_those_of_scikit_fem() -> None:
    weight = torch.rand(2, *SKEW.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    elements = bilinear(SKEW)
    for i in range(2):
        known = independent(SKEW, weight[i].numpy())
        made = {
            "mass": matrix(elements.mass(elements.at_quadrature(weight))[i : i + 1]).toarray(),
            "walls": matrix(elements.wall_mass(weight)[i : i + 1]).toarray(),
            "stiffness": matrix(elements.stiffness(weight)).toarray(),
            "load": elements.load(weight)[i].numpy().ravel(),
        }
        for name, value in made.items():
            np.testing.assert_allclose(value, known[name], atol=1e-12 * np.abs(known[name]).max(), err_msg=name)


def test_bilinear_elements_need_plane_node_grids() -> None:
    for grid in (Grid.box(5, ndim=3), Grid.box(5, ndim=2, layout="cell")):
        with pytest.raises(UsageError, match="2-D node grid"):
            bilinear(grid)


def plane_wave(k: float, turn: float = 0.7) -> tuple[WeakForm, np.ndarray]:
    """A wave that solves −Δu − k²u = 0, with the impedance data that it has on the unit square."""
    direction = k * np.array([np.cos(turn), np.sin(turn)])

    def data(x: np.ndarray) -> np.ndarray:
        normal = np.where(np.abs(x - 0.5) > 0.5 - 1e-9, np.sign(x - 0.5), 0.0)
        return 1j * (normal @ direction - k) * np.exp(1j * x @ direction)

    form = WeakForm(
        (0.0, 0.0),
        (1.0, 1.0),
        square=lambda x: np.full(len(x), k**2),
        impedance=lambda x: np.full(len(x), k),
        flux=data,
    )
    return form, direction


@pytest.mark.parametrize("degree", [1, 2, 3, 6])
def test_every_degree_has_its_order(degree: int) -> None:
    form, direction = plane_wave(10.0)
    grid = Grid.box(13, ndim=2)
    exact = np.exp(1j * grid.points().numpy() @ direction).reshape(grid.shape)
    coarse = {1: 32, 2: 16, 3: 8, 6: 4}[degree]
    errors = []
    for elements in (coarse, 2 * coarse):
        answer = high_degree(form.mesh_lines(elements), degree).solve(form)
        assert answer.residual < 1e-12
        errors.append(np.linalg.norm(answer.on(grid) - exact) / np.linalg.norm(exact))
    observed = np.log2(errors[0] / errors[1])
    # Asymptotically p + 1; phase errors of order 2p help where p is small.
    assert degree + 0.6 < observed < 2 * degree + 1.0, errors
    assert errors[1] < 0.03


def test_points_are_evaluated_exactly() -> None:
    lines = ((0.0, 0.3, 0.35, 1.0), (0.0, 0.5, 2.0))
    space = high_degree(lines, 3)
    x = np.random.default_rng(0).uniform(size=(40, 2)) * [1.0, 2.0]
    x[:3] = [[0.0, 0.0], [1.0, 2.0], [0.35, 0.5]]
    coefficients = np.random.default_rng(1).standard_normal(space.size)
    inside = x[3:] * (1 - 1e-9)
    np.testing.assert_allclose(
        space.evaluation(inside) @ coefficients, space.basis.probes(inside.T) @ coefficients, atol=1e-10
    )
    ones = np.linalg.lstsq(space.evaluation(x).toarray(), np.ones(len(x)), rcond=None)[0]
    assert space.evaluation(x).shape == (40, space.size) and np.allclose(space.evaluation(x) @ ones, 1)


def test_mesh_lines_meet_the_breaks() -> None:
    form = WeakForm((0.0, 0.0), (1.0, 1.0), lambda x: x[:, 0], breaks=((0.35, 0.65), ()))
    for elements in (4, 20, 23):
        along, across = form.mesh_lines(elements)
        assert {0.35, 0.65} <= set(along) and len(along) == len(across) == elements + 1
        assert np.diff(along).min() > 0.4 / elements


@pytest.mark.parametrize("n", [6, 11, 101])
def test_hat_averages_integrate_the_step(n: int) -> None:
    x = np.linspace(0, 1, n)
    fine = (np.arange(400_000) + 0.5) / 400_000
    step = ((fine > 0.35) & (fine < 0.65)).astype(float)
    hats = np.clip(1 - np.abs(fine[:, None] - x[None, [0, n // 3, n // 2, n - 1]]) * (n - 1), 0, None)
    known = step @ hats / hats.sum(0)
    found = hat_averages(0.35, 0.65, x.tolist())
    np.testing.assert_allclose(found[[0, n // 3, n // 2, n - 1]], known, atol=1e-4)
    weights = np.full(n, 1 / (n - 1))
    weights[[0, -1]] /= 2
    assert found @ weights == pytest.approx(0.3, abs=1e-12)
    assert hat_averages(-1.0, 2.0, x.tolist()) == pytest.approx(np.ones(n))

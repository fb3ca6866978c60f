"""The Helmholtz benchmark: its published numbers, an independent assembly, orders, resonances, refusals."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import spsolve

from sciops.core.config import spec
from sciops.core.errors import DataError, UsageError
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.random import generator
from sciops.data.generate import make_chunk
from sciops.data.recipe import parse_recipe
from sciops.problems.helmholtz_neumann import HelmholtzNeumann, lowest_modes
from sciops.solvers.finite_elements import FiniteElements
from sciops.solvers.plain_cg import PlainCG
from sciops.solvers.sparse_direct import SparseDirect

GRID = Grid.box(101, ndim=2)
PLAIN = HelmholtzNeumann(omega=100.0, amplitude=0.0)  # c = 20, k = 5


def test_published_sanity_values() -> None:
    """max |u| ≈ 0.039, c within some percent of 20, mean of sqrt(Σ 10u² + |∇u|²) ≈ 57 to 61."""
    cases = HelmholtzNeumann().sample(range(12), GRID)
    c = cases.input("c")
    assert 19.4 < float(c.min()) < 19.85 and 20.15 < float(c.max()) < 20.6
    u = SparseDirect().solve(cases, GRID).field.values[:, 0, 0]
    assert 0.034 < float(u.abs().amax((1, 2)).mean()) < 0.044
    slopes = torch.gradient(u, spacing=0.01, dim=(1, 2))
    size = (10 * u**2 + slopes[0] ** 2 + slopes[1] ** 2).sum((1, 2)).sqrt()
    assert 48 < float(size.mean()) < 68


def test_the_field_is_the_series_of_the_law() -> None:
    pairs = lowest_modes(100)
    assert pairs[:5] == ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0)) and len(set(pairs)) == 100 and (0, 0) not in pairs
    assert max(i * i + j * j for i, j in pairs) <= min(
        i * i + j * j for i in range(15) for j in range(15) if (i or j) and (i, j) not in pairs
    )
    x, y = (a.numpy() for a in GRID.mesh())
    noise = torch.randn(112, generator=generator(5), dtype=torch.float64).tolist()
    g = np.zeros_like(x)
    for theta, (i, j) in zip(noise, pairs, strict=False):
        root = 1 / (math.pi**2 * (i * i + j * j) + 9)
        scale = 2.0 if i and j else math.sqrt(2)
        g += theta * root * scale * np.cos(math.pi * i * x) * np.cos(math.pi * j * y)
    made = HelmholtzNeumann().sample([5], GRID).input("c")[0].numpy()
    np.testing.assert_allclose(made, 20 + np.tanh(g), atol=1e-12)


def test_the_system_is_that_of_scikit_fem() -> None:
    """The whole chain again by scikit-fem's own forms: 3×3 points an element, c interpolated, step on the top."""
    from skfem import Basis, BilinearForm, ElementQuad1, FacetBasis, LinearForm, MeshQuad
    from skfem.helpers import dot, grad

    grid, problem = Grid.box(41, ndim=2), HelmholtzNeumann(omega=400.0)
    cases = problem.sample([3], grid)
    mesh = MeshQuad.init_tensor(*(grid.axis(a).numpy() for a in range(2)))
    basis = Basis(mesh, ElementQuad1(), intorder=5)
    top = FacetBasis(mesh, ElementQuad1(), facets=mesh.facets_satisfying(lambda x: x[1] > 1 - 1e-9), intorder=5)
    place = np.rint(basis.doflocs * 40).astype(int)
    c = basis.interpolate(cases.input("c")[0].numpy()[place[0], place[1]])
    form = BilinearForm(lambda u, v, w: dot(grad(u), grad(v)) - (400.0 / w["c"]) ** 2 * u * v)
    load = LinearForm(lambda v, w: (np.abs(w.x[0] - 0.5) <= 0.15) * v)
    u = spsolve(form.assemble(basis, c=c).tocsc(), load.assemble(top))
    known = np.empty(grid.shape)
    known[place[0], place[1]] = u
    found = problem.reference(cases).field.values[0, 0, 0].numpy()
    np.testing.assert_allclose(found, known, atol=1e-9 * np.abs(known).max())


def test_the_system_is_symmetric_and_indefinite() -> None:
    grid, problem = Grid.box(25, ndim=2), HelmholtzNeumann(omega=400.0, amplitude=0.0)
    A = problem.matrix(problem.sample([0], grid))
    assert A.tags == {"symmetric"} and A.nullspace is None
    # Unlike the entries, the sign count of the spectrum is the continuous one while the waves are resolved.
    negative = int((np.linalg.eigvalsh(A.to_scipy().toarray()) < 0).sum())
    known = sum(math.pi**2 * (i * i + j * j) < 400 for i in range(9) for j in range(9))
    assert abs(negative - known) <= 3
    with pytest.raises(UsageError, match="not known to be positive; use Minres"):
        PlainCG().solve(problem.sample([0], grid), grid)


def test_label_error_is_the_distance_to_the_equation() -> None:
    """Order 2 while kh is small; beyond the size of the solution at the published frequency and grid."""
    errors = []
    for n in (21, 41):
        cases = HelmholtzNeumann(omega=100.0).sample([0, 1], Grid.box(n, ndim=2))
        errors.append(HelmholtzNeumann(omega=100.0).reference(cases).stats["label_error"])
    # The flux jumps, so that the energy of the corner singularity keeps the order a little below two.
    assert torch.all((errors[0] / errors[1] > 3.2) & (errors[0] / errors[1] < 4.8)), errors
    published = HelmholtzNeumann()
    solution = published.reference(published.sample([0], GRID))
    assert solution.ok and solution.stats["residual"][0] < 1e-12
    assert solution.stats["label_error"][0] > 0.5


def test_resolved_truth_is_the_limit() -> None:
    problem = HelmholtzNeumann(omega=100.0, truth="resolved")
    out = Grid.box(21, ndim=2)
    cases = problem.sample([0, 1], out)
    truth = problem.reference(cases)
    assert truth.ok and float(truth.stats["label_error"].max()) < 2e-3
    errors = []
    for resolution in (2.0, 4.0, 8.0):
        u = SparseDirect(resolution=resolution).solve(cases, out).field.values
        errors.append(float((u - truth.field.values).norm() / truth.field.values.norm()))
    assert 3.0 < errors[0] / errors[1] < 5.0 and 3.3 < errors[1] / errors[2] < 4.8, errors
    u = FiniteElements(resolution=2.0).solve(cases, out)
    assert u.ok and float((u.field.values - truth.field.values).norm() / truth.field.values.norm()) < 2e-3


def discrete_eigenvalue(i: int, j: int, n: int) -> float:
    """Of −Δ by bilinear elements on n² intervals of the unit square, no flux."""

    def one(m: int) -> float:
        t = math.pi * m / n
        return 6 * n**2 * (1 - math.cos(t)) / (2 + math.cos(t))

    return one(i) + one(j)


@pytest.mark.parametrize(
    ("truth", "square"),
    [
        ("discrete", discrete_eigenvalue(2, 1, 40)),
        ("discrete", discrete_eigenvalue(1, 0, 40)),  # antisymmetric: the source does not excite it
        ("resolved", 5 * math.pi**2),
    ],
)
def test_a_resonance_is_named(truth: str, square: float) -> None:
    grid = Grid.box(41, ndim=2)
    at = replace(PLAIN, omega=20 * math.sqrt(square), truth=truth)
    solution = at.reference(at.sample([0], grid))
    assert solution.status == [Status.UNRESOLVED]
    (advice,) = solution.stats["advice"]
    assert "eigenvalue" in advice and "change the frequency" in advice and "\n" not in advice
    beside = replace(at, omega=at.omega * 1.001)
    solution = beside.reference(beside.sample([0], grid))
    # ω a thousandth off is k² off by 2·10⁻³.
    assert solution.ok and float(solution.stats["resonance"][0]) == pytest.approx(2e-3, rel=0.02)


def test_solvers_do_not_call_a_resonance_solved() -> None:
    at = replace(PLAIN, omega=20 * math.sqrt(5 * math.pi**2))
    cases = at.sample([0], Grid.box(41, ndim=2))
    solution = FiniteElements().solve(cases, cases.domain)
    assert solution.status == [Status.UNRESOLVED] and "eigenvalue" in solution.stats["advice"][0]
    discrete = replace(PLAIN, omega=20 * math.sqrt(discrete_eigenvalue(2, 1, 40)))
    cases = discrete.sample([0], Grid.box(41, ndim=2))
    solution = SparseDirect().solve(cases, cases.domain)
    assert solution.status == [Status.MAX_ITER] and "eigenvalue of the box" in solution.stats["advice"][0]
    generated = parse_recipe(
        {
            "problem": spec(discrete),
            "grid": {"shape": [41, 41]},
            "splits": {"test": 1},
        },
        "resonant.yaml",
    )
    with pytest.raises(DataError, match="case 0 ended with status unresolved; k² lies within"):
        make_chunk(generated, discrete, [0])


@pytest.mark.parametrize("solve", [lambda c: c.problem.reference(c), lambda c: SparseDirect().solve(c, c.domain)])
def test_speeds_must_be_positive(solve) -> None:
    cases = PLAIN.sample([0, 1], Grid.box(17, ndim=2))
    values = cases.inputs.values.clone()
    values[1, 0, 0, 4, 4] = -1.0
    with pytest.raises(UsageError, match=r"needs c > 0 everywhere, but case 1 .* goes down to -1"):
        solve(replace(cases, inputs=replace(cases.inputs, values=values), seeds=None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"omega": 0.0}, "omega must be positive"),
        ({"amplitude": 20.0}, "mean > amplitude"),
        ({"half_width": 0.7}, "half_width"),
        ({"truth": "exact"}, "must be one of discrete, resolved"),
    ],
)
def test_arguments_are_checked(change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        HelmholtzNeumann(**change)
    with pytest.raises(UsageError, match="nodes of the unit square"):
        HelmholtzNeumann().sample([0], Grid.box(9, ndim=2, layout="cell"))

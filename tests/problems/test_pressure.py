"""Pressure systems: symmetry, null spaces, row sums, sine eigenvalues, observed orders, one seed one case."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from sciops.core.grid import Grid
from sciops.numerics.krylov import ConjugateGradients, Jacobi
from sciops.problems.cut_cells import axes_of, face_axes, openness
from sciops.problems.pressure import Pressure
from sciops.problems.scenes import PARAMETERS, Ball, Scene
from sciops.solvers.sparse_direct import SparseDirect, SuperLU

SCENES = [name for name in PARAMETERS if name != "voxels"]
NOTHING = torch.zeros((2, 1, 1), dtype=torch.float64)


def cells(n: int, ndim: int) -> Grid:
    return Grid.box(n, ndim=ndim, layout="cell")


def random_flags(ndim: int, air_share: float) -> tuple[Pressure, Any]:
    """Half the cells fluid at random: pockets, isolated cells and many components."""
    shape = (14, 11) if ndim == 2 else (8, 7, 6)
    kind = torch.rand((3, *shape), generator=torch.Generator().manual_seed(4))
    problem = Pressure(ndim=ndim, parameters={"top": "solid"})
    solid, air = kind < 0.4, (kind >= 0.4) & (kind < 0.4 + air_share)
    return problem, problem.from_solids(solid, Grid.box(shape, layout="cell"), air=air)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("air_share", [0.0, 0.15])
def test_random_flags(ndim: int, air_share: float) -> None:
    problem, cases = random_flags(ndim, air_share)
    A, _ = problem.system(cases)
    draw = torch.Generator().manual_seed(5)
    u, v = torch.randn((2, 3, *A.space), generator=draw, dtype=torch.float64)
    uAv, vAu = (u * A.matvec(v)).sum(), (v * A.matvec(u)).sum()
    assert abs(float(uAv - vAu)) < 1e-13 * float(u.norm() * A.matvec(v).norm())
    # Row sums, in units of 1/h² (equal spacing is not asked for): the faces to air.
    fluid = cases.input("fluid")
    rows = A.matvec(fluid)
    air_faces = torch.zeros_like(fluid)
    kind = torch.rand((3, *A.space), generator=torch.Generator().manual_seed(4))
    air = ((kind >= 0.4) & (kind < 0.4 + air_share)).double()
    for axis, h in enumerate(cases.domain.spacing, start=1):
        n = fluid.shape[axis]
        air_faces.narrow(axis, 0, n - 1).add_(air.narrow(axis, 1, n - 1) / h**2)
        air_faces.narrow(axis, 1, n - 1).add_(air.narrow(axis, 0, n - 1) / h**2)
    assert torch.allclose(rows, air_faces * fluid, atol=1e-12 * float(A.diagonal().max()))
    if air_share == 0.0:
        assert A.nullspace == "components"
        assert rows.abs().max() < 1e-12 * A.diagonal().max()
        singular = A.labels > 0
        assert torch.equal(singular, A.active)
        assert int(A.labels.max()) > 1
    isolated = (kind >= 0.4 + air_share) & (fluid == 0)
    assert bool(isolated.any())  # a fluid cell between solids has no row
    assert A.matvec(v)[isolated].abs().max() == 0


@pytest.mark.parametrize("ndim", [2, 3])
def test_incompatible_data_of_singular_parts_is_projected(ndim: int) -> None:
    problem, cases = random_flags(ndim, 0.15)
    A, b = problem.system(cases)
    projected = A.project(b)
    assert (projected - b).norm() > 0.01 * b.norm()
    truth = problem.reference(cases)
    assert truth.ok
    u = truth.field.values[:, 0, 0]
    assert (A.matvec(u) - projected).norm() < 1e-12 * b.norm()
    assert A.project(u).allclose(u, atol=1e-12)
    assert bool((u[~A.active] == 0).all())
    assert problem.residual_on_grid(cases, u).norm() < 1e-12 * b.norm()
    for solver in (ConjugateGradients(Jacobi()), SuperLU()):
        answer = solver.solve(solver.setup(A), b, tol=1e-11)
        assert {s.value for s in answer.status} == {"ok"}
        assert (answer.x - u).norm() < 1e-8 * u.norm()


@pytest.mark.parametrize("ghost_fluid", [False, True])
def test_a_box_of_air_has_sine_eigenvalues(ghost_fluid: bool) -> None:
    n = 10
    problem = Pressure(scene="box", ghost_fluid=ghost_fluid)
    A = problem.matrix(problem.sample([0], cells(n, 2)))
    found = np.linalg.eigvalsh(A.to_scipy(0).toarray()) / n**2
    k = np.arange(1, n + 1)
    # Air one cell beyond: DST-I on n + 1 intervals. Surface at the wall: DST-II on n.
    one = 2 - 2 * np.cos(np.pi * k / (n if ghost_fluid else n + 1))
    assert np.allclose(found, np.sort((one[:, None] + one).ravel()), rtol=0, atol=1e-12)


def test_a_closed_box_is_singular() -> None:
    problem = Pressure(ndim=3, scene="box", parameters={"walls": "solid"})
    cases = problem.sample([0], cells(6, 3))
    A, b = problem.system(cases)
    assert A.nullspace == "components"
    assert A.matvec(torch.ones_like(b)).abs().max() < 1e-10
    u = SparseDirect().solve(cases, cases.domain).field.values[:, 0, 0]
    assert abs(float(u.mean())) < 1e-13
    assert problem.residual_on_grid(cases, u).norm() < 1e-11 * b.norm()


def solved(problem: Pressure, grid: Grid, scene: Scene, f: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(answer, unknown cells) for f(grid, shares) on the scene."""
    from dataclasses import replace

    shares = openness(scene, grid, problem.fractional)
    made = problem._channels(scene, grid, shares, 0)
    cases = problem.sample([0], grid)
    values = torch.stack(made)[None, None].clone()
    values[:, :, -1] = f(grid, shares) * made[0]
    cases = replace(cases, inputs=replace(cases.inputs, values=values))
    return problem.reference(cases).field.values[0, 0, 0], made[0] > 0


@pytest.mark.parametrize(("fractional", "low", "high"), [(True, 1.7, 2.6), (False, 0.6, 1.4)])
def test_order_at_a_solid_ball(fractional: bool, low: float, high: float) -> None:
    """p = cos πx cos πy outside a disc, u* = ∇p + curl ψ with ψ = 0 on the disc and on the walls."""
    centre, radius = (0.52, 0.47), 0.23
    ball = Ball(centre, radius, (0.0, 0.0))
    scene = Scene(2, (ball,), ((False, False),) * 2, NOTHING, NOTHING[0])
    problem = Pressure(scene="box", parameters={"walls": "solid"}, fractional=fractional)

    def velocity(axes: list[torch.Tensor], axis: int) -> torch.Tensor:
        shape = torch.broadcast_shapes(*(a.shape for a in axes))
        x, y = (a.expand(shape).clone().requires_grad_() for a in axes)
        psi = torch.sin(math.pi * x) * torch.sin(math.pi * y)
        psi = 3 * psi * ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 - radius**2)
        p = torch.cos(math.pi * x) * torch.cos(math.pi * y)
        gp = torch.autograd.grad(p.sum(), (x, y), retain_graph=True)[axis]
        curl = torch.autograd.grad(psi.sum(), (y, x)[axis])[0] * (1 if axis == 0 else -1)
        return (gp + curl).detach()

    def f(grid: Grid, shares: list[torch.Tensor]) -> torch.Tensor:
        total = torch.zeros(grid.shape, dtype=torch.float64)
        for axis, (w, n, h) in enumerate(zip(shares, grid.shape, grid.spacing, strict=True)):
            flux = w * velocity(face_axes(grid, axis), axis)
            total -= (flux.narrow(axis, 1, n) - flux.narrow(axis, 0, n)) / h
        return total

    errors = []
    for n in (24, 48, 96, 192):
        grid = cells(n, 2)
        p, fluid = solved(problem, grid, scene, f)
        x, y = axes_of(grid, (False, False))
        gap = (p - torch.cos(math.pi * x) * torch.cos(math.pi * y))[fluid]
        errors.append(float((gap - gap.mean()).square().mean().sqrt()))
    observed = math.log2(errors[0] / errors[3]) / 3
    assert low < observed < high, (observed, errors)


@pytest.mark.parametrize(("ghost_fluid", "low", "high"), [(True, 1.7, 2.4), (False, 0.6, 1.4)])
def test_order_at_a_free_surface(ghost_fluid: bool, low: float, high: float) -> None:
    """−Δp = 4 in the disc of radius R, p = R² − r²: the surface anywhere between centres."""
    radius = 0.37

    def surface(axes: Any) -> torch.Tensor:
        # The distance, not a multiple of p: θ is then itself an approximation.
        return radius - torch.sqrt((axes[0] - 0.5) ** 2 + (axes[1] - 0.5) ** 2)

    scene = Scene(2, (), ((True, True),) * 2, NOTHING, NOTHING[0], surface=surface)
    problem = Pressure(scene="box", ghost_fluid=ghost_fluid)
    errors = []
    for n in (24, 48, 96):
        grid = cells(n, 2)
        p, fluid = solved(problem, grid, scene, lambda g, _: torch.full(g.shape, 4.0, dtype=torch.float64))
        x, y = axes_of(grid, (False, False))
        exact = radius**2 - (x - 0.5) ** 2 - (y - 0.5) ** 2
        errors.append(float((p - exact)[fluid].abs().max()))
    observed = math.log2(errors[0] / errors[2]) / 2
    assert low < observed < high, (observed, errors)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("scene", SCENES)
def test_scenes_are_whole(scene: str, ndim: int) -> None:
    for fractional in (False, True):
        problem = Pressure(ndim=ndim, scene=scene, fractional=fractional, ghost_fluid=fractional)
        grid = Grid.box((20, 24, 16)[:ndim], upper=(1.0, 1.2, 0.8)[:ndim], layout="cell")
        cases = problem.sample([3, 40], grid)
        A, b = problem.system(cases)
        assert A.nullspace is None  # air everywhere, pockets removed
        fluid = cases.input("fluid")
        assert torch.equal(fluid > 0, A.active)
        assert 0.3 < float(fluid.mean()) <= 1
        assert bool((b[fluid == 0] == 0).all())
        assert bool((b.flatten(1).norm(dim=1) > 0).all())
        assert torch.equal(cases[1].inputs.values, problem.sample([40], grid).inputs.values)
        coarse = cases.on(grid.resized(12))
        assert coarse.provenance == "generated"
        single = problem.sample([3], grid, torch.float32)
        assert single.dtype == torch.float32
        assert torch.equal(single.inputs.values, cases.inputs.values[:1].float())


def test_velocity_data_are_compatible_in_closed_domains() -> None:
    problem = Pressure(scene="plume", parameters={"top": "solid"}, fractional=True)
    cases = problem.sample([0], cells(32, 2))
    # Closed: the whole liquid is one pocket, and is removed.
    assert float(cases.input("fluid").sum()) == 0
    kept = Pressure(scene="box", parameters={"walls": "solid"}, forcing="velocity")
    _, b = kept.system(kept.sample([0], cells(32, 2)))
    assert abs(float(b.sum())) < 1e-11 * float(b.abs().sum())


def test_a_density_ratio_makes_harmonic_weights() -> None:
    problem = Pressure(scene="box", contrast=50.0)
    w = problem.sample([1], cells(32, 2)).input("wx")[0, :-1]
    found = torch.unique(w.round(decimals=12))
    assert torch.allclose(found, torch.tensor([1 / 50, 2 / 51, 1.0], dtype=torch.float64), atol=1e-12)


def test_moving_solids_change_their_matrix_and_keep_their_sequence() -> None:
    problem = Pressure(scene="moving_solids")
    cases = problem.sample([64, 65, 66], cells(48, 2))
    fluid = cases.input("fluid")
    changed = [float((fluid[i] != fluid[i + 1]).double().mean()) for i in range(2)]
    assert all(0 < c < 0.2 for c in changed)

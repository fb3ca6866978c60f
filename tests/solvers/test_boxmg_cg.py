"""Operator-dependent multigrid as a solver: iteration counts on hard coefficients, agreement with direct solution."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import spsolve

from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, Status
from sciops.numerics.compiled.box_multigrid import BoxMultigrid
from sciops.problems.high_contrast import HighContrast
from sciops.problems.poisson import Poisson
from sciops.problems.pressure import Pressure
from sciops.solvers.boxmg_cg import BoxmgCG

FAMILIES = {
    "lognormal": {"family": "lognormal"},
    "white lognormal": {"family": "white_lognormal"},
    "inclusions 1e3": {"family": "inclusions"},
    "inclusions 1e6": {"family": "inclusions", "contrast": 1e6},
    "inclusions 1e-6": {"family": "inclusions", "contrast": 1e-6},
    "inclusions 1e±6": {"family": "inclusions", "contrast": 1e6, "mixed": True},
    "channels": {"family": "channels"},
    "anisotropy 0°": {"family": "anisotropy", "angle": 0.0},
    "anisotropy 30°": {"family": "anisotropy", "angle": 30.0},
    "anisotropy 45°": {"family": "anisotropy", "angle": 45.0},
    "anisotropy in blocks": {"family": "anisotropy", "orientation": "blocks"},
}


def matrix(shape: tuple[int, ...], seed: int, **family: object) -> LinearOperator:
    problem = HighContrast(ndim=len(shape), **family)  # type: ignore[arg-type]
    return problem.matrix(problem.sample([seed], Grid.box(shape, layout="cell")))


def noise(A: LinearOperator, seed: int = 0) -> torch.Tensor:
    b = torch.from_numpy(np.random.default_rng(seed).standard_normal((A.n, *A.space)))
    return b * (A.diagonal() > 0)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [(128, 128), (32, 32, 32)], ids=str)
def test_at_most_twenty_iterations(shape: tuple[int, ...], name: str) -> None:
    A = matrix(shape, 1, **FAMILIES[name])
    solver = BoxMultigrid("box")
    answer = solver.solve(solver.setup(A), noise(A), tol=1e-8, maxiter=20)
    assert answer.status == [Status.OK]
    assert float(answer.residual[0]) <= 1e-7


@pytest.mark.parametrize("shape", [(23, 18), (9, 8, 7)], ids=str)
def test_agrees_with_a_direct_solver(shape: tuple[int, ...]) -> None:
    for name in ("inclusions 1e6", "anisotropy 30°"):
        A = matrix(shape, 2, **FAMILIES[name])
        b = noise(A)
        # Weights of 10⁶ leave rounding of 10⁻¹⁰ in the residual.
        answer = (solver := BoxMultigrid()).solve(solver.setup(A), b, tol=1e-9)
        exact = spsolve(A.to_scipy(0).tocsc(), b[0].numpy().ravel()).reshape(shape)
        assert answer.status == [Status.OK]
        error = answer.x - torch.from_numpy(exact)
        smallest = float(np.linalg.eigvalsh(A.to_scipy(0).toarray())[0])
        assert float(error.norm()) <= 1e-9 * float(b.norm()) / smallest


@pytest.mark.parametrize("method", ["auto", "box"])
@pytest.mark.parametrize("shape", [(40, 31), (14, 13, 12)], ids=str)
def test_walls_all_around_and_isolated_cells(shape: tuple[int, ...], method: str) -> None:
    rng = np.random.default_rng(3)
    open_cells = rng.random(shape) > 0.25
    k = np.where(open_cells, np.where(rng.random(shape) < 0.5, 1.0, 1e3 if method == "box" else 1.0), 0.0)
    faces = []
    for axis in range(len(shape)):
        w = np.zeros(shape)
        low, high = np.moveaxis(k, axis, 0)[:-1], np.moveaxis(k, axis, 0)[1:]
        np.moveaxis(w, axis, 0)[:-1] = np.divide(low * high, low + high, out=np.zeros_like(low), where=low * high > 0)
        faces.append(torch.from_numpy(w)[None])
    sink = torch.zeros(1, *shape, dtype=torch.float64)
    A = FaceOperator(tuple(faces), sink, labels(faces))
    solver = BoxMultigrid(method)  # type: ignore[arg-type]
    b = torch.from_numpy(rng.standard_normal((1, *shape)))
    answer = solver.solve(solver.setup(A), b, tol=1e-9, maxiter=60)
    assert answer.status == [Status.OK]
    x = answer.x
    assert torch.equal(x[~A.active], torch.zeros_like(x[~A.active]))
    right = A.project(b * A.active)
    assert float((A.matvec(x) - right).norm()) <= 1e-8 * float(right.norm())
    assert float((A.project(x) - x).norm()) <= 1e-10 * float(x.norm())


def labels(faces: list[torch.Tensor]) -> torch.Tensor:
    """Connected components by flooding; cells without faces have none."""
    shape = faces[0].shape[1:]
    number = np.arange(1, int(np.prod(shape)) + 1).reshape(shape)
    links = [f[0].numpy() > 0 for f in faces]
    while True:
        before = number.copy()
        for axis, link in enumerate(links):
            view, joined = np.moveaxis(number, axis, 0), np.moveaxis(link, axis, 0)[:-1]
            least = np.minimum(view[:-1], view[1:])
            view[:-1] = np.where(joined, least, view[:-1])
            least = np.minimum(view[:-1], view[1:])
            view[1:] = np.where(joined, least, view[1:])
        if np.array_equal(before, number):
            break
    linked = np.zeros(shape, dtype=bool)
    for axis, link in enumerate(links):
        linked |= link
        np.moveaxis(linked, axis, 0)[1:] |= np.moveaxis(link, axis, 0)[:-1]
    flat = np.where(linked, number, 0)
    return torch.from_numpy(np.unique(flat, return_inverse=True)[1].reshape(shape))[None]


def test_second_right_hand_side_warm_start_and_batches() -> None:
    problem = HighContrast(ndim=2, family="inclusions")
    A = problem.matrix(problem.sample([1, 2], Grid.box((40, 40), layout="cell")))
    solver = BoxMultigrid("box")
    state = solver.setup(A)
    b = noise(A)
    first = solver.solve(state, b)
    again = solver.solve(state, 2 * b)
    assert first.status == [Status.OK, Status.OK]
    assert torch.equal(first.iterations, again.iterations)
    warm = solver.solve(state, b, x0=first.x)
    assert int(warm.iterations.max()) <= 1


def test_refuses_periodic_grids() -> None:
    problem = Poisson(condition="periodic", modes=4)
    grid = Grid.box((16, 16), layout="periodic")
    assert "periodic" in str(BoxmgCG().refuses(problem, grid))


HARD = {
    "free surface": (Pressure(scene="free_surface", ghost_fluid=True), (74, 20), 2),
    "solids 31×96": (Pressure(), (31, 96), 33),
    "white lognormal": (HighContrast(family="white_lognormal"), (18, 67), 39),
    "plume, 3-D": (Pressure(ndim=3, scene="plume"), (27, 25, 12), 300),
    "channels": (HighContrast(family="channels"), (93, 35), 559),
    "inclusions ×1e6": (HighContrast(family="inclusions", contrast=1e6), (18, 82), 811),
    "cut cells": (Pressure(fractional=True), (66, 17), 650),
    "moving solids, ρ 1:1000": (Pressure(scene="moving_solids", contrast=1e3), (74, 54), 598),
    "anisotropy, 3-D": (HighContrast(ndim=3, family="anisotropy"), (25, 23, 27), 978),
}
"""Draws on which one cycle per step takes 21 to 30 iterations."""


@pytest.mark.parametrize("name", HARD)
def test_hard_draws_stay_within_the_target(name: str) -> None:
    problem, shape, seed = HARD[name]
    A, b = problem.system(problem.sample([seed], Grid.box(shape, layout="cell")))
    solver = BoxMultigrid()
    answer = solver.solve(solver.setup(A), b, tol=1e-8, maxiter=20)
    assert answer.status == [Status.OK]
    assert float(answer.residual[0]) <= 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("contrast", [1e3, 1e6])
def test_stiff_balls_in_three_dimensions(contrast: float, seed: int) -> None:
    """Balls 8 to 23 cells wide, tied to their neighbours on all coarse grids."""
    A = matrix((96, 96, 96), seed, family="inclusions", contrast=contrast)
    solver = BoxMultigrid()
    answer = solver.solve(solver.setup(A), noise(A), tol=1e-8, maxiter=16)
    assert answer.status == [Status.OK]


def test_one_cycle_per_step_if_no_target_is_given() -> None:
    problem, shape, seed = HARD["anisotropy, 3-D"]
    A, b = problem.system(problem.sample([seed], Grid.box(shape, layout="cell")))
    counts = {}
    for target in (None, 20):
        solver = BoxMultigrid("box", target=target)
        answer = solver.solve(solver.setup(A), b, tol=1e-8)
        counts[target] = int(answer.iterations[0]), answer.applications
    # Without one, a product a step and one for the true residual; with one, fewer steps of more products.
    assert counts[None][1] == counts[None][0] + 1
    assert counts[20][0] <= 20 < counts[None][0]
    assert counts[20][1] > counts[20][0] + 1


def test_a_target_must_be_positive() -> None:
    with pytest.raises(UsageError, match="target"):
        BoxMultigrid(target=0)


def test_constant_coefficients_keep_one_aggregation_cycle_per_step() -> None:
    problem = Pressure(scene="box")
    A, b = problem.system(problem.sample([1], Grid.box((96, 96), layout="cell")))
    solver = BoxMultigrid()
    state = solver.setup(A)
    answer = solver.solve(state, b, tol=1e-8)
    trial = state.preconditions[0]
    assert trial.second is None
    assert trial.first.cycle.sweeps == 3
    assert answer.applications == int(answer.iterations[0]) + 1 <= 12

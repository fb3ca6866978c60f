"""Aggregation multigrid: symmetry and positivity of its cycle on any mask, counts at every size, odd geometry."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from face_systems import balls, from_mask, random_mask, white

from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.linear import LinearSolution, Status
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.compiled.aggregation import AggregationCycle, AggregationMultigrid
from sciops.numerics.compiled.incomplete import IncompleteCholesky
from sciops.numerics.compiled.systems import FaceSystem


def solve(A: FaceOperator, b: torch.Tensor | None = None, tol: float = 1e-8, **options: object) -> LinearSolution:
    solver = AggregationMultigrid(**options)
    return solver.solve(solver.setup(A), white(A) if b is None else b, tol=tol)


@pytest.mark.parametrize(
    "space", [(11,), (64,), (8, 8), (37, 22), (5, 40), (1, 9), (9, 1), (6, 7, 9), (3, 16, 2)], ids=str
)
@pytest.mark.parametrize(("air", "sweeps"), [("top", 2), ("none", 1), ("all", 3)])
def test_cycle_is_symmetric_positive(space: tuple[int, ...], air: str, sweeps: int) -> None:
    A = from_mask(random_mask(space, 0.8, 2), air, roughness=0.5)
    system = FaceSystem(A)
    rng = np.random.default_rng(0)
    vectors = [rng.standard_normal(space) for _ in range(4)]
    for v in vectors:
        system.project(v) if system.labels is not None else None
    for dtype, rounding in ((np.float64, 1e-12), (np.float32, 3e-5)):
        cycle = AggregationCycle(system, sweeps, 2.0, dtype)
        images = []
        for v in vectors:
            images.append(np.empty(space))
            cycle(v, images[-1])
        gram = np.array([[float((v * z).sum()) for z in images] for v in vectors])
        assert np.abs(gram - gram.T).max() <= rounding * np.abs(gram).max()
        assert np.linalg.eigvalsh((gram + gram.T) / 2).min() >= -rounding * np.abs(gram).max()
        assert all(not z[~system.active].any() for z in images)


def test_cycle_is_linear_and_has_no_memory() -> None:
    A = from_mask(balls((30, 41)), "top")
    cycle = AggregationCycle(FaceSystem(A), 2, 2.0, np.float64)
    rng = np.random.default_rng(1)
    u, v = rng.standard_normal(A.space), rng.standard_normal(A.space)
    first, second, both, again = (np.empty(A.space) for _ in range(4))
    cycle(u, first)
    cycle(np.full(A.space, np.nan), second)
    cycle(v, second)
    cycle(u - 3 * v, both)
    cycle(u, again)
    assert np.array_equal(first, again)
    assert np.abs(first - 3 * second - both).max() < 1e-12 * np.abs(both).max()


def test_the_coarsest_grid_alone_is_solved_exactly() -> None:
    A = from_mask(random_mask((4, 3, 4), 1.0, 0), "top", roughness=1.0)
    assert solve(A, tol=1e-10, precision="double").iterations.tolist() == [1]


COUNTED = [((m, m), air) for m in (128, 256) for air in ("all", "top")]
COUNTED += [((m, m, m), air) for m in (32, 64) for air in ("all", "top")]


@pytest.mark.parametrize(("space", "air"), COUNTED, ids=str)
def test_twenty_iterations_suffice(space: tuple[int, ...], air: str) -> None:
    """Box (p = 0 on all walls) and closed walls with open top and a fifth of the cells solid."""
    mask = torch.ones((1, *space), dtype=torch.bool) if air == "all" else balls(space)
    answer = solve(from_mask(mask, air))
    assert answer.status == [Status.OK] and int(answer.iterations[0]) <= 20
    assert float(answer.residual[0]) < 1.1e-8


def test_counts_do_not_grow_with_the_size() -> None:
    counts = [int(solve(from_mask(balls((m, m)), "top")).iterations[0]) for m in (64, 128, 256, 512)]
    assert max(counts) <= min(counts) + 3


def test_double_precision_reaches_rounding_and_single_reaches_twelve_digits() -> None:
    A = from_mask(balls((64, 64)), "top")
    assert solve(A, tol=1e-12).status == [Status.OK]
    assert abs(int(solve(A).iterations[0]) - int(solve(A, precision="double").iterations[0])) <= 1


@pytest.mark.parametrize("space", [(45, 70), (18, 13, 21)], ids=str)
@pytest.mark.parametrize("air", ["none", "top"])
def test_components_corridors_and_isolated_cells(space: tuple[int, ...], air: str) -> None:
    """Random cells near the percolation threshold, against sparse LU of every component."""
    from sciops.solvers.sparse_direct import SuperLU

    A = from_mask(random_mask(space, 0.65 if len(space) == 2 else 0.4, 8), air)
    assert A.nullspace == "components" and bool((~A.active).any())
    b = torch.randn((1, *space), dtype=torch.float64)
    direct = SuperLU()
    expected = direct.solve(direct.setup(A), b).x
    answer = solve(A, b, tol=1e-11)
    assert answer.status == [Status.OK]
    assert (answer.x - expected).abs().max() < 1e-7 * expected.abs().max()


def test_a_corridor_one_cell_wide() -> None:
    mask = torch.zeros((1, 31, 31), dtype=torch.bool)
    mask[:, ::2] = True
    mask[:, 1::4, -1] = True
    mask[:, 3::4, 0] = True
    A = from_mask(mask, "top")
    answer = solve(A)
    plain = IncompleteCholesky()
    assert answer.status == [Status.OK] and A.nullspace is None
    assert (answer.x - plain.solve(plain.setup(A), white(A), tol=1e-12).x).abs().max() < 1e-5 * answer.x.abs().max()


def test_no_cell_and_one_cell() -> None:
    empty = from_mask(torch.zeros((1, 6, 6), dtype=torch.bool), "top")
    answer = solve(empty, torch.randn((1, 6, 6), dtype=torch.float64))
    assert answer.status == [Status.OK] and not bool(answer.x.any())
    mask = torch.zeros((1, 6, 6), dtype=torch.bool)
    mask[0, -1, 2] = True
    one = from_mask(mask, "top")
    b = torch.zeros((1, 6, 6), dtype=torch.float64)
    b[0, -1, 2] = 3.0
    assert float(solve(one, b).x[0, -1, 2]) == pytest.approx(3.0)


def test_sweeps_and_overcorrection_matter() -> None:
    A = from_mask(balls((128, 128)), "top")
    usual = int(solve(A).iterations[0])
    assert (
        int(solve(A, sweeps=1).iterations[0]) > usual and int(solve(A, overcorrection=1.0).iterations[0]) > 1.3 * usual
    )


def test_stencils_of_the_five_point_kind() -> None:
    A = from_mask(random_mask((33, 20), 1.0, 0), "top", roughness=0.3)
    stencil = A.stencil_operator()
    b = white(A)
    assert (solve(A, b, tol=1e-11).x - solve(stencil, b, tol=1e-11).x).abs().max() < 1e-8
    wide = StencilOperator(torch.ones((1, 9, 5, 5), dtype=torch.float64), (False, False), A.tags)
    with pytest.raises(UsageError, match="use MultigridCG"):
        AggregationMultigrid().setup(wide)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"sweeps": 0}, "at least 1"), ({"overcorrection": 0.0}, "positive")],
)
def test_bad_options_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AggregationMultigrid(**option)


PROBE = """
import resource, sys
import torch
from face_systems import from_mask, white
from sciops.numerics.compiled.aggregation import AggregationMultigrid

A = from_mask(torch.ones((1, *map(int, sys.argv[1].split("x"))), dtype=torch.bool), "top")
solver = AggregationMultigrid()
answer = solver.solve(solver.setup(A), white(A))
print(answer.status[0].value, int(answer.iterations[0]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("grid", ["2048x2048", "160x160x160"])
def test_four_million_unknowns_in_six_gibibytes(grid: str) -> None:
    here = Path(__file__).resolve().parent
    probe = subprocess.run(
        [sys.executable, "-c", PROBE, grid], cwd=here, capture_output=True, text=True, check=True, timeout=300
    )
    status, iterations, peak = probe.stdout.split()
    assert status == "ok" and int(iterations) <= 20 and float(peak) < 6.0

"""The differentiable cycle: the same map as the other two multigrids, symmetric and positive whatever it is advised."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sciops.core.errors import NotSPD, UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.differentiable_multigrid import (
    Advice,
    DifferentiableHierarchy,
    DifferentiableMultigrid,
    from_blocks,
    neutral_advice,
    to_blocks,
)
from sciops.numerics.differentiable_transfer import shift, weight_keys
from sciops.numerics.krylov import ConjugateGradients
from sciops.numerics.multigrid import Multigrid


def rough(space: tuple[int, ...], n: int = 1, sigma: float = 2.0, seed: int = 0) -> FaceOperator:
    """Lognormal cells with zero Dirichlet walls."""
    draw = torch.Generator().manual_seed(seed)
    k = torch.exp(sigma * torch.randn((n, *space), generator=draw, dtype=torch.float64))
    faces, sink = [], torch.zeros_like(k)
    for axis, size in enumerate(space, start=1):
        w = torch.zeros_like(k)
        low, high = k.narrow(axis, 0, size - 1), k.narrow(axis, 1, size - 1)
        w.narrow(axis, 0, size - 1).copy_(2 * low * high / (low + high))
        faces.append(w)
        for side in (0, size - 1):
            sink.select(axis, side).add_(2 * k.select(axis, side))
    return FaceOperator(tuple(faces), sink)


def garbage(seed: int, strength: float = 1.0) -> Any:
    """Advice at random within its bounds, different on every level and repeatable."""

    def advise(stencil: Tensor) -> Advice:
        n = len(stencil)
        draw = torch.Generator().manual_seed(seed + stencil[0, 0].numel())
        plain = neutral_advice(n, tuple((m + 1) // 2 for m in stencil.shape[2:]), stencil)

        def noise(like: Tensor) -> Tensor:
            return strength * torch.randn(like.shape, generator=draw, dtype=like.dtype)

        return Advice(
            1 + 0.95 * torch.tanh(noise(plain.relaxation)),
            4 * torch.tanh(noise(plain.tilt)),
            torch.exp(0.5 * torch.tanh(noise(plain.scale))),
        )

    return advise


def dense(A: FaceOperator, cycle: Any) -> tuple[Tensor, Tensor]:
    """A and B as matrices."""
    size = torch.Size(A.space).numel()
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *A.space)
    return A.matvec(unit).flatten(1), cycle(unit).flatten(1).T


@pytest.mark.parametrize("space", [(7,), (6, 9), (3, 4, 5)])
def test_blocks_and_shifts(space: tuple[int, ...]) -> None:
    x = torch.randn(2, *space)
    assert torch.equal(from_blocks(to_blocks(x, len(space)), space), x)
    step = (1,) + (-1,) * (len(space) - 1)
    back = tuple(-s for s in step)
    y = torch.randn(2, *space)
    assert torch.allclose((shift(x, step) * y).sum(), (x * shift(y, back)).sum(), atol=1e-4)
    assert len(weight_keys(len(space))) == 3 ** len(space) - 1


@pytest.mark.parametrize("space", [(40,), (17, 22), (9, 12, 11)])
@pytest.mark.parametrize("sweeps", [1, 2])
def test_unadvised_it_is_the_cycle_of_multigrid(space: tuple[int, ...], sweeps: int) -> None:
    A = rough(space, 2)
    r = torch.randn((2, *space), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = Multigrid(sweeps, sweeps, modes=0).setup(A.stencil_operator())(r)
    ours = DifferentiableMultigrid(sweeps=sweeps).setup(A)(r)
    assert float((ours - z).norm() / z.norm()) < 1e-9


@pytest.mark.parametrize("space", [(20, 19), (9, 10, 9)])
@pytest.mark.parametrize("advised", [False, True])
@pytest.mark.parametrize("smoother, coarsest", [("point", 150), ("incomplete", 150), ("incomplete", 40)])
def test_it_is_the_compiled_cycle(space: tuple[int, ...], advised: bool, smoother: Any, coarsest: int) -> None:
    """Points on two levels only: deeper ones are relaxed by rows there and by colours here."""
    from sciops.numerics.compiled.boxmg import BoxHierarchy, BoxOptions, LevelAdvice
    from sciops.numerics.compiled.boxmg_matrix import BoxMatrix

    A = rough(space)
    adviser = garbage(3) if advised else None

    def advice(matrix: BoxMatrix, depth: int) -> LevelAdvice | None:
        if adviser is None:
            return None
        said = adviser(torch.from_numpy(matrix.stencil())[None])
        relaxation = from_blocks(said.relaxation, matrix.shape)[0].numpy()
        return LevelAdvice(said.tilt[0].exp().numpy(), relaxation, None, float(said.scale[0]))

    options = BoxOptions(smoother=smoother, precision="double", coarsest=coarsest)
    compiled = BoxHierarchy(BoxMatrix.from_operator(A, 0), options, advice)
    assert len(compiled.levels) == (1 if coarsest == 150 else 2)
    ours = DifferentiableHierarchy(A.stencil_operator().stencil, adviser, 1, coarsest, smoother)
    r = torch.randn((1, *space), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z = torch.empty_like(r)[0].numpy()
    compiled(r[0].numpy(), z)
    expected = torch.from_numpy(z)[None]
    assert float((ours(r) - expected).norm() / expected.norm()) < 1e-10


@pytest.mark.parametrize("space", [(15, 12), (6, 7, 5)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_advice_leaves_it_symmetric_positive_definite(space: tuple[int, ...], seed: int) -> None:
    A = rough(space, sigma=1.0, seed=seed)
    hierarchy = DifferentiableHierarchy(A.stencil_operator().stencil, garbage(seed, 3.0), 1, coarsest=20)
    assert len(hierarchy.levels) >= 2
    matrix, B = dense(A, hierarchy)
    assert float((B - B.T).abs().max() / B.abs().max()) < 1e-12
    root = torch.linalg.cholesky(matrix)
    ritz = torch.linalg.eigvalsh(root.T @ (0.5 * (B + B.T)) @ root)
    print(f"Ritz range of BA with random advice: {float(ritz[0]):.3g} … {float(ritz[-1]):.3g}")
    assert float(ritz[0]) > 0
    # B is at most V + (scale ≤ e^½) · the coarse correction, and V ≤ A⁻¹.
    assert float(ritz[-1]) < 1 + 1.65


def test_linear_in_single_precision() -> None:
    A = rough((33, 30))
    cycle = DifferentiableMultigrid(garbage(1), precision=torch.float32).setup(A)
    u, v = torch.randn((2, 1, 33, 30), dtype=torch.float64)
    both, apart = cycle(u + 2 * v), cycle(u) + 2 * cycle(v)
    assert float((both - apart).norm() / apart.norm()) < 1e-5
    left, right = float((u * cycle(v)).sum()), float((v * cycle(u)).sum())
    assert abs(left - right) < 1e-4 * float(u.norm() * cycle(v).norm())
    assert float((u * cycle(u)).sum()) > 0


@pytest.mark.parametrize("smoother", ["point", "incomplete"])
def test_gradients_are_those_of_finite_differences(smoother: Any) -> None:
    A = rough((5, 4), sigma=1.0)
    stencil = A.stencil_operator().stencil
    r = torch.randn((1, 5, 4), generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def energy(relaxation: Tensor, tilt: Tensor, scale: Tensor) -> Tensor:
        hierarchy = DifferentiableHierarchy(stencil, lambda _: Advice(relaxation, tilt, scale), 1, 8, smoother)
        assert len(hierarchy.levels) == 1
        return (hierarchy(r) * r).sum()

    plain = neutral_advice(1, (3, 2), stencil)
    given = tuple((value + 0.1 * torch.rand_like(value)).requires_grad_() for value in plain)
    found = torch.autograd.grad(energy(*given), given, allow_unused=True, materialize_grads=True)
    draw = torch.Generator().manual_seed(8)
    for _ in range(3):
        ways = [torch.randn(value.shape, generator=draw, dtype=torch.float64) for value in given]
        with torch.no_grad():
            ahead, behind = (energy(*(v + e * w for v, w in zip(given, ways, strict=True))) for e in (1e-5, -1e-5))
        slope = float(sum((g * w).sum() for g, w in zip(found, ways, strict=True)))
        assert abs(float(ahead - behind) / 2e-5 - slope) < 1e-6 * abs(slope) + 1e-8


def test_gradients_reach_through_the_coarse_matrices() -> None:
    A = rough((24, 24))
    tilts: list[Tensor] = []

    def advise(stencil: Tensor) -> Advice:
        plain = neutral_advice(1, tuple((m + 1) // 2 for m in stencil.shape[2:]), stencil)
        tilts.append(plain.tilt.requires_grad_())
        return plain._replace(tilt=tilts[-1])

    hierarchy = DifferentiableHierarchy(A.stencil_operator().stencil, advise, 1, coarsest=40)
    r = torch.randn((1, 24, 24), dtype=torch.float64)
    (hierarchy(r) * r).sum().backward()
    assert len(tilts) == 2
    for tilt in tilts:
        assert tilt.grad is not None
        assert bool(torch.isfinite(tilt.grad).all()) and float(tilt.grad.norm()) > 0


def test_it_preconditions_singular_and_masked_systems() -> None:
    fluid = torch.ones((1, 21, 18), dtype=torch.float64)
    fluid[:, 5:9, 4:12] = 0
    faces = []
    for axis, size in ((1, 21), (2, 18)):
        w = torch.zeros_like(fluid)
        w.narrow(axis, 0, size - 1).copy_(fluid.narrow(axis, 0, size - 1) * fluid.narrow(axis, 1, size - 1))
        faces.append(w)
    A = FaceOperator(tuple(faces), torch.zeros_like(fluid), fluid.long())
    b = A.project(torch.randn_like(fluid) * fluid)
    solver = ConjugateGradients(DifferentiableMultigrid())
    solution = solver.solve(solver.setup(A), b, tol=1e-9, maxiter=60)
    assert float(solution.residual[0]) < 1e-9 and int(solution.iterations[0]) < 25


def test_what_it_cannot_take() -> None:
    A = rough((8, 8)).stencil_operator()
    with pytest.raises(UsageError, match="bounded StencilOperator"):
        DifferentiableMultigrid().setup(StencilOperator(A.stencil, (True, False), A.tags))
    with pytest.raises(NotSPD):
        DifferentiableMultigrid().setup(StencilOperator(A.stencil, A.periodic, frozenset()))

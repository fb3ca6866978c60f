"""Flexible conjugate gradients: identities with CG and PCG, energy, windows, null spaces, masks, independence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stencils import graph_laplacian
from torch import Tensor, nn

from sciops.core.errors import NotSPD, UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.linear import FunctionOperator, LinearSolution, Status
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics import flexible_cg, guards
from sciops.numerics.flexible_cg import Apply, FlexibleCG
from sciops.numerics.krylov import ConjugateGradients, Jacobi
from sciops.numerics.multigrid import Multigrid
from sciops.numerics.reductions import inner

SPD = frozenset({"symmetric", "positive"})


def box(n: int, count: int = 1) -> StencilOperator:
    """The 5-point Dirichlet Laplacian times h²."""
    return graph_laplacian((n, n), "dirichlet", 0.0, seed=0, n=count)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(seed: int = 0, bias: bool = False) -> Callable[[Tensor], Tensor]:
    """An untrained convolutional network in float32."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=bias), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, bias=bias), nn.ReLU(),
        nn.Conv2d(8, 1, 3, padding=1, bias=bias),
    )  # fmt: skip
    return lambda r: net(r[:, None].float())[:, 0]


def run(solver: Any, A: Any, b: Tensor, **options: Any) -> LinearSolution:
    return solver.solve(solver.setup(A), b, **options)


def skip(seed: int = 0, bias: bool = False) -> Callable[[Tensor], Tensor]:
    """An untrained network with a skip connection, which converges in reasonable time."""
    f = network(seed, bias)
    return lambda r: r.float() + 3 * f(r)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Every direction q that was stepped along, with A q."""
    taken: list[tuple[Tensor, Tensor]] = []
    original = flexible_cg._Run._direction

    def recorded(self: Any, active: Tensor) -> Any:
        found = original(self, active)
        taken.append(found[:2])
        return found

    monkeypatch.setattr(flexible_cg._Run, "_direction", recorded)
    return taken


# ---- identities


@pytest.mark.parametrize("window", [1, 2, 3])
def test_the_identity_is_conjugate_gradients(window: int) -> None:
    A, b = box(32, 2), noise(2, 32, 32)
    plain = run(ConjugateGradients(), A, b, tol=1e-10)
    ours = run(FlexibleCG(window=window), A, b, tol=1e-10)
    ratio = ours.history[:61] / plain.history[:61]
    assert float((ratio - 1).abs().max()) < 1e-10
    assert torch.equal(ours.iterations, plain.iterations)
    assert ours.stats["fallbacks"].tolist() == [0, 0]


def test_without_a_window_it_is_steepest_descent() -> None:
    A, b = box(32), noise(1, 32, 32)
    ours = run(FlexibleCG(window=0, refresh=1000), A, b, tol=1e-10, maxiter=300)
    assert ours.status == [Status.MAX_ITER]
    assert int(run(FlexibleCG(), A, b, tol=1e-10).iterations) == int(
        run(ConjugateGradients(), A, b, tol=1e-10).iterations
    )
    r, x = b.clone(), torch.zeros_like(b)
    for step in range(1, 11):
        w = A.matvec(r)
        alpha = inner(r, r) / inner(r, w)
        x, r = x + alpha * r, r - alpha * w
        size = float(r.norm() / b.norm())
        assert abs(float(ours.history[step, 0]) / size - 1) < 1e-12


def test_a_diagonal_map_is_jacobi_and_a_linear_one_pcg() -> None:
    A = graph_laplacian((21, 20), "dirichlet", 1.0, seed=1)
    b = noise(2, 21, 20)
    for preconditioner in (Jacobi(), Multigrid(modes=0)):
        expected = run(ConjugateGradients(preconditioner), A, b, tol=1e-10)
        for window in (1, 2, 3):
            apply = Apply(preconditioner.setup(A))
            found = run(FlexibleCG(apply, window=window), A, b, tol=1e-10)
            assert torch.equal(found.iterations, expected.iterations)
            steps = min(len(found.history), 40)
            assert torch.allclose(found.history[:steps], expected.history[:steps], rtol=1e-8)


def test_an_exact_preconditioner_needs_one_step() -> None:
    n = 31
    A, b = box(n), noise(1, n, n)
    k = torch.arange(1, n + 1, dtype=torch.float64)
    sines = torch.sin(torch.pi * k[:, None] * k / (n + 1)) * (2 / (n + 1)) ** 0.5  # DST-I, its own inverse
    eigen = 2 - 2 * torch.cos(torch.pi * k / (n + 1))

    def exact(r: Tensor) -> Tensor:
        return sines @ ((sines @ r @ sines) / (eigen[:, None] + eigen)) @ sines

    found = run(FlexibleCG(Apply(exact)), A, b, tol=1e-12)
    assert found.iterations.tolist() == [1]
    assert found.status == [Status.OK]


# ---- the window and the energy


@pytest.mark.parametrize("window", [1, 2, 3])
def test_directions_are_conjugate_within_the_window_only(window: int, steps: Any) -> None:
    run(FlexibleCG(Apply(network()), window=window), box(32), noise(1, 32, 32), tol=1e-14, maxiter=40)
    pairs = steps
    size = [float(inner(p, w).sqrt()) for p, w in pairs]
    beyond = 0.0
    for i in range(len(pairs)):
        for lag in range(1, window + 2):
            if i - lag < 0:
                continue
            cosine = abs(float(inner(pairs[i][0], pairs[i - lag][1]))) / (size[i] * size[i - lag])
            if lag <= window:
                assert cosine <= 1e-11
            else:
                beyond = max(beyond, cosine)
    assert beyond > 1e-3


@pytest.mark.parametrize("window", [0, 1, 2])
@pytest.mark.parametrize("kind", ["noise", "network", "biased network"])
def test_every_step_lowers_the_energy_by_what_the_line_search_says(kind: str, window: int, steps: Any) -> None:
    A, b = box(24), noise(1, 24, 24)
    draw = torch.Generator().manual_seed(3)
    f = {
        "noise": lambda r: torch.randn(r.shape, generator=draw, dtype=r.dtype),
        "network": network(1),
        "biased network": network(2, bias=True),
    }[kind]
    end = run(FlexibleCG(Apply(f), window=window), A, b, tol=1e-30, maxiter=30).x
    x, energy = torch.zeros_like(b), 0.0
    assert len(steps) == 30
    for p, w in steps:
        slope, a = inner(p, b - A.matvec(x)), inner(p, A.matvec(p))
        assert torch.allclose(w, A.matvec(p), rtol=0, atol=1e-13)
        x = x + p * (slope / a)
        new = float(0.5 * inner(x, A.matvec(x)) - inner(b, x))
        gain = float(slope**2 / (2 * a))
        assert gain > 0
        assert abs((energy - new) - gain) <= 1e-13 * abs(energy) + 1e-10 * gain
        energy = new
    assert torch.allclose(x, end, rtol=0, atol=1e-12 * float(end.abs().max()))


@pytest.mark.parametrize("kind", ["noise", "network"])
def test_the_energy_never_grows(kind: str) -> None:
    A, b = box(24, 3), noise(3, 24, 24)
    f = network(4) if kind == "network" else lambda r: torch.randn_like(r)
    torch.manual_seed(0)
    before = torch.zeros(3, dtype=torch.float64)
    for steps in range(1, 40, 3):
        torch.manual_seed(0)
        x = run(FlexibleCG(Apply(f)), A, b, tol=1e-14, maxiter=steps).x
        energy = 0.5 * inner(x, A.matvec(x)) - inner(b, x)
        assert bool((energy < before).all())
        before = energy


def test_an_unlimited_window_ends_after_as_many_steps_as_unknowns() -> None:
    A, b = box(8), noise(1, 8, 8)
    draw = torch.Generator().manual_seed(5)
    f = Apply(lambda r: torch.randn(r.shape, generator=draw, dtype=r.dtype))
    found = run(FlexibleCG(f, window=None, guard=0.0, refresh=1000), A, b, tol=1e-12, maxiter=64)
    assert found.iterations.tolist() == [64]
    assert float(found.residual) < 1e-12
    assert run(FlexibleCG(f, window=2, guard=0.0), A, b, tol=1e-12, maxiter=64).status == [Status.MAX_ITER]


# ---- scaling


def test_sign_and_size_of_f_and_size_of_b_change_nothing() -> None:
    A, b, f = box(16), noise(1, 16, 16), skip(6)
    found = run(FlexibleCG(Apply(f)), A, b, tol=1e-6, maxiter=1000)
    assert found.status == [Status.OK]
    assert int(found.stats["network_calls"]) == int(found.iterations)
    for scale in (-7.0, 1e-30, 1e30):
        other = run(FlexibleCG(Apply(lambda r, c=scale: c * f(r).double())), A, b, tol=1e-6, maxiter=1000)
        assert torch.equal(other.iterations, found.iterations)
        assert torch.allclose(other.x, found.x, rtol=0, atol=1e-5 * float(found.x.abs().max()))
    for scale in (3.0, 1e-200, 1e200):
        other = run(FlexibleCG(Apply(f)), A, scale * b, tol=1e-6, maxiter=1000)
        assert abs(int(other.iterations) - int(found.iterations)) <= 1  # float32 networks round 3 r otherwise than r
        assert torch.allclose(other.x / scale, found.x, rtol=0, atol=1e-5 * float(found.x.abs().max()))


def test_normalised_residuals_make_a_biased_network_blind_to_the_size_of_b() -> None:
    A, b, f = box(16), noise(1, 16, 16), skip(7, bias=True)
    sizes: list[float] = []

    def spy(r: Tensor) -> Tensor:
        sizes.append(float(r.square().mean().sqrt()))
        return f(r)

    counts = []
    for scale in (1.0, 1e-12, 1e9):
        counts.append(int(run(FlexibleCG(Apply(spy), normalise=True), A, scale * b, tol=1e-4).iterations))
    assert max(abs(size - 1) for size in sizes) < 1e-12
    assert max(counts) - min(counts) <= 1


# ---- null spaces and masks


def test_an_incompatible_right_hand_side_gives_the_projected_answer() -> None:
    A = graph_laplacian((20, 21), "neumann", 0.5, seed=2)
    b = noise(2, 20, 21)
    compatible = b - b.mean(dim=(1, 2), keepdim=True)
    f = Apply(lambda r: r + 3.0)
    found = run(FlexibleCG(f), A, b + 0.5, tol=1e-10)
    expected = run(FlexibleCG(f), A, compatible, tol=1e-10)
    assert found.status == expected.status == [Status.OK] * 2
    assert torch.allclose(found.x, expected.x, atol=1e-9 * float(expected.x.abs().max()))
    assert float(found.x.mean(dim=(1, 2)).abs().max()) < 1e-14 * float(found.x.abs().max())
    assert float(found.stats["projected"].min()) > 0.1
    assert float(expected.stats["projected"].max()) == 0.0


def cells(seed: int, n: int = 24) -> FaceOperator:
    """A box with closed walls, an open top, a few solid cells, one isolated cell and one airless pocket."""
    open_cells = torch.rand((n, n), generator=torch.Generator().manual_seed(seed)) > 0.15
    open_cells[2:7, 2:7] = False
    open_cells[4, 4] = True  # isolated
    open_cells[10:15, 10:15] = False
    open_cells[11:14, 11:14] = True  # a pocket without air
    faces = []
    for axis in range(2):
        w = torch.zeros((1, n, n), dtype=torch.float64)
        both = open_cells.narrow(axis, 0, n - 1) & open_cells.narrow(axis, 1, n - 1)
        w[0].narrow(axis, 0, n - 1).copy_(both.double())
        faces.append(w)
    sink = torch.zeros((1, n, n), dtype=torch.float64)
    sink[0, -1] = open_cells[-1].double()
    bare = FaceOperator(tuple(faces), sink).to_scipy()
    from scipy.sparse.csgraph import connected_components

    _, parts = connected_components(bare, directed=False)
    parts = torch.from_numpy(parts).reshape(n, n)
    active = FaceOperator(tuple(faces), sink).active[0]
    labels, count = torch.zeros((1, n, n), dtype=torch.int64), 0
    for part in parts[active].unique().tolist():
        if not bool((sink[0][parts == part] > 0).any()):
            count += 1
            labels[0][(parts == part) & active] = count
    return FaceOperator(tuple(faces), sink, labels)


@pytest.mark.parametrize("junk", [0.0, 1.0, 1e12])
def test_cells_without_a_row_hold_zero_whatever_f_writes_there(junk: float) -> None:
    A = cells(0)
    assert A.nullspace == "components"
    b = noise(1, 24, 24)
    inactive = ~A.active
    f = Apply(lambda r: r + junk * inactive)
    found = run(FlexibleCG(f), A, b, tol=1e-10)
    clean = run(FlexibleCG(Apply(lambda r: r)), A, b, tol=1e-10)
    assert found.status == [Status.OK]
    assert float(found.x[inactive].abs().max()) == 0.0
    assert torch.equal(found.x, clean.x)
    assert float(found.stats["projected"]) > 0.1


# ---- batches, starts and many right-hand sides


def test_a_system_does_not_know_its_batch() -> None:
    A = graph_laplacian((27, 26), "dirichlet", 0.7, seed=3, n=5)
    b = noise(5, 27, 26)
    b[2] *= 1e-6

    def poisonous(r: Tensor) -> Tensor:
        z = r / A.diagonal()
        z[1] = torch.nan
        return z

    together = run(FlexibleCG(Apply(poisonous)), A, b, tol=1e-9)
    assert together.status == [Status.OK] * 5
    assert int(together.stats["fallbacks"][1]) == int(together.iterations[1])
    for i in (0, 2, 3):
        one = A.select(torch.tensor([i]))
        alone = run(FlexibleCG(Apply(lambda r, one=one: r / one.diagonal())), one, b[i : i + 1], tol=1e-9)
        assert torch.equal(alone.x[0], together.x[i])
        assert int(alone.iterations) == int(together.iterations[i])


def test_starts_are_judged_against_b_and_bad_ones_are_not_used() -> None:
    A, b = box(20, 4), noise(4, 20, 20)
    exact = run(FlexibleCG(), A, b, tol=1e-13).x
    x0 = exact.clone()
    x0[1] += 1e-3 * noise(20, 20, seed=1)
    x0[2] = torch.nan
    x0[3] = 1e6 * noise(20, 20, seed=2)
    found = run(FlexibleCG(), A, b, x0=x0, tol=1e-10)
    cold = run(FlexibleCG(), A, b, tol=1e-10)
    assert found.status == [Status.OK] * 4
    assert int(found.iterations[0]) == 0
    assert int(found.iterations[1]) < int(cold.iterations[1])
    assert found.stats["cold"].tolist() == [False, False, True, False]
    assert torch.equal(found.x[2], cold.x[2])
    assert torch.allclose(found.x, cold.x, atol=1e-7)


@pytest.mark.parametrize(
    "solver",
    [FlexibleCG(), FlexibleCG(Multigrid()), FlexibleCG(Apply(skip(8))), ConjugateGradients(Multigrid())],
    ids=lambda s: f"{type(s).__name__}-{type(s.preconditioner).__name__}",
)
def test_one_matrix_takes_many_right_hand_sides(solver: Any) -> None:
    A = graph_laplacian((13, 14), "neumann", 0.5, seed=4, n=1)
    b = noise(3, 13, 14)
    many = run(solver, A, b, tol=1e-7, maxiter=1000)
    one = run(solver, A, b[1:2], tol=1e-7, maxiter=1000)
    assert many.status == [Status.OK] * 3
    assert torch.allclose(many.x[1], one.x[0], atol=1e-5 * float(one.x.abs().max()))


def test_a_face_operator_takes_many_right_hand_sides() -> None:
    A, b = cells(1), noise(3, 24, 24)
    many = run(FlexibleCG(Jacobi()), A, b, tol=1e-9)
    one = run(FlexibleCG(Jacobi()), A, b[1:2], tol=1e-9)
    assert many.status == [Status.OK] * 3
    assert torch.equal(many.x[1], one.x[0])


def test_zero_right_hand_sides_and_operators_without_a_diagonal() -> None:
    A = box(16, 2)
    bare = FunctionOperator(A.matvec, 2, (16, 16), torch.float64, tags=SPD)
    b = noise(2, 16, 16)
    b[0] = 0.0
    found = run(FlexibleCG(Apply(lambda r: r * torch.nan)), bare, b, x0=noise(2, 16, 16, seed=1), tol=1e-9)
    assert found.status == [Status.OK] * 2
    assert float(found.x[0].abs().max()) == 0.0
    assert int(found.stats["fallbacks"][1]) == int(found.iterations[1]) > 0


# ---- input that cannot work


def test_bad_input_is_one_sentence() -> None:
    A, b = box(16), noise(1, 16, 16)
    with pytest.raises(NotSPD, match=r"Minres .* FGMRES"):
        FlexibleCG().setup(FunctionOperator(lambda x: x, 1, (16, 16), torch.float64))
    with pytest.raises(UsageError, match=r"shape \(1, 16\).*reshape"):
        run(FlexibleCG(), A, b[:, 0])
    with pytest.raises(UsageError, match="float32 but the operator"):
        run(FlexibleCG(), A, b.float())
    with pytest.raises(UsageError, match="start x0"):
        guards.Unknowns(A).begin(b, b.repeat(2, 1, 1))
    with pytest.raises(UsageError, match="window >= 0"):
        FlexibleCG(window=-1)
    with pytest.raises(UsageError, match="use one made for 3-D grids"):
        run(FlexibleCG(Apply(network())), graph_laplacian((6, 6, 6), "dirichlet", 0.0, 0, n=2), noise(2, 6, 6, 6))
    deep = nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(16))
    with pytest.raises(UsageError, match="16×16 points"):
        run(FlexibleCG(Apply(lambda r: deep(r[:, None])[:, 0])), A, b)
    with pytest.raises(UsageError, match="must keep the shape"):
        run(FlexibleCG(Apply(lambda r: r[:, ::2])), A, b)

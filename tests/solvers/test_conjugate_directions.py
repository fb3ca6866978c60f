"""Deep conjugate directions: data, losses, and the contestant around the network."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, Status
from sciops.data.residual_sources import (
    Manufactured,
    RitzVectors,
    SineModes,
    SystemBatch,
    box_operator,
    ritz_pairs,
)
from sciops.models.dcdm import DCDM
from sciops.numerics.flexible_cg import FlexibleCG
from sciops.numerics.transforms import dst
from sciops.problems.poisson import Poisson
from sciops.solvers.conjugate_directions import ConjugateDirections, NetworkPreconditioner
from sciops.solvers.conjugate_directions_module import harvested
from sciops.solvers.direction_losses import EnergyContraction, ResidualContraction
from sciops.solvers.plain_cg import PlainCG


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_solid(n: int = 10) -> FaceOperator:
    """Closed walls, open top, a solid block, and a closed pocket of 2×2 cells: sinks, inactive cells, a component."""
    fluid = torch.ones(1, n, n, dtype=torch.bool)
    fluid[:, 3:6, 4:7] = False
    fluid[:, 0:3, 0:3] = False
    fluid[:, 0:2, 0:2] = True
    faces = []
    for axis in (1, 2):
        w = torch.zeros(1, n, n, dtype=torch.float64)
        both = fluid.narrow(axis, 0, n - 1) & fluid.narrow(axis, 1, n - 1)
        w.narrow(axis, 0, n - 1).copy_(both.double())
        faces.append(w)
    sink = torch.zeros(1, n, n, dtype=torch.float64)
    sink[:, :, -1] = fluid[:, :, -1].double()
    labels = torch.zeros(1, n, n, dtype=torch.int64)
    labels[:, 0:2, 0:2] = 1
    return FaceOperator(tuple(faces), sink, labels)


def dense(A: LinearOperator) -> Tensor:
    return torch.from_numpy(A.to_scipy(0).toarray())


# ---- data


def test_box_operator_and_sine_modes_are_exact() -> None:
    source = SineModes((6, 9))
    values = np.linalg.eigvalsh(dense(source.A).numpy())
    assert np.allclose(values, np.sort(source.eigenvalues.flatten().numpy()), atol=1e-13)
    batch = source.sample(5, generator(), torch.float64)
    assert batch.x is not None
    assert torch.allclose(batch.A.matvec(batch.x), batch.b, atol=1e-14)
    assert torch.allclose(batch.b.flatten(1).norm(dim=1), torch.ones(5, dtype=torch.float64))


def test_sine_mode_variances() -> None:
    """Coefficients of 20,000 samples: variances 81 : 1, up to the common factor of the unit norm; no correlation."""
    source, n = SineModes((6, 6)), 20_000
    low = source.eigenvalues.flatten() <= source.eigenvalues.flatten().sort().values[math.ceil(0.55 * 36) - 1] + 1e-12
    assert int((source.deviation > 1).sum()) == 20 == math.ceil(0.55 * 36)
    assert bool(low[source.deviation.flatten() > 1].all())
    c = dst(source.sample(n, generator(), torch.float64).b, 1, (1, 2), orthonormal=True).flatten(1)
    heavy = source.deviation.flatten() > 1
    variance = c.square().mean(0)
    # E[1/‖c‖²] ≈ 1/Σw² (1 + 2Σw⁴/(Σw²)²): 10 % more; a sample variance scatters by √(2/n) = 1 %.
    assert float(variance[heavy].std() / variance[heavy].mean()) < 0.03
    assert float(variance[~heavy].std() / variance[~heavy].mean()) < 0.03
    ratio = float(variance[heavy].mean() / variance[~heavy].mean())
    assert 81 * 0.85 < ratio < 81 * 1.05
    correlation = torch.corrcoef(c.T) - torch.eye(36, dtype=torch.float64)
    assert float(correlation.abs().max()) < 5 / math.sqrt(n)
    assert float(variance.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("make", [lambda: box_operator((5, 7)), with_solid], ids=["box", "solid"])
def test_ritz_pairs_of_a_complete_basis_are_eigenpairs(make: object) -> None:
    A = make()  # type: ignore[operator]
    values, vectors = ritz_pairs(A, 10_000)
    matrix = dense(A)
    found = torch.linalg.eigvalsh(matrix)
    distinct = found[(found > 1e-8 * found[-1]) & (torch.diff(found, prepend=found.new_full((1,), -1)) > 1e-9)]
    # Of a repeated eigenvalue, one start vector sees one direction.
    for value in distinct:
        assert float((values - value).abs().min()) < 1e-10
    assert torch.allclose(vectors @ vectors.T, torch.eye(len(values), dtype=torch.float64), atol=1e-10)
    assert float((vectors @ matrix - values[:, None] * vectors).abs().max()) < 1e-8
    assert bool((values.diff() > 0).all())


def test_few_lanczos_steps_find_the_ends_of_the_spectrum_and_weigh_the_low_ones() -> None:
    A = box_operator((24, 24))
    source = RitzVectors(A, 60)
    exact = SineModes((24, 24)).eigenvalues
    assert len(source.values) == 60 == len(source.deviation)
    assert abs(float(source.values[-1] - exact.max())) < 1e-2 and float(source.values[0]) >= float(exact.min()) - 1e-12
    assert int((source.deviation == 9).sum()) == 33 and bool((source.deviation[:33] == 9).all())
    b = source.sample(4, generator(), torch.float64).b
    share = (b.flatten(1) @ source.vectors.T).square().sum(1)
    assert torch.allclose(share, torch.ones(4, dtype=torch.float64))  # all of it in their span, unit norm


def test_manufactured_systems_keep_to_the_unknowns_and_the_range() -> None:
    A = with_solid()
    for source in (Manufactured(A), RitzVectors(A, 40, manufactured=True)):
        batch = source.sample(6, generator(), torch.float64)
        assert batch.x is not None
        outside = ~batch.A.active  # type: ignore[attr-defined]
        assert float(batch.x[outside].abs().max()) == 0 == float(batch.b[outside].abs().max())
        assert torch.allclose(batch.A.matvec(batch.x), batch.b, atol=1e-13)
        assert float(batch.x[:, 0:2, 0:2].sum((1, 2)).abs().max()) < 1e-12
        assert torch.allclose(batch.b.flatten(1).norm(dim=1), torch.ones(6, dtype=torch.float64))


def test_samples_follow_from_the_generator() -> None:
    source = Manufactured(box_operator((8, 8), 3))
    one, two, other = (source.sample(3, generator(seed)).b for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


# ---- losses


def test_losses_against_dense_computations() -> None:
    batch = SineModes((5, 6)).sample(4, generator(), torch.float64)
    assert batch.x is not None
    A, f = dense(batch.A), torch.randn((4, 5, 6), generator=generator(3), dtype=torch.float64)
    energy = EnergyContraction().per_case(f, batch.b, batch.A, batch.x)
    residual = ResidualContraction().per_case(f, batch.b, batch.A, batch.x)
    root = torch.linalg.cholesky(A).T  # ‖v‖_A = ‖R v‖₂
    for i in range(4):
        e, d, b = torch.linalg.solve(A, batch.b[i].flatten()), f[i].flatten(), batch.b[i].flatten()
        best = torch.linalg.lstsq((root @ d)[:, None], (root @ e)[:, None])
        left = root @ e - (root @ d) * best.solution[0, 0]
        assert float(energy[i]) == pytest.approx(float(left.square().sum() / (root @ e).square().sum()), rel=1e-10)
        step = b - float(d @ b / (d @ A @ d)) * (A @ d)
        assert float(residual[i]) == pytest.approx(float(step.square().sum() / b.square().sum()), rel=1e-10)


@pytest.mark.parametrize("loss", [EnergyContraction(), ResidualContraction()])
def test_the_exact_inverse_has_no_loss_at_any_scale_and_zero_has_the_whole(loss: nn.Module) -> None:
    batch = SineModes((6, 6)).sample(3, generator(), torch.float64)
    for factor in (1.0, -7.0, 1e-12):
        assert float(loss(factor * batch.x, batch.b, batch.A, batch.x)) < 1e-14
    assert float(loss(torch.zeros_like(batch.b), batch.b, batch.A, batch.x)) == 1.0
    f = torch.randn_like(batch.b)
    assert float(loss(-3 * f, batch.b, batch.A, batch.x)) == pytest.approx(float(loss(f, batch.b, batch.A, batch.x)))


def test_the_energy_loss_is_what_a_step_of_the_solver_leaves() -> None:
    batch = SineModes((9, 8)).sample(3, generator(), torch.float64)
    assert batch.x is not None
    torch.manual_seed(0)
    solver = FlexibleCG(preconditioner=NetworkPreconditioner(DCDM(2)), guard=0.0)
    found = solver.solve(solver.setup(batch.A), batch.b, maxiter=1)
    f = NetworkPreconditioner(DCDM(2)).setup(batch.A)  # other weights: must differ
    loss = EnergyContraction()
    for net, equal in ((solver.preconditioner.setup(batch.A), True), (f, False)):  # type: ignore[union-attr]
        predicted = loss.per_case(net(batch.b).detach(), batch.b, batch.A, batch.x)
        e = batch.x - found.x
        left = (e * batch.A.matvec(e)).sum((1, 2)) / (batch.x * batch.b).sum((1, 2))
        assert torch.allclose(predicted, left, rtol=1e-9) == equal


def test_the_energy_loss_asks_for_x() -> None:
    batch = RitzVectors(box_operator((6, 6)), 10).sample(2, generator())
    with pytest.raises(UsageError, match="set manufactured"):
        EnergyContraction()(batch.b, batch.b, batch.A, batch.x)


def test_harvested_systems_are_residuals_of_the_solver() -> None:
    torch.manual_seed(0)
    net, batch = DCDM(2), Manufactured(with_solid()).sample(3, generator(), torch.float64)
    assert batch.x is not None
    left = harvested(net, batch, 3)
    assert left.x is not None
    assert torch.allclose(left.A.matvec(left.x), left.b, atol=1e-12)
    assert torch.allclose(left.b.flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64))
    solver = FlexibleCG(preconditioner=NetworkPreconditioner(net))
    r = batch.b - batch.A.matvec(solver.solve(solver.setup(batch.A), batch.b, tol=1e-5, maxiter=3).x)
    assert torch.allclose(r / r.flatten(1).norm(dim=1).reshape(-1, 1, 1), left.b, atol=1e-9)
    blind = harvested(net, SystemBatch(batch.A, batch.b), 3)
    assert blind.x is None and torch.allclose(blind.b, left.b, atol=1e-9)


# ---- the contestant


class Broken(nn.Module):
    """A network whose output is one number everywhere."""

    ndim = 2

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, r: Tensor, active: Tensor | None = None) -> Tensor:
        return torch.zeros_like(r) + self.value


def trained(net: nn.Module | None = None, **options: object) -> ConjugateDirections:
    """A solver with the weights it starts from."""
    torch.manual_seed(0)
    solver = ConjugateDirections(net or DCDM(2, [1, 1, 1], 8), **options)  # type: ignore[arg-type]
    solver._install(solver._new_module(solver._spec(2)))
    return solver


class Improved(nn.Module):
    """r plus what an untrained network makes of it: nonlinear, and a direction that is worth a step."""

    ndim = 2

    def __init__(self) -> None:
        super().__init__()
        self.net = DCDM(2, [1, 1, 1], 8)

    def forward(self, r: Tensor, active: Tensor | None = None) -> Tensor:
        f: Tensor = self.net(r, active)
        return r + 0.5 * f * (r.norm() / f.norm())


@pytest.mark.parametrize("window", [0, 2])
def test_the_published_loop_written_out_takes_the_same_steps(window: int) -> None:
    """Raw q in every product of the orthogonalisation, the true residual after every step, no guard."""
    torch.manual_seed(0)
    net, A = Improved().requires_grad_(False), box_operator((24, 24))
    b = torch.randn((1, 24, 24), generator=generator(), dtype=torch.float64)
    solver = FlexibleCG(preconditioner=NetworkPreconditioner(net), window=window)
    found = solver.solve(solver.setup(A), b, tol=0.0, maxiter=25)
    x, r, kept, history = torch.zeros_like(b), b, [], [1.0]
    for _ in range(25):
        f = net((r / r.norm()).float()[:, None])[:, 0].double()
        q = f - sum((f * ap).sum() / a * p for p, ap, a in kept[len(kept) - window :])
        w = A.matvec(q)
        x = x + (q * r).sum() / (q * w).sum() * q
        r = b - A.matvec(x)
        kept.append((q, w, (q * w).sum()))
        history.append(float(r.norm() / b.norm()))
    assert history[-1] < 0.1
    assert found.history[:, 0].tolist() == pytest.approx(history, rel=1e-3)
    assert int(found.stats["fallbacks"][0]) == 0


def test_solves_to_the_tolerance_with_any_network_and_masks_its_junk() -> None:
    A = with_solid(8)
    b = torch.randn((1, 8, 8), generator=generator(), dtype=torch.float64)
    expected = torch.from_numpy(np.linalg.lstsq(dense(A).numpy(), A.project(b).flatten().numpy())[0]).reshape(1, 8, 8)
    solver = trained(window=None).linear_solver()  # ends within as many steps as there are unknowns
    found = solver.solve(solver.setup(A), torch.where(A.active, b, 0.0), tol=1e-10)
    assert found.status == [Status.OK]
    inside = torch.where(A.active, A.project(expected), 0.0)
    assert torch.allclose(found.x, inside, atol=1e-8)
    assert float(found.x[~A.active].abs().max()) == 0
    f = trained().as_preconditioner(A)
    assert float(f(b)[~A.active].abs().max()) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, 1.0])
def test_hopeless_networks_end_in_an_honest_status(value: float) -> None:
    problem, grid = Poisson(modes=8), Grid.box(13, ndim=2)
    cases = problem.sample([1, 2], grid)
    solution = trained(Broken(value)).solve(cases, grid)
    exact = PlainCG().solve(cases, grid).field.values
    for i, status in enumerate(solution.status):
        close = torch.allclose(solution.field.values[i], exact[i], atol=1e-6 * float(exact.abs().max()))
        assert status is Status.OK and close  # the fallback carries the solve
    short = trained(Broken(value), maxiter=2).solve(cases, grid)
    assert short.status == [Status.MAX_ITER] * 2 and bool(short.field.values.isfinite().all())


def test_nan_weights_end_in_an_honest_status() -> None:
    solver = trained()
    with torch.no_grad():
        solver.module.net.lift.weight.fill_(math.nan)
    problem, grid = Poisson(modes=8), Grid.box(13, ndim=2)
    assert solver.solve(problem.sample([1], grid), grid).status == [Status.OK]


def test_residuals_of_any_size() -> None:
    """Powers of two lose no bit on the way into float32."""
    A = box_operator((9, 9))
    f = trained().as_preconditioner(A)
    r = torch.randn((1, 9, 9), generator=generator(), dtype=torch.float64)
    for factor in (2.0**-900, 2.0**900):
        assert torch.equal(f(factor * r), factor * f(r))


def test_refuses_another_dimension_in_a_sentence() -> None:
    solver = trained()
    cube = Grid.box(9, ndim=3)
    reason = solver.refuses(Poisson(ndim=3), cube)
    assert reason is not None and "made for 2-D systems and this grid is 3-D" in reason
    assert solver.refuses(Poisson(), Grid.box(9, ndim=2)) is None
    with pytest.raises(UsageError, match="made for 2-D systems, but the system is 3-D"):
        solver.as_preconditioner(box_operator((4, 4, 4)))
    assert ConjugateDirections().refuses(Poisson(ndim=3), cube) is None  # not trained yet: takes the problem's


def test_says_that_it_is_not_trained() -> None:
    grid = Grid.box(9, ndim=2)
    with pytest.raises(UsageError, match="no weights yet"):
        ConjugateDirections().solve(Poisson(modes=4).sample([1], grid), grid)


def test_save_load_and_mismatch(tmp_path: Path) -> None:
    spec = {"class_path": "sciops.models.dcdm.DCDM", "init_args": {"ndim": 2, "size": [1, 1, 1], "width": 4}}
    solver = ConjugateDirections(spec)
    solver._install(solver._new_module(solver._spec(2)))
    solver.save(tmp_path)
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)  # no objects in the file
    assert content["sciops"]["net"] == spec
    loaded = ConjugateDirections.from_checkpoint(tmp_path, window=5)
    r, A = torch.randn((2, 8, 8), dtype=torch.float64), box_operator((8, 8))
    assert torch.equal(loaded.as_preconditioner(A)(r), solver.as_preconditioner(A)(r))
    assert loaded.name == "ConjugateDirections k=5" and loaded.parameters() == solver.parameters() > 0
    with pytest.raises(UsageError, match="holds another model"):
        ConjugateDirections({"class_path": "sciops.models.dcdm.DCDM", "init_args": {"width": 6}}).load(tmp_path)


def test_steps_follow_the_time() -> None:
    solver, source = trained(steps=100, batch_size=4, harvest=2), SineModes((16, 16))
    assert solver._affordable(solver.module, source, math.inf) == 100
    assert solver._affordable(solver.module, source, 0.0) == 1
    solver.steps = 10**9
    assert 1 <= solver._affordable(solver.module, source, 0.5) < 10**4

"""The learned multigrid as a contestant: untrained it is BoxmgCG, trained it takes fewer steps to the same answer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sciops.core.dataset import MemoryDataset
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, Status
from sciops.data.matrix_data import MatrixData, MixedMatrices
from sciops.models.learned_multigrid import StencilAdviser
from sciops.problems.high_contrast import HighContrast
from sciops.problems.poisson import Poisson
from sciops.solvers.boxmg_cg import BoxmgCG
from sciops.solvers.learned_multigrid import LearnedMultigrid
from sciops.solvers.learned_multigrid_module import LearnedMultigridModule, steps_per_e_fold

WHITE = HighContrast(family="white_lognormal")


def system(size: int, seed: int = 5, problem: HighContrast = WHITE) -> tuple[LinearOperator, Tensor]:
    cases = problem.sample([seed], Grid.box(size, ndim=problem.ndim, layout="cell"))
    return problem.matrix(cases), cases.input("f")


def with_net(net: StencilAdviser, **options: object) -> LearnedMultigrid:
    solver = LearnedMultigrid(net, **options)  # type: ignore[arg-type]
    solver._install(solver._new_module(net))
    return solver


def shaken(ndim: int, size: float) -> StencilAdviser:
    net = StencilAdviser(ndim, 8)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(size * torch.randn_like(p))
    return net.requires_grad_(False)


def run(solver: LearnedMultigrid | BoxmgCG, A: LinearOperator, b: Tensor) -> tuple[Tensor, int, Status]:
    found = solver.linear.solve(solver.linear.setup(A), b, tol=1e-8, maxiter=300)
    assert found.status[0] is not Status.OK or float(found.residual[0]) < 2e-8
    return found.x, int(found.iterations[0]), found.status[0]


@pytest.mark.parametrize("smoother", ["point", "incomplete"])
def test_untrained_it_is_boxmg_exactly(smoother: str) -> None:
    A, b = system(40)
    plain = BoxmgCG("box", smoother)  # type: ignore[arg-type]
    expected, steps, _ = run(plain, A, b)
    for solver in (
        LearnedMultigrid(smoother=smoother),  # type: ignore[arg-type]
        with_net(StencilAdviser(2, 8), smoother=smoother),
    ):
        x, n, status = run(solver, A, b)
        assert status is Status.OK and n == steps
        assert float((x - expected).norm() / expected.norm()) < 1e-7


@pytest.mark.parametrize("backend", ["compiled", "torch"])
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_a_wild_network_costs_steps_and_not_the_answer(backend: str, size: float) -> None:
    A, b = system(40)
    expected, _, _ = run(BoxmgCG("box"), A, b)
    x, n, status = run(with_net(shaken(2, size), backend=backend), A, b)
    assert status is Status.OK and n < 300
    assert float((x - expected).norm() / expected.norm()) < 1e-5


def test_a_wild_network_in_3d() -> None:
    A, b = system(20, problem=HighContrast(ndim=3, family="inclusions"))
    assert run(with_net(shaken(3, 3.0)), A, b)[2] is Status.OK


def test_nan_weights_fall_back_to_boxmg_and_are_counted() -> None:
    A, b = system(40)
    net = StencilAdviser(2, 8)
    with torch.no_grad():
        net.think.weight[0, 0] = torch.nan
    solver = with_net(net)
    _, n, status = run(solver, A, b)
    assert status is Status.OK and n == run(BoxmgCG("box", "point"), A, b)[1]
    assert solver.ignored > 0


def test_training_lowers_the_loss_and_carries_over_to_another_size() -> None:
    problems = [
        {"class_path": "sciops.problems.high_contrast.HighContrast", "init_args": {"family": "white_lognormal"}}
    ]
    data = MatrixData(problems, shape=(24, 24), matrices=8)
    data.setup()
    source = data.sources["train"]
    module = LearnedMultigridModule({"class_path": "sciops.models.learned_multigrid.StencilAdviser"}, lr=1e-2)
    adam = torch.optim.Adam(module.net.parameters(), 5e-3)
    test = data.sources["valid"].sample(4, torch.Generator().manual_seed(9))
    before = float(steps_per_e_fold(test, module.net, 7).log().mean().detach())
    plain = float(steps_per_e_fold(test, None, 7).log().mean())
    assert abs(before - plain) < 1e-9
    for step in range(15):
        batch = source.sample(4, torch.Generator().manual_seed(step))
        adam.zero_grad()
        steps_per_e_fold(batch, module.net, 5 + step % 3).log().mean().backward()
        adam.step()
    with torch.no_grad():
        after = float(steps_per_e_fold(test, module.net, 7).log().mean())
        assert after < before - 0.01
        A, _ = system(48, seed=77)
        large = MixedMatrices([A]).sample(1, torch.Generator().manual_seed(0))
        assert float(steps_per_e_fold(large, module.net, 7).log()) < float(steps_per_e_fold(large, None, 7).log())


@pytest.mark.parametrize("smoother", ["point", "incomplete"])
def test_late_steps_continue_the_same_iteration(smoother: Any) -> None:
    """‖b‖/‖r_9‖ is the product of what the first 4 steps and the next 5 gain."""
    A, _ = system(24)
    batch = MixedMatrices([A]).sample(2, torch.Generator().manual_seed(1))
    early, late, both = (
        k / steps_per_e_fold(batch, None, k, 1, skipped, smoother) for k, skipped in ((4, 0), (5, 4), (9, 0))
    )
    assert torch.allclose(early + late, both, rtol=1e-9)


def test_training_for_the_incomplete_smoother_leaves_relaxation_alone() -> None:
    net = StencilAdviser(2, 8)
    A, _ = system(24)
    batch = MixedMatrices([A]).sample(2, torch.Generator().manual_seed(1))
    steps_per_e_fold(batch, net, 4, smoother="incomplete").log().mean().backward()
    assert net.say.bias.grad is not None
    relaxation, rest = net.say.bias.grad[:4], net.say.bias.grad[4:]
    assert float(relaxation.abs().max()) == 0.0 and float(rest.abs().min()) > 0


def test_batches_of_several_sizes_cost_alike() -> None:
    problems = [{"class_path": "sciops.problems.high_contrast.HighContrast"}]
    data = MatrixData(problems, shape=[(16, 16), (32, 32)], matrices=2)
    data.setup()
    sizes = set()
    for seed in range(12):
        batch = data.sources["train"].sample(8, torch.Generator().manual_seed(seed))
        again = data.sources["train"].sample(8, torch.Generator().manual_seed(seed))
        assert torch.equal(batch.b, again.b) and batch.A.n == len(batch.b)
        sizes.add(tuple(batch.b.shape))
    assert sizes == {(8, 16, 16), (2, 32, 32)}


def test_fit_save_load(tmp_path: Path) -> None:
    cases = WHITE.sample([1, 2, 3], Grid.box(16, ndim=2, layout="cell"))
    data = MemoryDataset(cases, Field.steady(torch.zeros(3, 1, 16, 16, dtype=torch.float64), cases.domain, ["u"]))
    solver = LearnedMultigrid(steps=2, batch_size=2)
    report = solver.fit(data, data)
    assert report.steps == 2 and report.parameters == solver.parameters() > 1000
    solver.save(tmp_path)
    again = LearnedMultigrid.from_checkpoint(tmp_path)
    A, b = system(40)
    assert torch.equal(run(again, A, b)[0], run(solver, A, b)[0])
    wrong = {"class_path": "sciops.models.learned_multigrid.StencilAdviser", "init_args": {"width": 4}}
    with pytest.raises(UsageError, match="holds another model"):
        LearnedMultigrid(wrong).load(tmp_path)


def test_refusals() -> None:
    flat = LearnedMultigrid(StencilAdviser(2))
    reason = flat.refuses(HighContrast(ndim=3), Grid.box(8, ndim=3, layout="cell"))
    assert reason is not None and "made for 2-D systems and this grid is 3-D" in reason
    periodic = Poisson(condition="periodic", modes=8)
    reason = LearnedMultigrid().refuses(periodic, Grid.box(16, ndim=2, layout="periodic"))
    assert reason is not None and "periodic" in reason
    with pytest.raises(UsageError, match="no weights yet"):
        LearnedMultigrid().save("nowhere")
    with pytest.raises(UsageError, match="point smoother only"):
        LearnedMultigrid(backend="torch", smoother="incomplete")

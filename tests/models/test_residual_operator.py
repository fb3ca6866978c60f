"""Operator networks as directions: homogeneous, masked, trainable on residuals of the solver."""

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.linear import Status
from sciops.data.residual_sources import SineModes, box_operator
from sciops.models.residual_operator import ResidualOperator
from sciops.solvers.conjugate_directions import ConjugateDirections
from sciops.solvers.conjugate_directions_module import harvested
from sciops.solvers.direction_losses import EnergyContraction

UNET = {"class_path": "sciops.models.unet.UNet", "init_args": {"width": 8, "levels": 2, "layout": "cell"}}
SPEC = {"class_path": "sciops.models.residual_operator.ResidualOperator", "init_args": {"net": UNET}}


def residual() -> torch.Tensor:
    return torch.randn((2, 1, 12, 12), generator=torch.Generator().manual_seed(1))


def made() -> ResidualOperator:
    torch.manual_seed(0)
    return ResidualOperator(UNET).eval()


def test_positively_homogeneous_although_its_network_is_not() -> None:
    net, r = made(), residual()
    f = net(r)
    for factor in (1e-30, 3.0, 1e30):
        assert torch.allclose(net(factor * r) / factor, f, rtol=1e-4, atol=1e-5 * float(f.abs().max()))
    assert torch.equal(net(torch.zeros_like(r)), torch.zeros_like(r))


def test_the_mask_is_seen_and_hides_junk() -> None:
    net, r = made(), residual()
    active = torch.ones(1, 12, 12, dtype=torch.bool)
    active[:, 2:6, 3:9] = False
    f = net(r, active)
    assert torch.equal(net(torch.where(active[:, None], r, 1e6), active), f)
    assert float(f[(~active[:, None]).expand_as(f)].abs().max()) == 0
    inside = torch.where(active[:, None], r, 0.0)
    assert not torch.allclose(net(inside), f, rtol=1e-2)


def test_a_few_steps_on_harvested_residuals_lower_the_energy_left() -> None:
    net, source = made().train(), SineModes((12, 12))
    optimiser, random, losses = torch.optim.Adam(net.parameters(), 5e-3), torch.Generator().manual_seed(0), []
    for step in range(24):
        batch = source.sample(8, random)
        batch = harvested(net, batch, 2) if step % 2 else batch
        loss = EnergyContraction()(net(batch.b[:, None])[:, 0], batch.b, batch.A, batch.x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])


def test_the_contestant_takes_it_and_certifies_its_answer() -> None:
    solver = ConjugateDirections(SPEC, window=None)  # ends within as many steps as there are unknowns
    solver._install(solver._new_module(solver._spec(2)))
    assert solver.parameters() > 0
    A, b = box_operator((6, 6)), residual()[:, 0, :6, :6].double()
    inner = solver.linear_solver()
    answer = inner.solve(inner.setup(A), b, tol=1e-6)
    assert answer.status == [Status.OK] * 2
    assert float((A.matvec(answer.x) - b).norm()) <= 2e-6 * float(b.norm())


def test_what_cannot_work_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="'in_channels': 2"):
        ResidualOperator({**UNET, "init_args": {"in_channels": 3}})
    with pytest.raises(UsageError, match="made for 2-D grids; got a 1-D"):
        made()(residual()[:, :, 0])

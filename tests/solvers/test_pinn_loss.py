"""Rows of one network in one pass: the same loss and gradient, fewer passes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sciops.models.hard_boundary import HardBoundary
from sciops.models.mlp import MLP
from sciops.models.trial import Trial
from sciops.solvers import pinn_loss
from sciops.solvers.pinn_loss import JointLoss
from sciops.solvers.pinn_rows import MeanRows, ParameterRows, TrialRows, ValueRows


class Curved(TrialRows):
    """Δu + u u_x = 1, as two rows a point."""

    def __init__(self, trial: Trial, x: Tensor) -> None:
        super().__init__(trial, x, frozenset({(0, 0), (1, 0), (2, 0), (0, 2)}), 0.3)

    def rows(self, table: dict) -> list[Tensor]:
        u, slope, *curves = (table[key][:, 0] for key in ((0, 0), (1, 0), (2, 0), (0, 2)))
        return [sum(curves) + u * slope - 1, slope]


def parts_of(trial: Trial) -> list[ParameterRows]:
    random = torch.Generator().manual_seed(0)
    a, b, c = (torch.rand(n, 2, generator=random, dtype=torch.float64) for n in (5, 40, 7))
    return [
        ValueRows(trial, a, a[:, 0], weight=2.0),
        Curved(trial, b),
        ValueRows(trial, c, c[:, 1], factor=c[:, 0]),
        MeanRows(trial, c[None]),
    ]


def passes(trial: Trial, loss: JointLoss, monkeypatch: pytest.MonkeyPatch) -> int:
    calls: list[int] = []
    made = trial.derivatives

    def counted(*given: Any) -> Any:
        calls.append(1)
        return made(*given)

    monkeypatch.setattr(trial, "derivatives", counted, raising=False)
    loss()
    return len(calls)


@pytest.mark.parametrize(("hard", "spare", "count"), [(False, 10**9, 1), (False, 0, 2), (True, 10**9, 2)])
def test_joint_rows(hard: bool, spare: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinn_loss, "SPARE", spare)
    net: Trial = MLP(2, 1, 6, 2)
    trial = HardBoundary(net, [0.0, 0.0], [1.0, 1.0], [(0, 0)]) if hard else net
    parts = parts_of(trial)
    joint = JointLoss(parts)
    found, known = joint(), sum((part.loss() for part in parts), torch.zeros((), dtype=torch.float64))
    assert abs(float(found.detach() - known.detach())) <= 1e-14 * float(known.detach())
    parameters = list(net.parameters())
    pairs = zip(*(torch.autograd.grad(v, parameters) for v in (found, known)), strict=True)
    assert all((a - b).abs().max() <= 1e-13 * b.abs().max().clamp_min(1e-3) for a, b in pairs)
    assert passes(trial, joint, monkeypatch) == count


def test_other_weights_count_at_once() -> None:
    parts = parts_of(MLP(2, 1, 4, 1))
    joint = JointLoss(parts)
    before = joint()
    for part in parts:
        if isinstance(part, ValueRows):
            part.reweigh(50.0)
    assert float(joint().detach()) > float(before.detach())

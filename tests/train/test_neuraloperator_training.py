"""Data, losses, normalisers and training of neuraloperator 2.0.0 that are wrong: ours are right, the library's still as
we say (D10 … D13 and D15; its layers stand in tests/models/test_neuraloperator_guards.py)."""

import io
import socket
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from guards import defect, stops

from sciops.core.dataset import MemoryDataset
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.data.function_normaliser import FunctionNormaliser
from sciops.data.open import open_dataset
from sciops.metrics.pointwise import relative_l2
from sciops.models.fno import FNO
from sciops.problems.poisson import Poisson
from sciops.solvers.operator import OperatorSolver
from sciops.train.losses import RelativeIntegralL2

warnings.filterwarnings("ignore", module="neuralop")


def test_files_that_are_there_are_read_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D10: the library's loader asks an archive for files that lie in the folder."""
    from neuralop.data.datasets import load_darcy_flow_small

    made = {}
    for name in ("train_16", "test_16", "train_32", "test_32"):
        n = int(name[-2:])
        made[name] = {"x": torch.rand(4, n, n) > 0.5, "y": torch.rand(4, n, n)}
        torch.save(made[name], tmp_path / f"darcy_{name}.pt")
    asked = []

    def refuse(*args: object, **_: object) -> None:
        asked.append(args)
        raise OSError("no network")

    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    splits = open_dataset(tmp_path)
    assert torch.equal(splits["train"].truth().values.flatten(), made["train_16"]["y"].flatten())
    assert torch.equal(splits["test_32"].truth().values.flatten(), made["test_32"]["y"].flatten())
    assert not asked
    stopped = stops(lambda: load_darcy_flow_small(4, [4, 4], 2, [2, 2], data_root=tmp_path), OSError)
    defect(stopped and asked, "D10, files that are fetched though they are there,")


def test_losses_are_joint_over_channels_and_know_the_quadrature() -> None:
    """D11."""
    from neuralop.losses import LpLoss

    torch.manual_seed(4)
    true = torch.randn(2, 1, 9, 9, dtype=torch.float64).expand(2, 3, 9, 9)
    ours = RelativeIntegralL2(reduction="mean")
    assert float(ours(1.1 * true, true, Grid.box((9, 9)))) == pytest.approx(0.1, rel=1e-6)
    error = float(LpLoss(d=2).rel(1.1 * true, true).sum() / 2)
    defect(error == pytest.approx(0.3, rel=1e-5), "D11, an error that counts every channel,")
    defect(stops(lambda: LpLoss(d=2, measure=1).abs(true, 1.1 * true), TypeError), "D11, a measure in whole numbers,")


def test_normalisers_load_their_state_and_take_batches() -> None:
    """D12."""
    from neuralop.data.transforms.normalizers import UnitGaussianNormalizer

    torch.manual_seed(5)
    data, grid = torch.randn(40, 1, 8, dtype=torch.float64), Grid.box(8, layout="periodic")
    ours = FunctionNormaliser(grid).fit(data)
    fresh = FunctionNormaliser(grid)
    fresh.load_state_dict(ours.state_dict())
    assert torch.equal(fresh.encode(data, grid), ours.encode(data, grid))
    parts = FunctionNormaliser(grid).fit(data.split(7))
    assert torch.allclose(parts.scale, ours.scale, rtol=1e-12)
    theirs, parted = (UnitGaussianNormalizer(dim=[0, 2]) for _ in range(2))
    theirs.fit(data)
    loading = lambda: UnitGaussianNormalizer(dim=[0, 2]).load_state_dict(theirs.state_dict())  # noqa: E731
    defect(stops(loading, RuntimeError), "D12, a state that a fresh normaliser refuses,")
    parted.partial_fit(data[:4], batch_size=2)
    # n/(n − 1) in place of its root
    defect(float((parted.std - data[:4].std()).abs().max()) > 1e-3, "D12, the deviation of a fit by parts,")


def test_states_hold_tensors_alone() -> None:
    """D13: the library's holds live objects, which torch.load refuses in its safe mode."""
    model = FNO(width=4, n_modes=2, layers=1)

    def kept(state: dict[str, Any]) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True)

    kept(model.state_dict())
    assert not any("_metadata" in key for key in model.state_dict())
    defect("_metadata" in model.net.state_dict() and stops(lambda: kept(model.net.state_dict()), Exception), "D13")


def test_trainings_end_with_the_errors_of_their_last_epoch_and_warn_of_nothing() -> None:
    """D15: the library's trainer hands inputs to losses and targets to networks, which warn, and returns no errors of
    the test data unless the last epoch happens to be one that it evaluates."""
    from neuralop.models import FNO as Library
    from neuralop.training import Trainer

    torch.manual_seed(7)
    problem, grid = Poisson(condition="periodic", modes=4), Grid.box((16, 16), layout="periodic")
    cases = problem.sample(list(range(8)), grid, torch.float32)
    truth = Field.steady(cases.inputs.values[:, 0].roll(1, -1), grid, ("u",))
    data = MemoryDataset(cases, truth)
    net = {"class_path": "sciops.models.fno.FNO", "init_args": {"width": 4, "n_modes": 4, "layers": 1}}
    solver = OperatorSolver(net, epochs=2, batch_size=4, device="cpu", select="last")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        report = solver.fit(data, data)
    assert not [w for w in said if "unexpected" in str(w.message)]
    errors = report.curves["val_rel_l2"]
    found = relative_l2(solver.solve(cases, grid).field, truth).mean()
    assert len(errors) == 2 and errors[-1] == pytest.approx(float(found), rel=1e-4)

    theirs = Library((4, 4), 1, 1, 4, n_layers=1)
    optimiser = torch.optim.Adam(theirs.parameters())
    batches = [{"x": cases.inputs.values[:, 0], "y": truth.values[:, 0]}]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        metrics = Trainer(model=theirs, n_epochs=2, eval_interval=2).train(
            batches, {"test": batches}, optimiser, torch.optim.lr_scheduler.StepLR(optimiser, 1)
        )
    defect("test_l2" not in metrics, "D15, a training that returns no errors of the test data,")
    defect(any("unexpected keyword" in str(w.message) for w in said), "D15, warnings of its own calls,")

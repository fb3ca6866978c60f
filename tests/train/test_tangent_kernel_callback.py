"""The tangent kernel beside a training: its numbers, the weights that it feeds back, what it refuses."""

import math
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from sciops.core.errors import UsageError
from sciops.data.case_data import CaseData
from sciops.numerics.tangent_kernel import TangentKernel
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn import PINN
from sciops.solvers.pinn_module import PINNModule
from sciops.solvers.pinn_rows import ValueRows
from sciops.train.pictures import Shot, draw_points, draw_spectra, film, shot, thinned
from sciops.train.points_callback import PointsCallback
from sciops.train.tangent_kernel_callback import TangentKernelCallback

PROBLEM = {"class_path": "sciops.problems.peaks.OnePeak", "init_args": {"sharpness": 20.0}}
SETTINGS = {
    "width": 5,
    "depth": 2,
    "points": 30,
    "weak_modes": 0,
    "boundary_points": 7,
    "initialisation": "network",
    "sampler": "sciops.solvers.samplers.uniform.Uniform",
    "optimiser": [{"name": "adam", "lr": 1e-3}],
}


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sciops.solvers.pinn_initialisation.POOL", {2: 400})
    monkeypatch.setattr("sciops.solvers.pinn.CHECKS", 200)


def run(folder: Path, boundary: str, *callbacks: pl.Callback) -> PINNModule:
    module = PINNModule(**SETTINGS, boundary=boundary)
    pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    ).fit(module, CaseData(PROBLEM, (9, 9), -1.0, 1.0, 3, 9))
    return module


@pytest.mark.filterwarnings("ignore")
def test_numbers_are_those_of_the_kernel_and_weights_reach_the_loss(tmp_path: Path) -> None:
    callback = TangentKernelCallback(every=1, points=12, boundary_points=8, weights="trace", momentum=0.0)
    module = run(tmp_path, "soft", callback)
    machine = module.training_machine

    # An independent Jacobian, by reverse passes point by point.
    parameters = list(machine.trial.parameters())

    def slopes(values: torch.Tensor) -> torch.Tensor:
        parts = [torch.autograd.grad(v, parameters, retain_graph=True, allow_unused=True) for v in values]
        flat = [
            [torch.zeros_like(p) if g is None else g for g, p in zip(row, parameters, strict=True)] for row in parts
        ]
        return torch.stack([torch.cat([g.flatten() for g in row]) for row in flat])

    probe = module.probe(12, 8, 0)
    sites = probe["equation"].sites
    (equation,) = sites.residuals(machine.trial.derivatives(sites.x, sites.request))
    equation = equation / machine.scale
    x = torch.cat([part.x for part in probe["boundary"].parts])
    assert len(x) == 8 and bool(((x.abs() - 1).abs().amin(1) == 0).all())
    boundary = machine.trial(x)[:, 0] - torch.exp(-20 * (x - 0.5).square().sum(1))
    kernel = TangentKernel({"equation": (equation, slopes(equation)), "boundary": (boundary, slopes(boundary))})
    assert torch.allclose(kernel.matrix, callback.kernel(module).matrix, rtol=1e-9, atol=1e-12)
    last = callback.records[-1]
    for name, value in kernel.mean_diagonal().items():
        assert last[f"trace/{name}"] == pytest.approx(value, rel=1e-9)
    assert last["drift"] == pytest.approx(kernel.drift(callback.reference), rel=1e-6) and last["drift"] > 0
    assert callback.records[0]["drift"] == 0 and callback.steps == [0, 3, 6]
    # Without momentum the weights are those of the last look, and both parts now converge at one mean rate.
    traces = kernel.mean_diagonal()
    factor = traces["equation"] / traces["boundary"]
    assert module.weight == pytest.approx(factor, rel=1e-9)
    faces = [rows for rows in machine.extra if isinstance(rows, ValueRows)]
    assert len(faces) == 4 and all(rows.scale == pytest.approx(math.sqrt(factor / 7), rel=1e-9) for rows in faces)
    assert (tmp_path / "tangent_kernel.png").stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore")
def test_one_part_of_the_loss_cannot_be_balanced(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this loss has one part"):
        run(tmp_path, "hard", TangentKernelCallback(weights="trace"))
    module = run(tmp_path, "hard", looking := TangentKernelCallback(every=2, points=9, picture=False))
    assert set(module.probe(9, 4)) == {"equation"} and looking.steps == [0, 6]
    assert not (tmp_path / "tangent_kernel.png").exists()
    with pytest.raises(UsageError, match="weights must be one of"):
        TangentKernelCallback(weights="equal")
    with pytest.raises(UsageError, match="points 2 or more"):
        TangentKernelCallback(points=1)


@pytest.mark.filterwarnings("ignore")
def test_shots_show_points_over_the_residual(tmp_path: Path) -> None:
    callback = PointsCallback(every=1, resolution=11)
    module = run(tmp_path, "hard", callback)
    assert (tmp_path / "points.png").stat().st_size > 10_000
    assert [s.title for s in callback.shots] == ["step 0", "step 3", "step 6"]
    last = callback.shots[-1]
    assert torch.equal(last.x, module.population())
    corner = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    assert float(last.residual[0, -1]) == pytest.approx(float(module.residual(corner)[0]), rel=1e-12)
    again = PointsCallback()
    again.load_state_dict(callback.state_dict())
    assert all(torch.equal(a.residual, b.residual) for a, b in zip(again.shots, callback.shots, strict=True))


def test_a_film_is_the_training_seen_on_the_way() -> None:
    case = CaseData(PROBLEM, (9, 9), -1.0, 1.0)
    case.setup()
    settings = {**SETTINGS, "sampler": "sciops.solvers.samplers.uniform.UniformResample", "optimiser": "gauss_newton"}
    training = PINN(**settings, every=2).training(Equation(case.case))
    shots = film(training, 5, 2, resolution=5)
    assert [s.title for s in shots] == ["step 0", "step 2", "step 4"] and training.steps == 5
    assert not torch.equal(shots[0].x, shots[-1].x)
    again = PINN(**settings, every=2).training(Equation(case.case))
    corner = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    assert float(shots[0].residual[-1, -1]) == float(again.magnitude(corner)[0])
    for _ in range(4):
        again.step()
    assert torch.equal(again.points.x, shots[-1].x)


def test_pictures_project_many_dimensions_and_name_mistakes(tmp_path: Path) -> None:
    x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = shot(
        "a", x, lambda p: p[:, 0] + 10 * p[:, 1] + 100 * p[:, 2], [0, 0, 0], [1, 1, 1], axes=(0, 2), resolution=3
    )
    assert torch.equal(made.x, x[:, [0, 2]]) and made.residual[1, 2] == 0.5 + 5 + 100  # the middle of the second axis
    line = shot("b", x[:, :1], lambda p: p[:, 0], [0.0], [1.0], resolution=5)
    assert line.residual.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    draw_points([line], tmp_path / "line.png")
    assert (tmp_path / "line.png").is_file()
    assert thinned(list(range(21)), 5) == [0, 5, 10, 15, 20]
    with pytest.raises(UsageError, match="axes must be"):
        shot("a", x, lambda p: p[:, 0], [0, 0, 0], [1, 1, 1], axes=(0, 3))
    with pytest.raises(UsageError, match="one shot or more"):
        draw_points([])
    with pytest.raises(UsageError, match="one spectrum per step"):
        draw_spectra([1], [], {})
    assert isinstance(made, Shot)

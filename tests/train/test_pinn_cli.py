"""Physics-informed networks through the command line: recipes, files of a run, resume, the answer of a checkpoint."""

import csv
from pathlib import Path

import pytest
import torch
import yaml

from sciops.cli import main
from sciops.core.config import build
from sciops.core.grid import Grid
from sciops.data.case_data import CaseData
from sciops.problems.peaks import OnePeak, Peaks
from sciops.solvers.pinn_checkpoint import TrainedPINN
from sciops.solvers.pinn_module import PINNModule
from sciops.solvers.samplers.base import Sampler

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
RECIPES = sorted(path for room in ("peaks", "burgers", "cavity") for path in (EXPERIMENTS / room).glob("*.yaml"))
FLOW = {"class_path": "sciops.models.densities.SplineFlow", "init_args": {"layers": 2, "bins": 4, "width": 8}}


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sciops.solvers.pinn_initialisation.POOL", {2: 400})
    monkeypatch.setattr("sciops.solvers.pinn.CHECKS", 200)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipes_name_what_exists(recipe: Path) -> None:
    table = yaml.safe_load(recipe.read_text(encoding="utf8"))
    module = PINNModule(**table["model"]["init_args"])
    data = build(table["data"], CaseData)
    data.setup()
    if module.solver.sampler is not None:
        sampler = build(module.solver.sampler, Sampler)
        assert sampler.start(data.grid.lower, data.grid.upper).first(3).x.shape == (3, data.grid.ndim)
    for callback in table["trainer"].get("callbacks", ()):
        build(callback, object)
    words = recipe.read_text(encoding="utf8")
    assert f"sciops fit --config experiments/{recipe.parent.name}/{recipe.name}" in words


def configured(folder: Path) -> str:
    """The recipe of adversarial sampling on a wide peak: a small network, few points, both callbacks."""
    table = yaml.safe_load((EXPERIMENTS / "peaks" / "one_peak_aas.yaml").read_text(encoding="utf8"))
    kernel = "sciops.train.tangent_kernel_callback.TangentKernelCallback"
    points = {"class_path": "sciops.train.points_callback.PointsCallback", "init_args": {"every": 1, "resolution": 9}}
    table["trainer"] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "callbacks": [
            {"class_path": kernel, "init_args": {"every": 1, "points": 20, "boundary_points": 8, "weights": "trace"}},
            points,
        ],
    }
    model = table["model"]["init_args"]
    model |= {"width": 6, "depth": 2, "points": 40, "boundary_points": 5, "every": 1}
    model["optimiser"] = [{"name": "adam", "lr": 1e-3, "steps": 2}, {"name": "ss_broyden", "max_iter": 2}]
    model["sampler"]["init_args"] |= {"flow": FLOW, "steps": 2, "pool": 50, "batch": 50}
    problem = {"class_path": "sciops.problems.peaks.OnePeak", "init_args": {"sharpness": 20.0}}
    table["data"]["init_args"] |= {"problem": problem, "shape": [9, 9], "steps": 3, "points": 9}
    file = folder / "fit.yaml"
    file.write_text(yaml.safe_dump(table))
    return str(file)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


@pytest.mark.filterwarnings("ignore")
def test_a_run_leaves_its_files_and_resumes_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(tmp_path)

    def fit(name: str, *more: str) -> int:
        return main(["fit", "--config", config, "--runs", str(tmp_path), "--name", name, *more])

    assert fit("straight") == 0
    assert "best val_residual" in capsys.readouterr().out
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    own = {"config.yaml", "metrics.csv", "best.ckpt", "last.ckpt"}
    assert {p.name for p in straight.rglob("*") if p.is_file()} == own | {
        "tangent_kernel.csv",
        "tangent_kernel.png",
        "points.png",
    }
    assert fit("cut", "--trainer.max_epochs", "1") == 0
    assert fit("cut", "--ckpt_path", "last") == 0
    assert rows(cut / "metrics.csv") == rows(straight / "metrics.csv")
    assert rows(cut / "tangent_kernel.csv") == rows(straight / "tangent_kernel.csv")
    assert [row["step"] for row in rows(cut / "tangent_kernel.csv")] == ["0", "3", "6"]
    weights = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (straight, cut)]
    assert all(torch.equal(v, weights[1]["state_dict"][k]) for k, v in weights[0]["state_dict"].items())
    assert len(rows(straight / "metrics.csv")) == 2
    for name in (
        "train_loss",
        "val_residual",
        "val_rel_l2",
        "beta",
        "coverage",
        "points",
        "stage",
        "ntk/participation",
    ):
        assert rows(straight / "metrics.csv")[-1][name], name

    grid = Grid.box((9, 9), -1.0, 1.0)
    solver = TrainedPINN(str(straight / "checkpoints" / "last.ckpt"), threshold=1e9)
    answer = solver.solve(OnePeak(sharpness=20.0).sample([0], grid), grid)
    truth = torch.exp(-20 * (grid.points() - 0.5).square().sum(1))
    error = float((answer.field.values.flatten() - truth).norm() / truth.norm())
    assert answer.ok and float(rows(straight / "metrics.csv")[-1]["val_rel_l2"]) == pytest.approx(error, rel=1e-5)
    assert solver.name == "PINN from straight"

    # Samples of another size are no hindrance; a network of another size is one, in one sentence.
    assert fit("cut", "--ckpt_path", "last", "--model.init_args.depth", "3", "--strict", "true") == 2
    assert "depth" in capsys.readouterr().err


def test_errors_in_many_dimensions_are_measured_where_the_problem_says() -> None:
    problem = {"class_path": "sciops.problems.peaks.Peaks", "init_args": {"centres": [[0.0] * 4], "sharpness": 10.0}}
    data = CaseData(problem, (4,) * 4, -1.0, 1.0)
    data.setup()
    batch = next(iter(data.val_dataloader()))
    assert torch.equal(batch["x"], Peaks(((0.0,) * 4,), 10.0).test_points())
    assert torch.allclose(batch["u"], torch.exp(-10 * batch["x"].square().sum(1)), rtol=1e-12, atol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", ["default", "aas", "published"])
def test_cavity_recipes_run(recipe: str, tmp_path: Path) -> None:
    """Two short epochs of each, fewer points, renewed in between: the loss falls."""
    table = yaml.safe_load((EXPERIMENTS / "cavity" / f"{recipe}.yaml").read_text(encoding="utf8"))
    model = table["model"]["init_args"]
    model |= {"points": 300, "boundary_points": 40, "every": 1}
    if recipe == "default":
        model["max_points"] = 300
    else:
        model["sampler"]["init_args"] |= {"steps": 5, "pool": 500, "batch": 250}
    config = tmp_path / "fit.yaml"
    config.write_text(yaml.safe_dump(table))
    # The population of a first-order method is renewed every hundredth step.
    short = {"trainer.max_epochs": 2, "data.init_args.steps": 101 if recipe == "aas" else 3, "data.init_args.points": 9}
    more = [f"--{name}={value}" for name, value in short.items()]
    assert main(["fit", "--config", str(config), "--runs", str(tmp_path), "--name", recipe, *more]) == 0
    found = rows(tmp_path / recipe / "metrics.csv")
    assert len(found) == 2 and (tmp_path / recipe / "points.png").exists()
    losses = [float(row["train_loss"]) for row in found]
    assert 0 < losses[1] < losses[0] < 1e3
    # That of deep adaptive sampling appends as many points at each of five refreshes.
    assert float(found[1]["points"]) == (1800 if recipe == "published" else 300)

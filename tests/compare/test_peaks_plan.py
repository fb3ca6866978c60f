"""The comparisons of physics-informed networks can be read, fit their promised time, and every row can run."""

from pathlib import Path

import pytest
import yaml

from sciops.cli import main
from sciops.compare.plan import find, read
from sciops.compare.suite import entered
from sciops.solvers.pinn import PINN

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ("peaks", "pinn_optimisers")


def seconds(name: str) -> float:
    """The sum of the limits of all networks of a plan."""
    plan = read(find(name))
    rows = [c for problem in plan.datasets for c in entered(plan, problem) if c.class_path.endswith(".PINN")]
    limits = [(c.solve or plan.solve).seconds for c in rows]
    assert all(limit is not None for limit in limits)
    return sum(limit or 0.0 for limit in limits)


@pytest.mark.parametrize("name", NETWORKS)
def test_default_runs_end_within_ten_minutes_and_full_ones_take_longer(name: str) -> None:
    assert 60 < seconds(name) < 480  # the rest is for the classical rows, set-up and pictures
    assert seconds(f"{name}_full") > 4 * seconds(name)


def test_samplers_differ_in_the_points_alone() -> None:
    plan = read(ROOT / "experiments" / "compare" / "peaks.yaml")
    rows = {c.name: c for c in plan.solvers if c.name.startswith("PINN, ")}
    assert len(rows) == 9 and {c.solve for c in rows.values()} == {None}
    for contestant in rows.values():
        assert set(contestant.init_args) <= {"clock", "sampler", "population"}
        solver = contestant.make(0)
        assert isinstance(solver, PINN) and solver.clock == "cpu"
    laws = {str(c.init_args["sampler"]).rpartition(".")[2] for c in rows.values()}
    assert laws == {"Oracle", "AAS", "DASR", "DASG", "RAD", "RARD", "R3", "Uniform", "UniformResample"}


def test_optimisers_differ_in_the_optimiser_alone() -> None:
    plan = read(ROOT / "experiments" / "compare" / "pinn_optimisers.yaml")
    assert {c.make(0).stages[0].name for c in plan.solvers} == {  # type: ignore[attr-defined]
        *("gauss_newton", "ss_broyden", "bfgs", "lbfgs", "soap", "adam")
    }
    assert len({tuple(sorted((k, v) for k, v in c.init_args.items() if k != "optimiser")) for c in plan.solvers}) == 1
    assert {c.only for c in plan.solvers} == {None} and {c.solve for c in plan.solvers} == {None}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_row_can_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = yaml.safe_load(find(name).read_text(encoding="utf8"))
    coarse = {}
    for path in table["datasets"]:
        recipe = yaml.safe_load((ROOT / path).read_text(encoding="utf8"))
        recipe["grid"]["shape"] = [9, 9]
        (tmp_path / Path(path).name).write_text(yaml.safe_dump(recipe))
        coarse[Path(path).stem] = str(tmp_path / Path(path).name)
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(table | {"datasets": coarse}))
    assert main(["compare", str(file), "--dry-run", "--data", str(tmp_path / "data")]) == 0
    printed = capsys.readouterr().out
    assert "yes" in printed and " no " not in printed


@pytest.mark.parametrize("name", ["poisson", "high_frequency"])
def test_networks_are_entered_where_others_are_compared(name: str) -> None:
    plan = read(find(name))
    networks = [c for c in plan.solvers if c.class_path == "sciops.solvers.pinn.PINN"]
    assert networks and all(c.kind == "per-instance" and c.solve is not None for c in networks)

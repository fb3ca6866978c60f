"""A comparison on trajectories: one protocol for all rows, errors over time, honest refusals."""

import csv
import json
from dataclasses import replace

import pytest
import yaml
from heat_problem import heat

from sciops.compare.meter import Protocol
from sciops.compare.plan import find, read
from sciops.compare.report import write
from sciops.compare.run import compare
from sciops.compare.sources import Splits, load_splits, windowed
from sciops.core.errors import UsageError
from sciops.data.store import save_dataset

UNET = {"class_path": "sciops.models.unet.UNet", "init_args": {"width": 4, "levels": 2}}
PLAN = {
    "title": "Heat",
    "window": {"history": 2, "horizon": 3},
    "metrics": ["rel_l2", "rel_l2_last", "drift_true", "log_spectral_last", "corr_time_0.95"],
    "batch": 2,
    "transfer": {"factors": [0.5], "cases": 2},
    "shifts": {"slower frames": {"every": 0.25}},
    "solvers": [
        {"class_path": "sciops.solvers.time_stepper.TimeStepper", "init_args": {"rungs": [[0.5, 1], [2, 1]]}},
        {"class_path": "sciops.solvers.time_stepper.Persistence"},
        {
            "name": "U-Net",
            "class_path": "sciops.solvers.rollout.Rollout",
            "init_args": {"net": UNET, "residual": True, "epochs": 2, "lr": 1.0e-2, "device": "cpu"},
        },
        {
            "name": "steady",
            "class_path": "sciops.solvers.fast_poisson.FastPoisson",
        },
    ],
}


def planned(folder, **changes):
    path = folder / "heat.yaml"
    path.write_text(yaml.safe_dump(PLAN | {"dataset": str(folder / "data")} | changes))
    return replace(read(path), timing=Protocol(2, 0.05, 1), memory=False)


def test_one_protocol_is_named_everywhere(tmp_path):
    plan = planned(tmp_path)
    assert plan.title == "Heat · two_to_three: frames 0–1 in, 2–4 out" and plan.protocol == "two_to_three"
    whole = Splits("heat", *(heat(a, b, frames=6) for a, b in ((0, 6), (6, 8), (8, 11))), generation_seconds=1.0)
    splits = windowed(whole, plan.window)
    results = compare(plan, splits, tmp_path, lambda text: None)
    files = {p.name for p in write(results, splits.test, tmp_path)}
    assert files >= {"error_over_time.csv", "error_over_time.png", "error_fields.png", "spectra.png", "table.md"}
    rows = {(r.solver, r.setting): r for r in results.rows}
    assert {r.protocol for r in results.rows} == {"two_to_three"}
    assert rows["steady", ""].status == "refused"
    classical = [rows["TimeStepper", s].score("rel_l2") for s in ("×0.5 points", "", "×2 points")]
    assert classical[0] > classical[1] > classical[2]
    assert rows["TimeStepper", ""].score("rel_l2") < rows["persistence (last frame)", ""].score("rel_l2")
    times = [point[0] for point in rows["U-Net", ""].over_time]
    assert times == list(splits.test.truth().times) == [1.0, 1.5, 2.0]
    with (tmp_path / "error_over_time.csv").open() as handle:
        lines = list(csv.DictReader(handle))
    last = [float(v["rel_l2"]) for v in lines if v["solver"] == "U-Net" and v["split"] == "test"][-1]
    assert last == pytest.approx(rows["U-Net", ""].score("rel_l2_last"), rel=1e-6)
    assert {v["protocol"] for v in lines} == {"two_to_three"}
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {r["protocol"] for r in records} == {"two_to_three"}
    table = (tmp_path / "table.md").read_text()
    assert "| protocol |" in table and "frames 0–1 in, 2–4 out" in table
    assert {row.split for row in results.transfer} == {"grid ×0.5"}
    moved = {row.solver: row.score("rel_l2") for row in results.transfer}
    assert moved["TimeStepper"] > rows["TimeStepper", ""].score("rel_l2") and moved["interpolated truth"] is not None
    # Half the time between frames: the network that steps by 0.5 refuses, and says so.
    shift = {row.solver: row for row in results.shifts}
    assert shift["U-Net"].status == "failed" and "frames 0.5 apart" in shift["U-Net"].message
    # Another window is another comparison: no row of this one is kept.
    other = planned(tmp_path, window={"history": 1, "horizon": 3}, transfer={}, shifts={}, solvers=PLAN["solvers"][:2])
    again = compare(other, windowed(whole, other.window), tmp_path, lambda text: None)
    assert {r.protocol for r in again.rows} == {"one_to_three"}
    assert not {r.key for r in again.rows} & {r.key for r in results.rows}


def test_trajectories_need_a_window(tmp_path):
    target = tmp_path / "data" / "data" / "test" / "heat.hdf5"
    target.parent.mkdir(parents=True)
    save_dataset(target, heat(0, 2, frames=6), "heat", "test")
    classical = PLAN["solvers"][:2]
    splits = load_splits(planned(tmp_path, solvers=classical), tmp_path, lambda text: None)
    assert splits.test.cases().history.times == (0.0, 0.5)
    plain = planned(tmp_path, solvers=classical, window=None)
    with pytest.raises(UsageError, match="the data holds trajectories; say in the plan"):
        load_splits(plain, tmp_path, lambda text: None)
    with pytest.raises(UsageError, match="needs 12 frames, the data has 6"):
        load_splits(planned(tmp_path, solvers=classical, window={"history": 2, "horizon": 10}), tmp_path, print)


def test_mistakes_in_a_window(tmp_path):
    for window, text in (
        ({"history": 2}, "window must map history and horizon"),
        ({"history": 2, "horizon": 0}, "horizon must be an integer of at least 1"),
        ({"history": 2, "horizon": 3, "strid": 2}, "strid"),
    ):
        with pytest.raises(UsageError, match=text):
            planned(tmp_path, window=window)


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("navier_stokes", "ten_to_ten"),
        ("navier_stokes_full", "ten_to_ten"),
        ("navier_stokes_one_to_ten", "one_to_ten"),
        ("navier_stokes_one_to_ten_full", "one_to_ten"),
        ("wave", "two_to_twenty"),
    ],
)
def test_the_plans_that_come_with_sciops(name, protocol):
    plan = read(find(name))
    kinds = [contestant.kind for contestant in plan.solvers]
    assert plan.protocol == protocol and protocol in plan.title
    assert kinds.count("learned") >= 4 and kinds.count("classical") == 2

"""Protocols over trajectories: windows are slices, named, checked."""

import pytest
import torch
from heat_problem import heat

from sciops.core.errors import UsageError
from sciops.data.generate import generate
from sciops.data.open import open_dataset
from sciops.data.part import Part
from sciops.data.recipe import load_recipe
from sciops.data.trajectories import WindowRows
from sciops.data.verify import verify
from sciops.data.windows import OneStep, Window, Windowed, spacing, trajectory


def test_windows_are_slices_of_the_trajectories():
    data = heat(0, 3, frames=12)
    whole, times = data.truth().values, data.truth().times
    cut = Windowed(data, history=2, horizon=3, start=1, frames_apart=2)
    cases, truth = cut.cases([2, 0]), cut.truth([2, 0])
    assert torch.equal(cases.history.values, whole[[2, 0]][:, [1, 3]])
    assert torch.equal(truth.values, whole[[2, 0]][:, [5, 7, 9]])
    assert cases.history.times == (times[1], times[3]) and cases.times == truth.times == (times[5], times[7], times[9])
    assert torch.equal(trajectory(cut).values, whole[:, 1:10:2])
    assert torch.equal(cases.inputs.values, data.cases([2, 0]).inputs.values)
    assert cut.fingerprint != Windowed(data, 2, 3, 1).fingerprint != data.fingerprint
    joined = Part.joined([cut, cut]).cases([0, 4])
    assert torch.equal(joined.history.values, cut.cases([0, 1]).history.values)


def test_protocols_have_names():
    assert Window(10, 10, 1).describe() == "ten_to_ten: frames 1–10 in, 11–20 out"
    assert Window(1, 10).describe() == "one_to_ten: frame 0 in, 1–10 out"
    assert Window(2, 37).name == "two_to_37"
    with pytest.raises(UsageError, match="history must be an integer of at least 1; got 0"):
        Window(0)


def test_short_trajectories_are_refused():
    with pytest.raises(UsageError, match="needs 20 frames, the data has 9"):
        Windowed(heat(0, 2))


def test_training_cuts_every_window_inside_the_protocol():
    data = heat(0, 3, frames=9)
    cut = Windowed(data, history=3, horizon=4, start=1)
    rows = WindowRows(cut, 2, 2, ["a"], [])
    assert rows.count == 4 and len(rows) == 12
    batch = rows.__getitems__([5, 0, 11])
    whole, times = data.truth().values, data.truth().times
    for k, (case, start) in enumerate([(1, 2), (0, 1), (2, 4)]):
        assert torch.equal(batch["frames"][k], whole[case, start : start + 4])
        assert float(batch["time"][k]) == pytest.approx(times[start + 1])
    assert torch.equal(batch["fixed"][:, 0], data.cases([1, 0, 2]).input("a"))
    streamed = WindowRows(cut, 2, 2, ["a"], [], in_memory=False).__getitems__([5, 0, 11])
    assert all(torch.equal(batch[name], streamed[name]) for name in batch)
    test = WindowRows(cut, 2, None, [], [])
    assert len(test) == 3 and torch.equal(test.__getitems__([1])["frames"][0], whole[1, 2:8])


def test_a_frame_with_nan_is_named():
    data = heat(0, 3, frames=9)
    data.answers.values[2, 5, 0, 3] = torch.nan
    with pytest.raises(UsageError, match=r"Training case 2 holds NaN or infinity in frame 5 \(t = 2.5\)"):
        WindowRows(data, 1, 1, [], [])


def test_unequal_frames_are_no_steps():
    assert spacing((1.0, 1.5, 2.0)) == pytest.approx(0.5)
    with pytest.raises(UsageError, match="equally spaced"):
        spacing((0.0, 1.0, 1.5))


def test_pairs_of_one_step_as_a_steady_dataset():
    data = heat(0, 3, frames=6)
    pairs = OneStep(data, history=2, coefficients=("a",))
    assert len(pairs) == 12 and [c.name for c in pairs.problem.inputs] == ["u@-1", "u@0", "a"]
    cases, truth, whole = pairs.cases([6, 1]), pairs.truth([6, 1]), data.truth().values
    assert torch.equal(cases.inputs.values[0, 0, :2], whole[1, 2:4, 0])
    assert torch.equal(truth.values[:, 0, 0], torch.stack([whole[1, 4, 0], whole[0, 3, 0]]))
    assert torch.equal(cases.input("a")[0], data.cases([1]).input("a")[0])


def test_generated_trajectories_keep_their_times(tmp_path):
    recipe = load_recipe(
        {
            "name": "heat",
            "problem": {"class_path": "heat_problem.Heat", "init_args": {"dim": 2, "frames": 6}},
            "grid": {"shape": [8, 8], "layout": "periodic"},
            "splits": {"train": 3, "test": 2},
            "batch": 2,
        }
    )
    paths = generate(recipe, tmp_path, quiet=True)
    train = open_dataset(tmp_path, recipe.make_problem())["train"]
    assert train.truth().times == train.cases().times == (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
    assert train.truth().values.shape == (3, 6, 1, 8, 8)
    # The input has the name of the output: it is its first frame.
    assert torch.equal(train.cases().input("u"), train.truth().values[:, 0, 0])
    assert verify(paths["train"], problem=recipe.make_problem()).passed

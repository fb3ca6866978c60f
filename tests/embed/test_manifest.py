"""What is refused before any compiled program is opened: changed, missing, foreign and dangerous files."""

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sciops.core.errors import DataError, SciopsError, UsageError
from sciops.embed.artifact import Artifact
from sciops.embed.manifest import Manifest, read_manifest, verify
from sciops.embed.recompile import read_source, recompile
from sciops.embed.verbs import is_artefact, lines, table


@pytest.fixture
def folder(tmp_path) -> Path:
    """An artefact whose package is no program: nothing here gets so far as to open it."""
    path = tmp_path / "model.sciops"
    path.mkdir()
    (path / "model.float32.pt2").write_bytes(b"no program")
    exported = torch.export.export(nn.Conv2d(1, 1, 3, padding=1), (torch.rand(1, 1, 8, 8),))
    torch.export.save(exported, path / "source.solve.float32.pt2")
    manifest = Manifest(
        "toy", "operator", 2, {"solve": {"inputs": ["input"], "outputs": ["output"]}}, [32],
        inputs=[{"name": "f", "unit": "m", "lower": -1.0, "upper": 3.0}], outputs=[{"name": "u", "unit": ""}],
        grid={"layout": ["node"] * 2, "shape": [8, 9], "lower": [0, 0], "upper": [1, 1]},
        shape={"dynamic": True, "multiple": [2, 4], "remainder": [0, 1], "minimum": [4, 5], "maximum": [64, None]},
    )  # fmt: skip
    manifest.stamp()
    manifest.write(path)
    return path


def edit(folder: Path, **changes) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    for key, value in changes.items():
        content[key] = value
    (folder / "manifest.json").write_text(json.dumps(content))


def one_sentence(error: BaseException) -> bool:
    text = str(error)
    return "\n" not in text and text.endswith(".") and "Traceback" not in text


def test_a_manifest_is_read_as_it_was_written(folder):
    found = read_manifest(folder)
    assert found.name == "toy" and found.kind == "operator" and found.inputs[0]["upper"] == 3.0
    assert set(found.files) == {"model.float32.pt2", "source.solve.float32.pt2"}
    verify(folder, found)


@pytest.mark.parametrize("name", ["model.float32.pt2", "source.solve.float32.pt2"])
def test_a_changed_or_missing_file_is_named_before_it_is_opened(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=f"{name} is not the file that was exported") as caught:
        Artifact.load(folder)
    assert one_sentence(caught.value)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        Artifact.load(folder)


def test_a_package_without_a_checksum_is_not_opened(folder):
    edit(folder, files={})
    with pytest.raises(DataError):
        Artifact.load(folder).solve(np.zeros((1, 8, 9)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "schema 2"),
        ({"format": "other"}, "artefact of sciops"),
        ({"kind": "oracle"}, "unknown kind"),
        ({"files": {"../evil": "0"}}, "outside its folder"),
        ({"versions": {"torch": "2.1.0"}}, "recompile"),
    ],
    ids=["schema", "format", "kind", "path", "torch"],
)
def test_what_was_written_by_others_is_refused_in_one_sentence(folder, changes, words):
    edit(folder, **changes)
    with pytest.raises(DataError, match=words) as caught:
        Artifact.load(folder)
    assert one_sentence(caught.value)


def test_another_processor_is_told_to_recompile(folder, monkeypatch):
    edit(folder, isa="AVX2")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    with pytest.raises(DataError, match="sciops recompile"):
        Artifact.load(folder)


def test_folders_that_are_no_artefacts_and_precisions_that_are_not_there(folder, tmp_path):
    with pytest.raises(UsageError, match="no artefact"):
        Artifact.load(tmp_path / "nothing.sciops")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no manifest"):
        Artifact.load(tmp_path / "empty")
    with pytest.raises(UsageError, match="precision 64"):
        Artifact.load(folder, 64)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        Artifact.load(folder)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("wrapped", [True, False], ids=["torch.save", "pickle"])
def test_recompiling_unpickles_nothing_even_if_the_checksum_was_forged(folder, tmp_path, wrapped):
    target, trace = folder / "source.solve.float32.pt2", tmp_path / "exploded"
    if wrapped:
        torch.save({"model": Bomb(trace)}, target)
    else:
        target.write_bytes(pickle.dumps(Bomb(trace)))
    manifest = read_manifest(folder)
    manifest.write(folder)
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(SciopsError) as caught:
        recompile(folder)
    assert one_sentence(caught.value) and not trace.exists()
    assert (folder / "manifest.json").read_bytes() == before and not list(folder.parent.glob(".model*"))


def test_example_inputs_in_a_source_cannot_carry_code(folder, tmp_path):
    import zipfile

    source, trace = folder / "source.solve.float32.pt2", tmp_path / "exploded"
    evil = tmp_path / "evil.pt2"
    bomb = tmp_path / "bomb.pt"
    torch.save([Bomb(trace)], bomb)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(evil, "w", zipfile.ZIP_STORED) as new:
        replaced = [n for n in old.namelist() if "sample_inputs" in n and n.endswith(".pt")]
        for name in old.namelist():
            new.writestr(name, bomb.read_bytes() if name in replaced else old.read(name))
    assert replaced
    with pytest.raises(DataError):
        read_source(evil)
    assert not trace.exists()


def test_sources_are_read_back_with_their_numbers(folder):
    exported = read_source(folder / "source.solve.float32.pt2")
    x = torch.rand(1, 1, 8, 8)
    assert exported.module()(x).shape == x.shape


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((8, 9), True),
        ((4, 5), True),
        ((8, 8), False),
        ((7, 9), False),
        ((66, 9), False),
        ((2, 9), False),
        ((8,), False),
    ],
    ids=str,
)
def test_sizes_that_the_law_of_the_manifest_allows(folder, shape, fits):
    reason = read_manifest(folder).accepts(shape)
    assert (reason is None) == fits
    assert reason is None or reason.endswith(".")


def test_inputs_beyond_the_training_range_are_measured_in_widths(folder):
    artifact = Artifact.load(folder)
    inside = np.full((1, 8, 9), 2.0)
    assert artifact.outside(inside) == (0.0, None)
    inside[0, 2, 3] = 5.0
    assert artifact.outside(inside) == (0.5, "f")
    inside[0, 2, 3] = -3.0
    assert artifact.outside(torch.from_numpy(inside)) == (0.5, "f")


@pytest.mark.parametrize("x", [np.zeros((2, 8, 9)), np.zeros((8, 9)), np.zeros((1, 8, 10)), np.full((1, 8, 9), np.nan)])
def test_inputs_that_do_not_fit_are_refused_before_the_program_runs(folder, x):
    with pytest.raises(UsageError) as caught:
        Artifact.load(folder).solve(x)
    assert one_sentence(caught.value)


def test_operators_are_no_preconditioners(folder):
    with pytest.raises(UsageError, match="kind operator"):
        Artifact.load(folder).preconditioner(np.ones((3, 8, 9)))


def test_what_a_network_says_of_cells_that_are_no_unknowns_is_dropped():
    manifest = Manifest(
        "d", "direction", 2, {"apply": {"inputs": ["residual", "mask"], "outputs": ["direction"]}}, [32]
    )
    manifest.shape = {"dynamic": True, "multiple": [1] * 2, "remainder": [0] * 2, "minimum": [2] * 2,
                      "maximum": [None] * 2}  # fmt: skip
    spilling = SimpleNamespace(boxed_run=lambda given: [given[0] + 1.0])
    apply = Artifact(Path("d"), manifest, 32, {"apply": spilling}).preconditioner
    matrix = np.zeros((3, 4, 5))
    matrix[0, :, :3] = 4.0
    r = np.full((4, 5), 2.0)
    z = apply(matrix)(r)
    assert (z[:, 3:] == 0).all() and (z[:, :3] == 4.0).all()  # 2 (2 / 2 + 1)


def test_info_says_what_a_user_needs_and_compares_checksums(folder, capsys):
    from sciops.cli import main

    told = dict(lines(read_manifest(folder)))
    assert told["kind"] == "operator, 2-D" and "-1 to 3" in told["input f"] and "2·k" in told["grid sizes"]
    assert is_artefact(folder) and table(folder).row_count > 8
    assert main(["info", str(folder)]) == 0 and "toy" in capsys.readouterr().out
    (folder / "model.float32.pt2").write_bytes(b"other")
    assert main(["info", str(folder)]) == 1
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "nowhere.ckpt", "--out", "x.sciops"],
        ["export", "multigrid", "--out", "x.sciops"],
        ["export", "multigrid", "--ndim", "2", "--precision", "16", "--out", "x.sciops"],
        ["recompile", "nowhere.sciops"],
    ],
    ids=["run", "ndim", "precision", "recompile"],
)
def test_the_command_line_answers_mistakes_with_one_sentence(arguments, capsys, tmp_path, monkeypatch):
    from sciops.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("sciops: ") and "Traceback" not in "".join(said) and not list(tmp_path.iterdir())

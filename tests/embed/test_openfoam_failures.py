"""What the plugin does when it cannot work: one warning and the native solver, or one sentence and the end."""

import functools
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from openfoam_support import plugin_folder
from torch import Tensor, nn

from sciops.embed import openfoam_cases as openfoam

pytestmark = [
    pytest.mark.embed,
    pytest.mark.skipif(shutil.which("icoFoam") is None, reason="icoFoam is not installed (package openfoam)"),
]
OUTER = ["preconditioner", "flexible"]
MARK = "sciops, field p: "


Native = Callable[[int], tuple[list[int], np.ndarray]]


@pytest.fixture(scope="module")
def plugin(library: Path) -> Path:
    return plugin_folder(library)


@pytest.fixture(scope="module")
def native(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Native:
    """Number of axes → iterations and pressure of OpenFOAM's own solver."""

    @functools.cache
    def answer(ndim: int) -> tuple[list[int], np.ndarray]:
        folder = tmp_path_factory.mktemp("native")
        log = outcome(folder, plugin, openfoam.DIC, ndim)
        return log.iterations(), openfoam.field(folder, "p")

    return answer


class Poison(nn.Module):
    def forward(self, residual: Tensor, mask: Tensor) -> Tensor:
        return torch.sqrt(-1 - residual.abs()) * mask


@pytest.fixture(scope="session")
def poison(direction_2d: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact whose network answers NaN, with correct checksums."""
    from sciops.embed.compile import Program, compiled, packaged, traced

    folder = tmp_path_factory.mktemp("poison") / "poison.sciops"
    shutil.copytree(direction_2d, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    names = manifest["entries"]["apply"]
    example = (torch.zeros(1, 1, 20, 20), torch.ones(1, 1, 20, 20))
    program = Program("apply", Poison(), example, ({}, {}), names["inputs"], names["outputs"])
    model = folder / "model.float32.pt2"
    model.unlink()
    packaged(model, {"apply": compiled(traced(program), manifest["march"], 1)})
    manifest["files"][model.name] = hashlib.sha256(model.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def outcome(folder: Path, plugin: Path, text: str, ndim: int = 2, ranks: int = 1) -> openfoam.Run:
    case = openfoam.cavity(folder, 20 if ndim == 2 else 8, 5, text, ndim=ndim)
    openfoam.mesh(case, ranks=ranks)
    return openfoam.run(case, plugin, ranks=ranks)


def check(tmp_path: Path, plugin: Path, native: Native, artefact: Path, outer: str, reason: str, ndim: int = 2) -> None:
    """Both choices: native goes on with one warning to the native answer, stop ends with one sentence."""
    entry = getattr(openfoam, outer)
    log = outcome(tmp_path / "native", plugin, entry(artefact, "onFailure native;"), ndim)
    assert log.code == 0, log.text[-2000:]
    (sentence,) = said(log)
    assert re.search(reason, sentence) and sentence.endswith("; the native solver goes on."), sentence
    assert log.text.count("--> FOAM Warning") == 1
    iterations, pressure = native(ndim)
    assert log.iterations() == iterations
    np.testing.assert_array_equal(openfoam.field(tmp_path / "native", "p"), pressure)

    log = outcome(tmp_path / "stop", plugin, entry(artefact, "onFailure stop;"), ndim)
    assert log.code == 1
    (sentence,) = said(log)
    assert re.search(reason, sentence) and sentence.endswith("would go on without the network."), sentence
    assert log.text.count("FOAM FATAL ERROR") == 1


def said(log: openfoam.Run) -> list[str]:
    return [line for line in log.text.splitlines() if MARK in line]


@pytest.mark.parametrize("outer", OUTER)
def test_broken_file(tmp_path: Path, plugin: Path, native: Native, multigrid_2d: Path, outer: str) -> None:
    broken = tmp_path / "broken.sciops"
    shutil.copytree(multigrid_2d, broken)
    package = sorted(broken.glob("model.*.pt2"))[0]
    data = bytearray(package.read_bytes())
    data[len(data) // 2] ^= 1
    package.write_bytes(data)
    check(tmp_path, plugin, native, broken, outer, package.name)


@pytest.mark.parametrize("outer", OUTER)
def test_missing_file(tmp_path: Path, plugin: Path, native: Native, outer: str) -> None:
    check(tmp_path, plugin, native, tmp_path / "nowhere.sciops", outer, "nowhere")


@pytest.mark.parametrize("outer", OUTER)
def test_network_for_the_plane_on_a_mesh_in_space(
    tmp_path: Path, plugin: Path, native: Native, multigrid_2d: Path, outer: str
) -> None:
    check(tmp_path, plugin, native, multigrid_2d, outer, "3", ndim=3)


@pytest.mark.parametrize("method", ["addressing", "geometry", "topology"])
def test_grids_in_space_are_found_before_any_network(tmp_path: Path, plugin: Path, method: str) -> None:
    text = openfoam.flexible(tmp_path / "nowhere.sciops", f"onFailure native; grid {method};")
    log = outcome(tmp_path / "case", plugin, text, ndim=3)
    assert log.code == 0, log.text[-2000:]
    assert log.grids == [("8x8x8", method)]


def test_values_that_are_not_finite(tmp_path: Path, plugin: Path, native: Native, poison: Path) -> None:
    check(tmp_path, plugin, native, poison, "flexible", "finite")


def test_a_mesh_that_is_no_grid(tmp_path: Path, plugin: Path, multigrid_2d: Path) -> None:
    for choice, code in (("native", 0), ("stop", 1)):
        case = openfoam.cavity(tmp_path / choice, 6, 2, openfoam.flexible(multigrid_2d, f"onFailure {choice};"))
        (case / "system/blockMeshDict").write_text(RING)
        openfoam.mesh(case)
        log = openfoam.run(case, plugin)
        assert log.code == code, log.text[-2000:]
        assert log.text.count(MARK) == 1
        assert re.search("the 144 cells of the mesh are no structured grid .*blocks close on themselves", log.text)


def test_a_way_to_find_the_grid_that_is_none(tmp_path: Path, plugin: Path, multigrid_2d: Path) -> None:
    log = outcome(tmp_path, plugin, openfoam.flexible(multigrid_2d, "grid sideways;"))
    assert log.code == 1
    assert "grid 'sideways' is not known; give auto, addressing, geometry or topology" in log.text


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed (package openmpi-bin)")
def test_all_ranks_fall_back_together(tmp_path: Path, plugin: Path, poison: Path) -> None:
    log = outcome(tmp_path, plugin, openfoam.flexible(poison, "onFailure native;"), ranks=2)
    assert log.code == 0, log.text[-2000:]
    assert log.text.count(MARK) == 1
    assert all(0 < count < 100 for count in log.iterations())


RING = """FoamFile { version 2.0; format ascii; class dictionary; object blockMeshDict; }
vertices
(
    (0.04 0.04 0) (0.06 0.04 0) (0.06 0.06 0) (0.04 0.06 0) (0 0 0) (0.1 0 0) (0.1 0.1 0) (0 0.1 0)
    (0.04 0.04 0.01) (0.06 0.04 0.01) (0.06 0.06 0.01) (0.04 0.06 0.01)
    (0 0 0.01) (0.1 0 0.01) (0.1 0.1 0.01) (0 0.1 0.01)
);
blocks
(
    hex (4 5 1 0 12 13 9 8) (6 6 1) simpleGrading (1 1 1)
    hex (5 6 2 1 13 14 10 9) (6 6 1) simpleGrading (1 1 1)
    hex (6 7 3 2 14 15 11 10) (6 6 1) simpleGrading (1 1 1)
    hex (7 4 0 3 15 12 8 11) (6 6 1) simpleGrading (1 1 1)
);
edges ();
boundary
(
    movingLid { type wall; faces ((6 7 15 14)); }
    fixedWalls
    {
        type wall;
        faces ((4 5 13 12) (5 6 14 13) (7 4 12 15) (0 1 9 8) (1 2 10 9) (2 3 11 10) (3 0 8 11));
    }
    frontAndBack
    {
        type empty;
        faces
        (
            (4 5 1 0) (5 6 2 1) (6 7 3 2) (7 4 0 3)
            (12 13 9 8) (13 14 10 9) (14 15 11 10) (15 12 8 11)
        );
    }
);
"""

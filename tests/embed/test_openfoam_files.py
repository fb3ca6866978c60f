"""What can be checked of the OpenFOAM plugin without OpenFOAM: cases, logs, refusals, licence."""

from pathlib import Path

import pytest

import sciops.embed.openfoam_build as building
from sciops.core.errors import UsageError
from sciops.embed import openfoam_cases as openfoam

SOURCES = Path(building.__file__).parent / "openfoam"
LOG = """sciops: 2268 cells on a grid of 46x50 (geometry)
DICPCG:  Solving for p_rgh, Initial residual = 1, Final residual = 4e-11, No Iterations 38
DICPCG:  Solving for p_rgh, Initial residual = 0.4, Final residual = 3e-11, No Iterations 36
smoothSolver:  Solving for Ux, Initial residual = 1, Final residual = 9e-13, No Iterations 2
ExecutionTime = 0.05 s  ClockTime = 0 s
ExecutionTime = 0.25 s  ClockTime = 0 s
"""


def test_every_source_states_its_licence_and_sees_only_the_c_interface() -> None:
    assert "GNU GENERAL PUBLIC LICENSE" in (SOURCES / "COPYING").read_text()[:200]
    sources = sorted([*SOURCES.glob("*.C"), *SOURCES.glob("*.H")])
    assert len(sources) >= 10
    for path in sources:
        text = path.read_text()
        assert text.startswith("// SPDX-License-Identifier: GPL-3.0-or-later"), path
        assert "torch" not in text and "ATen" not in text, path
    unit = (SOURCES / "sciopsFoam.C").read_text()
    assert all(f'"{path.name}"' in unit for path in SOURCES.glob("*.C") if path.name != "sciopsFoam.C")


def test_a_log_is_read() -> None:
    log = openfoam.Run(LOG, 0)
    assert log.iterations("p_rgh") == [38, 36]
    assert log.iterations("p") == []
    assert log.seconds == 0.25
    assert log.steady_seconds == pytest.approx(0.2)
    assert log.grids == [("46x50", "geometry")]


def test_fields_are_read_from_the_last_time(tmp_path: Path) -> None:
    for time, value in (("0.5", 1), ("10", 2), ("9", 3)):
        (tmp_path / time).mkdir()
        text = f"internalField   nonuniform List<vector> \n2\n(\n({value} 0 -1e-3)\n(0 0 1)\n)\n;\n"
        (tmp_path / time / "U").write_text(text)
    assert openfoam.field(tmp_path, "U").tolist() == [[2, 0, -1e-3], [0, 0, 1]]


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_cavity_is_written_with_balanced_dictionaries(tmp_path: Path, ndim: int) -> None:
    openfoam.cavity(tmp_path, 8, 3, openfoam.flexible(Path("/models/m.sciops"), "safeguard yes;"), ndim=ndim)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"blockMeshDict", "U", "p", "fvSchemes", "fvSolution", "controlDict"}
    for path in files:
        text = path.read_text()
        assert text.count("{") == text.count("}") and text.count("(") == text.count(")"), path
    assert 'model "/models/m.sciops"; safeguard yes;' in (tmp_path / "system/fvSolution").read_text()
    assert f"(8 8 {1 if ndim == 2 else 8})" in (tmp_path / "system/blockMeshDict").read_text()


def test_building_without_the_c_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no libsciops\.so in .*sciops build capi"):
        building.build(tmp_path / "out", tmp_path)


def test_sources_that_are_none_are_refused_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match=r"There is no lduMatrix\.H in"):
        building.headers(tmp_path, 1912)
    assert list((tmp_path / "cache/sciops").iterdir()) == []


def test_headers_of_a_source_tree_lie_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    deep = tmp_path / "src/OpenFOAM/matrices/lduMatrix"
    deep.mkdir(parents=True)
    (deep / "lduMatrix.H").write_text("// header")
    (deep / "lduMatrixTemplates.C").write_text("// template")
    (tmp_path / "src/OSspecific/POSIX").mkdir(parents=True)
    folder = building.headers(tmp_path / "src", 1912)
    assert sorted(path.name for path in folder.iterdir()) == ["lduMatrix.H", "lduMatrixTemplates.C"]


def test_a_missing_openfoam_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOAM_LIBBIN", raising=False)
    monkeypatch.setattr(building, "debian_version", lambda: None)
    with pytest.raises(UsageError, match="OpenFOAM is not installed"):
        building.installed()

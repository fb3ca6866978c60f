"""Exported models and the C library, compiled once per machine and state of the sources."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import artefact_makers

CAPI = artefact_makers.ROOT / "sciops" / "embed"


@pytest.fixture(scope="session")
def artefacts(request) -> Path:
    """The folder of what is compiled for tests: SCIOPS_TEST_ARTEFACTS, or one in pytest's cache."""
    given = os.environ.get("SCIOPS_TEST_ARTEFACTS")
    return Path(given) if given else Path(request.config.rootpath) / ".pytest_cache" / "artefacts"


def artefact(name: str, base: Path) -> Path:
    """The artefact of this name, compiled in a process of its own: torch.export cannot see through the type checks
    that tests put around every function."""
    target = base / f"{name}-{artefact_makers.key(name)}" / f"{name}.sciops"
    with artefact_makers.alone(target.parent):
        if not target.is_dir():
            command = [sys.executable, artefact_makers.__file__, name, str(target.parent)]
            made = subprocess.run(command, capture_output=True, text=True, cwd=artefact_makers.ROOT)
            assert made.returncode == 0, made.stderr[-2000:]
    return target


@pytest.fixture(scope="session")
def multigrid_2d(artefacts) -> Path:
    return artefact("multigrid_2d", artefacts)


@pytest.fixture(scope="session")
def multigrid_double(artefacts) -> Path:
    """In float64 alone, with one set of programs for all levels."""
    return artefact("multigrid_double", artefacts)


@pytest.fixture(scope="session")
def multigrid_3d(artefacts) -> Path:
    return artefact("multigrid_3d", artefacts)


@pytest.fixture(scope="session")
def direction_2d(artefacts) -> Path:
    return artefact("direction_2d", artefacts)


@pytest.fixture(scope="session")
def operator_2d(artefacts) -> Path:
    return artefact("operator_2d", artefacts)


@pytest.fixture(scope="session")
def stepper_2d(artefacts) -> Path:
    return artefact("stepper_2d", artefacts)


@pytest.fixture(scope="session")
def library(artefacts) -> Path:
    """The folder with libsciops.so: SCIOPS_TEST_LIBRARY, or built beside the artefacts for this torch and sources."""
    given = os.environ.get("SCIOPS_TEST_LIBRARY")
    if given:
        return Path(given)
    from sciops.embed.build import build_capi

    state = hashlib.sha256(torch.__version__.encode())
    for path in (CAPI / "build.py", *sorted(p for p in (CAPI / "capi").rglob("*") if p.is_file())):
        state.update(path.relative_to(CAPI).as_posix().encode() + path.read_bytes())
    folder = artefacts / f"library-{state.hexdigest()[:16]}"
    with artefact_makers.alone(folder):
        if not (folder / "complete").is_file():
            build_capi(folder, cmake=False)
            (folder / "complete").touch()
    return folder / "lib"

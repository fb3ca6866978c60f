"""Exported models and the C library, compiled once per machine and state of the sources."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from artefact_makers import key, make


@pytest.fixture(scope="session")
def artefacts(request) -> Path:
    """The folder of artefacts: SCIOPS_TEST_ARTEFACTS, or one in pytest's cache."""
    given = os.environ.get("SCIOPS_TEST_ARTEFACTS")
    base = Path(given) if given else Path(request.config.rootpath) / ".pytest_cache" / "artefacts"
    return base / key()


@pytest.fixture(scope="session")
def multigrid_2d(artefacts) -> Path:
    return make("multigrid_2d", artefacts)


@pytest.fixture(scope="session")
def multigrid_3d(artefacts) -> Path:
    return make("multigrid_3d", artefacts)


@pytest.fixture(scope="session")
def direction_2d(artefacts) -> Path:
    return make("direction_2d", artefacts)


@pytest.fixture(scope="session")
def operator_2d(artefacts) -> Path:
    return make("operator_2d", artefacts)


@pytest.fixture(scope="session")
def stepper_2d(artefacts) -> Path:
    return make("stepper_2d", artefacts)


@pytest.fixture(scope="session")
def library(artefacts) -> Path:
    """The folder with libsciops.so: SCIOPS_TEST_LIBRARY, or built beside the artefacts."""
    given = os.environ.get("SCIOPS_TEST_LIBRARY")
    if given:
        return Path(given)
    from sciops.embed.build import build_capi

    folder = artefacts.parent / f"library-{torch.__version__}"
    if not (folder / "lib" / "libsciops.so").is_file():
        build_capi(folder, cmake=False)
    return folder / "lib"

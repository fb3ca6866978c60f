"""Exported models and the C library, compiled once per machine and state of the sources."""

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import artefact_makers

CAPI = artefact_makers.ROOT / "sciops" / "embed"
# For what tests start: workers share the cores, so that ranks had better not spin, and nothing is compiled for GPUs.
os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
os.environ.setdefault("TORCH_WARM_POOL", "0")


class Workshop:
    """Makes what the tests of a session want, each in a folder of its own under `base`.

    A worker that would wait for another one makes something else meanwhile: half of the session is compilation.
    """

    def __init__(self, base: Path, wanted: set[str]) -> None:
        self.base = base
        self.wanted = [name for name in ("library", *artefact_makers.MAKERS) if name in wanted]

    def __call__(self, name: str) -> Path:
        """The artefact, or the folder of the library."""
        while not self.ready(name):
            if not any(self.attempt(job, ours=job == name) for job in (name, *self.wanted)):
                with artefact_makers.alone(self.target(name).parent):
                    pass  # all that is left is being made by others
        return self.target(name)

    def attempt(self, job: str, ours: bool) -> bool:
        """Make it unless it is there or another worker is at it; whether this was done."""
        with artefact_makers.alone(self.target(job).parent, wait=False) as mine:
            if not mine or self.ready(job):
                return False
            if ours:
                self.make(job)
            else:
                self.wanted.remove(job)
                with contextlib.suppress(Exception):  # the test that needs it will say so
                    self.make(job)
            return True

    def target(self, name: str) -> Path:
        if name == "library":
            return self.base / f"library-{library_state()}" / "lib"
        return self.base / f"{name}-{artefact_makers.key(name)}" / f"{name}.sciops"

    def ready(self, name: str) -> bool:
        target = self.target(name)
        return (target.parent / "complete").is_file() if name == "library" else target.is_dir()

    def make(self, name: str) -> None:
        folder = self.target(name).parent
        if name == "library":
            from sciops.embed.build import build_capi

            build_capi(folder)
            (folder / "complete").touch()
            return
        # In a process of its own: torch.export cannot see through the type checks that tests put around every function.
        command = [sys.executable, artefact_makers.__file__, name, str(folder)]
        made = subprocess.run(command, capture_output=True, text=True, cwd=artefact_makers.ROOT)
        assert made.returncode == 0, made.stderr[-2000:]


def library_state() -> str:
    state = hashlib.sha256(torch.__version__.encode())
    for path in (CAPI / "build.py", *sorted(p for p in (CAPI / "capi").rglob("*") if p.is_file())):
        state.update(path.relative_to(CAPI).as_posix().encode() + path.read_bytes())
    return state.hexdigest()[:16]


@pytest.fixture(scope="session")
def workshop(request: pytest.FixtureRequest) -> Workshop:
    """In the folder SCIOPS_TEST_ARTEFACTS, or one in pytest's cache."""
    given = os.environ.get("SCIOPS_TEST_ARTEFACTS")
    base = Path(given) if given else Path(request.config.rootpath) / ".pytest_cache" / "artefacts"
    return Workshop(base, {name for item in request.session.items for name in getattr(item, "fixturenames", ())})


def artefact(name: str) -> Callable[[Workshop], Path]:
    @pytest.fixture(scope="session", name=name)
    def made(workshop: Workshop) -> Path:
        return workshop(name)

    return made


multigrid_2d = artefact("multigrid_2d")
multigrid_double = artefact("multigrid_double")
multigrid_3d = artefact("multigrid_3d")
multigrid_3d_finest = artefact("multigrid_3d_finest")
direction_2d = artefact("direction_2d")
operator_2d = artefact("operator_2d")
stepper_2d = artefact("stepper_2d")


@pytest.fixture(scope="session")
def library(workshop: Workshop) -> Path:
    """The folder with libsciops.so: SCIOPS_TEST_LIBRARY, or built by CMake where it is installed."""
    given = os.environ.get("SCIOPS_TEST_LIBRARY")
    return Path(given) if given else workshop("library")

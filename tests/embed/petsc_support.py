"""How the tests run PETSc programs: the interpreter that has petsc4py, ranks, and what came out as JSON."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_btl_base_warn_component_unused": "0",
}  # fmt: skip


def interpreter() -> str:
    """The Python with petsc4py, torch and NumPy 1 (`.ci/embed-petsc` makes one); skips where there is none."""
    python = os.environ.get("SCIOPS_PETSC_PYTHON", "")
    if not python or shutil.which(python) is None:
        pytest.skip("SCIOPS_PETSC_PYTHON names no Python with petsc4py; source .ci/embed-petsc")
    return python


def needs(*programs: str) -> None:
    for name in programs:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed; source .ci/embed-petsc")


def error_of_one_step(direction: Path) -> float:
    """|f(b) − x| / |x| for the 24×20 problem of petsc_program.py, by the artefact itself."""
    from test_scipy_preconditioner import diffusion

    from sciops.embed.scipy import preconditioner

    A, x = diffusion(np.ones((20, 24))), np.random.default_rng(0).standard_normal((20, 24)).ravel()
    z = preconditioner(direction, A, (20, 24), flexible=True) @ (A @ x)
    return float(np.linalg.norm(z - x) / np.linalg.norm(x))


def batch(cases: dict[str, list[object]], ranks: int = 1) -> dict[str, Any]:
    """What petsc_program.py answers to each list of options, in one process (or `ranks`)."""
    words = {name: [str(word) for word in options] for name, options in cases.items()}
    command = [interpreter(), str(HERE / "petsc_program.py")]
    status, answers, errors = execute(command, ranks, {"SCIOPS_CASES": json.dumps(words)})
    assert status == 0 and answers.keys() == cases.keys(), errors
    return answers


def execute(command: list[str], ranks: int = 1, extra: dict[str, str] | None = None) -> tuple[int, dict[str, Any], str]:
    """(exit status, the last line of JSON, error output)."""
    if ranks > 1:
        needs("mpirun")
        command = ["mpirun", "-n", str(ranks), *command]
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": path} | (extra or {})
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    lines = [line for line in found.stdout.splitlines() if line.startswith("{")]
    return found.returncode, json.loads(lines[-1]) if lines else {}, found.stderr


def solved(command: list[str], ranks: int = 1) -> dict[str, Any]:
    """The same for what must succeed, with a clean exit."""
    status, answer, errors = execute(command, ranks)
    assert status == 0 and answer, errors
    return answer | {"stderr": errors}

"""Shared set-up: shapes and dtypes of every `sciops` signature are enforced, seeds fixed, threads few."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from typechecking import leave_closures_alone

ROOT = Path(__file__).resolve().parents[1]

# Every jaxtyping annotation of the package is checked at run time. The hook must come before the first import of
# sciops; SCIOPS_TYPECHECK=0 switches it off, to time the tests or to debug without its frames.
if os.environ.get("SCIOPS_TYPECHECK", "1") != "0":
    leave_closures_alone()
    install_import_hook("sciops", "typechecking.enforce")

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same global random state, in any order and on any worker."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - third-party code draws from the global generator
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of published data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("SCIOPS_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"published data not found in {folder}; set SCIOPS_SHARED_DATA to its folder")
    return folder

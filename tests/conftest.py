"""Shared set-up: shapes and dtypes of every `sciops` signature are enforced, seeds fixed, threads few."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import typechecking

ROOT = Path(__file__).resolve().parents[1]

# Every jaxtyping annotation of the package is checked at run time. The hook must come before the first import of
# sciops; SCIOPS_TYPECHECK=0 switches it off, to time the tests or to debug without its frames.
if os.environ.get("SCIOPS_TYPECHECK", "1") != "0":
    typechecking.install()

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

# Workers take whole files. These take longest, longest first: begun last, they would leave the other workers idle.
# (The notebooks come behind others, so that they find compiled what the first file compiles.)
LONGEST = [
    "contract/test_solvers.py",
    "numerics/test_multigrid.py",
    "contract/test_problems_and_metrics.py",
    "notebooks/test_notebooks.py",
    "numerics/test_boxmg.py",
    "train/test_train_cli.py",
    "solvers/test_pinn.py",
    "data/test_generate.py",
    "solvers/test_pinn_module.py",
    "solvers/test_warm.py",
    "problems/test_darcy.py",
    "numerics/test_krylov.py",
    "numerics/test_flexible_cg.py",
    "solvers/test_pinn_growth.py",
    "core/test_calculus.py",
    "solvers/test_deep_ritz.py",
    "solvers/test_gp_hm.py",
    "numerics/test_fgmres.py",
    "numerics/test_slim_kl_processes.py",
    "models/test_mgno.py",
    "compare/test_run.py",
    "train/test_dcdm_training.py",
    "numerics/test_compiled_aggregation.py",
    "models/test_conversion.py",
    "solvers/test_pinn_systems.py",
    "solvers/test_classical.py",
    "train/test_operator_solver.py",
    "data/test_recipe.py",
]


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # by the number of tests, says pytest-xdist
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {ROOT / "tests" / name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same global random state, in any order and on any worker."""
    typechecking.next_test()
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

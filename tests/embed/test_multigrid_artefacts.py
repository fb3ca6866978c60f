"""Compiled multigrid of the kinds that the tests of hosts leave out: in float64, and in space with programs for the
finest level alone. Minutes of compilation."""

from pathlib import Path

import artefact_makers
import numpy as np
import pytest
import torch
from capi_support import Library, missing, rough

from sciops.core.stencil_operator import StencilOperator
from sciops.embed.artifact import Artifact
from sciops.embed.check import rough_matrix
from sciops.embed.levels import stencil_from_faces
from sciops.numerics.differentiable_multigrid import DifferentiableMultigrid

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing("g++", "gcc")), reason="no C and C++ compiler (g++, gcc) here"),
]


@pytest.mark.parametrize("shape", [(33, 40), (23, 17), (130, 1)], ids=str)
def test_a_cycle_in_float64_is_the_one_of_python_to_rounding(multigrid_double: Path, shape: tuple[int, int]) -> None:
    """Network and cycle; a float32 network alone would differ by 1e-6 and more."""
    matrix = rough_matrix(shape, seed=3)
    A = StencilOperator(stencil_from_faces(matrix), (False, False), frozenset({"symmetric", "positive"}))
    r = torch.where(matrix[0] > 0, torch.randn(shape, generator=torch.Generator().manual_seed(0)).double(), 0.0)
    wanted = DifferentiableMultigrid(artefact_makers.adviser(2).double(), 1).setup(A)(r[None])[0]
    wanted = torch.where(matrix[0] > 0, wanted, 0.0)  # interpolation leaves something where there is no unknown
    artifact = Artifact.load(multigrid_double)
    assert artifact.precision == 64 and len(artifact.manifest.entries) == 3
    found = artifact.preconditioner(matrix)(r)
    assert float((found - wanted).abs().max()) < 1e-10 * float(wanted.abs().max())


@pytest.mark.parametrize("shape", [(33, 47), (9, 9), (130, 1)])
def test_the_c_library_runs_it_as_python_does(library: Path, multigrid_double: Path, shape: tuple[int, int]) -> None:
    matrix, r = rough(*shape), np.random.default_rng(1).standard_normal(shape)
    expected = Artifact.load(multigrid_double).preconditioner(matrix)(r)
    with Library(library).load(multigrid_double) as model, model.setup(matrix) as f:
        z = f(r)
    # Cholesky factors of the coarsest matrix, of condition 1e6 here, come from other routines
    assert np.abs(z - expected).max() < 1e-9 * np.abs(expected).max()


def test_programs_of_the_finest_level_in_space_make_the_same_cycle(multigrid_3d_finest: Path) -> None:
    """Compiled for couplings between faces alone."""
    shape = (12, 9, 15)
    matrix = rough_matrix(shape, seed=0)
    A = StencilOperator(stencil_from_faces(matrix), (False,) * 3, frozenset({"symmetric", "positive"}))
    r = torch.where(matrix[0] > 0, torch.randn(shape, generator=torch.Generator().manual_seed(0)).double(), 0.0)
    wanted = torch.where(matrix[0] > 0, DifferentiableMultigrid(None, 1).setup(A)(r[None])[0], 0.0)
    artifact = Artifact.load(multigrid_3d_finest)
    assert artifact.manifest.multigrid is not None and len(artifact.manifest.entries) == 6
    assert [len(level["offsets"]) for level in artifact.manifest.multigrid["levels"]] == [7, 27]
    found = artifact.preconditioner(matrix)(r)
    assert float((found - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())

"""The recursion over levels around the three programs is the differentiable multigrid, entry for entry."""

import pytest
import torch
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.stencil_operator import StencilOperator
from sciops.embed.check import rough_matrix
from sciops.embed.levels import Cycle, stencil_from_faces
from sciops.embed.sources import Source, multigrid_source
from sciops.models.learned_multigrid import StencilAdviser
from sciops.numerics.differentiable_multigrid import DifferentiableMultigrid

SHAPES = {2: [(33, 40), (23, 17), (130, 1), (3, 64)], 3: [(9, 12, 7), (5, 16, 1)]}


def adviser(ndim: int) -> StencilAdviser:
    with torch.random.fork_rng():
        torch.manual_seed(ndim)
        net = StencilAdviser(ndim, width=8).eval()
        torch.nn.init.normal_(net.say.weight, std=0.5)
    return net


def cycle(source: Source, stencil: Tensor, dtype: torch.dtype = torch.float64) -> Cycle:
    assert source.programs is not None and source.manifest.multigrid is not None
    modules = {p.entry: p.module for p in source.programs(dtype)}

    def run(entry: str, arguments: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            found = modules[entry](*arguments)
        return list(found) if isinstance(found, tuple) else [found]

    return Cycle(run, source.manifest.multigrid, source.manifest.entries, stencil, dtype)


@pytest.mark.parametrize("advised", [True, False])
@pytest.mark.parametrize("shape", [s for shapes in SHAPES.values() for s in shapes], ids=str)
def test_the_programs_of_levels_make_the_cycle_of_differentiable_multigrid(shape, advised):
    # A network in float64: rounding of a float32 one is amplified by the condition of the matrix.
    net = adviser(len(shape)).double() if advised else None
    stencil = stencil_from_faces(rough_matrix(shape, seed=3, contrast=4.0))
    A = StencilOperator(stencil, (False,) * len(shape), frozenset({"symmetric", "positive"}))
    r = torch.randn((1, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    r = torch.where(A.diagonal() > 0, r, 0.0)
    # Cells without a row hold whatever interpolation leaves there; nothing reads it.
    wanted = torch.where(A.diagonal() > 0, DifferentiableMultigrid(net, 1).setup(A)(r), 0.0)
    found = cycle(multigrid_source(net, len(shape), "m"), stencil)(r)
    assert float((found - wanted).abs().max()) <= 1e-9 * float(wanted.abs().max())


def test_a_network_trained_in_float32_advises_a_float64_cycle_in_float64():
    """Its answers in float32 would differ by 1e-6 and more."""
    stencil = stencil_from_faces(rough_matrix((33, 40), seed=3))
    A = StencilOperator(stencil, (False, False), frozenset({"symmetric", "positive"}))
    r = torch.where(
        A.diagonal() > 0, torch.randn((1, 33, 40), generator=torch.Generator().manual_seed(0)).double(), 0.0
    )
    wanted = torch.where(A.diagonal() > 0, DifferentiableMultigrid(adviser(2).double(), 1).setup(A)(r), 0.0)
    found = cycle(multigrid_source(adviser(2), 2, "m"), stencil)(r)
    assert float((found - wanted).abs().max()) <= 1e-9 * float(wanted.abs().max())


@pytest.mark.parametrize("shape", [(19, 26), (7, 10, 9)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_any_advice_leaves_the_cycle_symmetric_and_positive(shape, dtype):
    stencil = stencil_from_faces(rough_matrix(shape, seed=5, contrast=6.0))
    apply = cycle(multigrid_source(adviser(len(shape)), len(shape), "m"), stencil, dtype)
    active = (stencil[0, stencil.shape[1] // 2] > 0).flatten().nonzero().flatten()
    pick = active[torch.randperm(len(active), generator=torch.Generator().manual_seed(1))[:40]]
    columns = []
    for i in pick:
        e = torch.zeros(stencil[0, 0].numel(), dtype=torch.float64)
        e[i] = 1.0
        columns.append(apply(e.reshape(1, *shape)).flatten()[pick])
    B = torch.stack(columns)
    scale = B.diagonal().sqrt()
    B = B / scale[:, None] / scale[None]
    assert float((B - B.T).abs().max()) < (1e-12 if dtype == torch.float64 else 1e-3)
    if dtype == torch.float64:
        assert float(torch.linalg.eigvalsh(B).min()) > 0


def test_cells_that_are_no_unknowns_stay_zero_and_the_scale_of_the_matrix_divides_the_answer():
    matrix = rough_matrix((21, 30), seed=2)
    r = torch.randn((1, 21, 30), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    source = multigrid_source(adviser(2), 2, "m")
    z = cycle(source, stencil_from_faces(matrix), torch.float32)(r)
    assert bool((z[0][matrix[0] == 0] == 0).all())
    tiny = cycle(source, stencil_from_faces(matrix * 1e-40), torch.float32)(r * 1e-60)
    assert torch.allclose(tiny * 1e20, z, rtol=1e-4, atol=1e-6 * float(z.abs().max()))


def test_the_stencil_of_faces_is_the_matrix():
    matrix = rough_matrix((4, 5), seed=0)
    A = StencilOperator(stencil_from_faces(matrix), (False, False))
    assert A.tags == {"symmetric", "positive"} or A.tags == {"symmetric"}
    dense = torch.from_numpy(A.to_scipy().toarray())
    assert torch.equal(dense, dense.T) and torch.equal(dense.diagonal(), matrix[0].flatten())
    assert float(dense[0, 1]) == -float(matrix[2, 0, 0]) and float(dense[0, 5]) == -float(matrix[1, 0, 0])


@pytest.mark.parametrize("wrong", ["sign", "nan", "count", "nothing"])
def test_matrices_that_are_none_are_refused_in_one_sentence(wrong):
    matrix = rough_matrix((12, 12), seed=0)
    if wrong == "sign":
        matrix = -matrix
    elif wrong == "nan":
        matrix[1, 2, 3] = float("nan")
    elif wrong == "count":
        matrix = matrix[:2]
    else:
        matrix = torch.zeros_like(matrix)
    with pytest.raises(UsageError) as caught:
        cycle(multigrid_source(None, 2, "m"), stencil_from_faces(matrix))
    assert str(caught.value).count(".") >= 1 and "\n" not in str(caught.value)

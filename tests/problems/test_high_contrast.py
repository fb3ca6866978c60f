"""High-contrast diffusion: families as stated, symmetric positive matrices, second order for a turned tensor."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.problems.high_contrast import FAMILIES, HighContrast
from sciops.problems.tensor_stencil import tensor_stencil


def cells(n: int, ndim: int) -> Grid:
    return Grid.box(n, ndim=ndim, layout="cell")


VARIANTS = [
    *(HighContrast(ndim=d, family=f) for d in (2, 3) for f in FAMILIES),
    *(HighContrast(ndim=d, family="anisotropy", orientation=o) for d in (2, 3) for o in ("blocks", "smooth")),
    HighContrast(family="inclusions", contrast=1e-3),
    HighContrast(family="inclusions", contrast=1e6, mixed=True),
    HighContrast(family="anisotropy", angle=30.0),
    HighContrast(forcing="smooth"),
]


@pytest.mark.parametrize("problem", VARIANTS, ids=str)
def test_matrices_are_symmetric_positive_definite(problem: HighContrast) -> None:
    cases = problem.sample([2], Grid.box((9, 7, 5)[: problem.ndim], layout="cell"))
    A, b = problem.system(cases)
    matrix = A.to_scipy(0).toarray()
    assert np.abs(matrix - matrix.T).max() <= 1e-14 * np.abs(matrix).max()
    scale = 1 / np.sqrt(np.diag(matrix))  # so that a contrast of 10⁶ does not hide the smallest eigenvalue
    assert np.linalg.eigvalsh(matrix * scale * scale[:, None]).min() > 0
    assert np.allclose(matrix @ b[0].numpy().ravel(), A.matvec(b)[0].numpy().ravel(), atol=1e-12 * np.abs(matrix).max())
    assert {"symmetric", "positive"} <= A.tags


@pytest.mark.parametrize("problem", VARIANTS, ids=str)
def test_one_seed_is_one_case(problem: HighContrast) -> None:
    grid = cells(20, problem.ndim)
    cases = problem.sample([5, 6], grid)
    assert torch.equal(cases.inputs.values[1], problem.sample([6], grid).inputs.values[0])
    assert not torch.equal(cases.input("f")[0], cases.input("f")[1])
    moved = cases.on(cells(12, problem.ndim))
    assert moved.provenance == "generated"
    single = problem.sample([5], grid, torch.float32)
    assert torch.equal(single.inputs.values, cases.inputs.values[:1].float())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("smooth", [False, True])
def test_tensor_stencils_are_of_second_order(ndim: int, smooth: bool) -> None:
    """u = ∏ sin πx_j, K = Q(x) diag(1, c, c) Qᵀ turned in the plane xy."""
    c, errors = 0.1, []
    for n in (12, 24) if ndim == 3 else (24, 48):
        grid = cells(n, ndim)
        x = [m[None].clone().requires_grad_() for m in grid.mesh()]
        turn = 0.6 + (0.4 * torch.sin(2 * x[0] + x[1]) if smooth else 0.0 * x[0])
        d = [torch.cos(turn), torch.sin(turn), torch.zeros_like(turn)][:ndim]
        k = [[(1 - c) * d[a] * d[b] + (c if a == b else 0.0) for b in range(ndim)] for a in range(ndim)]
        u = torch.ones_like(turn)
        for xj in x:
            u = u * torch.sin(math.pi * xj)
        slope = torch.autograd.grad(u.sum(), x, create_graph=True)
        f = torch.zeros_like(u)
        for a in range(ndim):
            flux = sum(k[a][b] * slope[b] for b in range(ndim))
            f = f - torch.autograd.grad(flux.sum(), x[a], retain_graph=True)[0]
        problem = HighContrast(ndim=ndim, family="anisotropy")
        cases = problem.sample([0], grid)
        values = [k[a][b].detach() for a in range(ndim) for b in range(a, ndim)] + [f.detach()]
        cases = replace(cases, inputs=replace(cases.inputs, values=torch.stack(values, 1)[:, None]))
        found = problem.reference(cases).field.values[:, 0, 0]
        errors.append(float((found - u.detach()).square().mean().sqrt()))
    assert 1.75 < math.log2(errors[0] / errors[1]) < 2.3, errors


def test_a_multiple_of_the_identity_gives_the_plain_star() -> None:
    grid = cells(6, 2)
    k = torch.rand((1, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    stencil = tensor_stencil([[k, 0 * k], [0 * k, k]], grid)
    assert float(stencil[:, [0, 2, 6, 8]].abs().max()) < 1e-12
    assert torch.allclose(stencil[:, 7, :-1], -0.5 * (k[:, 1:] + k[:, :-1]) * 36)
    assert torch.allclose(stencil.sum(1)[:, 0, 2:4], 2 * 36 * k[:, 0, 2:4])


def test_scalar_coefficients_have_harmonic_faces() -> None:
    problem = HighContrast(family="inclusions", contrast=1e6)
    cases = problem.sample([0], cells(32, 2))
    k = torch.exp(cases.input("log_k"))
    A = problem.matrix(cases)
    harmonic = 2 / (1 / k[:, 1:] + 1 / k[:, :-1]) * 32**2
    assert torch.allclose(A.faces[0][:, :-1], harmonic, rtol=1e-12)
    assert torch.allclose(A.sink[:, 0, 5:9], 2 * k[:, 0, 5:9] * 32**2, rtol=1e-12)


@pytest.mark.parametrize(("ndim", "n"), [(2, 24), (2, 64), (2, 300), (3, 24), (3, 48)])
def test_channels_stay_connected(ndim: int, n: int) -> None:
    problem = HighContrast(ndim=ndim, family="channels", count=1)
    for seed in range(3):
        high = (problem.sample([seed], cells(n, ndim)).input("log_k")[0] > 0).numpy()
        parts, _ = label(high)  # face neighbours only
        for axis in range(ndim):
            first, last = np.take(parts, 0, axis), np.take(parts, -1, axis)
            assert set(np.unique(first)) & set(np.unique(last)) - {0}
        assert high.mean() < 0.25


def test_families_have_their_statistics() -> None:
    grid = cells(256, 2)
    for family, spread, slack in (("lognormal", 3.0, 0.25), ("white_lognormal", 2.0, 0.02)):
        log_k = HighContrast(family=family).sample(range(8), grid).input("log_k")
        assert float(log_k.square().mean().sqrt()) == pytest.approx(spread, rel=slack)
    log_k = HighContrast(family="inclusions").sample(range(4), grid).input("log_k")
    assert set(torch.unique(log_k).tolist()) == {0.0, math.log(1e3)}
    assert 0.18 < float((log_k > 0).double().mean()) < 0.26
    both = HighContrast(family="inclusions", mixed=True).sample(range(4), grid).input("log_k")
    assert set(torch.unique(both).tolist()) == {-math.log(1e3), 0.0, math.log(1e3)}
    for ndim in (2, 3):
        for orientation in ("constant", "blocks", "smooth"):
            problem = HighContrast(ndim=ndim, family="anisotropy", orientation=orientation)
            k = problem.sample([1], cells(16, ndim))
            full = torch.zeros((*k.domain.shape, ndim, ndim), dtype=torch.float64)
            channels = iter(problem.inputs)
            for a in range(ndim):
                for b in range(a, ndim):
                    full[..., a, b] = full[..., b, a] = k.input(next(channels).name)[0]
            expected = torch.tensor([0.01] * (ndim - 1) + [1.0], dtype=torch.float64)
            assert torch.linalg.eigvalsh(full).allclose(expected.expand(*k.domain.shape, ndim), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"family": "layers"}, "family must be one of"),
        ({"ndim": 4}, "ndim must be 2 or 3"),
        ({"orientation": "random"}, "orientation must be one of"),
        ({"sigma": 9.0}, "sigma"),
        ({"family": "anisotropy", "contrast": 10.0}, "for anisotropy"),
        ({"width": 0.0}, "width"),
        ({"forcing": "ones"}, "forcing must be one of"),
    ],
)
def test_bad_arguments_are_told_in_one_sentence(arguments: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        HighContrast(**arguments)
    assert "\n" not in str(caught.value)

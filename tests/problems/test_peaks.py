"""Peaks: closed forms against automatic differentiation, scores of the zero function, points in ten dimensions."""

import math
from pathlib import Path

import pytest
import torch

from sciops.core.calculus import Autodiff
from sciops.core.config import build, spec
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.problem import Problem
from sciops.core.solver import View
from sciops.data.generate import generate
from sciops.data.recipe import load_recipe
from sciops.data.verify import verify
from sciops.problems.manufactured import Manufactured
from sciops.problems.peaks import NinePeaks, OnePeak, Peaks, TenDimensional, TenDimensionalCubic, TwoPeaks

FOLDER = Path(__file__).parents[2] / "datasets" / "peaks"
RECIPES = sorted(FOLDER.glob("*.yaml"))
PROBLEMS = [
    OnePeak(),
    TwoPeaks(),
    TwoPeaks(form="laplace"),
    TwoPeaks(form="cubic"),
    NinePeaks(),
    TenDimensional(),
    TenDimensionalCubic(),
    Peaks(centres=((0.1, -0.3, 0.2), (0.4, 0.0, 0.0)), sharpness=7.0, form="drift"),
]


def cases_of(problem):
    return problem.sample([1], Grid.box(33 if problem.ndim == 2 else 2, -1.0, 1.0, ndim=problem.ndim))


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{type(p).__name__}-{p.form}")
def test_the_written_forcing_is_the_operator_applied_to_u(problem) -> None:
    x = problem.test_points(2000, seed=3, radius=0.1 if problem.ndim == 2 else 0.7)[None]
    written, derived = problem.forcing({}, x), Manufactured.forcing(problem, {}, x)
    assert float((written - derived).norm() / derived.norm()) < 1e-13
    cases = cases_of(problem)
    residual = problem.residual_at(cases, lambda p: problem.exact(cases, p)[:, 0], x).detach()
    assert float(residual.norm() / written.norm()) < 1e-10


def test_the_forcing_of_the_published_formulas() -> None:
    """The formulas as printed: f = (4000 − 4·10⁶ s) u in the plane, (20 d − 400 |x|²) u in ten dimensions."""
    x = torch.rand(1, 500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    s = (x - 0.5).square().sum(-1)
    f = (4000 - 4e6 * s) * torch.exp(-1000 * s)
    torch.testing.assert_close(OnePeak().forcing({}, x), f, rtol=1e-12, atol=1e-9)
    x = 0.3 * torch.randn(1, 500, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    s = x.square().sum(-1)
    f = (200 - 400 * s) * torch.exp(-10 * s)
    torch.testing.assert_close(TenDimensional().forcing({}, x), f, rtol=1e-12, atol=1e-12)


def test_the_drift_form_is_a_divergence() -> None:
    """Δu − ∇·(u∇v) by automatic differentiation of the flux itself."""
    problem = TwoPeaks()
    x = problem.test_points(300, seed=1, radius=0.1)[None]
    d = Autodiff(x)
    u = problem.solution({}, d.x)
    flux = d.gradient(u) - u[..., None] * 2 * d.x
    divergence = sum(d.gradient(flux[..., j])[..., j] for j in range(2)).detach()
    written = problem.forcing({}, x)
    assert float((written - divergence).norm() / divergence.norm()) < 1e-12


@pytest.mark.parametrize(
    ("problem", "score"), [(OnePeak(), 3.896e-4), (TwoPeaks(), 7.793e-4), (TwoPeaks(form="laplace"), 7.793e-4)]
)
def test_the_score_of_the_zero_function(problem, score) -> None:
    """A mean square error on 256² points is no achievement before it is far below this."""
    cases = problem.sample([0], Grid.box(256, -1.0, 1.0, ndim=2))
    u = problem.reference(cases).field.values
    assert f"{float(u.square().mean()):.3e}" == f"{score:.3e}"


def test_nine_peaks_weigh_nine_times_one() -> None:
    """Peaks of variance 1/(4κ) do not overlap: ∫u² = 9π/(2κ) but for those cut off nowhere."""
    grid = Grid.box(513, -1.0, 1.0, ndim=2)
    u = NinePeaks().exact(NinePeaks().sample([0], grid), grid.points()[None])[0, 0]
    mass = float((u.square() * grid.weights().flatten()).sum())
    assert abs(mass / (9 * math.pi / 2000) - 1) < 1e-10
    assert len(NinePeaks().centres) == 9 and len(set(NinePeaks().centres)) == 9


def test_views_follow_the_form() -> None:
    assert not TwoPeaks(form="cubic").linear and View.SYSTEM not in TwoPeaks(form="cubic").views()
    assert View.SYSTEM in OnePeak().views() and View.SYSTEM in TwoPeaks().views()
    assert View.SYSTEM not in TenDimensional().views() and TenDimensional().linear
    assert [channel.name for channel in TwoPeaks().inputs] == ["f", "vx", "vy"]


def test_the_systems_of_both_forms_converge_to_u() -> None:
    """A direct solve of the differences: the error falls with h² once the peak is resolved."""
    from scipy.sparse.linalg import spsolve

    for form in ("laplace", "drift"):
        problem = Peaks(centres=((0.5, 0.5), (-0.5, -0.5)), sharpness=50.0, form=form)
        errors = []
        for n in (41, 81):
            cases = problem.sample([0], Grid.box(n, -1.0, 1.0, ndim=2))
            A, b = problem.system(cases)
            v = torch.from_numpy(spsolve(A.to_scipy(0).tocsc(), b[0].flatten().numpy())).reshape(b.shape)
            truth = problem.reference(cases).field.values[:, 0, 0]
            errors.append(float((problem.embed(cases, v) - truth).norm() / truth.norm()))
        assert 1.7 < math.log2(errors[0] / errors[1]) < 2.3, form


def test_points_of_the_ten_dimensional_test_set() -> None:
    problem = TenDimensional()
    x = problem.test_points(20_000)
    assert torch.equal(x, problem.test_points(20_000)) and not torch.equal(x, problem.test_points(20_000, seed=1))
    assert x.shape == (20_000, 10) and x.dtype == torch.float64 and float(x.abs().max()) <= 1
    box, ball = x[:10_000], x[10_000:].norm(dim=1)
    assert float(ball.max()) <= 0.7
    # |x|^d is uniform on [0, 0.7^d] in a ball; the mean of n draws has standard error 1/√(12n).
    assert abs(float(((ball / 0.7) ** 10).mean()) - 0.5) < 4 / math.sqrt(12 * 10_000)
    assert abs(float(box.mean())) < 4 / math.sqrt(3 * 1e5) and abs(float(box.square().mean()) - 1 / 3) < 0.01
    # Uniform points alone see nothing of u, the mixture does.
    cases = cases_of(problem)
    u = problem.exact(cases, x[None])[0, 0]
    assert float((u > 0.01).double().mean()) > 0.1 > 1e-3 > float((u[:10_000] > 0.01).double().mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "wave"}, "form must be one of"),
        ({"sharpness": 0.0}, "sharpness > 0"),
        ({"centres": ()}, "one or more centres"),
        ({"centres": ((0.0, 0.0), (0.0,))}, "one or more centres"),
        ({"centres": ((0.0,) * 11,)}, "ndim must be 1 to 10"),
        ({"centres": ((0.0,) * 4,), "form": "drift"}, "1 to 3 dimensions"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        Peaks(**options)


@pytest.mark.parametrize("problem", PROBLEMS[:3] + PROBLEMS[4:7], ids=lambda p: f"{type(p).__name__}-{p.form}")
def test_problems_are_rebuilt_from_their_arguments(problem) -> None:
    assert build(spec(problem), Problem) == problem


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_makes_a_file_that_can_be_rebuilt(path, tmp_path) -> None:
    recipe = load_recipe(path)
    assert recipe.dtype == "float64" and recipe.splits == {"test": 1}
    assert f"`{path.stem}`" in (FOLDER / "README.md").read_text()
    made = generate(recipe, tmp_path, quiet=True)
    checked = verify(made["test"])
    assert checked.passed and checked.tolerance == 0.0
    assert recipe.make_problem().ndim == recipe.grid.ndim

"""The high-frequency recipes: the stored forcing against derivatives worked out by hand, files, cards."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from sciops.core.solver import View
from sciops.data.generate import generate
from sciops.data.info import describe
from sciops.data.recipe import load_recipe
from sciops.data.verify import verify

FOLDER = Path(__file__).parents[2] / "datasets" / "high_frequency"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
RANDOM = {"p1_random", "ac1_random", "p2_random"}
sin, cos, exp = torch.sin, torch.cos, torch.exp


def h(s):
    """sin 6s cos 20s = ½ sin 26s − ½ sin 14s, and its second derivative."""
    return (sin(26 * s) - sin(14 * s)) / 2, (-(26**2) * sin(26 * s) + 14**2 * sin(14 * s)) / 2


def m(s):
    value = sin(s) + 0.1 * sin(20 * s) + cos(100 * s)
    return value, -sin(s) - 40 * sin(20 * s) - 1e4 * cos(100 * s)


def sincos(x):
    """sin 6x cos 100x = ½ sin 106x − ½ sin 94x, and its second derivative."""
    return (sin(106 * x) - sin(94 * x)) / 2, (-(106**2) * sin(106 * x) + 94**2 * sin(94 * x)) / 2


def reaction(u):
    return u * (u * u - 1)


def add(x, y):
    (a, a2), (b, b2) = h(x), h(y)
    return a + b, -(a2 + b2)


def ac2(x, y):
    (a, a2), (b, b2) = m(x), m(y)
    return a * b, a2 * b + a * b2 + reaction(a * b)


def chirp(x):
    return sin(150 * x**2), -300 * cos(150 * x**2) + (300 * x) ** 2 * sin(150 * x**2)


def two_scale(x):
    """u′ = (x + C)(2 + 1.8 cos ωx), with C = −½ since the interval holds a whole number of periods."""
    omega = 50 * math.pi
    part = (x - 0.5) * sin(omega * x) / omega + (cos(omega * x) - 1) / omega**2
    return x**2 - x + 1.8 * part, -torch.ones_like(x)


def layer(x):
    """1 − cosh((x − ½)/s)/cosh(1/2s) with s = 0.01: both fit into float64."""
    return 1 - torch.cosh((x - 0.5) * 100) / math.cosh(50.0), torch.ones_like(x)


# u and the left side of the equation by hand.
BY_HAND = {
    "p1_single": lambda x: (sin(100 * x), 1e4 * sin(100 * x)),
    "p1_sincos": lambda x: (sincos(x)[0], -sincos(x)[1]),
    "p1_mix": lambda x: (
        sin(x) + 0.1 * sin(20 * x) + 0.05 * cos(100 * x),
        sin(x) + 40 * sin(20 * x) + 500 * cos(100 * x),
    ),
    "p1_mix_sin": lambda x: (
        sin(x) + 0.1 * sin(20 * x) + 0.05 * sin(100 * x),
        sin(x) + 40 * sin(20 * x) + 500 * sin(100 * x),
    ),
    "p1_xsin": lambda x: (x * sin(200 * x), -400 * cos(200 * x) + 4e4 * x * sin(200 * x)),
    "p1_x2": lambda x: (sin(500 * x) - 2 * (x - 0.5) ** 2, 2.5e5 * sin(500 * x) + 4),
    "ac1_single": lambda x: (sin(100 * x), -1e4 * sin(100 * x) - sin(100 * x) * cos(100 * x) ** 2),
    "ac1_sincos": lambda x: (sincos(x)[0], sincos(x)[1] + reaction(sincos(x)[0])),
    "p2_sinsin": lambda x, y: (sin(100 * x) * sin(100 * y), 2e4 * sin(100 * x) * sin(100 * y)),
    "p2_add": add,
    "ac2_mix": ac2,
    "adv": lambda x, y: (sin(x - 200 * y), torch.zeros_like(x)),
    "p3_sinsinsin": lambda x, y, z: (
        sin(100 * x) * sin(100 * y) * sin(100 * z),
        3e4 * sin(100 * x) * sin(100 * y) * sin(100 * z),
    ),
    "helmholtz": lambda x: (sin(150 * x + 0.3) + exp(-x), (1 + 150**2) * exp(-x)),
    "homogenisation": two_scale,
    "chirp": chirp,
    "layer": layer,
}


def test_every_fixed_recipe_is_checked_by_hand_and_on_the_card() -> None:
    assert set(BY_HAND) | RANDOM == set(RECIPES)
    card = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", card, re.M)) == set(RECIPES)
    for name in RECIPES:
        made = load_recipe(FOLDER / f"{name}.yaml")
        assert made.name == name and made.dtype == "float64" and set(made.splits) == {"test"}
        assert made.splits["test"] == (32 if name in RANDOM else 1)
        assert made.grid.shape == {1: (3001,), 2: (300, 300), 3: (64, 64, 64)}[made.grid.ndim]
        assert "×".join(map(str, made.grid.shape)) in card


@pytest.mark.parametrize("name", BY_HAND)
def test_truth_forcing_and_boundary_data_are_those_worked_out_by_hand(name: str) -> None:
    """f to 1e-10 of its largest value at random points and at the nodes, u and g to 1e-12."""
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    problem = recipe.make_problem()
    cases = problem.sample([1], recipe.grid.resized(23))
    lower, upper = (torch.tensor(side, dtype=torch.float64) for side in (recipe.grid.lower, recipe.grid.upper))
    x = lower + (upper - lower) * torch.rand(1, 3000, recipe.grid.ndim, dtype=torch.float64)
    points = cases.domain.points()[None]
    seen = cases.at(x)
    assert set(seen.exactness.values()) == {"formula"}
    u, f = BY_HAND[name](*x.unbind(-1))
    exact = problem.exact(cases, x)
    scale = float(u.abs().max())
    assert float((exact[:, 0] - u).abs().max()) < 1e-12 * scale
    size = float(f.abs().max())
    assert float((seen.f - f).abs().max()) <= 1e-10 * size
    on_nodes = BY_HAND[name](*points.unbind(-1))
    assert float((cases.input("f").flatten(1) - on_nodes[1]).abs().max()) <= 1e-10 * size
    # A closed form of f must be what the operator makes of u.
    d_f = torch.as_tensor(derived(problem, cases, x))
    assert float((d_f - f).abs().max()) <= 1e-10 * max(size, 1.0)
    grid_u = on_nodes[0].reshape(1, *cases.domain.shape)
    for face, data in cases.boundary.items():
        wall = grid_u.select("xyz".index(face[0]) + 1, -int(face[1]))
        assert float((data - wall).abs().max()) < 1e-12 * scale
    assert len(cases.boundary) == 2 * problem.ndim


def derived(problem, cases, x):
    """The operator applied to the solution by automatic differentiation, whatever `forcing` says."""
    residual = problem.residual_at(cases, lambda p: problem.exact(cases, p)[:, 0], x)
    return (residual + cases.at(x).f).detach()


@pytest.mark.parametrize("name", ["p1_x2", "adv"])
def test_files_are_made_rebuilt_and_described(name: str, tmp_path: Path) -> None:
    made = load_recipe(FOLDER / f"{name}.yaml")
    paths = generate(made, tmp_path, quiet=True)
    checked = verify(paths["test"])
    assert checked.passed and checked.tolerance == 0.0
    facts = describe(paths["test"])
    assert facts["label_method"] == "exact" and facts["splits"]["test"]["dtype"] == "float64"
    assert 0 < facts["splits"]["test"]["label_error"]["max"] < 1e-12
    # Second-order differences of sin 500x: a relative error of (kh)²/12.
    if name == "p1_x2":
        expected = (500 / 3000) ** 2 / 12
        assert facts["splits"]["test"]["residual"]["max"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_random_recipes_draw_every_case_anew_within_their_ranges(name: str) -> None:
    made = load_recipe(FOLDER / f"{name}.yaml")
    problem = made.make_problem()
    cases = problem.sample(made.seeds(made.ids("test")), made.grid.resized(9))
    assert set(cases.params) == set(problem.parameters)
    for key, (low, high) in problem.parameters.items():
        values = cases.params[key].numpy()
        assert low <= values.min() < values.max() <= high
        assert len(np.unique(values)) == 32
        assert values.std() > 0.15 * (high - low)  # uniform: 0.29


def test_what_is_offered_to_solvers() -> None:
    offered = {name: load_recipe(FOLDER / f"{name}.yaml").make_problem().views() for name in RECIPES}
    assert all({View.RESIDUAL, View.BOUNDARY} <= views for views in offered.values())
    without = {name for name, views in offered.items() if View.SYSTEM not in views}
    assert without == {"adv", "ac1_single", "ac1_sincos", "ac2_mix", "ac1_random"}


def two_scale_digits(x, mp):
    omega, kappa = 2 * mp.pi / mp.mpf(0.04), mp.mpf(1.8)
    C = -(1 + kappa * (mp.sin(omega) / omega + (mp.cos(omega) - 1) / omega**2)) / (2 + kappa * mp.sin(omega) / omega)
    wave = (x + C) * mp.sin(omega * x) / omega + (mp.cos(omega * x) - 1) / omega**2
    return x**2 + 2 * C * x + kappa * wave


DIGITS = {
    "p1_single": lambda x, mp: mp.sin(100 * x),
    "p1_xsin": lambda x, mp: x * mp.sin(200 * x),
    "p1_x2": lambda x, mp: mp.sin(500 * x) - 2 * (x - mp.mpf(1) / 2) ** 2,
    "chirp": lambda x, mp: mp.sin(150 * x**2),
    "layer": lambda x, mp: 1 - mp.cosh((x - mp.mpf(1) / 2) / mp.sqrt(1e-4)) / mp.cosh(1 / (2 * mp.sqrt(1e-4))),
    "homogenisation": two_scale_digits,
}


@pytest.mark.parametrize("name", DIGITS)
def test_the_label_error_bounds_the_distance_to_forty_digits(name: str) -> None:
    import mpmath  # comes with torch, through SymPy

    recipe = load_recipe(FOLDER / f"{name}.yaml")
    grid = recipe.grid.resized(301)
    problem = recipe.make_problem()
    solution = problem.reference(problem.sample([1], grid))
    with mpmath.workdps(40):
        truth = [DIGITS[name](mpmath.mpf(float(x)), mpmath) for x in grid.axis(0)]
        u = solution.field.values.flatten().tolist()
        gap = sum((a - b) ** 2 for a, b in zip(u, truth, strict=True)) / sum(b * b for b in truth)
        error = float(mpmath.sqrt(gap))
    assert error <= float(solution.stats["label_error"]) < 1e-12

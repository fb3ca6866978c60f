"""Recipes: every mistake is named, and the ones that come with sciops say what their cards say."""

from pathlib import Path

import pytest
from data_samples import recipe

from sciops.core.errors import UsageError
from sciops.core.evolution import Evolution
from sciops.core.random import case_seed
from sciops.data.generate import make_chunk
from sciops.data.recipe import load_recipe, parse_recipe

FOLDER = Path(__file__).parents[2] / "datasets"
SHIPPED = sorted(FOLDER.glob("*.yaml"))
# Grids that must fit a lattice of the whole domain, or be small because trajectories are long.
FITTING = {
    **{f"navier_stokes_{name}": (8, 8) for name in ("1e3", "1e4", "1e5", "small")},
    "wave_window": (32, 32),
    "wave_trace": (32, 17),
    "wave_trace_coarse": (32, 17),
}
GOOD = {
    "problem": {"class_path": "sciops.problems.poisson.Poisson", "init_args": {"ndim": 2}},
    "grid": {"shape": [8, 8]},
    "splits": {"train": 3, "test": 2},
}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sede": 1}, r"no key 'sede'"),
        ({"root_sed": 1}, r"no key 'root_sed'.*Did you mean 'root_seed'"),
        ({"grid": {"shap": [8, 8]}}, r"grid has no key 'shap'.*accepted: shape, lower.*Did you mean 'shape'"),
        ({"grid": {"layout": "node"}}, r"grid lacks the key 'shape'"),
        ({"grid": {"shape": [8, 8], "layout": "nodes"}}, r"layout must be one of node, cell, periodic; got 'nodes'"),
        ({"grid": {"shape": "8x8"}}, r"grid.shape\[0\] must be an integer of at least 2; got '8x8'"),
        ({"grid": {"shape": [8, 8], "lower": "low"}}, r"wrong type"),
        ({"grid": {"shape": [8]}}, r"Poisson is 2-D but the grid is 8 node"),
        ({"grid": {"shape": [8, 8], "layout": "periodic"}}, r"boundary 'dirichlet' but grid layout 'periodic'"),
        ({"splits": {"train": 3, "val": 2}}, r"splits may be train, valid, test; got train, val"),
        ({"splits": {"train": 0}}, r"splits.train must be an integer of at least 1; got 0"),
        ({"splits": {"train": "many"}}, r"splits.train must be an integer"),
        ({"splits": [1, 2]}, r"'splits' must be a mapping"),
        ({"reference": {"tolerance": 1e-8}}, r"reference has no key 'tolerance'"),
        ({"reference": {"tol": 2.0}}, r"reference.tol must lie between 0 and 1"),
        ({"reference": {"refine": 0}}, r"reference.refine must be an integer of at least 1"),
        ({"reference": {"tol": "small"}}, r"wrong type"),
        ({"dtype": "half"}, r"dtype must be float32 or float64; got 'half'"),
        ({"batch": True}, r"batch must be an integer"),
        ({"name": "../up"}, r"name may hold letters, digits"),
        ({"root_seed": -1}, r"root_seed must be"),
        ({"problem": {"class_path": "sciops.problems.poisson.Poison"}}, r"has no class 'Poison'"),
        ({"problem": {"class_path": "sciops.problems.poison.Poisson"}}, r"class_path 'sciops.problems.poison.Poisson'"),
        ({"problem": {"class_path": "pathlib.Path"}}, r"is not a Problem"),
        ({"problem": GOOD["problem"] | {"init_args": {"dim": 2}}}, r"Poisson has no argument 'dim'"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse_recipe(GOOD | change, "trial.yaml").make_problem()
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_missing_keys_and_files(tmp_path):
    for key in ("problem", "grid", "splits"):
        with pytest.raises(UsageError, match=f"lacks the key '{key}'"):
            parse_recipe({k: v for k, v in GOOD.items() if k != key}, "trial.yaml")
    with pytest.raises(UsageError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("grid: [1,")
    with pytest.raises(UsageError, match="is not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")


def test_even_refinement_of_cells_is_refused():
    with pytest.raises(UsageError, match="must be odd on cell layouts"):
        recipe(arguments={"ndim": 2, "condition": "neumann"}, layout="cell", reference={"refine": 2})


def test_ids_run_through_the_splits_and_seeds_are_hashes():
    made = recipe(splits={"train": 3, "valid": 2, "test": 4}, root_seed=7)
    assert [list(made.ids(s)) for s in ("train", "valid", "test")] == [[0, 1, 2], [3, 4], [5, 6, 7, 8]]
    assert made.seeds([4, 8]) == [case_seed(7, 4), case_seed(7, 8)]


def test_digest_changes_with_every_fact_but_the_name():
    table = GOOD | {"name": "a"}
    first = parse_recipe(table, "x").digest
    assert parse_recipe(table | {"name": "b"}, "x").digest == first
    for change in (
        {"root_seed": 1},
        {"dtype": "float64"},
        {"batch": 3},
        {"splits": {"train": 4}},
        {"grid": {"shape": [9, 8]}},
        {"reference": {"tol": 1e-9}},
    ):
        assert parse_recipe(table | change, "x").digest != first


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_recipes_work_and_have_cards(path):
    made = load_recipe(path)
    assert made.name == path.stem
    card = path.with_suffix(".md").read_text()
    for heading in ("Equation", "Law", "Shapes", "Truth and label error", "Seeds"):
        assert f"**{heading}.**" in card
    assert "×".join(map(str, made.grid.shape)) in card
    assert ", ".join(f"{n} {s}" for s, n in made.splits.items()) in card
    shape = FITTING.get(path.stem, (17,) * made.grid.ndim)
    small = made.resized({"train": 2}, shape)
    chunk = make_chunk(small, small.make_problem(), [0, 1])
    outputs = len(small.make_problem().outputs)
    assert chunk.outputs.shape[0] == 2 and chunk.outputs.shape[2:] == (outputs, *shape)
    assert str(chunk.outputs.dtype) == made.dtype
    if isinstance(small.make_problem(), Evolution):  # no residual: the estimate alone judges
        assert (chunk.label_error >= 0).all()
    else:
        assert (chunk.residual <= 10 * made.reference.tol).all()


def test_the_shipped_set_is_complete():
    names = {p.stem for p in SHIPPED}
    assert names >= {
        "poisson_1d",
        "poisson_2d",
        "poisson_3d",
        "poisson_2d_neumann",
        "poisson_2d_periodic",
        "darcy_smooth",
        "darcy_rough",
        "darcy_multiscale",
        "darcy_rough_small",
        "darcy_smooth_small",
    }
    sizes = {n: (load_recipe(FOLDER / f"{n}.yaml").grid.shape, load_recipe(FOLDER / f"{n}.yaml").splits) for n in names}
    assert sizes["darcy_smooth"] == ((211, 211), {"train": 1000, "valid": 100, "test": 100})
    assert sizes["darcy_rough"] == ((256, 256), {"train": 1280, "valid": 112, "test": 112})
    assert load_recipe(FOLDER / "darcy_smooth.yaml").solve_grid.shape == (421, 421)
    assert load_recipe(FOLDER / "darcy_rough.yaml").solve_grid.shape == (511, 511)

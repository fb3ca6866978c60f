import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "notebooks"


def run(path: Path) -> dict[str, object]:
    """Execute the code cells of a notebook in order, in one namespace."""
    namespace: dict[str, object] = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(path), "exec"), namespace)
    return namespace


def test_every_notebook_has_its_test():
    own = {"one_residual", "smoke_plume"}
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == own


def test_one_residual_shows_what_it_says():
    found = run(FOLDER / "one_residual.ipynb")
    assert float(found["residual"].detach().abs().max()) < 1e-10
    assert all(abs(order - 2) < 0.1 for order in found["orders"])


def test_smoke_plume_solves_every_pressure():
    import matplotlib

    matplotlib.use("Agg")
    found = run(FOLDER / "smoke_plume.ipynb")
    assert found["largest_divergence"] < 1e-6
    finals = {name: [float(s.residual[0]) for s in solved] for name, solved in found["solutions"].items()}
    assert len(finals) == 4 and all(len(r) == 2 and max(r) <= 1e-7 for r in finals.values()), finals

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"


def run(path: Path) -> dict[str, object]:
    """Execute the code cells of a notebook in order, in one namespace."""
    namespace: dict[str, object] = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(path), "exec"), namespace)
    return namespace


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook_runs(path):
    run(path)


def test_one_residual_shows_what_it_says():
    found = run(FOLDER / "one_residual.ipynb")
    assert float(found["residual"].detach().abs().max()) < 1e-10
    assert all(abs(order - 2) < 0.1 for order in found["orders"])

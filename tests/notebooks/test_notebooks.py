import json
import math
from itertools import pairwise
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
    own = {"one_residual", "smoke_plume", "high_frequency", "one_peak", "your_unet"}
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


def test_high_frequency_finds_the_line_bounds_the_error_and_refuses_the_chirp():
    import matplotlib

    matplotlib.use("Agg")
    found = run(FOLDER / "high_frequency.ipynb")
    assert found["error"] < 1e-9 and 0.1 < float(found["answer"].stats["error_estimate"][0]) / found["error"] < 10
    assert abs(found["facts"]["lines"][0][0] - 500 / (2 * math.pi)) < 1e-6
    # The fixed grid has a frequency every 1/1.37: the heaviest is the nearest.
    assert abs(found["found"] - 500 / (2 * math.pi)) < 0.5 / 1.37
    objective = found["spectrum"].objective
    assert all(b <= a + 1e-9 * abs(objective[0]) for a, b in pairwise(objective))
    assert found["inside"] > 0.9
    assert found["refused"].status[0].value == "unresolved" and found["refused"].stats["advice"][0]
    assert found["passed_on"].ok and found["chirp_error"] < 1e-6


def test_one_peak_is_found_by_points_that_follow_the_residual():
    import matplotlib

    matplotlib.use("Agg")
    found = run(FOLDER / "one_peak.ipynb")
    assert found["final"]["adversarial points"] < 0.2 and found["final"]["uniform points"] > 0.4
    # What the text says of the loss: at rounding on uniform points, and no measure of the error.
    losses = found["losses"]
    assert losses["uniform points"][-1] < 1e-10 < losses["adversarial points"][-1]
    last = found["shots"]["adversarial points"][-1].x
    assert float(((last - 0.5).square().sum(1) < 0.15**2).double().mean()) > 3 * 0.15**2 * math.pi / 4
    assert found["answer"].status[0].value != "ok" or found["best"] < 1e-2
    assert 1 / 3 < float(found["answer"].stats["error_estimate"][0]) / found["best"] < 3


def test_your_unet_keeps_its_error_on_every_grid():
    import matplotlib
    import torch

    matplotlib.use("Agg")
    found = run(FOLDER / "your_unet.ipynb")
    plain, converted = (dict(zip(found["sizes"], found["errors"][k], strict=True)) for k in ("as it is", "converted"))
    native = plain[16]
    assert native < 0.12 and converted[16] == native
    assert max(plain[32], plain[48], plain[64], plain[128]) > 3 * native
    assert max(v for n, v in converted.items() if n % 8 == 0) < 1.1 * native
    # Of 12 points the trigonometric interpolant of the answer is taken, which knows nothing above the grid's own limit.
    assert converted[12] < 1.4 * native
    fine = found["cases"](2, 48, 3)[0]
    with torch.no_grad():
        values = found["operator"](fine)[..., ::3, ::3]
        assert torch.equal(values, found["net"](fine[..., ::3, ::3].contiguous()))
    assert 0 < found["report"].equivariance < 0.1 and len(found["report"].rows()) > 20

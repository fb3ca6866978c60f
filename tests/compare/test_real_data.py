from dataclasses import replace

from sciops.compare.meter import Protocol
from sciops.compare.plan import Contestant, Plan
from sciops.compare.run import compare
from sciops.compare.sources import load_splits

NET = {
    "class_path": "sciops.models.unet.UNet",
    "init_args": {"width": 8, "levels": 2, "bc": "dirichlet", "layout": "node"},
}
LEARNER = Contestant(
    "U-Net",
    "sciops.solvers.operator.OperatorSolver",
    {"net": NET, "epochs": 2, "lr": 5e-3, "batch_size": 20, "weight_decay": 0.0, "device": "cpu"},
    (0,),
)
CLASSICAL = Contestant("multigrid", "sciops.solvers.multigrid_cg.MultigridCG", {}, (0,))


def test_published_darcy_files_run_as_a_data_only_problem(shared_data, tmp_path):
    plan = Plan("real", "real", str(shared_data / "darcy_neuraloperator"), (LEARNER, CLASSICAL))
    plan = replace(plan, metrics=("rel_l2",), timing=Protocol(2, 0.05, 1), memory=False)
    splits = load_splits(plan, tmp_path, lambda line: None)
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (900, 100, 50)
    assert splits.extra["test_32"].grid.shape == (32, 32)
    results = compare(plan, splits, tmp_path / "out", lambda line: None)
    learned, refused = results.rows
    # The mean of the training answers scores 0.49 here; two epochs of a small network do better.
    assert learned.status == "ok" and learned.score("rel_l2") < 0.35
    assert refused.status == "refused" and "linear in u" in refused.message
    assert [row.split for row in results.transfer] == ["test_32"]
    assert results.transfer[0].n_cases == 50

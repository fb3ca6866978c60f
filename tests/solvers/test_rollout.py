"""One-step operators as trajectory solvers."""

import torch
from heat_problem import heat
from sciops.core.solver import Budget
from sciops.data.windows import Windowed
from sciops.solvers.rollout import Rollout

UNET = {"class_path": "sciops.models.unet.UNet", "init_args": {"width": 4, "levels": 2}}

def test_smoke():
    train, val, test = (Windowed(heat(a, b, dim=2), 2, 4) for a, b in ((0, 8), (8, 10), (10, 13)))
    for options in ({}, {"strategy": "unrolled"}, {"strategy": "noise"}, {"strategy": "pushforward"}, {"residual": True, "block": 2}, {"time": True, "history": 1}):
        s = Rollout(UNET, epochs=2, lr=1e-2, batch_size=4, device="cpu", **options)
        assert s.refuses(train.problem, train.grid) is None
        r = s.fit(train, val)
        print(options, {k: v[-1] for k, v in r.curves.items()}, s.module.facts["kept"])
        sol = s.solve(test.cases(), test.grid)
        assert sol.ok and sol.field.times == test.truth().times

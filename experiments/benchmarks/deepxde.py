"""Training steps beside DeepXDE (PyTorch back end): same network, weights, points, loss and Adam.

Two questions. Are the loss curves the same? Both train from equal weights; the largest relative difference of the
losses over the first steps is printed (rounding in float64). How long does a step take? Single steps of all programs
alternate in one process; times are medians of CPU seconds, the ratio is the median over rounds, with quartiles: on a
busy machine only that is meant to be compared. DeepXDE's step is timed alone, without its bookkeeping. It evaluates the
equation at the boundary points too, this package does not. `--compile` adds this package's loss under `torch.compile`;
DeepXDE's nested reverse passes cannot be compiled.

What arithmetic allows: in matrix products alone, in units of one pass of values through the network, a loss of u and
k propagated channels costs 3 (1 + k). Nested reverse passes cost 3 (2 + 2m), m the axes with a second derivative: 12 on
both sides for Burgers (u_t, u_x, u_xx), 18 to 12 for Δu in two dimensions, 66 to 36 in ten (`products` in the table).
What is gained beyond that is gained outside of matrix products: fewer and fused passes over memory, fewer calls.

Problems: one_peak, −Δu = f with the boundary imposed exactly, 6×32, 1000 points (the network of DAS); burgers, 3×20,
2540 points inside and 240 on the faces (DeepXDE's own example); ten_dimensional, −Δu = f, 200 boundary points,
6×64, 1024 points.

    pip install deepxde==1.15.0        # or: pip install -e ".[benchmark]"
    OMP_NUM_THREADS=1 python experiments/benchmarks/deepxde.py --compile
"""

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sciops.core.grid import Grid
from sciops.core.problem import Problem
from sciops.models.hard_boundary import HardBoundary
from sciops.models.mlp import MLP
from sciops.models.trial import Trial
from sciops.problems.burgers import Burgers
from sciops.problems.peaks import OnePeak, TenDimensional
from sciops.solvers.pinn_loss import JointLoss
from sciops.solvers.pinn_rows import EquationRows, Sites, TrialRows, ValueRows


@dataclass(frozen=True)
class Setting:
    """One problem, its points and its network."""

    problem: Problem
    lower: Sequence[float]
    upper: Sequence[float]
    width: int
    depth: int
    inside: int
    faces: dict[tuple[int, int], int]
    hard: bool
    equation: Callable[..., Any]
    rate: float = 1e-3

    def points(self, seed: int) -> tuple[Tensor, Tensor]:
        """Uniform points inside and on the faces."""
        random = torch.Generator().manual_seed(seed)
        lower, upper = torch.tensor(self.lower).double(), torch.tensor(self.upper).double()

        def draw(n: int) -> Tensor:
            return lower + (upper - lower) * torch.rand(n, len(lower), generator=random, dtype=torch.float64)

        sides = []
        for (axis, side), n in self.faces.items():
            x = draw(n)
            x[:, axis] = (lower, upper)[side][axis]
            sides.append(x)
        return draw(self.inside), torch.cat(sides) if sides else draw(0)


def poisson(dde: Any, x: Any, u: Any) -> Any:
    return -sum(dde.grad.hessian(u, x, i=j, j=j) for j in range(x.shape[1]))


def burgers(dde: Any, x: Any, u: Any) -> Any:
    slope, speed = dde.grad.jacobian(u, x, i=0, j=0), dde.grad.jacobian(u, x, i=0, j=1)
    return speed + u * slope - 0.01 / np.pi * dde.grad.hessian(u, x, i=0, j=0)


def settings() -> dict[str, Setting]:
    ten = {(axis, side): 10 for axis in range(10) for side in (0, 1)}
    return {
        "one_peak": Setting(OnePeak(), [-1.0] * 2, [1.0] * 2, 32, 6, 1000, {}, True, poisson, 1e-4),
        "burgers": Setting(
            Burgers(), [-1.0, 0.0], [1.0, 1.0], 20, 3, 2540, {(0, 0): 40, (0, 1): 40, (1, 0): 160}, False, burgers
        ),
        "ten_dimensional": Setting(TenDimensional(), [-1.0] * 10, [1.0] * 10, 64, 6, 1024, ten, False, poisson),
    }


class Ours:
    """Adam on the rows of this package."""

    def __init__(self, given: Setting, net: MLP, dtype: torch.dtype) -> None:
        inside, sides = (x.to(dtype) for x in given.points(0))
        trial: Trial = net
        if given.hard:
            faces = [(axis, side) for axis in range(net.ndim) for side in (0, 1)]
            trial = HardBoundary(net, given.lower, given.upper, faces)
        case = case_of(given.problem).to(dtype=dtype)
        rows: list[TrialRows] = [EquationRows(trial, Sites(case, inside), weight=2.0)]
        if len(sides):
            rows.append(ValueRows(trial, sides, data_of(given, sides), weight=2.0))
        self.loss: Callable[[], Tensor] = JointLoss(rows)
        self.optimiser = torch.optim.Adam(net.parameters(), lr=given.rate, fused=True)

    def compiled(self) -> "Ours":
        self.loss = torch.compile(self.loss, dynamic=False)
        return self

    def step(self) -> float:
        self.optimiser.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())


class Theirs:
    """The same through DeepXDE."""

    def __init__(self, dde: Any, given: Setting, net: MLP, dtype: torch.dtype) -> None:
        inside, sides = given.points(0)
        f: list[Tensor] = []

        def equation(x: Any, u: Any) -> Any:
            if not f or len(f[0]) != len(x):
                f[:] = [case_of(given.problem).at(x.detach().double()[None]).f[0].to(dtype)[:, None]]
            return given.equation(dde, x, u) - f[0]

        conditions = []
        if len(sides):
            conditions.append(dde.icbc.PointSetBC(sides.numpy(), data_of(given, sides)[:, None].numpy()))
        box = dde.geometry.Hypercube(given.lower, given.upper)
        data = dde.data.PDE(box, equation, conditions, num_domain=0, anchors=inside.numpy())
        inner = dde.nn.FNN([net.ndim, *[given.width] * given.depth, 1], "tanh", "Glorot uniform")
        with torch.no_grad():
            for layer, W, b in zip(inner.linears, net.weights, net.biases, strict=True):
                layer.weight.copy_(W)
                layer.bias.copy_(b)
        if given.hard:
            inner.apply_output_transform(lambda x, u: (1 - x * x).prod(1, keepdim=True) * u)
        self.model = dde.Model(data, inner)
        self.model.compile("adam", lr=given.rate, verbose=0)

    def curve(self, steps: int) -> list[float]:
        history, _ = self.model.train(iterations=steps, display_every=1, verbose=0)
        return [float(np.sum(loss)) for loss in history.loss_train]

    def step(self) -> None:
        state = self.model.train_state
        if state.X_train is None:
            state.set_data_train(*self.model.data.train_next_batch(None))
        self.model._train_step(state.X_train, state.y_train, state.train_aux_vars)


def case_of(problem: Problem) -> Any:
    return problem.sample([0], Grid.box((2,) * problem.ndim, lower=-1.0) if problem.ndim > 2 else grid_of(problem))


def grid_of(problem: Problem) -> Grid:
    return Grid.box((5, 5), lower=(-1.0, 0.0 if isinstance(problem, Burgers) else -1.0), upper=1.0)


def data_of(given: Setting, x: Tensor) -> Tensor:
    exact = given.problem.exact(case_of(given.problem), x[None].double())
    assert exact is not None
    return exact[0, 0].to(x.dtype)


def network(given: Setting, dtype: torch.dtype) -> MLP:
    return MLP(len(given.lower), 1, given.width, given.depth, dtype=dtype, seed=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(settings()), choices=list(settings()))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--curve", type=int, default=300, help="steps of the loss curves")
    parser.add_argument("--compile", action="store_true", help="also this package's loss compiled (minutes)")
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    # The folder of this script comes first in the path and would hide the package of the same name.
    sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
    sys.modules.pop("deepxde", None)
    if importlib.util.find_spec("deepxde") is None:
        sys.exit('deepxde is not installed, so there is nothing to compare with: pip install -e ".[benchmark]".')
    os.environ["DDE_BACKEND"] = "pytorch"
    import deepxde as dde

    console = Console(width=160)
    table = Table(title=f"DeepXDE {dde.__version__} with torch {torch.__version__}: one step of Adam")
    titles = ["problem", "dtype", "products", "DeepXDE ms", "way", "sciops ms", "times faster (quartiles)"]
    for title in [*titles, "largest difference of the losses (steps)", "loss first → last"]:
        table.add_column(title)
    for name in given.problems:
        for kind in given.dtypes:
            for found in rows(dde, settings()[name], kind, given):
                console.print(name, kind, *found, sep=" | ")  # a long run shows what it has
                table.add_row(name, kind, *found)
    console.print(table)


def products(setting: Setting) -> str:
    """Times that nested reverse passes multiply as many matrices as propagated channels (hidden layers)."""
    d = len(setting.lower)
    channels, nested = (4, 4) if isinstance(setting.problem, Burgers) else (d + 2, 2 + 2 * d)
    return f"{nested / channels:.2f}"


def rows(dde: Any, setting: Setting, kind: str, given: argparse.Namespace) -> list[list[str]]:
    dde.config.set_default_float(kind)
    dtype = getattr(torch, kind)
    theirs = Theirs(dde, setting, network(setting, dtype), dtype)
    programs = {"eager": Ours(setting, network(setting, dtype), dtype)}
    if given.compile:
        torch._dynamo.reset()
        programs["compiled"] = Ours(setting, network(setting, dtype), dtype).compiled()
    known = theirs.curve(given.curve)
    curves = {way: [own.step() for _ in range(given.curve + 1)] for way, own in programs.items()}
    seconds = np.zeros((given.rounds, 1 + len(programs)))
    for times in seconds:
        for k, program in enumerate((theirs, *programs.values())):
            program.step()  # what the others left in the cache is replaced
            start = time.process_time()
            program.step()
            times[k] = time.process_time() - start
    tenth = max(given.curve // 10, 1)
    found = []
    for (way, curve), own in zip(curves.items(), seconds.T[1:], strict=True):
        far = [abs(a - b) / b for a, b in zip(curve, known, strict=True)]
        low, middle, high = np.quantile(seconds[:, 0] / own, [0.25, 0.5, 0.75])
        own_time, their_time = 1000 * np.median(own), 1000 * np.median(seconds[:, 0])
        found.append(
            [
                products(setting),
                f"{their_time:.2f}",
                way,
                f"{own_time:.2f}",
                f"{middle:.2f} ({low:.2f} … {high:.2f})",
                f"{max(far[: tenth + 1]):.1e} ({tenth}), {max(far):.1e} ({given.curve})",
                f"{curve[0]:.4g} → {curve[-1]:.4g}",
            ]
        )
    return found


if __name__ == "__main__":
    main()

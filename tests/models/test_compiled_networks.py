"""A training step with propagated derivatives compiles as one graph, because it needs a single backward pass."""

import os
import shutil
import subprocess
import sys

import pytest

STEP = """
import sys, torch
from sciops.core.calculus import LAPLACIAN
from sciops.models import sweep, sweep_loops
from sciops.models.mlp import MLP
from sciops.models.trial import Wrapped

if sys.argv[2] == "loops":
    sweep.LARGE = 0
    taken, made = [], sweep_loops.forward
    sweep_loops.forward = lambda *given: taken.append(1) or made(*given)
net = MLP(3, 1, 16, 3)
x = torch.rand(64, 3, dtype=torch.float64)

def loss(trial):
    t = trial.derivatives(x, frozenset({LAPLACIAN, (0, 0, 0), (1, 0, 0), (0, 2, 0)}))
    u = t[(0, 0, 0)]
    return (t[LAPLACIAN] + u * t[(1, 0, 0)] - 0.1 * t[(0, 2, 0)] - u**3).square().mean()

compiled = torch.compile(lambda: loss(net), fullgraph=True, dynamic=False, backend=sys.argv[1])
value, known = compiled(), loss(Wrapped(net, 3))
pairs = [torch.autograd.grad(v, list(net.parameters())) for v in (value, known)]
assert abs(float(value - known)) < 1e-12 * float(known), (float(value), float(known))
for ours, theirs in zip(*pairs, strict=True):
    assert (ours - theirs).abs().max() <= 1e-11 * theirs.abs().max().clamp_min(1e-12)
if sys.argv[2] == "loops":
    assert taken
"""


def run(backend: str, way: str = "layers") -> None:
    # A process of its own: the run-time checks of shapes would be part of the graph.
    environment = {**os.environ, "SCIOPS_TYPECHECK": "0"}
    done = subprocess.run(
        [sys.executable, "-c", STEP, backend, way], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_step_is_one_graph() -> None:
    run("aot_eager")


@pytest.mark.slow
def test_the_step_calls_compiled_loops() -> None:
    run("aot_eager", "loops")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_step_is_the_same() -> None:
    run("inductor")

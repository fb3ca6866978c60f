"""A training step with propagated derivatives against nested reverse passes, side by side.

The step: residual −Δu − f and its mean square at N points, gradient in all parameters; the same weights and points for
every method. Methods: nested reverse passes, propagated derivatives, the same without the fused activation, compiled by
`torch.compile` (`--compile`; nested passes cannot be compiled). Every repeat runs all methods in turn; the ratios are
medians over the repeats of CPU seconds (wall-clock seconds on a GPU), with their quartiles. Checked first: losses equal
to 1e-12 (float64), gradients to 1e-10.

    OMP_NUM_THREADS=1 python experiments/benchmarks/forward_laplacian.py --compile
"""

import argparse
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sciops.core.calculus import LAPLACIAN
from sciops.models import fused, sweep
from sciops.models.mlp import MLP
from sciops.models.trial import Trial, Wrapped

Step = Callable[[], tuple[Tensor, tuple[Tensor, ...]]]


def loss_of(trial: Trial, x: Tensor, f: Tensor) -> Tensor:
    residual = -trial.derivatives(x, frozenset({LAPLACIAN}))[LAPLACIAN] - f
    return residual.square().mean()


def step_of(trial: Trial, x: Tensor, f: Tensor, loss: Callable[..., Tensor] = loss_of) -> Step:
    parameters = [p for p in trial.parameters() if p.requires_grad]

    def step() -> tuple[Tensor, tuple[Tensor, ...]]:
        value = loss(trial, x, f)
        return value.detach(), torch.autograd.grad(value, parameters, allow_unused=True)

    return step


def plain(step: Step) -> Step:
    def run() -> tuple[Tensor, tuple[Tensor, ...]]:
        known = fused.transformed
        fused.transformed = sweep.transformed = lambda: True
        try:
            return step()
        finally:
            fused.transformed = sweep.transformed = known

    return run


def check(steps: dict[str, Step], dtype: torch.dtype) -> dict[str, float]:
    """Largest relative difference of loss and gradient from nested reverse passes."""
    loss, gradient = steps["nested reverse"]()
    tolerance = 1.0 if dtype == torch.float64 else 2.0**29
    found = {}
    for name, step in steps.items():
        other, slopes = step()
        pairs = [(a, b) for a, b in zip(slopes, gradient, strict=True) if a is not None and b is not None]
        far = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-300)) for a, b in pairs)
        found[name] = max(float((other - loss).abs() / loss), far)
        assert float((other - loss).abs()) <= 1e-12 * tolerance * float(loss), f"{name}: the losses differ"
        assert far <= 1e-10 * tolerance, f"{name}: the gradients differ by {far}"
    return found


def timed(steps: dict[str, Step], repeats: int, device: str) -> dict[str, list[float]]:
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            if device != "cpu":
                torch.cuda.synchronize()
            start = clock()
            step()
            if device != "cpu":
                torch.cuda.synchronize()
            seconds[name].append(clock() - start)
    return seconds


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75]).double())
    return float(low), float(middle), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--points", type=int, default=1024)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--activation", default="tanh")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--compile", action="store_true", help="also torch.compile (a minute per row)")
    given = parser.parse_args()
    console = Console(width=150)
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
        console.print(f"GPU: {torch.cuda.get_device_name()}")
    else:
        console.print("No GPU here: CPU only.")
    table = Table(title=f"MLP {given.depth}×{given.width} {given.activation}, N = {given.points}: one training step")
    for title in ("device", "d", "dtype", "method", "ms (quartiles)", "times faster than nested", "largest difference"):
        table.add_column(title)
    for device in devices:
        for d in given.dims:
            for name in given.dtypes:
                rows(table, given, device, d, getattr(torch, name))
    console.print(table)


def rows(table: Table, given: argparse.Namespace, device: str, d: int, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    net = MLP(d, 1, given.width, given.depth, given.activation, dtype=dtype).to(device)
    x = (2 * torch.rand(given.points, d, generator=random, dtype=torch.float64) - 1).to(device, dtype)
    f = torch.randn(given.points, 1, generator=random, dtype=torch.float64).to(device, dtype)
    forward = step_of(net, x, f)
    steps = {
        "nested reverse": step_of(Wrapped(net, d), x, f),
        "propagated": forward,
        "propagated, not fused": plain(forward),
    }
    if given.compile:
        torch._dynamo.reset()
        steps["propagated, compiled"] = step_of(net, x, f, torch.compile(loss_of, fullgraph=True, dynamic=False))
    found = check(steps, dtype)
    for step in steps.values():
        step()
    seconds = timed(steps, given.repeats, device)
    nested = seconds["nested reverse"]
    for method, times in seconds.items():
        low, middle, high = (1000 * v for v in quartiles(times))
        slow, ratio, fast = quartiles([a / b for a, b in zip(nested, times, strict=True)])
        table.add_row(
            device, str(d), str(dtype)[6:], method, f"{middle:.1f} ({low:.1f} … {high:.1f})",
            f"{ratio:.2f} ({slow:.2f} … {fast:.2f})", f"{found[method]:.1e}",
        )  # fmt: skip


if __name__ == "__main__":
    main()

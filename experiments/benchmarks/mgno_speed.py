"""Forward + backward time of the published rough-Darcy MgNO: one module per operation against `mgno_darcy`.

    python experiments/benchmarks/mgno_speed.py --threads 1 --batch 8 --repeats 30

The plain model writes the published loop down with one module per operation and the default memory format. Both
models hold the same weights and must give the same outputs and gradients before anything is timed. Timings alternate
between them, in random order, so that a busy machine slows both; the ratio is taken pair by pair.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sciops.models.mgno import PublishedMgNO, mgno_darcy, parse_iterations


class PlainCycle(nn.Module):
    """The published V-cycle, one module per operation."""

    def __init__(self, c_in: int, c: int, iterations: list[tuple[int, int]]):
        super().__init__()
        self.levels = len(iterations)
        for level, (pre, post) in enumerate(iterations):
            for i in range(pre + post):
                self.add_module(f"S{level}{i}", nn.Conv2d(c_in, c, 3, padding=1, bias=False))
                if level + i > 0:
                    self.add_module(f"A{level}{i}", nn.Conv2d(c, c_in, 3, padding=1, bias=False))
            if level < self.levels - 1:
                self.add_module(f"R{level}", nn.Conv2d(c_in, c_in, 3, stride=2, padding=1, bias=False))
                self.add_module(f"P{level}", nn.Conv2d(c, c, 3, stride=2, padding=1, bias=False))
                self.add_module(f"T{level}", nn.ConvTranspose2d(c, c, 4, stride=2, padding=1, bias=False))
        self.iterations = iterations

    def forward(self, f: Tensor) -> Tensor:
        op = self._modules
        us, fs = [], []
        u = None
        for level, (pre, _) in enumerate(self.iterations):
            for i in range(pre):
                A, S = f"A{level}{i}", op[f"S{level}{i}"]
                u = S(f) if u is None else u + S(f - op[A](u))
            us.append(u)
            fs.append(f)
            if level < self.levels - 1:
                u, f = op[f"P{level}"](u), op[f"R{level}"](f)
        for level in range(self.levels - 2, -1, -1):
            u = us[level] + op[f"T{level}"](u)
            pre, post = self.iterations[level]
            for i in range(pre, pre + post):
                u = u + op[f"S{level}{i}"](fs[level] - op[f"A{level}{i}"](u))
        return u


class PlainMgNO(nn.Module):
    def __init__(self, c_in: int, c_out: int, width: int, layers: int, iterations: list[tuple[int, int]]):
        super().__init__()
        channels = [c_in] + [width] * layers
        self.cycles = nn.ModuleList(PlainCycle(c, width, iterations) for c in channels[:-1])
        self.pointwise = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels[:-1])
        self.act = nn.GELU()
        self.head = nn.Conv2d(width, c_out, 1, bias=False)

    def forward(self, v: Tensor) -> Tensor:
        for cycle, pointwise in zip(self.cycles, self.pointwise, strict=True):
            v = self.act(cycle(v) + pointwise(v))
        return self.head(v)


def copy_weights(plain: PlainMgNO, ours: PublishedMgNO) -> None:
    """Give `plain` the weights of `ours`."""
    with torch.no_grad():
        for source, cycle, pointwise in zip(ours.layers, plain.cycles, plain.pointwise, strict=True):
            pointwise.load_state_dict(source.L.state_dict())
            W = source.W
            for level in range(len(W.S)):
                skip = len(W.S[level]) - len(W.A[level])
                for i, S in enumerate(W.S[level]):
                    getattr(cycle, f"S{level}{i}").weight.copy_(S.weight)
                    if i >= skip:
                        getattr(cycle, f"A{level}{i}").weight.copy_(W.A[level][i - skip].weight)
            for level in range(len(W.R)):
                for name, block in (("R", W.R), ("P", W.Pi), ("T", W.T)):
                    getattr(cycle, f"{name}{level}").weight.copy_(block[level].weight)
        plain.head.load_state_dict(ours.head.state_dict())


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


def assert_same(plain: PlainMgNO, ours: PublishedMgNO, x: Tensor) -> tuple[float, float]:
    """Relative difference of outputs and of the summed gradient; raises if above float32 rounding."""
    a, b = ours(x), plain(x)
    a.square().mean().backward()
    b.square().mean().backward()
    gradients = (
        sum(p.grad.square().sum() for p in ours.parameters()),
        sum(p.grad.square().sum() for p in plain.parameters()),
    )
    output, gradient = relative(a, b), relative(*gradients)
    if sum(p.numel() for p in plain.parameters()) != sum(p.numel() for p in ours.parameters()):
        raise AssertionError("the two models have different parameter counts")
    if output > 1e-5 or gradient > 1e-4:
        raise AssertionError(f"the two models disagree: outputs {output:.1e}, gradients {gradient:.1e}")
    return output, gradient


def step(model: nn.Module, x: Tensor) -> float:
    model.zero_grad(set_to_none=True)
    start = time.perf_counter()
    model(x).square().mean().backward()
    return time.perf_counter() - start


def interleave(runs: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Times of each run, all runs once per round in random order; the first two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for round_ in range(repeats + 2):
        random.shuffle(order)
        for name in order:
            seconds = runs[name]()
            if round_ >= 2:
                times[name].append(seconds)
    return times


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--n", type=int, default=64, help="grid points per axis, divisible by 32")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    iterations = ("10", "10", "10", "10", "10", "20")
    ours = mgno_darcy(iterations=iterations)
    plain = PlainMgNO(1, 1, 24, 4, parse_iterations(iterations))
    copy_weights(plain, ours)
    x = torch.randn(args.batch, 1, args.n, args.n)
    output, gradient = assert_same(plain, ours, x)
    times = interleave({"plain": lambda: step(plain, x), "sciops": lambda: step(ours, x)}, args.repeats)
    ratios = [a / b for a, b in zip(times["plain"], times["sciops"], strict=True)]

    table = Table(
        title=f"MgNO rough configuration, {args.n}², batch {args.batch}, float32, {args.threads} thread(s), "
        f"forward + backward, {args.repeats} interleaved repeats"
    )
    for column in ("", "lower quartile", "median", "upper quartile"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds in times.items():
        table.add_row(f"{name} [ms]", *(f"{1e3 * q:.1f}" for q in quartiles(seconds)))
    table.add_row("plain / sciops", *(f"{q:.3f}" for q in quartiles(ratios)))
    console = Console()
    console.print(table)
    console.print(f"same weights: outputs differ by {output:.1e}, squared gradient norm by {gradient:.1e} (relative)")


if __name__ == "__main__":
    main()

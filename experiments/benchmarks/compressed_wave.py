"""Waves by convolutional simulators: error, parameters and time, dense and compressed, over schemes and ranks.

    python experiments/benchmarks/compressed_wave.py                          # the curve over schemes and ranks
    python experiments/benchmarks/compressed_wave.py --domain window          # a part of the square, waves come and go
    python experiments/benchmarks/compressed_wave.py --train-cases 16 --case dense succession:24   # few trajectories
    python experiments/benchmarks/compressed_wave.py --block 4 --case dense succession:0.45 tucker:0.45   # 3-D kernels

Task: (u(t), u(t − d)) → u(t + d), or with --block the last b frames, d apart, → the next b by kernels over (t, x, y).
Waves from a Gaussian pulse in [0, 1]² with walls (`sciops.problems.wave.Wave`, leapfrog, 64 frames 1/64 apart), scaled
to unit variance: on a 33² grid of the square, or on the 32² nodes amid a 65² one, where what enters from outside cannot
be known. Network: four convolutions of width 24, k = 7, GELU; over (t, x, y) width 16, k = 3 × 5 × 5. Every contestant
is compressed before training and gets the same batches, the same steps of Adam with one cycle, the same rate, the same
seeds. Errors are mean relative L² over the test windows, the gap is test less training; of several seeds the median and
the range. "step" and "train s" are CPU time of one thread.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from sciops.core.grid import Grid
from sciops.models.compressed import compress
from sciops.models.compressed.curve import measured, relative_l2
from sciops.models.wave_cnn import WaveCNN
from sciops.problems.wave import Wave

CASES = [
    "dense",
    *(f"succession:{rank}" for rank in (6, 12, 18, 24, 34)),
    *(f"perkernel:{rank}" for rank in (1,)),
    *(f"{scheme}:{share}" for scheme in ("cp", "tucker", "tt") for share in (0.2, 0.45)),
]


def trajectories(cases: int, domain: str, seed: int = 0) -> Tensor:
    """Frames (n, t, x, y), float32."""
    wave = Wave(source="pulse")
    grid = Grid.box([33, 33] if domain == "square" else [65, 65])
    found = wave.reference(wave.sample(range(seed, seed + cases), grid, dtype=torch.float32)).field.values[:, :, 0]
    return found if domain == "square" else found[:, :, 16:48, 16:48].contiguous()


class Windows:
    """Windows of trajectories: frames in, frames out, `apart` between two of them."""

    def __init__(self, frames: Tensor, apart: int, block: int):
        history, horizon = (block, block) if block else (2, 1)
        self.frames, self.block = frames, block
        self.inside = apart * torch.arange(history)
        self.outside = apart * torch.arange(history, history + horizon)
        self.starts = frames.shape[1] - int(self.outside[-1])

    def at(self, cases: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Two frames as channels, or a block of them along an axis of time with one channel."""
        pair = [self.frames[cases[:, None], starts[:, None] + part] for part in (self.inside, self.outside)]
        x, y = [frames[:, None] if self.block else frames for frames in pair]
        return x, y

    def every(self, stride: int, cases: int) -> tuple[Tensor, Tensor]:
        starts = torch.arange(0, self.starts, stride)
        n = min(cases, len(self.frames))
        return self.at(torch.arange(n).repeat_interleave(len(starts)), starts.repeat(n))


def network(case: str, args: argparse.Namespace, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    side = "dirichlet" if args.domain == "square" else "free"
    if args.block:
        net: nn.Module = WaveCNN(1, 1, 16, kernel=(3, 5, 5), ndim=3, bc=["free", side, side])
    else:
        net = WaveCNN(2, 1, bc=side)
    if case == "dense":
        return net
    scheme, _, rank = case.partition(":")
    return compress(net, scheme, float(rank) if "." in rank else int(rank))


def train(net: nn.Module, windows: Windows, args: argparse.Namespace, seed: int) -> float:
    """CPU seconds."""
    g = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), args.lr)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, total_steps=args.steps, pct_start=0.2)
    started = time.process_time()
    for _ in range(args.steps):
        cases = torch.randint(len(windows.frames), (args.batch,), generator=g)
        x, y = windows.at(cases, torch.randint(windows.starts, (args.batch,), generator=g))
        loss = relative_l2(net(x), y).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cycle.step()
    return time.process_time() - started


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=CASES, help="dense, scheme:rank or scheme:fraction")
    parser.add_argument("--domain", choices=("square", "window"), default="square")
    parser.add_argument("--train-cases", type=int, default=256)
    parser.add_argument("--apart", type=int, default=4, help="frames between those of a window")
    parser.add_argument("--block", type=int, default=0, help="frames of a block; 0: two frames as channels")
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    frames = trajectories(args.train_cases + 64, args.domain)
    frames = frames / frames[: args.train_cases].std()
    learn, test = (Windows(part, args.apart, args.block) for part in frames.split([args.train_cases, 64]))
    stride = 4 * (1 + args.block)
    seen, unseen = learn.every(stride, 64), test.every(stride, 64)
    last, before = (unseen[0][(slice(None), slice(None), slice(k, k + 1)) if args.block else (slice(None), [k])]
                    for k in ((-1 % args.block, -2 % args.block) if args.block else (1, 0)))  # fmt: skip
    for name, guess in (("persistence", last.expand_as(unseen[1])), ("straight line", 2 * last - before)):
        print(f"{name}: {float(relative_l2(guess.expand_as(unseen[1]), unseen[1]).mean()):.3f}")
    batches = [(x, y) for x, y in zip(*(part.split(args.batch) for part in unseen), strict=True)]
    again = [(x, y) for x, y in zip(*(part.split(args.batch) for part in seen), strict=True)]
    print(f"{len(learn.frames)} trajectories, {args.steps} steps of {args.batch}, {args.seeds} seed(s), {args.domain}")
    print(
        f"| network | parameters | of dense | test rel L² | of {args.case[0]}'s | gap | MFLOP | step ms | forward ms "
        "| merged ms | train s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    total = sum(p.numel() for p in network("dense", args, 0).parameters())
    table: dict[str, dict[str, float]] = {}
    for case in args.case:
        errors, gaps, seconds = [], [], []
        for seed in range(args.seeds):
            net = network(case, args, seed)
            seconds.append(train(net, learn, args, seed))
            with torch.no_grad():
                found = [
                    torch.cat([relative_l2(net(x), y) for x, y in part]).mean().item() for part in (batches, again)
                ]
            errors.append(found[0])
            gaps.append(found[0] - found[1])
        p = measured(net, case, 0, total, batches[:1], args.repeats)
        error, gap = statistics.median(errors), statistics.median(gaps)
        spread = f" ({min(errors):.4f}–{max(errors):.4f})" if args.seeds > 1 else ""
        first = next(iter(table.values()), {"error": error, "step_ms": p.step_ms})
        print(
            f"| {case} | {p.parameters} | {p.share:.1%} | {error:.4f}{spread} | {error / first['error']:.2f} "
            f"| {gap:+.4f} | {p.mflop:.4g} | {p.step_ms:.3g} | {p.forward_ms:.3g} | {p.merged_ms:.3g} "
            f"| {statistics.median(seconds):.3g} |",
            flush=True,
        )
        table[case] = {"parameters": p.parameters, "error": error, "gap": gap, "step_ms": p.step_ms}
    table["persistence"] = {"error": float(relative_l2(last.expand_as(unseen[1]), unseen[1]).mean())}
    return table


if __name__ == "__main__":
    main()

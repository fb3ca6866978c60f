"""A U-Net trained on 32² points, asked at 16² to 256²: as it is, between interpolations, and converted by every method.

The map is ω(0) ↦ ω(1.2), vorticity of 2-D Navier–Stokes on the unit torus, unforced (a circular network cannot know
where a force acts), ν = 2e-4, root mean square of ω(0) 0.8. All fields are made on 128² points (four times the training
grid), strided to the grids that divide it and evaluated as the band-limited functions that they are on the others; 240
pairs to train, 40 to test. The network has 117 k parameters: 3 × 3 circular convolutions, BatchNorm, GELU, MaxPool,
transposed convolutions of size 2, skips; 21 epochs at 32².

Columns: mean relative L² error; `shared`: relative L² distance at 96² between the answer at native points and that of
the network on the strided input; seconds (CPU, per field at 96²). `integral, tuned` took 112 steps on 32² and 64² in
turn. The methods with kernels that grow stop at 96² unless `--largest-kernel` says otherwise.

    OMP_NUM_THREADS=1 python experiments/benchmarks/conversion_transfer.py

Berner et al., "Principled approaches for extending neural architectures to function spaces for operator learning",
2025, is the question; the set-up is ours.
"""

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sciops.core.grid import Grid
from sciops.core.interpolate import resample
from sciops.models.conversion.layout import ConversionError
from sciops.models.conversion.operator import to_neural_operator
from sciops.problems.navier_stokes import NavierStokes
from sciops.solvers.converted import moved

FINE = Grid.box(128, ndim=2, layout="periodic")
NATIVE = FINE.resized(32)
SIZES = (16, 24, 32, 48, 64, 96, 128, 256)
PROBLEM = NavierStokes(viscosity=2e-4, forcing=0.0, frames=1, every=1.2, sigma=85.0)
STEPS = 100
"""Time steps of the truth: with twice as many the fields change by less than 1e-8."""


class Block(nn.Sequential):
    """Twice: circular convolution, BatchNorm, GELU."""

    def __init__(self, inside: int, outside: int) -> None:
        layers: list[nn.Module] = []
        for c in (inside, outside):
            conv = nn.Conv2d(c, outside, 3, padding=1, padding_mode="circular")
            layers += [conv, nn.BatchNorm2d(outside), nn.GELU()]
        super().__init__(*layers)


class UNet(nn.Module):
    """The network of a user who thinks of arrays: nothing in it knows of grids or of sciops."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.enc1, self.enc2, self.mid = Block(1, w), Block(w, 2 * w), Block(2 * w, 4 * w)
        self.pool = nn.MaxPool2d(2)
        self.up2, self.up1 = nn.ConvTranspose2d(4 * w, 2 * w, 2, 2), nn.ConvTranspose2d(2 * w, w, 2, 2)
        self.dec2, self.dec1 = Block(4 * w, 2 * w), Block(2 * w, w)
        self.head = nn.Conv2d(w, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enc1(x)
        b = self.enc2(self.pool(a))
        c = self.up2(self.mid(self.pool(b)))
        d = self.up1(self.dec2(torch.cat([b, c], 1)))
        return self.head(self.dec1(torch.cat([a, d], 1)))


@dataclass
class Pairs:
    """ω(0) and ω(1.2) of some seeds, on any grid."""

    x: Tensor
    y: Tensor

    def on(self, n: int) -> tuple[Tensor, Tensor]:
        if FINE.shape[0] % n == 0:
            k = FINE.shape[0] // n
            return self.x[..., ::k, ::k].contiguous(), self.y[..., ::k, ::k].contiguous()
        return tuple(resample(v.double(), FINE, FINE.resized(n)).float() for v in (self.x, self.y))  # type: ignore[return-value]


def pairs(first: int, count: int) -> Pairs:
    """Fields on the fine grid, solved in double precision."""
    cases = PROBLEM.sample(list(range(first, first + count)), FINE)
    solution = PROBLEM.evolve(cases, PROBLEM.every / STEPS)
    if not solution.ok:
        raise RuntimeError("The truth left the finite numbers; take more STEPS.")
    return Pairs(cases.inputs.values[:, 0].float(), solution.field.values[:, 1].float())


def error(u: Tensor, y: Tensor) -> Tensor:
    """Relative L² error of each field."""
    return (u - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)


def train(net: nn.Module, data: list[tuple[Tensor, Tensor]], steps: int, lr: float, batch: int = 16) -> nn.Module:
    """Adam with a OneCycle schedule; batches take the grids in turn, every case once before any comes again."""
    optimiser = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
    count, orders = len(data[0][0]), [torch.empty(0, dtype=torch.long)] * len(data)
    for step in range(steps):
        j = step % len(data)
        if len(orders[j]) < batch:
            orders[j] = torch.randperm(count)
        chosen, orders[j] = orders[j][:batch], orders[j][batch:]
        x, y = data[j]
        optimiser.zero_grad()
        error(net(x[chosen]), y[chosen]).mean().backward()
        optimiser.step()
        schedule.step()
    return net


def interpolated(net: nn.Module, kind: str) -> Callable[[Tensor], Tensor]:
    def answer(x: Tensor) -> Tensor:
        grid = NATIVE.resized(tuple(x.shape[2:]))
        u = net(moved(x[:, None], grid, NATIVE, kind)[:, 0])  # type: ignore[arg-type]
        return moved(u[:, None], NATIVE, grid, kind)[:, 0]  # type: ignore[arg-type]

    return answer


def trained(data: Pairs, epochs: int = 21) -> nn.Module:
    """The network after training on 32² points."""
    torch.manual_seed(0)
    x, y = data.on(32)
    return train(UNet(), [(x, y)], epochs * (len(x) // 16), 4e-3).eval()


def contestants(net: nn.Module, data: Pairs, tuning: int = 112) -> dict[str, Callable[[Tensor], Tensor]]:
    """Every way of asking the network elsewhere."""
    shape = NATIVE.shape
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "as it is": net,
        "interpolation, bilinear": interpolated(net, "linear"),
        "interpolation, Fourier": interpolated(net, "fourier"),
    }
    found |= {m: to_neural_operator(net, shape, method=m) for m in ("paper_rule", "integral", "lattice", "point")}
    if tuning:
        tuned = to_neural_operator(copy.deepcopy(net), shape, method="integral")  # BatchNorm stays in eval mode
        torch.manual_seed(1)
        found["integral, tuned"] = train(tuned, [data.on(32), data.on(64)], tuning, 1e-3, batch=8)
    return found


@torch.no_grad()
def shared(answer: Callable[[Tensor], Tensor], net: nn.Module, test: Pairs, factor: int = 3) -> float:
    """Distance at native points between the answer on a finer grid and the network on the strided input."""
    x, _ = test.on(32 * factor)
    expected = net(x[..., ::factor, ::factor].contiguous())
    return error(answer(x)[..., ::factor, ::factor], expected).mean().item()


@torch.no_grad()
def errors(answer: Callable[[Tensor], Tensor], test: Pairs, sizes: tuple[int, ...]) -> dict[int, float]:
    """Mean relative L² error by size; nan where the method has no answer."""
    table = {}
    for n in sizes:
        x, y = test.on(n)
        try:
            table[n] = (
                torch.cat([error(answer(a), b) for a, b in zip(x.split(8), y.split(8), strict=True)]).mean().item()
            )
        except ConversionError:
            table[n] = float("nan")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=240)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=21)
    parser.add_argument("--tuning", type=int, default=112)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--largest-kernel", type=int, default=96)
    given = parser.parse_args()
    start = time.process_time()
    data, test = pairs(0, given.train), pairs(10_000, given.test)
    made = time.process_time() - start
    net = trained(data, given.epochs)
    x, y = test.on(32)
    print(
        f"{sum(p.numel() for p in net.parameters())} parameters; data {made:.0f} s, training "
        f"{time.process_time() - start - made:.0f} s; identity {error(x, y).mean():.3f}"
    )
    hat = torch.fft.fft2(test.y.double()).abs().square()
    k = torch.fft.fftfreq(FINE.shape[0], 1 / FINE.shape[0]).abs()
    above = torch.maximum(k[:, None], k) >= 16
    print(f"energy of the answers above the native Nyquist frequency: {hat[..., above].sum() / hat.sum():.2%}")
    print(f"{'':24}" + "".join(f"{n:>8}" for n in given.sizes) + f"{'shared':>10}{'s':>8}")
    for name, answer in contestants(net, data, given.tuning).items():
        grows = "integral" in name or name == "paper_rule"
        sizes = tuple(n for n in given.sizes if not grows or n <= given.largest_kernel)
        found = errors(answer, test, sizes)
        fine = test.on(96)[0][:4]
        start = time.process_time()
        with torch.no_grad():
            answer(fine)
        seconds = (time.process_time() - start) / len(fine)
        cells = "".join(f"{found[n]:8.4f}" if n in found and found[n] == found[n] else f"{'—':>8}" for n in given.sizes)
        print(f"{name:24}{cells}{shared(answer, net, test):10.1e}{seconds:8.3f}", flush=True)


if __name__ == "__main__":
    main()

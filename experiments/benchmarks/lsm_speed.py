"""CPU time of a training step of the latent spectral model, Darcy configuration: plain formulas against `lsm_darcy`.

    OMP_NUM_THREADS=1 python experiments/benchmarks/lsm_speed.py --batch 4 --repeats 8

The plain model writes the published formulas down one operation after the other, in the default memory format, with
keys, values and queries of every point and 2N sines and cosines of every token. Both models hold the same weights, in
the layout of the released code, and must give the same outputs and gradients before anything is timed. Steps
(forward + backward) alternate between them in random order, and the ratio is taken pair by pair. Times are CPU seconds
of the process. Exit code 1 below a ratio of 1.2.
"""

import argparse
import copy
import math
import random
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sciops.models.lsm import LSM, lsm_darcy
from sciops.models.lsm_reference import reference_state

BAR = 1.2


class PlainConvolutions(nn.Module):
    def __init__(self, c_in: int, c_mid: int, c_out: int):
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(c_in, c_mid, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_mid),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_mid, c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class PlainBlock(nn.Module):
    """z = z₀ + softmax(z₀ Kᵀ) V;  z ← z + Σ α sin + β cos;  x ← x + softmax(Q zᵀ) z, patches folded into the batch."""

    def __init__(self, width: int, tokens: int = 4, bases: int = 12, heads: int = 8):
        super().__init__()
        self.heads, self.bases = heads, bases
        self.latent = nn.Parameter(torch.zeros(heads, tokens, width // heads))
        self.weights = nn.Parameter(torch.zeros(width, 2 * bases))
        self.encoder_attn = nn.Conv2d(width, 2 * width, 1)
        self.decoder_attn = nn.Conv2d(width, width, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.einsum("rhqs,rhse->rhqe", torch.einsum("rhqe,rhse->rhqs", q, k).softmax(-1), v)

    def forward(self, x: Tensor, p: int) -> Tensor:
        n, c, height, width = x.shape
        rows, columns, h = height // p, width // p, self.heads
        x = x.view(n, c, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5).contiguous().view(-1, c, p, p)
        r = len(x)
        pairs = self.encoder_attn(x).view(r, h, c // h, 2, p * p).permute(3, 0, 1, 4, 2).contiguous()
        z0 = self.latent.expand(r, *self.latent.shape)
        z = z0 + self.attend(z0, pairs[0], pairs[1])
        z = z.permute(0, 1, 3, 2).contiguous().view(r, c, -1)
        angle = z.unsqueeze(-1) * (math.pi / self.bases * torch.arange(self.bases, dtype=z.dtype, device=z.device))
        z = z + torch.einsum("rctm,cm->rct", torch.cat([angle.sin(), angle.cos()], -1), self.weights)
        z = z.view(r, h, c // h, -1).permute(0, 1, 3, 2).contiguous()
        q = self.decoder_attn(x).view(r, h, c // h, p * p).permute(0, 1, 3, 2).contiguous()
        x = x + self.attend(q, z, z).permute(0, 1, 3, 2).contiguous().view(r, c, p, p)
        return x.view(n, rows, columns, c, p, p).permute(0, 3, 1, 4, 2, 5).contiguous().view(n, c, height, width)


class PlainLSM(nn.Module):
    def __init__(self, c_in: int, c_out: int, d: int):
        super().__init__()
        c = [d, 2 * d, 4 * d, 8 * d, 8 * d]
        self.fc0 = nn.Linear(c_in + 2, d)
        self.inc = PlainConvolutions(d, d, d)
        for level in range(1, 5):
            down = nn.Sequential(nn.MaxPool2d(2), PlainConvolutions(c[level - 1], c[level], c[level]))
            self.add_module(f"down{level}", nn.ModuleDict({"maxpool_conv": down}))
            skip = 4 - level
            up = PlainConvolutions(2 * c[skip], c[skip], c[max(skip - 1, 0)])
            self.add_module(f"up{level}", nn.ModuleDict({"conv": up}))
        for level in range(5):
            self.add_module(f"process{level + 1}", PlainBlock(c[level]))
        self.outc = nn.ModuleDict({"conv": nn.Conv2d(d, d, 1)})
        self.fc1, self.fc2 = nn.Linear(d, 128), nn.Linear(128, c_out)

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        axes = [torch.linspace(0, 1, size, dtype=x.dtype, device=x.device) for size in (height, width)]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).expand(n, height, width, 2)
        v = self.fc0(torch.cat([x.permute(0, 2, 3, 1), grid], -1)).permute(0, 3, 1, 2)
        v = F.pad(v, (0, -width % 16, 0, -height % 16))
        p, part = v.shape[-1] // 16, self._modules
        skips = [self.inc(v)]
        for level in range(1, 5):
            skips.append(part[f"down{level}"]["maxpool_conv"](skips[-1]))  # type: ignore[index]
        y = self.process5(skips[4], p)
        for level in range(1, 5):
            y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)
            skip = part[f"process{5 - level}"](skips[4 - level], p)  # type: ignore[misc]
            y = part[f"up{level}"]["conv"](torch.cat([skip, y], 1))  # type: ignore[index]
        y = self.outc["conv"](y)[..., :height, :width].permute(0, 2, 3, 1)
        return self.fc2(F.gelu(self.fc1(y))).permute(0, 3, 1, 2)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max())


def assert_same(plain: nn.Module, ours: LSM, x: Tensor) -> tuple[float, float]:
    """Largest difference of the outputs (float32, evaluation mode) and of the input's gradient (float64), relative to
    the largest value; raises where they exceed rounding."""
    with torch.no_grad():
        output = difference(ours.eval()(x), plain.eval()(x))
    grads = []
    for model in (ours, plain):
        probe = x[:1].double().requires_grad_()
        copy.deepcopy(model).train().double()(probe).square().sum().backward()
        grads.append(probe.grad)
    gradient = difference(*grads)  # type: ignore[arg-type]
    if sum(p.numel() for p in plain.parameters()) != sum(p.numel() for p in ours.parameters()):
        raise AssertionError("the two models have different parameter counts")
    if output > 1e-6 or gradient > 1e-10:
        raise AssertionError(f"the two models disagree: outputs {output:.1e}, gradients {gradient:.1e}")
    return output, gradient


def step(model: nn.Module, x: Tensor) -> tuple[float, float]:
    model.zero_grad(set_to_none=True)
    start = time.process_time()
    loss = model(x).square().mean()
    middle = time.process_time()
    loss.backward()
    return middle - start, time.process_time() - start


def main() -> int:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--n", type=int, default=85, help="grid points per axis")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    ours = lsm_darcy()
    plain = PlainLSM(1, 1, 64)
    plain.load_state_dict(reference_state(ours))
    x = torch.randn(args.batch, 1, args.n, args.n)
    output, gradient = assert_same(plain, ours, x)
    models = {"plain": plain.train(), "sciops": ours.train()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    order = list(models)
    for round_ in range(args.repeats + 1):
        random.shuffle(order)
        for name in order:
            seconds = step(models[name], x)
            if round_:
                times[name].append(seconds)
    table = Table(
        title=f"LSM Darcy configuration, {args.n}², batch {args.batch}, float32, {args.threads} thread(s), "
        f"{args.repeats} interleaved repeats"
    )
    for column in ("", "forward", "forward + backward, lower quartile", "median", "upper quartile"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in times.items():
        quartiles = statistics.quantiles([total for _, total in values], n=4)
        forward = statistics.median(f for f, _ in values)
        table.add_row(f"{name} [CPU ms]", *(f"{1e3 * q:.0f}" for q in (forward, *quartiles)))
    ratios = [[a[i] / b[i] for a, b in zip(times["plain"], times["sciops"], strict=True)] for i in (0, 1)]
    quartiles = statistics.quantiles(ratios[1], n=4)
    table.add_row("plain / sciops", *(f"{q:.2f}" for q in (statistics.median(ratios[0]), *quartiles)))
    console = Console(width=120)
    console.print(table)
    console.print(f"Same outputs to {output:.1e}, gradients to {gradient:.1e} (float64).", highlight=False)
    return 0 if quartiles[1] >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())

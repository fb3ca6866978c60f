"""Operators of `sciops.models.function_space` trained on one grid, or on several interleaved, and asked on others.

The map is f ↦ tanh(2u), u − Δu/10 = f on the periodic unit square, f random with |k| ≤ 4, in closed form on every grid:
128 cases to train, 16 others to test. Rows: small configurations of each operator, with the mean relative L² error at
12², 16², 24², 32² and 48² points, the native grid being 16², and the CPU seconds of training and test. With
`--train 16 32` batches take these grids in turn. Seeds fixed; one run each.

    OMP_NUM_THREADS=1 python experiments/benchmarks/function_space_transfer.py --nets local_fno vit --train 16
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sciops.core.grid import Grid
from sciops.models.function_space import LocalFNO, OFormer, UNetOperator, ViTOperator
from sciops.train.losses import RelativeIntegralL2

NATIVE = Grid.box(16, ndim=2, layout="periodic")
SIZES = (12, 16, 24, 32, 48)
NETS: dict[str, Callable[[], nn.Module]] = {
    "local_fno": lambda: LocalFNO(NATIVE, width=12, layers=2, n_modes=5, local=(0, 1), local_taps=3, lifting=24),
    "oformer": lambda: OFormer(NATIVE, width=24, heads=2, layers=2, n_modes=5, head_channels=12),
    "vit": lambda: ViTOperator(NATIVE, patch=2, width=32, layers=2, heads=4, mlp=64, fields=8, modes=2),
    "unet": lambda: UNetOperator(NATIVE, width=12, multipliers=(1, 2, 2), taps=3),
}


def cases(count: int, grid: Grid, seed: int, cut: int = 4) -> tuple[Tensor, Tensor]:
    """The same functions on any grid."""
    random = torch.Generator().manual_seed(seed)
    k = torch.arange(-cut, cut + 1)
    square = k[:, None] ** 2 + k[None] ** 2
    draws = torch.randn(count, len(k), len(k), 2, generator=random, dtype=torch.float64)
    c = torch.view_as_complex(draws) / (1 + square)
    waves = torch.exp(2j * torch.pi * grid.axis(0)[:, None] * k)
    f, u = (
        torch.einsum("nkl,xk,yl->nxy", a, waves, waves).real[:, None]
        for a in (c, c / (1 + (2 * torch.pi) ** 2 * square / 10))
    )
    return f.float(), torch.tanh(2 * u).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--train", nargs="+", type=int, default=[16])
    parser.add_argument("--steps", type=int, default=160)
    given = parser.parse_args()
    loss = RelativeIntegralL2("mean")
    training = [(grid, *cases(128, grid, 0)) for grid in (NATIVE.resized(n) for n in given.train)]
    print(f"trained on {given.train}, {given.steps} steps; error at " + "  ".join(f"{n}²" for n in SIZES))
    for name in given.nets:
        torch.manual_seed(0)
        net, start = NETS[name](), time.process_time()
        optimiser = torch.optim.Adam(net.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=given.steps)
        for step in range(given.steps):
            grid, x, y = training[step % len(training)]
            chosen = torch.randint(0, len(x), (16,))
            optimiser.zero_grad()
            loss(net(x[chosen]), y[chosen], grid).backward()
            optimiser.step()
            schedule.step()
        errors = []
        with torch.no_grad():
            for n in SIZES:
                grid = NATIVE.resized(n)
                x, y = cases(16, grid, 1)
                errors.append(loss(net(x), y, grid).item())
        size = sum(p.numel() for p in net.parameters())
        row = "  ".join(f"{e:.4f}" for e in errors)
        print(f"{name:10} {size:7d} parameters  {row}  {time.process_time() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()

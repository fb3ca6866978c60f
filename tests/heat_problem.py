"""A moving problem with a closed form: heat on the torus, small enough for every test."""

from dataclasses import dataclass, replace

import torch

from sciops.core.boundary import Boundary
from sciops.core.cases import Cases
from sciops.core.dataset import MemoryDataset
from sciops.core.evolution import Evolution
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Channel
from sciops.core.random import case_seed, generator
from sciops.core.solver import Solution


@dataclass(frozen=True)
class Heat(Evolution):
    """∂_t u = a Δu on the unit torus, a one number per case (given as a field), u(0) of few Fourier modes.

    Classical scheme: second-order differences and Crank–Nicolson ("implicit"), or Euler's explicit step.
    """

    dim: int = 1
    frames: int = 9
    every: float = 0.5
    scheme: str = "implicit"
    inputs = (Channel("u", "spectral"), Channel("a"))
    outputs = (Channel("u", "spectral"),)

    def __post_init__(self):
        object.__setattr__(self, "ndim", self.dim)
        object.__setattr__(self, "boundary", Boundary((("periodic", "periodic"),) * self.dim))

    def sample(self, seeds, grid, dtype=torch.float64, device="cpu"):
        u, a = [], []
        for seed in seeds:
            draw = generator(seed)
            total = 1.0 + torch.rand((), generator=draw, dtype=torch.float64)
            for _ in range(3):
                k = torch.randint(-2, 3, (self.dim,), generator=draw)
                amplitude, phase = torch.randn(2, generator=draw, dtype=torch.float64)
                x = sum(kj * xj for kj, xj in zip(k.tolist(), grid.mesh(), strict=True))
                total = total + amplitude * torch.cos(2 * torch.pi * x + phase)
            u.append(total * torch.ones(grid.shape, dtype=torch.float64))
            a.append((0.002 + 0.008 * torch.rand((), generator=draw, dtype=torch.float64)).expand(grid.shape))
        values = torch.stack([torch.stack(u), torch.stack(a)], dim=1).to(dtype=dtype, device=device)
        times = tuple(self.every * k for k in range(self.frames))
        return Cases(self, grid, Field.steady(values, grid, ("u", "a")), seeds=torch.tensor(seeds), times=times)

    def initial(self, cases):
        return cases.inputs.values[:, 0, :1]

    def _square(self, grid, discrete):
        """|k|² of every mode, exact or of the difference scheme."""
        total = torch.zeros(())
        for n, h in zip(grid.shape, grid.spacing, strict=True):
            k = 2 * torch.pi * torch.fft.fftfreq(n, h, dtype=torch.float64)
            part = (2 / h * torch.sin(k * h / 2)) ** 2 if discrete else k**2
            total = total[..., None] + part
        return total

    def stepper(self, cases, dt):
        square, axes = self._square(cases.domain, True), tuple(range(2, 2 + self.dim))
        z = cases.inputs.values[:, 0, 1:] * square * dt
        factor = (1 - z / 2) / (1 + z / 2) if self.scheme == "implicit" else 1 - z
        return lambda u, t: torch.fft.ifftn(torch.fft.fftn(u, dim=axes) * factor, dim=axes).real.to(u.dtype)

    def largest_step(self, cases):
        if self.scheme == "implicit":
            return float("inf")
        return float(0.99 * 2 / (cases.input("a").amax() * self._square(cases.domain, True).amax()))

    def reference(self, cases, tol=1e-10):
        square, axes = self._square(cases.domain, False), tuple(range(2, 2 + self.dim))
        start = torch.fft.fftn(self.initial(cases).double(), dim=axes)
        a = cases.inputs.values[:, 0, 1:].double()
        frames = [torch.fft.ifftn(start * torch.exp(-a * square * t), dim=axes).real for t in cases.times]
        field = Field(torch.stack(frames, 1).to(cases.dtype), cases.domain, ("u",), cases.times)
        return Solution(field, [Status.OK] * len(cases), {"label_method": "exact"})

    def invariants(self):
        return {"heat": lambda field: field.values.flatten(2).mean(2)}


def heat(start, stop, n=16, dtype=torch.float32, **options):
    """Cases start … stop−1 with their trajectories."""
    problem = Heat(**options)
    grid = Grid.box(n, ndim=problem.dim, layout="periodic")
    cases = problem.sample([case_seed(0, i) for i in range(start, stop)], grid)
    made = MemoryDataset(cases.to(dtype=dtype), problem.reference(cases).field.to(dtype=dtype))
    return replace(made, generation_seconds=0.5)

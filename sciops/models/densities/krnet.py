"""KRnet: a normalising flow with the triangular structure of the Knothe–Rosenblatt rearrangement."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.densities.base import Flow, box, weights_of
from sciops.models.densities.krnet_layers import ActNorm, AffineCoupling, QuadraticCDF, Reverse, Rotation

START = 1024


class KRnet(Flow):
    """p(x) = N(z(x); 0, I) |det ∂z/∂x| on a box that is a little larger than the one asked for.

    Data to latent: the enlarged box → (0, 1)^d → logit → ⌈d/step⌉ stages → standard normal. Each stage but the last
    works on the coordinates that are still active: `depth` times {actnorm, affine coupling, reversal of the order}, the
    coupling split after the first k − step of k coordinates and, reversed, after the first `step`; then the last `step`
    coordinates are frozen and leave. The last stage is an actnorm and an elementwise piecewise-quadratic CDF on
    [−50, 50] for all coordinates.

    step        coordinates that leave at a time, 1 as published for d ≤ 3 (2 in eight dimensions)
    depth       6, even, so that the order is restored
    width       24, conditioners with two hidden layers, Glorot normal
    activation  "silu" or "tanh": smooth, as a penalty on ∇p needs it; "relu" as published, for cross-entropy
    rotation    an LU-factored matrix before each stage
    bins        32 on a mesh that grows by 1.2 away from zero; 0 for none
    margin      0.005 of the edge on each side (0.01 for an edge of 2), because after a logit the density at the walls
                is zero or infinite; cut samples off by `Restricted`, multiply targets outside by `cut_off`
    zero_start  couplings start as the identity; False: Glorot normal as published, a random density in many dimensions

    The weights come from `seed`, and the actnorms are initialised with a Latin hypercube of 1,024 points, so that p
    starts near the uniform density, not at it. |∇p|² is large in boundary layers at the enlarged walls. Cost per point:
    d/step · depth small networks, in both directions. Float32 clamps the logit at 1e-6, float64 at 1e-10.
    Tang, Wan, Liao, "Adaptive deep density approximation for Fokker–Planck equations", JCP 457, 2022.
    """

    inner: Tensor

    def __init__(
        self,
        lower: Any,
        upper: Any,
        step: int = 1,
        depth: int = 6,
        width: int = 24,
        activation: str = "silu",
        rotation: bool = False,
        bins: int = 32,
        margin: float = 0.005,
        zero_start: bool = True,
        seed: int = 0,
    ) -> None:
        low, high = box(lower, upper)
        if step < 1 or depth < 2 or depth % 2 or width < 1 or bins < 0 or bins % 2 or margin < 0:
            raise UsageError(
                "KRnet needs step ≥ 1, depth even and ≥ 2, width ≥ 1, bins even and ≥ 0 and margin ≥ 0; "
                f"got {step}, {depth}, {width}, {bins} and {margin}."
            )
        super().__init__(low - margin * (high - low), high + margin * (high - low))
        self.register_buffer("inner", torch.stack([low, high]))
        self.guard = 1e-10 if low.dtype == torch.float64 else 1e-6
        random, d = weights_of(seed), self.ndim

        def coupling(k: int, split: int) -> AffineCoupling:
            return AffineCoupling(k, split, width, activation, random, self.lower, zero_start)

        stages: list[nn.Sequential] = []
        self.active: list[int] = []
        for i in range(math.ceil(d / step) - 1):
            k = d - i * step
            layers: list[nn.Module] = [Rotation(k, self.lower)] if rotation else []
            for j in range(depth):
                split = k - step if j % 2 == 0 else step
                layers += [ActNorm(k, self.lower), coupling(k, split), Reverse()]
            stages.append(nn.Sequential(*layers))
            self.active.append(k)
        self.stages = nn.ModuleList(stages)
        last: list[nn.Module] = [ActNorm(d, self.lower)]
        self.last = nn.ModuleList(last + ([QuadraticCDF(d, bins, self.lower)] if bins else []))
        order = torch.stack([torch.randperm(START, generator=random) for _ in range(d)], -1).to(self.lower)
        self.initialise(self.lower + (self.upper - self.lower) * (order + 0.5) / START)

    def initialise(self, x: Float[Tensor, "N d"]) -> None:
        """Set the actnorms so that each passes `x` on with mean 0 and variance 1."""
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, ActNorm):
                    module.fresh = True
            self(x)

    def forward(self, x: Float[Tensor, "N d"]) -> tuple[Float[Tensor, "N d"], Float[Tensor, " N"]]:
        widths = self.upper - self.lower
        t = ((x - self.lower) / widths).clamp(self.guard, 1 - self.guard)
        log_det = -(t.log() + torch.log1p(-t)).sum(-1) - torch.log(widths).sum()
        y = t.log() - torch.log1p(-t)
        for k, stage in zip(self.active, self.stages, strict=True):
            moved = y[:, :k]
            for layer in layers_of(stage):
                moved, change = layer(moved)
                log_det = log_det + change
            y = torch.cat([moved, y[:, k:]], -1)
        for layer in self.last:
            y, change = layer(y)
            log_det = log_det + change
        return y, log_det

    def inverse(self, z: Float[Tensor, "N d"]) -> tuple[Float[Tensor, "N d"], Float[Tensor, " N"]]:
        widths, y = self.upper - self.lower, z
        log_det = torch.log(widths).sum().expand(len(z))
        for layer in reversed(self.last):
            y, change = layer(y, inverse=True)
            log_det = log_det + change
        for k, stage in zip(self.active[::-1], list(self.stages)[::-1], strict=True):
            moved = y[:, :k]
            for layer in layers_of(stage)[::-1]:
                moved, change = layer(moved, inverse=True)
                log_det = log_det + change
            y = torch.cat([moved, y[:, k:]], -1)
        log_t, log_rest = nn.functional.logsigmoid(y), nn.functional.logsigmoid(-y)
        return self.lower + widths * torch.sigmoid(y), log_det + (log_t + log_rest).sum(-1)

    def base_log_prob(self, z: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        return -0.5 * (z**2).sum(-1) - 0.5 * self.ndim * math.log(2 * math.pi)

    def from_unit(self, u: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return self.inverse(torch.special.ndtri(u))[0]

    def rsample(self, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        return self.inverse(self.draw(n, random, normal=True))[0]

    def cut_off(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        """h(x): 1 in the box, falling linearly to 0 across the margin."""
        low, high = self.inner[0], self.inner[1]
        ramp = (low - self.lower).clamp(min=torch.finfo(x.dtype).tiny)
        outside = torch.maximum((low - x) / ramp, (x - high) / ramp).clamp(min=0)
        return (1 - outside.amax(-1)).clamp(min=0)


def layers_of(stage: nn.Module) -> list[nn.Module]:
    return list(stage.children())

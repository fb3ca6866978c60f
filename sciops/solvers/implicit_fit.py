"""Implicit representations: a network of the coordinates that reproduces a signal on a grid."""

import copy
import math
import time
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.linear import Status
from sciops.models.siren import Siren
from sciops.models.winner import RULES, CentroidRule, Winner


@dataclass
class Representation:
    """A fitted network; `psnr` (step, dB) while it was trained, the last entry that of `net`."""

    net: Siren
    psnr: list[tuple[int, float]] = field(default_factory=list)
    scales: tuple[float, float] = (0.0, 0.0)
    seconds: float = 0.0
    steps: int = 0
    status: Status = Status.OK
    advice: str = ""

    def values(self, shape: tuple[int, ...]) -> Float[Tensor, "c *s"]:
        """The signal on a grid of any shape over [−1, 1]^d, ends included."""
        weight = self.net.weights[0]
        x = coordinates(shape, weight.dtype, weight.device)
        with torch.no_grad():
            out = torch.cat([self.net(part) for part in x.split(65536)])
        return out.T.reshape(-1, *shape)


@dataclass(frozen=True)
class ImplicitFit:
    """min_θ mean |N_θ(x_i) − y_i|² over all samples by Adam; N a SIREN or, with `initialisation="winner"`, a Winner.

    rule          audio | image | CentroidRule: how the spectral centroid sets the noise (audio where there is one axis)
    width, depth  256 and 5
    lr, decay, every   Adam at 1e-4, times 0.998 every 20 steps
    batch         samples per step; None is all of them
    dtype         float32, as published
    PSNR = 10 log₁₀(range² / mean square error) with the range max − min of the signal. Cost per step 6 · samples ·
    parameters operations. Fails with a SIREN whose ω₀ is far below the signal's frequencies (it stays blurred), and
    with noise beyond the sampling frequency (it interpolates the samples and oscillates between them).
    Reference: Sitzmann et al., NeurIPS 33 (2020); arXiv 2509.09719 (2025).
    """

    initialisation: str = "winner"
    rule: str | CentroidRule | None = None
    width: int = 256
    depth: int = 5
    omega: float = 30.0
    steps: int = 5000
    lr: float = 1e-4
    decay: float = 0.998
    every: int = 20
    batch: int | None = None
    log_every: int = 100
    seed: int = 0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.initialisation not in ("winner", "siren"):
            raise UsageError(f"initialisation must be winner or siren; got '{self.initialisation}'.")
        if isinstance(self.rule, str) and self.rule not in RULES:
            raise UsageError(f"rule must be one of {', '.join(RULES)} or a CentroidRule; got '{self.rule}'.")
        if self.steps < 1 or self.every < 1 or self.log_every < 1 or (self.batch is not None and self.batch < 1):
            raise UsageError("steps, every, log_every and batch must be 1 or more.")

    def scales(self, signal: Float[Tensor, "c *s"]) -> tuple[float, float]:
        """(s₀, s₁) of the initial noise; zeros for a SIREN."""
        if self.initialisation == "siren":
            return 0.0, 0.0
        rule = self.rule or ("audio" if signal.dim() == 2 else "image")
        return (RULES[rule] if isinstance(rule, str) else rule).scales(signal)

    def fit(self, signal: Float[Tensor, "c *s"], seconds: float | None = None) -> Representation:
        """The network for a signal (channels, *grid), each axis spanning [−1, 1]."""
        if signal.dim() < 2 or not bool(torch.isfinite(signal).all()):
            raise UsageError(f"signal must be finite, of shape (channels, *grid); got shape {tuple(signal.shape)}.")
        extent = float(signal.max() - signal.min())
        if extent == 0:
            raise UsageError("The signal is constant: there is nothing to represent and PSNR is undefined.")
        begun = time.perf_counter()
        shape, scales = tuple(signal.shape[1:]), self.scales(signal)
        net = Winner(
            len(shape), signal.shape[0], self.width, self.depth, self.omega, scales, seed=self.seed, dtype=self.dtype
        ).to(signal.device)
        x = coordinates(shape, self.dtype, signal.device)
        y = signal.reshape(signal.shape[0], -1).T.to(self.dtype)
        found = Representation(net, scales=scales)
        optimiser = torch.optim.Adam(net.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.StepLR(optimiser, self.every, self.decay)
        random = torch.Generator().manual_seed(self.seed)
        best = copy.deepcopy(net.state_dict())
        for step in range(self.steps):
            if seconds is not None and time.perf_counter() - begun > seconds:
                found.status, found.advice = Status.BUDGET, "The time budget ended before all steps were made."
                break
            rows = slice(None) if self.batch is None else torch.randint(len(x), (self.batch,), generator=random)
            optimiser.zero_grad(set_to_none=True)
            loss = (net(x[rows]) - y[rows]).square().mean()
            if not bool(torch.isfinite(loss)):
                net.load_state_dict(best)
                found.status = Status.DIVERGED
                found.advice = "The loss became infinite or NaN; the network is the last one that was logged: lower lr."
                break
            if step % self.log_every == 0:
                found.psnr.append((step, psnr_of(net, x, y, extent)))
                best = copy.deepcopy(net.state_dict())
            loss.backward()
            optimiser.step()
            schedule.step()
            found.steps = step + 1
        found.psnr.append((found.steps, psnr_of(net, x, y, extent)))
        found.seconds = time.perf_counter() - begun
        return found


def coordinates(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Float[Tensor, "N d"]:
    """Grid points of [−1, 1]^d, ends included."""
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape)).to(device, dtype)


def psnr_of(net: Siren, x: Float[Tensor, "N d"], y: Float[Tensor, "N c"], extent: float) -> float:
    """Peak signal to noise in dB over all samples."""
    with torch.no_grad():
        error = sum(
            float((net(a) - b).double().square().sum()) for a, b in zip(x.split(65536), y.split(65536), strict=True)
        )
    return 10 * math.log10(extent**2 / max(error / y.numel(), 1e-300))

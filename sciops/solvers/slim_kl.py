"""Gaussian-process regression with a sparse grid spectral mixture kernel, learned by one or many workers (SLIM-KL)."""

import math
import warnings
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.slim_kl.components import Components, SpectralMixture, frequency_grid
from sciops.numerics.slim_kl.majorise import minimise, start
from sciops.numerics.slim_kl.noise import noise_variance
from sciops.numerics.slim_kl.processes import distributed
from sciops.numerics.slim_kl.protocol import Consensus, Settings, simulate
from sciops.numerics.slim_kl.support import support

SPLITS = ("random", "blocks")
PREDICTIONS = ("global", "fusion")
LEAST_POINTS = 8
"""Of a worker: fewer cannot tell a line from noise."""


@dataclass(frozen=True)
class Fitted:
    """What `SlimKL.fit` learned.

    theta        weights in units of y²; sum = variance of the signal
    frequencies  (A, P) in cycles per unit of X
    noise        variance of the observations' noise, in units of y²
    consensus    rounds and messages; None where one worker held all data
    converged    the residuals, or the change of the weights, met the tolerance
    points       of the smallest worker
    rounding     step Δ of the messages in units of θ where it is absolute, else 0
    """

    theta: Float[Tensor, " A"]
    frequencies: Float[Tensor, "A P"]
    noise: float
    consensus: Consensus | None
    converged: bool
    points: int
    rounding: float = 0.0

    def support(self, threshold: float = 1e-3) -> Int64[Tensor, " K"]:
        """Indices of the lines found: local maxima of θ above a share of the largest, and above what noise alone gives.

        The largest of A ordinates of a periodogram of n values of noise is about 2 log(A) σ_n²/n; rounding in absolute
        steps leaves one or two of them on weights that are zero.
        """
        floor = max(2 * math.log(max(len(self.theta), 2)) * self.noise / self.points, 2.5 * self.rounding)
        return support(self.theta, self.frequencies, threshold=threshold, floor=floor)


@dataclass
class SlimKL:
    """y = u(x) + e,  u ~ GP(0, Σ_a θ_a Π_p exp(−2π²σ²τ_p²) cos(2π μ_{a,p} τ_p)),  e ~ N(0, σ_n²).

    θ ≥ 0 minimises yᵀC⁻¹y + log|C| by closed-form majorisation steps that never raise it; μ and σ are fixed, and most
    weights decay to nothing. Several workers agree on θ by quantised ADMM without sharing data
    (`sciops.numerics.slim_kl.protocol`); y is centred and scaled to unit variance first.

    count, layout, highest   frequencies: 500 in 1-D, 100·P in P-D, in [0, 0.5] cycles per sample (`frequency_grid`)
    bandwidth                σ in cycles per sample: 1/(2πσ) = 159 samples is how far a line keeps its phase
    sample                   size of one sample per axis in units of X; if not given (largest − smallest)/(n − 1) with
                             n = N in 1-D, the distinct values of the axis where X is a full grid, and N^(1/P) else
    noise                    variance of the noise, in units of y², or "estimate" (smoothing spline or nearest points:
                             `noise_variance`), which is too large for signals faster than the points. It is fixed: so
                             many components explain any noise, and the likelihood of all would drive it to zero
    workers, split           data are dealt out at "random", so that each sees the whole span, or in "blocks" along the
                             first axis, which cuts the resolution of each worker to that of its block
    processes                True: one process per worker over gloo; False: the same arithmetic in this process
    prediction               "global": all data with the common weights, O(N³); "fusion": each worker predicts from its
                             own data, O(Σ N_j³), and the answers are averaged by precision: mean Σ w_j m_j,
                             w_j ∝ 1/v_j, variance J/Σ 1/v_j, so that far from data J copies of the prior count once
    settings                 rounds, ρ, tolerances, quantiser; published values by default

    Cost per step O(N_j² A 2^P + N_j³) per worker, memory 8 N_j A 2^P bytes. Fails (wide bands, noise near the variance
    of y) where the spectrum is not made of lines or lies above 0.5 cycles per sample; weights that did not settle are
    reported by a warning and `fitted.converged`.
    Reference: Suwandi et al., arXiv 2309.08201.
    """

    count: int | None = None
    layout: str = "auto"
    highest: float = 0.5
    bandwidth: float = 1e-3
    sample: float | list[float] | None = None
    noise: float | str = "estimate"
    workers: int = 1
    split: str = "random"
    processes: bool = False
    prediction: str = "global"
    settings: Settings = field(default_factory=Settings)
    timeout: float = 600.0

    fitted: Fitted | None = field(default=None, init=False)

    def fit(self, X: Float[Tensor, "N *P"], y: Float[Tensor, " n"]) -> "SlimKL":
        """Learn the weights from points (N, P) or (N,) and values (N,)."""
        x, values = self._checked(X, y)
        self._origin, self._unit = x.amin(0), self._samples(x)
        self._mean, self._scale = values.mean(), values.std()
        if not float(self._scale) > 0:
            raise UsageError("All values of y are equal; there is nothing to learn.")
        x, values = (x - self._origin) / self._unit, (values - self._mean) / self._scale
        grid = frequency_grid(
            x.shape[1], self.count, layout=self.layout, highest=self.highest, seed=self.settings.seed
        ).to(x.device)
        self._x, self._y, self._blocks = x, values, self._dealt(x)
        parts: list[Components] = [SpectralMixture(x[i], grid, self.bandwidth) for i in self._blocks]
        targets = [values[i, None] for i in self._blocks]
        noise, settings = self._noise(), self.settings
        theta = start(parts[0], targets[0], noise) if self.workers == 1 else grid.new_full((len(grid),), 1 / len(grid))
        consensus, converged = None, True
        if self.workers == 1:
            found = minimise(
                parts[0],
                targets[0],
                noise,
                theta,
                steps=settings.rounds * settings.steps,
                tol=settings.tolerance,
            )
            theta, converged = found.theta, found.converged
        else:
            if self.processes:
                consensus = distributed(parts, targets, noise, theta, settings, self.timeout)
            else:
                consensus = simulate(parts, targets, noise, theta, settings)
            theta, converged = consensus.theta, consensus.converged
        if not converged:
            warnings.warn(
                f"The weights had not settled after {settings.rounds} rounds; allow more, or a finer step of rounding.",
                stacklevel=2,
            )
        square = float(self._scale) ** 2
        self._theta, self._noise_scaled, self._grid = theta, noise, grid
        fewest = min(len(block) for block in self._blocks)
        quantiser = settings.quantiser
        rounding = 0.0 if quantiser.relative or consensus is None else quantiser.step * square
        self.fitted = Fitted(theta * square, grid / self._unit, noise * square, consensus, converged, fewest, rounding)
        return self

    def predict(
        self, X: Float[Tensor, "M *P"], *, of: str = "observation"
    ) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
        """Mean and standard deviation at points, of a further "observation" or of the "function" without noise."""
        if self.fitted is None:
            raise UsageError("predict was called before fit; call fit(X, y) first.")
        if of not in ("observation", "function"):
            raise UsageError(f"of={of!r} is not known; use 'observation' or 'function'.")
        x = self._points(X, "X")
        if x.shape[1] != self._x.shape[1]:
            raise UsageError(f"X has {x.shape[1]} axes, the fit had {self._x.shape[1]}.")
        x = (x - self._origin) / self._unit
        if self.prediction == "global":
            mean, variance = self._conditional(x, torch.arange(len(self._x), device=x.device))
        else:
            parts = [self._conditional(x, block) for block in self._blocks]
            precision = torch.stack([1 / v for _, v in parts])
            mean = (torch.stack([m for m, _ in parts]) * precision).sum(0) / precision.sum(0)
            variance = len(parts) / precision.sum(0)
        if of == "observation":
            variance = variance + self._noise_scaled
        return self._mean + self._scale * mean, self._scale * variance.sqrt()

    def _conditional(
        self, x: Float[Tensor, "M P"], block: Int64[Tensor, " n"]
    ) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
        """Mean and variance of u given one block of data; weights below 1e-12 of the largest are left out."""
        kept = self._theta > 1e-12 * self._theta.max()
        theta = self._theta[kept]
        mixture = SpectralMixture(self._x[block], self._grid[kept], self.bandwidth)
        C = mixture.total(theta)
        C.diagonal().add_(self._noise_scaled)
        factor, failed = torch.linalg.cholesky_ex(C)
        if int(failed):
            raise UsageError(
                f"The covariance of {len(block)} points is singular with noise variance {self._noise_scaled:.1e} of y; "
                "give a larger noise, or merge points that coincide."
            )
        cross = mixture.across(x, theta)
        mean = cross @ torch.cholesky_solve(self._y[block, None], factor)[:, 0]
        white = torch.linalg.solve_triangular(factor, cross.T, upper=False)
        # The difference of two numbers of the size of the prior: below their rounding it is not known.
        variance = theta.sum() - white.square().sum(0)
        return mean, variance.clamp_min(float(theta.sum()) * 1e-15)

    def _noise(self) -> float:
        """Variance on the scale of the standardised values: each worker's own estimate, averaged."""
        if isinstance(self.noise, str):
            if self.noise != "estimate":
                raise UsageError(f"noise={self.noise!r} is not known; use 'estimate' or a variance above 0.")
            return sum(noise_variance(self._x[i], self._y[i]) for i in self._blocks) / len(self._blocks)
        if not (math.isfinite(self.noise) and self.noise > 0):
            raise UsageError(f"noise={self.noise} is not a variance above 0; give one, or 'estimate'.")
        return self.noise / float(self._scale) ** 2

    def _dealt(self, x: Float[Tensor, "N P"]) -> list[Int64[Tensor, " n"]]:
        if self.workers < 1 or len(x) < LEAST_POINTS * self.workers:
            raise UsageError(
                f"{len(x)} points for {self.workers} workers; each needs at least {LEAST_POINTS}: use fewer workers."
            )
        if self.split == "random" and self.workers > 1:
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.settings.seed)).to(x.device)
        else:
            order = x[:, 0].argsort(stable=True)
        return [part.sort().values for part in order.tensor_split(self.workers)]

    def _samples(self, x: Float[Tensor, "N P"]) -> Float[Tensor, " P"]:
        """Size of one sample on each axis, in units of X."""
        extent = x.amax(0) - x.amin(0)
        if not bool((extent > 0).all()):
            raise UsageError("An axis of X has one value only; remove it.")
        P = x.shape[1]
        if self.sample is not None:
            unit = torch.as_tensor(self.sample, dtype=x.dtype, device=x.device).expand(P)
            if not bool((unit > 0).all()):
                raise UsageError(f"sample={self.sample} must be above 0 on every axis.")
            return unit
        distinct = torch.tensor([len(torch.unique(axis)) for axis in x.T], dtype=x.dtype, device=x.device)
        if P == 1 or int(distinct.prod()) != len(x):
            distinct = torch.full_like(distinct, max(len(x) ** (1 / P), 2.0))
        return extent / (distinct - 1)

    def _checked(self, X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self.settings.least_noise is not None:
            raise UsageError("settings.least_noise learns the noise, which is fixed here; leave it None.")
        if self.split not in SPLITS or self.prediction not in PREDICTIONS:
            raise UsageError(
                f"split={self.split!r} and prediction={self.prediction!r} must be among {SPLITS} and {PREDICTIONS}."
            )
        x, values = self._points(X, "X"), self._points(y, "y")[:, 0]
        if len(x) != len(values):
            raise UsageError(f"X has {len(x)} rows and y {len(values)} values; give one value per point.")
        return x, values

    def _points(self, x: Tensor, name: str) -> Tensor:
        """As (N, P) in float64, finite."""
        if x.dtype != torch.float64:
            warnings.warn(f"{name} is {x.dtype}; it is promoted to torch.float64, its rounding stays.", stacklevel=3)
        x = (x[:, None] if x.dim() == 1 else x).double()
        if x.dim() != 2 or not bool(torch.isfinite(x).all()):
            raise UsageError(f"{name} must be finite, of one row per point; it has shape {tuple(x.shape)}.")
        return x

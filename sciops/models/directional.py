"""Second-order operators and derivatives along chosen directions in one forward pass."""

from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus.forward import LAPLACIAN, Key, Request
from sciops.core.errors import UsageError
from sciops.models.channels import Plan, orders_up_to
from sciops.models.trial import Tape, Trial

Law = Literal["rademacher", "normal", "axes"]


@runtime_checkable
class Propagates(Protocol):
    """Networks that carry derivative channels from any derivatives of x."""

    def propagate(
        self, x: Tensor, seeds: Tensor, plan: Plan, tape: Tape | None = None, form: Tensor | None = None
    ) -> list[Tensor]: ...


def directional(
    trial: Trial, x: Float[Tensor, "N d"], directions: Float[Tensor, "m #N d"], request: Request
) -> dict[Key, Float[Tensor, "N c"]]:
    """D_v D_w … u along v_0 … v_{m−1}, (m, 1, d), or one set per point, (m, N, d), up to third order.

    The keys count directions instead of axes: with m = 2, (1, 1) is Σ_ij v_0i v_1j ∂_ij u and "laplacian" is
    Σ_k D_{v_k} D_{v_k} u. Directions that vary with the points are not differentiated. Cost: one channel per
    derivative, whatever d; trial functions that do not propagate make all d(d + 1)/2 second derivatives first.
    """
    m = len(directions)
    if any(not isinstance(key, str) and (len(key) != m or sum(key) > 3) for key in request):
        raise UsageError(f"Keys need {m} entries, one per direction, of sum ≤ 3; got {sorted(map(str, request))}.")
    plan = Plan.of(request, m)
    if isinstance(trial, Propagates):
        seeds = torch.cat([directions[list(plan.first)], directions.new_zeros(len(plan), *directions.shape[1:])])
        channels = trial.propagate(x, seeds[: len(plan)], plan)
        return {key: channels[plan.row_of(key)] for key in request}
    return _contracted(trial, x, directions.expand(-1, len(x), -1), request)


def second_order(
    trial: Trial,
    x: Float[Tensor, "N d"],
    A: Float[Tensor, "*N d d"],
    b: Float[Tensor, "*N d"] | None = None,
    tape: Tape | None = None,
) -> tuple[Float[Tensor, "N c"], Float[Tensor, "N c"]]:
    """u and Σ_ij A_ij ∂_ij u + Σ_i b_i ∂_i u, coefficients (d, d), (d,) or one set per point, (N, d, d), (N, d).

    One pass of d + 2 channels: the sum is collapsed in every layer, s = φ′ s + φ″ Σ_ij A_ij J_i J_j, the drift b starts
    the same channel. Where A = Σ_k σ_k σ_kᵀ has low rank m, `directional` along σ_k needs m + 2 channels.
    """
    d = x.shape[1]
    if isinstance(trial, Propagates):
        plan = Plan(tuple(range(d)), (), (), True)
        drift = x.new_zeros(1, d) if b is None else b.reshape(-1, d)
        eye = torch.eye(d, dtype=x.dtype, device=x.device)[:, None].expand(-1, len(drift), -1)
        channels = trial.propagate(x, torch.cat([eye, drift[None]]), plan, tape, A)
        return channels[0], channels[-1]
    found = trial.derivatives(x, orders_up_to(2, d), tape)
    total = torch.zeros_like(found[(0,) * d])
    for i in range(d):
        if b is not None:
            total = total + b[..., i, None] * found[_order((i,), d)]
        for j in range(d):
            total = total + A[..., i, j, None] * found[_order((i, j), d)]
    return found[(0,) * d], total


class RandomLaplacian(Trial):
    """A trial function whose Δu is the estimate Σ_k D_{v_k} D_{v_k} u, E[Σ_k v_k v_kᵀ] = I, new directions each call.

    For d > 50, where d + 2 channels are too many: count + 2 of them instead. Unbiased for every linear function of Δu.
    The mean square of a residual is too large by its variance, which acts as a weight on the off-diagonal second
    derivatives; `square_of` multiplies two independent draws instead.

    law    rademacher: signs, variance 2 Σ_{i≠j} (∂_ij u)² / count | normal: 2 Σ_ij (∂_ij u)² / count | axes: `count`
           of the d axes without repetition, variance (d/count) (d − count) var(∂_ii u), so exact at count = d
    Every point has its own directions, so that errors average out over a batch. Fails where the variance is large:
    signs with large off-diagonal second derivatives, axes with few that matter.
    References: Hutchinson, Commun. Stat. 18 (1989); Hu, Shi, Karniadakis, Kawaguchi, CMAME 424 (2024) 116883 (random
    directions); Hu, Shukla, Karniadakis, Kawaguchi, Neural Networks 176 (2024) 106369 (axes).
    """

    def __init__(self, net: Trial, count: int = 16, law: Law = "rademacher", seed: int = 0) -> None:
        super().__init__()
        if law not in ("rademacher", "normal", "axes"):
            raise UsageError(f"law must be rademacher, normal or axes; got '{law}'.")
        if count < 1 or (law == "axes" and count > net.ndim):
            raise UsageError(f"count must be 1 or more, and at most {net.ndim} for the law of axes; got {count}.")
        if not isinstance(net, Propagates):
            raise UsageError(f"{type(net).__name__} has no propagate(…), so random directions would not be cheaper.")
        self.ndim, self.channels = net.ndim, net.channels
        self.net, self.count, self.law = net, count, law
        self.random = torch.Generator().manual_seed(seed)

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N c"]:
        return self.net(x)

    def draw(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "m N d"]:
        """Directions with E[Σ_k v_k v_kᵀ] = I at every point."""
        shape, d = (self.count, *x.shape), self.ndim
        if self.law == "axes":
            chosen = torch.rand(len(x), d, generator=self.random).argsort(1)[:, : self.count].T
            v = torch.nn.functional.one_hot(chosen, d) * (d / self.count) ** 0.5
        elif self.law == "normal":
            v = torch.randn(shape, generator=self.random, dtype=torch.float64) / self.count**0.5
        else:
            v = (2.0 * torch.randint(2, shape, generator=self.random) - 1) / self.count**0.5
        return v.to(x)

    def derivatives(
        self, x: Float[Tensor, "N d"], request: Request, tape: Tape | None = None
    ) -> dict[Key, Float[Tensor, "N c"]]:
        if LAPLACIAN not in request:
            return self.net.derivatives(x, request, tape)
        zero, v = (0,) * self.ndim, self.draw(x)
        plan = Plan(tuple(range(self.count)), (), (), True)
        channels = self.net.propagate(x, torch.cat([v, torch.zeros_like(v[:1])]), plan, tape)
        found: dict[Key, Tensor] = {zero: channels[0], LAPLACIAN: channels[-1]}
        rest = request - set(found)
        if rest:
            found |= self.net.derivatives(x, rest, tape)
        return {key: found[key] for key in request}


def square_of(first: Float[Tensor, " N"], second: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """mean r r′ of one residual estimated twice with independent directions: an unbiased estimate of mean r²."""
    return (first * second).mean()


def _order(axes: tuple[int, ...], d: int) -> tuple[int, ...]:
    return tuple(axes.count(j) for j in range(d))


def _contracted(
    trial: Trial, x: Float[Tensor, "N d"], v: Float[Tensor, "m N d"], request: Request
) -> dict[Key, Float[Tensor, "N c"]]:
    """Directional derivatives from all derivatives along the axes."""
    d, m = x.shape[1], len(v)
    highest = max(2 if isinstance(key, str) else sum(key) for key in request)
    table = trial.derivatives(x, orders_up_to(highest, d))

    def along(chosen: tuple[int, ...], axes: tuple[int, ...] = ()) -> Tensor:
        if not chosen:
            return table[_order(axes, d)]
        parts = [v[chosen[0], :, i, None] * along(chosen[1:], (*axes, i)) for i in range(d)]
        return torch.stack(parts).sum(0)

    found: dict[Key, Tensor] = {}
    for key in request:
        if isinstance(key, str):
            found[key] = torch.stack([along((k, k)) for k in range(m)]).sum(0)
        else:
            found[key] = along(tuple(k for k, times in enumerate(key) for _ in range(times)))
    return found

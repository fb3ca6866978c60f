"""All derivative channels through all layers of a perceptron as one operation, its backward pass written by hand."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.models import sweep_loops as loops
from sciops.models.activations import Smooth, Tanh
from sciops.models.channels import Plan, bend
from sciops.models.fused import transformed

LARGE = 100_000
"""Points × channels × width from which compiled loops are worth their compilation."""

THREADS = 4
"""Of torch, up to which one thread that stays in the cache is faster."""


def sweepable(phi: Smooth, plan: Plan, h: Tensor, t: Tensor, form: Tensor | None, weights: Sequence[Tensor]) -> bool:
    """Up to second order, closed forms of φ′ … φ‴, and points that are not trained; no transforms of `torch.func`.
    Compilers see the sweep only where it is a call of compiled loops; they fuse layers themselves."""
    if form is not None or plan.third or h.requires_grad or t.requires_grad or transformed():
        return False
    if torch.compiler.is_compiling():
        return looped(phi, plan, h, weights)
    return type(phi).jet is not Smooth.jet


def looped(phi: Smooth, plan: Plan, h: Tensor, weights: Sequence[Tensor]) -> bool:
    """Training of large tanh networks on a CPU with few threads."""
    if not isinstance(phi, Tanh) or h.device.type != "cpu" or len(weights) < 2:
        return False
    large = len(h) * (1 + len(plan)) * max(len(W) for W in weights) >= LARGE
    plain = h.dtype in (torch.float32, torch.float64) and _few_threads()
    return large and plain and torch.is_grad_enabled()


def _few_threads() -> bool:
    return torch.get_num_threads() <= THREADS


_few_threads._dynamo_marked_constant = True  # type: ignore[attr-defined]  # asked once, while torch.compile looks


def sweep(
    phi: Smooth,
    plan: Plan,
    h: Float[Tensor, "N d"],
    t: Float[Tensor, "k #N d"],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
) -> list[Float[Tensor, "N c"]]:
    """u and its k channels from the features h of the points and their channels t.

    With z = W h + b and the channels J_i (first), o_ij (second) and s (collapsed) of z, every layer makes
        φ,  φ′ J_i,  φ′ o_ij + φ″ J_i J_j,  φ′ s + φ″ Σ J_i².
    One node of the graph instead of several a layer. Training of large tanh networks on a CPU with few threads goes
    through loops compiled by numba, all layers of a panel of points at a time in the cache
    (`numerics/compiled/tanh_sweep.py`; seconds at the first call on a machine, then cached), under `torch.compile` too;
    everything else takes a dozen tensor operations a layer. A second backward pass differentiates ordinary operations
    instead. Memory: 1 + k numbers a neuron and point in the loops, about three times as many otherwise.
    """
    if torch.compiler.is_compiling():
        sizes = [weights[0].shape[1], *map(len, weights)]
        out, _ = loops.channels(h, t, loops.joined(weights, biases), sizes, loops.described(plan))
        return list(out.unbind(0))
    way = _Operations
    if looped(phi, plan, h, weights) and any(p.requires_grad for p in (*weights, *biases)):
        way = _Loops
    return list(_Sweep.apply(way(phi, plan, h, t, len(weights)), *weights, *biases))  # type: ignore[no-untyped-call]


class _Operations:
    """Both ways in tensor operations."""

    def __init__(self, phi: Smooth, plan: Plan, h: Tensor, t: Tensor, depth: int) -> None:
        self.phi, self.plan, self.h, self.t, self.depth = phi, plan, h, t, depth

    def forward(self, given: Sequence[Tensor], trained: bool) -> tuple[Tensor, list[Tensor]]:
        """The channels (1 + k, N, c) and what the way back needs."""
        weights, biases = given[: self.depth], given[self.depth :]
        turned = [W.t() for W in weights]
        kept: list[Tensor] = []
        z = torch.addmm(biases[0], self.h, turned[0])
        if not len(self.plan):  # values alone
            for W, b in zip(turned[1:], biases[1:], strict=True):
                jets = self.phi.jet(z, int(trained))
                kept += jets
                z = torch.addmm(b, jets[0], W)
            return z[None], kept
        channels = self.t @ turned[0]
        for W, b in zip(turned[1:], biases[1:], strict=True):
            below = z.new_empty(1 + len(self.plan), *z.shape)
            extra = self._bend(z, channels, below, trained)
            if trained:
                kept += [below, channels, *extra]
            both = torch.mm(below.flatten(0, 1), W).unflatten(0, below.shape[:2])
            z, channels = both[0].add_(b), both[1:]
        if self.depth == 1:
            both = torch.cat([z[None], channels.expand(-1, len(z), -1)])
        return both, kept

    def backward(self, given: Sequence[Tensor], kept: Sequence[Tensor], g: Tensor, wanted: Sequence[bool]) -> Any:
        """The gradients of weights and biases from cotangents (1 + k, N, c)."""
        weights = given[: self.depth]
        lowest = min(k % self.depth for k, want in enumerate(wanted) if want)
        found: list[Tensor | None] = [None] * len(given)
        each = len(kept) // max(self.depth - 1, 1)
        for k in range(self.depth - 1, lowest - 1, -1):
            if wanted[self.depth + k]:
                found[self.depth + k] = g[0].sum(0)
            below, *extra = kept[(k - 1) * each : k * each] if k else (self.h,)
            flat, below = g.flatten(0, 1), below.flatten(0, -2)
            if wanted[k]:
                found[k] = flat.t() @ below if k else self._first(g)
            if k > lowest:
                g = torch.mm(flat, weights[k]).unflatten(0, g.shape[:2])
                self._unbend(extra, g)
        return found

    def _first(self, g: Tensor) -> Tensor:
        """The gradient of the first weights; channels that are the same at all points are summed first."""
        total = g[0].t() @ self.h
        if len(self.t):
            same = self.t.shape[1] < g.shape[1]
            total.addmm_((g[1:].sum(1) if same else g[1:].flatten(0, 1)).t(), self.t.flatten(0, 1))
        return total

    def _bend(self, value: Tensor, t: Tensor, out: Tensor, trained: bool) -> list[Tensor]:
        """Writes the channels behind the activation; what the way back needs besides them and `t`."""
        plan, D = self.plan, len(self.plan.first)
        jets = self.phi.jet(value, plan.order + int(trained))
        out[0].copy_(jets[0])
        kept = list(jets[1:])
        bent = torch.mul(jets[1], t, out=out[1:])
        for r, (i, j) in enumerate(plan.second, D):
            kept.append(t[plan.row((i,))] * t[plan.row((j,))])
            bent[r].addcmul_(jets[2], kept[-1])
        if plan.collapsed:
            q = t[0] * t[0]
            for slope in t[1:D]:
                q.addcmul_(slope, slope)
            kept.append(q)
            bent[-1].addcmul_(jets[2], q)
        return kept

    def _unbend(self, kept: Sequence[Tensor], g: Tensor) -> None:
        """Cotangents behind the activation become those in front of it, in place."""
        plan, D = self.plan, len(self.plan.first)
        value, G = g[0], g[1:]
        if not len(plan):
            value.mul_(kept[0])
            return
        t, jets, twists = kept[0], kept[1 : plan.order + 2], kept[plan.order + 2 :]
        value.mul_(jets[0])
        towards = G[0] * t[0]  # ∂/∂φ′
        for own, channel in zip(G[1:], t[1:], strict=True):
            towards.addcmul_(own, channel)
        value.addcmul_(jets[1], towards)
        bends = [jets[1] * own for own in G[D:]]
        for own, twist in zip(G[D:], twists, strict=True):
            value.addcmul_(torch.mul(jets[2], own, out=towards), twist)
        G.mul_(jets[0])
        for (i, j), own in zip(plan.second, bends, strict=False):
            a, b = plan.row((i,)), plan.row((j,))
            G[a].addcmul_(own, t[b])
            G[b].addcmul_(own, t[a])
        if plan.collapsed:
            for into, channel in zip(G[:D], t, strict=False):
                into.addcmul_(bends[-1], channel, value=2)


class _Loops(_Operations):
    """Both ways in compiled loops: tanh on a CPU."""

    def forward(self, given: Sequence[Tensor], trained: bool) -> tuple[Tensor, list[Tensor]]:
        weights, biases = given[: self.depth], given[self.depth :]
        self.sizes, self.code = [weights[0].shape[1], *map(len, weights)], loops.described(self.plan)
        theta = loops.joined(weights, biases)
        out, store = loops.forward(self.h, self.t, theta, self.sizes, self.code)
        return out, [theta, store]

    def backward(self, given: Sequence[Tensor], kept: Sequence[Tensor], g: Tensor, wanted: Sequence[bool]) -> Any:
        gradient = loops.backward(self.h, self.t, kept[0], self.sizes, self.code, kept[1], g)
        parts = loops.split(gradient, given[: self.depth])
        return [part if want else None for part, want in zip(parts, wanted, strict=True)]


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, way: _Operations, *given: Tensor) -> Any:
        ctx.way = way
        ctx.set_materialize_grads(False)
        trained = any(ctx.needs_input_grad)
        out, kept = way.forward(given, trained)
        if trained:
            ctx.save_for_backward(*given, *kept)
        return out.unbind(0)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        way = cast(_Operations, ctx.way)
        given, kept = ctx.saved_tensors[: 2 * way.depth], ctx.saved_tensors[2 * way.depth :]
        first = next((g for g in slopes if g is not None), None)
        if first is None:
            return (None,) * (1 + len(given))
        if torch.is_grad_enabled() or transformed() or torch._C._functorch.is_legacy_batchedtensor(first):
            return (None, *_again(way, given, slopes))
        g = torch.stack([torch.zeros_like(first) if g is None else g for g in slopes])
        return (None, *way.backward(given, kept, g, ctx.needs_input_grad[1:]))


def _again(way: _Operations, given: Sequence[Tensor], slopes: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The backward pass by differentiable operations."""
    with torch.enable_grad():
        own = [p.view_as(p) for p in given]  # nodes of their own: parameters are leaves
        h, t = way.h, way.t
        for k, (W, b) in enumerate(zip(own[: way.depth], own[way.depth :], strict=True)):
            if k:
                h, t = bend(way.phi, way.plan, h, t)
            h, t = torch.nn.functional.linear(h, W, b), torch.nn.functional.linear(t, W)
        out = [h, *t.expand(-1, len(h), -1).unbind(0)]
        pairs = [(u, g) for u, g in zip(out, slopes, strict=True) if g is not None and u.requires_grad]
        ends, towards = [u for u, _ in pairs], [g for _, g in pairs]
        wanted, again = [p for p in own if p.requires_grad], torch.is_grad_enabled()
        found = iter(torch.autograd.grad(ends, wanted, towards, create_graph=again, allow_unused=True))
    return [next(found) if p.requires_grad else None for p in own]

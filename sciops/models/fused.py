"""Activations on all derivative channels at once, with a backward pass written by hand."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sciops.models.activations import Smooth
from sciops.models.channels import Plan, bend


def curve(phi: Smooth, plan: Plan, parts: Sequence[Tensor], bias: Tensor, form: Tensor | None = None) -> Tensor:
    """φ(z + bias) with its derivative channels, (1 + k, N, w), of all channels [(1 + k, N, w)] or of the value and the
    derivatives apart, [(N, w), (k, N or 1, w)].

    The fused form makes every channel in one pass over memory and keeps φ′, φ″, φ‴ for the backward pass, instead of
    one temporary per operation. It is taken in ordinary eager execution, up to second order and for activations whose
    derivatives are closed forms; `bend` does the rest: compilers fuse it themselves, `torch.func` has its own rules.
    """
    eager = not (torch.compiler.is_compiling() or transformed())
    if eager and form is None and not plan.third and type(phi).jet is not Smooth.jet:
        return _Curve.apply(parts[0], parts[1] if len(parts) > 1 else None, bias, phi, plan)
    return _plain(phi, plan, parts, bias, form)


def _plain(phi: Smooth, plan: Plan, parts: Sequence[Tensor], bias: Tensor, form: Tensor | None = None) -> Tensor:
    z, t = parts if len(parts) == 2 else (parts[0][0], parts[0][1:])
    h, t = bend(phi, plan, z + bias, t, form)
    return torch.cat([h[None], t.expand(-1, len(h), -1)])


def transformed() -> bool:
    """Inside torch.func's transforms or forward-mode differentiation."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


class _Curve(torch.autograd.Function):
    """With J_i, own and s the first, second and collapsed channels of z, and q = Σ J_i²:

    h = φ,  J_i′ = φ′ J_i,  own′ = φ′ own + φ″ J_i J_j,  s′ = φ′ s + φ″ q.
    A second backward pass differentiates the plain form instead.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, t: Tensor | None, bias: Tensor, phi: Smooth, plan: Plan) -> Tensor:
        value, *slopes = z.unbind(0) if t is None else (z, *t.unbind(0))
        trained = any(ctx.needs_input_grad)
        jets = phi.jet(value + bias, plan.order + int(trained))
        out = torch.empty((1 + len(slopes), *value.shape), dtype=value.dtype, device=value.device)
        made, *bent = out.unbind(0)
        made.copy_(jets[0])
        for i in range(len(slopes)):
            torch.mul(jets[1], slopes[i], out=bent[i])
        for r, (i, j) in enumerate(plan.second, len(plan.first)):
            bent[r].addcmul_(jets[2], slopes[plan.row((i,))] * slopes[plan.row((j,))])
        q = None
        if plan.collapsed:
            q = slopes[0] * slopes[0]
            for slope in slopes[1 : len(plan.first)]:
                q.addcmul_(slope, slope)
            bent[-1].addcmul_(jets[2], q)
        ctx.phi, ctx.plan = phi, plan
        if trained:
            ctx.save_for_backward(z, t, bias, q, *jets[1:])
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        z, t, bias, q, *jets = ctx.saved_tensors
        plan: Plan = ctx.plan
        if torch.is_grad_enabled() or transformed() or torch._C._functorch.is_legacy_batchedtensor(g):
            return _again(ctx, z, t, bias, g)
        value, *slopes = z.unbind(0) if t is None else (z, *t.unbind(0))
        out = torch.empty((1 + len(slopes), *value.shape), dtype=value.dtype, device=value.device)
        dz, *dt = out.unbind(0)
        to_value, *to_slopes = g.unbind(0)
        torch.mul(jets[0], to_value, out=dz)
        towards_first: Tensor | None = None  # ∂/∂φ′
        for into, to, slope in zip(dt, to_slopes, slopes, strict=True):
            torch.mul(jets[0], to, out=into)
            towards_first = to * slope if towards_first is None else towards_first.addcmul_(to, slope)
        if plan.collapsed:
            dz.addcmul_(jets[2] * q, to_slopes[-1])
            twist = jets[1] * to_slopes[-1]
            for into, slope in zip(dt[: len(plan.first)], slopes, strict=False):
                into.addcmul_(twist, slope, value=2)
        for r, (i, j) in enumerate(plan.second, len(plan.first)):
            a, b = plan.row((i,)), plan.row((j,))
            dz.addcmul_(jets[2] * to_slopes[r], slopes[a] * slopes[b])
            twist = jets[1] * to_slopes[r]
            dt[a].addcmul_(twist, slopes[b])
            dt[b].addcmul_(twist, slopes[a])
        if towards_first is not None:
            dz.addcmul_(jets[1], towards_first)
        to_bias = dz.sum(0) if ctx.needs_input_grad[2] else None
        if t is None:
            return out, None, to_bias, None, None
        rest = out[1:]
        return dz, rest.sum(1, keepdim=True) if t.shape[1] == 1 < rest.shape[1] else rest, to_bias, None, None


def _again(ctx: Any, z: Tensor, t: Tensor | None, bias: Tensor, g: Tensor) -> tuple[Tensor | None, ...]:
    """The backward pass by differentiable operations."""
    with torch.enable_grad():
        parts = [z.view_as(z)] if t is None else [z.view_as(z), t.view_as(t)]  # own nodes: z may be a leaf
        own = bias.view_as(bias)
        wanted = [v for v in (*parts, own) if v.requires_grad]
        out = _plain(ctx.phi, ctx.plan, parts, own)
        slopes = iter(torch.autograd.grad(out, wanted, g, create_graph=torch.is_grad_enabled(), allow_unused=True))
    found = [next(slopes) if v.requires_grad else None for v in (*parts, own)]
    return (found[0], None if t is None else found[1], found[-1], None, None)

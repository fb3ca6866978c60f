"""The compiled loops of tanh networks as operations of torch, which `torch.compile` calls and does not look into.

Compiled graphs outlive a change of this file in the compiler's cache on the disk: where the sizes of what an operation
returns change, its name has to change too.
"""

import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sciops.models.channels import Plan

LINE = 64
"""Bytes of a cache line."""

SPARE = 1 << 27
"""Bytes that are kept from one step to the next, at most."""

_spare: list[Any] = []


def described(plan: Plan) -> list[int]:
    """First channels, whether there is a collapsed one, and the two first channels of every second one, behind the
    value: numbers, because an operation takes nothing else."""
    pairs = [1 + plan.row((k,)) for axes in plan.second for k in axes]
    return [len(plan.first), int(plan.collapsed), *pairs]


def joined(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """All parameters as one vector, every layer its weights, then its biases."""
    return torch.cat([p.reshape(-1) for pair in zip(weights, biases, strict=True) for p in pair])


def split(theta: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Weights, then biases of such a vector."""
    shapes = [(len(W), n) for W in weights for n in (W.shape[1], 0)]
    parts = theta.split([m * max(n, 1) for m, n in shapes])
    views = [part.view(m, n) if n else part for part, (m, n) in zip(parts, shapes, strict=True)]
    return views[::2] + views[1::2]


def forward(x: Tensor, t: Tensor, theta: Tensor, sizes: Sequence[int], plan: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The channels (1 + k, N, c) and what the way back needs."""
    from sciops.numerics.compiled import tanh_sweep

    out = x.new_empty(_shape(x, t, sizes))
    store = _room(_kept(x, t, sizes), x)
    tanh_sweep.forward(*_arguments(x, t, theta, sizes, plan), store.numpy(), out.numpy())
    return out, store


def backward(
    x: Tensor, t: Tensor, theta: Tensor, sizes: Sequence[int], plan: Sequence[int], store: Tensor, slopes: Tensor
) -> Tensor:
    """The gradient in all parameters from cotangents (1 + k, N, c)."""
    from sciops.numerics.compiled import tanh_sweep

    gradient, slopes = torch.zeros_like(theta), slopes.detach().contiguous()
    tanh_sweep.backward(*_arguments(x, t, theta, sizes, plan), store.numpy(), slopes.numpy(), gradient.numpy())
    return gradient


def _shape(x: Tensor, t: Tensor, sizes: Sequence[int]) -> tuple[int, int, int]:
    return 1 + len(t), len(x), sizes[-1]


def _kept(x: Tensor, t: Tensor, sizes: Sequence[int]) -> int:
    """Numbers that the way back needs; channels that are the same at all points are made again."""
    from sciops.numerics.compiled.tiles import whole

    opened = sizes[1] * (1 if t.shape[1] != len(x) else 1 + len(t))
    return whole(len(x), x.element_size()) * (opened + (1 + len(t)) * sum(sizes[2:-1]))


def _room(count: int, like: Tensor) -> Tensor:
    """Uninitialised numbers, in memory of an earlier step where there is some: pages that the system has to hand out
    and clear at every step cost more than writing them."""
    import numpy as np

    size = count * like.element_size()
    fitting = [raw for raw in _spare if size <= raw.nbytes - LINE <= 2 * size]
    raw = fitting[0] if fitting else np.empty(size + LINE, np.uint8)
    if fitting:
        _spare[:] = [other for other in _spare if other is not raw]
    start = -raw.ctypes.data % LINE
    view = raw[start : start + size].view(f"f{like.element_size()}")
    weakref.finalize(view, _return, raw).atexit = False  # the tensor holds the view until the graph is gone
    return torch.from_numpy(view)


def _return(raw: Any) -> None:
    if raw.nbytes + sum(other.nbytes for other in _spare) <= SPARE:
        _spare.append(raw)


def _arguments(x: Tensor, t: Tensor, theta: Tensor, sizes: Sequence[int], plan: Sequence[int]) -> tuple[Any, ...]:
    points = (v.detach().contiguous().numpy() for v in (x, t, theta))
    return (*points, *_constants(tuple(sizes), tuple(plan)))


@lru_cache(maxsize=64)
def _constants(sizes: tuple[int, ...], plan: tuple[int, ...]) -> tuple[Any, ...]:
    import numpy as np

    return np.array(sizes), plan[0], np.array(plan[2:], dtype=np.int64), plan[1]


@torch.library.custom_op("sciops::tanh_channels", mutates_args=(), device_types="cpu")
def channels(x: Tensor, t: Tensor, theta: Tensor, sizes: Sequence[int], plan: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`forward` in a compiled graph."""
    return forward(x, t, theta, sizes, plan)


@torch.library.custom_op("sciops::tanh_gradient", mutates_args=(), device_types="cpu")
def gradient(
    x: Tensor, t: Tensor, theta: Tensor, sizes: Sequence[int], plan: Sequence[int], store: Tensor, slopes: Tensor
) -> Tensor:
    """`backward` in a compiled graph."""
    return backward(x, t, theta, sizes, plan, store, slopes)


@channels.register_fake
def _(x: Tensor, t: Tensor, theta: Tensor, sizes: Sequence[int], plan: Sequence[int]) -> tuple[Tensor, Tensor]:
    return x.new_empty(_shape(x, t, sizes)), x.new_empty(_kept(x, t, sizes))


@gradient.register_fake
def _(
    x: Tensor, t: Tensor, theta: Tensor, sizes: Sequence[int], plan: Sequence[int], store: Tensor, slopes: Tensor
) -> Tensor:
    return torch.empty_like(theta)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, t, theta, ctx.sizes, ctx.plan = inputs
    ctx.save_for_backward(x, t, theta, output[1])


def _way_back(ctx: Any, slopes: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, t, theta, store = ctx.saved_tensors
    return None, None, gradient(x, t, theta, ctx.sizes, ctx.plan, store, slopes), None, None


channels.register_autograd(_way_back, setup_context=_keep)

"""Jacobians of point-wise rows with respect to network parameters, one row per point, without loops over points."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus.forward import Key, Request
from sciops.models.trial import Linear, Tape, Trial
from sciops.numerics.block_jacobian import Blocks, Part

Rows = Callable[[dict[Key, Tensor]], Sequence[Tensor]]
"""Derivatives (N, c) of a trial function at N points ↦ residuals, each (N,), each entry from its own point alone."""


def per_sample_jacobian(
    trial: Trial, x: Float[Tensor, "N d"], request: Request, rows: Rows
) -> tuple[list[Float[Tensor, " N"]], list[Float[Tensor, "N P"]]]:
    """Residuals and their Jacobians in the order of `trial.parameters()`.

    One backward pass per residual gives the adjoints of all linear layers' outputs at every point; the gradient of a
    layer's weights is Σ_channels adjoint ⊗ input. Parameters outside linear layers, or networks that record none, are
    differentiated by one reverse pass per point (batched by `vmap`), about ten times slower.
    """
    residuals, blocks = per_sample_blocks(trial, x, request, rows)
    return residuals, [J.dense() for J in blocks]


def per_sample_blocks(
    trial: Trial, x: Float[Tensor, "N d"], request: Request, rows: Rows
) -> tuple[list[Float[Tensor, " N"]], list[Blocks]]:
    """The same, without the columns of networks at points that they do not reach (`Windowed`)."""
    parameters = [p for p in trial.parameters() if p.requires_grad]
    residuals, taken = taped(trial, x, request, rows, parameters)
    if taken is None:
        whole = [Blocks(len(x), [Part(None, 0, looped(r, parameters))]) for r in residuals]
        return [r.detach() for r in residuals], whole
    jacobians = []
    for r, layers in zip(residuals, taken, strict=True):
        found: dict[int, tuple[Tensor | None, Tensor]] = {}
        for layer, adjoints in layers:
            for parameter, gradient in _layer(layer, adjoints):
                known = found.get(id(parameter))
                new = (layer.points, gradient.flatten(1).detach())
                found[id(parameter)] = new if known is None else _added(known, new, len(x))
        nothing = x.new_zeros(0, dtype=torch.long)
        columns = [found.get(id(p), (nothing, x.new_zeros(0, p.numel(), dtype=r.dtype))) for p in parameters]
        jacobians.append(Blocks(len(x), _parts(columns)))
    return [r.detach() for r in residuals], jacobians


Adjoints = list[tuple[Linear, list[Tensor | None]]]
"""The layers that are trained, each with the slopes of a residual in its outputs."""


def taped(
    trial: Trial, x: Float[Tensor, "N d"], request: Request, rows: Rows, parameters: Sequence[Tensor]
) -> tuple[list[Float[Tensor, " N"]], Iterator[Adjoints] | None]:
    """Residuals with their graph, and the adjoints of each in turn; None where a parameter is in no linear layer."""
    tape = Tape()
    residuals = list(rows(trial.derivatives(x, request, tape)))
    recorded = {id(p) for layer in tape.layers for p in (layer.weight, layer.bias) if p is not None}
    if any(id(p) not in recorded for p in parameters):
        return residuals, None
    return residuals, _adjoints(residuals, tape)


def _adjoints(residuals: Sequence[Float[Tensor, " N"]], tape: Tape) -> Iterator[Adjoints]:
    outputs = [part for layer in tape.layers for part in layer.outputs]
    live = [o for o in outputs if o.requires_grad]
    for k, r in enumerate(residuals):
        last = k == len(residuals) - 1
        slopes = torch.autograd.grad(r.sum(), live, retain_graph=not last, allow_unused=True)
        found = dict(zip((id(o) for o in live), slopes, strict=True))
        # A frozen layer is left out, while derivatives behind it pass through.
        trained = [
            layer
            for layer in tape.layers
            if layer.weight.requires_grad or (layer.bias is not None and layer.bias.requires_grad)
        ]
        yield [(layer, [found.get(id(o)) for o in layer.outputs]) for layer in trained]


Column = tuple[Tensor | None, Tensor]
"""The points of a layer, None for all, and the gradients of a parameter there."""


def _added(a: Column, b: Column, count: int) -> Column:
    """Gradients of a parameter that acts in two layers."""
    if a[0] is b[0]:
        return a[0], a[1] + b[1]
    return None, sum(Blocks(count, [Part(rows, 0, values)]).dense() for rows, values in (a, b))  # type: ignore[return-value]


def _parts(columns: Sequence[Column]) -> list[Part]:
    """One part per run of parameters that act at the same points."""
    parts: list[Part] = []
    first = 0
    for _, group in groupby(columns, key=lambda column: id(column[0])):
        taken = list(group)
        values = torch.cat([gradient for _, gradient in taken], 1)
        parts.append(Part(taken[0][0], first, values))
        first += values.shape[1]
    return parts


def factors(layer: Linear, adjoints: Sequence[Tensor | None]) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Adjoints (C, N, out) and inputs (C, N, in), channel by channel, whose outer products add up to the per-sample
    gradients of a layer's weight, and the adjoint of the value, (N, out), that of its bias; None where no residual
    reaches the layer."""
    left, right = [], []
    value: Tensor | None = None
    for below, adjoint in zip(layer.inputs, adjoints, strict=True):
        if adjoint is None or not len(adjoint):
            continue
        if below.dim() == 2:
            value = adjoint
            left.append(adjoint[None])
            right.append(below.detach()[None])
        else:
            value = adjoint[0] if len(layer.inputs) == 1 else value
            left.append(adjoint)
            right.append(below.detach().expand(-1, adjoint.shape[1], -1))
    if not left:
        return None
    outer, inner = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in (left, right))
    return outer, inner, value


def _layer(layer: Linear, adjoints: Sequence[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
    """Per-sample gradients (N, …) of one layer's weight and bias."""
    made = factors(layer, adjoints)
    if made is None:
        return []
    outer, inner, value = made
    # (N, out, C) @ (N, C, in): the sum over channels of adjoint ⊗ input.
    found: list[tuple[Tensor, Tensor]] = [(layer.weight, torch.bmm(outer.permute(1, 2, 0), inner.permute(1, 0, 2)))]
    if layer.bias is not None and value is not None:
        found.append((layer.bias, value))
    return found


def looped(r: Float[Tensor, " N"], parameters: Sequence[Tensor]) -> Float[Tensor, "N P"]:
    """One vector–Jacobian product per row, batched."""
    eye = torch.eye(len(r), dtype=r.dtype, device=r.device)
    parts = torch.autograd.grad(
        r, parameters, grad_outputs=(eye,), is_grads_batched=True, retain_graph=True, allow_unused=True
    )
    columns = [
        r.new_zeros(len(r), p.numel()) if part is None else part.reshape(len(r), -1)
        for p, part in zip(parameters, parts, strict=True)
    ]
    return torch.cat(columns, 1).detach()

"""Jacobians of point-wise rows with respect to network parameters, one row per point, without loops over points."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus.forward import Key, Request
from sciops.models.trial import Linear, Tape, Trial

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
    parameters = [p for p in trial.parameters() if p.requires_grad]
    tape = Tape()
    residuals = list(rows(trial.derivatives(x, request, tape)))
    recorded = {id(p) for layer in tape.layers for p in (layer.weight, layer.bias) if p is not None}
    if any(id(p) not in recorded for p in parameters):
        return [r.detach() for r in residuals], [_looped(r, parameters) for r in residuals]
    outputs = [part for layer in tape.layers for part in layer.outputs]
    jacobians = []
    for k, r in enumerate(residuals):
        live = [o for o in outputs if o.requires_grad]
        last = k == len(residuals) - 1
        slopes = torch.autograd.grad(r.sum(), live, retain_graph=not last, allow_unused=True)
        adjoints = dict(zip((id(o) for o in live), slopes, strict=True))
        found: dict[int, Tensor] = {}
        for layer in tape.layers:
            if not layer.weight.requires_grad and (layer.bias is None or not layer.bias.requires_grad):
                continue  # frozen, while derivatives behind it pass through
            for parameter, gradient in _layer(layer, [adjoints.get(id(o)) for o in layer.outputs]):
                known = found.get(id(parameter))
                found[id(parameter)] = gradient if known is None else known + gradient
        columns = [
            found[id(p)].flatten(1) if id(p) in found else x.new_zeros(len(x), p.numel(), dtype=r.dtype)
            for p in parameters
        ]
        jacobians.append(torch.cat(columns, 1).detach())
    return [r.detach() for r in residuals], jacobians


def _layer(layer: Linear, adjoints: Sequence[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
    """Per-sample gradients (N, …) of one layer's weight and bias."""
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
        return []
    outer, inner = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in (left, right))
    # (N, out, C) @ (N, C, in): the sum over channels of adjoint ⊗ input.
    found: list[tuple[Tensor, Tensor]] = [(layer.weight, torch.bmm(outer.permute(1, 2, 0), inner.permute(1, 0, 2)))]
    if layer.bias is not None and value is not None:
        found.append((layer.bias, value))
    return found


def _looped(r: Float[Tensor, " N"], parameters: Sequence[Tensor]) -> Float[Tensor, "N P"]:
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

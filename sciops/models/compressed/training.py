"""Aids for training factors: learning rates of their own, and a penalty that keeps shared axes orthogonal."""

from typing import Any

import torch
from torch import Tensor, nn

from sciops.models.compressed.chain import Chain
from sciops.models.compressed.compress import compressed_layers


def parameter_groups(module: nn.Module, lr: float, scales: tuple[float, ...] = (1.0,)) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: all other parameters at `lr`, the j-th factor of every layer at lr · scales[j]; the
    last scale holds for the factors beyond."""
    factors: dict[int, list[nn.Parameter]] = {}
    taken: set[int] = set()
    for layer in compressed_layers(module).values():
        parts = layer.body.factors
        for j, part in enumerate(parts):
            if id(part) not in taken:
                taken.add(id(part))
                factors.setdefault(min(j, len(scales) - 1), []).append(part)
    others = [p for p in module.parameters() if id(p) not in taken]
    groups = [{"params": parts, "lr": lr * scales[j]} for j, parts in sorted(factors.items())]
    return [{"params": others, "lr": lr}, *groups] if others else groups


def orthogonality(module: nn.Module) -> Tensor:
    """Σ ‖Ĝ − 1‖² / M² over all factors but the last of each chain, G = F Fᵀ their Gram matrix over the M channels that
    they hand on and Ĝ the same scaled to mean diagonal 1: zero where no direction of a shared axis is used twice.

    Depthwise factors have no shared axis. Times a small weight, added to a loss.
    """
    total = torch.zeros(())
    for layer in compressed_layers(module).values():
        if not isinstance(layer.body, Chain):
            continue
        for i, step in enumerate(layer.body.plan[:-1]):
            if step.depthwise:
                continue
            rows = layer.body.core(i).flatten(2)
            gram = rows @ rows.mT
            scale = gram.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
            eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
            total = total.to(gram) + (gram / scale - eye).square().mean(dim=(1, 2)).sum()
    return total

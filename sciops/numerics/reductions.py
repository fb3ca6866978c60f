"""Sums whose rounding does not depend on what else is in the batch, and their way back into the batch."""

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.linear import LinearOperator


def tree_sum(values: Float[Tensor, "*n k"]) -> Float[Tensor, "*n"]:
    """Σ over the last axis by repeated halving: the order of additions depends on its length alone."""
    while values.shape[-1] > 1:
        half, odd = divmod(values.shape[-1], 2)
        folded = values[..., :half] + values[..., half : 2 * half]
        if odd:
            folded[..., 0] += values[..., -1]
        values = folded
    return values[..., 0]


def row_sum(values: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Σ over each row, the same bits for a row alone and in a batch.

    `torch.sum` adds a contiguous row in an order of its own that depends on the row's length only, except when
    the result is a single number, which threads then share; two half rows per row avoid that case.
    """
    half = values.shape[1] // 2
    if half < 64:
        return tree_sum(values)
    halves = torch.sum(values[:, : 2 * half].reshape(-1, half), dim=1).reshape(-1, 2)
    total = halves[:, 0] + halves[:, 1]
    return total + values[:, -1] if values.shape[1] % 2 else total


def inner(a: Float[Tensor, "n *s"], b: Float[Tensor, "n *s"]) -> Float[Tensor, " n"]:
    """Σ a·b of each case."""
    return row_sum((a * b).flatten(1))


def wide(per_case: Tensor, like: Tensor) -> Tensor:
    """(n,) as (n, 1, …), to be broadcast against (n, *space)."""
    return per_case.reshape(-1, *(1,) * (like.dim() - 1))


def centred(a: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
    """a minus the mean of each case."""
    return a - wide(row_sum(a.flatten(1)) / a[0].numel(), a)


def off_nullspace(A: LinearOperator, x: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
    """x without its part in the null space of A."""
    return centred(x) if A.nullspace == "constant" else A.project(x)

"""Connected components of face-weight systems: which parts of the domain make the matrix singular."""

import math
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor

from sciops.core.face_operator import FaceOperator


def singular_components(faces: tuple[Float[Tensor, "n *s"], ...], sink: Float[Tensor, "n *s"]) -> Int[Tensor, "n *s"]:
    """k ≥ 1 on the k-th connected component of {faces w > 0} that touches no sink, 0 elsewhere.

    Method: union–find over the faces in memory order, the smaller index as root, paths halved on the way; a second
    pass numbers the roots without sink in the order of their first cell. Cells without faces get 0.
    `faces`, `sink` as in FaceOperator, one to three axes. Cost: two passes in compiled loops, 8 bytes a cell.
    Reference: Tarjan, J. ACM 22 (1975).
    """
    n, space = sink.shape[0], sink.shape[1:]
    strides = [math.prod(space[axis + 1 :]) for axis in range(3)]
    labels = np.empty((n, math.prod(space)), dtype=np.int64)
    for i in range(n):
        weights = [w[i].detach().cpu().contiguous().numpy().ravel() for w in faces]
        weights += [weights[0]] * (3 - len(weights))
        _label(*weights, *strides, len(space), sink[i].detach().cpu().contiguous().numpy().ravel(), labels[i])
    return torch.from_numpy(labels).reshape(sink.shape).to(sink.device)


def regular_rows(A: FaceOperator, i: int = 0) -> Int[np.ndarray, " k"]:
    """Row-major indices of the rows of system i that make it regular: active, less one cell per singular component.

    Holding the unknown of one cell of such a component at zero fixes its constant.
    """
    keep = A.active[i].detach().cpu().numpy().ravel().copy()
    if A.labels is not None and A.nullspace is not None:
        labels = A.labels[i].detach().cpu().numpy().ravel()
        found, first = np.unique(labels, return_index=True)
        keep[first[found > 0]] = False
    return np.flatnonzero(keep)


@njit(cache=True, error_model="numpy")
@no_type_check  # a checked function cannot be compiled
def _label(w0, w1, w2, s0, s1, s2, ndim, sink, out):
    """`out` holds the parents during the first pass and the labels after the second."""
    size = sink.size
    for c in range(size):
        out[c] = c
        # The last layer of every axis has weight zero, so that an index never wraps into the next row.
        for axis in range(ndim):
            stride = s0 if axis == 0 else (s1 if axis == 1 else s2)
            b = c - stride
            if b < 0:
                continue
            w = w0[b] if axis == 0 else (w1[b] if axis == 1 else w2[b])
            if w > 0:
                p = b
                while out[p] != p:
                    out[p] = out[out[p]]
                    p = out[p]
                q = c
                while out[q] != q:
                    out[q] = out[out[q]]
                    q = out[q]
                if p < q:
                    out[q] = p
                else:
                    out[p] = q
    touches = np.zeros(size, dtype=np.uint8)  # 1: touches a sink, + 2: has more cells than its root
    for c in range(size):
        r = c
        while out[r] != r:
            out[r] = out[out[r]]
            r = out[r]
        if sink[c] > 0:
            touches[r] |= 1
        if r != c:
            touches[r] |= 2
    # A root comes before all its cells, so its label is known when they are reached; labels are kept negative until
    # the end to tell them from parents.
    count = 0
    for c in range(size):
        if out[c] != c:
            out[c] = out[out[c]]
        elif touches[c] == 2:
            count += 1
            out[c] = -count
        else:
            out[c] = -size - 1
    for c in range(size):
        out[c] = 0 if out[c] < -size else -out[c]

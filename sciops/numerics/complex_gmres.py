"""Flexible restarted GMRES for one real or complex matrix, in NumPy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

STALL = 0.999
"""A round that leaves more than this share of the residual has stalled."""


@dataclass
class GMRESResult:
    """x, the steps taken, ‖b − A x‖ after every step (as the recursion knows it), and whether a round stalled."""

    x: np.ndarray
    steps: int
    history: list[float]
    stalled: bool


def gmres(
    A: Any,
    b: np.ndarray,
    precondition: Callable[[np.ndarray], np.ndarray] | None = None,
    x0: np.ndarray | None = None,
    tol: float = 1e-8,
    maxiter: int = 500,
    restart: int = 60,
) -> GMRESResult:
    """argmin ‖b − A x‖₂ over x₀ + span of the preconditioned Krylov space, restarted every `restart` steps.

    Preconditioned from the right, so that the residual is the true one. Arnoldi by classical Gram–Schmidt, twice;
    Givens rotations. A is anything with `@`; complex where A, b or the preconditioner is.
    Cost of a step: one product, one preconditioner, 4 j N products with the j vectors so far; memory 2·restart vectors.
    Reference: Saad, SIAM J. Sci. Comput. 14 (1993).
    """
    probe = b if precondition is None else precondition(b)
    kind = np.result_type(A.dtype, b.dtype, probe.dtype)
    goal, x = tol * float(np.linalg.norm(b)), np.zeros(len(b), kind)
    if x0 is not None:
        x[:] = x0
    r = b - A @ x
    size, steps, history, stalled = float(np.linalg.norm(r)), 0, [], False
    history.append(size)
    while goal < size < np.inf and steps < maxiter and not stalled:
        before = size
        update, steps = _round(A, r, size, goal, precondition, min(restart, maxiter - steps), steps, history, kind)
        x = x + update
        r = b - A @ x
        size = float(np.linalg.norm(r))
        stalled = size > STALL * before
    return GMRESResult(x, steps, history, stalled)


def _round(
    A: Any,
    r: np.ndarray,
    size: float,
    goal: float,
    precondition: Callable[[np.ndarray], np.ndarray] | None,
    width: int,
    steps: int,
    history: list[float],
    kind: Any,
) -> tuple[np.ndarray, int]:
    """(correction of x, steps so far) of at most `width` Arnoldi steps from the residual r."""
    V = np.zeros((width + 1, len(r)), kind)
    Z = np.zeros((width, len(r)), kind)
    H = np.zeros((width + 1, width), kind)
    rest = np.zeros(width + 1, kind)
    rotations: list[tuple[float, Any]] = []
    V[0], rest[0], k = r / size, size, 0
    while k < width:
        Z[k] = V[k] if precondition is None else precondition(V[k])
        w = A @ Z[k]
        for _ in range(2):
            share = V[: k + 1].conj() @ w
            w = w - share @ V[: k + 1]
            H[: k + 1, k] += share
        length = float(np.linalg.norm(w))
        for j, (c, s) in enumerate(rotations):
            top, low = H[j, k], H[j + 1, k]
            H[j, k], H[j + 1, k] = c * top + s * low, c * low - np.conj(s) * top
        c, s, H[k, k] = _rotation(H[k, k], length)
        rotations.append((c, s))
        rest[k], rest[k + 1] = c * rest[k], -np.conj(s) * rest[k]
        steps, k = steps + 1, k + 1
        history.append(float(abs(rest[k])))
        if not goal < history[-1] < np.inf or length == 0:
            break
        V[k] = w / length
    usable = k if H[k - 1, k - 1] != 0 else k - 1
    y = np.linalg.solve(H[:usable, :usable], rest[:usable]) if usable else np.zeros(0, kind)
    return y @ Z[:usable], steps


def _rotation(a: Any, b: float) -> tuple[float, Any, Any]:
    """(c, s, r) with [c s; −s̄ c] (a, b)ᵀ = (r, 0)ᵀ, b ≥ 0."""
    if b == 0:
        return 1.0, 0.0, a
    if a == 0:
        return 0.0, 1.0, b
    radius = float(np.hypot(abs(a), b))
    phase = a / abs(a)
    return abs(a) / radius, phase * b / radius, phase * radius

"""Nonlinear least squares min_θ ½‖r(θ)‖² over a flat parameter vector: what an optimiser may ask of one."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.block_jacobian import Blocked, Blocks


@runtime_checkable
class LeastSquares(Protocol):
    """r(θ) and J(θ) = ∂r/∂θ on frozen points; rows are scaled by √(weight/N), so that the loss is ½‖r‖².

    Two calls at one θ give the same values: a new draw of points is a new object.
    """

    def residual(self, theta: Float[Tensor, " P"]) -> Float[Tensor, " M"]: ...

    def jacobian(self, theta: Float[Tensor, " P"]) -> tuple[Float[Tensor, " M"], Float[Tensor, "M P"]]: ...


@runtime_checkable
class Chunked(Protocol):
    """A least squares that also hands out its rows in pieces (r_i, J_i), where M × P numbers do not fit."""

    def chunks(self, theta: Tensor) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class Linearisation:
    """r(θ) with the products V ↦ J V, (P, k) → (M, k), and W ↦ Jᵀ W, (M, k) → (P, k)."""

    residual: Tensor
    forward: Callable[[Tensor], Tensor]
    transpose: Callable[[Tensor], Tensor]


@runtime_checkable
class MatrixFree(Protocol):
    """A least squares that also multiplies with J and Jᵀ without forming J."""

    def linearise(self, theta: Tensor) -> Linearisation: ...


class FunctionLeastSquares:
    """The least squares of any differentiable function θ ↦ r, by torch.func.

    J by reverse mode, one row of the output at a time under vmap (`jacobian_chunk` rows at once bounds the memory);
    products by one jvp and one vjp a column. Networks have a cheaper Jacobian of their own
    (`sciops.numerics.per_sample`). Fails where the function uses operations without a vmap rule.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], jacobian_chunk: int | None = None) -> None:
        self.function, self.jacobian_chunk = function, jacobian_chunk

    def residual(self, theta: Float[Tensor, " P"]) -> Float[Tensor, " M"]:
        return self.function(theta).detach()

    def jacobian(self, theta: Float[Tensor, " P"]) -> tuple[Float[Tensor, " M"], Float[Tensor, "M P"]]:
        J = torch.func.jacrev(self.function, chunk_size=self.jacobian_chunk)(theta)
        return self.residual(theta), J.detach()

    def linearise(self, theta: Float[Tensor, " P"]) -> Linearisation:
        r, pullback = torch.func.vjp(self.function, theta)[:2]

        def forward(V: Tensor) -> Tensor:
            def one(v: Tensor) -> Any:
                return torch.func.jvp(self.function, (theta,), (v,))[1]

            return torch.func.vmap(one, in_dims=1, out_dims=1)(V).detach()

        def transpose(W: Tensor) -> Tensor:
            return torch.func.vmap(lambda w: pullback(w)[0], in_dims=1, out_dims=1)(W).detach()

        return Linearisation(r.detach(), forward, transpose)


class Stacked:
    """Several least squares of one θ as one: r = (√w_1 r_1, √w_2 r_2, …), so that the losses add with weights w_k.

    Memory: one (M, P) Jacobian that the parts are written into.
    """

    def __init__(self, parts: Sequence[LeastSquares], weights: Sequence[float] | None = None) -> None:
        given = [1.0] * len(parts) if weights is None else [float(w) for w in weights]
        if len(given) != len(parts) or not parts:
            raise UsageError(f"Stacked got {len(parts)} parts and {len(given)} weights; give one weight per part.")
        if not all(math.isfinite(w) and w >= 0 for w in given):
            raise UsageError(f"Stacked got weights {given}; weights are finite and not negative.")
        self.parts, self.scales = list(parts), [math.sqrt(w) for w in given]

    def residual(self, theta: Float[Tensor, " P"]) -> Float[Tensor, " M"]:
        return torch.cat([s * part.residual(theta) for s, part in zip(self.scales, self.parts, strict=True)])

    def jacobian(self, theta: Float[Tensor, " P"]) -> tuple[Float[Tensor, " M"], Float[Tensor, "M P"]]:
        pieces = list(self.chunks(theta))
        if len(pieces) == 1:
            return pieces[0]
        return torch.cat([r for r, _ in pieces]), torch.cat([J for _, J in pieces])

    @property
    def local(self) -> bool:
        return any(isinstance(part, Blocked) and part.local for part in self.parts)

    def local_blocks(self, theta: Float[Tensor, " P"]) -> list[tuple[Tensor, Blocks | Tensor]]:
        found: list[tuple[Tensor, Blocks | Tensor]] = []
        for scale, part in zip(self.scales, self.parts, strict=True):
            pieces = part.local_blocks(theta) if isinstance(part, Blocked) else [part.jacobian(theta)]
            found += pieces if scale == 1 else [(scale * r, J * scale) for r, J in pieces]
        return found

    def linearise(self, theta: Float[Tensor, " P"]) -> Linearisation:
        """Products with the Jacobians of all parts; a part that offers none has its Jacobian formed."""
        pieces = [linearised(part, theta) for part in self.parts]
        sizes = [len(piece.residual) for piece in pieces]

        def forward(V: Tensor) -> Tensor:
            return torch.cat([s * piece.forward(V) for s, piece in zip(self.scales, pieces, strict=True)])

        def transpose(W: Tensor) -> Tensor:
            given = zip(self.scales, pieces, W.split(sizes), strict=True)
            return torch.stack([s * piece.transpose(part) for s, piece, part in given]).sum(0)

        r = torch.cat([s * piece.residual for s, piece in zip(self.scales, pieces, strict=True)])
        return Linearisation(r, forward, transpose)

    def chunks(self, theta: Float[Tensor, " P"]) -> Iterator[tuple[Tensor, Tensor]]:
        for scale, part in zip(self.scales, self.parts, strict=True):
            pieces = part.chunks(theta) if isinstance(part, Chunked) else [part.jacobian(theta)]
            for r, J in pieces:
                yield (r, J) if scale == 1 else (scale * r, scale * J)


def linearised(problem: LeastSquares, theta: Float[Tensor, " P"]) -> Linearisation:
    """r(θ) with products, by the problem's own or from its Jacobian."""
    if isinstance(problem, MatrixFree):
        return problem.linearise(theta)
    r, J = problem.jacobian(theta)
    return Linearisation(r, lambda V: J @ V, lambda W: J.T @ W)

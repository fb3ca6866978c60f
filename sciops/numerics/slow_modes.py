"""The few error modes that a symmetric cycle leaves standing, and the correction that removes them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.linear import LinearOperator
from sciops.numerics.reductions import centred, inner, wide

STEPS = 24
"""Lanczos steps: enough for every isolated mode above 0.3 from a start in which it weighs one part in 10⁵."""

SLOW = 0.2
"""Modes that one cycle reduces by less than this factor are removed."""


@dataclass(frozen=True)
class SlowModes:
    """B' = V Vᵀ + (I − V VᵀA) B (I − A V Vᵀ), with VᵀAV = 1: the cycle B, exact on the span of V.

    The error operator becomes (I − V VᵀA)(I − BA)(I − V VᵀA): what V spans is gone, the rest contracts as before,
    and B' is symmetric positive definite if B is. `vectors` is V and `images` A V, both (k, n, *space), with zeros
    where a case has fewer than k. Cost per application: four passes over memory for each of the k vectors.
    Reference: Tang, Nabben, Vuik, Erlangga, J. Sci. Comput. 39 (2009), "A-DEF2" and its symmetric relatives.
    """

    vectors: Tensor
    images: Tensor

    def apply(self, cycle: Callable[[Tensor], Tensor], r: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        """B' r."""
        parts = [inner(v, r) for v in self.vectors]
        rest = r.clone()
        for image, part in zip(self.images, parts, strict=True):
            rest.addcmul_(image, wide(part, r), value=-1.0)
        z = cycle(rest)
        parts = [part - inner(image, z) for image, part in zip(self.images, parts, strict=True)]
        for v, part in zip(self.vectors, parts, strict=True):
            z.addcmul_(v, wide(part, r))
        return z


def slow_modes(A: LinearOperator, cycle: Callable[[Tensor], Tensor], most: int, wanted: Tensor) -> SlowModes | None:
    """Eigenvectors of I − BA with eigenvalue above `SLOW`, at most `most` of them in each `wanted` case.

    Lanczos in the inner product of A (there I − BA is self-adjoint), all cases side by side, with full
    orthogonalisation and the same random start for every case. Needs a symmetric B. None if no case has any.
    Cost: `STEPS` cycles and operator applications, 2·`STEPS` vectors while it runs.
    """
    noise = torch.randn(A.space, generator=torch.Generator().manual_seed(20_231), dtype=torch.float64)
    q = noise.to(dtype=A.dtype, device=A.device).expand(A.n, *A.space)
    noise_floor = torch.finfo(A.dtype).eps
    basis: list[Tensor] = []
    images: list[Tensor] = []
    projected = torch.zeros((A.n, STEPS, STEPS), dtype=A.dtype, device=A.device)
    for step in range(STEPS):
        if A.nullspace == "constant":
            # A constant has length zero: unseen, it would grow in every step.
            q = centred(q)
        image = A.matvec(q)
        square = inner(q, image)
        # A new direction this short beside its unit predecessor is rounding noise: the Krylov space has ended.
        usable = wanted & (square > (noise_floor if step else 0.0)) & torch.isfinite(square)
        scale = wide(torch.where(usable, torch.where(usable, square, 1.0).rsqrt(), 0.0), q)
        # A product with zero would keep the infinities of a broken case.
        gone = wide(~usable, q)
        basis.append((q * scale).masked_fill_(gone, 0.0))
        images.append(image.mul_(scale).masked_fill_(gone, 0.0))
        q = basis[-1] - cycle(images[-1])
        for i in range(step + 1):
            part = inner(images[i], q)
            projected[:, i, step] = projected[:, step, i] = part
            q.addcmul_(basis[i], wide(part, q), value=-1.0)
    broken = ~torch.isfinite(projected).all(2).all(1)
    values, combinations = torch.linalg.eigh(projected.masked_fill(broken[:, None, None], 0.0))
    values, combinations = values[:, -most:].flip(1), combinations[:, :, -most:].flip(2)
    combinations = torch.where((values > SLOW)[:, None], combinations, 0.0)
    count = int((values > SLOW).any(0).sum())
    if count == 0:
        return None
    sums = [torch.zeros((count, A.n, *A.space), dtype=A.dtype, device=A.device) for _ in range(2)]
    for total, parts in zip(sums, (basis, images), strict=True):
        for k in range(count):
            for step in range(STEPS):
                total[k].addcmul_(parts[step], wide(combinations[:, step, k], q))
    return SlowModes(*sums)

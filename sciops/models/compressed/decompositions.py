"""Tensor decompositions of batches of kernels: rank-one terms by nested SVD, CP by least squares, Tucker, trains."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor


def rank_one_terms(x: Float[Tensor, "b *n"]) -> tuple[Float[Tensor, "b t"], list[Tensor]]:
    """x = Σ_t w_t v¹_t ⊗ … ⊗ v^d_t with orthonormal terms, w ≥ 0 falling: SVD along the smallest axis, then of each
    right vector again, until two axes are left.

    t = Π n_j / max n_j terms, and because they are orthonormal the error of keeping some is exactly the norm of the
    weights left out. For d = 2 it is the SVD, hence best; for d > 2 it bounds the best CP error from above.
    """
    sizes = x.shape[1:]
    order = sorted(range(len(sizes)), key=lambda axis: sizes[axis])
    weights, vectors = _nested(x.permute(0, *(axis + 1 for axis in order)))
    weights, falling = weights.sort(dim=1, descending=True)
    out: list[Tensor] = [x] * len(order)
    for axis, vector in zip(order, vectors, strict=True):
        out[axis] = vector.take_along_dim(falling[..., None], dim=1)
    return weights, out


def _nested(x: Tensor) -> tuple[Tensor, list[Tensor]]:
    batch, first, rest = x.shape[0], x.shape[1], x.shape[2:]
    if not rest:
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return norm, [(x / norm.clamp_min(torch.finfo(x.dtype).tiny))[:, None]]
    u, s, v = torch.linalg.svd(x.reshape(batch, first, -1), full_matrices=False)
    if len(rest) == 1:
        return s, [u.mT, v]
    p = s.shape[1]
    inner, vectors = _nested(v.reshape(batch * p, *rest))
    q = inner.shape[1]
    weights = s[..., None] * inner.reshape(batch, p, q)
    left = u.mT[:, :, None].expand(batch, p, q, first)
    return weights.reshape(batch, -1), [
        left.reshape(batch, p * q, first),
        *(vector.reshape(batch, p * q, -1) for vector in vectors),
    ]


def cp(x: Float[Tensor, "b *n"], rank: int, sweeps: int = 100, tolerance: float = 1e-6) -> list[Tensor]:
    """Factors (b, rank, n_j) with x ≈ Σ_r ⊗_j a^j_r: alternating least squares from the largest rank-one terms.

    With as many terms as `rank_one_terms` has it is exact without a sweep. A sweep never ends above the start: the
    best factors seen are returned. Stops where a sweep lowers the error by less than the tolerance, relative to x.
    Cost per sweep O(d · rank · Π n).
    """
    weights, vectors = rank_one_terms(x)
    d, kept = len(vectors), min(rank, weights.shape[1])
    share = weights[:, :kept, None] ** (1 / d)
    factors = [share * vector[:, :kept] for vector in vectors]
    if kept == weights.shape[1] or d < 3:
        return factors
    unfolded = [unfold(x, j) for j in range(d)]
    eye = torch.eye(kept, dtype=x.dtype, device=x.device)
    size = float(x.norm())
    best, lowest = factors, float(weights[:, kept:].norm())
    last = lowest
    for _ in range(sweeps):
        for j in range(d):
            others = [factors[m] for m in range(d) if m != j]
            rows = _khatri_rao(others)  # (b, rank, Π of the other axes)
            gram = torch.stack([a @ a.mT for a in others]).prod(dim=0)
            ridge = torch.finfo(x.dtype).eps * gram.diagonal(dim1=1, dim2=2).mean(dim=1)  # keeps swamps solvable
            gram = gram + (ridge[:, None, None] + torch.finfo(x.dtype).tiny) * eye
            factors = [*factors]
            factors[j] = torch.linalg.solve(gram, rows @ unfolded[j].mT)
        misfit = float((unfolded[d - 1] - factors[d - 1].mT @ rows).norm())
        factors = _balanced(factors)
        if misfit < lowest:
            best, lowest = factors, misfit
        if not abs(last - misfit) > tolerance * size:
            break
        last = misfit
    return best


def _khatri_rao(factors: Sequence[Tensor]) -> Tensor:
    """Rows ⊗_j a^j_r, the first factor slowest."""
    rows = factors[0]
    for factor in factors[1:]:
        rows = (rows[..., None] * factor[:, :, None]).flatten(2)
    return rows


def _balanced(factors: Sequence[Tensor]) -> list[Tensor]:
    """The same sum, each term's norm shared evenly by its vectors."""
    norms = torch.stack([torch.linalg.vector_norm(a, dim=2) for a in factors]).clamp_min(1e-300)
    share = norms.log().mean(dim=0).exp()
    return [a * (share / norm)[..., None] for a, norm in zip(factors, norms, strict=True)]


def tucker(x: Float[Tensor, "b *n"], ranks: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Core (b, *ranks, rest…) and bases (b, n_j, ranks_j) of the first axes by higher-order SVD: each basis is that of
    the leading left singular vectors of its unfolding. error² ≤ Σ_j the squared singular values left out along j."""
    core, bases = x, []
    for j, rank in enumerate(ranks):
        u, _, _ = torch.linalg.svd(unfold(x, j), full_matrices=False)
        basis = u[:, :, :rank]
        bases.append(basis)
        moved = core.movedim(j + 1, 1)
        projected = (basis.mT @ moved.flatten(2)).reshape(x.shape[0], rank, *moved.shape[2:])
        core = projected.movedim(1, j + 1)
    return core, bases


def unfold(x: Tensor, axis: int) -> Float[Tensor, "b m n"]:
    """Matrix with the given axis (not counting the batch) as rows."""
    return x.movedim(axis + 1, 1).flatten(2)


def train(x: Float[Tensor, "b *n"], ranks: Sequence[int]) -> list[Tensor]:
    """Tensor train by sequential SVD: cores (b, r_{j−1}, n_j, r_j) with r_0 = r_m = 1.

    Each step projects orthogonally, so error² is exactly the sum of the squared singular values left out at the steps.
    With two cores it is the truncated SVD, √s on each side; else the cores are scaled to equal norms.
    """
    sizes, rest = x.shape[1:], x.flatten(1)
    cores: list[Tensor] = []
    left = 1
    for j, rank in enumerate(ranks):
        u, s, v = torch.linalg.svd(rest.reshape(x.shape[0], left * sizes[j], -1), full_matrices=False)
        u, s, v = u[:, :, :rank], s[:, :rank], v[:, :rank]
        if j == len(ranks) - 1:
            u, s = u * s.sqrt()[:, None], s.sqrt()
        cores.append(u.reshape(x.shape[0], left, sizes[j], u.shape[2]))
        rest, left = s[:, :, None] * v, u.shape[2]
    cores.append(rest.reshape(x.shape[0], left, sizes[-1], 1))
    if len(cores) == 2:
        return cores
    norms = torch.stack([core.flatten(1).norm(dim=1) for core in cores]).clamp_min(1e-300)
    share = norms.log().mean(dim=0).exp()
    return [core * (share / norm)[:, None, None, None] for core, norm in zip(cores, norms, strict=True)]


def bonds(x: Float[Tensor, "b *n"]) -> list[Float[Tensor, "b r"]]:
    """Singular values of the unfoldings (n_1 … n_j) × (n_{j+1} … n_m), j < m."""
    sizes = x.shape[1:]
    return [torch.linalg.svdvals(x.reshape(x.shape[0], prod(sizes[:j]), prod(sizes[j:]))) for j in range(1, len(sizes))]

"""The exact critic of adversarial adaptive sampling on a box: the density that plays best against a residual.

For q ≥ 0 on a box Ω and β > 0 the critic maximises, over densities p (p ≥ 0, ∫p = 1),

    J(p) = ∫ q p dx − β ∫ |∇p|² dx.

Where p > 0 everywhere, p* = 1/|Ω| + φ with −2β Δφ = q − mean q, ∂φ/∂n = 0, ∫φ = 0, and

    max J = mean q + ‖q − mean q‖²_{H⁻¹} / (4β),      ‖g‖²_{H⁻¹} = ∫ g (−Δ)⁻¹ g dx:

the mean residual and a penalty on its non-uniformity. β → ∞ gives the uniform density, β → 0 a point mass at argmax q.
Values live on the midpoints of n₁×…×n_d equal cells, d = 1, 2, 3; one cosine transform (type II) and its inverse solve
the Neumann problem exactly for the trigonometric interpolant. Cost O(N log N), memory a few arrays of N values. Fails
to see what is narrower than a cell.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.transforms import dct, idct

OBSTACLE = ("project", "exact")


def midpoints(lower: Float[Tensor, " d"], upper: Float[Tensor, " d"], shape: Sequence[int]) -> Float[Tensor, "N d"]:
    """Midpoints of equal cells of a box, the last axis fastest: `values.reshape(shape)` puts them back on the grid."""
    axes = [
        low + (high - low) * (torch.arange(n, dtype=lower.dtype, device=lower.device) + 0.5) / n
        for low, high, n in zip(lower, upper, shape, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))


def critic_density(
    q: Float[Tensor, "*s"],
    lengths: Sequence[float],
    beta: float,
    obstacle: str = "project",
    tol: float = 1e-6,
    max_iterations: int = 2000,
) -> Float[Tensor, "*s"]:
    """p* at the cell midpoints, ∫p* = 1.

    q         residual squared, or any other q ≥ 0, at the midpoints
    lengths   edges of the box
    beta      > 0, in units of q · length² / density
    obstacle  where 1/|Ω| + φ is negative somewhere: "project" sets it to zero there and divides by the mass, one
              transform pair; "exact" solves the obstacle problem by alternating directions, one pair an iteration,
              until primal and dual residuals are below `tol` relative to the uniform density
    """
    _check(q, lengths)
    if not beta > 0 or obstacle not in OBSTACLE:
        raise UsageError(
            f"The critic needs beta > 0 and obstacle one of {', '.join(OBSTACLE)}; got {beta} and '{obstacle}'."
        )
    volume = math.prod(lengths)
    # In units of the uniform density: maximise mean(q p) − (β/|Ω|) mean(p (−Δ) p) with mean p = 1.
    scaled = beta / volume
    p = 1 + inverse_laplacian(q, lengths) / (2 * scaled)
    if bool((p < 0).any()):
        if obstacle == "exact":
            p = _obstacle(q, p, lengths, scaled, tol, max_iterations)
        else:
            p = p.clamp(min=0)
            p = p / p.mean()
    return p / volume


def critic_value(
    q: Float[Tensor, "*s"], p: Float[Tensor, "*s"], lengths: Sequence[float], beta: float
) -> Float[Tensor, ""]:
    """J(p) = ∫ q p − β ∫ |∇p|², with the gradient of the cosine interpolant of p."""
    _check(q, lengths)
    cell = math.prod(lengths) / q.numel()
    return cell * ((q * p).sum() - beta * (p * _apply(p, _eigenvalues(p, lengths))).sum())


def h_minus_1(g: Float[Tensor, "*s"], lengths: Sequence[float]) -> Float[Tensor, ""]:
    """‖g − mean g‖²_{H⁻¹} = ∫ (g − mean g) (−Δ)⁻¹ (g − mean g), Neumann conditions."""
    _check(g, lengths)
    return math.prod(lengths) / g.numel() * (g * inverse_laplacian(g, lengths)).sum()


def inverse_laplacian(g: Float[Tensor, "*s"], lengths: Sequence[float]) -> Float[Tensor, "*s"]:
    """φ with −Δφ = g − mean g, ∂φ/∂n = 0 and mean φ = 0."""
    symbol = _eigenvalues(g, lengths)
    first = (0,) * g.ndim
    symbol[first] = math.inf
    return _apply(g, 1 / symbol)


def coverage(p: Float[Tensor, "*s"]) -> float:
    """χ = 1/(|Ω| ∫p²): the share of the box that a uniform density of the same ∫p² would fill."""
    return float(p.mean() ** 2 / (p**2).mean())


def critic_with_coverage(
    q: Float[Tensor, "*s"],
    lengths: Sequence[float],
    beta: float,
    low: float,
    high: float,
    obstacle: str = "project",
    tol: float = 1e-3,
    rounds: int = 60,
) -> tuple[Float[Tensor, "*s"], float]:
    """p* and its β: multiplied or divided by 1.5 until p* has a coverage in [low, high] (or `rounds` are over)."""
    p = critic_density(q, lengths, beta, obstacle, tol)
    for _ in range(rounds):
        step = adapted(beta, coverage(p), low, high)
        if step == beta:
            break
        beta, p = step, critic_density(q, lengths, step, obstacle, tol)
    return p, beta


def adapted(beta: float, chi: float, low: float, high: float, factor: float = 1.5) -> float:
    """One step of β towards a coverage in [low, high]: more β spreads p out."""
    if chi < low:
        return beta * factor
    return beta / factor if chi > high else beta


def _obstacle(
    q: Float[Tensor, "*s"], start: Tensor, lengths: Sequence[float], b: float, tol: float, max_iterations: int
) -> Float[Tensor, "*s"]:
    """min b mean(p(−Δ)p) − mean(q p) over mean p = 1, p ≥ 0: alternating directions with a balanced penalty ρ."""
    symbol = _eigenvalues(q, lengths)
    z = start.clamp(min=0)
    z = z / z.mean()
    dual = torch.zeros_like(z)
    # The scale at which half of the support's detail is seen; balanced from there on.
    rho = 2 * b * float(symbol.max()) ** 0.5 * math.pi / min(lengths)
    for k in range(max_iterations):
        p = _apply(q / rho + z - dual, 1 / (2 * b * symbol / rho + 1))
        before, z = z, _simplex(p + dual)
        dual = dual + p - z
        primal, change = float((p - z).square().mean()) ** 0.5, float((z - before).square().mean()) ** 0.5
        size = float(z.square().mean()) ** 0.5
        if max(primal, change) <= tol * size:
            break
        if k % 10 == 9 and k < max_iterations // 2 and not 0.2 < primal / max(change, 1e-300) < 5:
            step = 2.0 if primal > change else 0.5
            rho, dual = rho * step, dual / step
    return z


def _simplex(v: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """The nearest point with p ≥ 0 and mean p = 1: max(v − c, 0)."""
    ordered = v.flatten().sort(descending=True).values
    count = torch.arange(1, len(ordered) + 1, dtype=v.dtype, device=v.device)
    shift = (ordered.cumsum(0) - v.numel()) / count
    last = int((ordered > shift).sum()) - 1
    return (v - shift[last]).clamp(min=0)


def _eigenvalues(values: Float[Tensor, "*s"], lengths: Sequence[float]) -> Float[Tensor, "*s"]:
    """(πk/L)² summed over the axes, on the grid of the cosine amplitudes."""
    total = values.new_zeros(())
    for n, length in zip(values.shape, lengths, strict=True):
        k = torch.arange(n, dtype=values.dtype, device=values.device)
        total = total[..., None] + (math.pi / length * k) ** 2
    return total


def _apply(values: Float[Tensor, "*s"], symbol: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    axes = range(values.ndim)
    return idct(symbol * dct(values, 2, axes), 2, axes)


def _check(values: Tensor, lengths: Sequence[float]) -> None:
    if not 1 <= values.ndim <= 3 or values.ndim != len(lengths):
        raise UsageError(
            f"The exact critic works in 1 to 3 dimensions with one length per axis; got {values.ndim} axes and "
            f"{len(lengths)} lengths; use a flow in more dimensions."
        )

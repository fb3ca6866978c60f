"""Kernel parameters from the marginal likelihood of the equation and its boundary data on lines of a tensor grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciops.core.calculus import Order
from sciops.core.grid import Grid
from sciops.core.random import case_seed, generator
from sciops.numerics.spectral_covariance import OSCILLATING, covariance, grid_lags
from sciops.solvers.collocation import Equation

Theta = list[tuple[Tensor, Tensor, Tensor]]
"""Per axis: log w, s, μ, each (B, Q) for B starts at once."""


@dataclass
class Group:
    """W ∘ k_j⁽ᵐ⁾(lag) · Π_{i≠j} k_i⁽ᵒ⁾(0): one term of the covariance of the rows of a line."""

    order: int
    others: tuple[int, ...]
    weight: Float[Tensor, "R R"]


@dataclass
class LineSet:
    """Observed rows along axis `axis`, the same for all its lines, and their data, one column per line."""

    axis: int
    n: int
    spacing: float
    place: Int[Tensor, "R R"]
    groups: list[Group]
    data: Float[Tensor, "R l"]


class LineEvidence:
    """−log p(data) per observation, with the scale of the prior profiled out, and its gradient in Θ.

    The data are, on lines of nodes along each axis, f at all nodes and the boundary values at both ends, and in two
    and three dimensions the boundary data on lines within the faces. Rows of one line are jointly Gaussian: with
    L = Σ_α c_α ∂^α and the product kernel, cov(L u(x), L u(x′)) on a line along axis j is a sum of derivatives of k_j
    at the lag times derivatives of the other kernels at 0. Lines count as independent (composite likelihood); in one
    dimension there is one line and the likelihood is exact. Coefficients that vary are averaged in more than one
    dimension, and nonlinear equations linearised at u = 0 unless a state is given: only the spectrum depends on it.

    M = S + ρ² diag(S), ρ the relative noise. The value needs one Cholesky factorisation per set of lines, the gradient
    its inverse: tr(G dM/dΘ) with G = ½(l M⁻¹ − AAᵀ/s²), A = M⁻¹Y, gathered on lags, so that autograd sees vectors of
    length n only. Cost O(Σ_j (n_j + 2)³), memory O(Σ n_j²) per start.
    Reference: Särkkä, ICANN 2011 (linear operator rows); Varin et al., Statistica Sinica 2011 (composite likelihood).
    """

    def __init__(
        self, equation: Equation, nodes: Grid, family: str, lines: int = 12, seed: int = 0, state: Tensor | None = None
    ) -> None:
        self.equation, self.nodes, self.family = equation, nodes, family
        random = generator(case_seed(seed, 0, "gp_hm lines"))
        self.sets: list[LineSet] = []
        for axis in range(nodes.ndim):
            self._equation_lines(axis, lines, random)
            self._face_lines(axis, lines, random)
        self.observations = sum(s.data.numel() for s in self.sets)

    # ---- data

    def _along(self, axis: int, others: Tensor) -> Tensor:
        """Points (l, n, d) of the lines along an axis through given points (l, d)."""
        x = others[:, None].repeat(1, self.nodes.shape[axis], 1)
        x[..., axis] = self.nodes.axis(axis, x.dtype, x.device)
        return x

    def _equation_lines(self, axis: int, lines: int, random: torch.Generator) -> None:
        equation, n = self.equation, self.nodes.shape[axis]
        count = 1 if self.nodes.ndim == 1 else lines
        x = self._along(axis, equation.interior_points(count, random))
        flat = x.reshape(-1, x.shape[-1])
        rows = equation.rows(flat, None if equation.linear else lambda order: torch.zeros_like(flat[:, 0]))
        rhs = rows.rhs.reshape(count, n).T
        if not bool((rhs != 0).any()):
            return
        columns = (rhs.abs().amax(0) > 1e-10 * rhs.abs().max()).nonzero()[:, 0]
        data, where, terms = [rhs[:, columns]], [torch.arange(n)], {}
        for order, c in rows.terms.items():
            spread = c.reshape(count, n)[0] if self.nodes.ndim == 1 else c.mean().expand(n)
            terms[order] = [spread]
        for face in (f for f in equation.faces if f.axis == axis):
            end = n - 1 if face.side else 0
            found = equation.boundary_rows(face, x[columns, end])
            data.append(found.rhs[None])
            where.append(torch.tensor([end]))
            length = sum(len(w) for w in where[:-1])
            for order, c in found.terms.items():
                parts = terms.setdefault(order, [])
                parts.append(c.new_zeros(length - sum(len(p) for p in parts)))
                parts.append(c[:1])
        self._add(axis, torch.cat(where), terms, torch.cat(data))

    def _face_lines(self, axis: int, lines: int, random: torch.Generator) -> None:
        n = self.nodes.shape[axis]
        for face in self.equation.faces:
            if face.axis == axis or face.kind != "dirichlet":
                continue
            x = self._along(axis, self.equation.face_points(face, 2 if self.nodes.ndim == 2 else lines, random))
            x = x[:1] if self.nodes.ndim == 2 else x  # a face of a rectangle is one line
            flat = x.reshape(-1, x.shape[-1])
            g = self.equation.boundary_rows(face, flat).rhs.reshape(len(x), n).T
            g = g[:, g.abs().amax(0) > 1e-10]
            if g.shape[1]:
                self._add(axis, torch.arange(n), {(0,) * self.nodes.ndim: [torch.ones_like(g[:, 0])]}, g)

    def _add(self, axis: int, where: Tensor, terms: dict[Order, list[Tensor]], data: Tensor) -> None:
        n, device = self.nodes.shape[axis], data.device
        full = {}
        for order, parts in terms.items():
            c = torch.cat(parts)
            full[order] = torch.cat([c, c.new_zeros(len(where) - len(c))])
        groups: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        for a, ca in full.items():
            for b, cb in full.items():
                total = tuple(p + q for p, q in zip(a, b, strict=True))
                others = tuple(0 if j == axis else m for j, m in enumerate(total))
                if any(m % 2 for m in others):
                    continue  # odd derivatives vanish at lag 0
                key = (total[axis], others)
                term = (-1.0) ** sum(b) * ca[:, None] * cb
                groups[key] = groups[key] + term if key in groups else term
        where = where.to(device)
        place = where[:, None] - where + n - 1
        listed = [Group(order, others, weight) for (order, others), weight in groups.items()]
        self.sets.append(LineSet(axis, n, self.nodes.spacing[axis], place, listed, data))

    # ---- the likelihood

    def __call__(self, theta: Theta, noise: float, gradient: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """(value (B,), surrogate⁺, surrogate⁻): value per observation; ∂value/∂Θ = ∂(surrogate⁺ − surrogate⁻)/∂Θ, the
        two parts from log|M| and from the data, both (B,). A start whose M is not positive definite has value inf."""
        pieces, zero = [], torch.zeros_like(theta[0][0][:, 0])
        quadratic = logdet = zero.detach()
        for lines in self.sets:
            kernels, moments = self._kernels(theta, lines)
            with torch.no_grad():
                terms = zip(lines.groups, kernels, moments, strict=True)
                S = torch.stack([f[:, None, None] * g.weight * k[:, lines.place] for g, k, f in terms]).sum(0)
                scale = S.diagonal(dim1=-2, dim2=-1).clamp(min=1e-300).sqrt()
                correlation = S / scale[:, :, None] / scale[:, None]
                correlation.diagonal(dim1=-2, dim2=-1).add_(noise**2)
                root, info = torch.linalg.cholesky_ex(correlation)
                root[info != 0] = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
                A = torch.cholesky_solve(lines.data / scale[..., None], root) / scale[..., None]
                quadratic = quadratic + (A * lines.data).sum((-2, -1)) + torch.where(info != 0, torch.inf, 0.0)
                count = lines.data.shape[1]
                logdet = logdet + count * 2 * (root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + scale.log().sum(-1))
                if gradient:
                    inverse = torch.cholesky_inverse(root) / scale[:, :, None] / scale[:, None]
                    pieces.append((lines, kernels, moments, A, inverse, count))
        value = 0.5 * (torch.log(quadratic / self.observations) + logdet / self.observations)
        positive = negative = torch.zeros_like(value)
        for lines, kernels, moments, A, inverse, count in pieces:
            for sign, G in ((1, count * inverse), (-1, A @ A.mT * (self.observations / quadratic)[:, None, None])):
                G = G / (2 * self.observations)
                G.diagonal(dim1=-2, dim2=-1).mul_(1 + noise**2)
                total = self._contract(lines, kernels, moments, G)
                positive, negative = (positive + total, negative) if sign > 0 else (positive, negative + total)
        return value, positive, negative

    def _kernels(self, theta: Theta, lines: LineSet) -> tuple[list[Tensor], list[Tensor]]:
        """Per group: k_j⁽ᵐ⁾ on all lags −(n−1) … n−1, (B, 2n−1), and Π_i k_i⁽ᵒ⁾(0), (B,)."""
        orders = sorted({group.order for group in lines.groups})
        lags = grid_lags(lines.n, lines.spacing, theta[0][0])
        found = covariance(self.family, lags, orders, *theta[lines.axis])
        both = {}
        for order, k in zip(orders, found, strict=True):
            both[order] = torch.cat([(-1.0) ** order * k[:, 1:].flip(-1), k], -1)
        others = [j for j in range(len(theta)) if j != lines.axis]
        needed = {(j, group.others[j]) for group in lines.groups for j in others}
        at_zero = {(j, m): covariance(self.family, lags[:1], (m,), *theta[j])[0][:, 0] for j, m in sorted(needed)}
        moments = []
        for group in lines.groups:
            factor = torch.ones_like(theta[0][0][:, 0])
            for j in others:
                factor = factor * at_zero[j, group.others[j]]
            moments.append(factor)
        return [both[group.order] for group in lines.groups], moments

    @staticmethod
    def _contract(lines: LineSet, kernels: Sequence[Tensor], moments: Sequence[Tensor], G: Tensor) -> Tensor:
        """Σ_ij G_ij S_ij, (B,), as a function of the kernels on lags."""
        total, flat = torch.zeros_like(moments[0]), lines.place.reshape(-1)
        for group, k, factor in zip(lines.groups, kernels, moments, strict=True):
            weighted = (group.weight * G).flatten(1)
            gathered = torch.zeros_like(k).index_add_(1, flat, weighted)
            total = total + factor * (gathered * k).sum(-1)
        return total


def start(family: str, components: int, lengths: Sequence[float], ceilings: Sequence[float], starts: int) -> Theta:
    """Θ with frequencies at equal steps up to the ceiling of each axis and envelopes as wide in frequency as a step;
    further starts take envelopes 4, 16, … times narrower in frequency. Without cosine: lengths between a twentieth
    of the ceiling's wavelength's inverse and the domain."""
    theta = []
    for length, ceiling in zip(lengths, ceilings, strict=True):
        mu = torch.linspace(0.0, 1.0, components, dtype=torch.float64) * ceiling
        step = max(ceiling / max(components - 1, 1), 0.25 / length)
        narrow = torch.tensor([4.0**-k for k in range(starts)], dtype=torch.float64)[:, None]
        if family in OSCILLATING:
            rho = math.pi * step * narrow.expand(starts, components)
        else:
            spread = torch.logspace(0.0, math.log10(max(2 * ceiling * length, 2.0)), components, dtype=torch.float64)
            rho = spread / length * narrow
        s = rho.log() if family in ("student_t", "matern") else 2 * rho.log() + math.log(0.5)
        weight = torch.full((starts, components), -math.log(components), dtype=torch.float64)
        theta.append((weight, s.contiguous(), mu.expand(starts, components).contiguous()))
    return theta

"""The energy of a network at frozen points, with the metric of its natural gradient."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from sciops.core.calculus import Key, Request
from sciops.models.hard_boundary import HardBoundary
from sciops.models.per_sample import per_sample_jacobian
from sciops.models.trial import Trial
from sciops.numerics.variational import EnergyDensity


def fields_request(ndim: int) -> tuple[tuple[int, ...], ...]:
    """u and its first derivatives, in the order of the rows of `fields`."""
    return tuple(tuple(int(j == row - 1) for j in range(ndim)) for row in range(ndim + 1))


class RitzEnergy:
    """E(θ) = Σ_i w_i L(x_i, u_θ, ∇u_θ) and its tangent, for `EnergyNaturalGradient`; only first derivatives of u.

    With J_a the Jacobians of u and its derivatives, ∂E/∂θ = Σ_a J_aᵀ w s_a, and the metric is FᵀF with rows of F
        h1       √w J_a, a = 1 … d: the H¹₀ Gram matrix of the tangent space;
        hessian  √w C^{1/2} J with C = ∂²L/∂(u, ∇u)² at the iterate, negative eigenvalues cut off: the Hessian of E in
                 function space, seen by the network (generalised Gauss–Newton).
    Memory: F has (d + 1) N rows (d N for h1) and one column per parameter.
    """

    def __init__(self, trial: Trial, density: EnergyDensity, metric: str = "hessian", chunk: int = 4096) -> None:
        self.trial, self.metric, self.order = trial, metric, fields_request(trial.ndim)
        self.request: Request = frozenset(self.order)
        # Kept as objects: the trial function remembers its boundary factors by point set.
        self.parts = [density.part(slice(k, k + chunk)) for k in range(0, len(density), chunk)]
        if isinstance(trial, HardBoundary):
            trial.kept = max(4, len(self.parts) + 2)
        self.parameters = [p for p in trial.parameters() if p.requires_grad]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def _move(self, theta: Float[Tensor, " P"]) -> None:
        with torch.no_grad():
            vector_to_parameters(theta, self.parameters)

    def _fields(self, part: EnergyDensity) -> Float[Tensor, "r N"]:
        table = self.trial.derivatives(part.x, self.request)
        return torch.stack([table[key][:, 0] for key in self.order])

    def value(self) -> Float[Tensor, ""]:
        """E at the network's own parameters, with gradients: for first-order methods."""
        total = self.parts[0].x.new_zeros(())
        for part in self.parts:
            total = total + part.total(self._fields(part))
        return total

    def energy(self, theta: Float[Tensor, " P"]) -> float:
        self._move(theta)
        with torch.no_grad():
            return float(self.value())

    def tangent(self, theta: Float[Tensor, " P"]) -> tuple[float, Float[Tensor, " P"], Float[Tensor, "M P"]]:
        self._move(theta)
        total, gradient, blocks = 0.0, torch.zeros_like(theta), []
        for part in self.parts:
            values, jacobians = per_sample_jacobian(self.trial, part.x, self.request, self._rows)
            fields, w = torch.stack(values), part.weights
            if self.metric == "h1":
                L, slopes = part.slopes(fields)
                blocks += [w.sqrt()[:, None] * J for J in jacobians[1:]]
            else:
                L, slopes, curvature = part.curvatures(fields)
                blocks += self._weighted(curvature * w, jacobians)
            total += float(w @ L)
            for slope, J in zip(slopes, jacobians, strict=True):
                gradient += J.T @ (w * slope)
        return total, gradient, torch.cat(blocks)

    def _rows(self, table: dict[Key, Float[Tensor, "N c"]]) -> list[Float[Tensor, " N"]]:
        return [table[key][:, 0] for key in self.order]

    @staticmethod
    def _weighted(C: Float[Tensor, "r r N"], jacobians: list[Tensor]) -> list[Float[Tensor, "N P"]]:
        """C^{1/2} J at every point, without the rows that are zero at all of them."""
        values, vectors = torch.linalg.eigh(C.permute(2, 0, 1))
        root = vectors * values.clamp(min=0).sqrt()[:, None, :]  # C = root rootᵀ
        blocks = []
        for column in range(root.shape[2]):
            if not bool(root[:, :, column].any()):
                continue
            block = root[:, 0, column, None] * jacobians[0]
            for row in range(1, root.shape[1]):
                block = torch.addcmul(block, root[:, row, column, None], jacobians[row])
            blocks.append(block)
        return blocks

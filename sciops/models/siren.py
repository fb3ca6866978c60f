"""Networks of sines whose initial weights keep every layer's law the same."""

import math
from collections.abc import Sequence

import torch

from sciops.core.errors import UsageError
from sciops.models.activations import Sine
from sciops.models.embeddings import Embedding
from sciops.models.mlp import MLP


class Siren(MLP):
    """u = W_L h_{L−1} + b_L, h_k = sin(ω₀ (W_k h_{k−1} + b_k)), h_0 = x̂.

    W_1 ~ U(±1/d), further W ~ U(±√(6/n)/ω₀), biases U(±1/√n) with n the layer's inputs: activations keep the arcsine
    law at every depth, and derivatives of u are networks of the same kind.

    omega          ω₀ = 30: initial frequencies up to about ω₀ radians per unit of x̂ in the first layer
    width, depth   256 and 5 as published for images
    Cost: as MLP. The tangent kernel of a second-order residual grows like ω₀⁴: boundary rows need weights to match, or
    conditions imposed exactly.
    Reference: Sitzmann et al., "Implicit Neural Representations with Periodic Activation Functions", NeurIPS 33 (2020).
    """

    def __init__(
        self,
        ndim: int,
        channels: int = 1,
        width: int = 256,
        depth: int = 5,
        omega: float = 30.0,
        lower: Sequence[float] | None = None,
        upper: Sequence[float] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        embedding: Embedding | None = None,
    ) -> None:
        if omega <= 0:
            raise UsageError(f"omega must be positive; got {omega}.")
        self.omega = omega
        super().__init__(ndim, channels, width, depth, Sine(omega), lower, upper, seed, dtype, embedding)

    def reset(self, random: torch.Generator) -> None:
        with torch.no_grad():
            for k, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
                n = W.shape[1]
                _uniform(W, 1 / n if k == 0 else math.sqrt(6 / n) / self.omega, random)
                _uniform(b, 1 / math.sqrt(n), random)


def _uniform(p: torch.Tensor, limit: float, random: torch.Generator) -> None:
    p.copy_((2 * torch.rand(p.shape, generator=random, dtype=torch.float64) - 1) * limit)

"""Multilayer perceptrons that carry their derivatives forward, layer by layer."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.calculus.forward import Key, Request
from sciops.core.errors import UsageError
from sciops.models.activations import Smooth, activation
from sciops.models.channels import Plan, bend, orders_up_to, unit_seeds
from sciops.models.embeddings import Embedding, Scaled
from sciops.models.fused import curve
from sciops.models.sweep import sweep, sweepable
from sciops.models.trial import Linear, Tape, Trial

__all__ = ["MLP", "Plan", "bend", "orders_up_to"]


class MLP(Trial):
    """u = W_L φ(… φ(W_1 x̂ + b_1) …) + b_L with x̂ the box scaled to [−1, 1]^d.

    One forward pass carries (value, gradient, second derivatives or their sum Δ, third derivatives) through all layers:
    z = W h + b, ∇z = W ∇h, Δh = φ′ Δz + φ″ |∇z|². Cost: one matrix product per channel and layer, d + 2 channels for
    a Laplacian. Orders beyond three fall back to nested reverse passes. A loss of these derivatives needs one backward
    pass, so `torch.compile(loss, fullgraph=True)` works on it, which it does not on nested passes; fix the number of
    points, every new shape compiles again (a minute on a CPU).

    width, depth    neurons per hidden layer, hidden layers
    activation      name (`sciops.models.activations`) or any smooth elementwise function
    lower, upper    the box; x̂ = x where they are not given
    embedding       first layer without parameters (`sciops.models.embeddings`) instead of x̂: periodic axes, random
                    Fourier features
    seed            of the initial weights (Glorot's uniform law, zero biases)
    Reference: Li et al., "A computational framework for neural network-based variational Monte Carlo with Forward
    Laplacian", Nature Machine Intelligence 6 (2024).
    """

    def __init__(
        self,
        ndim: int,
        channels: int = 1,
        width: int = 32,
        depth: int = 3,
        activation_name: str | Callable[[Tensor], Tensor] | Smooth = "tanh",
        lower: Sequence[float] | None = None,
        upper: Sequence[float] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        embedding: Embedding | None = None,
    ) -> None:
        super().__init__()
        if min(ndim, channels, width, depth) < 1:
            raise UsageError(
                f"ndim, channels, width and depth must be 1 or more; got {ndim}, {channels}, {width}, {depth}."
            )
        self.ndim, self.channels = ndim, channels
        self.phi = activation(activation_name)
        self.embedding = Scaled(ndim, lower, upper) if embedding is None else embedding
        if self.embedding.ndim != ndim:
            raise UsageError(f"The embedding is made for {self.embedding.ndim} axes; the network has ndim = {ndim}.")
        self.embedding.to(dtype)
        sizes = [self.embedding.width, *[width] * depth, channels]
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(m, n, dtype=dtype)) for n, m in pairwise(sizes))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(m, dtype=dtype)) for m in sizes[1:])
        self.reset(torch.Generator().manual_seed(seed))

    def reset(self, random: torch.Generator) -> None:
        """Glorot's uniform weights, zero biases."""
        with torch.no_grad():
            for W, b in zip(self.weights, self.biases, strict=True):
                limit = math.sqrt(6 / sum(W.shape))
                W.copy_((2 * torch.rand(W.shape, generator=random, dtype=torch.float64) - 1) * limit)
                b.zero_()

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N c"]:
        h = self.embedding(x)
        for k, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.nn.functional.linear(h if k == 0 else self.phi(h), W, b)
        return h

    def derivatives(
        self, x: Float[Tensor, "N d"], request: Request, tape: Tape | None = None
    ) -> dict[Key, Float[Tensor, "N c"]]:
        if any(not isinstance(key, str) and sum(key) > 3 for key in request):
            return super().derivatives(x, request, tape)
        plan = Plan.of(request, self.ndim)
        channels = self.propagate(x, unit_seeds(plan, x), plan, tape)
        return {key: channels[plan.row_of(key)] for key in request}

    def propagate(
        self,
        x: Float[Tensor, "N d"],
        seeds: Float[Tensor, "k #N d"],
        plan: Plan,
        tape: Tape | None = None,
        form: Tensor | None = None,
    ) -> list[Float[Tensor, "N c"]]:
        """The value and the plan's channels from the derivatives of x itself, `seeds`: along the axes, or others."""
        h, t = self.embedding.carry(x, seeds, plan, form)
        weights, biases = list(self.weights), list(self.biases)
        if tape is None and sweepable(self.phi, plan, h, t, form, weights):
            return sweep(self.phi, plan, h, t, weights, biases)
        outputs: list[Tensor] = []
        for k, (W, b) in enumerate(zip(weights, biases, strict=True)):
            if k:
                inputs = [curve(self.phi, plan, outputs, biases[k - 1], form)]
            else:  # derivatives that are the same at all points pass through the first layer once
                inputs = [h, t] if t.shape[1] == 1 else [torch.cat([h[None], t])]
            outputs = [torch.nn.functional.linear(part, W) for part in inputs]
            if tape is not None:
                outputs = [part.expand(-1, len(x), -1) if part.dim() == 3 else part for part in outputs]
                tape.layers.append(Linear(W, b, inputs, outputs))
        return [outputs[0][0] + biases[-1], *outputs[0][1:].unbind(0)]

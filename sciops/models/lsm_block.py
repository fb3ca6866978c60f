"""Neural spectral block: patches of a field pass through a few latent tokens and a trigonometric series."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError


class TrigonometricSeries(torch.autograd.Function):
    """Σᵢ [αᵢ sin iθ + βᵢ cos iθ] = Re Σᵢ (βᵢ − √−1 αᵢ) e^{√−1 iθ},  θ = π z/N,  weights (c, 2N): α, then β.

    Horner's rule: one sine and one cosine an element. Backward evaluates the derivative's series the same way, so that
    only z is kept, not the 2N waves or the partial sums; it is made of differentiable operations itself.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, weights: Tensor) -> Tensor:
        n = weights.shape[1] // 2
        theta = z * (math.pi / n)
        return horner(theta.cos(), theta.sin(), *weights.t().split(n))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        z, weights = ctx.saved_tensors
        n = weights.shape[1] // 2
        theta, (alpha, beta) = z * (math.pi / n), weights.t().split(n)
        cos, sin = theta.cos(), theta.sin()
        order = torch.arange(n, device=z.device, dtype=z.dtype).unsqueeze(1) * (math.pi / n)
        by_z = grad * horner(cos, sin, -order * beta, order * alpha)
        rows = tuple(range(z.ndim - 1))
        sines, cosines = [torch.zeros_like(alpha[0])], [grad.sum(rows)]
        real, imag = grad, torch.zeros_like(grad)
        for _ in range(1, n):
            real, imag = (
                torch.addcmul(real * cos, imag, sin, value=-1),
                torch.addcmul(imag * cos, real, sin),
            )
            sines.append(imag.sum(rows))
            cosines.append(real.sum(rows))
        return by_z, torch.stack(sines + cosines, 1)


def horner(cos: Tensor, sin: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Σᵢ αᵢ sin iθ + βᵢ cos iθ from cos θ and sin θ; rows i of the weights. Recurrences in 2 cos θ alone would amplify
    rounding errors near θ = 0."""
    n = len(alpha)
    if n == 1:
        return beta[0].expand_as(cos).clone()
    real, imag = beta[n - 1].expand_as(cos), -alpha[n - 1].expand_as(cos)
    for i in range(n - 2, 0, -1):
        real, imag = (
            torch.addcmul(torch.addcmul(beta[i], cos, real), sin, imag, value=-1),
            torch.addcmul(torch.addcmul(-alpha[i], sin, real), cos, imag),
        )
    return torch.addcmul(torch.addcmul(beta[0], cos, real), sin, imag, value=-1)


class SpectralBlock(nn.Module):
    """x ← x + softmax_T(Q zᵀ) z,  z ← z + Σᵢ [αᵢ sin(π i z/N) + βᵢ cos(π i z/N)],  z = z₀ + softmax_L(z₀ Kᵀ) V.

    Per patch of L points: T learnt tokens z₀ gather the patch by attention (keys K = W_K x + b_K and values V), a
    trigonometric series acts on each token and channel, the points read the tokens back (queries Q). Heads are
    contiguous groups of channels; no logit is scaled. Patches do not see each other, and points of a patch no order.

    width    channels w, divisible by `heads`;  T = tokens, N = bases;  3w² + 3w + w(2N + T) parameters
    series   α then β, one row of 2N numbers per channel. The sine with i = 0 and b_K have no effect; both are kept
             because the published parameter counts hold them.

    How it is computed: z₀ Kᵀ = (z₀ W_K) xᵀ, the weighted mean of the values is W_V applied to the weighted mean of
    the points, and Q zᵀ = x (z W_Q)ᵀ + z b_Q; keys, values and queries of the points are never formed, and all is
    products with h·T columns. The field is copied once, into patches. Per point O(w h T) instead of O(w²), and O(T w²)
    per patch. The series keeps the tokens alone for the backward pass (`TrigonometricSeries`).
    Attention and series run in float32 or better under any autocast: unscaled logits saturate in bfloat16.
    UsageError where the patch does not tile the grid. Wu, Hu, Luo, Wang, Long, "Solving high-dimensional PDEs with
    latent spectral models", ICML 2023.
    """

    eye: Tensor

    def __init__(self, width: int, tokens: int = 4, bases: int = 12, heads: int = 8):
        super().__init__()
        if heads < 1 or width % heads:
            raise UsageError(f"heads must divide width; got heads={heads}, width={width}.")
        if tokens < 1 or bases < 1:
            raise UsageError(f"tokens and bases must be 1 or more; got {tokens} and {bases}.")
        self.heads, self.tokens, self.bases = heads, tokens, bases
        # Uniform in [0, 1/w], all positive, as published.
        self.latent = nn.Parameter(torch.rand(heads, tokens, width // heads) / width)
        self.series = nn.Parameter(torch.rand(width, 2 * bases) / width)
        self.key, self.value, self.query = (nn.Linear(width, width) for _ in range(3))
        self.register_buffer("eye", torch.eye(heads), persistent=False)

    def forward(self, x: Float[Tensor, "n c *s"], patch: Sequence[int]) -> Float[Tensor, "n c *s"]:
        sizes, width = x.shape[2:], x.shape[1]
        if len(patch) != len(sizes) or any(p < 1 or n % p for n, p in zip(sizes, patch, strict=True)):
            raise UsageError(f"patch {tuple(patch)} must tile the grid {tuple(sizes)}: each size a multiple of it.")
        ndim, split = len(sizes), [x.shape[0]]
        for n, p in zip(sizes, patch, strict=True):
            split += [n // p, p]
        field = x.movedim(1, -1).reshape(*split, width)
        to_patches = [0, *range(1, 2 * ndim, 2), *range(2, 2 * ndim + 1, 2), 2 * ndim + 1]
        back = sorted(range(len(to_patches)), key=to_patches.__getitem__)
        gathered = field.permute(to_patches)
        with autocast_off(x.device.type):
            dtype = torch.promote_types(self.latent.dtype, torch.float32)
            rows = gathered.reshape(-1, math.prod(patch), width).to(dtype)
            update = self.decode(rows, self.transition(self.encode(rows))).to(x.dtype)
        out = field + update.view(gathered.shape).permute(back)
        return out.reshape(x.shape[0], *sizes, width).movedim(-1, 1)

    def encode(self, rows: Float[Tensor, "r l c"]) -> Float[Tensor, "r t c"]:
        """z₀ + softmax_L(z₀ Kᵀ) V for each patch, heads side by side."""
        h, t, width, dtype = self.heads, self.tokens, rows.shape[-1], rows.dtype
        latent = self.latent.to(dtype).transpose(0, 1)  # token, head, channel of the head
        folded = torch.einsum("the,hec->thc", latent, self.key.weight.to(dtype).view(h, -1, width))
        bias = torch.einsum("the,he->th", latent, self.key.bias.to(dtype).view(h, -1))
        logits = F.linear(rows, folded.flatten(0, 1), bias.flatten())
        mean = torch.bmm(logits.softmax(1).transpose(1, 2), rows)  # r, token × head, c
        value = self.value.weight.to(dtype).view(h, -1, width)
        # Tokens before heads, so that each head's rows are one strided matrix.
        z = torch.bmm(mean.view(-1, h, width).transpose(0, 1), value.transpose(1, 2))
        z = z.transpose(0, 1).reshape(-1, t, width)
        return z + (latent.reshape(t, width) + self.value.bias.to(dtype))

    def transition(self, z: Float[Tensor, "r t c"]) -> Float[Tensor, "r t c"]:
        """z + Σᵢ [αᵢ sin(π i z/N) + βᵢ cos(π i z/N)]."""
        return z + TrigonometricSeries.apply(z, self.series.to(z.dtype))

    def decode(self, rows: Float[Tensor, "r l c"], z: Float[Tensor, "r t c"]) -> Float[Tensor, "r l c"]:
        """softmax_T(Q zᵀ) z for each patch."""
        h, t, width, dtype = self.heads, self.tokens, rows.shape[-1], rows.dtype
        # One row per token and head, zero outside the head's channels.
        apart = (z.reshape(-1, t, 1, h, width // h) * self.eye.to(dtype).view(1, 1, h, h, 1)).reshape(-1, t * h, width)
        folded = apart @ self.query.weight.to(dtype)
        bias = apart @ self.query.bias.to(dtype)
        logits = torch.baddbmm(bias.unsqueeze(1), rows, folded.transpose(1, 2))
        share = logits.view(-1, rows.shape[1], t, h).softmax(2)
        return torch.bmm(share.view_as(logits), apart)


def autocast_off(device: str) -> contextlib.AbstractContextManager[None]:
    """Nothing is cast inside; the meta device has no autocast to turn off."""
    return (
        torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else contextlib.nullcontext()
    )

"""Attention as an integral over the domain: softmax and linear, with quadrature weights."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Domain
from sciops.models.function_space.norms import standardised
from sciops.models.function_space.quadrature import weights_of
from sciops.models.function_space.rotary import Rotary


class Heads(nn.Module):
    """Projections shared by both kinds: q from the queries, k and v from the source, one linear map behind."""

    def __init__(
        self,
        channels: int,
        heads: int = 4,
        source_channels: int | None = None,
        rotary: Rotary | None = None,
        head_channels: int | None = None,
    ):
        super().__init__()
        if heads < 1 or (head_channels is None and channels % heads):
            raise UsageError(f"heads must divide channels, or head_channels be given; got {heads} and {channels}.")
        size = head_channels or channels // heads
        if rotary is not None and rotary.channels != size:
            raise UsageError(f"rotary turns {rotary.channels} channels, a head has {size}.")
        self.heads, self.rotary = heads, rotary
        self.q = nn.Linear(channels, heads * size)
        self.k = nn.Linear(source_channels or channels, heads * size)
        self.v = nn.Linear(source_channels or channels, heads * size)
        self.out = nn.Linear(heads * size, channels)

    def split(self, x: Float[Tensor, "n N c"]) -> Float[Tensor, "n h N e"]:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def joined(self, x: Float[Tensor, "n h N e"]) -> Float[Tensor, "n N c"]:
        return self.out(x.transpose(1, 2).flatten(2))

    def turned(self, x: Float[Tensor, "n h N e"], domain: Domain) -> Float[Tensor, "n h N e"]:
        return x if self.rotary is None else self.rotary(x, domain)


class QuadAttention(Heads):
    """g(y) = ∫ e^{q(y)·k(x)/√e} v(x) dx / ∫ e^{q(y)·k(x)/√e} dx, by quadrature: log w_i is added to the logits.

    The source may be another field on another domain than the queries (cross-attention): the weights are those of the
    source. Splitting a point into two of half the weight changes nothing. Tokens that are no points (class token,
    registers) enter by `with_tokens`. Cost O(M N c), M queries, N source points; memory as
    `scaled_dot_product_attention`. The error in N is that of the quadrature: order 2 on node and cell grids.
    token_share   weight of one token, that of the whole domain being one
    Kovachki et al., "Neural operator", JMLR 24 (2023); Vaswani et al., NeurIPS 30 (2017).
    """

    def __init__(
        self,
        channels: int,
        heads: int = 4,
        source_channels: int | None = None,
        rotary: Rotary | None = None,
        head_channels: int | None = None,
        token_share: float = 1.0,
    ):
        super().__init__(channels, heads, source_channels, rotary, head_channels)
        if token_share <= 0:
            raise UsageError(f"token_share must be positive; got {token_share}.")
        self.token_share = token_share

    def forward(
        self,
        x: Float[Tensor, "n c *s"],
        domain: Domain,
        source: Float[Tensor, "n b *r"] | None = None,
        source_domain: Domain | None = None,
    ) -> Float[Tensor, "n c *s"]:
        over, on = (x, domain) if source is None or source_domain is None else (source, source_domain)
        _check_pair(source, source_domain)
        logs = weights_of(over, on).flatten().log()
        points, rows = x.flatten(2).mT, over.flatten(2).mT
        q = self.turned(self.split(self.q(points)), domain)
        k = self.turned(self.split(self.k(rows)), on)
        y = F.scaled_dot_product_attention(q, k, self.split(self.v(rows)), logs[None])
        return self.joined(y).mT.reshape(x.shape)

    def with_tokens(
        self, x: Float[Tensor, "n c *s"], tokens: Float[Tensor, "n t c"], domain: Domain
    ) -> tuple[Float[Tensor, "n c *s"], Float[Tensor, "n t c"]]:
        """Self-attention of points and tokens together: fields and tokens."""
        w = weights_of(x, domain).flatten()
        count = tokens.shape[1]
        logs = torch.cat([w.new_full((count,), self.token_share), w / w.sum()]).log()
        rows = torch.cat([tokens, x.flatten(2).mT], dim=1)
        q, k, v = (self.split(linear(rows)) for linear in (self.q, self.k, self.v))
        if self.rotary is not None:
            q, k = (torch.cat([a[:, :, :count], self.turned(a[:, :, count:], domain)], dim=2) for a in (q, k))
        y = self.joined(F.scaled_dot_product_attention(q, k, v, logs[None]))
        return y[:, count:].mT.reshape(x.shape), y[:, :count]


class LinearAttention(Heads):
    """g(y) = q(y) ∫ k(x) v(x)ᵀ dx / |D|: attention without a softmax, weights inside the sum.

    k and v are normalised over space by weighted instance norms, per head and channel (Galerkin type). Any other
    source as in `QuadAttention`. Cost O((M + N) c²/heads): for grids of many points. No positivity: the kernel has
    rank c/heads.
    Cao, "Choose a transformer: Fourier or Galerkin", NeurIPS 2021; Li, Meidani, Farimani, "Transformer for partial
    differential equations' operator learning", TMLR 2023.
    """

    def forward(
        self,
        x: Float[Tensor, "n c *s"],
        domain: Domain,
        source: Float[Tensor, "n b *r"] | None = None,
        source_domain: Domain | None = None,
    ) -> Float[Tensor, "n c *s"]:
        over, on = (x, domain) if source is None or source_domain is None else (source, source_domain)
        _check_pair(source, source_domain)
        w = weights_of(over, on).flatten()
        rows = over.flatten(2).mT
        k, v = (self.split(standardised(linear(rows).mT, w, linear.out_features).mT) for linear in (self.k, self.v))
        moment = (self.turned(k, on) * (w / w.sum())[:, None]).mT @ v
        q = self.turned(self.split(self.q(x.flatten(2).mT)), domain)
        return self.joined(q @ moment).mT.reshape(x.shape)


def _check_pair(source: Tensor | None, source_domain: Domain | None) -> None:
    if (source is None) != (source_domain is None):
        raise UsageError("Cross-attention needs both the source field and the domain on which it is sampled.")

"""A network on patches: every p × p points are one point with p² times the channels."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.config import build, resolve_class
from sciops.core.errors import UsageError
from sciops.models.vcycle import CONV

ANSWERS = ("patches", "smooth")


class Patches(nn.Module):
    """u = R G_θ(S a),  S: (c, n, …) → (c p^d, n/p, …) moves the points of a patch into channels, and nothing is lost.

    The inner network does its work on p^d times fewer points, at about 1/p^d of the cost: for operators that are to be
    cheap beside an iteration over the grid, where what matters is the smooth part of the answer.

    net     class path of G_θ, `options` its arguments; in_channels (c p^d or `embed`), out_channels, ndim, bc and
            layout are handed to it where it takes them and options do not name them
    patch   p, points per axis; the grid must be a multiple of it
    embed   a learnt linear map of a patch's c p^d numbers to this many channels in front of G_θ; None: all go in
    answer  "patches": G_θ answers all p^d points of a patch in channels, R = S⁻¹. Borders leave no seam exactly where
            G_θ learns to leave none. "smooth": one value per patch, at its centre, R interpolates them by trigonometric
            functions (periodic axes alone): n/2p frequencies, exact for smooth answers, cheap to learn
    Axes of nodes with walls are refused: the two end points would belong to patches of another kind. UsageError (a
    ValueError) on a grid that is no multiple.
    Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel convolutional neural
    network", CVPR 2016 (S⁻¹ as the last layer).
    """

    def __init__(
        self,
        net: str,
        options: dict[str, Any] | None = None,
        patch: int = 4,
        answer: str = "patches",
        embed: int | None = None,
        in_channels: int = 1,
        out_channels: int = 1,
        ndim: int = 2,
        bc: str | Sequence[str] = "dirichlet",
        layout: str = "cell",
    ):
        super().__init__()
        if patch < 1:
            raise UsageError(f"patch must be 1 or more points per axis; got {patch}.")
        if answer not in ANSWERS:
            raise UsageError(f"answer must be one of {', '.join(ANSWERS)}; got {answer!r}.")
        walls = {bc} if isinstance(bc, str) else set(bc)
        if walls != {"periodic"} and (layout == "node" or answer == "smooth"):
            raise UsageError(
                "Patches takes walls on cells alone, with answer: patches: nodes on walls belong to no whole patch, "
                f"trigonometric functions have none; got bc {bc!r}, layout {layout!r} and answer {answer!r}."
            )
        accepted = inspect.signature(resolve_class(net)).parameters
        each = patch**ndim
        first = in_channels * each
        self.embed = None if embed is None else CONV[ndim](first, embed, 1)
        facts = {"in_channels": first if embed is None else embed, "out_channels": out_channels, "ndim": ndim, "bc": bc}
        facts |= {"layout": layout} | ({"out_channels": out_channels * each} if answer == "patches" else {})
        arguments = {k: v for k, v in facts.items() if k in accepted} | dict(options or {})
        self.patch, self.answer, self.ndim = patch, answer, ndim
        self.net: nn.Module = build({"class_path": net, "init_args": arguments}, nn.Module)

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        shape, p, d = x.shape[2:], self.patch, self.ndim
        if len(shape) != d:
            raise UsageError(f"grid {tuple(shape)} has {len(shape)} axes, the model was built for ndim={d}.")
        if any(n % p for n in shape):
            raise UsageError(f"grid {tuple(shape)} is no multiple of the patch of {p} points; resample it.")
        split = x.reshape(x.shape[0], x.shape[1], *(m for n in shape for m in (n // p, p)))
        inside, outside = [3 + 2 * axis for axis in range(d)], [2 + 2 * axis for axis in range(d)]
        v = split.permute(0, 1, *inside, *outside).flatten(1, 1 + d)
        u = self.net(v if self.embed is None else self.embed(v))
        if self.answer == "smooth":
            for axis in range(d):
                u = (u.movedim(2 + axis, -1) @ interpolation(shape[axis] // p, p, u)).movedim(-1, 2 + axis)
            return u
        u = u.unflatten(1, (u.shape[1] // p**d, *(p,) * d))
        pairs = [k for axis in range(d) for k in (2 + d + axis, 2 + axis)]
        return u.permute(0, 1, *pairs).reshape(x.shape[0], u.shape[1], *shape)


def interpolation(m: int, p: int, like: Tensor) -> Float[Tensor, "m n"]:
    """Values at the centres of m patches → values at m·p points: (1/m) Σ_{|k| ≤ m/2} cos 2πk(x − y), halved at m/2."""
    points = torch.arange(m * p, dtype=like.dtype, device=like.device)
    centres = p * torch.arange(m, dtype=like.dtype, device=like.device) + (p - 1) / 2
    k = torch.arange(m // 2 + 1, dtype=like.dtype, device=like.device)
    weight = torch.where((k == 0) | (2 * k == m), 1.0, 2.0).to(like) / m
    phase = 2 * torch.pi / (m * p) * (points - centres[:, None])
    return (weight * torch.cos(phase[..., None] * k)).sum(-1)

"""Multigrid neural operators: the corrected `MgNO` and, unchanged, the published models it comes from."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from sciops.core.errors import UsageError
from sciops.models.boundary import CIRCULAR, REFLECT, ZEROS, enforce_dirichlet, ghost_mode, per_axis
from sciops.models.vcycle import CONV, Geometry, VCycle

Token = str | int | Sequence[int]
FIVE_ONE_THEN_TWO: tuple[Token, ...] = ("10", "10", "10", "10", "10", "20")


def parse_iterations(iterations: Sequence[Token]) -> list[tuple[int, int]]:
    """(pre, post) smoothing steps per level, finest first; a level is a pair or a token: "20" = 20 = "2" = (2, 0)."""
    pairs = []
    for token in iterations:
        digits = list(str(token)) if isinstance(token, str | int) else list(token)
        if not 1 <= len(digits) <= 2 or not all(str(d).isdigit() for d in digits):
            raise UsageError(f"iterations takes one (pre, post) pair or token such as '10' per level; got {token!r}.")
        pairs.append((int(digits[0]), int(digits[1]) if len(digits) == 2 else 0))
    if not pairs:
        raise UsageError("iterations is empty; give one (pre, post) pair per level, finest first.")
    return pairs


class Layer(nn.Module):
    """v ← W v + L v + b: a V-cycle beside (unless `pointwise` is off) a 1×1 convolution, b a scalar per channel."""

    def __init__(self, cycle: VCycle, in_channels: int, out_channels: int, pointwise: bool = True):
        super().__init__()
        self.W = cycle
        self.L = CONV[cycle.ndim](in_channels, out_channels, 1) if pointwise else None

    def forward(self, v: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        return self.W(v) if self.L is None else self.W(v).add_(self.L(v))


class MgNO(nn.Module):
    """v₀ = a;  v_{k+1} = GELU(W_k v_k + L_k v_k + b_k);  u = H v_K,  each W_k one linear multigrid V-cycle.

    Every level solves a learnt "A u = f" by smoothing and hands its residual to the next (`VCycle` with
    restrict_residual: the coarse state starts at zero and comes back as a correction). Differences from the
    published models, which `PublishedMgNO` keeps: the residual is restricted, not f; W is exactly linear; any
    grid size, with weights that do not depend on it; transfer kernels centred on the coarse unknown of the
    layout; ghost values of the boundary condition everywhere, also in prolongation; Dirichlet values hold
    exactly. L_k is pointwise, H pointwise without bias, b_k one scalar per channel (the paper writes a function,
    the published code has a scalar).

    ndim     1, 2 or 3 grid axes
    bc       "dirichlet" (zero ghosts), "neumann" (mirror ghosts) or "periodic" (wrapped), for all axes or per axis
    layout   "node" (end points on the grid; also for periodic grids), "cell" (cell centres) or "interior"
             (Dirichlet unknowns without the end points)
    iterations         (pre, post) smoothing steps per level, finest first: pairs, or tokens such as "10", "20"
    restrict_residual  False: f itself is restricted and the whole coarse state prolonged, as published
    enforce_boundary   u = boundary_value exactly on Dirichlet faces (`enforce_dirichlet`). Neumann and periodic
             conditions are encoded by the ghost values, and nothing enforces the Neumann one exactly.
    boundary_value     in units of this network's output. Normalisers are a module of the training layer, not of
             this one: where the output normaliser subtracts a mean, give (value − mean)/std here, or turn this
             off and call `enforce_dirichlet` after decoding.
    input_residual     u ← u + a, one step of a time-dependent problem (needs in_channels = out_channels)
    checkpoint         recompute each layer in the backward pass: memory of one layer for one more forward pass
    channels_last      memory format of 2-D fields and weights (the CPU's fast one); the results are the same

    Periodic: commutes with shifts by 2^(levels−1) points where the grid size divides by it. Kernels are tied to
    the spacing: other grid sizes run, but as a stress test, not a feature. Cost O(width² · points) per layer,
    parameters O(width² · levels) per layer. UsageError (a ValueError) on a grid too small for the levels.
    He, Liu, Xu, "MgNO: Efficient parameterization of linear operators via multigrid", ICLR 2024.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 24,
        layers: int = 4,
        iterations: Sequence[Token] = FIVE_ONE_THEN_TWO,
        ndim: int = 2,
        bc: str | Sequence[str] = "dirichlet",
        layout: str = "node",
        restrict_residual: bool = True,
        enforce_boundary: bool = True,
        boundary_value: float = 0.0,
        input_residual: bool = False,
        checkpoint: bool = False,
        channels_last: bool = True,
    ):
        super().__init__()
        if input_residual and in_channels != out_channels:
            raise UsageError(
                f"input_residual adds the input to the output, but in_channels={in_channels} and "
                f"out_channels={out_channels} differ; make them equal or turn it off."
            )
        pairs = parse_iterations(iterations)
        self.bc, self.layout = per_axis(bc, ndim, layout), layout
        self.geometry = aligned(self.bc, layout, len(pairs))
        self.enforce_boundary, self.boundary_value = enforce_boundary, boundary_value
        self.input_residual, self.checkpoint = input_residual, checkpoint
        channels = [in_channels] + [width] * layers
        self.layers = nn.ModuleList(
            Layer(VCycle(c, width, pairs, self.geometry, restrict_residual), c, width) for c in channels[:-1]
        )
        self.head = CONV[ndim](channels[-1], out_channels, 1, bias=False)
        self.channels_last = channels_last and ndim == 2
        if self.channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        self.geometry.check(x.shape[2:])
        v = x.contiguous(memory_format=torch.channels_last) if self.channels_last else x
        for layer in self.layers:
            v = F.gelu(recompute(layer, v, use_reentrant=False) if self.checkpoint else layer(v))
        u = self.head(v)
        if self.input_residual:
            u = u + x
        if self.enforce_boundary:
            u = enforce_dirichlet(u, self.bc, self.layout, self.boundary_value)
        return u


def aligned(bc: Sequence[str], layout: str, levels: int) -> Geometry:
    """Transfer kernels centred on the coarse unknowns, ghost values from the boundary condition."""
    kernel = 4 if layout == "cell" else 3
    return Geometry(
        padding=tuple(ghost_mode(kind, layout) for kind in bc),
        prolong_kernels=(kernel,) * (levels - 1),
        restrict_kernel=kernel,
        transfer_pad=0 if layout == "interior" else 1,
    )


class PublishedMgNO(nn.Module):
    """v_{k+1} = GELU(W_k v_k [+ L_k v_k + b_k]),  u = H v_K: the four models of the published code, unchanged.

    variant          kernels of W                                  beside W        T                   output
    "darcy_smooth"   zero ghosts                                   L_k, b_k        3 or 4 by parity    H v
    "darcy"          zero ghosts                                   L_k, b_k        4                   H v
    "navier_stokes"  circular, A and S biased, LayerNorm after     nothing         4, zero ghosts      H v + a
                     each prolongation (W is not linear)
    "helmholtz"      reflect, A and S biased, l·width channels on  LayerNorm       3 or 4 by parity,   V-cycle
                     level l, R and Π without ghosts               before GELU     no ghosts           to c_out

    All restrict f, not the residual, and prolong the whole coarse state. n is the grid size that the kernels
    ("darcy_smooth", "helmholtz") and LayerNorms ("navier_stokes", "helmholtz") are built for; "darcy" runs where
    n divides by 2^(levels−1). "helmholtz" allocates, as published, an A for each zero-state first step, which has
    no effect and no gradient. Normalisers belong to the training layer here, where the published Darcy and
    Helmholtz models decode inside; they hold no parameters, so the counts are the published ones. H is pointwise
    without bias. `MgNO` is the corrected model. Cost as there.
    He, Liu, Xu, "MgNO: Efficient parameterization of linear operators via multigrid", ICLR 2024.
    """

    def __init__(
        self,
        variant: str = "darcy",
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 24,
        layers: int = 4,
        iterations: Sequence[Token] = FIVE_ONE_THEN_TWO,
        n: int = 0,
        channels_last: bool = True,
    ):
        super().__init__()
        if variant not in VARIANTS:
            raise UsageError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}.")
        if variant != "darcy" and n < 2:
            raise UsageError(f"variant {variant!r} is built for one grid size; give n, the points per axis (got {n}).")
        pairs = parse_iterations(iterations)
        self.variant, self.n, self.channels_last = variant, n, channels_last
        self.geometry = published_geometry(variant, n, len(pairs))
        fixed = variant in ("navier_stokes", "helmholtz")
        if variant != "darcy":
            self.geometry.check((n, n))
        inner = [(m, m) for m in self.geometry.sizes(n)[:-1]] if variant == "navier_stokes" else []
        helmholtz = variant == "helmholtz"

        def layer(c: int, c_out: int) -> Layer:
            cycle = VCycle(
                c,
                c_out,
                pairs,
                self.geometry,
                bias=fixed,
                growth=helmholtz,
                norm_shapes=inner,
                keep_unused=helmholtz,
            )
            return Layer(cycle, c, c_out, pointwise=not fixed)

        self.layers = nn.ModuleList(layer(c, width) for c in ([in_channels] + [width] * layers)[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm([width, n, n]) for _ in range(layers if helmholtz else 0))
        self.head = layer(width, out_channels) if helmholtz else nn.Conv2d(width, out_channels, 1, bias=False)
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c_out h w"]:
        self._check(x)
        v = x.contiguous(memory_format=torch.channels_last) if self.channels_last else x
        for k, layer in enumerate(self.layers):
            v = layer(v)
            v = F.gelu(self.norms[k](v) if self.norms else v)
        u = self.head(v)
        return u + x if self.variant == "navier_stokes" else u

    def _check(self, x: Tensor) -> None:
        shape = tuple(x.shape[2:])
        if self.variant in ("navier_stokes", "helmholtz") and shape != (self.n, self.n):
            raise UsageError(
                f"variant {self.variant!r} was built for a {self.n}×{self.n} grid (its LayerNorms have one weight "
                f"per point) and got {shape}; build it with that n, or use MgNO, which takes any grid size."
            )
        self.geometry.check(shape)


VARIANTS = ("darcy_smooth", "darcy", "navier_stokes", "helmholtz")


def published_geometry(variant: str, n: int, levels: int) -> Geometry:
    """Ghost values and kernel sizes of a published variant; T has size 3 where the finer grid is odd, else 4."""
    ghosts = {"navier_stokes": CIRCULAR, "helmholtz": REFLECT}.get(variant, ZEROS)
    by_size = Geometry((ghosts, ghosts), (4,) * (levels - 1), transfer_pad=int(variant != "helmholtz"))
    kernels = by_size.prolong_kernels
    if variant in ("darcy_smooth", "helmholtz"):
        kernels = tuple(3 if size % 2 else 4 for size in by_size.sizes(n)[:-1])
    return Geometry(by_size.padding, kernels, 3, by_size.transfer_pad, prolong_ghosts=False, exact=True)


def mgno_darcy(
    in_channels: int = 1,
    out_channels: int = 1,
    width: int = 24,
    layers: int = 4,
    iterations: Sequence[Token] = FIVE_ONE_THEN_TWO,
) -> PublishedMgNO:
    """Published model of the rough and multiscale Darcy sets (256²): 572,661 parameters. Pipe: in_channels=2, layers=5,
    iterations 10 10 10 10 11 20: 783,876. The grid must divide by 2^(levels−1)."""
    return PublishedMgNO("darcy", in_channels, out_channels, width, layers, iterations)


def mgno_darcy_smooth(
    in_channels: int = 1,
    out_channels: int = 1,
    width: int = 24,
    layers: int = 5,
    iterations: Sequence[Token] = FIVE_ONE_THEN_TWO,
    n: int = 211,
) -> PublishedMgNO:
    """Published model of the smooth Darcy set: 678,093 parameters at n = 211."""
    return PublishedMgNO("darcy_smooth", in_channels, out_channels, width, layers, iterations, n)


def mgno_navier_stokes(
    in_channels: int = 1,
    out_channels: int = 1,
    width: int = 32,
    layers: int = 5,
    iterations: Sequence[Token] = ("10", "10", "10", "20", "20"),
    n: int = 64,
) -> PublishedMgNO:
    """Published one-step model ω(t) → ω(t+1) on the torus: 2,885,194 parameters at n = 64 (1,740,800 LayerNorm)."""
    return PublishedMgNO("navier_stokes", in_channels, out_channels, width, layers, iterations, n)


def mgno_helmholtz(
    in_channels: int = 1,
    out_channels: int = 1,
    width: int = 20,
    layers: int = 4,
    iterations: Sequence[Token] = ("1", "1", "1", "1", "2"),
    n: int = 101,
) -> PublishedMgNO:
    """Model of the published Helmholtz command: 5,351,806 parameters at n = 101 (11,241 without effect). The paper's
    table states 7.58 M, which this configuration does not give."""
    return PublishedMgNO("helmholtz", in_channels, out_channels, width, layers, iterations, n)

"""Convolution layers that are made of factors from the start."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.compressed.cp import CanonicalPolyadic
from sciops.models.compressed.perkernel import PerKernel
from sciops.models.compressed.scheme import Rank, Scheme, describe, resolve
from sciops.models.compressed.shape import ConvShape, Dense, expand
from sciops.models.compressed.succession import Succession
from sciops.models.compressed.tensor_train import TensorTrain
from sciops.models.compressed.tucker import Tucker

if TYPE_CHECKING:
    from sciops.models.compressed.report import Report

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme for scheme in (PerKernel(), Succession(), CanonicalPolyadic(), Tucker(), TensorTrain())
}


def scheme_named(name: str) -> Scheme:
    if name not in SCHEMES:
        raise UsageError(f"Unknown scheme '{name}'; accepted: {', '.join(SCHEMES)}.")
    return SCHEMES[name]


class CompressedConv(nn.Module):
    """y = W ∗ x + b with W kept as a product of small factors, learnt in that form.

    Arguments as those of torch's convolutions, and
    scheme   "succession" (1-D filters in sequence) | "perkernel" (CP of each kernel) | "cp" | "tucker" | "tt"
    rank     one number for all ranks of the scheme, one for each, a fraction of the dense weights, or "full";
             `.ranks` holds what came of it
    transposed   the form of ConvTranspose, with output_padding

    A fresh layer has the dense layer's variance: the composed kernel gets the norm that torch's own initialisation has
    on average, exactly, for every seed; the bias is drawn as torch draws it. Padding, stride and dilation stand on the
    factor of their own axis, which is exact for zeros, reflect, replicate and circular. There is no activation between
    the factors. `weight` composes the dense kernel, so that code which reads a convolution's weight still works.
    Cost per point: the weights of the factors times the points that each sees; "perkernel" costs a dense convolution.
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        scheme: str = "succession",
        rank: Rank = 0.5,
        transposed: bool = False,
        output_padding: int | Sequence[int] = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if ndim not in (1, 2, 3):
            raise UsageError(f"ndim must be 1, 2 or 3; got {ndim}.")
        shape = ConvShape(
            in_channels,
            out_channels,
            expand(kernel_size, ndim, "kernel_size"),
            expand(stride, ndim, "stride"),
            padding if isinstance(padding, str) else expand(padding, ndim, "padding"),
            expand(dilation, ndim, "dilation"),
            expand(output_padding, ndim, "output_padding"),
            groups,
            padding_mode,
            transposed,
        )
        self._assemble(shape, scheme, resolve(scheme_named(scheme), shape, rank), bias, dtype, device)
        self.reset_parameters()

    def _assemble(
        self,
        shape: ConvShape,
        scheme: str,
        ranks: Sequence[int],
        bias: bool,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        self.shape, self.scheme, self.ranks = shape, scheme, tuple(ranks)
        self.body: Any = scheme_named(scheme).body(shape, ranks, bias, dtype, device)

    @classmethod
    def like(
        cls, conv: Dense, scheme: str = "succession", rank: Rank = 0.5, init: str = "scratch", tolerance: float = 0.01
    ) -> "CompressedConv":
        """A layer in place of a torch convolution: same arguments, dtype and device; weights fresh ("scratch") or
        truncated from the convolution's ("from_dense"). rank "auto": see `resolve`."""
        if init not in ("scratch", "from_dense"):
            raise UsageError(f"init must be scratch or from_dense; got '{init}'.")
        shape = ConvShape.of(conv)
        kernel = shape.from_torch(conv.weight.detach())
        chosen = scheme_named(scheme)
        ranks = resolve(chosen, shape, rank, kernel, tolerance)
        kind = {1: CompressedConv1d, 2: CompressedConv2d, 3: CompressedConv3d}[shape.ndim]
        layer: CompressedConv = kind.__new__(kind)
        nn.Module.__init__(layer)
        layer._assemble(shape, scheme, ranks, conv.bias is not None, conv.weight.dtype, conv.weight.device)
        if init == "scratch":
            layer.reset_parameters()
        else:
            layer.body.load(chosen.factor(kernel.double(), ranks))  # the factors in float64, then as the layer stores
            if conv.bias is not None:
                with torch.no_grad():
                    layer.body.bias.copy_(conv.bias)
        return layer.train(conv.training)

    @classmethod
    def from_dense(
        cls, conv: Dense, scheme: str = "succession", rank: Rank = "auto", tolerance: float = 0.01
    ) -> "CompressedConv":
        """Truncated factors of a trained convolution."""
        return cls.like(conv, scheme, rank, "from_dense", tolerance)

    def reset_parameters(self) -> None:
        """Fresh factors with the variance of torch's own initialisation, U(±1/√fan_in) for kernel and bias."""
        self.body.draw(1 / (3 * self.shape.fan_in))
        if self.bias is not None:
            limit = self.shape.fan_in**-0.5
            nn.init.uniform_(self.bias, -limit, limit)

    @property
    def bias(self) -> nn.Parameter | None:
        return self.body.bias

    @property
    def weight(self) -> Tensor:
        """The composed kernel in torch's layout."""
        return self.shape.to_torch(self.body.kernel())

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return self.shape.kernel

    @property
    def in_channels(self) -> int:
        return self.shape.in_channels

    @property
    def out_channels(self) -> int:
        return self.shape.out_channels

    def forward(self, x: Float[Tensor, "..."], output_size: Sequence[int] | None = None) -> Float[Tensor, "..."]:
        if output_size is None:
            return self.body(x)
        return self.body(x, self._grown(x, output_size))

    def _grown(self, x: Tensor, output_size: Sequence[int]) -> list[int]:
        """Output padding that gives a transposed convolution the asked size."""
        shape = self.shape
        if not shape.transposed:
            raise UsageError("output_size is for transposed convolutions alone; leave it out.")
        rows = zip(
            x.shape[-shape.ndim :], tuple(output_size)[-shape.ndim :], shape.kernel, shape.stride, shape.padding,
            shape.dilation, strict=True,
        )  # fmt: skip
        grown = []
        for n, wanted, k, stride, pad, dilation in rows:
            least = (n - 1) * stride - 2 * int(pad) + dilation * (k - 1) + 1
            if not least <= wanted < least + max(stride, dilation):
                raise UsageError(
                    f"An axis of {n} points can become {least} to {least + max(stride, dilation) - 1} points; "
                    f"got output_size {tuple(output_size)}."
                )
            grown.append(wanted - least)
        return grown

    @torch.no_grad()
    def to_dense(self) -> Dense:
        """An ordinary convolution with the composed kernel."""
        weight, bias = self.weight, self.bias
        conv = self.shape.build(bias is not None, weight.dtype, weight.device)
        conv.weight.copy_(weight)
        if bias is not None and conv.bias is not None:
            conv.bias.copy_(bias)
        return conv.train(self.training)

    def spectrum(self) -> list[Float[Tensor, " r"]]:
        """For each rank of the scheme the singular values of the present kernel, root of the sum of squares over
        groups (over all kernels for "perkernel")."""
        kernel = self.body.kernel().detach().double()
        return [values.square().sum(dim=0).sqrt() for values in scheme_named(self.scheme).spectra(kernel)]

    def report(self, example: Tensor | None = None, repeats: int = 10) -> "Report":
        """Parameters and, with an example input, FLOPs, memory and milliseconds beside the dense layer's."""
        from sciops.models.compressed.report import report

        return report(self, example, repeats)

    def extra_repr(self) -> str:
        return f"{describe(self.shape)}, scheme={self.scheme}, ranks={self.ranks}"


class _Fixed(CompressedConv):
    """Number of axes in the name of the class; arguments as those of `CompressedConv` without ndim."""

    axes: int

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | Sequence[int], *args: Any, **options: Any
    ) -> None:
        super().__init__(self.axes, in_channels, out_channels, kernel_size, *args, **options)


class CompressedConv1d(_Fixed):
    __doc__ = CompressedConv.__doc__
    axes = 1


class CompressedConv2d(_Fixed):
    __doc__ = CompressedConv.__doc__
    axes = 2


class CompressedConv3d(_Fixed):
    __doc__ = CompressedConv.__doc__
    axes = 3

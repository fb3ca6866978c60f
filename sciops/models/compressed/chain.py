"""A convolution as a succession of smaller ones, any neighbours of which can be contracted into one."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.compressed.shape import ConvShape, Dense

LEFT, RIGHT = "ABC", "DEF"


@dataclass(frozen=True)
class Step:
    """One factor: channels of one group before and after it, and the axes that it acts along. Depthwise: each
    channel on its own."""

    before: int
    after: int
    axes: tuple[int, ...] = ()
    depthwise: bool = False

    def weights(self, shape: ConvShape) -> int:
        pairs = self.after if self.depthwise else self.before * self.after
        return shape.groups * pairs * prod(shape.kernel[axis] for axis in self.axes)

    def conv(self, shape: ConvShape) -> ConvShape:
        groups = shape.groups * (self.after if self.depthwise else 1)
        return shape.along(self.axes, shape.groups * self.before, shape.groups * self.after, groups)


class Chain(nn.Module):
    """y = S_n … S_1 x + b: the steps without activation between them, the bias on the last.

    `segments` lists runs of neighbouring steps; a run of more than one is contracted to one kernel at every call, so
    that gradients still reach the factors. One run of all steps rebuilds the dense kernel.
    """

    def __init__(
        self,
        shape: ConvShape,
        steps: Sequence[Step],
        bias: bool,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.shape, self.plan = shape, tuple(steps)
        last = len(self.plan) - 1
        self.steps = nn.ModuleList(
            step.conv(shape).build(bias and i == last, dtype, device) for i, step in enumerate(self.plan)
        )
        self.segments: tuple[tuple[int, int], ...] = tuple((i, i + 1) for i in range(len(self.plan)))

    @property
    def bias(self) -> nn.Parameter | None:
        return self.steps[-1].bias  # type: ignore[return-value]

    @property
    def factors(self) -> list[nn.Parameter]:
        return [step.weight for step in self.steps]  # type: ignore[misc]

    def forward(self, x: Tensor, grown: Sequence[int] | None = None) -> Tensor:
        if not self.segments:
            raise UsageError("A chain of factors needs at least one segment.")
        for start, stop in self.segments:
            if stop - start == 1 and grown is None:
                x = self.steps[start](x)
                continue
            shape, weight, bias = self.contracted(start, stop)
            extra = None
            if grown is not None and shape.transposed:
                axes = {axis for step in self.plan[start:stop] for axis in step.axes}
                extra = [g if axis in axes else 0 for axis, g in enumerate(grown)]
            x = shape.apply(x, weight, bias, extra)
        return x

    def contracted(self, start: int, stop: int) -> tuple[ConvShape, Tensor, Tensor | None]:
        """Steps start … stop−1 as one convolution: its shape, torch weight and bias."""
        run = self.plan[start:stop]
        kernel, depthwise = self.core(start), run[0].depthwise
        for i in range(start + 1, stop):
            kernel = _compose(kernel, self.core(i), depthwise, self.plan[i].depthwise)
            depthwise = depthwise and self.plan[i].depthwise
        axes = tuple(axis for step in run for axis in step.axes)
        shape = Step(run[0].before, run[-1].after, axes, depthwise).conv(self.shape)
        if depthwise:
            kernel = kernel.reshape(-1, 1, 1, *kernel.shape[3:])
        return shape, shape.to_torch(kernel), self.steps[stop - 1].bias  # type: ignore[return-value]

    def core(self, i: int) -> Tensor:
        """Factor i in canonical layout (groups, after, before, *taps); depthwise ones (groups, after, 1, *taps)."""
        step = self.plan[i]
        kernel = step.conv(self.shape).from_torch(self.steps[i].weight)  # type: ignore[arg-type]
        if step.depthwise:
            kernel = kernel.reshape(self.shape.groups, step.after, 1, *kernel.shape[3:])
        return kernel

    def kernel(self) -> Tensor:
        """The dense kernel in canonical layout."""
        shape, weight, _ = self.contracted(0, len(self.plan))
        return shape.from_torch(weight)

    @torch.no_grad()
    def load(self, cores: Sequence[Tensor]) -> None:
        """Set the factors from canonical cores."""
        for step, conv, core in zip(self.plan, self.steps, cores, strict=True):
            shape = step.conv(self.shape)
            if step.depthwise:
                core = core.reshape(-1, 1, 1, *shape.kernel)
            conv.weight.copy_(shape.to_torch(core.reshape(shape.groups, shape.outer, shape.inner, *shape.kernel)))  # type: ignore[operator, union-attr]

    @torch.no_grad()
    def draw(self, variance: float) -> None:
        """Factors that each keep the variance of white input, then scaled so that the composed kernel has the
        Frobenius norm of a dense one with entries of this variance."""
        for step, conv in zip(self.plan, self.steps, strict=True):
            fan_in = (1 if step.depthwise else step.before) * prod(self.shape.kernel[axis] for axis in step.axes)
            limit = (3 / fan_in) ** 0.5
            conv.weight.uniform_(-limit, limit)  # type: ignore[operator, union-attr]
        rescale(self.factors, self.kernel(), variance)


@torch.no_grad()
def rescale(factors: Sequence[Tensor], kernel: Tensor, variance: float) -> None:
    """Multiply every factor by one number so that the kernel, multilinear in them, gets norm √(entries · variance)."""
    norm = kernel.double().norm()
    if norm > 0:
        scale = ((kernel.numel() * variance) ** 0.5 / norm) ** (1 / len(factors))
        for factor in factors:
            factor.mul_(scale.to(factor.dtype))


def _compose(first: Tensor, second: Tensor, first_depthwise: bool, second_depthwise: bool) -> Tensor:
    """Kernel of `second` after `first`, both (g, out, in, *taps). No axis has taps in both, so that the convolution
    of the taps is their outer product."""
    d = first.ndim - 3
    left, right = LEFT[:d], RIGHT[:d]
    taps = "".join(a + b for a, b in zip(left, right, strict=True))
    if first_depthwise and second_depthwise:
        rule = f"gmi{left},gmi{right}->gmi{taps}"
    elif first_depthwise:
        first, rule = first[:, :, 0], f"gm{left},gnm{right}->gnm{taps}"
    elif second_depthwise:
        second, rule = second[:, :, 0], f"gmi{left},gm{right}->gmi{taps}"
    else:
        rule = f"gmi{left},gnm{right}->gni{taps}"
    out = torch.einsum(rule, first, second)
    sizes = [out.shape[3 + 2 * axis] * out.shape[4 + 2 * axis] for axis in range(d)]
    return out.reshape(*out.shape[:3], *sizes)


def merged(chain: Chain, segments: Sequence[tuple[int, int]]) -> nn.Module:
    """Plain convolutions that compute the chain, one for each segment."""
    convs: list[Dense] = []
    for start, stop in segments:
        shape, weight, bias = chain.contracted(start, stop)
        conv = shape.build(bias is not None, weight.dtype, weight.device)
        with torch.no_grad():
            conv.weight.copy_(weight)
            if bias is not None and conv.bias is not None:
                conv.bias.copy_(bias)
        convs.append(conv)
    return convs[0] if len(convs) == 1 else nn.Sequential(*convs)

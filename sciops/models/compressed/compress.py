"""Replace the convolutions of a network by factored ones."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from torch import nn

from sciops.core.errors import UsageError
from sciops.models.compressed.layer import CompressedConv, scheme_named
from sciops.models.compressed.scheme import Rank, Scheme, describe, resolve, shared_budget
from sciops.models.compressed.shape import DENSE, ConvShape, Dense


@dataclass(frozen=True)
class Replaced:
    """One convolution that became factors: its name, what it was, ranks, numbers before and after."""

    name: str
    layer: str
    ranks: tuple[int, ...]
    dense_parameters: int
    parameters: int


@dataclass(frozen=True)
class Kept:
    name: str
    layer: str
    reason: str


@dataclass(frozen=True)
class Compression:
    """What `compress` did to a network; `print` shows the table."""

    scheme: str
    replaced: tuple[Replaced, ...]
    kept: tuple[Kept, ...]
    dense_parameters: int
    parameters: int

    def __str__(self) -> str:
        share = self.parameters / max(self.dense_parameters, 1)
        lines = [f"{self.scheme}: {self.dense_parameters} → {self.parameters} parameters ({share:.1%})"]
        for row in self.replaced:
            ranks = ", ".join(map(str, row.ranks))
            lines.append(f"  {row.name}: {row.layer}, rank {ranks}, {row.dense_parameters} → {row.parameters}")
        lines += [f"  {row.name}: {row.layer} kept, {row.reason}" for row in self.kept]
        return "\n".join(lines)


def compress(
    module: nn.Module,
    scheme: str = "succession",
    rank: Rank | Mapping[str, Rank] = 0.5,
    init: str = "scratch",
    skip: Sequence[str] = (),
    tolerance: float = 0.01,
    inplace: bool = False,
    keep_if_larger: bool = False,
) -> nn.Module:
    """The network with every Conv{1,2,3}d and ConvTranspose{1,2,3}d in factored form; a copy unless `inplace`.

    rank       a number, limited to full in layers where it is larger (an error if in all); "auto" (leaves out the share
               `tolerance` of each kernel's energy); a fraction of the weights of all replaced layers together, ranks in
               proportion to their widths (`shared_budget`); or a mapping from names or patterns to what
               `CompressedConv` takes, where a fraction is one of that layer
    init       "scratch": fresh factors with the variance of fresh dense layers; "from_dense": truncated from the
               present weights
    skip       names or patterns (`head`, `decoder.*`) of convolutions that stay dense
    keep_if_larger   keep a convolution dense where its factors would have at least as many weights

    Kernels of one point, depthwise convolutions, subclasses of torch's convolutions and weights used twice stay as
    they are. `.compression` of the result lists what was replaced and what was kept and why. UsageError where nothing
    is left to compress, a rank exceeds every full one, or a fraction is below what rank 1 needs.
    """
    chosen = scheme_named(scheme)
    if not inplace:
        module = copy.deepcopy(module)
    before = _count(module)
    found = dict(_convolutions(module))
    _check_names(found, skip, rank)
    kept: list[Kept] = []
    candidates: dict[str, Dense] = {}
    for name, conv in found.items():
        reason = _reason(module, name, conv, skip, scheme)
        if reason:
            kept.append(Kept(name, describe(ConvShape.of(conv)), reason))
        else:
            candidates[name] = conv
    planned = _plan(chosen, candidates, rank, tolerance) if candidates else {}
    for name, conv in candidates.items():
        shape = ConvShape.of(conv)
        if name not in planned:
            kept.append(Kept(name, describe(shape), "no rank was given for it"))
        elif keep_if_larger and chosen.weights(shape, planned[name]) >= shape.weights:
            kept.append(Kept(name, describe(shape), "its factors would have as many weights"))
            del planned[name]
    if not planned:
        raise UsageError(_nothing(module, kept))
    replaced: list[Replaced] = []
    made: dict[int, CompressedConv] = {}
    for name, ranks in planned.items():
        conv = candidates[name]
        if id(conv) not in made:
            layer = made[id(conv)] = CompressedConv.like(conv, scheme, ranks, init)
            replaced.append(Replaced(name, describe(layer.shape), ranks, _count(conv), _count(layer)))
        module = _put(module, name, made[id(conv)])
    compression = Compression(scheme, tuple(replaced), tuple(kept), before, _count(module))
    module.compression = compression  # type: ignore[assignment]
    return module


def compressed_layers(module: nn.Module) -> dict[str, CompressedConv]:
    """Name → factored layer."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, CompressedConv)}


def _convolutions(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Dense]]:
    """Every convolution under every name that it has, except the factors of layers that are compressed already."""
    if isinstance(module, CompressedConv):
        return
    if isinstance(module, DENSE):
        yield prefix, module  # type: ignore[misc]
        return
    for name, child in module._modules.items():  # named_children() would name a layer that is used twice once
        if child is not None:
            yield from _convolutions(child, f"{prefix}.{name}" if prefix else name)


def _reason(module: nn.Module, name: str, conv: Dense, skip: Sequence[str], scheme: str) -> str:
    """Why a convolution stays dense, or ''."""
    if any(fnmatchcase(name, pattern) for pattern in skip):
        return "skipped by name"
    if type(conv) not in DENSE:
        return "a subclass, which may treat its input or weight by rules of its own"
    if sum(p is conv.weight for other in module.modules() for p in other._parameters.values()) > 1:
        return "its weight is shared with another layer"
    if prod(conv.kernel_size) == 1:
        return "its kernel is one point"
    if conv.groups > 1 and conv.groups == conv.in_channels:
        return "depthwise"
    if scheme == "perkernel" and sum(k > 1 for k in conv.kernel_size) == 1:
        return "a kernel along one axis is its own single term"
    return ""


def _plan(
    scheme: Scheme, convs: Mapping[str, Dense], rank: Rank | Mapping[str, Rank], tolerance: float
) -> dict[str, tuple[int, ...]]:
    """The ranks of each layer; layers that a mapping does not name are left out."""
    shapes = {name: ConvShape.of(conv) for name, conv in convs.items()}
    if isinstance(rank, float):
        return dict(zip(shapes, shared_budget(scheme, list(shapes.values()), rank), strict=True))
    if isinstance(rank, int):
        most = {name: max(scheme.full(shape)) for name, shape in shapes.items()}
        name = max(most, key=lambda name: most[name])
        if rank > most[name]:
            raise UsageError(
                f"Rank {rank} is larger than full in every layer; the largest full rank is {most[name]} ({name})."
            )
        return {name: resolve(scheme, shape, min(rank, most[name])) for name, shape in shapes.items()}
    ranks = {}
    for name, conv in convs.items():
        asked: Rank | None = rank if not isinstance(rank, Mapping) else None
        if isinstance(rank, Mapping):  # of several patterns that fit, the last
            asked = next((value for pattern, value in reversed(list(rank.items())) if fnmatchcase(name, pattern)), None)
        if asked is not None:
            kernel = shapes[name].from_torch(conv.weight)
            ranks[name] = resolve(scheme, shapes[name], asked, kernel, tolerance)
    return ranks


def _check_names(found: Mapping[str, Dense], skip: Sequence[str], rank: Rank | Mapping[str, Rank]) -> None:
    if isinstance(skip, str):
        raise UsageError(f"skip takes a list of names; got the string '{skip}'.")
    for pattern in [*skip, *(rank if isinstance(rank, Mapping) else ())]:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise UsageError(f"No convolution is called '{pattern}'; there are: {', '.join(found) or 'none'}.")


def _nothing(module: nn.Module, kept: Sequence[Kept]) -> str:
    name = type(module).__name__
    if not kept:
        return f"Nothing to compress: {name} has no convolution."
    rows = "; ".join(f"{row.name or row.layer}: {row.reason}" for row in kept)
    return f"Nothing to compress in {name}: {rows}."


def _put(root: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The network with one module exchanged; the root itself has no name."""
    if not name:
        return layer
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, layer)
    return root


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())

"""The fastest form of each factored layer on this machine: factors, dense kernel, or some factors multiplied out."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.compressed.chain import Chain, merged
from sciops.models.compressed.compress import compressed_layers
from sciops.models.compressed.layer import CompressedConv
from sciops.models.compressed.measure import forward, forward_backward, milliseconds

Segments = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Merged:
    """What became of a layer: how many convolutions now, and the least ms of the choice, the factors and dense."""

    name: str
    convolutions: int
    milliseconds: float
    factored_milliseconds: float
    dense_milliseconds: float


def partitions(n: int) -> list[Segments]:
    """All ways to cut n steps into runs of neighbours; the first is n runs of one, the last one run of n."""

    def cut(start: int) -> Iterator[Segments]:
        if start == n:
            yield ()
        for stop in range(start + 1, n + 1):
            for rest in cut(stop):
                yield ((start, stop), *rest)

    return list(cut(0))


def merge_for_inference(module: nn.Module, example: Tensor, repeats: int = 10) -> nn.Module:
    """A copy for inference with plain convolutions in place of every factored layer, whichever are fastest.

    The network runs once on `example`; then each factored layer is timed on the input that it got there: as its
    factors, as one dense kernel, and with every run of neighbouring factors multiplied out. Outputs agree to rounding.
    Layers that were not called (their weight is read by the code around them) become dense. `.merging` of the result
    says what was chosen; on another machine, dtype or grid another form may win.
    """
    if isinstance(module, CompressedConv):
        module = nn.Sequential(module)
    module = copy.deepcopy(module).eval()
    layers = _layers(module)
    inputs = captured(module, layers, example)
    rows: list[Merged] = []
    made: dict[int, nn.Module] = {}
    for name, layer in layers.items():
        if id(layer) not in made:
            form, row = _fastest(name, layer, inputs.get(name), repeats)
            made[id(layer)] = form
            rows.append(row)
    exchange(module, made)
    module.merging = tuple(rows)  # type: ignore[assignment]
    return module.requires_grad_(False)


def tune_for_training(module: nn.Module, example: Tensor, repeats: int = 5) -> nn.Module:
    """Choose for each factored layer of `module`, in place, which neighbouring factors are multiplied out at every
    call, by the time of forward and backward. Parameters, outputs and gradients stay the same up to rounding."""
    layers = _layers(module)
    inputs = captured(module, layers, example)
    for name, layer in layers.items():
        args = inputs.get(name)
        if not isinstance(layer.body, Chain) or args is None:
            continue
        choices = partitions(len(layer.body.plan))
        calls = [forward_backward(_with(layer, choice), args[0]) for choice in choices]
        times = milliseconds(calls, repeats, example.device)
        layer.body.segments = choices[times.index(min(times))]
    module.zero_grad(set_to_none=True)
    return module


def captured(module: nn.Module, layers: dict[str, CompressedConv], example: Tensor) -> dict[str, tuple[Any, ...]]:
    """The arguments of each layer's largest call while the network runs on the example."""
    calls: dict[str, tuple[Any, ...]] = {}

    def hook(name: str) -> Any:
        def keep(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            size = options.get("output_size")
            args = args if size is None else (args[0], size)
            if name not in calls or args[0].numel() > calls[name][0].numel():
                calls[name] = args

        return keep

    handles = [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            module(example)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def exchange(module: nn.Module, made: dict[int, nn.Module]) -> None:
    """Put made[id(layer)] in place of each factored layer, wherever it is used."""
    for parent in list(module.modules()):
        if not isinstance(parent, CompressedConv):
            for leaf, child in list(parent._modules.items()):
                if id(child) in made:
                    setattr(parent, leaf, made[id(child)])


def _fastest(name: str, layer: CompressedConv, args: tuple[Any, ...] | None, repeats: int) -> tuple[nn.Module, Merged]:
    dense = layer.to_dense()
    if args is None:
        return dense, Merged(name, 1, *[float("nan")] * 3)
    forms: list[nn.Module] = [dense]
    if isinstance(layer.body, Chain) and len(args) == 1:  # the output size of a transposed layer: dense alone knows it
        forms = [merged(layer.body, choice) for choice in partitions(len(layer.body.plan))]
    times = milliseconds([forward(form, *args) for form in [layer, *forms]], repeats, args[0].device)
    best = min(range(len(forms)), key=lambda i: times[1 + i])
    chosen = forms[best]
    count = len(chosen) if isinstance(chosen, nn.Sequential) else 1
    return chosen, Merged(name, count, times[1 + best], times[0], times[-1])


def _with(layer: CompressedConv, segments: Segments) -> CompressedConv:
    twin = copy.deepcopy(layer)
    twin.body.segments = segments
    return twin


def _layers(module: nn.Module) -> dict[str, CompressedConv]:
    layers = compressed_layers(module)
    if not layers:
        raise UsageError(f"{type(module).__name__} has no factored layer; call compress(module, …) first.")
    return layers

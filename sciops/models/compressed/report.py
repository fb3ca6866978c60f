"""Parameters, operations, memory and measured time of a compressed network, layer by layer beside dense ones."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sciops.models.compressed.compress import compressed_layers
from sciops.models.compressed.layer import CompressedConv
from sciops.models.compressed.measure import flops, forward, kept_bytes, milliseconds
from sciops.models.compressed.merge import captured, exchange
from sciops.models.compressed.scheme import describe


@dataclass(frozen=True)
class Figures:
    """flops and kept_bytes (what a training step stores) per forward call of the example, milliseconds its least time;
    NaN or 0 without an example."""

    parameters: int
    parameter_bytes: int
    flops: int = 0
    kept_bytes: int = 0
    milliseconds: float = math.nan


@dataclass(frozen=True)
class LayerReport:
    """A factored layer and the dense one that it stands for. `spectrum`: singular values for each of its ranks."""

    name: str
    layer: str
    scheme: str
    ranks: tuple[int, ...]
    factored: Figures
    dense: Figures
    spectrum: tuple[Tensor, ...]

    @property
    def effective(self) -> tuple[int, ...]:
        """Ranks that hold 99 % of the present kernel's energy ("cp": so many orthonormal terms, more than needed)."""
        shares = [values.square().cumsum(0) / values.square().sum() for values in self.spectrum]
        return tuple(int((share < 0.99).sum()) + 1 for share in shares)


@dataclass(frozen=True)
class Report:
    layers: tuple[LayerReport, ...]
    factored: Figures
    dense: Figures

    def __str__(self) -> str:
        head = [
            "layer",
            "rank",
            "99 % energy",
            "parameters",
            "dense",
            "MFLOP",
            "dense",
            "kept MB",
            "dense",
            "ms",
            "dense",
        ]
        rows = [
            [row.name or row.layer, _numbers(row.ranks), _numbers(row.effective), *_pairs(row.factored, row.dense)]
            for row in self.layers
        ]
        rows.append(["network", "", "", *_pairs(self.factored, self.dense)])
        lines = [head, ["---"] * len(head), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(module: nn.Module, example: Tensor | None = None, repeats: int = 10) -> Report:
    """Every factored layer of a network, and the network, beside the same with dense kernels.

    With an example input each layer is run on what it gets inside the network. Times are the least of `repeats`
    forward calls, factored and dense in turns; they hold for this machine, this grid and this batch alone.
    """
    layers = compressed_layers(module)
    dense = {name: layer.to_dense() for name, layer in layers.items()}
    inputs = {} if example is None else captured(module, layers, example)
    rows = []
    for name, layer in layers.items():
        args = inputs.get(name)
        factored, plain = _figures([layer, dense[name]], args, repeats)
        rows.append(
            LayerReport(
                name, describe(layer.shape), layer.scheme, layer.ranks, factored, plain, tuple(layer.spectrum())
            )
        )
    twin = densified(module)
    factored, plain = _figures([module, twin], None if example is None else (example,), repeats)
    return Report(tuple(rows), factored, plain)


def densified(module: nn.Module) -> nn.Module:
    """A copy with every factored layer multiplied out to an ordinary convolution."""
    if isinstance(module, CompressedConv):
        return module.to_dense()
    module = copy.deepcopy(module)
    exchange(module, {id(layer): layer.to_dense() for layer in compressed_layers(module).values()})
    return module


def _figures(modules: list[nn.Module], args: tuple[Tensor, ...] | None, repeats: int) -> list[Figures]:
    sizes = [
        (
            sum(p.numel() for p in module.parameters()),
            sum(p.numel() * p.element_size() for p in module.parameters()),
        )
        for module in modules
    ]
    if args is None:
        return [Figures(*size) for size in sizes]
    with torch.no_grad():
        times = milliseconds([forward(module, *args) for module in modules], repeats, args[0].device)
    return [
        Figures(*size, flops(module, *args), kept_bytes(module, *args), ms)
        for size, module, ms in zip(sizes, modules, times, strict=True)
    ]


def _numbers(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


def _pairs(factored: Figures, dense: Figures) -> list[str]:
    cells = [f"{factored.parameters}", f"{dense.parameters}"]
    if math.isnan(factored.milliseconds):
        return cells + [""] * 6
    for a, b, unit in (
        (factored.flops, dense.flops, 1e6),
        (factored.kept_bytes, dense.kept_bytes, 1e6),
        (factored.milliseconds, dense.milliseconds, 1.0),
    ):
        cells += [f"{a / unit:.4g}", f"{b / unit:.4g}"]
    return cells

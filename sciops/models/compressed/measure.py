"""Time, operations and memory of a module on an example input."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def milliseconds(calls: Sequence[Callable[[], Any]], repeats: int, device: torch.device) -> list[float]:
    """Least time of each call, in ms. The calls take turns, so that a busy machine slows all of them alike; the first
    turn, which compiles and allocates, is not counted. On one CPU thread CPU seconds are read, which other processes
    disturb least, else the wall clock."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    best = [float("inf")] * len(calls)
    for turn in range(repeats + 1):
        for i, call in enumerate(calls):
            _wait(device)
            started = clock()
            call()
            _wait(device)
            if turn:
                best[i] = min(best[i], 1e3 * (clock() - started))
    return best


def forward(module: nn.Module, *args: Any) -> Callable[[], None]:
    def call() -> None:
        with torch.inference_mode():
            module(*args)

    return call


def forward_backward(module: nn.Module, x: Tensor) -> Callable[[], None]:
    """One training step without the update, gradients of the input included as inside a network."""
    leaf = x.detach().clone().requires_grad_()

    def call() -> None:
        module.zero_grad(set_to_none=True)
        leaf.grad = None
        module(leaf).sum().backward()

    return call


def flops(module: nn.Module, *args: Any) -> int:
    """Operations of convolutions and matrix products in one forward call, a multiply-add counted as two."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(*args)
    return int(counter.get_total_flops())


def kept_bytes(module: nn.Module, *args: Any) -> int:
    """Bytes that one forward call keeps for the backward one, the parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = module(*args)  # alive until counted, so that no address is used twice
    total = sum(kept.values())
    del result
    return total


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

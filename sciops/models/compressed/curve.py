"""Error, parameters and time of a network over schemes and ranks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.compressed.compress import compress, compressed_layers
from sciops.models.compressed.measure import flops, forward, forward_backward, milliseconds
from sciops.models.compressed.merge import merge_for_inference
from sciops.models.compressed.scheme import Rank

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CurvePoint:
    """One network: `share` of the dense parameters, mean relative L² error, ms of one forward call, of the same after
    `merge_for_inference`, and of forward and backward, on the first batch."""

    scheme: str
    rank: Rank
    parameters: int
    share: float
    error: float
    mflop: float
    forward_ms: float
    merged_ms: float
    step_ms: float


def rank_curve(
    model: nn.Module,
    data: tuple[Tensor, Tensor] | Batches,
    ranks: Sequence[Rank] = (0.1, 0.2, 0.3, 0.45, 0.7, 1.0),
    schemes: Sequence[str] = ("succession",),
    init: str = "from_dense",
    fit: Callable[[nn.Module], object] | None = None,
    skip: Sequence[str] = (),
    repeats: int = 5,
) -> list[CurvePoint]:
    """The dense network and its compressed forms on (input, target) batches, without ranks that a scheme cannot take.

    fit   trains a network in place; each compressed one is given to it before it is measured (`init="scratch"` is then
          compression before training). Without it, "from_dense" measures truncation alone.
    """
    batches = [data] if isinstance(data, tuple) else list(data)
    if not batches:
        raise UsageError("rank_curve needs at least one (input, target) batch; got none.")
    total = sum(p.numel() for p in model.parameters())
    points = [measured(model, "dense", 1.0, total, batches, repeats)]
    problems: list[UsageError] = []
    for scheme in schemes:
        for rank in ranks:
            try:
                net = compress(model, scheme, rank, init, skip)
            except UsageError as error:
                problems.append(error)
                continue
            if fit is not None:
                fit(net)
            points.append(measured(net, scheme, rank, total, batches, repeats))
    if len(points) == 1:
        raise problems[0] if problems else UsageError("rank_curve needs at least one rank and one scheme.")
    return points


def measured(
    net: nn.Module, scheme: str, rank: Rank, total: int, batches: Sequence[tuple[Tensor, Tensor]], repeats: int
) -> CurvePoint:
    """A point of the curve for one network, trained or not. `total`: parameters of the dense one."""
    was = net.training
    net.eval()
    x = batches[0][0]
    error = float(torch.cat([relative_l2(_answer(net, a), b) for a, b in batches]).mean())
    merged = merge_for_inference(net, x, repeats) if compressed_layers(net) else net
    plain, quick = milliseconds([forward(net, x), forward(merged, x)], repeats, x.device)
    (step,) = milliseconds([forward_backward(net, x)], repeats, x.device)
    net.zero_grad(set_to_none=True)
    parameters = sum(p.numel() for p in net.parameters())
    net.train(was)
    return CurvePoint(scheme, rank, parameters, parameters / total, error, flops(net, x) / 1e6, plain, quick, step)


def relative_l2(u: Float[Tensor, "n ..."], truth: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """‖u − truth‖ / ‖truth‖ for each case."""
    return (u - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)


def table(points: Sequence[CurvePoint]) -> str:
    """Markdown."""
    head = ["scheme", "rank", "parameters", "of dense", "rel L²", "MFLOP", "forward ms", "merged ms", "step ms"]
    lines = [head, ["---"] * len(head)]
    for p in points:
        rank = f"{p.rank:g}" if isinstance(p.rank, float) else str(p.rank)
        lines.append(
            [p.scheme, "" if p.scheme == "dense" else rank, str(p.parameters), f"{p.share:.1%}", f"{p.error:.4f}"]
            + [f"{value:.3g}" for value in (p.mflop, p.forward_ms, p.merged_ms, p.step_ms)]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _answer(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x)

"""What has no meaning on a finer grid, said with module path, operation, reason and remedy."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sciops.models.conversion.layout import ConversionError
from sciops.models.conversion.mode import Call, Options, rule, tensors


def check_weights(module: nn.Module) -> None:
    """Complex or quantised weights, several devices or precisions."""
    for path, part in module.named_modules():
        if "quantized" in type(part).__module__:
            raise ConversionError(
                f"{path or '(top level)'}: {type(part).__name__} has quantised weights, which cannot be interpolated; "
                "convert the network before quantising."
            )
    weights = (*module.named_parameters(), *module.named_buffers())
    for name, p in weights:
        if p.is_quantized:
            raise ConversionError(
                f"{name}: quantised weights cannot be interpolated; convert the network before quantising."
            )
        if p.is_complex():
            raise ConversionError(
                f"{name}: complex weights belong to a spectral layer, whose rule is not known here; such layers are "
                "operators already, convert the rest of the network without them."
            )
    for what, values, remedy in (
        ("devices", {str(p.device) for _, p in weights}, "move it to one of them: module.to(device)"),
        (
            "precisions",
            {str(p.dtype) for _, p in module.named_parameters() if p.is_floating_point()},
            "choose one of them: module.to(dtype)",
        ),
    ):
        if len(values) > 1:
            raise ConversionError(f"The network lives in {len(values)} {what} ({', '.join(sorted(values))}); {remedy}.")


def check_inputs(module: nn.Module, values: Any) -> None:
    """Inputs have the device and the precision of the network, and of each other."""
    like: Tensor | None = next((p for p in module.parameters() if p.is_floating_point()), None)
    for x in tensors(values):
        if not x.is_floating_point():
            continue
        like = x if like is None else like
        for what, given, needed in (("on", x.device, like.device), ("of", x.dtype, like.dtype)):
            if given != needed:
                raise ConversionError(
                    f"An input of shape {tuple(x.shape)} is {what} {given}, the network {what} {needed}; bring them "
                    "together with .to()."
                )


def checked_options(
    shape: Sequence[int],
    kinds: Sequence[str],
    method: str,
    bc: str | Sequence[str],
    head: str,
    token_shape: Sequence[int],
    n_extra: int,
) -> Options:
    """What a user asks of a conversion, checked."""
    walls = (bc,) * len(shape) if isinstance(bc, str) else tuple(bc)
    known = ("source", "periodic", "zeros", "replicate", "reflect")
    if len(walls) != len(shape) or any(w not in known for w in walls):
        raise ConversionError(f"bc must be one of {', '.join(known)}, for each of the {len(shape)} axes; got {bc!r}.")
    if any(w == "periodic" and k == "vertex" for w, k in zip(walls, kinds, strict=True)):
        raise ConversionError("bc='periodic' contradicts grid='vertex', whose ends are two points; use 'periodic'.")
    if method == "lattice" and set(walls) != {"source"}:
        raise ConversionError("method='lattice' runs the network as it is; another bc needs method='point'.")
    if head not in ("functional", "native", "raise"):
        raise ConversionError(f"head must be functional, native or raise; got '{head}'.")
    if n_extra < 0 or any(n < 1 for n in token_shape):
        raise ConversionError(f"token_shape and n_extra count tokens; got {tuple(token_shape)} and {n_extra}.")
    own = () if set(walls) == {"source"} else walls
    return Options(own, head, tuple(int(n) for n in token_shape), n_extra)


@rule("topk", "cdist", "kthvalue", "sort", "argsort", "msort", "pairwise_distance")
def neighbours(call: Call) -> Any:
    x = call.args[0]
    if call.name in ("topk", "kthvalue", "sort", "argsort", "msort"):
        position = {"topk": 2, "kthvalue": 2}.get(call.name, 0 if call.name == "msort" else 1)
        dim = 0 if call.name == "msort" else call.argument(position, "dim", -1)
        if isinstance(dim, bool) or not isinstance(dim, int):
            dim = call.kwargs.get("dim", -1)
        layout = list(call.layout(x))
        if layout[dim % x.dim()] is None:  # along channels: pointwise
            out = call.run()
            if call.name == "kthvalue" and not call.kwargs.get("keepdim", len(call.args) > 3 and call.args[3]):
                layout.pop(dim % x.dim())
            for part in tensors(out):
                call.mode.mark(part, layout)
            call.note("pointwise", True, 1.0)
            return out
    raise call.refuse(
        "orders or counts grid points, as graphs of k nearest neighbours do: k points are nearer on a finer grid",
        "use all neighbours within a radius (the native distance of the k-th), weighted by cell volumes, or "
        "method='lattice'",
    )


@rule("unfold", "as_strided", "fold", "unfold_copy", "as_strided_")
def windows(call: Call) -> Tensor:
    raise call.refuse(
        "cuts windows of a fixed number of points, which shrink on a finer grid",
        "write it as a convolution or pooling, or use method='lattice'",
    )


@rule("argmax", "argmin", "nonzero", "unique", "masked_select", "take", "gather", "index_select", "cumsum", "bincount")
def counted(call: Call) -> Tensor:
    raise call.refuse("names or counts grid points", "use a mean or an integral over space, or method='lattice'")

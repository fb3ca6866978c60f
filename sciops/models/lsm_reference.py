"""Weights of latent spectral models in the layout of the released code, both ways."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sciops.core.errors import UsageError

POINTWISE = {
    "lift": "fc0",
    "project1": "fc1",
    "project2": "fc2",
    "unet.head": "outc.conv",
    "grid_lift": "convproject_in",
    "point_lift": "convproject_out",
}
INSIDE = {"conv1.conv": "0", "norm1": "1", "conv2.conv": "3", "norm2": "4"}
BLOCK = {
    "latent": "latent",
    "series": "weights",
    "query.weight": "decoder_attn.weight",
    "query.bias": "decoder_attn.bias",
}
SPECTRAL = {"positive": "weights1", "negative": "weights2"}


def reference_name(key: str, levels: int) -> str:
    """Name of one of our tensors there; keys and values share one convolution ("encoder_attn")."""
    for own, theirs in POINTWISE.items():
        if key.startswith(own + "."):
            return theirs + key.removeprefix(own)
    if found := re.fullmatch(r"unet\.encoder\.(\d+)\.(conv\d\.conv|norm\d)\.(\w+)", key):
        level, part, rest = found.groups()
        stage = "inc" if level == "0" else f"down{level}.maxpool_conv.1"
        return f"{stage}.double_conv.{INSIDE[part]}.{rest}"
    if found := re.fullmatch(r"unet\.decoder\.(\d+)\.(conv\d\.conv|norm\d)\.(\w+)", key):
        level, part, rest = found.groups()
        return f"up{levels - 1 - int(level)}.conv.double_conv.{INSIDE[part]}.{rest}"
    if found := re.fullmatch(r"unet\.blocks\.(\d+)\.(.+)", key):
        level, rest = found.groups()
        rest = BLOCK.get(rest, re.sub(r"^(key|value)\.", "encoder_attn.", rest))
        return f"process{int(level) + 1}.{rest}"
    if found := re.fullmatch(r"spectral_(in|out)\.(positive|negative)", key):
        return f"fftproject_{found[1]}.{SPECTRAL[found[2]]}"
    raise UsageError(f"{key} has no place in the released latent spectral models.")


def reference_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of an `LSM` or `IrregularLSM` as the released code stores them.

    There the keys and values of a block come from one 1×1 convolution, keys on its even and values on its odd
    channels, and the pointwise maps at both ends are linear layers.
    The deformation of an `IrregularLSM` is a model of its own there and left out.
    """
    own, out = weights_of(model), {}
    for key, value in own.items():
        name, value = reference_name(key, model.unet.levels), value.detach()  # type: ignore[union-attr, arg-type]
        if ".key." in key:
            value = torch.stack([value, own[key.replace(".key.", ".value.")]], 1).flatten(0, 1)
        elif ".value." in key:
            continue
        if "attn.weight" in name:
            value = value[(...,) + (None,) * model.unet.ndim]  # type: ignore[operator, union-attr]
        if name.startswith("fftproject"):
            value = torch.view_as_complex(value)
        out[name] = value.flatten(1) if re.match(r"fc\d\.weight", name) else value
    return out


def load_reference(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a model the weights of a released one; UsageError where names or shapes differ."""
    own = weights_of(model)
    wanted = {key: reference_name(key, model.unet.levels) for key in own}  # type: ignore[union-attr, arg-type]
    if set(wanted.values()) != set(state):
        differing = sorted(set(wanted.values()) ^ set(state))
        raise UsageError(
            f"the weights are of another model: {differing[0]} and {len(differing) - 1} more names differ."
        )
    for key, name in wanted.items():
        value = state[name]
        if "encoder_attn" in name:
            value = value[int(".value." in key) :: 2]
        if value.is_complex():
            value = torch.view_as_real(value)
        if value.numel() != own[key].numel():
            raise UsageError(f"{name} has shape {tuple(value.shape)}, the model needs {tuple(own[key].shape)}.")
        own[key] = value.reshape(own[key].shape)
    model.load_state_dict(model.state_dict() | own)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in model.state_dict().items() if not key.startswith("deformation.")}

"""Networks that other packages ship, written for other fields, as operators.

They are installed with the tests (`pip install 'sciops[test]'`).
"""

import warnings
from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from networks import trained, waves
from torch import Tensor, nn

from sciops.models.conversion.layout import ConversionError
from sciops.models.conversion.mode import tensors
from sciops.models.conversion.operator import to_neural_operator


def monai(name: str, *args: object, **options: object) -> Callable[[], nn.Module]:
    return lambda: getattr(pytest.importorskip("monai.networks.nets"), name)(*args, **options)


def other(module: str, name: str, *args: object, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        pytest.importorskip(module.split(".")[0])
        return getattr(import_module(module), name)(*args, **options)

    return make


X_UNET = {
    "dim": 8,
    "channels": 1,
    "out_dim": 1,
    "dim_mults": (1, 2),
    "num_blocks_per_stage": (1, 1),
    "num_self_attn_per_stage": (0, 1),
    "attn_heads": 2,
    "attn_dim_head": 8,
    "nested_unet_depths": (1, 0),
    "nested_unet_dim": 4,
}
STRIDES = {"downsample_parameters": ((2, 4, 1, 1),) * 2, "upsample_parameters": ((2, 4, 1, 1, 0),) * 2}
VIT = {"hidden_size": 24, "mlp_dim": 32, "num_heads": 3, "spatial_dims": 2}

# Chains of convolutions, pooling, upsampling and pointwise maps: name ↦ (network, native shape, refinement).
EXACT = {
    "monai UNet": (monai("UNet", 2, 1, 1, (4, 8, 8), (2, 2), num_res_units=1, norm="batch", act="GELU"), 16, (2, 3)),
    "monai UNet in 3D": (monai("UNet", 3, 1, 1, (2, 4), (2,), norm="batch"), 8, (2, 1, 3)),
    "monai BasicUNet": (monai("BasicUNet", 2, 1, 1, features=(2, 2, 2, 4, 4, 2), norm="batch"), 32, (2, 1)),
    "monai SegResNet": (monai("SegResNet", 2, 8, 1, 1, norm="batch", blocks_down=(1, 1), blocks_up=(1,)), 16, (2, 3)),
    "monai DynUNet": (
        monai("DynUNet", 2, 1, 1, (3,) * 3, (1, 2, 2), (2, 2), filters=(4, 4, 4), norm_name="batch"),
        16,
        (3, 2),
    ),
    "monai AutoEncoder": (monai("AutoEncoder", 2, 1, 1, (4, 8), (2, 2), norm="batch"), 16, (2, 3)),
    "unet UNet2D": (
        other(
            "unet",
            "UNet2D",
            out_classes=1,
            num_encoding_blocks=2,
            out_channels_first_layer=4,
            padding=1,
            normalization="batch",
            residual=True,
            upsampling_type="conv",
        ),
        16,
        (3, 2),
    ),
    "TCN": (other("pytorch_tcn", "TCN", 1, [4, 4], 3, causal=False, use_norm="batch_norm"), 16, (3,)),
    "ConvLSTM": (other("conv_lstm", "ConvLSTM", 1, 4, 3), 16, (2, 3)),
}
FRAMES = {"ConvLSTM"}


def native(fine: Tensor, scale: tuple[int, ...]) -> Tensor:
    return fine[(..., *(slice(None, None, s) for s in scale))]


@pytest.mark.parametrize("name", EXACT)
def test_values_at_native_points_are_those_of_the_network_to_the_bit(name: str) -> None:
    make, n, scale = EXACT[name]
    shape = (n,) * len(scale)
    net = make() if name in FRAMES else trained(make(), shape)
    fine = torch.randn(1, *((2, 1) if name in FRAMES else (1,)), *(s * n for s in scale))
    coarse = native(fine, scale).contiguous()
    operator = to_neural_operator(net, shape)
    with torch.no_grad():
        expected = first(net(coarse))
        assert expected.std() > 1e-3
        assert torch.equal(first(operator(coarse)), expected)
        assert torch.equal(native(first(operator(fine)), scale), expected)
    assert operator.report.entries and all(entry.exact for entry in operator.report.entries)


def first(answer: object) -> Tensor:
    return next(tensors(answer))


# Sums over space inside: equal values on the native grid, one limit on finer ones. name ↦ (network, native points, how
# much closer the values at 2 and 4 times the points are than those at 1 and 2 times). Zeros behind walls and phases of
# upsampling make features jump, and positions that were never trained do: order one.
JUMPS, SMOOTH = 0.8, 0.5
LIMITS = {
    "monai UNet, instance norm": (monai("UNet", 2, 1, 1, (4, 8), (2,), num_res_units=1), JUMPS),
    "monai SegResNet, group norm": (
        monai("SegResNet", 2, 8, 1, 1, blocks_down=(1, 1), blocks_up=(1,), act=("gelu", {})),
        JUMPS,
    ),
    "monai ViT with class token": (
        monai("ViT", 1, (16, 16), (4, 4), num_layers=1, classification=True, num_classes=3, **VIT),
        JUMPS,
    ),
    "monai Regressor": (monai("Regressor", (1, 16, 16), (3,), (4, 8), (2, 2), norm="batch"), SMOOTH),
    "x-unet": (other("x_unet", "XUnet", **X_UNET), JUMPS),
    "MLP mixer": (
        other("mlp_mixer_pytorch", "MLPMixer", image_size=16, channels=1, patch_size=4, dim=12, depth=2, num_classes=3),
        SMOOTH,
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_sums_over_space_have_a_limit(name: str) -> None:
    make, factor = LIMITS[name]
    net = trained(make(), (16, 16)).double().eval()
    operator = to_neural_operator(net, (16, 16))
    values = []
    with torch.no_grad():
        assert torch.equal(first(operator(waves(16))), first(net(waves(16))))
        for s in (1, 2, 4):
            y = first(operator(waves(16 * s)[:1]))
            values.append(y[..., ::s, ::s] if y.dim() == 4 else y)
    a, b, c = values
    assert float((b - c).norm()) < factor * float((a - b).norm()) + 1e-9
    assert float((a - c).norm()) > 1e-9


@pytest.mark.parametrize("shifted", [False, True])
def test_windows_of_attention_keep_their_size(shifted: bool) -> None:
    """Windows of 2 × 2 native points; the masks of shifted ones are made from sizes, which is said and not exact."""
    depths = (2, 1, 1, 1) if shifted else (1, 1, 1, 1)
    heads = {"num_heads": (1,) * 4, "norm_name": "batch"}
    torch.manual_seed(0)
    net = monai("SwinUNETR", 1, 1, spatial_dims=2, feature_size=12, depths=depths, window_size=2, **heads)().eval()
    operator, fine = to_neural_operator(net, (64, 64)), torch.randn(1, 1, 64, 128)
    with torch.no_grad(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        expected = net(native(fine, (1, 2)).contiguous())
        gap = (native(operator(fine), (1, 2)) - expected).abs().max()
    assert shifted or gap < 1e-6 * expected.abs().max()
    assert any("blocks.1.attn: add meets values that the network makes" in str(w.message) for w in said) is shifted


REFUSED = {
    "windows that depend on the size": (
        monai(
            "SwinUNETR",
            1,
            1,
            spatial_dims=2,
            feature_size=12,
            depths=(1,) * 4,
            num_heads=(1,) * 4,
            window_size=7,
            norm_name="batch",
        ),
        64,
        r"swinViT\..*: the network decides by the size of the grid.*method='lattice'",
    ),
    "a code book": (
        monai(
            "VQVAE",
            2,
            1,
            1,
            channels=(4, 4),
            num_res_channels=4,
            num_res_layers=1,
            downsample_parameters=((2, 4, 1, 1),) * 2,
            upsample_parameters=((2, 4, 1, 1, 0),) * 2,
            num_embeddings=8,
        ),
        16,
        r"quantizer.*; .*method='lattice'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name(name: str) -> None:
    make, n, message = REFUSED[name]
    net = make().eval()
    with torch.no_grad(), pytest.raises(ConversionError, match=message):
        to_neural_operator(net, (n, n))(torch.randn(1, 1, 2 * n, n))

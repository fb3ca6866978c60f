"""Compressed networks: the same function at full rank, everything listed, reported, merged and swept."""

import copy
import math

import pytest
import torch
from torch import nn

from sciops.core.config import build
from sciops.core.errors import UsageError
from sciops.models.compressed import (
    SCHEMES,
    Compressed,
    CompressedConv,
    compress,
    compressed_layers,
    densified,
    merge_for_inference,
    orthogonality,
    parameter_groups,
    rank_curve,
    report,
    tune_for_training,
)
from sciops.models.compressed.curve import table
from sciops.models.compressed.measure import flops, kept_bytes
from sciops.models.mgno import MgNO
from sciops.models.unet import UNet
from sciops.models.wave_cnn import WaveCNN


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def mixed() -> nn.Sequential:
    """One of everything."""
    shared = nn.Conv2d(4, 4, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
        nn.GELU(),
        shared,
        shared,
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 8, (1, 1)),
        nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=2, bias=False),
        nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1),
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_function_at_full_rank(scheme: str) -> None:
    net, x = mixed(), torch.randn(2, 2, 12, 10)
    state = copy.deepcopy(net.state_dict())
    small = compress(net, scheme, "full", init="from_dense")
    assert relative(small(x), net(x)) < 1e-4
    assert all(torch.equal(net.state_dict()[k], v) for k, v in state.items())  # a copy was compressed
    made = small.compression
    assert [row.name for row in made.replaced] == ["0", "2", "6", "7"]
    assert small[2] is small[3]  # a layer used twice still is one layer
    assert {row.name: row.reason for row in made.kept} == {"4": "depthwise", "5": "its kernel is one point"}
    assert (made.dense_parameters, made.parameters) == (count(net), count(small))
    for row in made.replaced:
        layer = small.get_submodule(row.name)
        assert isinstance(layer, CompressedConv)
        assert (row.parameters, row.ranks) == (count(layer), layer.ranks)
        assert row.name in str(made)
        assert row.layer in str(made)


@pytest.mark.parametrize("name", ["unet", "mgno"])
def test_networks_of_the_library(name: str) -> None:
    """MgNO reads the weights of its convolutions itself; the composed kernel stands in."""
    net = UNet(1, 1, 4, 3) if name == "unet" else MgNO(width=4, layers=1, iterations=[(1, 1), (1, 1)])
    x = torch.randn(1, 1, 17, 17)
    full = compress(net, "succession", "full", init="from_dense")
    assert relative(full(x), net(x)) < 1e-4
    small = compress(net, "succession", 0.8)
    assert count(small) < count(net)
    small(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())


def test_three_dimensions_and_one() -> None:
    for ndim, kernel, shape in ((1, nn.Conv1d, (20,)), (3, nn.Conv3d, (6, 7, 5))):
        net = nn.Sequential(kernel(2, 6, 3, padding=1), nn.Tanh(), kernel(6, 2, 3, padding=1))
        x = torch.randn(2, 2, *shape)
        for scheme in SCHEMES:
            if (ndim, scheme) == (1, "perkernel"):
                with pytest.raises(UsageError, match="its own single term"):
                    compress(net, scheme, "full")
                continue
            assert relative(compress(net, scheme, "full", init="from_dense")(x), net(x)) < 1e-4


def test_what_is_skipped_and_limited() -> None:
    net = WaveCNN(width=6, kernel=5)
    small = compress(net, rank=8, skip=["layers.3*"])
    assert {row.name: row.ranks for row in small.compression.replaced} == {
        "layers.0.conv": (8,), "layers.1.conv": (8,), "layers.2.conv": (8,),
    }  # fmt: skip
    # Full rank 10 and 5 at the ends, 30 between: a number is limited there, and a layer can be kept instead.
    assert compress(net, rank=20).compression.replaced[0].ranks == (10,)
    made = compress(net, rank=14, keep_if_larger=True).compression
    assert [row.name for row in made.replaced] == ["layers.1.conv", "layers.2.conv"]
    assert {row.reason for row in made.kept} == {"its factors would have as many weights"}
    # A fraction is one of all layers together: ranks in proportion to the widths, the narrow ends at full rank.
    made = compress(net, rank=0.6).compression
    assert [row.ranks for row in made.replaced] == [(7,), (7,), (7,), (5,)]
    weights = [sum(row.parameters for row in made.replaced), sum(row.dense_parameters for row in made.replaced)]
    assert 0.5 < weights[0] / weights[1] <= 0.6
    chosen = compress(net, rank={"layers.1.*": 3, "layers.2.*": 0.3}).compression
    assert [row.name for row in chosen.replaced] == ["layers.1.conv", "layers.2.conv"]
    assert {row.reason for row in chosen.kept} == {"no rank was given for it"}
    again = compress(small, rank=2)  # factors are not factored again
    assert [row.name for row in again.compression.replaced] == ["layers.3.conv"]
    root = compress(nn.Conv2d(4, 4, 3), rank=2)
    assert isinstance(root, CompressedConv)
    assert [row.ranks for row in root.compression.replaced] == [(2,)]
    same = WaveCNN(width=6, kernel=5)
    assert compress(same, rank=2, inplace=True) is same


def test_unlike_convolutions_stay() -> None:
    class Own(nn.Conv2d):
        pass

    net = nn.Sequential(Own(2, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3))
    net[2].weight = net[1].weight  # tied
    made = compress(net, rank=2).compression
    assert [row.name for row in made.replaced] == ["3"]
    assert {row.name: row.reason.split(",")[0] for row in made.kept} == {
        "0": "a subclass",
        "1": "its weight is shared with another layer",
        "2": "its weight is shared with another layer",
    }


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match="Nothing to compress: Linear has no convolution"):
        compress(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="Nothing to compress in Sequential: 0: its kernel is one point"):
        compress(nn.Sequential(nn.Conv2d(2, 2, 1)))
    with pytest.raises(UsageError, match="larger than full in every layer; the largest full rank is 6 "):
        compress(nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(1, 2, 3)), rank=7)
    with pytest.raises(UsageError, match="Unknown scheme 'svd'"):
        compress(WaveCNN(), "svd")
    with pytest.raises(UsageError, match="No convolution is called 'head'"):
        compress(WaveCNN(), skip=["head"])
    with pytest.raises(UsageError, match=r"at least 0\.667"):
        compress(WaveCNN(kernel=3), "perkernel", 0.5)
    with pytest.raises(UsageError, match="list of names"):
        compress(WaveCNN(), skip="head")
    with pytest.raises(UsageError, match="no factored layer"):
        merge_for_inference(WaveCNN(), torch.zeros(1, 2, 8, 8))


def test_automatic_ranks_follow_each_layer() -> None:
    net = WaveCNN(width=6, kernel=5)
    with torch.no_grad():  # one layer of low rank
        net.layers[1].conv.weight.copy_(compress(net, rank=2).layers[1].conv.weight)
    made = compress(net, rank="auto", tolerance=1e-6, init="from_dense").compression.replaced
    assert made[1].ranks == (2,)
    assert made[2].ranks[0] > 25


@pytest.mark.parametrize("scheme", SCHEMES)
def test_report(scheme: str) -> None:
    net = compress(WaveCNN(width=6, kernel=5), scheme, 0.45)
    x = torch.randn(2, 2, 9, 8)
    found = report(net, x, repeats=1)
    points = 2 * 9 * 8
    for row, layer in zip(found.layers, compressed_layers(net).values(), strict=True):
        assert row.factored.parameters == count(layer)
        assert row.dense.parameters == layer.shape.weights + layer.shape.out_channels
        assert row.dense.flops == 2 * points * layer.shape.weights
        if scheme != "perkernel":  # stride 1: each factor works at every point
            assert row.factored.flops == 2 * points * (count(layer) - layer.shape.out_channels)
        assert row.factored.milliseconds > 0
        assert all((values.diff() <= 0).all() for values in row.spectrum)
        if scheme != "cp":  # whose spectrum is that of orthonormal terms
            assert all(low <= high for low, high in zip(row.effective, row.ranks, strict=True))
    assert found.dense.parameters == count(WaveCNN(width=6, kernel=5))
    assert found.factored.parameters == count(net)
    assert str(found).count("\n") == 2 + 4
    assert math.isnan(report(net).factored.milliseconds)
    own = net.layers[1].conv.report(torch.randn(2, 6, 9, 8), repeats=1)
    assert own.layers[0].name == ""
    assert own.factored.flops == found.layers[1].factored.flops


def test_memory_of_a_step() -> None:
    """A convolution keeps its input: C_i channels dense, and M more between two factors."""
    x = torch.randn(2, 4, 10, 10)
    net = CompressedConv.like(nn.Conv2d(4, 6, 3, padding=1), rank=5)
    assert kept_bytes(net.to_dense(), x) == 4 * x.numel()
    assert kept_bytes(net, x) == 4 * x.numel() + 4 * 2 * 5 * 100
    assert flops(net, x) == 2 * 200 * (4 * 5 * 3 + 5 * 6 * 3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_merging_keeps_the_function(scheme: str) -> None:
    net = compress(mixed(), scheme, 0.9 if scheme != "perkernel" else "full")
    x = torch.randn(2, 2, 12, 10)
    fast = merge_for_inference(net, x, repeats=1)
    assert not compressed_layers(fast)
    assert not any(p.requires_grad for p in fast.parameters())
    assert len(fast.merging) == 4
    assert relative(fast(x), net(x)) < 1e-4
    assert relative(densified(net)(x), net(x)) < 1e-4
    tuned = tune_for_training(copy.deepcopy(net), x, repeats=1)
    assert relative(tuned(x), net(x)) < 1e-4
    assert list(tuned.state_dict()) == list(net.state_dict())


def test_merging_chooses_the_faster_form() -> None:
    """A chain of full rank in two dimensions costs k times a dense kernel of a few taps; thin ones cost less."""
    x = torch.randn(4, 16, 48, 48)
    wide = compress(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)), "succession", "full")
    assert isinstance(merge_for_inference(wide, x, repeats=3)[0], nn.Conv2d)
    thin = compress(nn.Sequential(nn.Conv2d(16, 16, 9, padding=4)), "succession", 2)
    assert isinstance(merge_for_inference(thin, x, repeats=3)[0], nn.Sequential)


def test_rank_curve() -> None:
    net, x = WaveCNN(width=6, kernel=5), torch.randn(2, 2, 6, 6)
    with torch.no_grad():
        y = net(x)
    points = rank_curve(net, (x, y), ranks=(4, 16, "full"), schemes=("succession",), repeats=1)
    assert [(p.scheme, p.rank) for p in points[:4]] == [
        ("dense", 1.0), ("succession", 4), ("succession", 16), ("succession", "full"),
    ]  # fmt: skip
    errors = [p.error for p in points]
    assert errors[0] == 0.0
    assert errors[1] > errors[2] > errors[3]  # truncation of its own weights, nothing trained
    assert errors[3] < 1e-4
    assert points[1].share == points[1].parameters / points[0].parameters
    assert table(points).count("\n") == len(points) + 1
    trained: list[nn.Module] = []
    rank_curve(net, [(x, y), (x, y)], ranks=(4,), init="scratch", fit=trained.append, repeats=1)
    assert [len(compressed_layers(one)) for one in trained] == [4]
    with pytest.raises(UsageError, match="larger than full"):
        rank_curve(net, (x, y), ranks=(1000,))


def test_training_aids() -> None:
    net = compress(WaveCNN(width=6, kernel=5), "succession", 4, skip=["layers.0*"])
    groups = parameter_groups(net, 1e-2, scales=(0.5, 2.0))
    assert [group["lr"] for group in groups] == [1e-2, 5e-3, 2e-2]
    assert sum(p.numel() for group in groups for p in group["params"]) == count(net)
    penalty = orthogonality(net)
    penalty.backward()
    first = net.layers[1].conv.body.steps[0].weight
    assert first.grad.norm() > 0
    with torch.no_grad():  # orthonormal rows, at any scale
        for layer in compressed_layers(net).values():
            rows = torch.linalg.qr(torch.randn(6 * 5, 4))[0].T
            layer.body.steps[0].weight.copy_(3 * rows.reshape(4, 6, 5, 1))
    assert orthogonality(net).item() < 1e-10


def test_as_a_network_of_a_configuration() -> None:
    config = {
        "class_path": "sciops.models.compressed.network.Compressed",
        "init_args": {
            "net": {"class_path": "sciops.models.wave_cnn.WaveCNN", "init_args": {"width": 6, "kernel": 5}},
            "rank": 4, "in_channels": 3, "out_channels": 2, "bc": ["periodic", "neumann"],
        },
    }  # fmt: skip
    net = build(config, nn.Module)
    assert isinstance(net, Compressed)
    assert net(torch.randn(1, 3, 9, 9)).shape == (1, 2, 9, 9)
    assert len(compressed_layers(net)) == 4
    with pytest.raises(UsageError, match="has no convolution"):
        Compressed({"class_path": "sciops.models.mlp.MLP", "init_args": {"width": 4}})

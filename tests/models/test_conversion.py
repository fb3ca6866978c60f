"""Networks as operators: the source's bits at its own grid and at native points of finer grids, limits elsewhere."""

from itertools import pairwise, product

import pytest
import torch
from networks import Classifier, ConvLSTM, ConvNeXt, Dilated, ResNet, UNet, ViT, trained, waves
from torch import nn

from sciops.models.conversion.layout import ConversionError
from sciops.models.conversion.operator import to_neural_operator
from sciops.models.unet import UNet as Ghosts

NETWORKS = {
    **{
        f"unet-{mode}-{up}-{down}": (lambda mode=mode, up=up, down=down: UNet(mode, up, down))
        for mode, up, down in product(("circular", "zeros"), ("transposed", "smooth"), ("max", "average", "conv"))
    },
    "unet-wide": lambda: UNet("circular", "wide", "wide"),
    "unet-wide-zeros": lambda: UNet("zeros", "wide", "wide"),
    "unet-shuffle": lambda: UNet("reflect", "shuffle", "conv"),
    "unet-nearest": lambda: UNet("replicate", "nearest", "max"),
    "resnet": ResNet,
    "convnext": ConvNeXt,
    "dilated": Dilated,
    "convlstm": ConvLSTM,
}
SCALES = {"periodic": ((2, 3), (4, 1)), "vertex": ((2, 3),), "cell": ((3, 5),)}


def refined_shape(shape, scale, kind):
    return [s * (n - 1) + 1 if kind == "vertex" else s * n for n, s in zip(shape, scale, strict=True)]


def shared(scale, kind):
    return (..., *(slice((s - 1) // 2 if kind == "cell" else 0, None, s) for s in scale))


def kinds_of(name, i):
    """Circular ones repeat themselves on every kind of grid; those that pad zeros take walls in turn."""
    if name.startswith("unet-circular"):
        return ("periodic",)
    return ("periodic", ("vertex", "cell")[i % 2]) if name.startswith("unet-zeros") else tuple(SCALES)


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for i, name in enumerate(NETWORKS) for kind in kinds_of(name, i)]
)
def test_values_at_native_points_are_the_sources_to_the_bit(name, kind):
    torch.manual_seed(0)
    net = trained(NETWORKS[name](), (16, 16))
    operator = to_neural_operator(net, (16, 16), grid=kind)
    with torch.no_grad():
        x = torch.randn(1, 1, 16, 16)
        assert torch.equal(operator(x), net(x))
        # The second call of a scale trusts what the first has compared.
        for scale in (SCALES[kind][0], *SCALES[kind]):
            fine = torch.randn(1, 1, *refined_shape((16, 16), scale, kind))
            here = shared(scale, kind)
            expected = net(fine[here].contiguous())
            assert expected.std() > 1e-3
            assert torch.equal(operator(fine)[here], expected)
    assert all(entry.exact for entry in operator.report.entries)


@pytest.mark.parametrize("name", ["unet-nearest", "unet-wide"])
def test_bits_agree_for_every_input(name):
    """The last of 31 × 46 points stands alone in its register: its sums have another order, which agrees by chance."""
    torch.manual_seed(0)
    net = trained(NETWORKS[name](), (16, 16))
    operator = to_neural_operator(net, (16, 16), grid="vertex")
    with torch.no_grad():
        for _ in range(8):
            fine = torch.randn(1, 1, 31, 46)
            assert torch.equal(operator(fine)[..., ::2, ::3], net(fine[..., ::2, ::3].contiguous()))


@pytest.mark.parametrize("d", [1, 3])
def test_one_and_three_dimensions(d):
    torch.manual_seed(1)
    shape, scale = (16,) * d, (2, 3, 1)[:d]
    net = trained(UNet("circular", "transposed", "conv", 4, d), shape)
    operator = to_neural_operator(net, shape)
    fine = torch.randn(2, 1, *refined_shape(shape, scale, "periodic"))
    here = shared(scale, "periodic")
    with torch.no_grad():
        assert torch.equal(operator(fine)[here], net(fine[here].contiguous()))


@pytest.mark.parametrize("extra", [True, False])
@pytest.mark.parametrize("attention", ["module", "sdpa", "explicit", "linear"])
def test_attention_tends_to_a_limit(attention, extra):
    if attention == "linear" and extra:
        pytest.skip("a sum over points and a class token without softmax has no weights")
    torch.manual_seed(2)
    net = ViT(attention, extra).double().eval()
    operator = to_neural_operator(net, (32, 32))
    with torch.no_grad():
        values = {s: operator(waves(32 * s))[..., ::s, ::s] for s in (1, 2, 4)}
        assert torch.equal(values[1], net(waves(32)))
    steps = [float((values[a] - values[b]).norm() / values[b].norm()) for a, b in ((1, 2), (2, 4))]
    # Sums of smooth periodic functions converge faster than any power; positions are linear between nodes: order 2.
    assert steps[0] > 2.5 * steps[1]


@pytest.mark.parametrize("attention", ["module", "sdpa", "explicit"])
def test_a_class_token_keeps_its_share_beside_more_points(attention):
    """A constant field without positions: all points are alike, so a refinement must change nothing at all."""
    torch.manual_seed(3)
    net = ViT(attention, True).double().eval()
    operator = to_neural_operator(net, (32, 32))
    with torch.no_grad():
        net.positions.zero_()
        native = net(torch.full((1, 1, 32, 32), 0.7, dtype=torch.float64))
        fine = operator(torch.full((1, 1, 96, 96), 0.7, dtype=torch.float64))[..., ::3, ::3]
    assert torch.allclose(fine, native, rtol=0, atol=1e-12)
    assert any("log-weights" in entry.rule for entry in operator.report.entries)


@pytest.mark.parametrize("kind", ["periodic", "cell"])
@pytest.mark.parametrize("name", ["convnext", "convlstm"])
def test_between_native_points_every_phase_is_a_native_field(name, kind):
    """Networks without strides, wrapped around: F(f)(x + H Z) depends on f(x + H Z) alone, at every x."""
    torch.manual_seed(8)
    net = trained(NETWORKS[name](), (16, 16)).double()
    operator = to_neural_operator(net, (16, 16), grid=kind)
    fine = torch.randn(1, 1, 48, 80, dtype=torch.float64)
    with torch.no_grad():
        y = operator(fine)
        for a, b in ((0, 0), (1, 2), (2, 4), (0, 3)):
            assert torch.allclose(y[..., a::3, b::5], net(fine[..., a::3, b::5].contiguous()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["periodic", "cell"])
@pytest.mark.parametrize("down", ["max", "average", "conv", "wide"])
def test_strides_keep_fine_shifts(down, kind):
    """Four fine points at the input are one fine point behind two strides of two, whatever the phase."""
    torch.manual_seed(9)
    whole = UNet("circular", "transposed", down, 4)
    net = nn.Sequential(whole.encode[0], whole.pools[0], whole.encode[1], whole.pools[1], nn.Conv2d(8, 1, 1))
    net = trained(net, (16, 16)).double()
    operator = to_neural_operator(net, (16, 16), grid=kind)
    fine = torch.randn(1, 1, 48, 80, dtype=torch.float64)
    with torch.no_grad():
        y, moved = operator(fine), operator(fine.roll((4, 8), (2, 3)))
    assert y.shape[2:] == (12, 20)
    assert torch.allclose(moved, y.roll((1, 2), (2, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("hard", [False, True])
def test_a_dense_head_is_an_integral(hard):
    torch.manual_seed(4)
    net = Classifier(16, hard).double().eval()
    with torch.no_grad():
        net.dense.weight.copy_(torch.cat([waves(16)[:, 0].flatten(1), waves(16)[:1, 0].flatten(1) ** 2]).repeat(1, 4))
    operator = to_neural_operator(net, (16, 16))
    with torch.no_grad():
        values = [operator(waves(16 * s)) for s in (1, 2, 4, 8)]
    steps = [float((a - b).norm() / values[-1].norm()) for a, b in pairwise(values)]
    assert torch.equal(values[0], net(waves(16)))
    # The density is linear between its nodes: its integral changes by O(1/s²) of a fixed amount.
    assert steps[1] < 0.4 * steps[0] and steps[2] < 0.4 * steps[1]


@pytest.mark.parametrize("method", ["point", "lattice"])
@pytest.mark.parametrize("n", [48, 40, 24, 17, 16])
def test_other_sizes_are_refined_and_never_coarsened(method, n):
    torch.manual_seed(5)
    net = trained(UNet("circular", "transposed", "max")).double()
    operator = to_neural_operator(net, (32, 32), method=method)
    with torch.no_grad():
        y = operator(waves(n))
        native = net(waves(32))
    assert y.shape == (2, 1, n, n) and torch.isfinite(y).all()
    if n in (24, 16):
        # Band-limited data refined to the native grid: the answer is the native one, as its Fourier series says.
        back = torch.fft.irfft2(torch.fft.rfft2(native), (32, 32))
        assert abs(float(y.mean() - back.mean())) < 0.05 * float(native.std())


def test_lattice_splits_the_grid():
    torch.manual_seed(6)
    net = trained(UNet("zeros", "smooth", "max"))
    operator = to_neural_operator(net, (32, 32), method="lattice")
    fine = torch.randn(2, 1, 64, 96)
    with torch.no_grad():
        y = operator(fine)
        for a, b in product(range(2), range(3)):
            assert torch.equal(y[..., a::2, b::3], net(fine[..., a::2, b::3].contiguous()))


def test_double_precision_gradients_and_state():
    torch.manual_seed(7)
    net = trained(UNet("circular", "transposed", "max", 4), (16, 16)).double()
    operator = to_neural_operator(net, (16, 16))
    assert list(operator.state_dict()) == list(net.state_dict())
    operator(waves(32)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    torch.optim.SGD(operator.parameters(), 1e-2).step()
    assert all(not torch.equal(p, before[name]) for name, p in net.named_parameters() if p.grad.abs().max() > 0)
    assert not operator.training and not net.training and operator.train() is operator and net.training
    operator.eval()
    other = to_neural_operator(trained(UNet("circular", "transposed", "max", 4), (16, 16)).double(), (16, 16))
    other.load_state_dict(operator.state_dict())
    with torch.no_grad():
        assert torch.equal(other(waves(32)), operator(waves(32)))


@pytest.mark.parametrize(
    ("bc", "layout", "kind", "n", "s"),
    [
        ("periodic", "node", "periodic", 20, 2),
        ("neumann", "node", "vertex", 17, 3),
        ("dirichlet", "node", "vertex", 17, 2),
        ("neumann", "cell", "cell", 16, 3),
    ],
)
def test_rows_joined_by_hand_are_padding(bc, layout, kind, n, s):
    torch.manual_seed(10)
    net = Ghosts(width=8, levels=3, bc=bc, layout=layout).eval()
    for part in net.modules():
        if hasattr(part, "norm1"):
            part.norm1 = part.norm2 = nn.Identity()
    fine = torch.randn(1, 1, *refined_shape((n, n), (s, s), kind))
    here = shared((s, s), kind)
    with torch.no_grad():
        assert torch.equal(to_neural_operator(net, (n, n), grid=kind)(fine)[here], net(fine[here].contiguous()))


def test_decisions_by_the_size_of_the_grid_are_refused():
    """18 nodes are padded by 2 to a multiple of 4, 52 nodes by none."""
    operator = to_neural_operator(Ghosts(width=8, levels=3, bc="neumann"), (18, 18), grid="vertex")
    with pytest.raises(ConversionError, match=r"decides by the size of the grid.*with \(52, 52\) points it makes \(18"):
        operator(torch.randn(1, 1, 52, 52))


class Row(nn.Module):
    def forward(self, x):
        return x[:, :, 7]


class Odd(nn.Module):
    def forward(self, x):
        return x.flatten(2).reshape(x.shape[0], 8, 128)


class Sorting(nn.Module):
    def forward(self, x):
        return x.sort(dim=-1).values


class Sized(nn.Module):
    def forward(self, x):
        return nn.functional.interpolate(x, size=(45, 45))


REFUSED = {
    "batch norm in train mode": (
        lambda: UNet().train(),
        r"encode\.0\.1: batch_norm takes statistics.*module\.eval\(\)",
    ),
    "a row by number": (Row, r"\(top level\): __getitem__ \[7\] names a grid row and not a place"),
    "space mixed with channels": (Odd, r"reshape to .* mixes space with channels"),
    "sorting": (Sorting, r"sort orders or counts grid points.*method='lattice'"),
    "a size written as a number": (Sized, r"interpolate asks for the size 45, which is no level of a grid refined 2"),
    "active dropout": (lambda: nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout(0.5)), r"1: dropout is active"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_teach(name):
    make, message = REFUSED[name]
    operator = to_neural_operator(make(), (32, 32))
    with pytest.raises(ConversionError, match=message):
        operator(torch.randn(1, 1, 64, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": "staggered"}, "grid must be periodic, vertex or cell"),
        ({"method": "magic"}, "method must be one of"),
        ({"grid": "vertex", "method": "lattice"}, "no meaning on vertex grids"),
        ({"native_shape": (1, 32)}, "2 points or more"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ConversionError, match=message):
        to_neural_operator(nn.Conv2d(1, 1, 1), **({"native_shape": (32, 32)} | options))

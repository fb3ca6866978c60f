"""Options of `to_neural_operator`: conditions at walls, what has no rule, heads, tables, coordinates and weights."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from networks import Classifier, Normed, ViT, waves
from torch import nn

from sciops.models.conversion.layout import ConversionError
from sciops.models.conversion.operator import to_neural_operator

MODES = {"periodic": "circular", "zeros": "zeros", "replicate": "replicate", "reflect": "reflect"}


@pytest.mark.parametrize("asked", MODES)
@pytest.mark.parametrize("given", ["zeros", "circular", "functional"])
def test_bc_is_the_network_with_that_padding(asked, given):
    class Net(nn.Module):
        def __init__(self, mode):
            super().__init__()
            by_hand = mode == "functional"
            self.first = nn.Conv2d(1, 3, 5, padding=2, padding_mode="zeros" if by_hand else mode)
            self.second = nn.Conv2d(3, 1, 3, padding=0 if by_hand else 1, padding_mode="zeros" if by_hand else mode)
            self.by_hand = by_hand

        def forward(self, x):
            x = torch.tanh(self.first(x))
            return self.second(F.pad(x, (1, 1, 1, 1), mode="replicate") if self.by_hand else x)

    net, other = Net(given).double(), Net(MODES[asked]).double()
    other.load_state_dict(net.state_dict())
    operator = to_neural_operator(net, (8, 8), grid="cell", bc=asked)
    fine = torch.randn(1, 1, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        native = fine[..., 1::3, 1::3].contiguous()
        assert torch.allclose(operator(native), other(native), rtol=0, atol=1e-14)
        assert torch.allclose(operator(fine)[..., 1::3, 1::3], other(native), rtol=0, atol=1e-14)
        assert torch.allclose(operator(fine), to_neural_operator(other, (8, 8), grid="cell")(fine), atol=1e-14)


def test_bc_per_axis():
    net = nn.Conv2d(1, 1, 3, padding=1).double()
    operator = to_neural_operator(net, (8, 8), grid=("periodic", "vertex"), bc=("periodic", "source"))
    x = torch.randn(1, 1, 16, 15, dtype=torch.float64)
    with torch.no_grad():
        y, moved = operator(x), operator(x.roll(5, 2))
        source = to_neural_operator(net, (8, 8), grid=("periodic", "vertex"))
        assert not torch.allclose(source(x.roll(5, 2)), source(x).roll(5, 2))
    assert torch.allclose(moved, y.roll(5, 2), rtol=0, atol=1e-14)


@pytest.mark.parametrize("mode", ["circular", "zeros", "replicate", "reflect"])
@pytest.mark.parametrize("kind", ["periodic", "vertex", "cell"])
def test_an_impulse_at_a_wall_is_padded_once(mode, kind):
    """The padding of a module and the same padding as a function give the same bits, and those of the source."""

    class Padded(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            name = "constant" if mode == "zeros" else mode
            return F.conv2d(F.pad(x, (2, 2, 1, 1), mode=name), self.conv.weight, self.conv.bias)

    conv = nn.Conv2d(1, 2, (3, 5), padding=(1, 2), padding_mode=mode).double()
    a, b = (to_neural_operator(net, (8, 8), grid=kind) for net in (conv, Padded(conv)))
    x = torch.zeros(1, 1, *((22, 22) if kind == "vertex" else (24, 24)), dtype=torch.float64)
    o = int(kind == "cell")
    for place in ((0, 0), (o, o), (-1, 5)):
        x.zero_()[0, 0][place] = 1.0
        with torch.no_grad():
            assert torch.equal(a(x), b(x))
            assert torch.equal(a(x)[..., o::3, o::3], conv(x[..., o::3, o::3].contiguous()))
            assert place == (-1, 5) or (a(x) - conv.bias[:, None, None]).abs().max() > 0


class Windowed(nn.Module):
    """No rule: windows cut by number."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")

    def forward(self, x):
        return self.conv(x) * x.unfold(-1, 8, 8).mean()


@pytest.mark.parametrize("instead", ["lattice", "io"])
def test_on_unsupported_says_so_once(instead):
    torch.manual_seed(1)
    net = Windowed().double()
    operator = to_neural_operator(net, (16, 16), on_unsupported=instead)
    x = waves(48)
    with torch.no_grad():
        with pytest.warns(UserWarning, match=rf"unfold cuts windows.*on_unsupported='{instead}' instead"):
            first = operator(x)
        assert torch.equal(operator(x), first)
        expected = net(x[..., ::3, ::3].contiguous())
        assert torch.allclose(first[..., ::3, ::3], expected, rtol=0, atol=1e-12)  # band-limited: both keep it
        assert torch.equal(first, to_neural_operator(net, (16, 16), method="lattice")(x)) == (instead == "lattice")
    assert "unfold" in operator.report.warnings[0] and not operator.report.entries[0].exact
    with pytest.raises(ConversionError, match="unfold cuts windows"):
        to_neural_operator(net, (16, 16))(x)


def test_heads():
    torch.manual_seed(2)
    net = Classifier(16).double().eval()
    fine = torch.randn(2, 1, 32, 48, dtype=torch.float64)
    with torch.no_grad():
        native = to_neural_operator(net, (16, 16), head="native")
        assert torch.equal(native(fine), net(fine[..., ::2, ::3].contiguous()))
        assert not torch.allclose(to_neural_operator(net, (16, 16))(fine), native(fine), rtol=1e-2)
        with pytest.raises(ConversionError, match=r"dense: linear reads a flattened field.*head='functional'"):
            to_neural_operator(net, (16, 16), head="raise")(fine)


class Interpolated(nn.Module):
    """A table of positions on 4 × 4 places, beside a lattice of 8 × 8 patches and a class token."""

    def __init__(self):
        super().__init__()
        self.vit = ViT("sdpa", True, depth=1).double()
        wave = torch.cos(2 * torch.pi * torch.arange(4, dtype=torch.float64) / 4)
        self.table = nn.Parameter(torch.cat([torch.ones(1), (wave[:, None] + 2 * wave).flatten()])[None, :, None])

    def forward(self, x):
        t = self.vit.embed(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.vit.extra.expand(x.shape[0], -1, -1), t], dim=1)
        return (t + self.table)[:, 1:].mean(-1) if t.shape[1] != 65 else t[:, 1:].mean(-1)


def test_a_table_on_a_lattice_of_its_own():
    torch.manual_seed(3)
    net = Interpolated()
    flat = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        with pytest.raises(ConversionError, match=r"add meets a tensor of shape \(1, 17, 1\).*token_shape="):
            to_neural_operator(net, (32, 32))(flat)
        operator = to_neural_operator(net, (32, 32), token_shape=(4, 4), n_extra=1)
        operator._checked = Agreeing()  # the network has no native answer of this kind
        t = operator(flat).reshape(16, 16)
    t = t - t[4, 4]
    places = 4 * torch.arange(16, dtype=torch.float64) / 16
    wave = torch.tensor([1.0, 0, -1, 0, 1], dtype=torch.float64)
    linear = torch.lerp(wave[places.long()], wave[places.long() + 1], places - places.floor())
    assert torch.allclose(t, linear[:, None] + 2 * linear, rtol=0, atol=1e-12)


class Agreeing(dict):
    def __contains__(self, key):
        return True

    def __getitem__(self, key):
        return [], []


def graded(n):
    x = torch.linspace(0, 1, n, dtype=torch.float64)
    return x + 0.08 * torch.sin(2 * torch.pi * x)


def test_coordinates_of_a_graded_grid():
    torch.manual_seed(4)
    conv = nn.Conv2d(1, 4, 3, padding=1, padding_mode="replicate")
    net = nn.Sequential(conv, nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1, padding_mode="replicate")).double()
    operator = to_neural_operator(net, (17, 17), grid="vertex")

    def field(x, y):
        return (torch.cos(torch.pi * x)[:, None] * torch.cos(2 * torch.pi * y) + y**2)[None, None]

    even = torch.linspace(0, 1, 33, dtype=torch.float64)
    with torch.no_grad():
        expected = operator(field(even, even))
        found = operator(field(graded(65), graded(49)), coords=(graded(65), graded(49)))
        assert found.shape[2:] == (65, 49)
        same = operator(field(even, even), coords=(even, even))
        assert torch.allclose(same, expected, rtol=0, atol=1e-10)
        # At every 65th place in common: the middle.
        scale = float(expected.std())
        assert abs(float(found[0, 0, 32, 24] - expected[0, 0, 16, 16])) < 0.02 * scale
    with pytest.raises(ConversionError, match=r"coords\[0\] must be 33 increasing numbers in \[0, 1\]"):
        operator(field(even, even), coords=(even.flip(0), even))


@pytest.mark.parametrize("norm", ["group", "instance", "layer", "mean", "token", "head", "heads", "linear"])
def test_weights_make_integrals_of_sums(norm):
    """Half the points with weight 0 on a grid that repeats every value: as if they were not there."""
    torch.manual_seed(5)
    nets = {
        "mean": lambda: nn.Sequential(nn.Conv2d(1, 4, 1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "token": lambda: ViT("sdpa", True, patch=1, n=8),
        "heads": lambda: ViT("module", False, patch=1, n=8),
        "linear": lambda: ViT("linear", False, patch=1, n=8),
        "head": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(64, 3)),
    }
    net = (nets[norm]() if norm in nets else Pointwise(norm)).double().eval()
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    operator = to_neural_operator(net, (8, 8))
    weights = torch.rand(8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(operator(x, weights=torch.full((8, 8), 0.3)), net(x), rtol=0, atol=1e-12)
        y = operator(x, weights=weights)
        assert not torch.allclose(y, net(x), rtol=1e-3)
        # Values where the weight is zero do not matter to anyone but themselves.
        keep = torch.rand(8, 8) < 0.5
        spoiled = torch.where(keep, x, 7 * torch.randn_like(x))
        a, b = (operator(v, weights=keep.double()) for v in (x, spoiled))
        if a.dim() == 4:
            a, b = a * keep, b * keep
    assert torch.allclose(a, b, rtol=0, atol=1e-10)


class Pointwise(nn.Module):
    """The norms of `Normed` between pointwise maps."""

    def __init__(self, norm):
        super().__init__()
        whole = Normed(norm, n=8)
        self.parts = nn.Sequential(nn.Conv2d(1, 8, 1), whole.norm, nn.GELU(), nn.Conv2d(8, 1, 1))

    def forward(self, x):
        return self.parts(x)


def test_trapezoid_weights_make_vertex_statistics_second_order():
    torch.manual_seed(6)
    net = Pointwise("group").double().eval()
    operator = to_neural_operator(net, (9, 9), grid="vertex")
    values = {"plain": [], "trapezoid": []}
    with torch.no_grad():
        for s in (1, 2, 4, 8):
            x = torch.linspace(0, 1, 8 * s + 1, dtype=torch.float64)
            field = (torch.exp(x)[:, None] * torch.cos(x))[None, None]
            w = torch.ones(8 * s + 1, dtype=torch.float64)
            w[[0, -1]] = 0.5
            values["plain"].append(operator(field)[..., ::s, ::s])
            values["trapezoid"].append(operator(field, weights=w[:, None] * w)[..., ::s, ::s])
    for name, low, high in (("plain", 1.6, 2.6), ("trapezoid", 3.4, 4.6)):
        steps = [float((a - b).norm()) for a, b in pairwise(values[name])]
        assert all(low < a / b < high for a, b in pairwise(steps)), (name, steps)


class ByChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1, padding_mode="circular")

    def forward(self, x):
        x = self.conv(x)
        return x.topk(2, dim=1).values + x.sort(dim=1).values[:, :2] + torch.sort(x, 1, True)[0][:, :2]


def test_order_along_channels_is_pointwise():
    net, fine = ByChannels(), torch.randn(1, 1, 32, 24)
    with torch.no_grad():
        assert torch.equal(to_neural_operator(net, (16, 8))(fine)[..., ::2, ::3], net(fine[..., ::2, ::3].contiguous()))


HAND = {
    "circular": lambda x: torch.cat([x[..., -2:], x, x[..., :1]], -1),
    "circular by narrow": lambda x: torch.cat([x.narrow(-1, x.shape[-1] - 2, 2), x, x.narrow(-1, 0, 1)], dim=3),
    "reflected": lambda x: torch.cat([x[..., 1:3].flip(-1), x, x[..., -2:-1].flip(-1)], -1),
    "repeated": lambda x: torch.cat([x[..., :1], x[..., :1], x, x[..., -1:]], -1),
    "zeros": lambda x: torch.cat([torch.zeros_like(x[..., :2]), x, torch.zeros_like(x[..., :1])], -1),
    "zeros and repeated": lambda x: torch.cat([torch.zeros(*x.shape[:-1], 2), x, x[..., -1:]], -1),
}


@pytest.mark.parametrize("kind", ["periodic", "vertex", "cell"])
@pytest.mark.parametrize("name", HAND)
def test_rows_joined_to_a_field_are_padding(name, kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, (1, 4))

        def forward(self, x):
            return self.conv(HAND[name](x))

    net, o = Net(), 1 if kind == "cell" else 0
    fine = torch.randn(1, 1, *((22, 22) if kind == "vertex" else (24, 24)))
    here = (..., slice(o, None, 3), slice(o, None, 3))
    with torch.no_grad():
        assert torch.equal(to_neural_operator(net, (8, 8), grid=kind)(fine)[here], net(fine[here].contiguous()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: torch.cat([x[..., :2], x], -1), "in an order that is no padding"),
        (lambda x: x[..., :2] * 2, "meets rows cut out of a field by number"),
        (lambda x: torch.cat([x[..., :1], x[..., -1:]], -1), "joins rows to no field"),
    ],
    ids=["order", "product", "no field"],
)
def test_other_rows_are_refused(make, message):
    class Net(nn.Module):
        def forward(self, x):
            return make(x)

    with pytest.raises(ConversionError, match=message):
        to_neural_operator(Net(), (8, 8))(torch.randn(1, 1, 16, 16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bc": "open"}, "bc must be one of source, periodic"),
        ({"bc": "periodic", "grid": "vertex"}, "contradicts grid='vertex'"),
        ({"bc": "zeros", "method": "lattice"}, "runs the network as it is"),
        ({"on_unsupported": "guess"}, "on_unsupported must be raise, lattice or io"),
        ({"on_unsupported": "lattice", "grid": "vertex"}, "no meaning on vertex grids"),
        ({"head": "mean"}, "head must be functional"),
        ({"n_extra": -1}, "count tokens"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConversionError, match=message):
        to_neural_operator(nn.Conv2d(1, 1, 1), (8, 8), **options)


def test_weights_are_checked():
    operator = to_neural_operator(nn.Conv2d(1, 1, 1), (8, 8))
    for weights in (torch.ones(8), -torch.ones(16, 16), torch.zeros(16, 16)):
        with pytest.raises(ConversionError, match="numbers that are not negative"):
            operator(torch.ones(1, 1, 16, 16), weights=weights)
    with pytest.raises(ConversionError, match="takes no weights"):
        to_neural_operator(nn.Conv2d(1, 1, 1), (8, 8), method="lattice")(
            torch.ones(1, 1, 16, 16), weights=torch.ones(16, 16)
        )


def test_state_inside_another_module():
    whole = nn.ModuleDict({"net": to_neural_operator(nn.Conv2d(1, 2, 3), (8, 8)), "head": nn.Linear(2, 2)})
    other = nn.ModuleDict({"net": to_neural_operator(nn.Conv2d(1, 2, 3), (8, 8)), "head": nn.Linear(2, 2)})
    assert set(whole.state_dict()) == {"net.weight", "net.bias", "head.weight", "head.bias"}
    other.load_state_dict(whole.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))

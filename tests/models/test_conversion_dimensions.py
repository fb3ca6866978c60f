"""The families of networks in one and in three dimensions, and what holds for all that sum over space."""

import pytest
import torch
import torch.nn.functional as F
from networks import CONV, Classifier, ViT, trained, waves
from torch import Tensor, nn

from sciops.core.grid import Grid
from sciops.core.interpolate import resample
from sciops.models.conversion.layout import ConversionError
from sciops.models.conversion.operator import to_neural_operator

SCALE = (2, 3, 1)


def conv(d: int, inside: int, outside: int, taps: int = 3) -> nn.Module:
    return CONV[d](inside, outside, taps, padding=taps // 2, padding_mode="circular")


class Residual(nn.Module):
    def __init__(self, d: int, width: int = 6):
        super().__init__()
        self.stem, self.head = conv(d, 1, width), conv(d, width, 1)
        self.first, self.second = conv(d, width, width), conv(d, width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.stem(x))
        return self.head(x + self.second(F.gelu(self.first(x))))


class ConvNeXt(nn.Module):
    def __init__(self, d: int, width: int = 6):
        super().__init__()
        self.stem = CONV[d](1, width, 1)
        self.deep = CONV[d](width, width, 5, padding=2, groups=width, padding_mode="circular")
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = CONV[d](width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.down(F.gelu(self.up(self.norm(self.deep(x).movedim(1, -1)))))
        return self.head(x + y.movedim(-1, 1))


class ConvLSTM(nn.Module):
    def __init__(self, d: int, width: int = 4):
        super().__init__()
        self.width = width
        self.gates = CONV[d](1 + width, 4 * width, 3, padding=1, padding_mode="circular")
        self.head = CONV[d](width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros_like(x[:, :1]).expand(-1, self.width, *x.shape[2:])
        for _ in range(2):
            i, f, o, g = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


class Tokens(nn.Module):
    """Points as tokens with a class token, mixed by attention; or without, mixed by a dense layer blind to places."""

    def __init__(self, d: int, mixing: str, n: int = 4, width: int = 8):
        super().__init__()
        self.embed, self.head = conv(d, 1, width, 1), conv(d, width, 1, 1)
        self.extra = nn.Parameter(torch.randn(1, 1, width)) if mixing == "attention" else None
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(n**d, n**d)
        with torch.no_grad():
            self.mix.weight.fill_(0.7 / n**d)
            self.mix.bias.fill_(0.2)

    def forward(self, x: Tensor) -> Tensor:
        t = self.embed(x)
        lattice = t.shape[2:]
        t = t.flatten(2).transpose(1, 2)
        if self.extra is None:
            t = t + F.gelu(self.mix(t.transpose(1, 2)).transpose(1, 2))
        else:
            t = torch.cat([self.extra.expand(len(t), -1, -1), t], dim=1)
            t = (t + F.scaled_dot_product_attention(*self.qkv(t).chunk(3, -1)))[:, 1:]
        return self.head(t.transpose(1, 2).unflatten(2, lattice))


CHAINS = {"resnet": Residual, "convnext": ConvNeXt, "convlstm": ConvLSTM}


def shared(d: int) -> tuple[slice, ...]:
    return (..., *(slice(None, None, s) for s in SCALE[:d]))  # type: ignore[return-value]


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("name", CHAINS)
def test_chains_keep_their_bits(name: str, d: int) -> None:
    torch.manual_seed(0)
    net = trained(CHAINS[name](d), (8,) * d)
    fine = torch.randn(2, 1, *(8 * s for s in SCALE[:d]))
    native = fine[shared(d)].contiguous()
    operator = to_neural_operator(net, (8,) * d)
    with torch.no_grad():
        assert net(native).std() > 1e-2
        assert torch.equal(operator(native), net(native))
        assert torch.equal(operator(fine)[shared(d)], net(native))
    assert all(entry.exact for entry in operator.report.entries)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("mixing", ["attention", "dense"])
def test_tokens_in_any_dimension(mixing: str, d: int) -> None:
    """Values repeated on the points of a refined grid: means over space are what they were, to rounding."""
    torch.manual_seed(1)
    net = Tokens(d, mixing).double().eval()
    native = torch.randn(2, 1, *(4,) * d, dtype=torch.float64)
    fine = native
    for axis, s in enumerate(SCALE[:d], start=2):
        fine = fine.repeat_interleave(s, axis)
    operator = to_neural_operator(net, (4,) * d)
    with torch.no_grad():
        assert torch.equal(operator(native), net(native))
        assert torch.allclose(operator(fine)[shared(d)], net(native), rtol=0, atol=1e-12)


def test_sums_over_space_have_settled_at_four_times_the_points() -> None:
    torch.manual_seed(2)
    tokens, head = ViT("sdpa", True, depth=1).double().eval(), Classifier(32).double().eval()
    with torch.no_grad():
        angle = 2 * torch.pi * torch.arange(32, dtype=torch.float64) / 32
        head.dense.weight.copy_((angle.sin()[:, None] * (2 * angle).cos()).flatten().repeat(3, 4))
        for net in (tokens, head):
            operator = to_neural_operator(net, (32, 32))
            four, eight = (operator(waves(32 * s)[:1]) for s in (4, 8))
            if net is tokens:
                four, eight = four[..., ::4, ::4], eight[..., ::8, ::8]
            assert (four - eight).norm() < 1e-3 * eight.norm()


@pytest.mark.parametrize("s", [2, 4])
def test_sizes_that_fit_both_grids_are_read_as_on_the_native_one(s: int) -> None:
    """Sixteen channels and sixteen tokens: the decoder's own sizes could be native ones, of other axes."""
    torch.manual_seed(4)
    net, other = ViT("sdpa", True, n=16).double().eval(), ViT("sdpa", True, n=16, width=12).double().eval()
    x = torch.full((1, 1, 16 * s, 16 * s), 0.7, dtype=torch.float64)
    with torch.no_grad():
        for made in (net, other):
            made.positions.zero_()
            operator = to_neural_operator(made, (16, 16))
            for _ in range(2):
                fine = operator(x)[..., ::s, ::s]
                assert torch.allclose(fine, made(x[..., :16, :16]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["point", "lattice"])
def test_fields_refined_by_their_fourier_series_keep_the_native_answer(method: str) -> None:
    torch.manual_seed(3)
    net = trained(Residual(2), (16, 16))
    coarse, fine = (Grid.box((n, n), layout="periodic") for n in (16, 48))
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        expected = net(x)
        found = to_neural_operator(net, (16, 16), method=method)(resample(x, coarse, fine, "cubic"))[..., ::3, ::3]
    assert (found - expected).abs().max() < 5e-6 * expected.abs().max()


class Masked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0].mean() + x


class Counted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + len(x.nonzero())


class Levels(nn.Module):
    """Tokens of two grids in one axis: how fine is it?"""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.flatten(2), F.avg_pool2d(x, 2).flatten(2)], dim=2).softmax(2)[:, :, : x[0, 0].numel()]


class Added(nn.Module):
    """A field and its pooled self, which broadcast by accident of a size."""

    def forward(self, x: Tensor) -> Tensor:
        return x + F.avg_pool2d(x, 2).repeat(1, 1, 2, 2)


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.as_strided((1, 1, 4, 4), (16, 16, 4, 1))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Masked(), r"\(top level\): __getitem__ .*; .*method='lattice'"),
        (Counted(), r"\(top level\): nonzero names or counts grid points; .*method='lattice'"),
        (Levels(), r"\(top level\): cat joins fields end to end; .*method='lattice'"),
        (Added(), r"\(top level\): repeat repeats an axis of space; .*method='lattice'"),
        (Cut(), r"\(top level\): as_strided cuts windows of a fixed number of points.*method='lattice'"),
    ],
    ids=["shapes that depend on data", "counted points", "levels joined", "levels added", "memory"],
)
def test_what_has_no_meaning_is_refused(net: nn.Module, message: str) -> None:
    with torch.no_grad(), pytest.raises(ConversionError, match=message):
        to_neural_operator(net, (16, 16))(torch.randn(1, 1, 32, 32))


def test_a_network_on_two_devices_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1, device="meta"))
    with pytest.raises(ConversionError, match=r"lives in 2 devices \(cpu, meta\); .*module\.to\(device\)"):
        to_neural_operator(net, (16, 16))

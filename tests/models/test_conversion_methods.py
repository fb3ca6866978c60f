"""Other rules of a convolution, diagnostics, refusals, export: `to_neural_operator` beyond the bits of `point`."""

import warnings
from itertools import pairwise, product

import pytest
import torch
import torch.nn.functional as F
from networks import AutoEncoder, Mixer, Normed, UNet, trained, waves
from torch import nn

from sciops.models.conversion.diagnosis import aliasing
from sciops.models.conversion.kernels import hat_kernel, paper_kernel
from sciops.models.conversion.layout import ConversionError
from sciops.models.conversion.operator import to_neural_operator


@pytest.mark.parametrize(("k", "s"), list(product(range(1, 10), range(2, 9))))
def test_hats_keep_the_sum_of_the_taps(k, s):
    torch.manual_seed(k)
    weight = torch.randn(2, 3, k, dtype=torch.float64)
    kernel = hat_kernel(weight, (s,))
    assert kernel.shape[-1] == s * (k + 1) - 1
    assert torch.allclose(kernel.sum(-1), weight.sum(-1), rtol=0, atol=1e-12)
    xi, t = 2.3, torch.arange(k, dtype=torch.float64)
    j = torch.arange(kernel.shape[-1], dtype=torch.float64) - (s - 1)
    found = (kernel * torch.exp(1j * xi * j / s)).sum(-1)
    # Taps at distance 1 times the transform of a sampled hat, which is Fejér's kernel.
    fejer = (torch.sin(torch.tensor(xi / 2)) / (s * torch.sin(torch.tensor(xi / (2 * s))))) ** 2
    assert torch.allclose(found, (weight * torch.exp(1j * xi * t)).sum(-1) * fejer, rtol=0, atol=1e-6)


@pytest.mark.parametrize("s", [2, 3])
def test_the_integral_rule_is_the_dense_hat_kernel(s):
    torch.manual_seed(0)
    net = nn.Conv2d(2, 3, (3, 5), padding=(1, 2), padding_mode="circular").double()
    x = torch.randn(1, 2, 8 * s, 8 * s, dtype=torch.float64)
    with torch.no_grad():
        found = to_neural_operator(net, (8, 8), method="integral")(x)
        kernel = hat_kernel(net.weight, (s, s))
        margin = [s * 2 + s - 1] * 2 + [s + s - 1] * 2
        dense = F.conv2d(F.pad(x, margin, mode="circular"), kernel, net.bias)
    assert torch.allclose(found, dense, rtol=0, atol=1e-12)


def test_the_integral_rule_pads_zeros_behind_walls():
    net = nn.Conv1d(1, 1, 3, padding=1, bias=False).double()
    with torch.no_grad():
        net.weight.fill_(1.0)
        found = to_neural_operator(net, (8,), method="integral")(torch.ones(1, 1, 16, dtype=torch.float64))[0, 0]
    # Three hats of width H at −H, 0, H from the first point: half of the one there and none of the one before.
    assert torch.allclose(found[:3], torch.tensor([1 + 0.75 + 0.0, 2.25, 2.75], dtype=torch.float64))


def test_integrals_converge_with_order_two():
    torch.manual_seed(1)
    net = trained(UNet("circular", "smooth", "average", 2), (16, 16)).double()
    operator = to_neural_operator(net, (16, 16), method="integral")
    with torch.no_grad():
        values = [operator(waves(16 * s)[:1])[..., ::s, ::s] for s in (2, 4, 8, 16)]
    steps = [float((a - b).norm()) for a, b in pairwise(values)]
    assert all(3 < a / b < 5 for a, b in pairwise(steps))
    assert {e.rate for e in operator.report.entries if "hats" in e.rule} == {2.0}


def test_integrals_that_pad_zeros_converge_with_order_one_at_least():
    torch.manual_seed(12)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1)).double()
    operator = to_neural_operator(net, (17, 17), method="integral", grid="vertex")
    values = []
    with torch.no_grad():
        for s in (2, 4, 8):
            x = torch.linspace(0, 1, 16 * s + 1, dtype=torch.float64)
            values.append(operator((1 + x[:, None] * torch.cos(3 * x))[None, None])[..., ::s, ::s])
    first, second = (float((a - b).norm()) for a, b in pairwise(values))
    assert first / second > 1.8
    assert {e.rate for e in operator.report.entries if "hats" in e.rule} == {1.0}


@pytest.mark.parametrize("module", [True, False])
def test_the_spectral_rule_multiplies_by_the_symbol_below_the_native_nyquist(module):
    torch.manual_seed(2)

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3, bias=False)

        def forward(self, x):
            return self.conv(F.pad(x, (1, 1), mode="circular"))

    net = (nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular", bias=False) if module else Padded()).double()
    weight = next(net.parameters())[0, 0].detach()
    x = torch.randn(1, 1, 48, dtype=torch.float64)
    with torch.no_grad():
        found = to_neural_operator(net, (16,), method="spectral")(x)
    m = torch.arange(25, dtype=torch.float64)
    symbol = sum(w * torch.exp(2j * torch.pi * m * t / 16) for w, t in zip(weight, (-1, 0, 1), strict=True))
    expected = torch.fft.irfft(torch.fft.rfft(x) * symbol * (m <= 8), 48)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_paper_rule_resizes_kernels():
    weight = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)[None, None]
    kernel = paper_kernel(weight, (2,))[0, 0]
    # Five points on [0, 3] with half-pixel alignment, at 0.3, 0.9, 1.5, 2.1, 2.7 of cells with centres 0.5, 1.5, 2.5.
    by_hand = torch.tensor([1.0, 1.4, 2.0, 3.2, 4.0], dtype=torch.float64) * 3 / 5
    assert torch.allclose(kernel, by_hand)
    net = nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular", bias=False).double()
    x = torch.randn(1, 1, 32, dtype=torch.float64)
    operator = to_neural_operator(net, (16,), method="paper_rule")
    with torch.no_grad():
        net.weight.copy_(weight)
        dense = F.conv1d(F.pad(x, (2, 2), mode="circular"), kernel[None, None])
        assert torch.allclose(operator(x), dense)
        with pytest.raises(ConversionError, match=r"no kernel for .24,. points"):
            operator(x[..., :24])


@pytest.mark.parametrize("method", ["integral", "spectral", "paper_rule"])
def test_other_methods_run_whole_networks(method):
    torch.manual_seed(3)
    net = trained(UNet("circular", "transposed", "conv", 4))
    operator = to_neural_operator(net, (32, 32), method=method)
    with torch.no_grad():
        assert torch.equal(operator(waves(32).float()), net(waves(32).float()))
        values = {s: operator(waves(32 * s).float())[..., ::s, ::s] for s in (1, 2, 4)}
    steps = [float((values[a] - values[b]).norm() / values[b].norm()) for a, b in ((1, 2), (2, 4))]
    assert all(torch.isfinite(v).all() for v in values.values())
    if method == "spectral":  # resolved data: the answer hardly moves, up to products of activations
        assert steps[0] < 0.1
    if method == "integral":
        assert steps[1] < 0.5 * steps[0]


SUMS = {
    "mixer": lambda: Mixer().smooth(),
    "mixer with as many hidden units as tokens": lambda: Mixer(hidden=64).smooth(),
    "group norm": lambda: Normed("group"),
    "instance norm": lambda: Normed("instance"),
    "layer norm over space": lambda: Normed("layer"),
    "global response norm": lambda: Normed("response"),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_over_space_tend_to_integrals(name):
    torch.manual_seed(4)
    net = SUMS[name]().double().eval()
    operator = to_neural_operator(net, (32, 32))
    with torch.no_grad():
        values = [operator(waves(32 * s))[..., ::s, ::s] for s in (1, 2, 4)]
        assert torch.equal(values[0], net(waves(32)))
    scale = float(values[-1].norm())
    steps = [float((a - b).norm()) / scale for a, b in pairwise(values)]
    # Weights are linear between their nodes, order 2 at worst; moments of resolved fields do not change at all.
    assert all(b < 0.35 * a + 1e-12 for a, b in pairwise(steps))


def test_a_field_made_from_a_code_is_lifted():
    torch.manual_seed(5)
    net = AutoEncoder().double().eval()
    operator = to_neural_operator(net, (16, 16))
    with torch.no_grad():
        fine = operator(waves(64))
        codes = net.encode(waves(16).flatten(1))
    assert fine.shape == (2, 1, 64, 64) and codes.norm() > 0
    back = torch.fft.irfft2(torch.fft.rfft2(fine)[..., :33], (64, 64))
    assert torch.allclose(back, fine)
    assert operator.report.entries


def test_aliasing_is_the_energy_above_the_native_nyquist():
    a = 0.5 * (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    low, high = torch.cos(2 * torch.pi * 6 * a)[None, None], torch.cos(2 * torch.pi * 40 * a)[None, None]
    # On cells cos(2π k x/2) are the cosine modes k; 16 native cells hold modes below 16.
    assert aliasing(3 + 2 * low + high, (16,), ("cell",)) == pytest.approx(1 / 5, abs=1e-12)
    x = torch.arange(64, dtype=torch.float64) / 64
    field = torch.sin(2 * torch.pi * 8 * x) + 3 * torch.sin(2 * torch.pi * 9 * x)
    assert aliasing(field[None, None], (16,), ("periodic",)) == pytest.approx(0.9, abs=1e-12)
    v = torch.arange(65, dtype=torch.float64) / 64
    mixed = torch.cos(torch.pi * 16 * v) + torch.cos(torch.pi * 17 * v)
    assert aliasing(mixed[None, None], (17,), ("vertex",)) == pytest.approx(0.5, abs=1e-9)
    assert aliasing(torch.ones(1, 1, 64), (16,), ("periodic",)) == 0.0


class Strided(nn.Module):
    """Every second sample held: moves by half under a shift."""

    def forward(self, x):
        return F.interpolate(x[..., ::2], scale_factor=2.0, mode="nearest")


def test_equivariance_defect():
    torch.manual_seed(6)
    x = torch.randn(4, 1, 32, dtype=torch.float64)
    smooth = nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular").double()
    assert to_neural_operator(smooth, (32,)).examine(x).equivariance < 1e-14
    held = to_neural_operator(Strided(), (32,)).examine(x)
    even, odd = x[..., ::2], x[..., 1::2]
    # F(T f) holds f at 2i − 1 over 2i and 2i + 1; T F f has f at 2i − 2 and 2i there.
    moved, kept = odd.roll(1, -1), even
    by_hand = ((moved - kept.roll(1, -1)).square().sum() + (moved - kept).square().sum()).sqrt() / (
        2**0.5 * kept.norm()
    )
    assert held.equivariance == pytest.approx(float(by_hand), rel=1e-12)
    assert any("J = " in text for text in held.warnings)
    # A functional has to keep its value.
    mean = nn.Sequential(smooth, nn.AdaptiveAvgPool1d(1), nn.Flatten(1))
    assert to_neural_operator(mean, (32,)).examine(x).equivariance < 1e-14


@pytest.mark.parametrize(("kind", "method"), [("periodic", "point"), ("cell", "lattice"), ("vertex", "point")])
def test_an_example_gives_the_report_before_the_first_call(kind, method):
    torch.manual_seed(7)
    net = trained(UNet("zeros", "nearest", "max", 4))
    operator = to_neural_operator(net, (32, 32), grid=kind, method=method, example=torch.randn(1, 1, 32, 32))
    report = operator.report
    assert report.entries and report.aliasing is not None and report.equivariance > 0
    assert any("zeros" in text for text in report.warnings) == (kind == "periodic")
    assert any("max pooling" in text for text in report.warnings) == (method == "point")
    assert "equivariance defect" in str(report) and report.rows()[0]["operation"]
    loud = operator.examine(torch.randn(1, 1, 96, 96))
    assert any("native Nyquist" in text for text in loud.warnings) and loud.aliasing > 0.5


class OwnPositions(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.conv, self.kind = nn.Conv2d(2, 1, 1), kind

    def forward(self, x):
        n = x.shape[-1]
        i = torch.arange(n, dtype=x.dtype)
        position = {"index": torch.sin(i), "place": i / n, "ends": torch.linspace(0, 1, n), "flat": 0 * i}[self.kind]
        return self.conv(torch.cat([x, position.expand_as(x)], 1)) + position


@pytest.mark.parametrize("kind", ["index", "place", "ends", "flat"])
def test_positions_counted_in_points_do_not_pass_silently(kind):
    torch.manual_seed(8)
    operator = to_neural_operator(OwnPositions(kind), (16, 16))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            operator(torch.randn(1, 1, 32, 32))
    wrong = kind in ("index", "ends")  # both ends do not belong to a periodic axis
    assert len(said) == (2 if wrong else 0)  # cat and add, once
    assert all("(top level)" in str(w.message) and "coordinate" in str(w.message) for w in said)
    assert (len(operator.report.warnings) > 0) == wrong
    noted = [entry for entry in operator.report.entries if "made by the network" in entry.rule]
    assert len(noted) == (0 if kind == "flat" else 2) and all(entry.exact != wrong for entry in noted)


class Neighbours(nn.Module):
    def forward(self, x):
        points = x.flatten(2).transpose(1, 2)
        return torch.cdist(points, points).topk(4, largest=False).values.mean()


class Windows(nn.Module):
    def forward(self, x):
        return x.unfold(2, 4, 4).mean(-1)


class Positions(nn.Module):
    """A table that is longer or shorter than the lattice and cut to the number of tokens."""

    def __init__(self, length):
        super().__init__()
        self.embed, self.table = nn.Conv2d(1, 4, 4, 4), nn.Parameter(torch.randn(1, length, 4))

    def forward(self, x):
        t = self.embed(x).flatten(2).transpose(1, 2)
        return t + self.table[:, : t.shape[1]]


class Double(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1).double()


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.modes = nn.Parameter(torch.randn(3, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Neighbours, r"\(top level\): cdist orders or counts grid points.*within a radius"),
        (Windows, r"\(top level\): unfold cuts windows of a fixed number of points.*convolution"),
        (lambda: Positions(100), r"add meets a tensor of shape \(1, 100, 4\).*8 × 8 points here; give it"),
        (Double, r"lives in 2 precisions .*module\.to\(dtype\)"),
        (Complex, r"modes: complex weights belong to a spectral layer"),
        (
            lambda: torch.ao.nn.quantized.Linear(4, 4),
            r"\(top level\): Linear has quantised weights.*before quantising",
        ),
        (lambda: nn.Conv2d(1, 1, 1).double(), r"input of shape \(1, 1, 64, 64\) is of torch\.float32, the network of"),
        (lambda: nn.Conv2d(1, 1, 1, device="meta"), r"is on cpu, the network on meta"),
    ],
    ids=["neighbours", "windows", "positions", "precisions", "complex", "quantised", "input dtype", "input device"],
)
def test_refusals_name_path_operation_reason_and_remedy(make, message):
    with pytest.raises(ConversionError, match=message):
        to_neural_operator(make(), (32, 32))(torch.randn(1, 1, 64, 64))


def test_a_table_cut_to_the_number_of_tokens_warns():
    with pytest.warns(UserWarning, match=r"add meets values that the network makes from the size of the grid"):
        to_neural_operator(Positions(400), (32, 32))(torch.randn(1, 1, 64, 64))


@pytest.mark.parametrize("shape", [(48, 64), (24, 24), (31, 64)])
def test_without_resampling_other_sizes_are_refused(shape):
    operator = to_neural_operator(nn.Conv2d(1, 1, 1), (32, 32), resampling=False)
    assert operator(torch.randn(1, 1, 64, 32)).shape[-2:] == (64, 32)
    with pytest.raises(ConversionError, match=r"no refinement of the native grid \(32, 32\)"):
        operator(torch.randn(1, 1, *shape))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: to_neural_operator(nn.Conv2d(1, 1, 1), (8, 8), grid="cell", method="spectral"), "needs periodic axes"),
        (
            lambda: to_neural_operator(nn.Conv2d(1, 1, 1), (8, 8), example=torch.ones(1, 1, 9, 8)),
            "example has no field",
        ),
        (lambda: to_neural_operator(nn.Conv2d(1, 1, 1), (8, 8))(torch.ones(8, 8)), "No input has the 2 axes"),
        (
            lambda: to_neural_operator(nn.Conv2d(1, 1, 3, padding=1), (8, 8), method="spectral", example=8),
            "example has no field",
        ),
    ],
    ids=["spectral between walls", "example", "no channels", "no tensor"],
)
def test_bad_calls(call, message):
    with pytest.raises(ConversionError, match=message):
        call()


class PaddedByZeros(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)

    def forward(self, x):
        return self.conv(F.pad(x, (1, 1, 1, 1)))


def test_a_symbol_needs_a_period():
    operator = to_neural_operator(PaddedByZeros(), (8, 8), method="spectral")
    with pytest.raises(ConversionError, match=r"conv: conv2d runs along an axis without a period.*circular"):
        operator(torch.randn(1, 1, 16, 16))


def test_export_at_a_new_resolution():
    torch.manual_seed(9)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.ConvTranspose2d(4, 1, 2, 2),
    ).eval()
    operator = to_neural_operator(net, (32, 32))
    x = torch.randn(2, 1, 64, 96)
    exported = torch.export.export(operator, (x,)).module()
    with torch.no_grad():
        other = torch.randn(2, 1, 64, 96)
        assert torch.equal(exported(other), operator(other))


class PerCase(nn.Module):
    """Tied to its number of cases."""

    def forward(self, x):
        return x - x.mean(0, keepdim=True)


def test_lattices_in_one_batch_have_the_bits_of_single_calls():
    torch.manual_seed(10)
    for net in (trained(UNet("circular", "transposed", "max", 4)), PerCase()):
        operator = to_neural_operator(net, (32, 32), method="lattice")
        with torch.no_grad():
            for _ in range(3):
                x = torch.randn(2, 1, 64, 96)
                y = operator(x)
                for a, b in product(range(2), range(3)):
                    assert torch.equal(y[..., a::2, b::3], net(x[..., a::2, b::3].contiguous()))

"""Other rules of a convolution, diagnostics, refusals, export: `to_neural_operator` beyond the bits of `point`."""

from itertools import pairwise, product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sciops.models.conversion.kernels import hat_kernel, paper_kernel
from sciops.models.conversion.layout import ConversionError
from sciops.models.conversion.operator import to_neural_operator
from tests.models.networks import UNet, trained
from tests.models.test_conversion import waves


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

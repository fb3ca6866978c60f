"""Layers and networks of neuraloperator 2.0.0 that are wrong: ours are right, and the library's still as we say.

Where the library no longer has a defect, its test is skipped and says so. The defects are numbered D1 … D17; those of
its data, losses and training stand in test_neuraloperator_training.py, those around its network (sizes, coordinates,
float64) also in test_fno.py.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from guards import defect, stops
from torch import Tensor, nn

from sciops.core.grid import Grid, PointSet
from sciops.core.interpolate import resample
from sciops.models.conversion.operator import to_neural_operator
from sciops.models.fno import FNO
from sciops.models.function_space import (
    CoordinateEmbedding,
    DifferentialConv,
    HatConv,
    LinearAttention,
    LocalFNO,
    RadiusIntegral,
    SpectralConv,
    UNetOperator,
)

warnings.filterwarnings("ignore", module="neuralop")
needs_harmonics = pytest.mark.skipif(
    importlib.util.find_spec("torch_harmonics") is None, reason="the library's local kernels need torch-harmonics 0.7.4"
)


def waves(n: int, m: int) -> Tensor:
    x = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
    y = 2 * torch.pi * torch.arange(m, dtype=torch.float64) / m
    return (torch.sin(x)[:, None] * torch.cos(2 * y) + torch.cos(2 * x)[:, None])[None, None]


def periodic(*shape: int) -> Grid:
    return Grid.box(shape, layout="periodic")


def moved(coarse: Tensor, fine: Tensor) -> float:
    """How far values on a grid and at the same places on one of half its spacing are apart."""
    return float((fine[..., ::2, ::2] - coarse).norm() / coarse.norm())


def test_spectral_layers_on_odd_sizes_and_in_double_precision() -> None:
    """D1, D9."""
    from neuralop.layers.spectral_convolution import SpectralConv as Library

    def gap(layer: Callable[[Tensor], Tensor]) -> float:
        even, odd = (layer(waves(n, 36)) for n in (36, 33))
        expected = torch.fft.irfft(torch.fft.rfft(even, dim=2)[:, :, :17] * 33 / 36, 33, dim=2)
        return float((odd - expected).norm() / expected.norm())

    ours, theirs = SpectralConv(1, 1, 4).double(), Library(1, 1, (8, 8), bias=False)
    with torch.no_grad():
        assert gap(lambda x: ours(x, periodic(*x.shape[2:]))) < 1e-12
        assert ours(waves(36, 36), periodic(36, 36)).dtype == torch.float64
        defect(gap(lambda x: theirs(x.float())) > 0.1, "D1, the spectral layer on odd sizes,")
        defect(theirs(waves(36, 36)).dtype == torch.float32, "D9, double precision lost without a word,")


def test_local_kernels_wrap_on_grids_that_are_not_square() -> None:
    """D2, our side: the shape is kept and shifts commute."""
    torch.manual_seed(0)
    conv, grid = HatConv(1, 1, 3, (1 / 16, 1 / 12)).double(), periodic(32, 24)
    x = torch.randn(1, 1, 32, 24).double()
    with torch.no_grad():
        y = conv(x, grid)
        assert y.shape == x.shape
        assert torch.allclose(conv(x.roll((5, 3), (2, 3)), grid), y.roll((5, 3), (2, 3)), rtol=0, atol=1e-12)


@needs_harmonics
def test_local_kernels_of_the_library_do_not_wrap() -> None:
    """D2: `periodic` changes no bit, grids that are not square change their shape."""
    from neuralop.layers.discrete_continuous_convolution import EquidistantDiscreteContinuousConv2d as Library

    def made(n: int, m: int, **options: Any) -> nn.Module:
        torch.manual_seed(0)
        return Library(1, 1, (n, m), (n, m), [2, 4], radius_cutoff=0.2, **options)

    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        plain, wrapped = (made(64, 64, periodic=flag)(x) for flag in (False, True))
        defect(torch.equal(plain, wrapped), "D2, a period that is ignored,")
        shifted = made(64, 64, periodic=True)(x.roll(20, 2))
        assert moved(wrapped.roll(20, 2), shifted.repeat_interleave(2, 2).repeat_interleave(2, 3)) > 0.1
        other = made(64, 32)(torch.randn(1, 1, 64, 32))
        defect(tuple(other.shape[2:]) != (64, 32), "D2, another shape on grids that are not square,")


def local_drift(net: Callable[[Tensor], Tensor]) -> list[float]:
    with torch.no_grad():
        values = [net(waves(n, n).float()) for n in (64, 128, 256)]
    return [moved(a, b) for a, b in pairwise(values)]


def test_local_operators_are_made_anew_for_every_grid() -> None:
    """D3, our side: refinement changes the answer at second order."""
    torch.manual_seed(1)
    drift = local_drift(LocalFNO(periodic(64, 64), width=4, layers=1, n_modes=4, local=[0], local_taps=3, lifting=8))
    assert drift[0] < 0.02 and drift[1] < 0.4 * drift[0]


@needs_harmonics
def test_local_operators_of_the_library_keep_their_pixels() -> None:
    """D3: the kernel of the first grid runs on all others."""
    from neuralop.models.local_no import LocalNO

    torch.manual_seed(1)
    options: dict[str, Any] = {"n_layers": 1, "radius_cutoff": 0.1}
    net = LocalNO((8, 8), 1, 1, 8, (64, 64), diff_layers=False, **options)
    drift = local_drift(net)
    defect(drift[1] > 0.5 * drift[0] and drift[0] > 0.01, "D3, local kernels of a fixed number of points,")
    made = LocalNO((8, 8), 1, 1, 8, (64, 64), preactivation=True, **options)
    defect(stops(lambda: made(waves(64, 64).float()), AttributeError), "D3, preactivation,")


def test_differences_at_walls() -> None:
    """D4: zeros behind a wall are a jump, whose derivative grows like 1/h."""
    from neuralop.layers.differential_conv import FiniteDifferenceConvolution

    torch.manual_seed(1)
    ours = DifferentialConv(1, 1).double()
    theirs = FiniteDifferenceConvolution(1, 1, 2, padding="zeros").double()
    largest: dict[str, list[float]] = {"ours": [], "theirs": []}
    with torch.no_grad():
        for n in (17, 33, 65):
            grid = Grid.box((n, n))
            x, y = grid.mesh()
            f = (1 + x + y**2)[None, None]
            largest["ours"].append(float(ours(f, grid).abs().max()))
            largest["theirs"].append(float(theirs(f, 1 / (n - 1)).abs().max()))
    assert largest["ours"][2] < 1.2 * largest["ours"][0]
    defect(largest["theirs"][2] > 3 * largest["theirs"][0], "D4, differences at walls that grow like 1/h,")


def test_resampling_of_periodic_fields() -> None:
    """D5."""
    from neuralop.layers.resample import resample as library

    x, exact = waves(32, 32), waves(64, 64)
    assert (resample(x, periodic(32, 32), periodic(64, 64)) - exact).norm() < 1e-10 * exact.norm()
    defect((library(x, 2, [2, 3]) - exact).norm() > 0.03 * exact.norm(), "D5, resampling of the first order,")


def test_attention_with_weights() -> None:
    """D6: splitting a point into two of half the weight changes nothing; queries may be other points."""
    from neuralop.layers.attention_kernel_integral import AttentionKernelIntegral

    torch.manual_seed(2)
    x, w = torch.randn(1, 6, 8), torch.rand(6)
    index = torch.tensor([0, 0, 1, 2, 3, 4, 5])
    half = w.clone()
    half[0] /= 2
    ours, points = LinearAttention(8, heads=2), torch.rand(6, 1)
    theirs, place = AttentionKernelIntegral(8, 8, 2, 4), points[None]
    with torch.no_grad():
        a = ours(x.mT.contiguous(), PointSet(points, w))
        b = ours(x[:, index].mT.contiguous(), PointSet(points[index], half[index]))
        assert torch.allclose(a, b[..., 1:], rtol=0, atol=1e-5)
        a = theirs(x, place, weights=w[None])
        b = theirs(x[:, index], place[:, index], weights=half[index][None])
        defect((a - b[:, 1:]).abs().max() > 0.05 * a.abs().max(), "D6, weights outside the sum over the source,")
        crossed = lambda: theirs(x, place, u_qry=x[:, :4], pos_qry=place[:, :4], weights=w[None])  # noqa: E731
        defect(stops(crossed, RuntimeError), "D6, weights that count queries,")


def test_messages_do_not_grow_with_the_number_of_points() -> None:
    """D7."""
    from neuralop.layers.gno_block import GNOBlock

    torch.manual_seed(3)
    theirs = GNOBlock(1, 1, 2, 0.25, use_torch_scatter_reduce=False, use_open3d_neighbor_search=False)
    ours = RadiusIntegral(1, 1, 0.25)
    target = torch.tensor([[0.5, 0.5]])
    found: dict[str, list[float]] = {"ours": [], "theirs": []}
    with torch.no_grad():
        for n in (16, 32):
            grid = Grid.box((n, n), layout="cell")
            points = grid.points(torch.float32)
            found["theirs"].append(float(theirs(points, target, torch.ones(n * n, 1))))
            at = PointSet(target, torch.ones(1))
            found["ours"].append(float(ours(torch.ones(1, 1, n, n), grid, at)))
    assert found["ours"][1] == pytest.approx(found["ours"][0], rel=0.05)
    defect(found["theirs"][1] == pytest.approx(4 * found["theirs"][0], rel=0.2), "D7, a sum without weights,")


def test_coordinates_of_node_grids_reach_the_end() -> None:
    """D8."""
    from neuralop.layers.embeddings import GridEmbedding2D

    ours = CoordinateEmbedding.of(Grid.box((5, 5)))(torch.zeros(1, 1, 5, 5), Grid.box((5, 5)))
    assert ours[:, 1:].max() == 1.0
    defect(GridEmbedding2D(1)(torch.zeros(1, 1, 5, 5))[:, 1:].max() < 0.9, "D8, coordinates without the last end,")


def test_widths_may_change_between_levels_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """D14."""
    from neuralop.models import UNO

    torch.manual_seed(6)
    x = waves(32, 32).float()
    with torch.no_grad():
        ours = UNetOperator(periodic(32, 32), width=4, multipliers=(1, 2, 3), taps=3)
        assert moved(ours(x), ours(waves(64, 64).float(), periodic(64, 64))) < 0.05
        assert capsys.readouterr() == ("", "")
        options: dict[str, Any] = {
            "uno_out_channels": [4, 8, 4],
            "uno_n_modes": [[4, 4]] * 3,
            "uno_scalings": [[1.0, 1.0], [0.5, 0.5], [2.0, 2.0]],
        }
        stopped = stops(lambda: UNO(1, 1, 4, n_layers=3, **options)(x), RuntimeError, ValueError, AssertionError)
        defect(stopped, "D14, widths that have to be equal,")
        assert UNO(1, 1, 4, n_layers=3, channel_mlp_skip="linear", **options)(x).shape == x.shape
    defect("skip=" in capsys.readouterr().out, "D14, lines printed while a network is made,")


class Branching(nn.Module):
    """Python decides by the shape of the input, as the library's network does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + x if y.shape[1:] == x.shape[1:] and all(n > 4 for n in x.shape[2:]) else y


def test_networks_that_cannot_be_traced_are_exported_and_converted() -> None:
    """D16: torch.fx cannot trace the library's network; export and interception need no trace."""
    torch.manual_seed(8)
    model, x = FNO(width=4, n_modes=2, layers=1).eval(), torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), model(x))
        net, fine = Branching(), torch.randn(1, 1, 32, 48)
        native = fine[..., ::2, ::3].contiguous()
        assert torch.equal(to_neural_operator(net, (16, 16))(fine)[..., ::2, ::3], net(native))
    traced = (torch.fx.proxy.TraceError, TypeError, RuntimeError)
    assert stops(lambda: torch.fx.symbolic_trace(Branching()), *traced)
    defect(stops(lambda: torch.fx.symbolic_trace(model.net), *traced), "D16, a network that torch.fx cannot trace,")


def test_local_layers_need_no_further_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """D17: without torch-harmonics the library's stop with a NameError."""
    monkeypatch.setitem(sys.modules, "torch_harmonics", None)
    local = ("neuralop.layers.local_no_block", "neuralop.layers.discrete_continuous_convolution")
    for name in (*local, *(m for m in sys.modules if m.startswith("torch_harmonics."))):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert HatConv(1, 1, 3, 0.1)(torch.ones(1, 1, 8, 8), periodic(8, 8)).shape == (1, 1, 8, 8)
    for name in local:
        defect(stops(lambda name=name: importlib.import_module(name), NameError), f"D17, {name},")

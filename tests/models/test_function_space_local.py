"""Layers with a physical reach: kernels, differences, windows, synthesis, spectra."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.models.function_space import DifferentialConv, HatConv, PhysicalPool, SharpTranspose, SpectralConv
from sciops.models.function_space.pooling import to_lattice
from sciops.models.vcycle import convolve, convolve_transposed

KINDS = ("node", "cell", "periodic")


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# HatConv


@pytest.mark.parametrize("taps", range(1, 10))
def test_hats_keep_the_sum_of_the_taps(taps: int) -> None:
    conv = HatConv(1, 1, taps, 0.1, ndim=1).double()
    for s in (0.4, 1, 1.7, 2, 3, 4, 5, 6, 7, 8):
        grid = Grid.box(round(10 * s), upper=round(10 * s) * 0.1 / s, layout="periodic")
        torch.testing.assert_close(conv.stencil(grid).sum(), conv.weight.sum(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_hat_conv_is_the_convolution_at_its_spacing(ndim: int) -> None:
    grid = Grid.box((8, 7, 6)[:ndim], upper=[0.1 * n for n in (8, 7, 6)[:ndim]], layout="periodic")
    conv = HatConv(4, 6, 3, 0.1, ndim=ndim, groups=2).double()
    x = random(2, 4, *grid.shape)
    want = convolve[ndim](F.pad(x, (1, 1) * ndim, mode="circular"), conv.weight, conv.bias, groups=2)
    torch.testing.assert_close(conv(x, grid), want)


def test_hat_conv_is_the_closed_form_on_a_wave() -> None:
    """∫ K(z) e^{iξz} dz = Σ_k w_k e^{iξkH} sinc²(ξH/2); the grid sum differs by the aliases, O((h/H)²)."""
    H, xi = 1 / 8, 2 * math.pi * 2
    conv = HatConv(1, 1, 5, H, ndim=1, bias=False).double()
    z = (torch.arange(5) - 2) * H
    symbol = (conv.weight[0, 0] * torch.exp(1j * xi * z)).sum() * torch.special.sinc(
        torch.tensor(xi * H / 2 / math.pi)
    ) ** 2
    errors = []
    for n in (16, 32, 64, 128):
        grid = Grid.box(n, layout="periodic")
        x = grid.points()[:, 0]
        got = conv(torch.cos(xi * x)[None, None], grid)[0, 0]
        errors.append((got - (symbol * torch.exp(1j * xi * x)).real).abs().max().item())
    assert errors[-1] < 2e-3
    assert all(3.6 < a / b < 4.4 for a, b in itertools.pairwise(errors))


@pytest.mark.parametrize("extension", ["even", "odd", "zeros"])
@pytest.mark.parametrize("kind", KINDS)
def test_hat_conv_has_one_limit_up_to_the_walls(kind: str, extension: str) -> None:
    conv = HatConv(2, 3, 3, 1 / 6, ndim=1, extension=extension).double()
    values = []
    for n in (36, 108, 324):
        grid = Grid.box(n + 1 if kind == "node" else n, layout=kind)
        x = grid.points()[:, 0]
        f = torch.stack([torch.sin(math.pi * x), torch.sin(2 * math.pi * x)])[None]
        y = conv(f, grid)
        step = n // 36
        values.append(y[..., step // 2 :: step] if kind == "cell" else y[..., ::step])
    first, second = (values[0] - values[1]).abs().max(), (values[1] - values[2]).abs().max()
    assert second < 2e-3 and first / second > 7.5  # order 2 by thirds is 9


@pytest.mark.parametrize("kind", KINDS)
def test_constants_are_preserved(kind: str) -> None:
    grid = Grid.box((9, 13), layout=kind, upper=(1.0, 2.0))
    one = torch.ones(1, 1, *grid.shape, dtype=torch.float64)
    conv = HatConv(1, 1, 4, 0.17, bias=False).double()
    torch.testing.assert_close(conv(one, grid), one * conv.weight.sum())
    for reduction in ("mean", "max"):
        torch.testing.assert_close(
            PhysicalPool((0.3, 0.77), reduction)(one, grid, grid.resized((4, 5))), 1 + 0 * one[..., :4, :5]
        )
    for order in (1, 2):
        assert DifferentialConv(1, 1, order=order).double()(one, grid).abs().max() < 1e-10


def test_hat_conv_commutes_with_shifts_and_mirrors() -> None:
    """Periodic means periodic, rectangles keep their shape, a wide kernel wraps more than once."""
    conv = HatConv(1, 1, 5, 0.3).double()
    grid = Grid.box((12, 7), layout="periodic")
    x = random(1, 1, 12, 7)
    torch.testing.assert_close(conv(x.roll((3, 2), (2, 3)), grid), conv(x, grid).roll((3, 2), (2, 3)))
    cell = Grid.box((8, 6), layout="cell")
    whole = Grid((16, 12), (0.0, 0.0), (2.0, 2.0), ("periodic", "periodic"))
    y = random(1, 1, 8, 6)
    mirrored = torch.cat([torch.cat([y, y.flip(2)], 2), torch.cat([y, y.flip(2)], 2).flip(3)], 3)
    torch.testing.assert_close(conv(y, cell), conv(mirrored, whole)[..., :8, :6])


# DifferentialConv


@pytest.mark.parametrize("accuracy", [1, 2])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_differences_converge_to_the_derivative_up_to_the_walls(kind: str, order: int, accuracy: int) -> None:
    torch.manual_seed(0)
    conv = DifferentialConv(1, 1, order=order, accuracy=accuracy).double()
    c = conv.coefficients()[0, 0]
    w = 2 * math.pi
    errors = []
    for n in (32, 64, 128):
        grid = Grid.box((n, n // 2), layout=kind, upper=(1.0, 2.0))
        x, y = grid.mesh()
        f = torch.sin(w * x) * torch.cos(w / 2 * y)
        dx, dy = w * torch.cos(w * x) * torch.cos(w / 2 * y), -w / 2 * torch.sin(w * x) * torch.sin(w / 2 * y)
        if order == 1:
            want = c[0] * dx + c[1] * dy
        else:
            dxy = -(w**2) / 2 * torch.cos(w * x) * torch.sin(w / 2 * y)
            want = -c[0] * w**2 * f + c[1] * dxy - c[2] * (w / 2) ** 2 * f
        errors.append((conv(f[None, None], grid)[0, 0] - want).abs().max().item() / want.abs().max().item())
    rates = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert min(rates) > accuracy - 0.3, (errors, rates)


@pytest.mark.parametrize(("order", "ndim"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_differences_are_exact_on_polynomials_with_other_aspect_ratios(order: int, ndim: int) -> None:
    conv = DifferentialConv(1, 2, ndim=ndim, order=order).double()
    grid = Grid.box((7, 9, 6)[:ndim], upper=(1.0, 3.0, 0.4)[:ndim])
    mesh = grid.mesh()
    for i, alpha in enumerate(conv.exponents):
        f = math.prod(m**a for m, a in zip(mesh, alpha, strict=True))
        value = math.prod(math.factorial(a) for a in alpha) * conv.coefficients()[:, 0, i]
        assert isinstance(f, Tensor)
        got = conv(f[None, None], grid)[0]
        torch.testing.assert_close(got, value.view(-1, *(1,) * ndim).expand_as(got), rtol=1e-9, atol=1e-9)


def test_published_stencil_is_the_weight_minus_its_mean() -> None:
    conv = DifferentialConv(2, 2, order=1, accuracy=1).double()
    grid = Grid.box(10, layout="periodic", ndim=2)
    want = (conv.weight - conv.weight.mean((2, 3), keepdim=True)) * 10
    torch.testing.assert_close(conv.stencil(grid), want)


# PhysicalPool


@pytest.mark.parametrize("kind", KINDS)
def test_window_means_are_integrals(kind: str) -> None:
    """∫ over [y − W/2, y + W/2] ∩ D of sin, in closed form; order 2 for a width that is no multiple of h."""
    pool, errors = PhysicalPool(0.23), []
    target = Grid.box(11, layout=kind)
    y, w = target.points()[:, 0], 2 * math.pi
    low, high = y - 0.115, y + 0.115
    if kind != "periodic":
        low, high = low.clamp(min=0), high.clamp(max=1)
    want = (torch.cos(w * low) - torch.cos(w * high)) / (w * (high - low))
    for n in (50, 100, 200, 400):
        grid = Grid.box(n, layout=kind)
        errors.append((pool(torch.sin(w * grid.points()[:, 0])[None, None], grid, target) - want).abs().max().item())
    assert errors[-1] < 2e-4 and errors[0] / errors[-1] > 30


def test_cell_means_of_a_lattice_are_average_pooling() -> None:
    grid = Grid.box((12, 8), layout="cell")
    x = random(2, 3, 12, 8)
    torch.testing.assert_close(to_lattice(x, grid, grid.resized((4, 2))), F.avg_pool2d(x, (3, 4)))
    torch.testing.assert_close(PhysicalPool(0.25, "max")(x, grid, grid.resized(4)), F.max_pool2d(x, (3, 2)))
    odd = Grid.box((11, 5, 7), layout="cell")
    z = random(1, 1, 11, 5, 7)
    want = F.adaptive_avg_pool3d(z, 1)
    torch.testing.assert_close(to_lattice(z, odd, odd.resized(2)).mean((2, 3, 4), keepdim=True), want)


def test_window_maxima_converge_and_wrap() -> None:
    grid = Grid.box(16, layout="periodic")
    x = random(1, 1, 16)
    got = PhysicalPool(2.01 / 16, "max")(x, grid)
    torch.testing.assert_close(got, torch.maximum(torch.maximum(x, x.roll(1, 2)), x.roll(-1, 2)))
    fine = grid.refined(8)
    f = torch.sin(2 * math.pi * fine.points()[:, 0])[None, None]
    y = grid.points()[:, 0]
    peak = torch.where(
        (y - 0.25).abs() <= 0.15, 1.0, torch.sin(2 * math.pi * (y - 0.15)).maximum(torch.sin(2 * math.pi * (y + 0.15)))
    )
    assert (PhysicalPool(0.3, "max")(f, fine, grid)[0, 0] - peak).abs().max() < 2 * math.pi / 128


# SharpTranspose


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_sharp_phases_are_the_transposed_convolution_at_its_spacing(ndim: int) -> None:
    grid = Grid.box((4, 5, 3)[:ndim], layout="cell", upper=[0.5 * n for n in (4, 5, 3)[:ndim]])
    x = random(2, 3, *grid.shape)
    for k, r, p in ((2, 2, 0), (4, 2, 1), (3, 3, 0), (5, 3, 1)):
        conv = SharpTranspose(3, 2, k, r, 0.5, ndim=ndim, padding=p).double()
        want = convolve_transposed[ndim](x, conv.weight, conv.bias, stride=r, padding=p)
        assert all(a == b for a, b in zip(want.shape[2:], grid.refined(r).shape, strict=True))
        torch.testing.assert_close(conv(x, grid), want)


@pytest.mark.parametrize("kind", KINDS)
def test_sharp_phases_nest_and_converge(kind: str) -> None:
    conv = SharpTranspose(1, 2, 4, 2, 1 / 6, ndim=1, padding=1, extension="even").double()
    native, values = Grid.box(7 if kind == "node" else 6, layout=kind), []
    target = native.refined(2)
    for s in (1, 3, 9, 27):
        grid = native.refined(s)
        f = torch.cos(2 * math.pi * grid.points()[:, 0] + (0.4 if kind == "periodic" else 0.0))[None, None]
        values.append(conv(f, grid, target))
        dense = conv(f, grid)
        shared = dense[..., s // 2 :: s] if kind == "cell" else dense[..., ::s]
        torch.testing.assert_close(shared, values[-1])
    assert (values[0] - values[-1]).abs().max() < 1e-12
    between = []
    for s in (3, 9, 27):
        grid = native.refined(s)
        f = torch.cos(2 * math.pi * grid.points()[:, 0] + (0.4 if kind == "periodic" else 0.0))[None, None]
        between.append(conv(f, grid, native.refined(10)))
    first, second = (between[0] - between[1]).abs().max(), (between[1] - between[2]).abs().max()
    assert second < 2e-3 and first / second > 7.5


# SpectralConv


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(17,), (16, 15), (15, 16), (15, 17), (9, 8, 7)])
def test_spectral_layer_means_the_same_on_odd_and_even_grids(kind: str, shape: tuple[int, ...]) -> None:
    """A band-limited field: the answer on every size is the same function to rounding, in double precision."""
    ndim = len(shape)
    conv = SpectralConv(2, 2, 3, ndim=ndim).double()
    grid, fine = Grid.box(shape, layout=kind), Grid.box(shape, layout=kind).refined(3)

    def field(g: Grid) -> Tensor:
        waves = [(torch.cos((2 if kind == "periodic" else 1) * math.pi * m)) for m in g.mesh()]
        f = math.prod(1 + w for w in waves)
        assert isinstance(f, Tensor)
        return torch.stack([f, waves[0]])[None]

    shared = conv(field(fine), fine)[(..., *(slice(1 if kind == "cell" else 0, None, 3),) * ndim)]
    torch.testing.assert_close(conv(field(grid), grid), shared, rtol=1e-11, atol=1e-11)
    assert shared.std() > 1e-2


def test_spectral_layer_is_its_symbol() -> None:
    conv = SpectralConv(1, 1, 4, ndim=2).double()
    grid = Grid.box((11, 8), layout="periodic")
    x, y = grid.mesh()
    for kx, ky in ((0, 0), (2, 1), (-3, 2), (1, 3)):
        r = torch.view_as_complex(conv.weight)[0, 0, kx, ky]
        angle = 2 * math.pi * (kx * x + ky * y)
        got = conv(torch.cos(angle)[None, None], grid)[0, 0]
        torch.testing.assert_close(got, (r * torch.exp(1j * angle)).real)
    high = conv(torch.cos(2 * math.pi * 4 * x)[None, None], grid)
    assert high.abs().max() < 1e-12


def test_single_precision_devices_and_gradients() -> None:
    grid = Grid.box((6, 9), layout="cell")
    for net in (
        HatConv(2, 2, 3, 0.2),
        DifferentialConv(2, 2),
        SpectralConv(2, 2, 3),
        SharpTranspose(2, 2, 2, 2, 1 / 3),
    ):
        x = random(1, 2, 6, 9).float().requires_grad_()
        y = net(x, grid)
        assert y.dtype == torch.float32
        y.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        on_meta = net.to("meta")(x.detach().to("meta"), grid)
        assert on_meta.device.type == "meta" and on_meta.shape == y.shape


def test_refusals_say_what_to_do() -> None:
    x, grid = random(1, 2, 5, 5), Grid.box(5, ndim=2)
    for net in (HatConv(2, 2, 3, 0.2), DifferentialConv(2, 2), SpectralConv(2, 2), SharpTranspose(2, 2, 2, 2, 0.25)):
        with pytest.raises(UsageError, match="they must match"):
            net.double()(x, Grid.box(6, ndim=2))
        with pytest.raises(UsageError, match="built for ndim=2"):
            net(x[..., 0], Grid.box(5))
    with pytest.raises(UsageError, match="needs 4 points"):
        DifferentialConv(2, 2, order=2).double()(x[..., :3], Grid.box((5, 3)))
    with pytest.raises(UsageError, match="longer than the period"):
        PhysicalPool(1.5)(x, Grid.box(5, ndim=2, layout="periodic"))
    with pytest.raises(UsageError, match="whole number of spacings"):
        SharpTranspose(2, 2, 2, 2, 0.3).double()(x, Grid.box(5, ndim=2, layout="periodic"))
    with pytest.raises(UsageError, match="the boxes and periodic axes"):
        PhysicalPool(0.5)(x, grid, Grid.box(5, ndim=2, upper=2.0))
    with pytest.raises(UsageError, match="groups must divide"):
        HatConv(3, 2, 3, 0.1, groups=2)

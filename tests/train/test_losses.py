"""Losses against NumPy formulas, their invariances, and what autocast must not touch."""

import numpy as np
import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.metrics.sobolev import relative_h1, truncated_fourier_h1
from sciops.train.losses import AbsoluteH1, Loss, RelativeH1, RelativeH1FFT, RelativeL2

LOSSES = (RelativeL2, RelativeH1FFT, RelativeH1, AbsoluteH1)


def pair(shape: tuple[int, ...], channels: int = 1, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn((3, channels, *shape), generator=generator, dtype=dtype) for _ in range(2))


def numpy_h1_fft(p: np.ndarray, y: np.ndarray, cut: int = 20) -> float:
    """The published formula with the full FFT and explicit wavenumbers, summed over cases."""
    n, m = y.shape[-2:]
    kx, ky = np.fft.fftfreq(n, 1 / n), np.fft.fftfreq(m, 1 / m)
    kx, ky = np.where(abs(kx) >= cut, 0, kx), np.where(abs(ky) >= cut, 0, ky)
    w = np.sqrt(1 + kx[:, None] ** 2 + ky[None, :] ** 2)
    return sum(
        np.linalg.norm(w * np.fft.fft2(a - b)) / np.linalg.norm(w * np.fft.fft2(b)) for a, b in zip(p, y, strict=True)
    )


@pytest.mark.parametrize("shape", [(48, 50), (45, 47), (16, 21), (10, 10)])
def test_h1_fft_is_the_published_formula(shape: tuple[int, int]) -> None:
    p, y = pair(shape)
    found = RelativeH1FFT()(p, y, Grid.box(shape))
    assert float(found) == pytest.approx(numpy_h1_fft(p[:, 0].numpy(), y[:, 0].numpy()), rel=1e-12)


def test_h1_fft_counts_wavenumbers_from_the_cut_on_as_zero() -> None:
    """A difference at k = 25 weighs as one at k = 0; one at k = 5 weighs sqrt(26) times as much."""
    x = torch.arange(64, dtype=torch.float64) / 64
    y = torch.ones(1, 1, 64, 64, dtype=torch.float64)
    grid = Grid.box((64, 64), layout="periodic")
    values = [float(RelativeH1FFT()(y + torch.cos(2 * torch.pi * k * x)[:, None], y, grid)) for k in (0, 5, 19, 20, 25)]
    assert values[0] == pytest.approx(1.0)
    half = 0.5**0.5
    assert values[1:] == pytest.approx([half * 26**0.5, half * 362**0.5, half, half])


def test_relative_l2_and_reductions() -> None:
    p, y = pair((7, 9), channels=2)
    each = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(p.numpy(), y.numpy(), strict=True)]
    grid = Grid.box((7, 9))
    assert float(RelativeL2("sum")(p, y, grid)) == pytest.approx(sum(each))
    assert float(RelativeL2("mean")(p, y, grid)) == pytest.approx(sum(each) / 3)
    with pytest.raises(UsageError, match="reduction must be one of sum, mean; got 'avg'"):
        RelativeL2("avg")


@pytest.mark.parametrize("layout", ["node", "cell", "periodic"])
def test_true_h1_is_the_metric(layout: str) -> None:
    grid = Grid.box((12, 15), upper=(1.0, 2.0), layout=layout)
    p, y = pair(grid.shape, channels=2)
    metric = relative_h1(Field.steady(p, grid, ("u", "v")), Field.steady(y, grid, ("u", "v")))
    assert torch.allclose(RelativeH1().per_case(p, y, grid), metric, rtol=1e-12)
    single = truncated_fourier_h1(Field.steady(p, grid, ("u", "v")), Field.steady(y, grid, ("u", "v")))
    assert torch.allclose(RelativeH1FFT().per_case(p, y, grid), single, rtol=1e-12)


def test_true_h1_against_a_closed_form() -> None:
    """u = sin(2πx): ∫u² = 1/2, ∫u′² = 2π²; error 0.1·cos(2πx) has the same norms times 0.1."""
    grid = Grid.box((32, 8), layout="periodic")
    x = grid.mesh()[0][None, None]
    y = torch.sin(2 * torch.pi * x)
    assert float(RelativeH1()(y + 0.1 * torch.cos(2 * torch.pi * x), y, grid)) == pytest.approx(0.1, rel=1e-12)


def test_absolute_h1_against_numpy() -> None:
    p, y = pair((11, 13))
    e = (p - y)[:, 0].numpy()
    gradients = np.gradient(e, 1 / 11, 1 / 13, axis=(1, 2), edge_order=2)
    expected = np.sqrt((10 * e**2 + sum(g**2 for g in gradients)).sum((1, 2))).mean()
    assert float(AbsoluteH1()(p, y, Grid.box((11, 13)))) == pytest.approx(expected)


@pytest.mark.parametrize("cls", LOSSES)
def test_zero_at_the_truth_and_scaling(cls: type[Loss]) -> None:
    grid = Grid.box((9, 10))
    p, y = pair(grid.shape)
    loss = cls()
    assert float(loss(y, y, grid)) == 0
    power = 1 if cls is AbsoluteH1 else 0
    assert float(loss(5 * p, 5 * y, grid)) == pytest.approx(5**power * float(loss(p, y, grid)))
    one = sum(float(cls("sum")(p[i : i + 1], y[i : i + 1], grid)) for i in range(3))
    assert float(cls("sum")(p, y, grid)) == pytest.approx(one)


@pytest.mark.parametrize("cls", LOSSES)
def test_loss_ignores_autocast_and_keeps_float64(cls: type[Loss]) -> None:
    grid = Grid.box((16, 16))
    p, y = pair(grid.shape, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cls()(p, y, grid)
        half = cls()(p.bfloat16(), y, grid)
    assert inside.dtype == half.dtype == torch.float32
    assert float(inside) == float(cls()(p, y, grid))
    assert cls()(p.double(), y.double(), grid).dtype == torch.float64


@pytest.mark.parametrize("cls", LOSSES)
def test_gradient(cls: type[Loss]) -> None:
    grid = Grid.box((5, 6))
    p, y = pair(grid.shape)
    assert torch.autograd.gradcheck(lambda u: cls()(u, y, grid), p.requires_grad_())

"""Regression by sparse spectral mixtures: judged by held-out points, known lines, and the exact conditional mean."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.slim_kl.protocol import Settings
from sciops.numerics.slim_kl.quantise import Quantiser
from sciops.solvers.slim_kl import SlimKL

FREQUENCIES = (0.05, 0.23)


def data(noise: float = 0.04, n: int = 240, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x in steps of 0.5 from 7 on, y with two lines and a mean, and the signal without noise."""
    x = 7 + 0.5 * torch.arange(n, dtype=torch.float64)
    signal = 3 + 2 * torch.sin(2 * math.pi * 0.05 * x) + torch.cos(2 * math.pi * 0.23 * x + 1)
    white = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, signal + noise**0.5 * white, signal


@pytest.mark.parametrize("workers, noise, prediction", [(1, "estimate", "global"), (4, 0.04, "fusion")])
def test_lines_gaps_and_bands(workers: int, noise: float | str, prediction: str) -> None:
    x, y, signal = data()
    held = torch.zeros(len(x), dtype=torch.bool)
    held[80:100] = held[200:] = True  # a gap, and a stretch beyond the data
    model = SlimKL(workers=workers, noise=noise, prediction=prediction, settings=Settings(rho=1.0))
    model.fit(x[~held], y[~held])
    fitted = model.fitted
    assert fitted is not None and fitted.converged
    lines = fitted.frequencies[fitted.support(1e-2), 0]
    cell = float(fitted.frequencies[1, 0])
    for wanted in FREQUENCIES:
        assert float((lines - wanted).abs().min()) <= 2 * cell
    strong = fitted.theta[fitted.support()].sum()
    assert float(strong) == pytest.approx(2.5, rel=0.6)  # 2²/2 + 1²/2
    assert 0.01 < fitted.noise < 0.16
    mean, std = model.predict(x[held])
    assert float((mean - signal[held]).square().mean() / signal.var()) < 0.03
    inside = float(((mean - y[held]).abs() < 1.96 * std).double().mean())
    assert inside > 0.85
    _, narrow = model.predict(x[held], of="function")
    torch.testing.assert_close(std.square() - narrow.square(), torch.full_like(std, fitted.noise), rtol=1e-9, atol=0)
    if workers > 1:
        assert fitted.consensus is not None
        assert max(r.bytes for r in fitted.consensus.rounds) < 2048


def test_prediction_is_the_conditional_of_the_kernel_in_its_definition() -> None:
    x, y, _ = data(n=60)
    model = SlimKL(count=80, noise=0.04).fit(x, y)
    fitted = model.fitted
    assert fitted is not None
    at = torch.tensor([7.3, 20.0, 40.0], dtype=torch.float64)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        lag = (a[:, None] - b[None])[..., None]
        envelope = torch.exp(-2 * math.pi**2 * 1e-3**2 * (lag / 0.5).square())
        return (fitted.theta * envelope * torch.cos(2 * math.pi * fitted.frequencies[:, 0] * lag)).sum(-1)

    C = kernel(x, x) + fitted.noise * torch.eye(60, dtype=torch.float64)
    gain = torch.linalg.solve(C, kernel(x, at)).T
    mean, std = model.predict(at, of="function")
    torch.testing.assert_close(mean, y.mean() + gain @ (y - y.mean()), rtol=1e-8, atol=1e-8)
    variance = kernel(at, at).diagonal() - (gain * kernel(at, x)).sum(1)
    torch.testing.assert_close(std.square(), variance, rtol=1e-6, atol=1e-9)


def test_units_do_not_matter() -> None:
    x, y, _ = data(n=100)
    one = SlimKL(count=60, noise=0.04).fit(x, y)
    other = SlimKL(count=60, noise=0.04 * 25).fit(1000 * x - 3, 5 * y + 2)
    a, b = one.predict(x + 0.2), other.predict(1000 * (x + 0.2) - 3)
    torch.testing.assert_close(5 * a[0] + 2, b[0], rtol=1e-8, atol=1e-7)
    torch.testing.assert_close(5 * a[1], b[1], rtol=1e-6, atol=1e-8)


def test_two_axes() -> None:
    random = torch.Generator().manual_seed(0)
    X = torch.rand(300, 2, generator=random, dtype=torch.float64)
    signal = torch.sin(2 * math.pi * (3 * X[:, 0] + 1)) * torch.cos(2 * math.pi * 5 * X[:, 1])
    y = signal + 0.05 * torch.randn(300, generator=random, dtype=torch.float64)
    model = SlimKL(noise=0.0025).fit(X[:240], y[:240])
    mean, std = model.predict(X[240:])
    assert float((mean - y[240:]).square().mean() / y[240:].var()) < 0.05
    assert float(((mean - y[240:]).abs() < 1.96 * std).double().mean()) > 0.8
    assert model.fitted is not None
    strongest = model.fitted.frequencies[model.fitted.theta.argmax()]
    assert bool(((strongest - torch.tensor([3.0, 5.0])).abs() < 0.5).all())  # cells are 0.6 wide


def test_coarse_steps_that_do_not_settle_are_reported() -> None:
    x, y, _ = data()
    coarse = Settings(Quantiser(0.1, relative=False, differences=False), rho=1.0, rounds=5)
    with pytest.warns(UserWarning, match="had not settled after 5 rounds"):
        model = SlimKL(count=100, workers=4, noise=0.04, settings=coarse).fit(x, y)
    assert model.fitted is not None and not model.fitted.converged
    assert model.fitted.rounding > 0


def test_bad_input_is_refused_in_a_sentence() -> None:
    x, y, _ = data(n=50)
    with pytest.raises(UsageError, match="before fit"):
        SlimKL().predict(x)
    with pytest.raises(UsageError, match="50 rows and y 49 values"):
        SlimKL().fit(x, y[:-1])
    with pytest.raises(UsageError, match="finite"):
        SlimKL().fit(x, y * torch.nan)
    with pytest.raises(UsageError, match="equal"):
        SlimKL().fit(x, torch.ones_like(y))
    with pytest.raises(UsageError, match="one value only"):
        SlimKL().fit(torch.ones_like(x), y)
    with pytest.raises(UsageError, match="use fewer workers"):
        SlimKL(workers=10).fit(x, y)
    with pytest.raises(UsageError, match="'estimate' or a variance"):
        SlimKL(noise="guess").fit(x, y)
    with pytest.raises(UsageError, match="least_noise"):
        SlimKL(settings=Settings(least_noise=1e-3)).fit(x, y)
    with pytest.raises(UsageError, match="variance above 0"):
        SlimKL(noise=0.0).fit(x, y)
    with pytest.raises(UsageError, match="split"):
        SlimKL(split="halves").fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="promoted"):
            SlimKL().fit(x.float(), y)
    model = SlimKL(count=20, noise=0.04).fit(x, y)
    with pytest.raises(UsageError, match="2 axes, the fit had 1"):
        model.predict(torch.rand(3, 2, dtype=torch.float64))
    with pytest.raises(UsageError, match="of='mean'"):
        model.predict(x, of="mean")

"""Vorticity on the torus: the quadratic term, exact modes, orders in time, budgets, invariants, bits."""

import math
from itertools import pairwise

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.numerics.vorticity import Vorticity, _real


def mesh(shape):
    x, y = (torch.arange(n, dtype=torch.float64) / n for n in shape)
    return torch.meshgrid(x, y, indexing="ij")


def random_flow(shape, n=2, highest=4, seed=0, size=1.0):
    """Smooth random vorticity without mean, modes up to `highest`."""
    x, y = mesh(shape)
    draw = torch.Generator().manual_seed(seed)
    w = torch.zeros(n, *shape, dtype=torch.float64)
    for kx in range(-highest, highest + 1):
        for ky in range(highest + 1):
            if kx or ky:
                a, phase = torch.randn(2, n, 1, 1, generator=draw, dtype=torch.float64)
                w += a / (kx**2 + ky**2) * torch.cos(2 * math.pi * (kx * x + ky * y) + phase)
    return size * w


def force(shape):
    x, y = mesh(shape)
    return 0.1 * (torch.sin(2 * math.pi * (x + y)) + torch.cos(2 * math.pi * (x + y)))


def complexes(v):
    return torch.view_as_complex(v.unflatten(-1, (-1, 2)))


@pytest.mark.parametrize("shape", [(24, 24), (30, 21), (17, 32)])
def test_the_quadratic_term_is_that_of_the_advective_form_without_aliasing(shape):
    """−(u ∂_x ω + v ∂_y ω) by complex transforms on twice the points, where nothing aliases."""
    flow, fine = Vorticity(shape, 0.0, force(shape)), [2 * n for n in shape]
    hat = flow.spectrum(torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    kx, ky = (2 * math.pi * torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in fine)
    kx, ky = kx[:, None], ky[None]
    squares = kx**2 + ky**2
    full = torch.fft.fft2(Vorticity(fine, 0.0).grid(flow.resized(hat, Vorticity(fine, 0.0))))
    psi = torch.where(squares > 0, full / squares.clamp_min(1.0), 0.0)

    def real(z):
        return torch.fft.ifft2(z).real

    u, v = real(1j * ky * psi), real(-1j * kx * psi)
    plain = -(u * real(1j * kx * full) + v * real(1j * ky * full)) + force(fine)
    wide = Vorticity(fine, 0.0)
    expected = wide.resized(wide.spectrum(plain), flow)
    found = complexes(flow.nonlinear(_real(hat)))
    assert (found - expected).abs().max() < 1e-13 * expected.abs().max()
    assert not found[:, ~flow.mask].any()


def test_velocity_has_no_divergence_and_the_given_curl():
    shape = (20, 24)
    flow = Vorticity(shape, 0.0)
    hat = flow.spectrum(random_flow(shape))
    u, v = (flow.spectrum(part) for part in flow.velocity(hat).unbind(1))
    assert (flow.kx * u + flow.ky * v).abs().max() < 1e-14
    assert (1j * flow.kx * v - 1j * flow.ky * u - hat).abs().max() < 1e-13
    largest = (
        2 * math.pi * (flow.kept[0] * flow.velocity(hat)[:, 0].abs() + flow.kept[1] * flow.velocity(hat)[:, 1].abs())
    )
    assert torch.equal(flow.rate(hat), largest.flatten(1).amax(1))


@pytest.mark.parametrize(("kx", "ky"), [(1, 0), (0, 3), (-2, 5), (6, 6)])
def test_a_single_mode_only_diffuses(kx, ky):
    """One mode does not advect itself: e^{−ν|2πk|²t}, exactly with etdrk4."""
    shape, nu = (20, 22), 0.01
    flow = Vorticity(shape, nu)
    x, y = mesh(shape)
    w = torch.cos(2 * math.pi * (kx * x + ky * y) + 0.3)[None]
    after = flow.grid(flow.advance(flow.spectrum(w), 0.05, 10))
    decay = math.exp(-nu * 4 * math.pi**2 * (kx**2 + ky**2) * 0.5)
    assert (after - decay * w).abs().max() < 2e-15


def test_taylor_green_decays_to_the_order_of_the_scheme():
    """ω = 4π sin 2πx sin 2πy is an eddy at rest in shape: e^{−8π²νt}; Crank–Nicolson errs by (hλ)²λt/12."""
    shape, nu, t = (16, 16), 0.02, 0.5
    x, y = mesh(shape)
    w = (4 * math.pi * torch.sin(2 * math.pi * x) * torch.sin(2 * math.pi * y))[None]
    rate = 8 * math.pi**2 * nu
    exact = math.exp(-rate * t) * w
    for scheme in ("etdrk4", "crank_nicolson"):
        flow = Vorticity(shape, nu, scheme=scheme)
        errors = [
            float((flow.grid(flow.advance(flow.spectrum(w), t / n, n)) - exact).norm() / exact.norm())
            for n in (4, 8, 16)
        ]
        if scheme == "etdrk4":
            assert max(errors) < 1e-14
        else:
            assert all(abs(math.log2(a / b) - 2) < 0.05 for a, b in pairwise(errors))
            assert errors[-1] == pytest.approx((rate * t / 16) ** 2 * rate * t / 12, rel=0.01)


@pytest.mark.parametrize(
    ("scheme", "order", "steps"), [("etdrk4", 4, (10, 20, 40)), ("crank_nicolson", 2, (20, 40, 80))]
)
def test_order_in_time_where_modes_interact(scheme, order, steps):
    shape, nu = (24, 24), 0.002
    start = random_flow(shape, size=3.0)
    exact_flow = Vorticity(shape, nu, force(shape))
    exact = exact_flow.advance(exact_flow.spectrum(start), 0.5 / 160, 160)
    flow = Vorticity(shape, nu, force(shape), scheme)
    errors = [float((flow.advance(flow.spectrum(start), 0.5 / n, n) - exact).abs().norm()) for n in steps]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(found - order) < 0.15 for found in orders), orders


def quantities(flow, hat, f):
    """Energy, enstrophy, palinstrophy, power ∫ψf, ∫ωf of spectra, by Parseval."""
    weight = torch.where(flow.ky == 0, 1.0, 2.0)
    inverse = torch.where(flow.squares > 0, 1 / flow.squares.clamp_min(1.0), 0.0)

    def total(values):
        return (weight * values).sum((-2, -1))

    square = hat.abs() ** 2
    work = (hat * f.conj()).real
    return (
        0.5 * total(square * inverse),
        0.5 * total(square),
        0.5 * total(square * flow.squares),
        total(work * inverse),
        total(work),
    )


def test_energy_and_enstrophy_budgets():
    """dE/dt = −2νZ + ∫ψf, dZ/dt = −2νP + ∫ωf, integrated by Simpson's rule over the stored steps."""
    shape, nu, h, steps = (32, 32), 0.003, 0.01, 40
    flow = Vorticity(shape, nu, force(shape))
    f = flow.spectrum(force(shape)[None])
    hat = flow.spectrum(random_flow(shape, size=3.0))
    states = [hat]
    for _ in range(steps):
        states.append(flow.advance(states[-1], h))
    E, Z, P, power, work = (torch.stack(q) for q in zip(*(quantities(flow, s, f) for s in states), strict=True))
    simpson = torch.ones(steps + 1, dtype=torch.float64)
    simpson[1:-1:2], simpson[2:-1:2] = 4, 2
    for Q, change in ((E, -2 * nu * Z + power), (Z, -2 * nu * P + work)):
        integral = (simpson[:, None] * change).sum(0) * h / 3
        gap = (Q[-1] - Q[0] - integral).abs() / Q[0]
        assert (Q[-1] - Q[0]).abs().min() > 1e-2 * Q[0].max()
        assert gap.max() < 1e-7


@pytest.mark.parametrize(("scheme", "steps", "order"), [("etdrk4", 50, 4), ("crank_nicolson", 200, 2)])
def test_without_viscosity_and_force_energy_and_enstrophy_stay(scheme, steps, order):
    """The truncated equations conserve both; what is left is the error of the steps and falls with their order."""
    shape = (32, 32)
    flow = Vorticity(shape, 0.0, scheme=scheme)
    hat = flow.spectrum(random_flow(shape, n=1, size=3.0))
    zero = torch.zeros_like(hat)
    start, drifts = torch.stack(quantities(flow, hat, zero)[:2]), []
    for n in (steps, 2 * steps):
        after = flow.advance(hat, 0.5 / n, n)
        drifts.append(((torch.stack(quantities(flow, after, zero)[:2]) - start) / start).abs())
    assert (after - hat).abs().norm() > 0.1 * hat.abs().norm()
    assert drifts[1].max() < 1e-6
    assert (drifts[0] > 2 ** (order - 0.3) * drifts[1]).all()


@pytest.mark.parametrize("scheme", ["etdrk4", "crank_nicolson"])
def test_a_case_has_the_same_bits_in_any_batch(scheme):
    shape = (32, 32)  # 64 cases run together here, so that 70 are two portions
    flow = Vorticity(shape, 1e-3, force(shape), scheme)
    hat = flow.spectrum(random_flow(shape, n=70))
    together = flow.advance(hat, 0.01, 3)
    for i in (0, 17, 63, 64, 69):
        assert torch.equal(flow.advance(hat[i : i + 1], 0.01, 3)[0], together[i])


def test_a_case_that_is_not_finite_leaves_the_others_alone():
    shape = (16, 16)
    flow = Vorticity(shape, 1e-3)
    hat = flow.spectrum(random_flow(shape, n=3))
    fine = flow.advance(hat, 0.01, 2)
    hat[1] = torch.nan
    after = flow.advance(hat, 0.01, 2)
    assert torch.equal(after[[0, 2]], fine[[0, 2]]) and not torch.isfinite(after[1].abs()).any()


def test_single_precision_follows_double():
    shape = (32, 32)
    w = random_flow(shape)
    results = []
    for dtype in (torch.float32, torch.float64):
        flow = Vorticity(shape, 1e-3, force(shape), dtype=dtype)
        results.append(flow.grid(flow.advance(flow.spectrum(w), 0.02, 25)))
    assert results[0].dtype is torch.float32
    assert (results[0] - results[1]).norm() < 1e-5 * results[1].norm()


def test_modes_move_between_grids():
    coarse, fine = Vorticity((16, 20), 0.0), Vorticity((32, 50), 0.0)
    w = random_flow((16, 20), highest=4)
    hat = coarse.spectrum(w)
    up = coarse.resized(hat, fine)
    assert torch.equal(fine.resized(up, coarse), hat)
    assert (fine.grid(up) - random_flow((32, 50), highest=4)).abs().max() < 1e-14


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="scheme must be etdrk4 or crank_nicolson; got 'euler'"):
        Vorticity((16, 16), 0.1, scheme="euler")
    with pytest.raises(UsageError, match="viscosity must not be negative"):
        Vorticity((16, 16), -0.1)
    with pytest.raises(UsageError, match="two axes with at least 4 points"):
        Vorticity((16,), 0.1)

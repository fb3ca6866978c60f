"""Semidiscrete waves and leapfrog: orders, conserved energy, spectra, open sides, interfaces."""

import math
from itertools import pairwise

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.numerics.wave_fd import difference_system
from sciops.numerics.wave_fem import element_system
from sciops.numerics.wave_leapfrog import FACES, WaveSystem, leapfrog, march, ricker
from sciops.numerics.wave_submodel import perimeter, submodel, trace_of

SCHEMES = ("fd", "q1", "p1")


def build(scheme: str, stiffness, spacing, sides="dirichlet", density=1.0, damping=0.0) -> WaveSystem:
    table = dict.fromkeys(FACES, sides) if isinstance(sides, str) else sides
    if scheme == "fd":
        return difference_system(stiffness, spacing, table, density, damping)
    return element_system(stiffness, spacing, table, density, damping, scheme)


def mesh(nx: int, ny: int, lx: float = 1.0, ly: float = 1.0):
    x, y = torch.linspace(0, lx, nx + 1, dtype=torch.float64), torch.linspace(0, ly, ny + 1, dtype=torch.float64)
    return torch.meshgrid(x, y, indexing="ij")


def rough(nx: int, ny: int, n: int = 1):
    return 0.5 + torch.rand(n, nx, ny, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def manufactured(scheme: str, n: int, damping: float = 0.3, density: float = 1.5) -> tuple[float, torch.Tensor]:
    """Error at t = 0.7 and the field for u = sin πx sin 2πy cos 3t, μ = 1 + x²/2 + y/3, smooth on cells."""
    x, y = mesh(n, n)
    cx, cy = (0.25 * (v[1:, 1:] + v[:-1, 1:] + v[1:, :-1] + v[:-1, :-1]) for v in (x, y))
    system = build(scheme, (1 + cx**2 / 2 + cy / 3)[None], (1 / n, 1 / n), "dirichlet", density, damping)
    p, q, w = math.pi, 2 * math.pi, 3.0
    shape = torch.sin(p * x) * torch.sin(q * y)
    mu = 1 + x**2 / 2 + y / 3
    pull = (p**2 + q**2) * mu * shape
    pull = pull - x * p * torch.cos(p * x) * torch.sin(q * y) - q / 3 * torch.sin(p * x) * torch.cos(q * y)

    def force(t: float) -> torch.Tensor:
        return (pull - density * w**2 * shape) * math.cos(w * t) - damping * w * shape * math.sin(w * t)

    frames, _ = march(system, system.rest(shape[None]), (0.0, 0.7), 0.4 / n, force)
    exact = shape * math.cos(w * 0.7)
    return float((frames[0, 1] - exact).norm() / exact.norm()), frames[0, 1]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_order_two_with_damping_density_and_a_smooth_medium(scheme):
    coarse, fine = manufactured(scheme, 16)[0], manufactured(scheme, 32)[0]
    assert 1.9 < math.log2(coarse / fine) < 2.1
    assert fine < 0.01


def test_differences_and_elements_agree_to_the_order_of_both():
    gaps = [float((manufactured("fd", n)[1] - manufactured("q1", n)[1]).norm() / n) for n in (16, 32)]
    assert 1.8 < math.log2(gaps[0] / gaps[1]) < 2.2


def test_linear_elements_on_halved_squares_are_the_five_point_scheme():
    stiffness = rough(7, 9, 2)
    u = torch.randn(2, 8, 10, dtype=torch.float64)
    found = [build(scheme, stiffness, (0.1, 0.2)).restore(u) for scheme in ("fd", "p1")]
    assert torch.allclose(*found, rtol=0, atol=1e-12 * float(found[0].abs().max()))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_leapfrog_conserves_its_own_energy(scheme):
    stiffness = rough(10, 12, 2)
    sides = {"x0": "neumann", "x1": "dirichlet", "y0": "dirichlet", "y1": "neumann"}
    system = build(scheme, stiffness, (0.1, 0.08), sides, density=1.3)
    dt = 0.95 * system.largest
    step = leapfrog(system, dt)
    u, v = torch.randn(2, 2, 11, 13, dtype=torch.float64)
    state = system.rest(u, v)
    start = system.energy(state, dt)
    for _ in range(400):
        state = step(state, 0.0)
    assert float((system.energy(state, dt) / start - 1).abs().max()) < 1e-12
    # The energy of continuous time is not the conserved one: the test can tell them apart.
    assert float((system.energy(state) / system.energy(system.rest(u, v)) - 1).abs().max()) > 1e-3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_damping_and_open_sides_only_take_energy(scheme):
    for sides, damping in (("dirichlet", 2.0), ("absorbing", 0.0)):
        system = build(scheme, rough(8, 8), (0.125, 0.125), sides, damping=damping)
        dt = 0.9 * system.largest
        step = leapfrog(system, dt)
        state = system.rest(*torch.randn(2, 1, 9, 9, dtype=torch.float64))
        energies = []
        for _ in range(100):
            energies.append(float(system.energy(state, dt)))
            state = step(state, 0.0)
        assert all(b <= a * (1 + 1e-12) for a, b in pairwise(energies))
        assert energies[-1] < 0.5 * energies[0]


@pytest.mark.parametrize(("scheme", "sharp"), [("fd", 0.98), ("q1", 0.98), ("p1", 0.92)])
def test_the_largest_step_bounds_the_spectrum(scheme, sharp):
    for stiffness, sides in ((torch.ones(1, 10, 10).double(), "neumann"), (rough(10, 10), "dirichlet")):
        system = build(scheme, stiffness, (0.1, 0.1), sides)
        columns = torch.eye(121, dtype=torch.float64).reshape(121, 1, 11, 11)
        matrix = torch.stack([-system.restore(c).flatten() for c in columns], 1)
        top = float(torch.linalg.eigvals(matrix).real.max())
        assert 2 / math.sqrt(top) >= system.largest * (1 - 1e-12)
        if sides == "neumann":  # p1: the bound of one element is 9/8 of the true one away from corners
            assert system.largest > sharp * 2 / math.sqrt(top)


def test_too_long_a_step_is_refused_with_one_that_works():
    system = build("fd", torch.full((1, 8, 8), 4.0, dtype=torch.float64), (0.125, 0.125))
    with pytest.raises(UsageError, match=r"CFL violation: dt = 0\.05 .* dt ≤ 0\.04419"):
        leapfrog(system, 0.05)
    leapfrog(system, 0.0441)
    with pytest.raises(UsageError, match="must be positive"):
        leapfrog(system, 0.0)


def travelling(scheme: str, n: int, time: float, open_side: bool = True):
    """A plane pulse that starts at x = ½ and runs to x = 1: u = G(x − ½ − t) as long as nothing comes back."""
    x, _ = mesh(n, 4, 1.0, 4 / n)
    sides = dict.fromkeys(("y0", "y1"), "neumann") | {"x0": "absorbing", "x1": "absorbing" if open_side else "neumann"}
    system = build(scheme, torch.ones(1, n, 4, dtype=torch.float64), (1 / n, 1 / n), sides)
    g = lambda s: torch.exp(-(s**2) / (2 * 0.06**2))  # noqa: E731 - reads like the formula
    slope = (x - 0.5) / 0.06**2 * g(x - 0.5)  # u_t = −G′
    state = system.rest(g(x - 0.5)[None], slope[None])
    start = system.energy(state)
    h = 0.5 / n
    steps = round(time / h)
    step = leapfrog(system, h)
    for k in range(steps):
        state = step(state, k * h)
    error = float((state[0, 0] - g(x - 0.5 - time)).abs().max())
    return error, float(system.energy(state) / start)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_open_sides_let_plane_waves_out(scheme):
    # Half of the pulse is out at t = ½; the scheme keeps its order through the side.
    errors = [travelling(scheme, n, 0.5)[0] for n in (64, 128)]
    assert 1.8 < math.log2(errors[0] / errors[1]) < 2.2
    assert travelling(scheme, 64, 1.0)[1] < 0.002  # all but 0.2 % of the energy; a hard side keeps it
    assert travelling(scheme, 64, 1.0, open_side=False)[1] > 0.95


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_interface_reflects_and_transmits_what_it_should(scheme):
    """Normal incidence, equal density: u and μ u_x are continuous, so R = (c₁ − c₂)/(c₁ + c₂), T = 2c₁/(c₁ + c₂)."""
    n, c2 = 400, 2.0
    x, _ = mesh(n, 2, 2.0, 4 / n)
    stiffness = torch.where(torch.arange(n) < n // 2, 1.0, c2**2).double()[None, :, None].expand(1, n, 2)
    sides = dict.fromkeys(("y0", "y1"), "neumann") | dict.fromkeys(("x0", "x1"), "absorbing")
    system = build(scheme, stiffness, (2 / n, 2 / n), sides)
    s = x - 0.6
    g = torch.exp(-(s**2) / (2 * 0.05**2))
    frames, _ = march(system, system.rest(g[None], (s / 0.05**2 * g)[None]), (0.0, 0.7), 0.25 * 2 / n)
    u = frames[0, 1, :, 1]
    reflected, transmitted = u[: n // 2], u[n // 2 :]
    strongest = reflected[reflected.abs().argmax()]
    assert float(strongest) == pytest.approx((1 - c2) / (1 + c2), abs=5e-3)
    assert float(transmitted.max()) == pytest.approx(2 / (1 + c2), abs=5e-3)
    # The pulse is where it should be: back at 0.7, forward at 1 + 2 · 0.3.
    assert float(x[: n // 2, 0][reflected.abs().argmax()]) == pytest.approx(0.7, abs=0.01)
    assert float(x[n // 2 :, 0][transmitted.argmax()]) == pytest.approx(1.6, abs=0.01)


@pytest.mark.parametrize("scheme", ["fd", "q1"])
def test_a_batch_steps_as_its_cases_do_alone(scheme):
    stiffness = rough(8, 9, 3)
    u = torch.randn(3, 9, 10, dtype=torch.float64)
    system = build(scheme, stiffness, (0.1, 0.1), "absorbing")
    frames, defect = march(system, system.rest(u), (0.0, 0.1, 0.2), 0.02)
    alone = build(scheme, stiffness[1:2], (0.1, 0.1), "absorbing")
    assert torch.allclose(march(alone, alone.rest(u[1:2]), (0.0, 0.1, 0.2), 0.02)[0][0], frames[1], atol=1e-13)
    assert frames.shape == (3, 3, 9, 10) and float(defect.max()) < 1e-12


def test_the_wavelet_is_over_after_two_periods():
    f = torch.tensor([2.0, 4.0], dtype=torch.float64)
    assert torch.allclose(ricker(0.5, f)[:1], torch.ones(1, dtype=torch.float64))
    for t in (0.0, 1.0):
        assert float(ricker(t, f).abs().max()) < 1.1e-3
    # Its peak frequency is the one of its name: |ŵ| ~ f² exp(−f²/φ²).
    t = torch.arange(0, 8, 1 / 256, dtype=torch.float64)
    w = torch.stack([ricker(float(s), torch.tensor(3.0, dtype=torch.float64)) for s in t])
    assert float(torch.fft.rfft(w).abs().argmax()) / 8 == pytest.approx(3.0, abs=0.13)


def test_unknown_elements_are_named():
    with pytest.raises(UsageError, match="q1, p1"):
        element_system(rough(4, 4), (0.25, 0.25), {}, element="q2")


def test_the_perimeter_goes_once_around():
    i, j = perimeter((4, 3))
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [
        (0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (2, 2), (1, 2), (0, 2), (0, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("scheme", ["fd", "q1"])
def test_a_submodel_repeats_the_whole_inside(scheme):
    n, part = 16, slice(4, 13)
    stiffness = rough(n, n, 2)
    whole = build(scheme, stiffness, (1 / n, 1 / n), "absorbing", damping=0.5)
    x, y = mesh(n, n)
    u = torch.stack([torch.exp(-((x - a) ** 2 + (y - 0.5) ** 2) / 0.02) for a in (0.1, 0.5)])
    dt = 0.01
    times = tuple(k * dt for k in range(81))
    frames, _ = march(whole, whole.rest(u), times, dt)
    inside = build(scheme, stiffness[:, 4:12, 4:12], (1 / n, 1 / n), "dirichlet", damping=0.5)
    window = frames[:, :, part, part]
    # Driven at every step: the same numbers. The first case comes in from outside, the second starts inside.
    found, defect = submodel(inside, trace_of(window), times, dt, start=window[:, 0])
    assert torch.allclose(found, window, atol=1e-12) and float(window[:, -1].abs().max()) > 0.05
    assert float(defect.max()) < 1e-11
    # Driven by every fourth and every eighth step: fourth order in the gap.
    errors = []
    for k in (4, 8):
        found, _ = submodel(inside, trace_of(window)[:, ::k], times[::k], dt, start=window[:, 0])
        errors.append(float((found - window[:, ::k]).norm() / window[:, ::k].norm()))
    assert errors[0] < 1e-2 and math.log2(errors[1] / errors[0]) > 2.5


def test_a_trace_that_does_not_fit_is_refused():
    system = build("fd", rough(4, 4), (0.25, 0.25))
    with pytest.raises(UsageError, match="four or more equally spaced"):
        submodel(system, torch.zeros(1, 3, 16, dtype=torch.float64), (0.0, 0.1, 0.2), 0.05)
    with pytest.raises(UsageError, match=r"\(n, 4, 16\); got \(1, 4, 12\)"):
        submodel(system, torch.zeros(1, 4, 12, dtype=torch.float64), (0.0, 0.1, 0.2, 0.3), 0.05)

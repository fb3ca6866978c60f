"""Latent spectral model on point clouds: published counts, Fourier projections against fast transforms, deformation."""

import math

import pytest
import torch
from torch import Tensor, nn

from sciops.models.lsm_irregular import Deformation, IrregularLSM
from sciops.models.lsm_nudft import NonuniformFourier
from sciops.models.lsm_reference import load_reference, reference_state


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def uniform_points(n1: int, n2: int, dtype: torch.dtype = torch.float64) -> Tensor:
    axes = [torch.arange(n, dtype=dtype) / n for n in (n1, n2)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(1, -1, 2)


def kept(transform: Tensor, m1: int, m2: int) -> Tensor:
    return torch.cat([transform[:, :, :m1, :m2], transform[:, :, -m1:, :m2]], 2)


def layer(released: bool = False, dtype: torch.dtype = torch.float64) -> NonuniformFourier:
    torch.manual_seed(0)
    return NonuniformFourier(3, (5, 4), released).to(dtype)


def tiny(**options: object) -> IrregularLSM:
    torch.manual_seed(0)
    given = {"width": 8, "latent": (32, 32), "modes": (6, 5), "code_features": 3} | options
    return IrregularLSM(**given).double()  # type: ignore[arg-type]


def test_published_counts() -> None:
    model = IrregularLSM()
    assert model.deformation is not None
    assert count(model.deformation) == 63_746
    assert count(model) - 63_746 == 5_992_609  # complex weights are pairs of real ones here
    assert count(model.unet.blocks) == 480_544
    pairs = sum(p.numel() for name, p in model.named_parameters() if name.startswith("spectral_"))
    assert count(model) - 63_746 - pairs // 2 == 5_402_785


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=["f64", "f32"])
def test_sums_on_a_uniform_grid_are_the_fast_transform(dtype: torch.dtype, tolerance: float) -> None:
    fourier, xi = layer(dtype=dtype), uniform_points(12, 10, dtype)
    u = torch.randn(2, 3, 12, 10, dtype=dtype)
    found = fourier.analyse(u.flatten(2), xi.expand(2, -1, -1))
    assert (found - kept(torch.fft.rfft2(u, norm="forward"), 5, 4)).abs().max() < tolerance
    # Both ways of one layer meet on the uniform grid: points → grid and grid → points.
    with torch.no_grad():
        there = fourier.to_grid(u.flatten(2), xi.expand(2, -1, -1), (12, 10))
        back = fourier.to_points(u, xi.expand(2, -1, -1)).view_as(u)
    assert (there - back).abs().max() < tolerance
    assert there.abs().max() > 100 * tolerance


def test_synthesis_is_the_real_inverse() -> None:
    """A band-limited field is recovered between the points of its grid."""
    fourier, xi = layer(), torch.rand(1, 40, 2, dtype=torch.float64)

    def field(x: Tensor) -> Tensor:
        a, b = 2 * math.pi * x[..., 0], 2 * math.pi * x[..., 1]
        return 0.3 + (4 * a).sin() + (2 * a + 3 * b).cos() - (3 * a - 2 * b).sin() + b.sin()

    modes = fourier.analyse(field(uniform_points(12, 10))[:, None].expand(1, 3, -1), uniform_points(12, 10))
    assert (fourier.synthesise(modes, xi) - field(xi)).abs().max() < 1e-13
    assert (layer(released=True).synthesise(modes, xi) - field(xi)).abs().max() > 0.1  # not the inverse


def test_released_projection() -> None:
    """Plain sums; the other half of the modes are the conjugates, flipped in both axes of the array."""
    fourier, xi = layer(released=True), torch.rand(1, 7, 2, dtype=torch.float64)
    u = torch.randn(1, 3, 7, dtype=torch.float64)
    k1, k2 = torch.cat([torch.arange(5), torch.arange(-5, 0)]), torch.cat([torch.arange(4), torch.arange(-3, 0)])
    phase = xi[0, :, 0, None, None] * k1[:, None] + xi[0, :, 1, None, None] * k2
    basis = torch.exp(2j * math.pi * phase)
    modes = torch.einsum("ncp,pxy->ncxy", u + 0j, basis.conj())[..., :4]
    assert (fourier.analyse(u, xi) - modes).abs().max() < 1e-13
    both = torch.cat([modes, modes[..., 1:].flip(-1, -2).conj()], -1)
    known = torch.einsum("ncxy,pxy->ncp", both, basis).real
    assert (fourier.synthesise(modes, xi) - known).abs().max() < 1e-12
    # The grid side: transforms without and with 1/points.
    grid = torch.randn(1, 3, 12, 10, dtype=torch.float64)
    with torch.no_grad():
        known = fourier.synthesise(fourier.mix(kept(torch.fft.rfft2(grid), 5, 4)), xi)
        assert (fourier.to_points(grid, xi) - known).abs().max() < 1e-12


def test_projection_does_not_grow_with_the_number_of_points() -> None:
    u, xi = torch.randn(1, 3, 50, dtype=torch.float64), torch.rand(1, 50, 2, dtype=torch.float64)
    twice = (u.repeat(1, 1, 2), xi.repeat(1, 2, 1), (12, 12))
    with torch.no_grad():
        one, released = layer().to_grid(u, xi, (12, 12)), layer(released=True).to_grid(u, xi, (12, 12))
        assert (layer().to_grid(*twice) - one).abs().max() < 1e-14
        assert (layer(released=True).to_grid(*twice) - 2 * released).abs().max() < 1e-12


def test_grids_that_cannot_hold_the_modes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a grid of \(8, 10\) points cannot hold \(5, 4\) modes"):
        layer().to_points(torch.zeros(1, 3, 8, 10, dtype=torch.float64), torch.zeros(1, 2, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="modes takes two positive numbers"):
        NonuniformFourier(3, (4,))
    with pytest.raises(ValueError, match="latent must be two multiples of 16"):
        IrregularLSM(latent=(90, 96))
    with pytest.raises(ValueError, match="built for 0 features a point; got 2"):
        tiny()(torch.rand(1, 5, 2).double(), torch.rand(1, 5, 2).double())


@pytest.mark.parametrize("released", [False, True])
def test_published_shape_and_gradients(released: bool) -> None:
    model = tiny(in_channels=2, released_projection=released)
    x, features, code = (torch.rand(*s, dtype=torch.float64) for s in ((2, 97, 2), (2, 97, 2), (2, 3)))
    u = model(x, features, code)
    assert u.shape == (2, 97, 1) and u.dtype == torch.float64
    u.square().mean().backward()
    dead = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-16}
    expected = {f"unet.blocks.{level}.key.bias" for level in range(5)}
    assert dead == expected | {"deformation.no_code.weight", "deformation.no_code.bias"}


def test_points_have_no_order_and_cases_no_neighbours() -> None:
    model = tiny().eval()
    x, code, order = (
        torch.rand(3, 60, 2, dtype=torch.float64),
        torch.rand(3, 3, dtype=torch.float64),
        torch.randperm(60),
    )
    with torch.no_grad():
        u = model(x, code=code)
        assert (model(x[:, order], code=code) - u[:, order]).abs().max() < 1e-12
        assert (model(x[1:2], code=code[1:2]) - u[1:2]).abs().max() < 1e-12
        assert (model(x, code=code.flip(0)) - u).abs().max() > 1e-8  # the code counts


def test_without_spectral_blocks_it_is_the_control() -> None:
    full, control = tiny().eval(), tiny(spectral_blocks=False).eval()
    control.load_state_dict(full.state_dict(), strict=False)
    x = torch.rand(1, 30, 2, dtype=torch.float64)
    with torch.no_grad():
        for block in full.unet.blocks:
            for p in (block.latent, block.series, *block.value.parameters()):
                p.zero_()
        assert torch.equal(full(x), control(x))


def test_deformation() -> None:
    torch.manual_seed(0)
    phi = Deformation(5, 8).double()
    x, code = torch.rand(2, 9, 2, dtype=torch.float64), torch.rand(2, 5, dtype=torch.float64)
    away = x - phi.centre
    polar = torch.stack([x[..., 0], x[..., 1], torch.atan2(away[..., 1], away[..., 0]), away.norm(dim=-1)], -1)
    waves = torch.stack([2**k * math.pi * polar for k in range(2)], -1).flatten(-2)
    v = torch.cat([phi.code(code)[:, None].expand(2, 9, 8), phi.features(polar), waves.sin(), waves.cos()], -1)
    for linear in phi.layers:
        v = linear(v).tanh()
    assert (phi(x, code) - x * (1 + phi.out(v))).abs().max() < 1e-6  # frequencies are stored in single precision
    with torch.no_grad():
        phi.out.weight.zero_()
        phi.out.bias.zero_()
    assert torch.equal(phi(x, code), x) and float(phi.distance_from_identity(code).detach()) == 0
    with torch.no_grad():
        phi.out.bias.fill_(0.25)  # ξ = 1.25 x
    assert float(phi.distance_from_identity().detach()) == pytest.approx(0.25)
    phi.distance_from_identity(code).backward()
    assert phi.out.bias.grad is not None and phi.out.bias.grad.abs().min() > 0


def test_reference_weights_there_and_back() -> None:
    first, second = tiny(deformation=False), tiny(deformation=False)
    with torch.no_grad():
        for p in second.parameters():
            p.zero_()
    state = reference_state(first)
    assert state["fftproject_in.weights1"].shape == (8, 8, 6, 5) and state["fftproject_in.weights1"].is_complex()
    assert state["fc0.weight"].shape == (8, 2) and state["convproject_out.weight"].shape == (8, 2, 1)
    load_reference(second, state)
    x = torch.rand(1, 20, 2, dtype=torch.float64)
    assert torch.equal(first.eval()(x), second.eval()(x))


def test_autocast_leaves_the_projections_in_single_precision() -> None:
    model = tiny().float().eval()
    x = torch.rand(1, 40, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        u = model(x)
    with torch.no_grad():
        known = model(x)
    assert (u.float() - known).norm() < 0.05 * known.norm()

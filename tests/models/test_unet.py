"""U-Net control: any grid size, size near MgNO's, symmetric where it can be."""

import io

import pytest
import torch

from sciops.models.mgno import mgno_darcy
from sciops.models.unet import UNet


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_default_is_as_large_as_mgno() -> None:
    assert count(UNet()) == 558_721
    assert count(UNet()) == pytest.approx(count(mgno_darcy()), rel=0.03)


@pytest.mark.parametrize("n", [32, 45, 64, 85, 101, 129])
@pytest.mark.parametrize("bc", ["dirichlet", "neumann", "periodic"])
def test_any_grid_size(n: int, bc: str) -> None:
    model = UNet(width=4, levels=4, bc=bc)
    x = torch.randn(1, 1, n, n + 3)
    assert model(x).shape == x.shape
    model(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("ndim", "shape"), [(1, (37,)), (2, (21, 40)), (3, (9, 12, 17))])
@pytest.mark.parametrize("layout", ["node", "cell"])
def test_dimensions(ndim: int, shape: tuple[int, ...], layout: str) -> None:
    model = UNet(2, 3, width=4, levels=3, ndim=ndim, bc="neumann", layout=layout)
    assert model(torch.randn(2, 2, *shape)).shape == (2, 3, *shape)


def test_periodic_shift_equivariance() -> None:
    model = UNet(width=4, levels=3, bc="periodic").double().requires_grad_(False)
    x = torch.randn(1, 1, 32, 16, dtype=torch.float64)
    u = model(x)

    def defect(shift: int) -> float:
        return float((model(x.roll(shift, 2)).roll(-shift, 2) - u).abs().max() / u.abs().max())

    assert defect(4) < 1e-13
    assert defect(2) > 1e-6


def test_every_parameter_matters() -> None:
    model = UNet(width=8, levels=3).double()
    x = torch.randn(1, 1, 20, 20, dtype=torch.float64)
    model(x).square().mean().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert dead == []


def test_state_dict_round_trip() -> None:
    model, fresh = UNet(width=4, levels=3), UNet(width=4, levels=3)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(1, 1, 19, 21)
    assert torch.equal(model(x), fresh(x))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="too small for 5 levels"):
        UNet(width=4, bc="neumann")(torch.randn(1, 1, 12, 12))
    with pytest.raises(ValueError, match="groups must divide"):
        UNet(width=6)
    with pytest.raises(ValueError, match="levels"):
        UNet(levels=0)
    with pytest.raises(ValueError, match="ndim=2"):
        UNet(width=4)(torch.randn(1, 1, 12))

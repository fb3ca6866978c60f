"""A trained network as an operator: its error on grids that are no refinement of its own is that on its own."""

from functools import cache

import pytest
import torch
from networks import UNet
from torch import Tensor, nn

from sciops.models.conversion.operator import to_neural_operator

NATIVE = 32
SIZES = (48, 40, 24, 17)


def pairs(count: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """f ↦ u = f(x − a)(1 + f(x)/2), f a random periodic field with frequencies up to 3: u has none above 6, which even
    17 points carry. The shift a is four native points: a network that is asked on another grid as it is moves the field
    by four of that grid's points."""
    random = torch.Generator().manual_seed(seed)
    k = torch.cartesian_prod(torch.arange(-3.0, 4.0), torch.arange(-3.0, 4.0))
    a, b = torch.randn(2, count, len(k), generator=random) / (4 + 4 * k.square().sum(1)) ** 0.5 / 2
    x = torch.arange(n) / n

    def field(shift: float) -> Tensor:
        angle = 2 * torch.pi * (k[:, :1, None] * (x[:, None] - shift) + k[:, 1:, None] * x)
        return torch.einsum("nk,kij->nij", a, angle.cos()) + torch.einsum("nk,kij->nij", b, angle.sin())

    f = field(0.0)
    return f[:, None], (field(4 / NATIVE) * (1 + f / 2))[:, None]


def error(u: Tensor, y: Tensor) -> Tensor:
    return ((u - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).mean()


@cache
def trained() -> nn.Module:
    """Two seconds of training on 32² points."""
    torch.manual_seed(0)
    net = UNet("circular", "transposed", "max", width=6)
    optimiser = torch.optim.Adam(net.parameters())
    steps = 80
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-2, total_steps=steps)
    x, y = pairs(4 * steps, NATIVE, 1)
    for a, b in zip(x.split(4), y.split(4), strict=True):
        optimiser.zero_grad()
        error(net(a), b).backward()
        optimiser.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def found(ask: nn.Module, n: int) -> float:
    x, y = pairs(8, n, 2)
    return float(error(ask(x), y))


@pytest.mark.parametrize("method", ["point", "lattice"])
@pytest.mark.parametrize("n", SIZES)
def test_error_on_other_sizes_is_that_on_the_grid_of_the_training(n: int, method: str) -> None:
    net = trained()
    operator, native = to_neural_operator(net, (NATIVE, NATIVE), method=method), found(net, NATIVE)
    assert native < 0.15 and found(operator, NATIVE) == native
    assert found(operator, n) < 1.1 * native


@pytest.mark.parametrize("n", [48, 40, 24])
def test_the_network_as_it_is_fails_there(n: int) -> None:
    assert found(trained(), n) > 2 * found(trained(), NATIVE)

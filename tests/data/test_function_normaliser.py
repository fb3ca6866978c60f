"""Statistics that are functions, and the loss that is a function norm."""

import math

import pytest
import torch
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.grid import Grid, PointSet
from sciops.data.function_normaliser import FunctionNormaliser
from sciops.train.losses import RelativeIntegralL2, RelativeL2

KINDS = ("node", "cell", "periodic")


def cases(grid: Grid, n: int = 40) -> Tensor:
    """a sin(2πx) + 3 + b, with fixed draws of a and b: mean and deviation are known functions of the draws."""
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, n, 1, 1, generator=random, dtype=torch.float64)
    x = grid.points()[:, 0]
    return a * torch.sin(2 * math.pi * x) + 3 + b + x * (1 - x)


@pytest.mark.parametrize("layout", KINDS)
@pytest.mark.parametrize("kind", ["function", "channel"])
def test_statistics_move_to_other_resolutions(kind: str, layout: str) -> None:
    coarse, fine = Grid.box(40, layout=layout), Grid.box(173, layout=layout)
    one, two = (FunctionNormaliser(g, kind=kind).fit(cases(g).split(7)) for g in (coarse, fine))
    x = cases(fine)
    # 3 h²/8 · (2π)² · 2.5 deviations: linear interpolation, three times its error in the half cells at walls
    assert (one.encode(x) - two.encode(x)).abs().max() < 0.025
    torch.testing.assert_close(one.decode(one.encode(x)), x)
    own = one.encode(cases(coarse))
    if kind == "function":
        assert own.mean(0).abs().max() < 1e-12 and (own.std(0) - 1).abs().max() < 1e-4
        points = PointSet.equal_weights(fine.points())
        torch.testing.assert_close(one.encode(x, points), one.encode(x))
    else:
        w = coarse.weights()
        assert (own * w).sum().abs() < 1e-10 and abs(float((own.square() * w).sum()) / 40 - 1) < 1e-4


def test_state_loads_into_a_fresh_one_and_dtype_follows_the_data() -> None:
    grid = Grid.box((6, 5))
    x = torch.randn(8, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    fitted = FunctionNormaliser(grid, 2).fit(x)
    fresh = FunctionNormaliser(grid, 2)
    fresh.load_state_dict(fitted.state_dict())
    z = fresh.encode(x)
    assert z.dtype == torch.float32 and torch.equal(z, fitted.encode(x))
    with pytest.raises(UsageError, match="channel"):
        fresh.encode(x[:, :1])
    with pytest.raises(UsageError, match="takes"):
        fresh.fit(x[..., 1:])


@pytest.mark.parametrize("layout", KINDS)
def test_the_norm_of_a_function_has_order_two(layout: str) -> None:
    """Two channels, ‖(e, 2e)‖/‖(u, u)‖ with u = 1 + x(1 − x), e = x²(1 − x)²: integrals of polynomials."""
    want = math.sqrt(5 / 630 / (2 * (1 + 1 / 3 + 1 / 30)))
    errors, plain = [], []
    for n in (20, 40, 80):
        grid = Grid.box(n, layout=layout)
        x = grid.points()[:, 0]
        e, u = (x * (1 - x)).square(), 1 + x * (1 - x)
        true = torch.stack([u, u])[None]
        pred = true + torch.stack([e, 2 * e])
        errors.append(abs(RelativeIntegralL2()(pred, true, grid).item() - want))
        plain.append(abs(RelativeL2()(pred, true, grid).item() - want))
    assert errors[0] < 1e-3 and errors[1] / errors[2] > 3.5
    if layout == "node":
        assert plain[2] > 10 * errors[2]

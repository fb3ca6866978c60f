"""Fields know where they live: mixing domains raises, indexing keeps the case axis."""

import numpy as np
import pytest
import torch

from sciops.core.errors import GridMismatch, UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid, PointSet

GRID = Grid.box(5, ndim=2)


def steady(grid: Grid = GRID, n: int = 3, channels: tuple[str, ...] = ("u",)) -> Field:
    return Field.steady(torch.rand(n, len(channels), *grid.shape, dtype=torch.float64), grid, channels)


@pytest.mark.parametrize(
    "other",
    [
        steady(Grid.box(5, ndim=2, layout="cell")),
        steady(Grid.box(5, ndim=2, upper=2.0)),
        steady(Grid.box(6, ndim=2)),
        steady(channels=("p",)),
        steady(n=1),
        Field(torch.zeros(3, 1, 1, 5, 5, dtype=torch.float64), GRID, ("u",), (1.0,)),
    ],
    ids=["layout", "box", "shape", "channel", "cases", "time"],
)
def test_arithmetic_between_different_places_raises(other: Field) -> None:
    for operation in (lambda: steady() + other, lambda: steady() - other, lambda: other - steady()):
        with pytest.raises(GridMismatch) as caught:
            operation()
        assert "\n" not in str(caught.value)


def test_arithmetic_on_one_domain() -> None:
    a, b = steady(), steady()
    torch.testing.assert_close((a - b + 2.0 * b).values, a.values + b.values)
    assert torch.equal((-a).values, -a.values)


def test_points_and_grid_do_not_mix() -> None:
    points = PointSet.equal_weights(GRID.points())
    scattered = Field.steady(torch.zeros(3, 1, 25, dtype=torch.float64), points, ("u",))
    with pytest.raises(GridMismatch, match="25 scattered points"):
        scattered - steady()


@pytest.mark.parametrize(
    ("index", "kept"),
    [
        (1, [1]),
        (-1, [2]),
        (np.int64(1), [1]),
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        ((2, 0), [2, 0]),
        (range(2), [0, 1]),
        (torch.tensor([2, 0]), [2, 0]),
        (torch.tensor(1), [1]),
        (torch.tensor([True, False, True]), [0, 2]),
        (np.array([2, 1]), [2, 1]),
    ],
    ids=str,
)
def test_every_index_keeps_the_case_axis(index, kept: list[int]) -> None:
    field = steady()
    assert torch.equal(field[index].values, field.values[kept])


def test_shape_and_channel_errors_say_what_was_expected() -> None:
    with pytest.raises(UsageError, match=r"\(n, 1, 1, 5, 5\)"):
        Field(torch.zeros(3, 1, 1, 5, 4), GRID, ("u",))
    with pytest.raises(UsageError, match="has channels"):
        steady().channel("p")


def test_finite_is_said_per_case_and_cat_stacks() -> None:
    field = steady()
    field.values[1, 0, 0, 2, 2] = torch.nan
    assert field.finite() == [True, False, True]
    assert Field.cat([field[0], field[2]]).n == 2
    with pytest.raises(GridMismatch):
        Field.cat([field, steady(Grid.box(6, ndim=2))])


def test_fields_compare_by_identity_and_not_by_ambiguous_tensors() -> None:
    field = steady()
    assert field == field
    assert field != steady()

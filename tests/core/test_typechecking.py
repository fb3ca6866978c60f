"""The checker of the tests itself: what it refuses, and when it looks."""

import os
from dataclasses import dataclass

import pytest
import torch
import typechecking
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from sciops.numerics.reductions import tree_sum


@typechecking.at_first_calls(typechecker=typechecking.enforce)
def doubled(x: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
    return 2 * x


@typechecking.at_first_calls(typechecker=typechecking.enforce)
@dataclass(frozen=True)
class Pair:
    first: float
    second: Float[Tensor, " n"]


def test_arguments_answers_and_fields_are_checked() -> None:
    with pytest.raises(TypeCheckError, match=r"checking the parameters of .*doubled"):
        doubled(torch.zeros(3, 3))
    with pytest.raises(TypeCheckError, match="checking the parameters"):
        doubled(torch.zeros(3, 2, dtype=torch.int64))
    assert Pair(1, torch.zeros(3)).first == 1  # an int is accepted where a float is asked
    with pytest.raises(TypeCheckError):
        Pair(1.0, torch.zeros(3, 3))


@pytest.mark.skipif(os.environ.get("SCIOPS_TYPECHECK") == "0", reason="switched off")
def test_the_package_is_checked() -> None:
    with pytest.raises(TypeCheckError, match=r"reductions\.tree_sum"):
        tree_sum([1.0, 2.0])


def test_first_calls_and_some_later_ones_are_checked() -> None:
    wrong = torch.zeros(3, 3)
    for _ in range(2):
        refused = []
        for call in range(1, typechecking.FIRST + 2 * typechecking.EACH + 1):
            try:
                doubled(wrong)
            except TypeCheckError:
                refused.append(call)
        assert refused[: typechecking.FIRST] == list(range(1, typechecking.FIRST + 1))
        assert len(refused) == typechecking.FIRST + 2
        typechecking.next_test()

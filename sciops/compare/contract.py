"""What every contract check shares: one clause, one result, one small grid."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, allclose

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.problem import Problem

SIZE = 17
"""Points per axis of the built-in cases: small enough for seconds, large enough for two multigrid levels."""

Clauses = list[tuple[str, Callable[[], None]]]


@dataclass(frozen=True)
class CheckResult:
    """One clause of the contract: did it hold, and if not, one sentence that says what happened instead."""

    name: str
    passed: bool
    message: str = ""


class Broken(Exception):
    """A clause does not hold; the text says why."""


def require(condition: bool, message: str) -> None:
    """Raise Broken with the message unless the condition holds."""
    if not condition:
        raise Broken(message)


def run(checks: Iterable[tuple[str, Callable[[], None]]]) -> list[CheckResult]:
    """Every clause in turn; what the class under test raises becomes the message of a failed clause."""
    results = []
    for name, clause in checks:
        try:
            clause()
            results.append(CheckResult(name, True))
        except Broken as broken:
            results.append(CheckResult(name, False, str(broken)))
        except Exception as error:  # the class under test may raise anything; that is what is being reported
            text = " ".join(str(error).split())
            results.append(CheckResult(name, False, f"raised {type(error).__name__}: {text[:300]}"))
    return results


def instance(cls: type) -> Any:
    """The class built with its default arguments; UsageError if it has arguments without a default."""
    try:
        inspect.signature(cls).bind()
    except TypeError as error:
        raise UsageError(
            f"{cls.__name__} cannot be built without arguments ({error}); give them defaults, or check a subclass "
            "that fixes them."
        ) from None
    return cls()


def same(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Equal up to `tolerance` times the largest value of b."""
    scale = float(b.abs().max()) if b.numel() else 0.0
    return a.shape == b.shape and allclose(a, b, rtol=0.0, atol=tolerance * scale, equal_nan=True)


def small_grid(problem: Problem, n: int = SIZE) -> Grid:
    """The unit box with n points per axis (n − 1 on periodic axes) in the layout of the problem."""
    layout = ["periodic" if lo == "periodic" else problem.layout for lo, _ in problem.boundary.kinds]
    return Grid.box([n - 1 if kind == "periodic" else n for kind in layout], layout=layout)

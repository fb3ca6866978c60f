"""What the wave problems share: elements of high degree as trusted solution, resonances named, coefficients checked."""

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.solver import Solution
from sciops.numerics.finite_elements import Answer, WeakForm, high_degree

DEGREE = 6
PHASE = 2.7
"""Largest k h of an element of degree 6: four digits of the phase over tens of wavelengths."""

STEP, ALIGNED = 4, 20
"""The number of elements per axis is a multiple of one of these, so that few meshes serve all cases; the second where
data jump, at places that are then lines of the mesh by themselves."""

RESONANCE = 1e-8
"""Relative distance of k² from an eigenvalue below which double precision cannot say what the solution is."""

NEAR_RESONANCE = (
    "k² lies within {distance:.0e} (relative) of an eigenvalue of −Δ, where the solution is not determined in double "
    "precision: change the frequency by a thousandth, or let waves leave the domain (HelmholtzAbsorbing)."
)
UNRESOLVED = "The factorisation lost its digits (relative residual {residual:.0e}): check the range of the coefficient."


@runtime_checkable
class WaveProblem(Protocol):
    """What `high_degree_answer` asks of a problem."""

    def weak_form(self, case: Cases) -> WeakForm:
        """The weak form of one case, from closed forms where they are known, else by interpolation."""

    def largest_wavenumber(self, case: Cases) -> float:
        """The largest wavenumber that the mesh of one case must resolve, of its waves and of its data."""


def high_degree_answer(problem: WaveProblem, case: Cases, degree: int = DEGREE, scale: float = 1.0) -> Answer:
    """One case by elements of the degree that resolve its shortest wave (`scale` times as many per axis)."""
    form, k = problem.weak_form(case), problem.largest_wavenumber(case)
    length = max(u - lo for lo, u in zip(form.lower, form.upper, strict=True))
    # Equal numbers of unknowns per wavelength for every degree.
    step = ALIGNED if any(form.breaks) else STEP
    elements = step * max(1, math.ceil(scale * k * length / (PHASE * degree / DEGREE) / step))
    return high_degree(form.mesh_lines(elements), degree).solve(form)


def verdict(residual: float, distance: float, tol: float) -> tuple[Status, str]:
    """(status, one sentence) of a direct solve."""
    if not (math.isfinite(residual) and math.isfinite(distance)):
        return Status.NONFINITE, ""
    if distance < RESONANCE:
        return Status.UNRESOLVED, NEAR_RESONANCE.format(distance=distance)
    if residual > max(tol, 1e-9):
        return Status.MAX_ITER, UNRESOLVED.format(residual=residual)
    return Status.OK, ""


def resolved_reference(problem: Any, cases: Cases, tol: float) -> Solution:
    """Degree 6; `label_error` is the distance to degree 5 on the same lines, an upper estimate by far."""
    grid, rows, facts, statuses = cases.domain, [], [], []
    for i in range(len(cases)):
        case = cases[i : i + 1].to(dtype=torch.float64)
        best = high_degree_answer(problem, case)
        form = problem.weak_form(case)
        lower = high_degree(best.space.lines, DEGREE - 1).solve(form)
        u, other = best.on(grid), lower.on(grid)
        rows.append(fields(u, len(problem.outputs)))
        facts.append((best.residual, distance(other, u, grid), best.resonance))
        statuses.append(verdict(best.residual, best.resonance, tol))
    return solution(problem, cases, rows, facts, statuses, "elements of degree 6 against degree 5")


def solution(
    problem: Any,
    cases: Cases,
    rows: list[np.ndarray],
    facts: list[tuple[float, float, float]],
    statuses: list[tuple[Status, str]],
    method: str,
) -> Solution:
    """Answers (outputs, *s) of all cases with `residual`, `label_error`, `resonance`, `label_method` and `advice`."""
    values = torch.from_numpy(np.stack(rows)).to(dtype=cases.dtype, device=cases.device)
    table = torch.tensor(facts, dtype=torch.float64)
    stats: dict[str, Any] = {
        "residual": table[:, 0],
        "label_error": table[:, 1],
        "resonance": table[:, 2],
        "label_method": method,
        "advice": [sentence for _, sentence in statuses],
    }
    names = [channel.name for channel in problem.outputs]
    return Solution(Field.steady(values, cases.domain, names), [status for status, _ in statuses], stats)


def fields(u: np.ndarray, outputs: int) -> np.ndarray:
    """Values (*s) as output fields (outputs, *s): the real part, and the imaginary part where there are two."""
    return np.stack([u.real, u.imag]) if outputs == 2 else u.real[None]


def distance(a: np.ndarray, b: np.ndarray, grid: Grid) -> float:
    """‖a − b‖/‖b‖ by the quadrature of the grid."""
    w = grid.weights().numpy()
    return math.sqrt(float((np.abs(a - b) ** 2 * w).sum()) / max(float((np.abs(b) ** 2 * w).sum()), 1e-300))


def require_positive(values: Float[Tensor, "n *s"], name: str, who: str) -> None:
    """UsageError with the first case whose coefficient is not positive."""
    low = values.flatten(1).amin(1)
    if bool((low <= 0).any()):
        i = int(torch.nonzero(low <= 0)[0])
        raise UsageError(
            f"{who} needs {name} > 0 everywhere, but case {i} of this batch goes down to {float(low[i]):.3g}; mend the "
            "input field."
        )


def at_points(case: Cases, name: str, x: np.ndarray) -> np.ndarray:
    """One input of one case at points (N, 2)."""
    found = getattr(case.at(torch.from_numpy(np.ascontiguousarray(x))[None]), name)
    return found[0].detach().cpu().numpy()

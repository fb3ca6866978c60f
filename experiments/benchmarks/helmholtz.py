"""Waves in two boxes: how far bilinear elements are from the equation, and what GMRES, LU and high degrees cost.

    python experiments/benchmarks/helmholtz.py [--cases 4] [--wavenumbers 15 30 60]

Closed box: the law of the benchmark, truth of degree 6, answers on 51² points. Open box: bilinear elements on a grid
that grows like k^1.5, eight points a wavelength at k = 10; the gap is that between GMRES and LU.
CPU seconds of one thread per case, set-up included, first call of every mesh left out.
"""

import argparse
import math
import time

import torch

from sciops.core.grid import Grid
from sciops.core.solver import Solution, Solver
from sciops.problems.helmholtz_absorbing import HelmholtzAbsorbing
from sciops.problems.helmholtz_neumann import HelmholtzNeumann
from sciops.solvers.finite_elements import FiniteElements
from sciops.solvers.gmres import GMRES
from sciops.solvers.sparse_direct import SparseDirect


def timed(solver: Solver, cases, grid: Grid) -> tuple[Solution, float]:
    """(answers, CPU seconds per case), meshes and evaluation matrices made beforehand."""
    solver.solve(cases[:1], grid)
    begun = time.process_time()
    solution = solver.solve(cases, grid)
    return solution, (time.process_time() - begun) / len(cases)


def errors(found: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return (found - known).flatten(1).norm(dim=1) / known.flatten(1).norm(dim=1)


def closed(count: int) -> None:
    published = HelmholtzNeumann()
    solution = published.reference(published.sample(range(count), Grid.box(101, ndim=2)))
    far = solution.stats["label_error"]
    print(f"published truth (bilinear, 101²): {far.median():.2f} of the solution away from the equation (median)")
    problem, grid = HelmholtzNeumann(truth="resolved"), Grid.box(51, ndim=2)
    cases = problem.sample(range(count), grid)
    truth = problem.reference(cases)
    print(f"truth of degree 6: label error {truth.stats['label_error'].median():.1e} (median)")
    print("| elements | unknowns per axis | rel L², median | CPU s a case |\n|---|---|---|---|")
    for degree in (1, 2, 4, 6):
        for resolution in (1.0, 2.0, 4.0):
            if degree > 2 and resolution > 2:
                continue
            solver = SparseDirect(resolution=resolution) if degree == 1 else FiniteElements(degree, resolution)
            found, seconds = timed(solver, cases, grid)
            error = errors(found.field.values, truth.field.values).median()
            print(f"| degree {degree} | {50 * resolution + 1:.0f} | {error:.2g} | {seconds:.3f} |", flush=True)


def opened(count: int, wavenumbers: list[float]) -> None:
    print("| medium | k | grid | LU, CPU s | GMRES shifted: steps | CPU s | GMRES ILU: steps | CPU s | largest gap |")
    print("|---|---|---|---|---|---|---|---|---|")
    for medium in ("constant", "smooth"):
        for k in wavenumbers:
            n = 1 + math.ceil(8 * k / (2 * math.pi) * math.sqrt(k / 10))
            problem, grid = HelmholtzAbsorbing(wavenumber=k, medium=medium), Grid.box(n, ndim=2)
            cases = problem.sample(range(count), grid)
            known, direct = timed(SparseDirect(), cases, grid)
            row, gap = [], 0.0
            for solver in (GMRES("shifted_laplacian"), GMRES("ilu")):
                found, seconds = timed(solver, cases, grid)
                status = "" if found.ok else " (not converged)"
                row.append(f"{found.stats['iterations'].double().mean():.0f}{status} | {seconds:.2f}")
                if found.ok:
                    gap = max(gap, float(errors(found.field.values, known.field.values).max()))
            print(f"| {medium} | {k:g} | {n}² | {direct:.2f} | {' | '.join(row)} | {gap:.0e} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--wavenumbers", type=float, nargs="+", default=[15.0, 30.0, 60.0])
    parser.add_argument("--open-only", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.open_only:
        closed(given.cases)
    opened(given.cases, given.wavenumbers)

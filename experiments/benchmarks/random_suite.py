"""Are the error estimates true, and are there silent failures? Random boundary-value problems, drawn by a stated law.

    python experiments/benchmarks/random_suite.py --count 120 [--fallback none] [--verbose]

Law of problem i (seed i): 1-D with probability 0.6, else 2-D; the equation is Poisson, Δu + k²u = f with k uniform in
[1, 60], or Δu + u(u² − 1) = f; the box is (0, 1) or (0, 2π) per axis, (0, 1) for the last, whose solution is unique
there. u is a sum of 1–4 lines (1-D) or 1–3 products of a line per axis (2-D). A line is A·e(x)·sin(ωx + φ): A
log-uniform in [0.05, 1], cycles per box log-uniform in [0.5, 600] (2-D: [0.5, 100]), φ uniform, e = 1 (one half),
1 + ax or exp(−bx), a and b uniform in [−2, 2]. With probability one half a slow part is added: a cubic or A·exp(bx).
One 1-D problem in ten is a chirp sin(cx²) instead, c log-uniform in [5, 400] cycles.

Per problem: true relative L² error at 3000 random points against `error_estimate`. Silent failure: status OK with an
error above 1e-6 and above ten times the estimate. Coverage: share of the test points inside ±1.96 std.
"""

import argparse
import math
import time

import torch

from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget
from sciops.problems.allen_cahn import AllenCahn
from sciops.problems.helmholtz import Helmholtz
from sciops.problems.poisson import Poisson
from sciops.solvers.collocation import Equation
from sciops.solvers.gsmp import GSMP


class Law:
    """Draws of one problem."""

    def __init__(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(10_000 + seed)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.random, dtype=torch.float64))

    def log_uniform(self, low: float, high: float) -> float:
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def one_of(self, n: int) -> int:
        return int(torch.randint(n, (), generator=self.random))

    def line(self, variable: str, length: float, most: float) -> str:
        omega = 2 * math.pi * self.log_uniform(0.5, most) / length
        kind, slope = self.one_of(4), self.uniform(-2, 2)
        envelope = {2: f"(1+({slope:.6f})*{variable})*", 3: f"exp(-({slope:.6f})*{variable})*"}.get(kind, "")
        return f"{envelope}sin({omega:.9f}*{variable}+{self.uniform(0, 2 * math.pi):.6f})"

    def problem(self) -> tuple[Problem, Grid, str]:
        ndim = 1 if self.uniform(0, 1) < 0.6 else 2
        kind = self.one_of(3)
        length = 1.0 if kind == 2 or self.uniform(0, 1) < 0.5 else 2 * math.pi
        axes = "xy"[:ndim]
        if ndim == 1 and self.uniform(0, 1) < 0.1:
            formula = f"sin({2 * math.pi * self.log_uniform(5, 400) / length**2:.9f}*x**2)"
        else:
            terms = []
            for _ in range(1 + self.one_of(4 if ndim == 1 else 3)):
                waves = "*".join(self.line(axis, length, 600 if ndim == 1 else 100) for axis in axes)
                terms.append(f"{self.log_uniform(0.05, 1):.6f}*{waves}")
            if self.uniform(0, 1) < 0.5:
                a, b = self.uniform(-1, 1), self.uniform(-1, 1)
                slow = (f"({a:.6f})*(x/{length})**3", f"({a:.6f})*exp(({b:.6f})*{axes[-1]})")[self.one_of(2)]
                terms.append(slow)
            formula = "+".join(terms)
        made: Problem
        if kind == 0:
            made = Poisson(ndim=ndim, exact_solution=formula)
        elif kind == 1:
            made = Helmholtz(ndim=ndim, exact_solution=formula, wavenumber=self.uniform(1, 60))
        else:
            made = AllenCahn(ndim=ndim, exact_solution=formula)
        return made, Grid.box(33, 0.0, length, ndim=ndim), formula


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--fallback", default="chebyshev", choices=("chebyshev", "none"))
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    solver = GSMP(fallback=None if arguments.fallback == "none" else arguments.fallback)
    within, answered, silent, errors, coverage, alone = 0, 0, 0, [], [], 0
    begun = time.process_time()
    for seed in range(arguments.first, arguments.first + arguments.count):
        problem, grid, formula = Law(seed).problem()
        equation = Equation(problem.sample([0], grid))
        started = time.process_time()
        answer = solver.solve_case(equation, Budget())
        seconds = time.process_time() - started
        x = equation.interior_points(3000, torch.Generator().manual_seed(seed))
        exact = problem.exact(equation.case, x[None])
        assert exact is not None
        u, v = exact[0, 0], torch.cat([answer.u(part) for part in x.split(1000)])
        error = float((v - u).norm() / u.norm())
        ratio = (answer.error_estimate or float("nan")) / max(error, 1e-300)
        if answer.status is Status.OK:
            answered += 1
            errors.append(error)
            within += 0.1 <= ratio <= 10
            silent += error > 1e-6 and not ratio >= 0.1
            if answer.std is not None:
                alone += 1
                std = torch.cat([answer.std(part) for part in x.split(1000)])
                coverage.append(float(((v - u).abs() <= 1.96 * std).double().mean()))
        if arguments.verbose or not 0.1 <= ratio <= 10:
            print(
                f"{seed:4d} {type(problem).__name__:9s} {problem.ndim}-D {answer.status.value:10s} error {error:.1e} "
                f"estimate/error {ratio:8.2g} residual {answer.residual:.1e} points {answer.points:5d} "
                f"{seconds:5.1f} s {answer.stats['fallback'] or '-'} {formula} {answer.advice}",
                flush=True,
            )
    worst = sorted(errors)
    print(f"problems {arguments.count}, CPU-seconds {time.process_time() - begun:.0f} (one thread)")
    print(f"answered OK {answered}, of which without fallback {alone}; others said so")
    print(f"estimate within a factor 10: {within} of {answered} = {within / max(answered, 1):.1%}")
    print(f"silent failures: {silent}")
    if worst:
        middle, high = worst[len(worst) // 2], worst[int(0.95 * (len(worst) - 1))]
        print(f"relative L² error of those answered: median {middle:.1e}, 95 % {high:.1e}, worst {worst[-1]:.1e}")
    if coverage:
        print(f"mean coverage of the 95 % band (answers with a band): {sum(coverage) / len(coverage):.1%}")


if __name__ == "__main__":
    main()

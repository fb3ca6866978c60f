"""The contract of solvers."""

import copy
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sciops.compare.contract import SIZE, CheckResult, Clauses, instance, require, run, same, small_grid
from sciops.core.cases import Cases
from sciops.core.dataset import MemoryDataset
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import DataOnly, Problem
from sciops.core.solver import KINDS, Budget, FitReport, Solution, Solver
from sciops.problems.darcy import Darcy
from sciops.problems.poisson import Poisson


def check_solver(solver: Solver | type[Solver], problem: Problem | None = None) -> list[CheckResult]:
    """Refusals, shapes, statuses, determinism, batches, budgets, linearity, saving: on small cases of `problem`, or of
    the first of Poisson and Darcy that the solver accepts. A trained solver is fitted on 16 cases first."""
    solver = instance(solver) if isinstance(solver, type) else solver
    candidates = [problem] if problem is not None else [Poisson(modes=8), Darcy(law="lognormal")]
    accepted = [p for p in candidates if solver.refuses(p, small_grid(p)) is None]
    if not accepted:
        reason = solver.refuses(candidates[0], small_grid(candidates[0]))
        return [CheckResult("runs on a problem", False, f"refuses {type(candidates[0]).__name__}: {reason}")]
    return run(_SolverClauses(solver, accepted[0]).all())


class _SolverClauses:
    def __init__(self, solver: Solver, problem: Problem) -> None:
        self.solver, self.problem, self.grid = solver, problem, small_grid(problem)
        self.fresh = copy.deepcopy(solver)
        self.cases = problem.sample([11, 12, 13], self.grid)

    def all(self) -> Clauses:
        clauses = [
            ("says in a sentence what it refuses", self.refusals),
            ("names its kind", self.kind),
            *([("fits without touching its data", self.fit)] if self.solver.trained else []),
            ("answers on the asked grid, one status per case", self.shape),
            ("leaves the cases as they were", self.mutation),
            ("gives the same answer twice", self.determinism),
            ("solves cases together as it solves them alone", self.batches),
            ("answers on a finer grid", self.finer),
            ("reports one iteration honestly", self.one_iteration),
            ("survives a time budget of nothing", self.no_time),
            ("keeps a NaN input to its own case", self.nan_input),
            ("has a ladder of solvers", self.ladder),
        ]
        classical = self.solver.kind == "classical" and not self.solver.trained
        if self.problem.linear and classical and "f" in self.cases.inputs.channels:
            clauses.append(("is linear in the right-hand side", self.scaling))
        if self.solver.trained:
            clauses.append(("answers the same after save and load", self.save_and_load))
        return clauses

    def solve(self, cases: Cases, out: Grid | None = None, budget: Budget | None = None) -> Solution:
        out = out or self.grid
        cases = cases.on(self.solver.input_grid(cases.domain, out))
        self.solver.prepare(cases, out)
        return self.solver.solve(cases, out, budget)

    def kind(self) -> None:
        require(self.solver.kind in KINDS, f"kind must be one of {', '.join(KINDS)}; got {self.solver.kind!r}.")

    def refusals(self) -> None:
        for problem in (Poisson(), Poisson(ndim=1, condition="periodic"), Darcy(), DataOnly()):
            reason = self.solver.refuses(problem, small_grid(problem))
            good = reason is None or (isinstance(reason, str) and reason.strip() and "\n" not in reason)
            require(bool(good), f"refuses({type(problem).__name__}) must give None or one sentence; got {reason!r}.")
        missing = self.solver.needs - DataOnly().views()
        if missing:
            require(
                self.solver.refuses(DataOnly(), small_grid(DataOnly())) is not None,
                f"needs {', '.join(v.value for v in missing)} but does not refuse a problem that has data alone; "
                "call super().refuses().",
            )

    def fit(self) -> None:
        splits: list[MemoryDataset] = []
        for first, count in ((100, 12), (200, 4)):
            cases = self.problem.sample(list(range(first, first + count)), self.grid)
            splits.append(MemoryDataset(cases, self.problem.reference(cases).field))
        before = [split.fingerprint for split in splits]
        report = self.solver.fit(splits[0], splits[1], Budget())
        require(isinstance(report, FitReport), f"fit must return a FitReport; got {type(report).__name__}.")
        require([s.fingerprint for s in splits] == before, "fit changed the data that it was given.")
        require(self.solver.parameters() > 0, "parameters() is 0 after fit, though the solver is trained.")

    def shape(self) -> None:
        solution, channels = self.solve(self.cases), tuple(c.name for c in self.problem.outputs)
        field, n = solution.field, len(self.cases)
        require(field.domain == self.grid, f"the answer lives on {field.domain.describe()}, not on the asked grid.")
        require(field.channels == channels, f"the answer has channels {field.channels}; expected {channels}.")
        require(field.n == n, f"the answer holds {field.n} cases; expected {n}.")
        require(field.values.dtype == self.cases.dtype, f"the answer is {field.values.dtype}, the cases are not.")
        require(len(solution.status) == n, f"there are {len(solution.status)} statuses for {n} cases.")
        require(all(isinstance(s, Status) for s in solution.status), "every status must be a sciops Status.")
        for status, finite in zip(solution.status, field.finite(), strict=True):
            require(finite or status is not Status.OK, "a case with NaN is called OK; pass the Solution to checked().")
        require(solution.ok, f"the built-in cases end as {[s.value for s in solution.status]} under defaults.")

    def mutation(self) -> None:
        values = self.cases.inputs.values.clone()
        self.solve(self.cases)
        require(torch.equal(values, self.cases.inputs.values), "solve changed the inputs of the cases.")

    def determinism(self) -> None:
        found = []
        for _ in range(2):
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002 - libraries beneath a solver draw from the global generator
            torch.manual_seed(0)
            found.append(self.solve(self.cases).field.values)
        require(torch.equal(*found), "two solves of the same cases from equal seeds differ.")

    def batches(self) -> None:
        together = self.solve(self.cases).field.values
        alone = torch.cat([self.solve(self.cases[i]).field.values for i in range(len(self.cases))])
        gap = float((together - alone).abs().max() / together.abs().max())
        require(gap < 1e-5, f"a case solved alone differs from its batch by {gap:.1e} of the largest value.")

    def finer(self) -> None:
        out = small_grid(self.problem, 2 * SIZE - 1)
        solution = self.solve(self.cases, out)
        require(solution.field.domain == out, f"asked for {out.describe()}, got {solution.field.domain.describe()}.")

    def one_iteration(self) -> None:
        full, short = self.solve(self.cases), self.solve(self.cases, budget=Budget(maxiter=1))
        require(len(short.status) == len(self.cases), "with maxiter=1 there is not one status per case.")
        for i, status in enumerate(short.status):
            agrees = same(short.field.values[i], full.field.values[i], 1e-5)
            require(status is not Status.OK or agrees, "with maxiter=1 an unfinished answer is OK, not MAX_ITER.")

    def no_time(self) -> None:
        solution = self.solve(self.cases, budget=Budget(seconds=0.0))
        require(len(solution.status) == len(self.cases), "with a budget of 0 s there is not one status per case.")

    def nan_input(self) -> None:
        values = self.cases.inputs.values.clone()
        # In the first input for a learner, which may drop constant ones; in the forcing (the last) for the others.
        spoilt = values[1, 0, 0 if self.solver.trained else -1].flatten()
        spoilt[len(spoilt) // 2] = torch.nan
        spoiled = replace(self.cases, inputs=replace(self.cases.inputs, values=values), seeds=None)
        # Stay on the stored grid: moving the cases would spread the NaN before the solver sees it.
        solution = self.solver.solve(spoiled, self.grid, None)
        require(solution.status[1] is not Status.OK, "a case with NaN in its input is called OK.")
        rest = self.solver.solve(replace(self.cases[[0, 2]], seeds=None), self.grid, None).field.values
        require(same(solution.field.values[[0, 2]], rest, 1e-5), "a NaN in one case changes the other cases.")

    def ladder(self) -> None:
        rungs = list(self.solver.ladder())
        require(bool(rungs), "ladder() is empty; return at least (self,).")
        require(all(isinstance(rung, Solver) for rung in rungs), "ladder() must hold solvers.")
        require(len({rung.name for rung in rungs}) == len(rungs), "two rungs of the ladder share a name.")

    def scaling(self) -> None:
        values = self.cases.inputs.values.clone()
        values[:, :, self.cases.inputs.channels.index("f")] *= -3.0
        boundary = {name: -3.0 * data for name, data in self.cases.boundary.items()}
        scaled = replace(self.cases, inputs=replace(self.cases.inputs, values=values), boundary=boundary, seeds=None)
        plain = replace(self.cases, seeds=None)
        u, v = (self.solver.solve(c, self.grid, None).field.values for c in (plain, scaled))
        require(same(v, -3.0 * u, 1e-5), "scaling f by −3 does not scale the answer of a linear problem by −3.")

    def save_and_load(self) -> None:
        expected = self.solve(self.cases).field.values
        with tempfile.TemporaryDirectory() as folder:
            self.solver.save(Path(folder))
            self.fresh.load(Path(folder))
        trained, self.solver = self.solver, self.fresh
        found = self.solve(self.cases).field.values
        self.solver = trained
        require(torch.equal(found, expected), "a loaded solver answers differently from the one that was saved.")

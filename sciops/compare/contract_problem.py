"""The contract of problems."""

import dataclasses

import torch
from torch import Tensor

from sciops.compare.contract import SIZE, CheckResult, Clauses, instance, require, run, same, small_grid
from sciops.core.cases import Cases
from sciops.core.config import build, spec
from sciops.core.problem import Problem
from sciops.core.solver import View


def check_problem(problem: Problem | type[Problem]) -> list[CheckResult]:
    """Facts, round trip through files, generator, one residual in every calculus, system, trusted reference."""
    problem = instance(problem) if isinstance(problem, type) else problem
    return run(_ProblemClauses(problem).all())


class _ProblemClauses:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def all(self) -> Clauses:
        clauses = [
            ("is a frozen dataclass that files can name", self.round_trip),
            ("states its channels, boundary and views", self.facts),
        ]
        if type(self.problem).sample is Problem.sample:
            return clauses
        clauses += [
            ("one seed is one case, in any batch", self.sampling),
            ("is rebuilt on another grid from its seed", self.rebuild),
            ("formulas agree with the stored inputs", self.formulas),
        ]
        if View.RESIDUAL in self.problem.views():
            clauses.append(("is as linear as it says", self.linearity))
        if View.SYSTEM in self.problem.views() and View.RESIDUAL in self.problem.views():
            if self.problem.galerkin:
                clauses.append(("the system is what it claims", self.system_alone))
                clauses.append(("the system approaches the residual", self.galerkin))
            else:
                clauses.append(("the system is the residual", self.system))
            clauses.append(("the symbol is the residual", self.symbol))
        elif View.SYSTEM in self.problem.views():
            clauses.append(("the system is what it claims", self.system_alone))
        if type(self.problem).reference is not Problem.reference:
            clauses.append(("the reference solves the equation", self.reference))
        return clauses

    def cases(self, n: int = SIZE, seeds: tuple[int, ...] = (21, 22, 23)) -> Cases:
        return self.problem.sample(list(seeds), small_grid(self.problem, n))

    def round_trip(self) -> None:
        kind = type(self.problem)
        frozen = dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        require(frozen, f"{kind.__name__} must be decorated with @dataclass(frozen=True).")
        again = build(spec(self.problem), Problem)
        require(again == self.problem, f"rebuilt from its own arguments it is another problem: {again}.")

    def facts(self) -> None:
        problem = self.problem
        require(bool(problem.inputs) and bool(problem.outputs), "inputs and outputs must each name a channel.")
        require(len(problem.boundary.kinds) == problem.ndim, "boundary must have one pair of kinds per axis.")
        if View.SYSTEM in problem.views():
            require(problem.linear, "a nonlinear problem must not offer SYSTEM; set linear = False.")
        require(bool(problem.describe()), "the docstring must open with the equation.")

    def sampling(self) -> None:
        cases, again = self.cases(), self.cases()
        require(cases.seeds is not None, "sample must store the seeds in Cases(seeds=…), so that cases can be rebuilt.")
        require(cases.domain == small_grid(self.problem), "sample must put the cases on the grid that it was given.")
        require(bool(torch.isfinite(cases.inputs.values).all()), "sample draws values that are not finite.")
        require(torch.equal(cases.inputs.values, again.inputs.values), "equal seeds give different cases.")
        alone = self.cases(seeds=(22,))
        require(
            torch.equal(alone.inputs.values[0], cases.inputs.values[1]),
            "a case depends on its batch; draw from generator(seed) of each case alone.",
        )
        other = self.cases(seeds=(24,))
        changed = [(other.inputs.values, alone.inputs.values)]
        changed += [(other.params[k], alone.params[k]) for k in alone.params]
        require(any(not torch.equal(a, b) for a, b in changed), "another seed gives the same case.")
        single = self.problem.sample([21], cases.domain, torch.float32)
        require(single.dtype is torch.float32, "sample ignores its dtype.")
        require(same(single.inputs.values, cases.inputs.values[:1].float(), 1e-5), "the dtype changes the case.")

    def rebuild(self) -> None:
        moved, fresh = self.cases().on(small_grid(self.problem, 13)), self.cases(13)
        require(moved.provenance == "generated", "cases with seeds are interpolated instead of generated anew.")
        require(torch.equal(moved.inputs.values, fresh.inputs.values), "on(grid) differs from sampling on that grid.")

    def formulas(self) -> None:
        cases = self.cases()
        found = cases.at(cases.domain.points()[None])
        for name, how in found.exactness.items():
            values = getattr(found, name).detach().reshape(len(cases), *cases.domain.shape)
            require(same(values, cases.input(name), 1e-8), f"{name} at the grid's points ({how}) is not the stored.")

    def linearity(self) -> None:
        cases = self.cases()
        u, v = (torch.randn(len(cases), *cases.domain.shape, dtype=cases.dtype) for _ in range(2))
        R = lambda w: self.problem.residual_on_grid(cases, w)  # noqa: E731 - reads like the formula
        affine = same(R(0.5 * u + 0.5 * v), 0.5 * R(u) + 0.5 * R(v), 1e-9)
        require(affine or not self.problem.linear, "linear is True but the residual is not affine in u.")
        require(not affine or self.problem.linear, "linear is False but the residual is affine in u: SYSTEM is lost.")

    def system(self) -> None:
        cases = self.cases()
        A, b = self.problem.system(cases)
        again, zero = (
            (Problem.matrix(self.problem, cases), Problem.right_hand_side(self.problem, cases)),
            torch.zeros_like(b),
        )
        v = torch.randn_like(b)
        gap = (A.matvec(v) - b) - (again[0].matvec(v) - again[1])
        scale = float(A.matvec(v).abs().max())
        require(float(gap.abs().max()) < 1e-9 * scale, "system() is not the one that the residual implies.")
        require(A.tags == again[0].tags, f"system() claims {set(A.tags)}; measured are {set(again[0].tags)}.")
        require(A.nullspace == again[0].nullspace, "system() claims another null space than is measured.")
        require(self.problem.embed(cases, zero).shape[1:] == cases.domain.shape, "embed misses the grid's shape.")

    def system_alone(self) -> None:
        """A problem given by its matrix has no residual to compare with, but tags that can be wrong."""
        cases = self.cases()
        A, b = self.problem.system(cases)
        u, v = (torch.randn(b.shape, dtype=b.dtype, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
        Au, Av = A.matvec(u), A.matvec(v)
        gap = ((u * Av).flatten(1).sum(1) - (v * Au).flatten(1).sum(1)).abs()
        scale = u.flatten(1).norm(dim=1) * Av.flatten(1).norm(dim=1)
        require("symmetric" not in A.tags or bool((gap <= 1e-11 * scale).all()), "uᵀAv and vᵀAu differ.")
        energy = (u * Au).flatten(1).sum(1)
        require("positive" not in A.tags or bool((energy >= 0).all()), "uᵀAu is negative for some u.")
        constants = A.matvec(v - A.project(v)).flatten(1).norm(dim=1)
        require(bool((constants <= 1e-11 * Av.flatten(1).norm(dim=1)).all()), "A does not vanish on its null space.")
        residual = self.problem.residual_on_grid(cases, self.problem.embed(cases, v))
        require(same(residual, Av - A.project(b), 1e-11), "residual_on_grid is not A v − b.")

    def galerkin(self) -> None:
        """Finite elements: on a smooth function, away from the walls, A v − b tends to the residual with the mesh."""
        gaps = []
        for n in (SIZE, 2 * SIZE - 1):
            cases = self.cases(n)
            x = cases.domain.points()
            u = torch.cos(x @ torch.arange(1.0, x.shape[1] + 1, dtype=x.dtype)).reshape(cases.domain.shape)
            u = u.expand(len(cases), *u.shape)
            inner = (slice(None), *(slice(2, -2),) * cases.domain.ndim)
            R = [f(cases, u)[inner] for f in (self.problem.residual_on_grid, self.plain_residual)]
            gaps.append(float((R[0] - R[1]).abs().max() / R[1].abs().max()))
        require(gaps[1] < 0.5 * gaps[0], f"A v − b does not approach the residual: {gaps[0]:.1e}, then {gaps[1]:.1e}.")

    def plain_residual(self, cases: Cases, u: Tensor) -> Tensor:
        """The residual of the calculus."""
        return Problem.residual_on_grid(self.problem, cases, u)

    def symbol(self) -> None:
        cases = self.cases()
        x = torch.rand(len(cases), 20, self.problem.ndim, dtype=cases.dtype, generator=torch.Generator().manual_seed(0))
        symbol = self.problem.symbol(cases, x)

        def u(p: Tensor) -> Tensor:
            return torch.exp(0.7 * p.sum(-1))  # ∂^α u = 0.7^|α| u

        formal = sum(c * 0.7 ** sum(alpha) * u(x) for alpha, c in symbol.terms.items()) + symbol.constant
        direct = self.problem.residual_at(cases, u, x)
        formal = torch.as_tensor(formal, dtype=x.dtype).expand(direct.shape)
        require(same(formal.detach(), direct.detach(), 1e-8), "Symbol and Autodiff give different residuals.")

    def reference(self) -> None:
        cases = self.cases(2 * SIZE - 1)
        solution = self.problem.reference(cases)
        require(solution.ok, f"the reference ends as {[s.value for s in solution.status]}.")
        measured = {View.RESIDUAL, View.SYSTEM} & self.problem.views()  # flows in time have no residual to measure
        for fact in (("residual",) if measured else ()) + ("label_error", "label_method"):
            require(fact in solution.stats, f"the reference must state stats['{fact}'].")
        require(float(torch.as_tensor(solution.stats["label_error"]).min()) >= 0, "label_error must not be negative.")
        alone = self.problem.reference(cases[1]).field.values[0]
        require(same(alone, solution.field.values[1], 1e-7), "the reference of a case depends on its batch.")
        if View.RESIDUAL in self.problem.views() and len(self.problem.outputs) == 1:
            u = solution.field.values[:, 0, 0]
            sizes = [self.problem.residual_on_grid(cases, w).norm() for w in (u, torch.zeros_like(u))]
            require(float(sizes[0]) < 0.5 * float(sizes[1]), "the reference hardly lowers the residual of u = 0.")

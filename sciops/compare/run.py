"""sciops compare: matrix, fits, solves, clocks, tables. Interrupt it at will; the same command resumes."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from sciops.compare import shifted
from sciops.compare.judge import bring, failed_row, filled, judge, truth_residual
from sciops.compare.memory import peak_memory
from sciops.compare.meter import clock, measure, once
from sciops.compare.plan import Contestant, Plan, fingerprint
from sciops.compare.results import Results, Row, provenance, write_atomically
from sciops.compare.sources import Splits
from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.solver import Budget, Solution, Solver
from sciops.data.strided import Strided, strides
from sciops.metrics.base import Metric
from sciops.metrics.catalogue import named

Say = Callable[[str], None]


class Comparison:
    """The state of one run in its results folder: rows/ (finished rows), fits/ (checkpoints), fields/ (pictures)."""

    def __init__(self, plan: Plan, splits: Splits, out: Path, say: Say) -> None:
        self.plan, self.splits, self.out, self.say = plan, splits, out, say
        self.metrics: list[Metric] = [named(name) for name in plan.metrics]
        self.data_digest = fingerprint({name: data.fingerprint for name, data in splits.named().items()})
        self.solvers: dict[str, Solver] = {}
        self.dtype = splits.test.cases(slice(0, 1)).dtype
        self.limits = {c.name: c.solve or plan.solve for c in plan.solvers}
        counts = {c.name: [n for n in (c.test_cases, plan.test_cases) if n is not None] for c in plan.solvers}
        self.counts = {name: min(given, default=None) for name, given in counts.items()}
        self._fine_grid()  # refuse grids that do not divide it now, before any training

    # ---- before any computation

    def matrix(self) -> list[tuple[str, str]]:
        """Which solver can run on this problem, and for each no, why and what would make it a yes."""
        problem, grid = self.splits.test.problem, self.splits.test.grid
        return [(c.name, c.make(0).refuses(problem, grid) or "") for c in self.plan.solvers]

    # ---- rows

    def rows(self) -> list[Row]:
        """Fit and solve everything that is not finished yet; a solver that crashes becomes a row that says so."""
        refusals = dict(self.matrix())
        rows = []
        for contestant in self.plan.solvers:
            for seed in contestant.seeds:
                if refusals[contestant.name]:
                    rows.append(self._row(contestant, contestant.make(0), seed, "", self.splits.test, "refused"))
                    rows[-1].message = refusals[contestant.name]
                else:
                    rows += self._run(contestant, seed)
        return rows

    def _run(self, contestant: Contestant, seed: int) -> list[Row]:
        solver = contestant.make(seed)
        row = self._row(contestant, solver, seed, "", self.splits.test)
        done = self._load(row)
        if done is not None and done.status == "failed":
            done = None  # try again: the cause may have been mended
        if done is None:
            try:
                report_seconds = self._fit(contestant, solver, seed, row)
                row = self._judged(row, solver, self.splits.test)
                row.fit_seconds, row.parameters = report_seconds, solver.parameters()
            except Exception as error:  # a contestant's failure is a row, never the end of the comparison
                row = failed_row(row, error)
            self._store(row)
        else:
            row = done
            if solver.trained and row.status in ("ok", "partial"):
                solver.load(self._fit_folder(contestant, seed))
            self.say(f"{contestant.name} (seed {seed}): kept from {self.out}")
        self.solvers[row.key] = solver
        return [row, *self._ladder(contestant, solver, seed, row)]

    def _ladder(self, contestant: Contestant, solver: Solver, seed: int, own: Row) -> list[Row]:
        """The other settings of the method, for the work–precision curve."""
        rows: list[Row] = []
        if own.status == "failed" or not contestant.ladder:
            return rows
        for rung in solver.ladder():
            if rung is solver or rung.name == solver.name:
                continue
            setting = rung.name.removeprefix(solver.name).strip()
            row = self._row(contestant, rung, seed, setting, self.splits.test)
            row.default = False
            done = self._load(row)
            if done is None:
                try:
                    done = self._judged(row, rung, self.splits.test)
                    done.parameters = rung.parameters()
                except Exception as error:
                    done = failed_row(row, error)
                self._store(done)
            self.solvers[done.key] = rung
            rows.append(done)
        return rows

    def _fit(self, contestant: Contestant, solver: Solver, seed: int, row: Row) -> float:
        """Seconds of training; resumes from the checkpoint of an interrupted fit where the solver can."""
        if not solver.trained:
            return 0.0
        folder = self._fit_folder(contestant, seed)
        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(solver, "workdir"):
            solver.workdir = folder
        self.say(f"{contestant.name} (seed {seed}): training")
        torch.manual_seed(seed)
        if self.splits.train is None or self.splits.valid is None:
            raise UsageError(f"{contestant.name} is trained, but the data has no train and valid splits.")
        report = solver.fit(self.splits.train, self.splits.valid, Budget(seconds=self.plan.fit_seconds))
        solver.save(folder)
        if report.advice:
            self.say(f"{contestant.name}: {report.advice}")
        return report.seconds

    def _judged(self, row: Row, solver: Solver, data: Dataset) -> Row:
        self.say(f"{row.label} (seed {row.seed}): solving {row.n_cases} cases on {data.grid.describe()} ({row.split})")
        first = bring(data.cases(slice(0, 1)), solver, data.grid)
        row.setup_seconds = clock(lambda: solver.prepare(first, data.grid))
        judged = judge(solver, data, self.metrics, self.plan.batch, self.limits[row.solver], self.counts[row.solver])
        if row.split == "test":
            self._keep(row, judged.fields)
        return filled(row, judged)

    # ---- clocks

    def clocks(self, rows: list[Row]) -> None:
        """Latency of one solve and seconds per case in a batch, interleaved over all rows with an answer.

        Per-instance solvers take one case at a time, so the solves that were judged give their seconds per case, and
        their latency too where they took longer than `timing.once`. So does the one solve of a single test case.
        """
        answered = [row for row in rows if row.status in ("ok", "partial") and row.key in self.solvers]
        if all(row.latency and row.throughput for row in answered):
            return
        data = self.splits.test
        count = min(self.plan.batch, len(data))
        for attribute, n in (("latency", 1), ("throughput", count)):
            timed = [row for row in answered if not self._known(row, attribute)]
            calls: dict[str, Callable[[], object]] = {}
            for row in timed:
                solver = self.solvers[row.key]
                cases = bring(data.cases(slice(0, n)), solver, data.grid)
                calls[row.key] = partial(solver.solve, cases, data.grid, self.limits[row.solver])
            if calls:
                self.say(f"timing {len(calls)} settings, {n} case(s) a call, repeats interleaved")
            timings = measure(calls, self.plan.timing)
            for row in timed:
                t = timings[row.key]
                found = {k: v / n for k, v in t.as_dict().items() if k != "repeats"} | {"repeats": float(t.repeats)}
                setattr(row, attribute, found)
                if attribute == "latency":
                    row.matrix_setup_seconds = _matrix_setup(calls[row.key])
        for row in answered:
            self._store(row)

    def _known(self, row: Row, attribute: str) -> bool:
        """Set a timing that needs no further run: a batch of one is a single solve, per-instance solves are judged."""
        if attribute == "throughput" and min(self.plan.batch, len(self.splits.test)) == 1:
            row.throughput = row.latency
            return True
        alone = row.kind == "per-instance" or len(self.splits.test) == 1
        if not alone or not row.judged_seconds:
            return False
        seconds = sum(row.judged_seconds) / len(row.judged_seconds)
        if attribute == "throughput" or seconds > self.plan.timing.once:
            setattr(row, attribute, once(seconds))
            return True
        return False

    def memory(self, rows: list[Row]) -> None:
        """Peak memory of one batch, each in a fresh process; own settings only, one seed. One case is the batch of
        solvers that see one at a time."""
        data = self.splits.test
        for row in rows:
            first_seed = row.seed == min(r.seed for r in rows if r.solver == row.solver)
            if row.memory_bytes is None and row.default and first_seed and row.status == "ok":
                self.say(f"{row.label}: peak memory in a fresh process")
                solver = self.solvers[row.key]
                count = 1 if row.kind == "per-instance" else min(self.plan.batch, row.n_cases)
                cases = bring(data.cases(slice(0, count)), solver, data.grid)
                row.memory_bytes = peak_memory(solver, cases, data.grid, self.limits[row.solver])
                self._store(row)

    # ---- the two smaller tables

    def transfer(self, rows: list[Row]) -> list[Row]:
        """Every solver on coarser and finer test grids, with the error of interpolating the truth beside it.

        Per-instance solvers choose their own points and never saw a grid: they have nothing to transfer.
        """
        rows = [row for row in rows if row.kind != "per-instance"]
        targets: dict[str, Dataset] = dict(self.splits.extra)
        test, count, fine = self.splits.test, self.plan.transfer_cases, self._fine_grid()
        whole = None if fine is None else shifted.solved_on(test, fine, count)
        for factor in self.plan.transfer:
            grid = shifted.resized_grid(self._home, factor)
            if fine is None:
                made = shifted.on_grid(test, grid, count)
            else:
                made = None if whole is None else Strided(whole, grid)
            if made is not None:
                targets[f"grid ×{factor:g}"] = made
        return self._elsewhere(rows, targets)

    @property
    def _home(self) -> Grid:
        """The grid of the training, or of the test where nothing is trained."""
        return (self.splits.test if self.splits.train is None else self.splits.train).grid

    def _fine_grid(self) -> Grid | None:
        """Where the cases of the resolution transfer are made, if all at once; every grid of the table divides it."""
        if self.plan.transfer_refine is None:
            return None
        fine = self._home.refined(self.plan.transfer_refine)
        for factor in self.plan.transfer:
            strides(fine, shifted.resized_grid(self._home, factor))
        return fine

    def shifts(self, rows: list[Row]) -> list[Row]:
        """Every learned solver on named shifts of the law of cases."""
        made = {}
        for name, overrides in self.plan.shifts.items():
            made[f"shift {name}"] = shifted.shifted(self.splits.test, overrides, self.plan.transfer_cases)
        learned = [row for row in rows if row.kind == "learned"]
        return self._elsewhere(learned, made, reference=False)

    def _elsewhere(self, rows: list[Row], targets: Mapping[str, Dataset], reference: bool = True) -> list[Row]:
        found: list[Row] = []
        contestants = {c.name: c for c in self.plan.solvers}
        for split, data in targets.items():
            if reference and not self.splits.extra:
                row = shifted.transfer_reference_row(self.splits.test, data, split)
                found.append(replace(row, protocol=self.plan.protocol))
            for own in rows:
                if not own.default or own.status not in ("ok", "partial"):
                    continue
                solver = self.solvers[own.key]
                row = self._row(contestants[own.solver], solver, own.seed, "", data)
                row.split = split
                refine = self.plan.transfer_refine if reference else None
                row.key = f"{own.key}-{fingerprint(split if refine is None else (split, refine))}"
                done = self._load(row)
                if done is None:
                    try:
                        reason = solver.refuses(data.problem, data.grid)
                        done = self._judged(row, solver, data) if not reason else row
                        if reason:
                            done.status, done.message = "refused", reason
                    except Exception as error:
                        done = failed_row(row, error)
                    self._store(done)
                found.append(done)
        return found

    # ---- files

    def _row(
        self, contestant: Contestant, solver: Solver, seed: int, setting: str, data: Dataset, status: str = "ok"
    ) -> Row:
        identity = [contestant.name, contestant.digest, setting, seed, self.data_digest]
        # Timings and fits depend on these settings of the plan too.
        identity += [self.plan.fit_seconds, vars(self.limits[contestant.name]), self.plan.metrics]
        identity += [self.counts[contestant.name]]
        return Row(
            solver=contestant.name,
            setting=setting,
            seed=seed,
            kind="learned" if solver.trained else solver.kind,
            needs=sorted(v.value for v in solver.needs),
            grid=data.grid.describe(),
            status=status,
            n_cases=min(len(data), self.counts[contestant.name] or len(data)),
            protocol=self.plan.protocol,
            key=hashlib.sha256(repr(identity).encode()).hexdigest()[:16],
        )

    def _fit_folder(self, contestant: Contestant, seed: int) -> Path:
        identity = [contestant.digest, seed, self.data_digest, self.plan.fit_seconds]
        return self.out / "fits" / f"{_slug(contestant.name)}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:8]}"

    def _load(self, row: Row) -> Row | None:
        path = self.out / "rows" / f"{row.key}.json"
        if not path.is_file():
            return None
        # What the class says of itself may have changed since; what was measured stays.
        return replace(Row.from_json(path.read_text()), kind=row.kind, needs=row.needs)

    def _store(self, row: Row) -> None:
        write_atomically(self.out / "rows" / f"{row.key}.json", row.to_json())

    def _keep(self, row: Row, fields: Field) -> None:
        folder = self.out / "fields"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(fields.values.cpu(), folder / f"{row.key}.pt")


def compare(plan: Plan, splits: Splits, out: Path, say: Say) -> Results:
    """Run the whole comparison and return its results; every finished row is on disk the moment it is done."""
    started = time.perf_counter()
    run = Comparison(plan, splits, out, say)
    matrix = run.matrix()
    if all(reason for _, reason in matrix):
        raise UsageError(f"{plan.name}: no solver of the plan can run: " + "; ".join(f"{n}: {r}" for n, r in matrix))
    rows = run.rows()
    run.clocks(rows)
    if plan.memory:
        run.memory(rows)
    transfer = run.transfer(rows)
    shifts = run.shifts(rows)
    error = splits.test.label_error
    facts = provenance(plan.digest, run.data_digest)
    facts["wall_seconds_of_this_run"] = round(time.perf_counter() - started, 1)
    facts["precision"] = str(run.dtype).removeprefix("torch.")
    return Results(
        name=plan.name,
        title=plan.title,
        problem=splits.name,
        equation=splits.test.problem.describe(),
        headline=plan.headline,
        metrics=list(plan.metrics),
        rows=rows,
        matrix=matrix,
        transfer=transfer,
        shifts=shifts,
        floor=None if error is None else float(error.double().mean()),
        generation_seconds=splits.generation_seconds,
        protocol=plan.protocol,
        truth_residual=truth_residual(splits.test, plan.batch, plan.test_cases) if "residual" in plan.metrics else None,
        provenance=facts,
    )


def _matrix_setup(call: Callable[[], object]) -> float | None:
    """Seconds of one more call that went into what depends on the matrix of the case alone, where it is known."""
    solution = call()
    seconds = solution.stats.get("matrix_setup_seconds") if isinstance(solution, Solution) else None
    return None if seconds is None else float(seconds)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)

"""Deep conjugate directions: flexible CG whose search directions a network proposes, trained without solutions."""

import copy
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sciops.core.cases import Cases
from sciops.core.config import resolve_class
from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, LinearSolution, Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget, FitReport
from sciops.numerics.flexible_cg import FlexibleCG
from sciops.solvers.checkpoint import KEY, read_model
from sciops.solvers.discrete import GridSolver
from sciops.solvers.operator import model_file
from sciops.solvers.operator_facts import check_net, dtype_of

NETWORK = "sciops.models.dcdm.DCDM"
LOSS = "sciops.solvers.direction_losses.EnergyContraction"


@dataclass(frozen=True)
class NetworkPreconditioner:
    """r ↦ f(r) of a network (n, 1, *space), active → (n, 1, *space), in the network's precision; cells without a row
    are zero before and after. Neither linear nor symmetric: for `FlexibleCG` only."""

    net: nn.Module
    broadcasts: bool = True

    def setup(self, A: LinearOperator) -> Callable[[Tensor], Tensor]:
        known = getattr(self.net, "ndim", len(A.space))
        if known != len(A.space):
            raise UsageError(
                f"This network was made for {known}-D systems, but the system is {len(A.space)}-D; train one with "
                f"ndim={len(A.space)}."
            )
        active = A.active if isinstance(A, FaceOperator) and not bool(A.active.all()) else None
        net, dtype = self.net.to(A.device).eval(), dtype_of(self.net)

        def apply(r: Tensor) -> Tensor:
            # float32 ends at 1e38 and 1e-38: residuals come in at unit size, whatever that of b is.
            top = r.flatten(1).abs().amax(1)
            top = torch.where(torch.isfinite(top) & (top > 0), top, 1.0).reshape(-1, *(1,) * (r.dim() - 1))
            with torch.no_grad():
                return net((r / top).to(dtype)[:, None], active)[:, 0].to(r.dtype) * top

        return apply


class ConjugateDirections(GridSolver):
    """A u = b by x ← x + (qᵀr/qᵀAq) q,  q = f_θ(r) made A-conjugate to the last `window` directions.

    Method: flexible CG in float64 (`sciops.numerics.flexible_cg`, with guards, Jacobi as fallback and certified
    residuals) around a network in float32 that sees the residual alone. `fit` needs no solutions: the matrices of the
    training cases with b = A x for random x, and residuals of the solver itself; the truth of the split is not read.

    net       {class_path, init_args} or a module; None is the published "64" network without biases; ndim comes from
              the problem
    loss      of `sciops.solvers.direction_losses`: EnergyContraction, or ResidualContraction as published; the latter
              has no upper bound and with `harvest` the few residuals that it makes worse rule the training
    window    directions kept; 2 as published
    steps, batch_size, lr, seed   optimiser steps of so many systems each, one-cycle with its peak at lr
    harvest   train on residuals after up to so many solver steps as well; 0: on b = A x alone
    matrices  at most so many of the training cases lend their matrix (memory: float64 copies)
    resolution, tol, maxiter, batch   as in GridSolver

    Cost of an iteration: one network pass, some 10⁴ matrix applications of arithmetic. Iterations grow with the grid,
    because the network sees as far as its receptive radius; unseen geometry costs several times those of the
    training. Ends as MAX_ITER where the network is poor; never wrong, as the true residual decides.
    Reference: Kaneda, Akar, Chen, Kala, Hyde, Teran, ICML 2023.
    """

    trained = True

    def __init__(
        self,
        net: dict[str, Any] | nn.Module | None = None,
        loss: dict[str, Any] | str = LOSS,
        window: int | None = 2,
        steps: int = 1500,
        batch_size: int = 10,
        lr: float = 2e-3,
        harvest: int = 8,
        matrices: int = 64,
        seed: int = 0,
        device: str = "auto",
        resolution: float = 1.0,
        tol: float = 1e-8,
        maxiter: int = 1000,
        batch: int = 32,
    ) -> None:
        super().__init__(resolution, tol, maxiter, batch)
        if min(steps, batch_size, matrices) < 1:
            raise UsageError(
                f"steps, batch_size and matrices must be 1 or more; got {steps}, {batch_size}, {matrices}."
            )
        if isinstance(net, dict):
            check_net(net)
        self.net_spec, self.window, self.steps, self.batch_size = net, window, steps, batch_size
        self.matrices, self.device = matrices, device
        self.seed = seed
        self.settings = {"loss": loss, "lr": lr, "harvest": harvest, "seed": seed}
        self.module: Any = None

    @property
    def method(self) -> str:
        kept = "all" if self.window is None else self.window
        return type(self).__name__ + ("" if self.window == 2 else f" k={kept}")

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        reason = super().refuses(problem, grid)
        known = self._ndim()
        if reason is None and known is not None and known != grid.ndim:
            return f"its network was made for {known}-D systems and this grid is {grid.ndim}-D; train one of that size"
        return reason

    # ---- training

    def fit(self, train: Dataset, val: Dataset, budget: Budget | None = None) -> FitReport:
        """Self-supervised on the matrices of both splits; fewer steps where `budget.seconds` does not hold them all."""
        import lightning.pytorch as pl
        from lightning.pytorch.callbacks import RichProgressBar

        from sciops.data.residual_data import stream_loader
        from sciops.data.residual_sources import Manufactured
        from sciops.solvers.training import Curves, TimeLimit, quiet

        started = time.perf_counter()
        seconds = (budget and budget.seconds) or float("inf")
        terminal = sys.stderr.isatty()
        with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng(), quiet():
            module = self._new_module(len(train.grid.shape))
            sources = [Manufactured(self._operators(split)) for split in (train, val)]
            module.facts["space"] = list(sources[0].space)
            trial = sources[0].sample(self.batch_size, torch.Generator().manual_seed(0))
            steps = affordable(module, trial, self.steps, seconds - (time.perf_counter() - started))
            epochs = min(10, steps)
            per_epoch = steps // epochs
            loaders = [
                stream_loader(source, count, self.batch_size, self.seed, name, onward=name == "train")
                for source, count, name in zip(
                    sources, (per_epoch * self.batch_size, 2 * self.batch_size), ("train", "valid"), strict=True
                )
            ]
            limit, curves = TimeLimit(seconds, started), Curves()
            trainer = pl.Trainer(
                max_epochs=epochs, accelerator=self.device, devices=1,
                callbacks=[limit, curves, *([RichProgressBar(leave=False)] if terminal else [])],
                logger=False, enable_checkpointing=False, enable_progress_bar=terminal, enable_model_summary=False,
                num_sanity_val_steps=0, default_root_dir=scratch,
            )  # fmt: skip
            trainer.fit(module, loaders[0], loaders[1])
        self.module = module.eval().cpu()
        short = limit.reached or steps < self.steps
        done = f"{trainer.global_step} of {self.steps} steps fitted into the budget of {seconds:g} s"
        return FitReport(
            seconds=time.perf_counter() - started,
            steps=trainer.global_step,
            status=Status.BUDGET if short else Status.OK,
            parameters=self.parameters(),
            curves=curves.values,
            advice=f"{done}; a larger one may save iterations." if short else "",
        )

    def _operators(self, split: Dataset) -> LinearOperator:
        """Matrices of some cases of a split; one of them where all cases share it."""
        shared = split.problem.constant_coefficient is not None
        cases = split.cases(slice(0, 1 if shared else min(self.matrices, len(split))))
        return split.problem.matrix(self._at_work(cases, cases.domain))

    def _new_module(self, ndim: int, spec: dict[str, Any] | None = None) -> Any:
        from sciops.solvers.conjugate_directions_module import ConjugateDirectionsModule

        return ConjugateDirectionsModule(spec or self._spec(ndim), **self.settings)  # type: ignore[arg-type]

    def _spec(self, ndim: int) -> dict[str, Any] | nn.Module:
        if isinstance(self.net_spec, nn.Module):
            return copy.deepcopy(self.net_spec)
        given = self.net_spec or {"class_path": NETWORK}
        return {**given, "init_args": {"ndim": ndim} | dict(given.get("init_args") or {})}

    def _ndim(self) -> int | None:
        """Axes that the network is made for, as far as that is known."""
        if self.module is not None:
            return getattr(self.module.net, "ndim", None)
        if isinstance(self.net_spec, nn.Module):
            return getattr(self.net_spec, "ndim", None)
        return ((self.net_spec or {}).get("init_args") or {}).get("ndim")

    # ---- solving

    def as_preconditioner(self, A: LinearOperator) -> Callable[[Tensor], Tensor]:
        """The map r ↦ f(r) on residuals (n, *space) of this operator."""
        return NetworkPreconditioner(self._require().net).setup(A)

    def linear_solver(self) -> FlexibleCG:
        """The trained method as a LinearSolver, for systems from anywhere."""
        return FlexibleCG(preconditioner=NetworkPreconditioner(self._require().net), window=self.window)

    def set_up(self, A: LinearOperator, cases: Cases) -> Any:
        solver = self.linear_solver()
        return solver, solver.setup(A)

    def solve_system(self, state: Any, b: Tensor, tol: float, maxiter: int) -> LinearSolution:
        solver, ready = state
        return solver.solve(ready, b, tol=tol, maxiter=maxiter)

    # ---- files

    def parameters(self) -> int:
        return 0 if self.module is None else sum(p.numel() for p in self.module.net.parameters())

    def save(self, path: str | Path) -> None:
        """One file of tensors and plain values."""
        module = self._require()
        content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), KEY: module.facts}
        target = model_file(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        torch.save(content, temporary)
        temporary.replace(target)

    def load(self, path: str | Path) -> None:
        """Restore what `save` wrote, or a checkpoint of `sciops fit`; another network than a given `net` raises
        UsageError, and without a given one the file names it (classes of sciops or of imported modules only)."""
        content = read_model(model_file(path))
        spec = content[KEY].get("net")
        if self.net_spec is None:
            if spec is None:
                raise UsageError(f"{path} was trained from a module object; give that module as net.")
            resolve_class(spec["class_path"], trusted=False)
            module = self._new_module(0, spec)
        else:
            module = self._new_module(int((spec or {}).get("init_args", {}).get("ndim", 2)))
        module.require_own(content, str(path))
        module.load_state_dict(content["state_dict"])
        module.facts = content[KEY]
        self.module = module.eval()
        self._kept = (None, {})

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> "ConjugateDirections":
        """The solver with the network of a file."""
        solver = cls(**options)
        solver.load(path)
        return solver

    def _require(self) -> Any:
        if self.module is None:
            raise UsageError(f"{self.name} has no weights yet: call fit(train, val) or load(path) first.")
        return self.module


def affordable(module: Any, batch: Any, steps: int, seconds: float) -> int:
    """How many steps, at most `steps`, fit into `seconds`, from two timed ones of a copy; at least one."""
    if seconds == float("inf"):
        return steps
    from sciops.solvers.conjugate_directions_module import active_cells, harvested

    trial, harvest, marks = copy.deepcopy(module), module.hparams["harvest"], []
    for _ in range(2):
        started = time.perf_counter()
        trial.loss(trial(batch.b, active_cells(batch.A)), batch.b, batch.A, batch.x).backward()
        middle = time.perf_counter()
        if harvest:
            harvested(trial.net, batch, (harvest + 1) // 2)
        marks.append(middle - started + 0.5 * (time.perf_counter() - middle))
    # The optimiser, the loop and the samples take about a fifth; validation a tenth.
    return max(1, min(steps, int(0.9 * seconds / (1.3 * min(marks)))))

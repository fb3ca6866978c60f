"""The learned multigrid: operator-dependent multigrid whose transfers and relaxation a network adapts to the matrix."""

import copy
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from sciops.core.config import resolve_class
from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, LinearSolver, Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget, FitReport
from sciops.numerics.differentiable_multigrid import DifferentiableMultigrid, from_blocks
from sciops.numerics.krylov import ConjugateGradients
from sciops.solvers.checkpoint import KEY, read_model
from sciops.solvers.discrete import Discrete
from sciops.solvers.operator import model_file

if TYPE_CHECKING:
    from sciops.numerics.compiled.boxmg import LevelAdvice
    from sciops.numerics.compiled.boxmg_matrix import BoxMatrix

NETWORK = "sciops.models.learned_multigrid.StencilAdviser"


class NetworkAdvice:
    """A StencilAdviser as the `advice` of compiled multigrid: (matrix of a level, depth) → LevelAdvice."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, matrix: "BoxMatrix", depth: int) -> "LevelAdvice":
        from sciops.numerics.compiled.boxmg import LevelAdvice

        stencil = torch.from_numpy(np.ascontiguousarray(matrix.stencil()))[None]
        with torch.no_grad():
            said = self.net(stencil)
        relaxation = from_blocks(said.relaxation, tuple(stencil.shape[2:]))[0].numpy()
        return LevelAdvice(said.tilt[0].exp().numpy(), relaxation, None, float(said.scale[0]))


class LearnedMultigrid(Discrete):
    """A u = b by conjugate gradients with one advised multigrid cycle per step.

    Once per matrix and level a small network (`models.learned_multigrid.StencilAdviser`) reads the local stencils and
    says how to relax, how to lean the interpolation, how far to go on the coarse grid; the solve phase is that of
    BoxmgCG. The cycle is symmetric positive definite whatever the network says: it can cost steps, never the answer.
    Without weights (before `fit` or `load`) it is BoxmgCG with the same smoother, exactly.

    net        {class_path, init_args} or a module; None: the default network of the problem's dimension
    smoother   "point", or "incomplete": relaxation is then not used, transfers are; `fit` trains for this smoother, and
               weights serve best with the one they were trained for
    backend    "compiled" (CPU) or "torch" (any device; point smoother, all cases at once)
    precision  of the cycle; the iteration is in float64
    steps, batch_size, lr, seed, matrices   of `fit`: optimiser steps of so many systems, from at most so many matrices
    resolution, tol, maxiter, batch   as in GridSolver

    `fit` needs no solutions: it reads matrices only. Trained at one size, it is used at any other.
    Cost: the set-up of BoxmgCG and some 700 multiplications per point for the network; iterations cost the same.
    With a network the cycle is a V-cycle throughout: 3-D matrices with wide gaps in their weights do better without,
    where BoxmgCG takes W-cycles and corrects for stiff islands.
    Refuses periodic grids and problems of another dimension than its network.
    Reference: Greenfeld et al., ICML 2019; Dendy, J. Comput. Phys. 48 (1982).
    """

    trained = True

    def __init__(
        self,
        net: dict[str, Any] | nn.Module | None = None,
        smoother: Literal["point", "incomplete"] = "point",
        backend: Literal["compiled", "torch"] = "compiled",
        precision: Literal["single", "double"] = "single",
        steps: int = 400,
        batch_size: int = 8,
        lr: float = 3e-3,
        seed: int = 0,
        matrices: int = 128,
        resolution: float = 1.0,
        tol: float = 1e-8,
        maxiter: int = 500,
        batch: int = 32,
    ) -> None:
        if smoother not in ("point", "incomplete") or backend not in ("compiled", "torch"):
            raise UsageError(
                f"smoother must be point or incomplete and backend compiled or torch; got {smoother}, {backend}."
            )
        if backend == "torch" and smoother != "point":
            raise UsageError("The torch backend has the point smoother only; use backend='compiled' for incomplete.")
        if min(steps, batch_size, matrices) < 1:
            raise UsageError(f"steps, batch_size, matrices must be 1 or more; got {steps}, {batch_size}, {matrices}.")
        self.net_spec, self.smoother, self.backend, self.precision = net, smoother, backend, precision
        self.steps, self.batch_size, self.lr, self.seed, self.matrices = steps, batch_size, lr, seed, matrices
        self.module: Any = None
        super().__init__(self.linear_solver(), resolution, tol, maxiter, batch)

    @property
    def method(self) -> str:
        return "LearnedMultigrid" + (" incomplete" if self.smoother == "incomplete" else "")

    def linear_solver(self) -> LinearSolver:
        """The method as it stands as a LinearSolver, for systems from anywhere."""
        net = None if self.module is None else self.module.net
        if self.backend == "torch":
            dtype = torch.float32 if self.precision == "single" else torch.float64
            return ConjugateGradients(DifferentiableMultigrid(net, 1, dtype))
        from sciops.numerics.compiled.box_multigrid import BoxMultigrid
        from sciops.numerics.compiled.boxmg import BoxOptions

        options = BoxOptions(smoother=self.smoother, precision=self.precision)
        return BoxMultigrid("box", options, None if net is None else NetworkAdvice(net))

    @property
    def ignored(self) -> int:
        """How many values of the network were not finite and were replaced by those of the plain method, so far."""
        return 0 if self.module is None else int(self.module.net.ignored)

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        reason = super().refuses(problem, grid)
        if reason is not None:
            return reason
        if "periodic" in grid.layout:
            return "does not coarsen across the seam of a periodic axis; use MultigridCG"
        if grid.ndim not in (2, 3):
            return f"its network is for 2-D and 3-D grids and this one is {grid.ndim}-D; use BoxmgCG"
        known = self._ndim()
        if known is not None and known != grid.ndim:
            return f"its network was made for {known}-D systems and this grid is {grid.ndim}-D; train one of that size"
        return None

    # ---- training

    def fit(self, train: Dataset, val: Dataset, budget: Budget | None = None) -> FitReport:
        """Self-supervised on matrices of both splits; the schedule is shortened to what `budget.seconds` holds."""
        import lightning.pytorch as pl
        from lightning.pytorch.callbacks import RichProgressBar

        from sciops.data.matrix_data import MixedMatrices
        from sciops.data.residual_data import stream_loader
        from sciops.solvers.training import Curves, TimeLimit, quiet

        started = time.perf_counter()
        seconds = (budget and budget.seconds) or float("inf")
        terminal = sys.stderr.isatty()
        with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng(), quiet():
            module = self._new_module(self._spec(len(train.grid.shape)))
            sources = [MixedMatrices([self._operators(split)]) for split in (train, val)]
            steps = self._affordable(module, sources[0], seconds - (time.perf_counter() - started))
            epochs = min(10, steps)
            loaders = [
                stream_loader(source, count, self.batch_size, self.seed, name, onward=name == "train")
                for source, count, name in zip(
                    sources, (steps // epochs * self.batch_size, self.batch_size), ("train", "valid"), strict=True
                )
            ]
            limit, curves = TimeLimit(seconds, started), Curves()
            trainer = pl.Trainer(
                max_epochs=epochs, accelerator="cpu", devices=1,
                callbacks=[limit, curves, *([RichProgressBar(leave=False)] if terminal else [])],
                logger=False, enable_checkpointing=False, enable_progress_bar=terminal, enable_model_summary=False,
                num_sanity_val_steps=0, default_root_dir=scratch,
            )  # fmt: skip
            trainer.fit(module, loaders[0], loaders[1])
        self._install(module)
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

    def _affordable(self, module: Any, source: Any, seconds: float) -> int:
        """Optimiser steps, at most `steps`, that fit into `seconds`, from two timed ones; at least one."""
        if seconds == float("inf"):
            return self.steps
        from sciops.solvers.learned_multigrid_module import steps_per_e_fold

        trial, batch, marks = copy.deepcopy(module), source.sample(self.batch_size, torch.Generator()), []
        for _ in range(2):
            started = time.perf_counter()
            k = trial.hparams["steps"] + 2
            steps_per_e_fold(batch, trial.net, k, smoother=self.smoother).log().mean().backward()
            marks.append(time.perf_counter() - started)
        return max(1, min(self.steps, int(0.8 * seconds / min(marks))))

    def _spec(self, ndim: int) -> dict[str, Any] | nn.Module:
        if isinstance(self.net_spec, nn.Module):
            return copy.deepcopy(self.net_spec)
        given = self.net_spec or {"class_path": NETWORK}
        return {**given, "init_args": {"ndim": ndim} | dict(given.get("init_args") or {})}

    def _new_module(self, spec: dict[str, Any] | nn.Module) -> Any:
        from sciops.solvers.learned_multigrid_module import LearnedMultigridModule

        return LearnedMultigridModule(spec, smoother=self.smoother, lr=self.lr, seed=self.seed)

    def _install(self, module: Any) -> None:
        self.module = module.eval().cpu()
        self.linear = self.linear_solver()
        self._kept = (None, {})

    def _ndim(self) -> int | None:
        if self.module is not None:
            return getattr(self.module.net, "ndim", None)
        if isinstance(self.net_spec, nn.Module):
            return getattr(self.net_spec, "ndim", None)
        return ((self.net_spec or {}).get("init_args") or {}).get("ndim")

    # ---- files

    def parameters(self) -> int:
        return 0 if self.module is None else sum(p.numel() for p in self.module.net.parameters())

    def save(self, path: str | Path) -> None:
        """One file of tensors and plain values."""
        if self.module is None:
            raise UsageError(f"{self.name} has no weights yet: call fit(train, val) or load(path) first.")
        content = {
            "state_dict": self.module.state_dict(),
            "hyper_parameters": dict(self.module.hparams),
            KEY: self.module.facts,
        }
        target = model_file(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        torch.save(content, temporary)
        temporary.replace(target)

    def load(self, path: str | Path) -> None:
        """Restore what `save` or `sciops fit` wrote; the file names its network unless one was given."""
        content = read_model(model_file(path))
        spec = content[KEY].get("net")
        if self.net_spec is None:
            if spec is None:
                raise UsageError(f"{path} was trained from a module object; give that module as net.")
            resolve_class(spec["class_path"], trusted=False)
            module = self._new_module(spec)
        else:
            module = self._new_module(self._spec(int((spec or {}).get("init_args", {}).get("ndim", 2))))
        module.require_own(content, str(path))
        module.load_state_dict(content["state_dict"])
        module.facts = content[KEY]
        self._install(module)

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> "LearnedMultigrid":
        """The solver with the network of a file."""
        solver = cls(**options)
        solver.load(path)
        return solver

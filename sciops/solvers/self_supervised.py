"""Grid solvers around a network that is trained on the matrices of a dataset alone: training, weights, files."""

import copy
import sys
import tempfile
import time
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from sciops.core.config import resolve_class
from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget, FitReport
from sciops.solvers.checkpoint import KEY, read_model
from sciops.solvers.discrete import GridSolver
from sciops.solvers.operator import model_file
from sciops.solvers.operator_facts import check_net

Own = TypeVar("Own", bound="SelfSupervised")


class SelfSupervised(GridSolver):
    """A GridSolver whose method holds a network; `fit` reads matrices, never the truth of a split.

    network   class path of the network where none is given; its `ndim` comes from the problem
    device    accelerator of the training

    A subclass says which Lightning module trains the network (`_new_module`), which systems it is trained on
    (`_source`), how long a step takes (`_step_seconds`), and what changes with new weights (`_install`). It comes
    before other GridSolvers among the bases: arguments that are not its own go on to them.
    """

    trained = True
    network: ClassVar[str]
    module: Any = None

    def __init__(
        self,
        net: dict[str, Any] | nn.Module | None,
        steps: int,
        batch_size: int,
        matrices: int,
        seed: int,
        device: str,
        *others: Any,
    ) -> None:
        super().__init__(*others)
        if min(steps, batch_size, matrices) < 1:
            raise UsageError(
                f"steps, batch_size and matrices must be 1 or more; got {steps}, {batch_size}, {matrices}."
            )
        if isinstance(net, dict):
            check_net(net)
        self.net_spec, self.steps, self.batch_size, self.matrices = net, steps, batch_size, matrices
        self.seed, self.device = seed, device

    # ---- what a method adds

    @abstractmethod
    def _new_module(self, spec: dict[str, Any] | nn.Module) -> Any:
        """The Lightning module, not trained yet, of this network."""

    @abstractmethod
    def _source(self, A: LinearOperator) -> Any:
        """Training systems with these matrices, see `sciops.data.residual_sources.Source`."""

    @abstractmethod
    def _step_seconds(self, module: Any, batch: Any) -> float:
        """Seconds of an optimiser step with all that comes with it, from one timed; changes the module."""

    def _install(self, module: Any) -> None:
        """Take over a module with its weights; what was prepared with others is dropped."""
        self.module = module.eval().cpu()
        self._kept = (None, {})

    def _unfit(self, grid: Grid) -> str | None:
        """Why the method cannot work on this grid, whatever the network; None where it can."""
        return None

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        reason = super().refuses(problem, grid) or self._unfit(grid)
        known = self._ndim()
        if reason is None and known is not None and known != grid.ndim:
            return f"its network was made for {known}-D systems and this grid is {grid.ndim}-D; train one of that size"
        return reason

    # ---- training

    def fit(self, train: Dataset, val: Dataset, budget: Budget | None = None) -> FitReport:
        """Self-supervised on matrices of both splits; the schedule is shortened to what `budget.seconds` holds."""
        import lightning.pytorch as pl
        from lightning.pytorch.callbacks import RichProgressBar

        from sciops.data.residual_data import stream_loader
        from sciops.solvers.training import Curves, TimeLimit, quiet

        started = time.perf_counter()
        seconds = (budget and budget.seconds) or float("inf")
        terminal = sys.stderr.isatty()
        with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng(), quiet():
            module = self._new_module(self._spec(len(train.grid.shape)))
            sources = [self._source(self._operators(split)) for split in (train, val)]
            steps = self._affordable(module, sources[0], seconds - (time.perf_counter() - started))
            epochs = min(10, steps)
            batches = {"train": steps // epochs, "valid": 2}
            loaders = [
                stream_loader(source, count * self.batch_size, self.batch_size, self.seed, name, name == "train")
                for source, (name, count) in zip(sources, batches.items(), strict=True)
            ]
            limit, curves = TimeLimit(seconds, started), Curves()
            trainer = pl.Trainer(
                max_epochs=epochs, accelerator=self.device, devices=1,
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
        """Optimiser steps, at most `steps`, that fit into `seconds`, from two timed ones of a copy; at least one."""
        if seconds == float("inf"):
            return self.steps
        trial, batch = copy.deepcopy(module), source.sample(self.batch_size, torch.Generator().manual_seed(0))
        step = min(self._step_seconds(trial, batch) for _ in range(2))
        return max(1, min(self.steps, int(seconds / step)))

    def _spec(self, ndim: int) -> dict[str, Any] | nn.Module:
        if isinstance(self.net_spec, nn.Module):
            return copy.deepcopy(self.net_spec)
        given = self.net_spec or {"class_path": self.network}
        return {**given, "init_args": {"ndim": ndim} | dict(given.get("init_args") or {})}

    def _ndim(self) -> int | None:
        """Axes that the network is made for, as far as that is known."""
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
            module = self._new_module(spec)
        else:
            module = self._new_module(self._spec(int((spec or {}).get("init_args", {}).get("ndim", 2))))
        module.require_own(content, str(path))
        module.load_state_dict(content["state_dict"])
        module.facts = content[KEY]
        self._install(module)

    @classmethod
    def from_checkpoint(cls: type[Own], path: str | Path, **options: Any) -> Own:
        """The solver with the network of a file."""
        solver = cls(**options)
        solver.load(path)
        return solver

    def _require(self) -> Any:
        if self.module is None:
            raise UsageError(f"{self.name} has no weights yet: call fit(train, val) or load(path) first.")
        return self.module

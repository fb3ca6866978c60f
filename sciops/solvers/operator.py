"""Any network as a solver: learns a ↦ u from the training split, answers on any grid of the box."""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.cases import Cases
from sciops.core.config import resolve_class
from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.interpolate import resample
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget, FitReport, Solution, Solver, View, checked
from sciops.data.normalise import Kind
from sciops.solvers.checkpoint import KEY, read_model


class OperatorSolver(Solver):
    """u ≈ G_θ(a), θ = argmin Σ_i loss(G_θ(a_i), u_i) over the training cases.

    A Lightning run of `OperatorModule` behind the solver contract: `fit` trains, keeps the weights that are best on
    the validation split, and resumes an interrupted run if `workdir` is set; `solve` evaluates on the grid of the
    cases in batches and resamples to the asked grid (cubic, inside the clock).

    net          {class_path, init_args} or a module; in_channels, out_channels, ndim, bc, layout come from the problem
                 unless given
    loss         {class_path, init_args} or class path, see `sciops.train.losses`
    lr, weight_decay, schedule, compile, seed, and further options: as in `OperatorModule`; here OneCycle per step
    normalise_*  "identity" | "scalar" | "channel" | "pixel" | "unit", see `sciops.data.normalise`
    inputs       channels that the network sees; by default those that vary in the training split (recorded)
    precision    Lightning's: "32-true" | "bf16-mixed" | "16-mixed" | "64-true"
    device       accelerator of the training ("cpu", "cuda", …); `solve` runs where the cases are
    select       "best" on validation rel_l2, or the "last" weights

    Networks with per-point normalisers answer on the training grid alone: inputs on other grids are brought there
    first. Refuses cases whose dropped constant inputs differ from training. Cost: epochs · cases · points.
    Reference: supervised operator learning as in Li et al., ICLR 2021.
    """

    needs = frozenset({View.DATA})
    trained = True

    def __init__(
        self,
        net: dict[str, Any] | nn.Module,
        loss: dict[str, Any] | str = "sciops.train.losses.RelativeL2",
        epochs: int = 500,
        lr: float = 5e-4,
        batch_size: int = 8,
        weight_decay: float = 1e-4,
        schedule: str = "onecycle_step",
        normalise_input: Kind = "scalar",
        normalise_output: Kind = "scalar",
        inputs: list[str] | None = None,
        precision: str = "32-true",
        compile: bool = False,
        seed: int = 0,
        device: str = "auto",
        select: str = "best",
        name: str | None = None,
        workdir: str | Path | None = None,
        **options: Any,
    ) -> None:
        if select not in ("best", "last"):
            raise UsageError(f"select must be best or last; got '{select}'.")
        if epochs < 1 or batch_size < 1:
            raise UsageError(f"epochs and batch_size must be 1 or more; got {epochs} and {batch_size}.")
        self.net_spec, self.epochs, self.batch_size, self.seed = net, epochs, batch_size, seed
        self.precision, self.device, self.select = precision, device, select
        self.workdir = None if workdir is None else Path(workdir)
        self.inputs, self.normalisers = inputs, (normalise_input, normalise_output)
        self._name = name
        self.settings = options | {
            "loss": loss,
            "lr": lr,
            "weight_decay": weight_decay,
            "schedule": schedule,
            "compile": compile,
            "seed": seed,
        }
        self.module: Any = None

    @property
    def name(self) -> str:
        if self._name:
            return self._name
        path = type(self.net_spec).__name__ if isinstance(self.net_spec, nn.Module) else self.net_spec["class_path"]
        return str(path).rpartition(".")[2]

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        reason = super().refuses(problem, grid)
        if reason:
            return reason
        from sciops.solvers.operator_facts import accepts, build_net, complete

        names = [channel.name for channel in problem.inputs]
        given = {} if isinstance(self.net_spec, nn.Module) else self.net_spec.get("init_args") or {}
        facts = {
            # Which inputs are constant and left out, only the data can tell.
            "kept": self.inputs or names[: min(given.get("in_channels", len(names)), len(names))],
            "outputs": [channel.name for channel in problem.outputs],
            "boundary": problem.boundary.kinds,
            "grid": {name: getattr(grid, name) for name in ("shape", "lower", "upper", "layout")},
        }
        try:
            if isinstance(self.net_spec, nn.Module):
                return accepts(self.net_spec, facts, grid.shape, dry=False)
            return accepts(build_net(complete(self.net_spec, facts)), facts, grid.shape)
        except UsageError as error:
            return str(error).rstrip(".")

    def fit(self, train: Dataset, val: Dataset, budget: Budget | None = None) -> FitReport:
        """Train within `budget.seconds`: where the epochs do not fit, a few timed steps decide how many epochs, all
        somewhat shorter, do, so that the learning-rate schedule comes to its end."""
        import lightning.pytorch as pl
        from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar

        from sciops.solvers.training import Curves, SafeCheckpointIO, TimeLimit, affordable, quiet

        started = time.perf_counter()
        seconds = (budget and budget.seconds) or float("inf")
        last = None if self.workdir is None else self.workdir / "last.ckpt"
        resume = read_model(last) if last is not None and last.is_file() else None
        with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng(), quiet():
            module, data = self._ready(train, val)
            left = seconds - (time.perf_counter() - started)
            if resume:
                epochs, batches = resume[KEY]["epochs"], resume[KEY].get("batches", len(data.train))
            else:
                epochs, batches = affordable(module, data, self.epochs, left, self.device)
            module.facts |= {"epochs": epochs, "batches": batches}
            limit, curves = TimeLimit(seconds, started), Curves()
            keeper = ModelCheckpoint(
                dirpath=self.workdir or scratch, filename="best", monitor="val_rel_l2", save_last=True,
                enable_version_counter=False, save_on_train_epoch_end=True,
            )  # fmt: skip
            terminal = sys.stderr.isatty()
            trainer = pl.Trainer(
                max_epochs=epochs, limit_train_batches=batches, accelerator=self.device, devices=1,
                precision=self.precision,  # type: ignore[arg-type]
                callbacks=[limit, curves, keeper, *([RichProgressBar(leave=False)] if terminal else [])],
                logger=False, enable_progress_bar=terminal, enable_model_summary=False, num_sanity_val_steps=0,
                plugins=[SafeCheckpointIO()], default_root_dir=self.workdir or scratch,
            )  # fmt: skip
            trainer.fit(module, data.train, data.valid, ckpt_path=last if resume else None)
            if self.select == "best" and Path(keeper.best_model_path).is_file():
                module.restore(read_model(keeper.best_model_path))
        self.module = module.eval()
        whole = len(data.train)
        short = limit.reached or epochs * batches < self.epochs * whole
        done = f"{trainer.global_step / whole:.3g} of {self.epochs} epochs fitted into the budget of {seconds:g} s"
        return FitReport(
            seconds=time.perf_counter() - started,
            steps=trainer.global_step,
            status=Status.BUDGET if short else Status.OK,
            parameters=self.parameters(),
            curves=curves.values,
            checkpoint=str(keeper.best_model_path) if self.workdir else None,
            advice=f"{done}; a larger one may lower the error." if short else "",
        )

    def _module(self) -> Any:
        """The Lightning module of the settings, without weights."""
        from sciops.solvers.operator_module import OperatorModule

        return OperatorModule(self.net_spec, **self.settings)

    def _ready(self, train: Dataset, val: Dataset) -> tuple[Any, Any]:
        """The module with its network built for the data, and the batches."""
        from sciops.solvers.training import loaders

        data = loaders(train, val, self.inputs, self.batch_size, self.seed, self.normalisers)
        module = self._module()
        module.prepare(train, data.inputs, *data.normalisers)
        return module, data

    def input_grid(self, stored: Grid, out: Grid) -> Grid:
        return self._require().grid if self._pinned() else stored

    def prepare(self, cases: Cases, out: Grid) -> None:
        self._require().to(cases.device)

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        module = self._require()
        module.to(cases.device)
        self._check_constants(cases)
        if self._pinned():
            cases = cases.on(module.grid)
        with torch.inference_mode():
            columns = [cases.inputs.channels.index(name) for name in module.facts["kept"]]
            parts = [module(x) for x in cases.inputs.values[:, 0, columns].split(self.batch_size)]
        u = torch.cat(parts).clone().to(cases.dtype)
        u = resample(u, cases.domain, out, "cubic", cases.problem.boundary)
        # Of a problem that moves, the one asked frame; a steady one has the time 0.
        field = Field(u[:, None], out, tuple(module.facts["outputs"]), cases.times[-1:])
        return checked(Solution(field, [Status.OK] * len(cases)))

    def parameters(self) -> int:
        """Real numbers trained: a complex weight counts twice."""
        if self.module is None:
            return 0
        return sum(p.numel() * (1 + p.is_complex()) for p in self.module.parameters() if p.requires_grad)

    def save(self, path: str | Path) -> None:
        """One file of tensors and plain values: weights, normalisers, network, problem, grid, training settings."""
        module = self._require()
        content = {
            "state_dict": module.state_dict(),
            "hyper_parameters": dict(module.hparams),
            KEY: module.facts,
        }
        target = model_file(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        torch.save(content, temporary)
        temporary.replace(target)

    def load(self, path: str | Path) -> None:
        """Restore what `save` wrote, or a checkpoint of `sciops fit`; another model raises UsageError."""
        module = self._module()
        module.restore(read_model(model_file(path)), str(path))
        self.module = module.eval()

    @classmethod
    def from_checkpoint(cls, path: str | Path, **options: Any) -> "OperatorSolver":
        """The solver that a checkpoint describes; only classes of sciops or of imported modules are built."""
        content = read_model(model_file(path))
        net = content[KEY].get("net")
        if net is None:
            raise UsageError(
                f"Checkpoint {path} was trained from a module object and does not name its class; build "
                "OperatorSolver(net=module) yourself and call load()."
            )
        known = {k: v for k, v in content["hyper_parameters"].items() if k not in ("net", "init_from", "method")}
        loss = known["loss"]
        for named in (net["class_path"], loss if isinstance(loss, str) else loss["class_path"]):
            resolve_class(named, trusted=False)
        kinds = dict(zip(("normalise_input", "normalise_output"), content[KEY]["normalise"], strict=True))
        solver = cls(net, **(known | kinds | options))
        solver.load(path)
        return solver

    def _require(self) -> Any:
        if self.module is None:
            raise UsageError(f"{self.name} has no weights yet: call fit(train, val) or load(path) first.")
        return self.module

    def _pinned(self) -> bool:
        """Whether per-point normalisers tie the answer to the training grid."""
        return "pixel" in self._require().facts["normalise"]

    def _check_constants(self, cases: Cases) -> None:
        for name, value in self._require().facts["constants"].items():
            found: Float[Tensor, "n *s"] = cases.input(name)
            if not torch.allclose(found, torch.full_like(found, value)):
                raise UsageError(
                    f"{self.name} was trained with {name} = {value:g} everywhere and has not seen it vary, but these "
                    f"cases have values from {float(found.min()):g} to {float(found.max()):g}; train on such cases."
                )


def model_file(path: str | Path) -> Path:
    """A folder stands for `model.ckpt` in it."""
    path = Path(path)
    return path if path.suffix and not path.is_dir() else path / "model.ckpt"

"""Physics-informed networks trained by Lightning: the solver's own steps, with logs, checkpoints and exact resume."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.config import resolve_class, spec
from sciops.core.errors import UsageError
from sciops.core.random import case_seed, generator
from sciops.numerics.least_squares import LeastSquares, Stacked
from sciops.solvers.checkpoint import KEY, SCHEMA
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn import PINN
from sciops.solvers.pinn_checkpoint import KIND, probes
from sciops.solvers.pinn_rows import EquationRows, Sites, ValueRows
from sciops.solvers.pinn_training import Training


class PINNModule(pl.LightningModule):
    """min over θ of ½‖r_θ‖² for one case, one step of the training machine per batch; the case comes from `CaseData`.

    seed     of weights, points and sampler
    solver   the other arguments of `PINN`: network, optimiser (one stage or a list), sampler, points, boundary, …;
             limits of a single solve (max_steps, tolerance) have no effect here

    Optimisation is manual. The machine (`Training`) owns the optimiser of the network, whatever its order, and the
    sampler that of its density; Lightning sees both as handles, for learning rates and the count of steps.
    Logs train_loss (mean over the epoch of ½‖r‖² on the points of each step, the residual in units of that of the zero
    network), points, stage, where they exist mu (damping of Gauss–Newton), beta and coverage (of the sampler), and in
    validation val_residual, the relative residual at held-out points (monitored), and val_rel_l2 where the solution
    is known. A loss that is not finite ends the training at the best parameters. Resuming repeats every bit on a CPU:
    checkpoints hold parameters, points, sampler, optimisers and counters. `TrainedPINN` answers from a checkpoint.
    """

    monitor = "val_residual"
    kind = KIND

    def __init__(self, seed: int = 0, **solver: Any) -> None:
        super().__init__()
        solver.update({name: plain(value) for name, value in solver.items()})
        self.solver = PINN(seed=seed, **solver)  # the command line reads the accepted names off this call
        self.save_hyperparameters({"seed": seed, **solver})
        self.automatic_optimization = False
        self.machine: Training | None = None
        self.weight: float | None = None

    # ---- the training machine

    def configure_model(self) -> None:
        if self.machine is not None:
            return
        case = getattr(getattr(self.trainer, "datamodule", None), "case", None)
        if case is None:
            raise UsageError("PINNModule needs the case it solves: use sciops.data.case_data.CaseData as the data.")
        reason = self.solver.refuses(case.problem, case.domain)
        if reason:
            raise UsageError(f"PINN {reason}.")
        self.machine = self.solver.training(Equation(case.to(device=self.trainer.strategy.root_device)))
        self.trial = self.machine.trial

    @property
    def training_machine(self) -> Training:
        if self.machine is None:
            raise UsageError("PINNModule has no case yet; its training begins with a Trainer and CaseData.")
        return self.machine

    def configure_optimizers(self) -> list["Handle"]:
        machine = self.training_machine
        network = Handle(machine.trial.parameters(), machine.step, lambda: _rate(machine.optimiser))
        sampler: Any = machine.sampler
        if getattr(sampler, "optimiser", None) is None:
            return [network]
        return [network, Handle(sampler.flow.parameters(), None, lambda: _rate(sampler.optimiser))]

    def training_step(self, batch: list[Tensor], index: int) -> None:
        machine = self.training_machine
        if machine.done:
            self.trainer.should_stop = True
            return
        handles = self.optimizers()
        (handles[0] if isinstance(handles, list) else handles).step()
        self.log("train_loss", machine.losses[-1], on_epoch=True, on_step=False, batch_size=1)

    # ---- scores

    def _score(self, batch: dict[str, Tensor], name: str) -> None:
        machine = self.training_machine
        values = {"residual": machine.relative_residual()}
        if "u" in batch:
            with torch.no_grad():
                u = torch.cat([machine.trial(part) for part in batch["x"].split(8192)]).reshape(batch["u"].shape)
            values["rel_l2"] = float((u - batch["u"]).norm() / batch["u"].norm())
        for key, value in values.items():
            self.log(f"{name}_{key}", value, on_epoch=True, on_step=False, batch_size=1)

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self._score(batch, "val")
        machine = self.training_machine
        facts = {"points": len(machine.points), "stage": machine.stage, "mu": getattr(machine.optimiser, "mu", None)}
        facts |= {"beta": getattr(machine.sampler, "beta", None), "coverage": getattr(machine.sampler, "chi", None)}
        for key, value in facts.items():
            if value is not None:
                self.log(key, float(value), on_epoch=True, on_step=False, batch_size=1)

    def test_step(self, batch: dict[str, Tensor], index: int) -> None:
        self._score(batch, "test")

    # ---- what callbacks look at

    def population(self) -> Float[Tensor, "N d"]:
        """The collocation points of the present step."""
        return self.training_machine.points.x

    def residual(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        """|r| at points, in units of that of the zero network."""
        return self.training_machine.magnitude(x)

    @property
    def box(self) -> tuple[Tensor, Tensor]:
        equation = self.training_machine.equation
        return equation.lower, equation.upper

    def theta(self) -> Float[Tensor, " P"]:
        return self.training_machine.theta

    def probe(self, points: int, boundary_points: int, seed: int = 0) -> dict[str, LeastSquares]:
        """The rows of the loss by name at fixed points, without weights and 1/√N: for tangent kernels.

        "equation" (all equations of a system) at uniform points and, unless boundary data are met exactly, "boundary".
        """
        machine = self.training_machine
        random = generator(case_seed(seed, 0, "pinn probe"))
        sites = Sites(machine.equation.case, machine.equation.interior_points(points, random))
        found: dict[str, LeastSquares] = {"equation": EquationRows(machine.trial, sites, len(sites) / machine.scale**2)}
        if self._faces():
            share = -(-boundary_points // len(self._faces()))
            found["boundary"] = Stacked([_first(rows, share) for rows in self._faces()])
        return found

    def _faces(self) -> list[ValueRows]:
        return [rows for rows in self.training_machine.extra if isinstance(rows, ValueRows)]

    def reweigh(self, weights: dict[str, float]) -> None:
        """New weights of the parts of the loss, by the names of `probe`; that of the equation stays 1."""
        self.weight = weights["boundary"] / weights["equation"]
        for rows in self._faces():
            rows.reweigh(self.weight)

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        machine = self.training_machine
        checkpoint[KEY] = {
            "schema": SCHEMA,
            "kind": self.kind,
            "problem": spec(machine.equation.problem),
            "probes": probes(machine.equation),
            "training": machine.state_dict(),
            "boundary_weight": self.weight,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        facts = checkpoint.get(KEY)
        if not isinstance(facts, dict) or facts.get("kind") != self.kind:
            raise UsageError("The checkpoint does not hold a physics-informed network; make one with sciops fit.")
        mine, theirs = self.state_dict(), checkpoint["state_dict"]
        if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in theirs.items()}:
            raise UsageError("The checkpoint holds a network of another size; use the configuration it was made with.")
        device = self.training_machine.equation.lower.device
        self.training_machine.load_state_dict(_moved(facts["training"], device))
        if facts["boundary_weight"] is not None:
            self.reweigh({"equation": 1.0, "boundary": facts["boundary_weight"]})


class Handle(torch.optim.Optimizer):
    """What Lightning sees of an optimiser of the training machine; its state travels with the machine's."""

    def __init__(
        self, parameters: Iterable[Tensor], advance: Callable[[], Any] | None, rate: Callable[[], float]
    ) -> None:
        super().__init__([p for p in parameters if p.requires_grad], {"lr": rate()})
        self.advance, self.rate = advance, rate

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            closure()
        if self.advance is not None:
            self.advance()
        self.param_groups[0]["lr"] = self.rate()

    def state_dict(self) -> dict[str, Any]:
        return {"state": {}, "param_groups": [{"lr": self.param_groups[0]["lr"]}]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.param_groups[0]["lr"] = self.rate()


def _first(rows: ValueRows, count: int) -> ValueRows:
    """The first points of the rows of a face."""
    x, factor = rows.x[:count], None if rows.factor is None else rows.factor[:count]
    return ValueRows(rows.trial, x, rows.data[:count], rows.order, rows.sign, rows.channel, len(x), factor)


def _rate(optimiser: Any) -> float:
    """The learning rate; 1 for methods that find their own step."""
    groups = getattr(optimiser, "param_groups", None)
    return float(groups[0].get("lr", 1.0)) if groups else 1.0


def plain(value: Any) -> Any:
    """Settings as the command line's parser hands them over, as dicts and lists again.

    The parser fills arguments that have no default (the box, which the solver gives) with None: those are left out.
    """
    value = value.as_dict() if hasattr(value, "as_dict") else value
    if isinstance(value, Mapping):
        found = {name: plain(item) for name, item in value.items()}
        if isinstance(found.get("init_args"), dict) and "class_path" in found:
            known = inspect.signature(resolve_class(found["class_path"])).parameters
            arguments = found["init_args"].items()
            required = {name for name, p in known.items() if p.default is p.empty}
            found["init_args"] = {k: v for k, v in arguments if not (v is None and k in required)}
        return found
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _moved(value: Any, device: torch.device) -> Any:
    """A state on the device of the training; random states stay on the CPU."""
    if isinstance(value, Tensor):
        return value if value.dtype == torch.uint8 else value.to(device)
    if isinstance(value, dict):
        return {k: _moved(v, device) for k, v in value.items()}
    return type(value)(_moved(v, device) for v in value) if isinstance(value, list | tuple) else value

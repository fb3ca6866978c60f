"""GP-HM as published, trained by Lightning: objective and optimiser of the solver, with logs and checkpoints."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.random import case_seed, generator
from sciops.numerics.spectral_covariance import FAMILIES
from sciops.solvers.checkpoint import KEY, SCHEMA
from sciops.solvers.collocation import Equation, relative_residual
from sciops.solvers.gp_hm_objective import GPHMObjective
from sciops.solvers.gp_hm_training import adam

CHECKS = 400


class GPHMModule(pl.LightningModule):
    """min −L(U, Θ, log τ, log v) over one case, one step per batch; the case comes from `CaseData`.

    kernel, components, max_frequency, boundary_weight, noise_cap, normalised   as in `GPHMObjective`; the nodes are the
                   points of the case's grid
    lr             of Adam
    adam_reset     steps before which Adam forgets its moments
    seed           of the points at which the residual is checked

    Logs train_loss (unbounded, no measure of quality), and in validation val_residual, the relative residual at random
    points (monitored), val_rel_l2 where the solution is known, val_log_v and val_log_tau. best.ckpt is chosen by the
    residual, last.ckpt is the published answer. Resuming repeats every bit. Reference: Fang et al., ICLR 2024.
    """

    monitor = "val_residual"
    kind = "gp_hm"

    def __init__(
        self,
        kernel: str = "student_t",
        components: int = 30,
        max_frequency: float | Sequence[float] = 20.0,
        boundary_weight: float = 200.0,
        noise_cap: float | None = None,
        normalised: bool = False,
        lr: float = 0.01,
        adam_reset: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if kernel not in FAMILIES:
            raise UsageError(f"kernel must be one of {', '.join(FAMILIES)}; got '{kernel}'.")
        if components < 1:
            raise UsageError(f"components must be 1 or more; got {components}.")
        self.save_hyperparameters()
        self.objective: GPHMObjective | None = None

    def configure_model(self) -> None:
        if self.objective is not None:
            return
        case = getattr(getattr(self.trainer, "datamodule", None), "case", None)
        if case is None:
            raise UsageError("GPHMModule needs the case it solves: use sciops.data.case_data.CaseData as the data.")
        h, frequency = self.hparams, self.hparams["max_frequency"]
        equation = Equation(case.to(device=self.trainer.strategy.root_device))
        self.objective = GPHMObjective(
            equation,
            case.domain,
            h["kernel"],
            h["components"],
            [frequency] if isinstance(frequency, int | float) else list(frequency),
            h["boundary_weight"],
            noise_cap=h["noise_cap"],
            normalised=h["normalised"],
        )

    def _model(self) -> GPHMObjective:
        assert self.objective is not None
        return self.objective

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self._model().parameters(), self.hparams["lr"])

    def on_train_batch_start(self, batch: list[Tensor], index: int) -> None:
        if self.global_step in self.hparams["adam_reset"]:
            self.trainer.optimizers[0].state.clear()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss = self._model().loss()
        self.log("train_loss", loss.detach(), on_epoch=True, on_step=False, batch_size=1)
        return loss

    def _score(self, batch: dict[str, Tensor], name: str) -> None:
        model = self._model()
        answer, equation = model.snapshot(), model.equation
        check = equation.interior_points(CHECKS, generator(case_seed(self.hparams["seed"], 2, "gp_hm checks")))
        values = {
            "residual": relative_residual(equation, check, answer.state(check)),
            "log_v": float(model.log_v.detach()),
            "log_tau": float(model.log_tau.detach()),
        }
        if "u" in batch:
            values["rel_l2"] = float((answer(batch["x"]) - batch["u"]).norm() / batch["u"].norm())
        for key, value in values.items():
            self.log(f"{name}_{key}", value, on_epoch=True, on_step=False, batch_size=1)

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self._score(batch, "val")

    def test_step(self, batch: dict[str, Tensor], index: int) -> None:
        self._score(batch, "test")

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {"schema": SCHEMA, "kind": self.kind}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        facts = checkpoint.get(KEY)
        if not isinstance(facts, dict) or facts.get("kind") != self.kind:
            raise UsageError("The checkpoint does not hold a fit of GP-HM; make one with sciops fit.")
        mine, theirs = self.state_dict(), checkpoint["state_dict"]
        if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in theirs.items()}:
            raise UsageError(
                "The checkpoint holds a fit with other nodes or components; use the configuration it was made with."
            )

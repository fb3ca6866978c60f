"""Self-supervised training of a network as a preconditioner: matrices and right-hand sides, no solutions."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.linear import LinearOperator
from sciops.core.random import case_seed, generator
from sciops.data.residual_sources import SystemBatch
from sciops.solvers.checkpoint import KEY, SCHEMA, describe_net, require_match
from sciops.solvers.direction_losses import EnergyContraction, ResidualContraction
from sciops.solvers.operator_facts import build_net, check_net, dtype_of

NET = {"class_path": "sciops.models.dcdm.DCDM", "init_args": {"ndim": 2, "size": "64"}}
LOSS = "sciops.solvers.direction_losses.ResidualContraction"
KIND = "conjugate_directions"


class ConjugateDirectionsModule(pl.LightningModule):
    """min_θ E loss(f_θ(b), b, A, x) over batches of systems A x = b; see `sciops.data.residual_data`.

    net        {class_path, init_args} of a network (n, 1, *space), active → (n, 1, *space), or a module
    loss       class path from `sciops.solvers.direction_losses`
    lr, schedule, pct_start, div_factor, final_div_factor   Adam; "onecycle_step" with its peak at lr, or "constant"
    harvest    train on residuals of the running solver too: in every second batch, b becomes the residual after
               1 … `harvest` steps of flexible CG with the network as it is, from x₀ = 0 (their x is known where the
               batch's is). Krylov residuals look like no random right-hand side, and where smooth error is left the
               published loss exceeds 1 by far: use EnergyContraction with it. 0: never
    seed       of the initial weights and of the harvest

    Logs train_loss; in validation val_loss (monitored), val_rel_l2 = ‖b − αAf‖/‖b‖ after one step along f and, where x
    is known, val_contraction = ‖x − αf‖_A/‖x‖_A. Cost of a step: a forward and backward pass, one application of A.
    Reference: Kaneda et al., ICML 2023; residuals of the solver: Rudikov et al., ICML 2024.
    """

    monitor = "val_loss"

    def __init__(
        self,
        net: dict[str, Any] | nn.Module = NET,
        loss: dict[str, Any] | str = LOSS,
        lr: float = 2e-3,
        schedule: str = "onecycle_step",
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        harvest: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if schedule not in ("onecycle_step", "constant"):
            raise UsageError(f"schedule must be onecycle_step or constant; got '{schedule}'.")
        if harvest < 0:
            raise UsageError(f"harvest must be 0 or more; got {harvest}.")
        given = isinstance(net, nn.Module)
        self.save_hyperparameters(ignore=["net"] if given else [])
        if not isinstance(net, nn.Module):
            check_net(net)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net: nn.Module = net if isinstance(net, nn.Module) else build_net(net)
        self.loss = build_net({"class_path": loss} if isinstance(loss, str) else loss)
        self.facts = {"schema": SCHEMA, "kind": KIND, "net": None if isinstance(net, nn.Module) else dict(net)}

    # ---- the map

    def forward(self, b: Float[Tensor, "n *s"], active: Bool[Tensor, "m *s"] | None = None) -> Float[Tensor, "n *s"]:
        """f(b), zero on cells that are not active."""
        return self.net(b[:, None].to(dtype_of(self.net)), active)[:, 0].to(b.dtype)

    def training_step(self, batch: SystemBatch, index: int) -> Tensor:
        batch = self._harvested(batch)
        loss = self.loss(self(batch.b, active_cells(batch.A)), batch.b, batch.A, batch.x)
        self.log(
            "train_loss", loss.detach(), on_epoch=True, on_step=False, batch_size=len(batch.b), sync_dist=True
        )  # fmt: skip
        return loss

    def _harvested(self, batch: SystemBatch) -> SystemBatch:
        """The batch, or the systems A e = r that some steps of the solver leave of it."""
        if not self.hparams["harvest"]:
            return batch
        random = generator(case_seed(self.hparams["seed"], self.global_step, "harvest"))
        turn, steps = (
            torch.randint(2, (), generator=random),
            torch.randint(self.hparams["harvest"], (), generator=random),
        )
        return harvested(self.net, batch, int(steps) + 1) if int(turn) else batch

    def _score(self, batch: SystemBatch, name: str) -> None:
        f = self(batch.b, active_cells(batch.A))
        system = (f, batch.b, batch.A, batch.x)
        values = {
            "loss": self.loss(*system),
            "rel_l2": ResidualContraction().per_case(*system).sqrt().mean(),
        }
        if batch.x is not None:
            values["contraction"] = EnergyContraction().per_case(*system).clamp(min=0.0).sqrt().mean()
        for key, value in values.items():
            self.log(f"{name}_{key}", value, on_epoch=True, on_step=False, batch_size=len(f), sync_dist=True)

    def validation_step(self, batch: SystemBatch, index: int) -> None:
        self._score(batch, "val")

    def test_step(self, batch: SystemBatch, index: int) -> None:
        self._score(batch, "test")

    # ---- training

    def _cycle_length(self) -> int:
        total = int(self.trainer.estimated_stepping_batches)
        if total < 1:
            raise UsageError("A OneCycle schedule needs a known length; give trainer.max_epochs, or schedule constant.")
        return total

    def configure_optimizers(self) -> Any:
        h = self.hparams
        adam = torch.optim.Adam(self.net.parameters(), h["lr"])
        if h["schedule"] == "constant":
            return adam
        total = self._cycle_length()
        # PyTorch divides by zero where the rise takes exactly one step.
        rise = h["pct_start"] + (1e-6 if abs(h["pct_start"] * total - 1) < 1e-9 else 0)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            adam, h["lr"], total, pct_start=rise, div_factor=h["div_factor"], final_div_factor=h["final_div_factor"]
        )
        return {"optimizer": adam, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def on_train_start(self) -> None:
        cycle = self.lr_schedulers()
        if isinstance(cycle, torch.optim.lr_scheduler.OneCycleLR) and cycle.total_steps != self._cycle_length():
            raise UsageError(
                f"The checkpoint's OneCycle schedule ends after {cycle.total_steps} steps, this run has "
                f"{self._cycle_length()}; resume with the same trainer.max_epochs and data.steps."
            )

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self.facts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.require_own(checkpoint, "The checkpoint")

    def require_own(self, content: Mapping[str, Any], where: str) -> None:
        """Raise UsageError, in one sentence, unless the content is of a network like this one."""
        facts = content.get(KEY)
        if not isinstance(facts, dict) or facts.get("kind") != KIND:
            raise UsageError(f"{where} does not hold a network for conjugate directions; train one with sciops fit.")
        models = (describe_net(self.facts["net"]), describe_net(facts.get("net")))  # type: ignore[arg-type]
        require_match(self.state_dict(), content["state_dict"], models, where)


def active_cells(A: LinearOperator) -> Bool[Tensor, "n *s"] | None:
    """Cells that are unknowns, or None where all are."""
    return A.active if isinstance(A, FaceOperator) else None


def harvested(net: nn.Module, batch: SystemBatch, steps: int) -> SystemBatch:
    """A e = r with r = b − A x_k and e = x − x_k after k steps of flexible CG with this network, r of unit 2-norm."""
    from sciops.numerics.flexible_cg import FlexibleCG
    from sciops.solvers.conjugate_directions import NetworkPreconditioner

    solver = FlexibleCG(preconditioner=NetworkPreconditioner(net))
    with torch.no_grad():
        found = solver.solve(solver.setup(batch.A), batch.b, tol=1e-5, maxiter=steps).x
        e = None if batch.x is None else batch.x - found
        # From e, so that the pair stays exact in float32.
        r = batch.b - batch.A.matvec(found) if e is None else batch.A.matvec(e)
        size = r.flatten(1).norm(dim=1).reshape(-1, *(1,) * (r.dim() - 1))
        sound = torch.isfinite(size) & (size > 0)
        r = torch.where(sound, r / size, batch.b)
        if e is not None:
            e = torch.where(sound, e / size, batch.x)  # type: ignore[arg-type]
    return SystemBatch(batch.A, r, e)

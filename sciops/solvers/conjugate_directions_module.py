"""Self-supervised training of a network as a preconditioner: matrices and right-hand sides, no solutions."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.linear import LinearOperator
from sciops.core.random import case_seed, generator
from sciops.data.residual_sources import SystemBatch
from sciops.solvers.direction_losses import EnergyContraction, ResidualContraction
from sciops.solvers.operator_facts import build_net, dtype_of
from sciops.solvers.self_supervised_module import SelfSupervisedModule

NET = {"class_path": "sciops.models.dcdm.DCDM", "init_args": {"ndim": 2, "size": "64"}}
LOSS = "sciops.solvers.direction_losses.ResidualContraction"


class ConjugateDirectionsModule(SelfSupervisedModule):
    """min_θ E loss(f_θ(b), b, A, x) over batches of systems A x = b; see `sciops.data.residual_data`.

    net        {class_path, init_args} of a network (n, 1, *space), active → (n, 1, *space), or a module
    loss       class path from `sciops.solvers.direction_losses`
    lr, schedule, pct_start, div_factor, final_div_factor   Adam; "onecycle_step" with its peak at lr, or "constant"
    cycle_momentum   β₁ of Adam goes from 0.95 down to 0.85 and back while the rate goes up and down; false: 0.9. The
               published loss has no upper bound: without clipped gradients single batches throw the training back
    harvest    train on residuals of the running solver too: in every second batch, b becomes the residual after
               1 … `harvest` steps of flexible CG with the network as it is, from x₀ = 0 (their x is known where the
               batch's is). Krylov residuals look like no random right-hand side, and where smooth error is left the
               published loss exceeds 1 by far: use EnergyContraction with it. 0: never
    seed       of the initial weights and of the harvest

    Logs train_loss; in validation val_loss (monitored), val_rel_l2 = ‖b − αAf‖/‖b‖ after one step along f and, where x
    is known, val_contraction = ‖x − αf‖_A/‖x‖_A. Cost of a step: a forward and backward pass, one application of A.
    Reference: Kaneda et al., ICML 2023; residuals of the solver: Rudikov et al., ICML 2024.
    """

    kind = "conjugate_directions"
    purpose = "conjugate directions"

    def __init__(
        self,
        net: dict[str, Any] | nn.Module = NET,
        loss: dict[str, Any] | str = LOSS,
        lr: float = 2e-3,
        schedule: str = "onecycle_step",
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        cycle_momentum: bool = True,
        harvest: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if harvest < 0:
            raise UsageError(f"harvest must be 0 or more; got {harvest}.")
        self.save_hyperparameters(ignore=["net"] if isinstance(net, nn.Module) else [])
        self.adopt(net, schedule, seed)
        self.loss = build_net({"class_path": loss} if isinstance(loss, str) else loss)

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

"""Self-supervised training of the learned multigrid's network: matrices and white right-hand sides, no solutions."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator
from sciops.data.residual_sources import SystemBatch
from sciops.numerics.differentiable_multigrid import Adviser, DifferentiableHierarchy, Smoother, stencil_of
from sciops.numerics.reductions import inner, wide
from sciops.solvers.checkpoint import KEY, SCHEMA, describe_net, require_match
from sciops.solvers.operator_facts import build_net, check_net

NET = {"class_path": "sciops.models.learned_multigrid.StencilAdviser", "init_args": {"ndim": 2, "width": 32}}
KIND = "learned_multigrid"
SLOWEST = 1e-3
"""Reductions per step below this count as this, so that the logarithm of a stalled case stays finite."""


class LearnedMultigridModule(pl.LightningModule):
    """min_θ E log n_θ(A, b),  n = k / log(‖r_s‖ / ‖r_{s+k}‖): steps of conjugate gradients per factor e.

    r_j is the residual after j steps from x = 0, preconditioned by one advised cycle (`DifferentiableHierarchy`);
    gradients flow through the last k of them, the coarse matrices included. The mean of logarithms makes gains of all
    families count alike, whatever their difficulty.
    Why not the contraction of one cycle on random errors: what it sees are rough errors, and it drives ω away from what
    the whole iteration wants.

    net        {class_path, init_args} of a StencilAdviser, or a module
    steps      k is drawn from steps … steps + 4 at each batch
    late       s is drawn from 0 … late: white b are rough and go fast, what is left later on decides the iterations
    sweeps     smoothing steps before and after
    smoother   "point", or "incomplete": then transfers and scales alone are learned
    lr, schedule, pct_start   Adam; "onecycle_step" with its peak at lr, or "constant"
    clip       bound of the 2-norm of the gradient; batches with a gradient that is not finite are passed over
    Batches: `SystemBatch`es in float64. Logs train_loss, val_loss (monitored; e^val_loss is the geometric mean of n).
    Cost of a step: about 3k + s cycles. Reference: Rudikov et al., ICML 2024 (losses on Krylov residuals).
    """

    monitor = "val_loss"

    def __init__(
        self,
        net: dict[str, Any] | nn.Module = NET,
        steps: int = 6,
        late: int = 0,
        sweeps: int = 1,
        smoother: Smoother = "point",
        lr: float = 3e-3,
        schedule: str = "onecycle_step",
        pct_start: float = 0.1,
        clip: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if schedule not in ("onecycle_step", "constant"):
            raise UsageError(f"schedule must be onecycle_step or constant; got '{schedule}'.")
        if steps < 1 or sweeps < 1 or late < 0:
            raise UsageError(f"steps, sweeps must be 1 or more, late 0 or more; got {steps}, {sweeps} and {late}.")
        if smoother not in ("point", "incomplete"):
            raise UsageError(f"smoother must be point or incomplete; got '{smoother}'.")
        given = isinstance(net, nn.Module)
        self.save_hyperparameters(ignore=["net"] if given else [])
        if not isinstance(net, nn.Module):
            check_net(net)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net: nn.Module = net if isinstance(net, nn.Module) else build_net(net)
        self.facts = {"schema": SCHEMA, "kind": KIND, "net": None if isinstance(net, nn.Module) else dict(net)}

    def training_step(self, batch: SystemBatch, index: int) -> Tensor:
        # The numbers of steps follow from the position alone, so that a resumed run repeats them.
        h = self.hparams
        k, late = h["steps"] + self.global_step % 5, 7 * self.global_step % (h["late"] + 1)
        loss = steps_per_e_fold(batch, self.net, k, h["sweeps"], late, h["smoother"]).log().mean()
        self.log("train_loss", loss.detach(), on_epoch=True, on_step=False, batch_size=len(batch.b), sync_dist=True)
        return loss

    def validation_step(self, batch: SystemBatch, index: int) -> None:
        h = self.hparams
        k = h["steps"] + 2 + h["late"]
        loss = steps_per_e_fold(batch, self.net, k, h["sweeps"], smoother=h["smoother"]).log().mean()
        self.log("val_loss", loss, on_epoch=True, on_step=False, batch_size=len(batch.b), sync_dist=True)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.hparams["clip"])
        if not bool(torch.isfinite(norm)):
            for parameter in self.net.parameters():
                parameter.grad = None

    def configure_optimizers(self) -> Any:
        h = self.hparams
        adam = torch.optim.Adam(self.net.parameters(), h["lr"])
        if h["schedule"] == "constant":
            return adam
        total = int(self.trainer.estimated_stepping_batches)
        if total < 1:
            raise UsageError("A OneCycle schedule needs a known length; give trainer.max_epochs, or schedule constant.")
        # PyTorch divides by zero where the rise takes exactly one step.
        rise = h["pct_start"] + (1e-6 if abs(h["pct_start"] * total - 1) < 1e-9 else 0)
        cycle = torch.optim.lr_scheduler.OneCycleLR(adam, h["lr"], total, pct_start=rise)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self.facts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.require_own(checkpoint, "The checkpoint")

    def require_own(self, content: Mapping[str, Any], where: str) -> None:
        """Raise UsageError, in one sentence, unless the content is of a network like this one."""
        facts = content.get(KEY)
        if not isinstance(facts, dict) or facts.get("kind") != KIND:
            raise UsageError(f"{where} does not hold a network for the learned multigrid; train one with sciops fit.")
        models = (describe_net(self.facts["net"]), describe_net(facts.get("net")))  # type: ignore[arg-type]
        require_match(self.state_dict(), content["state_dict"], models, where)


def steps_per_e_fold(
    batch: SystemBatch,
    adviser: Adviser | None,
    k: int,
    sweeps: int = 1,
    late: int = 0,
    smoother: Smoother = "point",
) -> Float[Tensor, " n"]:
    """k / log(‖r_late‖/‖r_{late+k}‖) of conjugate gradients with the (un)advised cycle.

    Differentiable in the advice; the first `late` steps are made with it too, but no gradient goes through them.
    """
    A: LinearOperator = batch.A
    hierarchy = DifferentiableHierarchy(stencil_of(A).stencil, adviser, sweeps, smoother=smoother)
    state = batch.b, batch.b.new_ones(A.n), torch.zeros_like(batch.b)
    with torch.no_grad():
        for _ in range(late):
            state = _step(A, hierarchy, *state)
    start = inner(state[0], state[0])
    for _ in range(k):
        state = _step(A, hierarchy, *state)
    reduction = 0.5 * torch.log(start / inner(state[0], state[0])) / k
    return 1.0 / reduction.clamp(min=SLOWEST)


def _step(
    A: LinearOperator, hierarchy: DifferentiableHierarchy, r: Tensor, rho: Tensor, p: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Residual, r·Br and direction after one more step of conjugate gradients."""
    z = hierarchy(r)
    found = inner(r, z)
    p = z + wide(found / rho, r) * p
    q = A.matvec(p)
    return r - wide(found / inner(p, q), r) * q, found, p

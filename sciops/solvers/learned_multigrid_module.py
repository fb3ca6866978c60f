"""Self-supervised training of the learned multigrid's network: matrices and white right-hand sides, no solutions."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator
from sciops.data.residual_sources import SystemBatch
from sciops.numerics.differentiable_multigrid import Adviser, DifferentiableHierarchy, Smoother, stencil_of
from sciops.numerics.reductions import inner, wide
from sciops.solvers.self_supervised_module import SelfSupervisedModule

NET = {"class_path": "sciops.models.learned_multigrid.StencilAdviser", "init_args": {"ndim": 2, "width": 32}}
SLOWEST = 1e-3
"""Reductions per step below this count as this, so that the logarithm of a stalled case stays finite."""


class LearnedMultigridModule(SelfSupervisedModule):
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

    kind = "learned_multigrid"
    purpose = "the learned multigrid"

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
        if steps < 1 or sweeps < 1 or late < 0:
            raise UsageError(f"steps, sweeps must be 1 or more, late 0 or more; got {steps}, {sweeps} and {late}.")
        if smoother not in ("point", "incomplete"):
            raise UsageError(f"smoother must be point or incomplete; got '{smoother}'.")
        self.save_hyperparameters(ignore=["net"] if isinstance(net, nn.Module) else [])
        self.adopt(net, schedule, seed)

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

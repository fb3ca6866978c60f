"""Deep conjugate directions: flexible CG whose search directions a network proposes, trained without solutions."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.linear import LinearOperator, LinearSolution
from sciops.numerics.flexible_cg import FlexibleCG
from sciops.solvers.operator_facts import dtype_of
from sciops.solvers.self_supervised import SelfSupervised

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


class ConjugateDirections(SelfSupervised):
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

    network = "sciops.models.dcdm.DCDM"

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
        super().__init__(net, steps, batch_size, matrices, seed, device, resolution, tol, maxiter, batch)
        self.window = window
        self.settings = {"loss": loss, "lr": lr, "harvest": harvest, "seed": seed}

    @property
    def method(self) -> str:
        kept = "all" if self.window is None else self.window
        return type(self).__name__ + ("" if self.window == 2 else f" k={kept}")

    # ---- training

    def _new_module(self, spec: dict[str, Any] | nn.Module) -> Any:
        from sciops.solvers.conjugate_directions_module import ConjugateDirectionsModule

        return ConjugateDirectionsModule(spec, **self.settings)  # type: ignore[arg-type]

    def _source(self, A: LinearOperator) -> Any:
        from sciops.data.residual_sources import Manufactured

        return Manufactured(A)

    def _step_seconds(self, module: Any, batch: Any) -> float:
        from sciops.solvers.conjugate_directions_module import active_cells, harvested

        started, harvest = time.perf_counter(), module.hparams["harvest"]
        module.loss(module(batch.b, active_cells(batch.A)), batch.b, batch.A, batch.x).backward()
        middle = time.perf_counter()
        if harvest:
            harvested(module.net, batch, (harvest + 1) // 2)
        # Every second batch is harvested. Optimiser, loop and samples take about a fifth; validation a tenth.
        return (middle - started + 0.5 * (time.perf_counter() - middle)) * 1.3 / 0.9

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

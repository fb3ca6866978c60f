"""The learned multigrid: operator-dependent multigrid whose transfers and relaxation a network adapts to the matrix."""

import time
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, LinearSolver
from sciops.numerics.differentiable_multigrid import DifferentiableMultigrid, from_blocks
from sciops.numerics.krylov import ConjugateGradients
from sciops.solvers.discrete import Discrete
from sciops.solvers.self_supervised import SelfSupervised

if TYPE_CHECKING:
    from sciops.numerics.compiled.boxmg import LevelAdvice
    from sciops.numerics.compiled.boxmg_matrix import BoxMatrix


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


class LearnedMultigrid(SelfSupervised, Discrete):
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

    network = "sciops.models.learned_multigrid.StencilAdviser"

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
        self.smoother, self.backend, self.precision, self.lr = smoother, backend, precision, lr
        plain = self.linear_solver()  # until there are weights
        super().__init__(net, steps, batch_size, matrices, seed, "cpu", plain, resolution, tol, maxiter, batch)

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
        return BoxMultigrid("box", options, None if net is None else NetworkAdvice(net), target=None)

    @property
    def ignored(self) -> int:
        """How many values of the network were not finite and were replaced by those of the plain method, so far."""
        return 0 if self.module is None else int(self.module.net.ignored)

    def _unfit(self, grid: Grid) -> str | None:
        if "periodic" in grid.layout:
            return "does not coarsen across the seam of a periodic axis; use MultigridCG"
        if grid.ndim not in (2, 3):
            return f"its network is for 2-D and 3-D grids and this one is {grid.ndim}-D; use BoxmgCG"
        return None

    # ---- training

    def _new_module(self, spec: dict[str, Any] | nn.Module) -> Any:
        from sciops.solvers.learned_multigrid_module import LearnedMultigridModule

        return LearnedMultigridModule(spec, smoother=self.smoother, lr=self.lr, seed=self.seed)

    def _source(self, A: LinearOperator) -> Any:
        from sciops.data.matrix_data import MixedMatrices

        return MixedMatrices([A])

    def _step_seconds(self, module: Any, batch: Any) -> float:
        from sciops.solvers.learned_multigrid_module import steps_per_e_fold

        started, k = time.perf_counter(), module.hparams["steps"] + 2
        steps_per_e_fold(batch, module.net, k, smoother=self.smoother).log().mean().backward()
        # The optimiser, the loop and validation take about a fifth of the time.
        return (time.perf_counter() - started) / 0.8

    def _install(self, module: Any) -> None:
        super()._install(module)
        self.linear = self.linear_solver()

"""SOAP: Adam in the slowly rotating eigenbasis of Shampoo's preconditioner."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError


class SOAP(torch.optim.Optimizer):
    """Adam on G' = Q_Lᵀ G Q_R, Q_L and Q_R eigenvectors of running means of GGᵀ and GᵀG; the step is rotated back.

    Method: the running means are updated every step; the bases every `precondition_frequency` steps by one power
    iteration and a QR, in the order of the Rayleigh quotients, with which the second moments move along. The first
    gradient only fills the means (no step): there is no basis yet.
    Matrices with a side over `max_precond_dim` are rotated on the other side alone; vectors and scalars get plain Adam
    unless `precondition_1d`; tensors of higher rank are flattened behind their first axis.
    Defaults as for physics-informed networks: `precondition_frequency` 2, `weight_decay` 0 (decoupled otherwise).
    Cost a step: four products of the size of the weight with its sides; memory 2(m² + n²) + 2mn for m × n.
    Works in float32 and float64. Diverges like Adam where lr is too large: a non-finite gradient is refused.
    Reference: Vyas et al. 2024 (arXiv 2409.11321); for PINNs Wang et al. 2025 (arXiv 2502.00604).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        precondition_frequency: int = 2,
        max_precond_dim: int = 10000,
        precondition_1d: bool = False,
    ) -> None:
        if not (lr > 0 and all(0 <= b < 1 for b in betas) and eps > 0 and weight_decay >= 0):
            raise UsageError("SOAP needs lr > 0, 0 ≤ betas < 1, eps > 0 and weight_decay ≥ 0.")
        if precondition_frequency < 1:
            raise UsageError(f"SOAP got precondition_frequency={precondition_frequency}; use 1 or more steps.")
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "shampoo_beta": betas[1] if shampoo_beta is None else shampoo_beta,
            "eps": eps,
            "weight_decay": weight_decay,
            "precondition_frequency": precondition_frequency,
            "max_precond_dim": max_precond_dim,
            "precondition_1d": precondition_1d,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; parameters without a gradient and steps with a non-finite one are left as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and bool(torch.isfinite(p.grad).all()):
                    self._step_one(p, p.grad, self.state[p], group)
        return loss

    def _step_one(self, p: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        G = gradient.reshape(len(gradient), -1) if gradient.ndim > 1 else gradient.reshape(-1, 1)
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(G), torch.zeros_like(G)
            rotate = p.ndim > 1 or group["precondition_1d"]
            for side, size in (("left", G.shape[0]), ("right", G.shape[1])):
                if rotate and 1 < size <= group["max_precond_dim"]:
                    state[side] = torch.zeros(size, size, dtype=G.dtype, device=G.device)
            if "left" in state or "right" in state:
                self._accumulate(state, G, 0.0)
                for side in ("left", "right"):
                    if side in state:
                        state[side + "_basis"] = eigenbasis(state[side])
                return
        state["step"] += 1
        beta1, beta2 = group["betas"]
        turned = self._turn(state, G)
        state["mean"].lerp_(G, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(turned, turned, value=1 - beta2)
        # The mean lives in the fixed basis, so that a change of basis does not touch it.
        scale = (1 - beta2 ** state["step"]) ** 0.5
        move = self._turn(state, state["mean"]) / (state["square"].sqrt() / scale + group["eps"])
        move = self._turn_back(state, move).view_as(p)
        if group["weight_decay"]:
            p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(move, alpha=-group["lr"] / (1 - beta1 ** state["step"]))
        self._accumulate(state, G, group["shampoo_beta"])
        if state["step"] % group["precondition_frequency"] == 0:
            self._rotate(state)

    @staticmethod
    def _accumulate(state: dict[str, Any], G: Float[Tensor, "m n"], beta: float) -> None:
        if "left" in state:
            state["left"].lerp_(G @ G.T, 1 - beta)
        if "right" in state:
            state["right"].lerp_(G.T @ G, 1 - beta)

    @staticmethod
    def _turn(state: dict[str, Any], G: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
        if "left_basis" in state:
            G = state["left_basis"].T @ G
        return G @ state["right_basis"] if "right_basis" in state else G

    @staticmethod
    def _turn_back(state: dict[str, Any], G: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
        if "left_basis" in state:
            G = state["left_basis"] @ G
        return G @ state["right_basis"].T if "right_basis" in state else G

    @staticmethod
    def _rotate(state: dict[str, Any]) -> None:
        for side, axis in (("left", 0), ("right", 1)):
            if side in state:
                matrix, basis = state[side], state[side + "_basis"]
                image = matrix @ basis
                order = (basis * image).sum(0).argsort(descending=True)
                state["square"] = state["square"].index_select(axis, order)
                state[side + "_basis"] = torch.linalg.qr(image[:, order]).Q


def eigenbasis(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Eigenvectors of a symmetric matrix, largest eigenvalue first; found in float64, where eigh is robust."""
    wide = matrix.double()
    scale = wide.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.linalg.eigh(wide / scale).eigenvectors.flip(1).to(matrix.dtype)

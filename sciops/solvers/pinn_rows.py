"""The rows of a physics-informed least squares: equation, boundary and weak low modes at frozen points."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from sciops.core.calculus import Forward, Key, Order, Request, request_of
from sciops.core.cases import Cases
from sciops.models.per_sample import per_sample_jacobian
from sciops.models.trial import Trial


class Sites:
    """Collocation points of one case with all that its residual needs there, evaluated once.

    The inputs are kept with their dependence on x only where the residual differentiates them.
    """

    def __init__(self, case: Cases, x: Float[Tensor, "N d"]) -> None:
        self.problem, self.x = case.problem, x.detach()
        self.request, explicit = request_of(case.problem, case)
        self._leaf = x.detach()[None].clone().requires_grad_(explicit)
        with torch.set_grad_enabled(explicit):
            self._inputs = case.at(self._leaf)
        if not explicit:
            for name, value in vars(self._inputs).items():
                if isinstance(value, Tensor):
                    setattr(self._inputs, name, value.detach())

    def __len__(self) -> int:
        return len(self.x)

    def residuals(self, table: dict[Key, Float[Tensor, "N c"]]) -> list[Float[Tensor, " N"]]:
        """One residual per equation from the derivatives of a trial function at the points."""
        columns = {key: value[None].unbind(-1) for key, value in table.items()}
        count = len(self.problem.outputs)
        d = Forward(self._leaf, [{key: value[j] for key, value in columns.items()} for j in range(count)])
        found = d.evaluate(self.problem.residual, lambda _: self._inputs)
        return [r[0] for r in (found if isinstance(found, tuple | list) else (found,))]


class ParameterRows(ABC):
    """Rows of a least squares over the flat parameters of a trial function."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def _move(self, theta: Float[Tensor, " P"]) -> None:
        with torch.no_grad():
            vector_to_parameters(theta, [p for p in self.trial.parameters() if p.requires_grad])

    @abstractmethod
    def residual(self, theta: Float[Tensor, " P"]) -> Float[Tensor, " M"]:
        """r(θ)."""

    @abstractmethod
    def jacobian(self, theta: Float[Tensor, " P"]) -> tuple[Float[Tensor, " M"], Float[Tensor, "M P"]]:
        """r(θ) and ∂r/∂θ."""

    @abstractmethod
    def loss(self) -> Float[Tensor, ""]:
        """½‖r‖² at the network's own parameters, with gradients: for first-order methods."""


class TrialRows(ParameterRows):
    """Rows that a trial function makes at points; a LeastSquares over its flat parameters.

    A subclass gives the points, the derivatives that it reads and the rows; `scale` (N,) or a number multiplies them.
    """

    def __init__(self, trial: Trial, x: Float[Tensor, "N d"], request: Request, scale: Tensor | float) -> None:
        super().__init__(trial)
        self.x, self.request, self.scale = x, request, scale

    @abstractmethod
    def rows(self, table: dict[Key, Float[Tensor, "N c"]]) -> Sequence[Float[Tensor, " N"]]:
        """The rows from the derivatives at the points, not scaled yet."""

    def scaled(self, table: dict[Key, Float[Tensor, "N c"]]) -> list[Float[Tensor, " N"]]:
        return [self.scale * r for r in self.rows(table)]

    def residual(self, theta: Float[Tensor, " P"]) -> Float[Tensor, " M"]:
        self._move(theta)
        with torch.no_grad():
            table = self.trial.derivatives(self.x, self.request)
        return torch.cat(self.scaled(table)).detach()

    def jacobian(self, theta: Float[Tensor, " P"]) -> tuple[Float[Tensor, " M"], Float[Tensor, "M P"]]:
        self._move(theta)
        r, J = per_sample_jacobian(self.trial, self.x, self.request, self.scaled)
        return torch.cat(r), J[0] if len(J) == 1 else torch.cat(J)

    def loss(self) -> Float[Tensor, ""]:
        table = self.trial.derivatives(self.x, self.request)
        return 0.5 * sum((r.square().sum() for r in self.scaled(table)), self.x.new_zeros(()))


class EquationRows(TrialRows):
    """√(weight/N) · residual at sites."""

    def __init__(self, trial: Trial, sites: Sites, weight: float = 1.0, importance: Tensor | None = None) -> None:
        scale = math.sqrt(weight / len(sites))
        super().__init__(
            trial, sites.x, sites.request, scale if importance is None else scale * importance.detach().sqrt()
        )
        self.sites = sites

    def rows(self, table: dict[Key, Float[Tensor, "N c"]]) -> Sequence[Float[Tensor, " N"]]:
        return self.sites.residuals(table)


class ValueRows(TrialRows):
    """√(weight/N) · (∂^order u_channel − data) at points: Dirichlet and Neumann data, initial values, measurements."""

    def __init__(
        self,
        trial: Trial,
        x: Float[Tensor, "N d"],
        data: Float[Tensor, " N"],
        order: tuple[int, ...] | None = None,
        sign: float = 1.0,
        channel: int = 0,
        weight: float = 1.0,
    ) -> None:
        self.order = order or (0,) * x.shape[1]
        super().__init__(trial, x, frozenset({self.order}), math.sqrt(weight / max(len(x), 1)))
        self.data, self.sign, self.channel = data, sign, channel

    def rows(self, table: dict[Key, Float[Tensor, "N c"]]) -> Sequence[Float[Tensor, " N"]]:
        return [self.sign * table[self.order][:, self.channel] - self.data]


def flat_parameters(trial: Trial) -> Float[Tensor, " P"]:
    """A copy of the trained parameters in their order."""
    return parameters_to_vector([p for p in trial.parameters() if p.requires_grad]).detach().clone()


class State:
    """Derivatives of a trial function at points by order, made as they are asked for."""

    def __init__(self, trial: Trial, x: Float[Tensor, "N d"], channel: int = 0) -> None:
        self.trial, self.x, self.channel = trial, x, channel
        self.known: dict[Order, Tensor] = {}

    def __call__(self, order: Order) -> Float[Tensor, " N"]:
        if order not in self.known:
            with torch.no_grad():
                found = self.trial.derivatives(self.x, frozenset({order}))[order][:, self.channel]
            self.known[order] = found.detach()
        return self.known[order]

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
from sciops.models.factored import per_sample_products
from sciops.models.local import Windowed
from sciops.models.per_sample import per_sample_blocks, per_sample_jacobian
from sciops.models.trial import Trial
from sciops.numerics.block_jacobian import Blocks
from sciops.numerics.least_squares import Linearisation


class Sites:
    """Collocation points of one case with all that its residual needs there, evaluated once.

    The inputs are kept with their dependence on x only where the residual differentiates them. `factor` is the root of
    the problem's weight of the squared residual there, None where it has none.
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
        weight = case.problem.loss_weight(self.x[None])
        self.factor = None if weight is None else weight[0].detach().sqrt()

    def __len__(self) -> int:
        return len(self.x)

    def residuals(self, table: dict[Key, Float[Tensor, "N c"]]) -> list[Float[Tensor, " N"]]:
        """One residual per equation from the derivatives of a trial function at the points."""
        count = len(self.problem.outputs)
        columns = {key: [v.t()] if v.shape[1] == 1 else v[None].unbind(-1) for key, v in table.items()}
        d = Forward(self._leaf, [{key: value[j] for key, value in columns.items()} for j in range(count)])
        found = d.evaluate(self.problem.residual, lambda _: self._inputs)
        return [r[0] for r in (found if isinstance(found, tuple | list) else (found,))]

    def sizes(self, table: dict[Key, Float[Tensor, "N c"]]) -> list[Float[Tensor, " N"]]:
        """Σ_α |∂R/∂(∂^α u) ∂^α u| at the points, one per equation: how large the terms are that a residual is the sum
        of."""
        leaves = {key: value.detach().requires_grad_(True) for key, value in table.items()}
        with torch.enable_grad():
            found = self.residuals(leaves)
        sizes = []
        for k, r in enumerate(found):
            slopes = torch.autograd.grad(
                r.sum(), list(leaves.values()), retain_graph=k + 1 < len(found), allow_unused=True
            )
            parts = zip(slopes, leaves.values(), strict=True)
            terms = [(slope * value).abs().sum(1) for slope, value in parts if slope is not None]
            sizes.append(torch.stack(terms).sum(0).detach() if terms else torch.zeros_like(r).detach())
        return sizes


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

    @property
    def local(self) -> bool:
        """Do parts of the trial function vanish at some points, so that `local_blocks` is less than `jacobian`?"""
        return any(isinstance(part, Windowed) for part in self.trial.modules())

    def local_blocks(self, theta: Float[Tensor, " P"]) -> list[tuple[Tensor, Blocks | Tensor]]:
        """Pieces of r(θ) and ∂r/∂θ."""
        return [self.jacobian(theta)]

    def linearise(self, theta: Float[Tensor, " P"]) -> Linearisation:
        """r(θ) and products with ∂r/∂θ; rows that are few keep the matrix."""
        r, J = self.jacobian(theta)
        return Linearisation(r, lambda V: J @ V, lambda W: J.T @ W)


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

    def local_blocks(self, theta: Float[Tensor, " P"]) -> list[tuple[Tensor, Blocks | Tensor]]:
        self._move(theta)
        r, J = per_sample_blocks(self.trial, self.x, self.request, self.scaled)
        return list(zip(r, J, strict=True))

    def linearise(self, theta: Float[Tensor, " P"]) -> Linearisation:
        """Products from the adjoints and inputs of the layers: ∂r/∂θ is not formed."""
        self._move(theta)
        r, J = per_sample_products(self.trial, self.x, self.request, self.scaled)

        def transpose(W: Tensor) -> Tensor:
            parts = zip(J, W.split(len(self.x)), strict=True)
            return torch.stack([products.transpose(part) for products, part in parts]).sum(0)

        return Linearisation(torch.cat(r), lambda V: torch.cat([products.forward(V) for products in J]), transpose)

    def loss(self) -> Float[Tensor, ""]:
        return self.loss_of(self.trial.derivatives(self.x, self.request))

    def loss_of(self, table: dict[Key, Float[Tensor, "N c"]]) -> Float[Tensor, ""]:
        """½‖r‖² from the derivatives at the points."""
        first, *others = (r.square().sum() for r in self.scaled(table))
        return 0.5 * sum(others, first)


class EquationRows(TrialRows):
    """√(weight/N) · residual at sites."""

    def __init__(self, trial: Trial, sites: Sites, weight: float = 1.0, importance: Tensor | None = None) -> None:
        scale: Tensor | float = math.sqrt(weight / len(sites))
        for factor in (None if importance is None else importance.detach().sqrt(), sites.factor):
            scale = scale if factor is None else scale * factor
        super().__init__(trial, sites.x, sites.request, scale)
        self.sites = sites

    def rows(self, table: dict[Key, Float[Tensor, "N c"]]) -> Sequence[Float[Tensor, " N"]]:
        return self.sites.residuals(table)


class ValueRows(TrialRows):
    """√(weight/N) · factor · (∂^order u_channel − data) at points: Dirichlet and Neumann data, initial values,
    measurements; the factor is one number per point, one everywhere where it is not given."""

    def __init__(
        self,
        trial: Trial,
        x: Float[Tensor, "N d"],
        data: Float[Tensor, " N"],
        order: tuple[int, ...] | None = None,
        sign: float = 1.0,
        channel: int = 0,
        weight: float = 1.0,
        factor: Float[Tensor, " N"] | None = None,
    ) -> None:
        self.order, self.factor = order or (0,) * x.shape[1], factor
        super().__init__(trial, x, frozenset({self.order}), 1.0)
        self.data, self.sign, self.channel = data, sign, channel
        self.reweigh(weight)

    def reweigh(self, weight: float) -> None:
        """Another weight, the factors of the points as they are."""
        scale = math.sqrt(weight / max(len(self.x), 1))
        self.scale = scale if self.factor is None else scale * self.factor

    def rows(self, table: dict[Key, Float[Tensor, "N c"]]) -> Sequence[Float[Tensor, " N"]]:
        values = table[self.order][:, self.channel]
        return [(values if self.sign == 1 else self.sign * values) - self.data]


class MeanRows(ParameterRows):
    """√(weight/K) · the mean of one channel over each of K groups of Q points: what fixes constants that an equation
    leaves open. Cost: a Jacobian of the values at all points."""

    def __init__(self, trial: Trial, x: Float[Tensor, "K Q d"], channel: int = 0, weight: float = 1.0) -> None:
        super().__init__(trial)
        self.x, self.groups, self.channel = x.flatten(0, 1), len(x), channel
        self.scale = math.sqrt(weight / len(x))

    def _means(self, values: Float[Tensor, "N *p"]) -> Float[Tensor, "K *p"]:
        return self.scale * values.unflatten(0, (self.groups, -1)).mean(1)

    def residual(self, theta: Float[Tensor, " P"]) -> Float[Tensor, " M"]:
        self._move(theta)
        with torch.no_grad():
            return self._means(self.trial(self.x)[:, self.channel]).detach()

    def jacobian(self, theta: Float[Tensor, " P"]) -> tuple[Float[Tensor, " M"], Float[Tensor, "M P"]]:
        self._move(theta)
        zero = (0,) * self.x.shape[1]
        r, J = per_sample_jacobian(self.trial, self.x, frozenset({zero}), lambda t: [t[zero][:, self.channel]])
        return self._means(r[0]), self._means(J[0])

    def loss(self) -> Float[Tensor, ""]:
        return 0.5 * self._means(self.trial(self.x)[:, self.channel]).square().sum()


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

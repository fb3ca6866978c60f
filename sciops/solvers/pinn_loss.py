"""The loss of a first-order method: rows of one network are evaluated together."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus import Request
from sciops.models.channels import Plan
from sciops.models.mlp import MLP
from sciops.solvers.pinn_rows import ParameterRows, TrialRows

SPARE = 200_000
"""Points × channels × hidden neurons of an evaluation and its gradient that take as long as one more call of both."""


class JointLoss:
    """½ Σ ‖r‖² of several parts, with gradients; parts of the same trial function share one forward and backward pass.

    Parts that read the same derivatives always do. Perceptrons are smooth everywhere, so that points of theirs may get
    derivatives that nobody reads: where those cost less than a pass of their own, as for a few boundary points beside
    many inside. Equal to the sum of the parts' own losses up to rounding.
    """

    def __init__(self, parts: Sequence[ParameterRows]) -> None:
        self.alone: list[ParameterRows] = []
        self.groups: list[_Group] = []
        for part in sorted(parts, key=lambda part: -len(part.x) if isinstance(part, TrialRows) else 0):
            if not isinstance(part, TrialRows):
                self.alone.append(part)
                continue
            for group in self.groups:
                if group.takes(part):
                    group.add(part)
                    break
            else:
                self.groups.append(_Group(part))

    def __call__(self) -> Float[Tensor, ""]:
        first, *others = [*(group.loss() for group in self.groups), *(part.loss() for part in self.alone)]
        return sum(others, first)


class _Group:
    """Rows of one trial function at the points of all."""

    def __init__(self, first: TrialRows) -> None:
        self.parts, self.request, self.x = [first], first.request, first.x

    def takes(self, part: TrialRows) -> bool:
        trial = part.trial
        if trial is not self.parts[0].trial or part.x.dtype != self.x.dtype or part.x.device != self.x.device:
            return False
        if part.request == self.request:
            return True
        if type(trial) is not MLP:
            return False
        both = self._channels(part.request | self.request)
        unread = len(self.x) * (both - self._channels(self.request)) + len(part.x) * (
            both - self._channels(part.request)
        )
        return unread * sum(map(len, trial.biases)) <= SPARE

    def _channels(self, request: Request) -> int:
        return 1 + len(Plan.of(request, self.x.shape[1]))

    def add(self, part: TrialRows) -> None:
        self.parts.append(part)
        self.request = self.request | part.request
        self.x = torch.cat([self.x, part.x])

    def loss(self) -> Float[Tensor, ""]:
        table = self.parts[0].trial.derivatives(self.x, self.request)
        if len(self.parts) == 1:
            return self.parts[0].loss_of(table)
        sizes = [len(part.x) for part in self.parts]
        pieces = {key: value.split(sizes) for key, value in table.items()}
        losses = (part.loss_of({key: pieces[key][k] for key in part.request}) for k, part in enumerate(self.parts))
        first, *others = losses
        return sum(others, first)

"""Trial functions of collocation methods: networks of points that know their derivatives."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.calculus import Autodiff
from sciops.core.calculus.forward import LAPLACIAN, Key, Request


@dataclass
class Linear:
    """What one linear layer did in a forward pass: enough for the per-sample gradient of its weights.

    `inputs` and `outputs` hold the value in channel 0 and derivatives behind it: [(C, N, in)] ↦ [(C, N, out)], or in
    two parts [(N, in), (C − 1, N or 1, in)] ↦ [(N, out), (C − 1, N, out)] where the derivatives of the inputs are the
    same at all points. The bias acts on the value alone; outputs are those before it is added. A layer of a network
    that vanishes elsewhere may have seen some of the points only: their indices are `points`.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    inputs: list[Tensor]
    outputs: list[Tensor]
    points: Tensor | None = None


@dataclass
class Tape:
    """The linear layers of a forward pass in their order."""

    layers: list[Linear] = field(default_factory=list)


class Trial(nn.Module):
    """u(x): points (N, d) ↦ values (N, c), with `derivatives` for residuals.

    This base class takes derivatives by nested reverse passes, which works for any `forward`; networks that can
    propagate them forward override `derivatives` and, where they record every parameter on the `tape`, get per-sample
    Jacobians without loops.
    """

    ndim: int
    channels: int = 1

    def derivatives(
        self, x: Float[Tensor, "N d"], request: Request, tape: Tape | None = None
    ) -> dict[Key, Float[Tensor, "N c"]]:
        """Every requested derivative of every channel."""
        with torch.enable_grad():  # a caller without gradients still needs those in x
            d = Autodiff(x[None])
            values = self(d.x[0])
            found: dict[Key, Tensor] = {}
            for key in request:
                columns: Sequence[Tensor] = values.unbind(-1)
                if key == LAPLACIAN:
                    columns = [d.laplacian(u[None])[0] for u in columns]
                elif any(key):
                    columns = [d.partial(u[None], key)[0] for u in columns]  # type: ignore[arg-type]
                found[key] = torch.stack(list(columns), -1)
        return found


class Wrapped(Trial):
    """Any module of points as a trial function; derivatives by nested reverse passes."""

    def __init__(self, net: nn.Module, ndim: int, channels: int = 1) -> None:
        super().__init__()
        self.net, self.ndim, self.channels = net, ndim, channels

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N c"]:
        return self.net(x)

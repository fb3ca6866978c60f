"""Training through a conversion: a network tuned as the operator that it becomes on finer grids."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sciops.models.conversion.operator import NeuralOperatorModule
from sciops.solvers.converted import converted
from sciops.solvers.operator_module import OperatorModule


class ConvertedModule(OperatorModule):
    """min_θ Σ_r Σ_i loss(G_θ^r(a_i), u_i): G_θ^r is the network on its own grid and its conversion on finer ones.

    `method` is that of `to_neural_operator`; batches bring their resolution, as `OperatorData(resolutions=…)` makes
    them, whose first is the native grid. Meant for a few hundred steps from the weights of a trained network
    (`init_from`): `integral` changes a network and wants them, `point` and `lattice` need none. Checkpoints hold the
    plain network: OperatorSolver runs it, `Converted(source, method)` converts it again.

    BatchNorm keeps the statistics that it has, since those of a batch depend on its grid; other options as in
    `OperatorModule`. Cost of a step on an s times finer grid: that of the method.
    """

    def __init__(self, net: dict[str, Any] | nn.Module, method: str = "integral", **options: Any) -> None:
        super().__init__(net, **options)
        self.save_hyperparameters({"method": method})
        self._operator: tuple[NeuralOperatorModule, ...] = ()

    def _build(self, facts: dict[str, Any], spec: Mapping[str, Any] | None) -> None:
        super()._build(facts, None if spec is None else dict(spec))
        assert self.net is not None
        # In a tuple, so that the weights are not listed, saved and loaded a second time.
        self._operator = (converted(self.net, self.grid, self.hparams["method"]),)

    def train(self, mode: bool = True) -> "ConvertedModule":
        super().train(mode)
        for part in self.modules():
            if isinstance(part, _BatchNorm):
                part.eval()
        return self

    def evaluate(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n k *s"]:
        return self._operator[0](x)

"""Workers that own collocation points find the frequencies of one solution together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.slim_kl.components import Components, LowRank
from sciops.numerics.slim_kl.processes import distributed
from sciops.numerics.slim_kl.protocol import Consensus, Settings, simulate


@dataclass(frozen=True)
class Discovery:
    """weights  share of each component in the mean square of y (for `support`)
    theta       the same in the units of the given features and values: y ~ N(0, Σ θ_a Φ_aΦ_aᵀ + noise)
    consensus   the account of rounds and messages
    """

    weights: Float[Tensor, " A"]
    theta: Float[Tensor, " A"]
    consensus: Consensus


def discover_distributed(
    features: Sequence[Float[Tensor, "_ A r"]],
    y: Sequence[Float[Tensor, "..."]],
    *,
    noise: float = 1e-3,
    learn_noise: bool = True,
    settings: Settings | None = None,
    processes: bool = True,
    timeout: float = 600.0,
) -> Discovery:
    """θ of y_j ~ N(0, Σ_a θ_a Φ_{j,a}Φ_{j,a}ᵀ + σ² I) on the blocks j of N_j points, by quantised consensus.

    For an equation L u = f on subdomains: Φ_{j,a} = (L φ_a)(x_j), y_j = f(x_j), shapes (N_j, A, r) and (N_j,) or
    (N_j, R) for R right-hand sides. Only θ is shared, so points, features and values stay where they are; each worker
    afterwards fits its own coefficients on the common support. Before the first round the workers agree on the
    mean squares of y and of each component's columns (A + 1 numbers once, not in the account); columns get unit rms, so
    that the orders of L do not weigh the prior.

    noise        standard deviation relative to the rms of y; with learn_noise it is the least that a worker may find
    processes    True: one process per block over gloo; False: the same arithmetic in this process
    Cost per worker and step O(N_j² A r + N_j³). Too short blocks (less than two wavelengths across their points) do not
    determine frequencies alone, and the consensus then settles slowly: spread each worker's points over the domain.
    """
    blocks = [values[:, None] if values.dim() == 1 else values for values in y]
    if not features or len(features) != len(blocks):
        raise UsageError(
            f"There are {len(features)} blocks of features and {len(blocks)} of values; give one per worker."
        )
    if any(values.dtype != torch.float64 for values in blocks):
        raise UsageError(f"Values are {blocks[0].dtype}; kernel weights need torch.float64: pass y.double().")
    if noise <= 0:
        raise UsageError(f"The relative noise is {noise}; give a number above 0, such as 1e-3.")
    total = sum(len(values) for values in blocks)
    power = sum(float(values.square().sum()) for values in blocks) / (total * blocks[0].shape[1])
    if not power > 0 or power == float("inf"):
        raise UsageError("The values are all zero or not finite; there is no frequency to find.")
    squares = torch.stack([block.square().sum((0, 2)) for block in features]).sum(0) / (total * features[0].shape[2])
    scale = squares.sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    components: list[Components] = [LowRank(block / scale[:, None]) for block in features]
    scaled = [values / power**0.5 for values in blocks]
    settings = settings or Settings(rho=1.0)
    variance = noise**2
    if learn_noise:
        settings, variance = replace(settings, least_noise=variance), 0.1
    A = len(scale)
    start = torch.full((A,), 1.0 / (A * features[0].shape[2]), dtype=torch.float64, device=scale.device)
    if processes:
        found = distributed(components, scaled, variance, start, settings, timeout)
    else:
        found = simulate(components, scaled, variance, start, settings)
    return Discovery(found.theta * features[0].shape[2], found.theta * power / scale.square(), found)

"""Face-weight test systems on given masks of cells, built layer by layer."""

import torch
from torch import Tensor

from sciops.core.face_operator import FaceOperator
from sciops.numerics.components import singular_components


def from_mask(fluid: Tensor, air: str = "none", roughness: float = 0.0, seed: int = 0) -> FaceOperator:
    """Weights between fluid cells (n, *space), 1 or exp(roughness·N(0,1)).

    `air`: none (closed box), top (p = 0 beyond the last layer of the first axis), all (beyond every wall).
    """
    noise = torch.Generator().manual_seed(seed)
    mask = fluid.to(torch.float64)
    faces, sink = [], torch.zeros_like(mask)
    for axis in range(mask.dim() - 1):
        draw = torch.randn(mask.shape, generator=noise, dtype=torch.float64)
        w = torch.exp(roughness * draw) * mask
        if air == "all" or (air == "top" and axis == 0):
            sink.select(axis + 1, -1).add_(w.select(axis + 1, -1))
        if air == "all":
            sink.select(axis + 1, 0).add_(mask.select(axis + 1, 0))
        size = mask.shape[axis + 1] - 1
        w.narrow(axis + 1, 0, size).mul_(mask.narrow(axis + 1, 1, size))
        w.select(axis + 1, -1).zero_()
        faces.append(w)
    return FaceOperator(tuple(faces), sink, singular_components(tuple(faces), sink))


def random_mask(space: tuple[int, ...], share: float, seed: int, n: int = 1) -> Tensor:
    """Cells that are fluid with probability `share`, independently: corridors, pockets and isolated cells."""
    return torch.rand((n, *space), generator=torch.Generator().manual_seed(seed)) < share


def balls(space: tuple[int, ...], share: float = 0.2, seed: int = 0) -> Tensor:
    """A box with solid balls of radius 0.04 to 0.12 until `share` of it is solid: (1, *space), True in the fluid."""
    noise = torch.Generator().manual_seed(seed)
    centres = torch.meshgrid(*((torch.arange(m) + 0.5) / m for m in space), indexing="ij")
    solid = torch.zeros(space, dtype=torch.bool)
    while float(solid.double().mean()) < share:
        middle, radius = torch.rand(len(space), generator=noise), 0.04 + 0.08 * torch.rand(1, generator=noise)
        solid |= sum((c - m) ** 2 for c, m in zip(centres, middle, strict=True)) < radius**2
    return ~solid[None]


def white(A: FaceOperator, seed: int = 0) -> Tensor:
    """Standard normal right-hand sides, zero where there is no row."""
    b = torch.randn((A.n, *A.space), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return b * A.active

"""Plain convolutional simulator: ghost values, sizes, symmetries, and the published task of waves."""

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.models.compressed import compress
from sciops.models.wave_cnn import BoundaryConv, WaveCNN


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_size() -> None:
    """2·24, 24·24, 24·24 and 24·1 kernels of 49 taps, and biases."""
    assert count(WaveCNN()) == (2 * 24 + 2 * 24 * 24 + 24) * 49 + 3 * 24 + 1 == 60_049


@pytest.mark.parametrize(
    "bc", ["dirichlet", "neumann", "periodic", "free", ["periodic", "dirichlet"], ["free", "neumann"]]
)
@pytest.mark.parametrize("layout", ["node", "cell"])
def test_ghost_values(bc: str | list[str], layout: str) -> None:
    """Against the same kernel on a field that was padded by hand."""
    net = WaveCNN(2, 3, layers=1, kernel=(5, 3), bc=bc, layout=layout).double()
    x = torch.randn(2, 2, 7, 9, dtype=torch.float64)
    kinds = [bc, bc] if isinstance(bc, str) else bc
    padded = x
    for axis, kind, margin in ((2, kinds[0], 2), (3, kinds[1], 1)):
        n = padded.shape[axis]
        index = torch.arange(-margin, n + margin)
        if kind == "periodic":
            index = index % n
        elif kind == "free" or (kind == "neumann" and layout == "cell"):
            index = index.clamp(0, n - 1)
        elif kind == "neumann":
            index = (n - 1) - ((n - 1) - index.abs()).abs()
        inside = ((index >= 0) & (index < n)).double()
        shape = [-1 if a == axis else 1 for a in range(4)]
        padded = padded.index_select(axis, index.clamp(0, n - 1)) * inside.view(shape)
    conv = net.layers[0].conv
    wanted = torch.nn.functional.conv2d(padded, conv.weight, conv.bias)
    assert torch.allclose(net(x), wanted)


def test_periodic_shifts() -> None:
    net = WaveCNN(width=4, bc="periodic").double().requires_grad_(False)
    x = torch.randn(1, 2, 12, 10, dtype=torch.float64)
    assert torch.allclose(net(x.roll((3, 5), (2, 3))), net(x).roll((3, 5), (2, 3)))


def test_a_block_of_frames_in_three_dimensions() -> None:
    net = WaveCNN(1, 1, width=4, layers=2, kernel=(3, 5, 5), ndim=3, bc=["free", "dirichlet", "dirichlet"])
    x = torch.randn(2, 1, 4, 9, 8)
    assert net(x).shape == x.shape
    small = compress(net, "succession", 0.4)
    assert count(small) < 0.45 * count(net)
    small(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in small.parameters())


def test_dependence_reaches_as_far_as_the_kernels() -> None:
    net = WaveCNN(1, 1, width=3, layers=2, kernel=5)
    x = torch.zeros(1, 1, 21, 21, requires_grad=True)
    net(x)[0, 0, 10, 10].backward()
    seen = (x.grad[0, 0] != 0).nonzero()
    assert seen.min(0).values.tolist() == [6, 6]
    assert seen.max(0).values.tolist() == [14, 14]


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match="odd number of points"):
        WaveCNN(kernel=4)
    with pytest.raises(UsageError, match="one per axis"):
        WaveCNN(kernel=(3, 3, 3))
    with pytest.raises(UsageError, match="1 or more"):
        WaveCNN(layers=0)
    with pytest.raises(UsageError, match="built for ndim=2"):
        WaveCNN()(torch.zeros(1, 2, 8))
    with pytest.raises(UsageError, match="Axis 0 has 3 points; padding 'reflect' of a kernel of 7 needs 4"):
        WaveCNN(bc="neumann")(torch.zeros(1, 2, 3, 8))
    with pytest.raises(UsageError, match="bc takes"):
        BoundaryConv(1, 1, (3, 3), WaveCNN(bc="open").layers[0].modes)

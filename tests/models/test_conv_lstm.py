"""Convolutional LSTM: the published equations, memory, frames as channels, compression."""

import pytest
import torch
import torch.nn.functional as F

from sciops.core.errors import UsageError
from sciops.models.compressed import compress
from sciops.models.conv_lstm import ConvLSTM, ConvLSTMCell


def test_the_equations_written_out() -> None:
    cell = ConvLSTMCell(2, 3, kernel=3, peephole=True).double()
    torch.nn.init.normal_(cell.peephole)
    x, h, c = (torch.randn(2, k, 5, 6, dtype=torch.float64) for k in (2, 3, 3))
    W, b = cell.gates.conv.weight, cell.gates.conv.bias
    parts = []
    for gate in range(4):
        w, rows = W[3 * gate : 3 * gate + 3], slice(3 * gate, 3 * gate + 3)
        parts.append(F.conv2d(x, w[:, :2], b[rows], padding=1) + F.conv2d(h, w[:, 2:], padding=1))
    p_i, p_f, p_o = cell.peephole[:, :, None, None]
    i = torch.sigmoid(parts[0] + p_i * c)
    f = torch.sigmoid(parts[1] + 1 + p_f * c)
    new = f * c + i * torch.tanh(parts[3])
    out = torch.sigmoid(parts[2] + p_o * new) * torch.tanh(new)
    found_h, found_c = cell(x, (h, c))
    assert torch.allclose(found_c, new)
    assert torch.allclose(found_h, out)


def test_frames_are_read_in_order_and_remembered() -> None:
    net = ConvLSTM(3 * 2 + 1, 2, width=4, layers=2, frames=3).double()
    x = torch.randn(2, 7, 8, 6, dtype=torch.float64)
    frames, fixed = x[:, :6].split(2, dim=1), x[:, 6:]
    states = None
    for frame in frames:
        answer, states = net.step(frame, fixed, states)
    assert torch.equal(net(x), answer)
    # The order matters, and so does the first frame.
    swapped = torch.cat([x[:, 2:4], x[:, :2], x[:, 4:]], dim=1)
    assert (net(swapped) - net(x)).abs().max() > 1e-6
    assert torch.autograd.functional.jacobian(lambda v: net(v).sum(), x)[:, :2].abs().max() > 0


def test_several_frames_a_call_are_its_own_answers_read_again() -> None:
    net = ConvLSTM(4, 3, width=4, layers=1, frames=4, frame_channels=1).double()
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    u = net(x)
    assert u.shape == (1, 3, 6, 6)
    nothing, states = x[:, :0], None
    for k in range(4):
        answer, states = net.step(x[:, k : k + 1], nothing, states)
    for k in range(3):
        assert torch.allclose(u[:, k : k + 1], answer)
        answer, states = net.step(answer, nothing, states)


@pytest.mark.parametrize(("ndim", "shape"), [(1, (12,)), (2, (7, 9)), (3, (4, 5, 6))])
@pytest.mark.parametrize("bc", ["dirichlet", "neumann", "periodic", "free"])
def test_dimensions_and_gradients(ndim: int, shape: tuple[int, ...], bc: str) -> None:
    net = ConvLSTM(5, 1, width=3, layers=2, ndim=ndim, bc=bc)
    net(torch.randn(2, 5, *shape)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_compressed() -> None:
    net, x = ConvLSTM(4, 1, width=6), torch.randn(1, 4, 9, 9)
    same = compress(net, "succession", "full", init="from_dense")
    assert torch.allclose(same(x), net(x), rtol=1e-4, atol=1e-6)
    assert [row.name for row in same.compression.replaced] == ["cells.0.gates.conv", "cells.1.gates.conv"]


def test_learns_to_delay() -> None:
    """Answer the frame before the last: only what was remembered can."""
    net = ConvLSTM(3, 1, width=8, layers=1, kernel=1)
    optimiser = torch.optim.Adam(net.parameters(), 2e-2)
    for _ in range(300):
        x = torch.randn(8, 3, 6, 6)
        loss = F.mse_loss(net(x), x[:, 1:2])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1  # the mean would give 1


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match="frames=4, frame_channels=2"):
        ConvLSTM(7, 2, frames=4)
    with pytest.raises(UsageError, match="built for 3 frames of 2"):
        ConvLSTM(6, 2)(torch.zeros(1, 5, 4, 4))
    with pytest.raises(UsageError, match="layers and width"):
        ConvLSTM(6, 2, layers=0)
    with pytest.raises(UsageError, match="one per axis"):
        ConvLSTM(kernel=(3, 3, 3))

"""Convolutional long short-term memory: a cell, and a network that reads frames and answers the next ones."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.vcycle import CONV
from sciops.models.wave_cnn import BoundaryConv, padding_modes

State = tuple[Tensor, Tensor]


class ConvLSTMCell(nn.Module):
    """i, f, o, g = W ∗ (x, h) + b;  c ← σ(f + p_f c) c + σ(i + p_i c) tanh g,  h ← σ(o + p_o c) tanh c.

    One convolution makes all four gates. `peephole` gives each channel one weight p for each gate: the published one
    has one for every grid point as well, which ties the network to its grid. The bias of f starts at 1, so that a fresh
    cell remembers. `compress` factors the convolution. Cost O((C_in + hidden) · 4 hidden · k^d · points) a step.
    Shi et al., "Convolutional LSTM network: a machine learning approach for precipitation nowcasting", NeurIPS 2015.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        kernel: int | Sequence[int] = 3,
        ndim: int = 2,
        bc: str | Sequence[str] = "dirichlet",
        layout: str = "node",
        peephole: bool = True,
    ):
        super().__init__()
        taps = (kernel,) * ndim if isinstance(kernel, int) else tuple(kernel)
        if len(taps) != ndim:
            raise UsageError(f"kernel takes one number, or one per axis ({ndim}); got {kernel!r}.")
        self.hidden = hidden
        self.gates = BoundaryConv(in_channels + hidden, 4 * hidden, taps, padding_modes(bc, ndim, layout))
        self.forget = nn.Parameter(torch.ones(hidden))  # beside the convolution's bias, so that compression keeps it
        self.peephole = nn.Parameter(torch.zeros(3, hidden)) if peephole else None
        self.ndim = ndim

    def start(self, x: Float[Tensor, "n c *s"]) -> State:
        """Empty memory on the grid of x."""
        zero = x.new_zeros(x.shape[0], self.hidden, *x.shape[2:])
        return zero, zero

    def forward(self, x: Float[Tensor, "n c *s"], state: State | None = None) -> State:
        """(h, c) after reading one frame."""
        h, c = self.start(x) if state is None else state
        i, f, o, g = self.gates(torch.cat([x, h], dim=1)).chunk(4, dim=1)
        column = (-1, *(1,) * self.ndim)
        f = f + self.forget.view(column)
        if self.peephole is None:
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(c), c
        p_i, p_f, p_o = (p.view(column) for p in self.peephole)
        c = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
        return torch.sigmoid(o + p_o * c) * torch.tanh(c), c


class ConvLSTM(nn.Module):
    """Reads the frames u_{t−h+1}, …, u_t one by one, oldest first, and answers u_{t+1} from what it remembers.

    frames       h; in_channels holds them one after the other, then inputs a that stay the same and are shown at every
                 step: in_channels = frames · frame_channels + the number of these; `Rollout` fills in what it knows
    out_channels  a multiple of frame_channels; of more than one frame each answer is read as the next frame
    frame_channels  channels of one frame; by default out_channels, that is one frame a call
    width, layers, kernel   channels of the memory, cells on top of each other (each reads the one below)
    bc, layout   ghost values, see `wave_cnn.BoundaryConv`
    Memory of training grows with frames · layers · width · points; it is read in order, so no faster than its steps.
    Shi et al., NeurIPS 2015; their encoder and forecaster are one network here.
    """

    def __init__(
        self,
        in_channels: int = 10,
        out_channels: int = 1,
        width: int = 32,
        layers: int = 2,
        kernel: int | Sequence[int] = 3,
        ndim: int = 2,
        bc: str | Sequence[str] = "dirichlet",
        layout: str = "node",
        frames: int | None = None,
        frame_channels: int | None = None,
        peephole: bool = True,
    ):
        super().__init__()
        self.frame_channels = c = frame_channels or out_channels
        self.frames = frames or in_channels // c
        self.fixed = in_channels - self.frames * c
        if self.frames < 1 or self.fixed < 0 or out_channels % c:
            raise UsageError(
                "ConvLSTM reads frames · frame_channels channels and those of fixed inputs, and answers whole frames; "
                f"got in_channels={in_channels}, out_channels={out_channels}, frames={self.frames}, frame_channels={c}."
            )
        if layers < 1 or width < 1:
            raise UsageError(f"layers and width must be 1 or more; got {layers} and {width}.")
        self.answers = out_channels // c
        sizes = [c + self.fixed, *[width] * (layers - 1)]
        self.cells = nn.ModuleList(ConvLSTMCell(size, width, kernel, ndim, bc, layout, peephole) for size in sizes)
        self.head = CONV[ndim](width, c, 1)

    def step(
        self,
        frame: Float[Tensor, "n c *s"],
        fixed: Float[Tensor, "n e *s"],
        states: Sequence[State | None] | None = None,
    ) -> tuple[Float[Tensor, "n c *s"], list[State]]:
        """Read one frame: the answer, and the memory to go on with; for rollouts that keep it between frames."""
        x, found = torch.cat([frame, fixed], dim=1), []
        for cell, state in zip(self.cells, states or [None] * len(self.cells), strict=True):
            new = cell(x, state)
            found.append(new)
            x = new[0]
        return self.head(x), found

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        expected = self.frames * self.frame_channels + self.fixed
        if x.shape[1] != expected:
            raise UsageError(
                f"ConvLSTM was built for {self.frames} frames of {self.frame_channels} channel(s) and {self.fixed} "
                f"fixed input(s), {expected} channels; got {x.shape[1]}."
            )
        frames, fixed = x.split([self.frames * self.frame_channels, self.fixed], dim=1)
        states: list[State] | None = None
        for frame in frames.split(self.frame_channels, dim=1):
            answer, states = self.step(frame, fixed, states)
        answers = [answer]
        for _ in range(self.answers - 1):
            answer, states = self.step(answer, fixed, states)
            answers.append(answer)
        return torch.cat(answers, dim=1)

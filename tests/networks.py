"""Networks on grids as people write them, to be converted."""

import torch
import torch.nn.functional as F
from torch import nn

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}


def block(i, o, mode, d):
    parts = []
    for a, b in ((i, o), (o, o)):
        parts += [CONV[d](a, b, 3, padding=1, padding_mode=mode), NORM[d](b), nn.GELU()]
    return nn.Sequential(*parts)


class UNet(nn.Module):
    """Two levels down, skips, three ways down and three ways up."""

    def __init__(self, mode="circular", up="transposed", down="max", width=8, d=2):
        super().__init__()
        w = width
        self.encode = nn.ModuleList([block(1, w, mode, d), block(w, 2 * w, mode, d), block(2 * w, 4 * w, mode, d)])
        self.pools = nn.ModuleList([self._down(down, mode, c, d) for c in (w, 2 * w)])
        self.ups = nn.ModuleList([self._up(up, a, b, d) for a, b in ((2 * w, w), (4 * w, 2 * w))])
        self.decode = nn.ModuleList([block(2 * w, w, mode, d), block(4 * w, 2 * w, mode, d)])
        self.head = CONV[d](w, 1, 1)

    @staticmethod
    def _down(kind, mode, c, d):
        if kind == "conv":
            return CONV[d](c, c, 3, stride=2, padding=1, padding_mode=mode)
        if kind == "wide":
            return CONV[d](c, c, 4, stride=2, padding=1, padding_mode=mode)
        return MAX[d](2) if kind == "max" else AVERAGE[d](2)

    @staticmethod
    def _up(kind, i, o, d):
        if kind == "transposed":
            return TRANSPOSED[d](i, o, 2, 2)
        if kind == "wide":
            return TRANSPOSED[d](i, o, 4, 2, 1)
        if kind == "shuffle":
            return nn.Sequential(nn.Conv2d(i, 4 * o, 1), nn.PixelShuffle(2))
        mode = "nearest" if kind == "nearest" else SMOOTH[d]
        return nn.Sequential(nn.Upsample(scale_factor=2, mode=mode), CONV[d](i, o, 1))

    def forward(self, x):
        a = self.encode[0](x)
        b = self.encode[1](self.pools[0](a))
        c = self.encode[2](self.pools[1](b))
        b = self.decode[1](torch.cat([self.ups[1](c), b], 1))
        return self.head(self.decode[0](torch.cat([self.ups[0](b), a], 1)))


class ResNet(nn.Module):
    """Residual blocks with a stem, instance norms and functional padding."""

    def __init__(self, width=8, blocks=2):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3)
        self.convs = nn.ModuleList([nn.Conv2d(width, width, 3) for _ in range(2 * blocks)])
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        x = F.relu(self.stem(F.pad(x, (1, 1, 1, 1), mode="circular")))
        for first, second in zip(self.convs[::2], self.convs[1::2], strict=True):
            y = F.silu(first(F.pad(x, (1, 1, 1, 1), mode="reflect")))
            x = x + second(F.pad(y, (1, 1, 1, 1), mode="replicate"))
        return self.head(x)


class ConvNeXt(nn.Module):
    """Depthwise 7 × 7 convolutions, LayerNorm over channels-last features, layer scale."""

    def __init__(self, width=12):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, padding_mode="circular")
        self.deep = nn.Conv2d(width, width, 7, padding=3, groups=width, padding_mode="circular")
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(0.5 * torch.ones(width))
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.deep(x).permute(0, 2, 3, 1)
        y = self.gamma * self.down(F.gelu(self.up(self.norm(y))))
        return self.head(x + y.permute(0, 3, 1, 2))


class Dilated(nn.Module):
    """Dilated and grouped convolutions with hard-coded channels, chunked gates, a crop and a stride by slicing."""

    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Conv2d(1, 2 * width, 5, padding=4, dilation=2, padding_mode="circular")
        self.second = nn.Conv2d(width, width, 3, padding=3, dilation=3, groups=4)
        self.third = nn.Conv2d(width, width, 3, padding=2)
        self.head = nn.ConvTranspose2d(width, 1, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x):
        a, b = self.first(x).chunk(2, dim=1)
        x = torch.tanh(a) * torch.sigmoid(b)
        x = F.leaky_relu(self.second(x))
        x = self.third(x)[:, :, 1:-1, 1:-1]
        return self.head(x[..., ::2, ::2])


class ConvLSTM(nn.Module):
    """Two steps of a convolutional LSTM with its gates from one convolution."""

    def __init__(self, width=6):
        super().__init__()
        self.width = width
        self.gates = nn.Conv2d(1 + width, 4 * width, 3, padding=1, padding_mode="circular")
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        h = torch.zeros(x.shape[0], self.width, *x.shape[2:], dtype=x.dtype, device=x.device)
        c = torch.zeros_like(h)
        for _ in range(2):
            i, f, o, g = torch.chunk(self.gates(torch.cat([x, h], dim=1)), 4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h)


class ViT(nn.Module):
    """Patch embedding, class token, learned positions, attention in four spellings, pixel-shuffle decoder."""

    def __init__(self, attention="sdpa", extra=True, patch=4, width=16, heads=2, depth=2, n=32):
        super().__init__()
        self.attention, self.patch, self.heads = attention, patch, heads
        self.embed = nn.Conv2d(1, width, patch, patch)
        self.extra = nn.Parameter(torch.randn(1, 1, width)) if extra else None
        m = n // patch
        grid = 2 * torch.pi * torch.arange(m) / m
        waves = [torch.sin((k % 3 + 1) * grid[:, None] + torch.cos((k % 2 + 1) * grid[None])) for k in range(width)]
        positions = torch.stack(waves, -1).reshape(1, m * m, width)
        self.positions = nn.Parameter(torch.cat([torch.randn(1, int(extra), width), positions], 1))
        if attention == "module":
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, F.gelu, batch_first=True, norm_first=True)
                for _ in range(depth)
            )
        else:
            self.blocks = nn.ModuleList(
                nn.ModuleDict(
                    {
                        "norm": nn.LayerNorm(width),
                        "qkv": nn.Linear(width, 3 * width),
                        "out": nn.Linear(width, width),
                        "mlp": nn.Sequential(
                            nn.LayerNorm(width), nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width)
                        ),
                    }
                )
                for _ in range(depth)
            )
        self.head = nn.Linear(width, patch * patch)

    def attend(self, q, k, v):
        if self.attention == "sdpa":
            return F.scaled_dot_product_attention(q, k, v)
        if self.attention == "explicit":
            return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1) @ v
        return (
            torch.einsum("bhnd,bhde->bhne", q.softmax(-1), torch.einsum("bhnd,bhne->bhde", k, v))
            / self.positions.shape[1]
        )

    def forward(self, x):
        t = self.embed(x)
        n, width, *lattice = t.shape
        t = t.flatten(2).transpose(1, 2)
        if self.extra is not None:
            t = torch.cat([self.extra.expand(n, -1, -1), t], dim=1)
        t = t + self.positions
        for part in self.blocks:
            if self.attention == "module":
                t = part(t)
                continue
            qkv = part["qkv"](part["norm"](t)).reshape(n, -1, 3, self.heads, width // self.heads)
            mixed = self.attend(*qkv.permute(2, 0, 3, 1, 4).unbind(0))
            t = t + part["out"](mixed.transpose(1, 2).reshape(n, -1, width))
            t = t + part["mlp"](t)
        if self.extra is not None:
            t = t[:, 1:]
        return F.pixel_shuffle(self.head(t).transpose(1, 2).reshape(n, -1, *lattice), self.patch)


class Classifier(nn.Module):
    """A functional: convolutions, then one dense layer on the flattened field, sizes written out."""

    def __init__(self, n=16, hard=False):
        super().__init__()
        self.conv, self.n, self.hard = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), n, hard
        self.dense = nn.Linear(4 * n * n, 3)

    def forward(self, x):
        x = torch.tanh(self.conv(x))
        return self.dense(x.view(-1, 4 * self.n * self.n) if self.hard else x.flatten(1))


class Mixer(nn.Module):
    """Patches, dense layers over tokens and over channels, dense head over tokens."""

    def __init__(self, n=32, patch=4, width=12, hidden=24):
        super().__init__()
        tokens = (n // patch) ** 2
        self.embed = nn.Conv2d(1, width, patch, patch)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.over_tokens = nn.Sequential(nn.Linear(tokens, hidden), nn.GELU(), nn.Linear(hidden, tokens))
        self.over_channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head, self.last = nn.Linear(tokens, tokens), nn.ConvTranspose2d(width, 1, patch, patch)

    def smooth(self):
        """Weights that vary in space as those of a trained network do, smoothly."""
        m = int(self.head.in_features**0.5)
        wave = 2 * torch.pi * torch.arange(m) / m
        modes = [
            torch.cos((k % 3) * wave[:, None] + k)[:, :] * torch.sin((k % 2 + 1) * wave[None] - k) for k in range(64)
        ]
        table = torch.stack(modes).flatten(1) / m
        hidden = self.over_tokens[0].out_features
        with torch.no_grad():
            self.over_tokens[0].weight.copy_(table[:hidden])
            self.over_tokens[2].weight.copy_(4 * table[:hidden].T)
            self.head.weight.copy_(table.T @ table)
            self.over_tokens[2].bias.copy_(table[1])
            self.head.bias.copy_(table[2])
        return self

    def forward(self, x):
        t = self.embed(x)
        lattice = t.shape[2:]
        t = t.flatten(2).transpose(1, 2)
        t = t + self.over_tokens(self.norms[0](t).transpose(1, 2)).transpose(1, 2)
        t = t + self.over_channels(self.norms[1](t))
        return self.last(self.head(t.transpose(1, 2)).unflatten(2, lattice))


class Normed(nn.Module):
    """Depthwise convolutions between norms whose statistics run over space: group, instance, layer, or channels by
    hand."""

    def __init__(self, norm="group", width=8, n=32):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, padding_mode="circular")
        self.deep = nn.Conv2d(width, width, 5, padding=2, groups=width, padding_mode="circular")
        self.up, self.head = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, 1, 1)
        kinds = {
            "group": lambda: nn.GroupNorm(2, width),
            "instance": lambda: nn.InstanceNorm2d(width, affine=True),
            "layer": lambda: nn.LayerNorm((width, n, n)),
        }
        self.norm = kinds[norm]() if norm in kinds else None
        if norm == "layer":
            wave = 2 * torch.pi * torch.arange(n) / n
            with torch.no_grad():
                self.norm.weight.mul_(1 + 0.3 * torch.cos(wave)[:, None] * torch.sin(2 * wave))
                self.norm.bias.add_(0.2 * torch.sin(wave)[:, None])

    def forward(self, x):
        x = self.deep(self.stem(x))
        if self.norm is None:  # global response normalisation
            gain = (x**2).mean((2, 3), keepdim=True).sqrt()
            x = x * (1 + gain / (gain.mean(1, keepdim=True) + 1e-6))
        else:
            x = self.norm(x)
        return self.head(F.gelu(self.up(x)))


class AutoEncoder(nn.Module):
    """A code without a place between two dense layers."""

    def __init__(self, n=16, code=5):
        super().__init__()
        self.n, self.encode, self.decode = n, nn.Linear(n * n, code), nn.Linear(code, n * n)

    def forward(self, x):
        return self.decode(torch.tanh(self.encode(x.flatten(1)))).view(-1, 1, self.n, self.n)


def trained(net, shape=(32, 32)):
    """Running statistics as after a training, then eval mode: every path of the network has weight."""
    with torch.no_grad():
        for p in net.parameters():
            if p.dim() > 1:
                p.mul_(1.5)
        for _ in range(3):
            net(torch.randn(2, 1, *shape, dtype=next(net.parameters()).dtype))
    return net.eval()


def waves(n, ends=False):
    x = torch.linspace(0, 1, n + int(not ends), dtype=torch.float64)[:n] * 2 * torch.pi
    a, b = torch.meshgrid(x, x, indexing="ij")
    return torch.stack([torch.sin(a + k) * torch.cos(2 * b) + 0.5 * torch.cos(3 * a - b) for k in range(2)])[:, None]

"""FNO: one test per guard against a defect of the wrapped library."""

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sciops.models.fno import FNO

ROOT = Path(__file__).resolve().parents[2]


def small(**options: object) -> FNO:
    return FNO(**{"width": 6, "layers": 2, "n_modes": 4, "padding": 3, **options})  # type: ignore[arg-type]


def seen_by_library(model: FNO, x: Tensor) -> Tensor:
    """The padded input with coordinates that reaches the wrapped network."""
    caught = []
    handle = model.net.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    model(x)
    handle.remove()
    return caught[0]


@pytest.mark.parametrize("shape", [(33, 33), (32, 33), (33, 64), (17, 40)])
def test_odd_sizes_reach_the_library_even(shape: tuple[int, int]) -> None:
    model = small()
    x = torch.randn(2, 1, *shape)
    assert model(x).shape == x.shape
    padded = seen_by_library(model, x)
    assert all(n % 2 == 0 and n >= m + 3 for n, m in zip(padded.shape[2:], shape, strict=True))
    assert torch.equal(padded[:, :1, : shape[0], : shape[1]], x)
    assert padded[:, 0, shape[0] :].abs().max() == 0


def test_spectral_layer_is_right_on_the_padded_size() -> None:
    """A library layer on the sizes we hand it equals the transform written out; on an odd size it would not."""
    model = small(width=2)
    conv = model.net.fno_blocks.convs[0]
    weight = conv.weight.to_tensor()

    def direct(v: Tensor) -> Tensor:
        n = v.shape[2]
        spectrum = torch.fft.rfft2(v, norm="forward")
        product = torch.zeros_like(spectrum)
        for row, k in enumerate(range(-4, 4)):
            product[:, :, k % n, :4] = torch.einsum(
                "io..., ni... -> no...", weight[:, :, row], spectrum[:, :, k % n, :4]
            )
        return torch.fft.irfft2(product, s=v.shape[2:], norm="forward") + conv.bias

    for n in (36, 33):
        v = torch.randn(1, 2, n, n)
        with torch.no_grad():
            error = float((conv(v) - direct(v)).norm() / direct(v).norm())
        assert (error < 1e-5) == (n % 2 == 0), error
    n = seen_by_library(model, torch.randn(1, 1, 33, 33)).shape[2]
    assert n == 36


def test_odd_periodic_size_is_refused() -> None:
    model = small(bc="periodic")
    with pytest.raises(ValueError, match="resample to an even size"):
        model(torch.randn(1, 1, 33, 32))
    assert model(torch.randn(1, 1, 32, 33)).shape == (1, 1, 32, 33)


@pytest.mark.parametrize(
    ("layout", "bc", "first", "last"),
    [("node", "dirichlet", 0.0, 1.0), ("cell", "neumann", 0.5 / 20, 19.5 / 20), ("node", "periodic", 0.0, 19 / 20)],
)
def test_coordinates_sit_on_the_points(layout: str, bc: str, first: float, last: float) -> None:
    v = seen_by_library(small(layout=layout, bc=bc), torch.randn(2, 1, 20, 20))
    x, y = v[:, 1], v[:, 2]
    assert x[:, 0].unique().item() == pytest.approx(first) and x[:, 19].unique().item() == pytest.approx(last)
    assert torch.equal(x, y.transpose(1, 2))


def test_float64_is_refused() -> None:
    x = torch.randn(1, 1, 16, 16)
    with pytest.raises(ValueError, match="float32 alone"):
        small()(x.double())
    with pytest.raises(ValueError, match="float32 alone"):
        small().double()(x.double())


class Task(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = small()


@pytest.mark.parametrize("build", [small, Task])
def test_state_dict_loads_in_safe_mode(build: type[nn.Module]) -> None:
    model, fresh = build(), build()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert set(state) == {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    fresh.load_state_dict(state)
    x = torch.randn(1, 1, 16, 16)
    a, b = (getattr(m, "model", m)(x) for m in (model, fresh))
    assert torch.equal(a, b)


def test_copies_and_pickles() -> None:
    model, x = small(), torch.randn(1, 1, 17, 16)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


def test_exports() -> None:
    """torch.fx cannot trace it; torch.export can."""
    model, x = small().eval(), torch.randn(1, 1, 17, 16)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


@pytest.mark.parametrize(("ndim", "shape"), [(1, (31,)), (2, (20, 33)), (3, (9, 11, 12))])
def test_dimensions_and_gradients(ndim: int, shape: tuple[int, ...]) -> None:
    model = small(in_channels=2, out_channels=3, ndim=ndim)
    u = model(torch.randn(2, 2, *shape))
    assert u.shape == (2, 3, *shape)
    u.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_published_size() -> None:
    """Twelve frequencies, width 32, four layers: the spectral weights of the published 2,368,001-parameter model."""
    conv = [m.weight for m in FNO().net.fno_blocks.convs]
    assert sum(2 * w.numel() for w in conv) == 4 * 2 * 2 * 32 * 32 * 12 * 12


@pytest.mark.parametrize(("layout", "native", "fine"), [("node", 33, 97), ("cell", 32, 96)])
def test_padding_as_a_part_of_the_domain_keeps_the_map_on_finer_grids(layout: str, native: int, fine: int) -> None:
    """Nine points are another length on every grid: the answer changes there, with a part of the domain less so."""

    def change(padding: int | float) -> float:
        torch.manual_seed(0)
        model = FNO(width=8, layers=2, n_modes=6, padding=padding, layout=layout).eval()
        answers = []
        for n in (native, fine):
            x = torch.arange(n) / (n - 1) if layout == "node" else (torch.arange(n) + 0.5) / n
            f = torch.sin(torch.pi * x)[:, None] * torch.sin(2 * torch.pi * x)[None]
            with torch.no_grad():
                answers.append(model(f[None, None]))
        first = 0 if layout == "node" else 1
        coarse, shared = answers[0], answers[1][..., first::3, first::3]
        return float((coarse - shared).norm() / coarse.norm())

    assert change(0.25) < 0.3 * change(9)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="n_modes"):
        FNO(n_modes=(4, 4, 4))
    with pytest.raises(ValueError, match="width"):
        FNO(width=1)
    with pytest.raises(ValueError, match="padding"):
        FNO(padding=-1)
    with pytest.raises(ValueError, match="a part of the domain"):
        FNO(padding=1.5)
    with pytest.raises(ValueError, match="ndim=2"):
        small()(torch.randn(1, 1, 16))


OFFLINE = """
import socket, sys
def refuse(*args, **kwargs): raise OSError("network used")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import sciops.models.fno
assert "neuralop" not in sys.modules
sciops.models.fno.FNO(width=4, n_modes=2, layers=1)
"""


def test_library_is_imported_late_and_offline() -> None:
    subprocess.run([sys.executable, "-c", OFFLINE], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})

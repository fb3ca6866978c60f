"""Normalisers against statistics taken in one go, their checkpoints, and the sizes they refuse."""

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.data.normalise import KINDS, Normaliser

AXES = {"scalar": (0, 1, 2, 3), "channel": (0, 2, 3), "pixel": (0,)}


def fields(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 100.0, 0.01], dtype=dtype)[:, None, None]
    return torch.randn((12, 3, 5, 4), generator=generator, dtype=dtype) * scale + 1000 * scale


@pytest.mark.parametrize("kind", AXES)
def test_statistics_are_those_of_all_data_at_once(kind):
    x = fields()
    std, mean = torch.std_mean(x, AXES[kind], keepdim=True)
    for batches in (x, x.split(5), x.split(1)):
        z = Normaliser(kind).fit(batches).encode(x)
        assert torch.allclose(z, (x - mean) / (std + 1e-5), rtol=1e-9, atol=1e-9)


def test_unit_range():
    x = fields()
    z = Normaliser("unit").fit(x.split(4)).encode(x)
    assert torch.allclose(z.amin((0, 2, 3)), torch.zeros(3, dtype=z.dtype), atol=1e-12)
    assert (z.amax((0, 2, 3)) <= 1).all() and (z.amax((0, 2, 3)) > 0.999).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decode_inverts_encode_and_types_stay(kind, dtype):
    x = fields(dtype)
    normaliser = Normaliser(kind).fit(x)
    z = normaliser.encode(x)
    assert z.dtype == dtype and normaliser.shift.dtype == (torch.float32 if kind == "identity" else dtype)
    assert (normaliser.decode(z) - x).abs().max() <= 10 * torch.finfo(dtype).eps * x.abs().max()
    assert torch.equal(z, x) == (kind == "identity")


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_with_weights_only(kind, tmp_path):
    fitted = torch.nn.ModuleDict({"n": Normaliser(kind).fit(fields())})
    torch.save(fitted.state_dict(), tmp_path / "n.pt")
    fresh = torch.nn.ModuleDict({"n": Normaliser(kind)})
    fresh.load_state_dict(torch.load(tmp_path / "n.pt", weights_only=True))
    assert torch.equal(fresh["n"].encode(fields()), fitted["n"].encode(fields()))


def test_a_pixel_normaliser_refuses_another_resolution():
    normaliser = Normaliser("pixel").fit(fields())
    with pytest.raises(UsageError, match=r"fitted on \(c, \*s\) = \(3, 5, 4\) but met \(3, 10, 8\); use kind 'scalar'"):
        normaliser.encode(torch.zeros(2, 3, 10, 8))
    with pytest.raises(UsageError, match="met"):
        normaliser.decode(torch.zeros(2, 3, 10, 8))
    for kind in ("scalar", "channel", "unit", "identity"):
        assert Normaliser(kind).fit(fields()).encode(torch.zeros(2, 3, 10, 8)).shape == (2, 3, 10, 8)


def test_other_mistakes():
    with pytest.raises(UsageError, match="fitted on 3 channel"):
        Normaliser("channel").fit(fields()).encode(torch.zeros(2, 1, 5, 4))
    with pytest.raises(UsageError, match="at least two training values"):
        Normaliser("scalar").fit([])
    with pytest.raises(UsageError, match="at least two"):
        Normaliser("pixel").fit(fields()[:1])


def test_a_constant_channel_stays_finite():
    x = torch.ones(4, 1, 3, 3)
    assert torch.equal(Normaliser("channel").fit(x).encode(x), torch.zeros_like(x))

"""Latent spectral models on grids: published counts and outputs, padding, norms, boundary options."""

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sciops.models.boundary import CIRCULAR, ZEROS
from sciops.models.lsm import (
    LSM,
    lsm_airfoil,
    lsm_darcy,
    lsm_elasticity_grid,
    lsm_navier_stokes,
    lsm_pipe,
    lsm_plasticity,
)
from sciops.models.lsm_reference import load_reference, reference_state
from sciops.models.lsm_unet import SpectralUNet

ROOT = Path(__file__).resolve().parents[2]

# builder, parameters, of which spectral blocks, input channels, grid, padded grid, patch
PUBLISHED: dict[str, tuple[Callable[..., LSM], int, int, int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "darcy": (lsm_darcy, 19_187_457, 1_876_544, 1, (85, 85), (96, 96), (6, 6)),
    "navier_stokes": (lsm_navier_stokes, 19_188_033, 1_876_544, 10, (64, 64), (64, 64), (4, 4)),
    "airfoil": (lsm_airfoil, 4_812_833, 480_544, 2, (221, 51), (224, 64), (14, 4)),
    "pipe": (lsm_pipe, 10_804_913, 1_064_112, 2, (129, 129), (144, 144), (9, 9)),
    "elasticity_grid": (lsm_elasticity_grid, 4_812_801, 480_544, 1, (41, 41), (48, 48), (3, 3)),
    "plasticity": (lsm_plasticity, 13_457_828, 480_544, 1, (101, 31, 20), (112, 32, 32), (7, 2, 2)),
}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def tiny(**options: Any) -> LSM:
    torch.manual_seed(0)
    return LSM(**({"width": 8, "bases": 3, "tokens": 2, "heads": 4} | options)).double()


def awake(model: LSM) -> LSM:
    """Running statistics and norm weights away from their initial values."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return model


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name: str) -> None:
    build, parameters, blocks, channels, grid, padded, patch = PUBLISHED[name]
    with torch.device("meta"):
        model, control = build(), build(spectral_blocks=False)
    assert count(model) == parameters and count(control) == parameters - blocks
    assert count(model.unet.blocks) == blocks
    assert model.padded(grid) == (padded, patch)
    out = model.project2.out_channels
    assert model(torch.zeros(2, channels, *grid, device="meta")).shape == (2, out, *grid)


def test_small_gate_count() -> None:
    assert count(LSM(width=16, patch=4)) == 1_211_265


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_last_points_of_the_published_grids_count(name: str) -> None:
    """An impulse on the last point of every axis reaches the output there, also through U-Net and crop."""
    build, _, _, channels, grid, _, _ = PUBLISHED[name]
    torch.manual_seed(0)
    model = build(width=8).eval().requires_grad_(False)
    x = torch.zeros(1, channels, *grid)
    x[(0, 0, *(-1,) * len(grid))] = 10.0
    change = (model(x) - model(torch.zeros_like(x)))[0].abs().amax(0)
    assert change[(-1,) * len(grid)] > 1e-5
    # The crop keeps the beginning: without the U-Net the model is pointwise.
    model.unet.forward = lambda v, patch: v  # type: ignore[method-assign, assignment]
    change = (model(x) - model(torch.zeros_like(x)))[0].abs().amax(0)
    assert change[(-1,) * len(grid)] > 1e-4 and (change > 0).sum() == 1


def plain_lsm() -> type[nn.Module]:
    """The plain transcription of the speed benchmark."""
    path = ROOT / "experiments" / "benchmarks" / "lsm_speed.py"
    spec = importlib.util.spec_from_file_location("lsm_speed", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PlainLSM


@pytest.mark.parametrize(("shape", "channels_last"), [((37, 33), True), ((37, 33), False), ((32, 32), True)])
def test_equals_the_plain_transcription(shape: tuple[int, int], channels_last: bool) -> None:
    torch.manual_seed(0)
    ours = awake(LSM(2, 3, 16, padding="zeros", channels_last=channels_last).double())
    plain = plain_lsm()(2, 3, 16).double()
    plain.load_state_dict(reference_state(ours))
    size = max(n + -n % 16 for n in shape)  # the transcription has square patches
    x = torch.randn(2, 2, *shape, dtype=torch.float64)
    assert ours.padded(shape) == ((size, size), (size // 16,) * 2)
    for mode in (False, True):
        a, b = ours.train(mode)(x), plain.train(mode)(x)
        assert (a - b).abs().max() <= 1e-11 * b.abs().max()
    ours.float(), plain.float()
    a, b = ours.eval()(x.float()), plain.eval()(x.float())
    assert (a - b).abs().max() <= 2e-6 * b.abs().max()


def test_reference_weights_there_and_back() -> None:
    torch.manual_seed(0)
    first, second = awake(LSM(width=8)), LSM(width=8)
    state = reference_state(first)
    assert state["process2.encoder_attn.weight"].shape == (32, 16, 1, 1)
    assert torch.equal(state["process2.encoder_attn.weight"][0::2, :, 0, 0], first.unet.blocks[1].key.weight)
    assert torch.equal(state["process2.encoder_attn.bias"][1::2], first.unet.blocks[1].value.bias)
    assert state["fc0.weight"].shape == (8, 3) and state["up1.conv.double_conv.0.weight"].shape == (64, 128, 3, 3)
    load_reference(second, state)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    with pytest.raises(ValueError, match=r"another model: \S+ and \d+ more names differ"):
        load_reference(LSM(width=8, spectral_blocks=False), state)
    with pytest.raises(ValueError, match="has shape"):
        load_reference(LSM(width=16), state)


@pytest.mark.parametrize("shape", [(17, 40), (32, 31), (64, 49), (33, 100)])
@pytest.mark.parametrize("bc", ["dirichlet", "neumann", "periodic", ("periodic", "neumann")])
def test_any_grid_size(shape: tuple[int, int], bc: str | tuple[str, str]) -> None:
    model = tiny(bc=bc)
    x = torch.randn(2, 1, *shape, dtype=torch.float64)
    u = model(x)
    assert u.shape == x.shape and u.dtype == torch.float64
    u.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("ndim", "shape", "layout"), [(1, (37,), "node"), (3, (17, 12, 33), "cell"), (3, (9, 20, 16), "interior")]
)
def test_dimensions_and_layouts(ndim: int, shape: tuple[int, ...], layout: str) -> None:
    model = tiny(in_channels=2, out_channels=3, ndim=ndim, levels=3, layout=layout)
    assert model(torch.randn(2, 2, *shape, dtype=torch.float64)).shape == (2, 3, *shape)


def test_patches_by_rule_and_in_points() -> None:
    assert tiny().padded((85, 40)) == ((96, 48), (6, 3))
    assert tiny(patch=4).padded((64, 65)) == ((64, 128), (4, 4))
    assert tiny(patch=(2, 1)).padded((64, 65)) == ((64, 80), (2, 1))
    assert tiny(levels=3).padded((85, 3)) == ((88, 8), (22, 2))
    same, rule = tiny(patch=2), tiny()
    x = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    assert torch.equal(same.eval()(x), rule.eval()(x))


def test_coordinates_follow_layout_and_condition() -> None:
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)

    def axis(**options: Any) -> list[float]:
        return tiny(**options)._coordinates(x)[0, 0, :, 0].tolist()

    thirds = [0, 1 / 3, 2 / 3, 1]
    assert axis() == pytest.approx(thirds)
    assert axis(layout="cell") == pytest.approx([0.125, 0.375, 0.625, 0.875])
    assert axis(layout="interior") == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert axis(bc="periodic") == pytest.approx([0, 0.25, 0.5, 0.75])
    assert axis(bc="periodic", padding="zeros") == pytest.approx(thirds)


def test_dirichlet_on_nodes_is_the_published_form() -> None:
    x = torch.randn(1, 1, 37, 33, dtype=torch.float64)
    published, ours = tiny(padding="zeros").eval(), tiny().eval()
    assert torch.equal(published(x), ours(x))
    other = tiny(bc="neumann").eval()
    assert (published(x) - other(x)).abs().max() > 1e-6


@pytest.mark.parametrize(("blocks", "shift"), [(True, 32), (False, 16)])
def test_periodic_grids_commute_with_shifts(blocks: bool, shift: int) -> None:
    """By 16 points, as far as the U-Net goes; patches of 4 points on every level leave half the period."""
    model = awake(tiny(bc="periodic", spectral_blocks=blocks)).eval().requires_grad_(False)
    model.lift.weight[:, 1:] = 0  # without coordinates
    x = torch.randn(1, 1, 64, 64, dtype=torch.float64)

    def defect(net: LSM, by: int) -> float:
        return float((net(x.roll(by, 3)).roll(-by, 3) - net(x)).abs().max() / net(x).std())

    assert defect(model, shift) < 1e-12
    assert defect(model, 8) > 1e-6
    zeros = awake(tiny(bc="periodic", spectral_blocks=blocks, padding="zeros")).eval().requires_grad_(False)
    zeros.lift.weight[:, 1:] = 0
    assert defect(zeros, shift) > 1e-4


def test_upsampling_of_mixed_axes() -> None:
    """Linear between first and last points along a wall axis; on a wrapped axis the mean between pair centres."""
    net = SpectralUNet(8, (ZEROS, CIRCULAR), spectral_blocks=False).double()
    y = torch.arange(5, dtype=torch.float64)[:, None] + torch.tensor([0.0, 1.0, 5.0])
    up = net._upsample(y[None, None])[0, 0]
    along = torch.linspace(0, 4, 10, dtype=torch.float64)
    around = torch.tensor([0.25 * 5, 0.25, 0.75, 0.25 * 5 + 0.75, 0.25 + 0.75 * 5, 0.75 * 5], dtype=torch.float64)
    assert torch.allclose(up, along[:, None] + around, atol=1e-13)


def test_without_the_residual_branch_it_is_the_control() -> None:
    full, control = awake(tiny()), tiny(spectral_blocks=False)
    missing = control.load_state_dict(full.state_dict(), strict=False)
    assert all(".blocks." in key for key in missing.unexpected_keys) and not missing.missing_keys
    x = torch.randn(2, 1, 37, 33, dtype=torch.float64)
    assert (full.eval()(x) - control.eval()(x)).abs().max() > 1e-4
    with torch.no_grad():
        for block in full.unet.blocks:
            for p in (block.latent, block.series, *block.value.parameters()):
                p.zero_()
    assert torch.equal(full(x), control(x))


def test_modes_differ_only_through_batch_norm() -> None:
    model = awake(tiny())
    x = torch.randn(6, 1, 32, 24, dtype=torch.float64)
    u = model.eval()(x)
    assert (model(x[3:4]) - u[3:4]).abs().max() < 1e-12 * u.abs().max()
    trained = model.train()(x)
    assert (trained - u).abs().max() > 1e-2 * u.std()
    assert (model(x[:1]) - trained[:1]).abs().max() > 1e-4 * u.std()
    awake(model.train())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    frozen = model(x)
    assert torch.equal(frozen, model.eval()(x))


def test_instance_norm_knows_no_batch_and_no_mode() -> None:
    model = tiny(norm="instance")
    assert count(model) == count(tiny())
    x = torch.randn(5, 1, 40, 33, dtype=torch.float64)
    u = model.train()(x)
    assert torch.equal(u, model.eval()(x))
    assert (model(x[3:4]) - u[3:4]).abs().max() < 1e-12 * u.abs().max()
    v = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    known = nn.InstanceNorm2d(8, affine=True).double()(v)
    assert (model.unet.encoder[0].norm1(v) - known).abs().max() < 1e-13


def test_every_parameter_matters() -> None:
    model = awake(tiny())
    model(torch.randn(3, 1, 40, 33, dtype=torch.float64)).square().mean().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-14]
    assert dead == [f"unet.blocks.{level}.key.bias" for level in range(5)]  # adds a constant to all logits of a token
    assert all(block.series.grad[:, 0].abs().max() == 0 for block in model.unet.blocks)  # sin 0


def test_state_dict_round_trip_and_memory_format() -> None:
    model, fresh = awake(LSM(width=8)).eval(), LSM(width=8, channels_last=False).eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(2, 1, 41, 35)
    a, b = model(x), fresh(x)
    assert (a - b).abs().max() < 1e-5 * b.abs().max()
    assert {key.rpartition(".")[2] for key in model.state_dict()} == {
        "weight", "bias", "latent", "series", "running_mean", "running_var", "num_batches_tracked",
    }  # fmt: skip


def test_mixed_precision_keeps_the_output_near() -> None:
    model = awake(LSM(width=16)).eval()
    x = torch.randn(2, 1, 48, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        u = model(x)
    assert (u.float() - model(x)).norm() < 0.05 * model(x).norm()


def test_constants_move_with_the_model() -> None:
    on_meta: Tensor = LSM(width=8).to("meta")(torch.zeros(1, 1, 20, 20, device="meta"))
    assert on_meta.device.type == "meta"


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="padding must be one of boundary, zeros; got 'reflect'"):
        LSM(width=8, padding="reflect")
    with pytest.raises(ValueError, match="norm must be one of batch, instance; got 'layer'"):
        LSM(width=8, norm="layer")
    with pytest.raises(ValueError, match="levels must be 2 or more"):
        LSM(width=8, levels=1)
    with pytest.raises(ValueError, match="patch takes one positive number"):
        LSM(width=8, patch=(4, 4, 4))
    with pytest.raises(ValueError, match="heads must divide width"):
        LSM(width=12)
    with pytest.raises(ValueError, match="ndim=2"):
        LSM(width=8)(torch.zeros(1, 1, 20))
    with pytest.raises(ValueError, match="too small for 5 levels: padding 15 points by 17"):
        LSM(width=8, bc="neumann")(torch.zeros(1, 1, 15, 32))

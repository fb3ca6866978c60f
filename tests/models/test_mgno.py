"""MgNO: published parameter counts and outputs, and the properties the corrected model promises."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sciops.models.boundary import enforce_dirichlet
from sciops.models.mgno import (
    MgNO,
    PublishedMgNO,
    mgno_darcy,
    mgno_darcy_smooth,
    mgno_helmholtz,
    mgno_navier_stokes,
    parse_iterations,
)
from sciops.models.unet import UNet

SIZES = [64, 85, 101, 128, 129, 141, 211, *(pytest.param(n, marks=pytest.mark.slow) for n in (256, 421))]
FIVE = ("11", "10", "10", "10", "20")


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (mgno_darcy_smooth, 678_093),
        (mgno_darcy, 572_661),
        (lambda: mgno_darcy(2, layers=5, iterations=("10", "10", "10", "10", "11", "20")), 783_876),
        (mgno_navier_stokes, 2_885_194),
        (mgno_helmholtz, 5_351_806),
        (lambda: mgno_darcy(3), 578_685),
        (lambda: mgno_darcy(width=16, iterations=("10", "10", "10", "10", "20")), 208_564),
        (lambda: mgno_darcy(iterations=((1, 1),) * 5 + ((2, 0),)), 730_341),
    ],
)
def test_published_parameter_counts(build: Callable[[], nn.Module], expected: int) -> None:
    assert count(build()) == expected


def test_layernorm_share_of_published_models() -> None:
    for model, expected in ((mgno_navier_stokes(), 1_740_800), (mgno_helmholtz(), 1_632_160)):
        norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
        assert sum(count(m) for m in norms) == expected


def plain_cycle(W: nn.Module, f: Tensor, variant: str) -> Tensor:
    """The published loop, one operation after the other, default memory format."""
    mode = {"navier_stokes": "circular", "helmholtz": "reflect"}.get(variant, "constant")
    free = variant == "helmholtz"  # transfers without ghosts

    def same(x: Tensor, conv: nn.Module) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode), conv.weight.contiguous(), conv.bias)

    def down(x: Tensor, conv: nn.Module) -> Tensor:
        return F.conv2d(x if free else F.pad(x, (1, 1, 1, 1), mode), conv.weight.contiguous(), stride=2)

    us, fs, last = [], [], len(W.S) - 1
    u = torch.zeros(())
    for level in range(last + 1):
        sweeps = list(W.S[level])
        if level == 0:
            u = same(f, sweeps.pop(0))
        pre = W.pre[level] - (level == 0)
        for A, S in zip(W.A[level][:pre], sweeps[:pre], strict=True):
            u = u + same(f - same(u, A), S)
        us.append(u)
        fs.append(f)
        if level < last:
            u, f = down(u, W.Pi[level]), down(f, W.R[level])
    for level in reversed(range(last)):
        u = us[level] + F.conv_transpose2d(u, W.T[level].weight.contiguous(), stride=2, padding=0 if free else 1)
        if variant == "navier_stokes":
            u = W.norms[level](u)
        pre = W.pre[level] - (level == 0)
        for A, S in zip(list(W.A[level])[pre:], list(W.S[level])[W.pre[level] :], strict=True):
            u = u + same(fs[level] - same(u, A), S)
    return u


def plain_forward(model: PublishedMgNO, x: Tensor) -> Tensor:
    v = x
    for k, layer in enumerate(model.layers):
        w = plain_cycle(layer.W, v, model.variant)
        if layer.L is not None:
            w = w + F.conv2d(v, layer.L.weight, layer.L.bias)
        v = F.gelu(model.norms[k](w) if model.variant == "helmholtz" else w)
    if model.variant == "helmholtz":
        return plain_cycle(model.head.W, v, model.variant)
    u = F.conv2d(v, model.head.weight)
    return u + x if model.variant == "navier_stokes" else u


SMALL: dict[str, tuple[Callable[[], PublishedMgNO], int]] = {
    "darcy": (lambda: mgno_darcy(1, 1, 5, 2, FIVE), 32),
    "darcy_smooth": (lambda: mgno_darcy_smooth(1, 1, 5, 2, FIVE, n=53), 53),
    "navier_stokes": (lambda: mgno_navier_stokes(1, 1, 5, 2, FIVE, n=32), 32),
    "helmholtz": (lambda: mgno_helmholtz(1, 1, 3, 2, FIVE, n=101), 101),
}


@pytest.mark.parametrize("variant", list(SMALL))
def test_published_model_is_the_plain_loop(variant: str) -> None:
    build, n = SMALL[variant]
    model = build().double()
    for norm in (m for m in model.modules() if isinstance(m, nn.LayerNorm)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 1, n, n, dtype=torch.float64)
    u = model(x)
    expected = plain_forward(model, x)
    assert torch.linalg.vector_norm(u - expected) <= 1e-13 * torch.linalg.vector_norm(expected)


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    model(x).square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters()}


def assert_alive(model: nn.Module, x: Tensor) -> None:
    for name, grad in gradients(model, x).items():
        assert grad is not None and bool(torch.isfinite(grad).all()) and float(grad.abs().max()) > 0, name


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bc", ["dirichlet", "neumann", "periodic"])
def test_any_grid_size(n: int, bc: str) -> None:
    layout = "cell" if n % 3 == 1 else "node"
    model = MgNO(width=3, layers=2, bc=bc, layout=layout, restrict_residual=n % 2 == 1)
    x = torch.randn(1, 1, n, n)
    assert model(x).shape == x.shape
    assert_alive(model, x)


@pytest.mark.parametrize("n", SIZES)
def test_published_smooth_variant_at_any_size(n: int) -> None:
    model = mgno_darcy_smooth(width=3, layers=2, n=n)
    x = torch.randn(1, 1, n, n)
    assert model(x).shape == x.shape
    assert_alive(model, x)


def test_published_darcy_and_navier_stokes_have_no_dead_parameters() -> None:
    assert_alive(mgno_darcy(width=4), torch.randn(1, 1, 64, 64))
    assert_alive(mgno_navier_stokes(width=4), torch.randn(1, 1, 64, 64))


def test_published_helmholtz_has_the_published_dead_parameters() -> None:
    model = mgno_helmholtz(width=20)
    grads = gradients(model, torch.randn(1, 1, 101, 101))
    dead = [name for name, grad in grads.items() if grad is None]
    assert sum(dict(model.named_parameters())[name].numel() for name in dead) == 11_241


@pytest.mark.parametrize(("ndim", "shape"), [(1, (70,)), (2, (33, 50)), (3, (17, 20, 33))])
@pytest.mark.parametrize("bc", ["dirichlet", "neumann", "periodic"])
@pytest.mark.parametrize("layout", ["node", "cell"])
def test_dimensions(ndim: int, shape: tuple[int, ...], bc: str, layout: str) -> None:
    model = MgNO(2, 3, width=3, layers=1, iterations=("10", "11", "20"), ndim=ndim, bc=bc, layout=layout)
    x = torch.randn(2, 2, *shape)
    assert model(x).shape == (2, 3, *shape)
    assert_alive(model, x)


@pytest.mark.parametrize("restrict_residual", [True, False])
def test_periodic_shift_equivariance(restrict_residual: bool) -> None:
    model = MgNO(width=4, layers=2, iterations=FIVE, bc="periodic", restrict_residual=restrict_residual).double()
    x = torch.randn(1, 1, 64, 32, dtype=torch.float64)
    model.requires_grad_(False)
    u = model(x)

    def defect(shift: int) -> float:
        rolled = model(x.roll((shift, -shift), (2, 3))).roll((-shift, shift), (2, 3))
        return float((rolled - u).abs().max() / u.abs().max())

    assert defect(16) < 1e-13
    assert defect(8) > 1e-6  # the fifth level sees every 16th point


def symmetrise(model: nn.Module) -> None:
    """Average every kernel over the eight symmetries of the square."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 4:
                w = (p + p.flip(2)) / 2
                w = (w + w.flip(3)) / 2
                p.copy_((w + w.transpose(2, 3)) / 2)


@pytest.mark.parametrize(
    ("layout", "n", "bc"),
    [
        ("node", 33, "dirichlet"),
        ("node", 33, "neumann"),
        ("cell", 32, "dirichlet"),
        ("cell", 32, "neumann"),
        ("interior", 31, "dirichlet"),
    ],
)
@pytest.mark.parametrize("restrict_residual", [True, False])
def test_commutes_with_reflections_and_rotations(layout: str, n: int, bc: str, restrict_residual: bool) -> None:
    iterations = ("11", "10", "10", "20")
    model = MgNO(
        width=4, layers=2, iterations=iterations, bc=bc, layout=layout, restrict_residual=restrict_residual
    ).double()
    x = torch.randn(1, 1, n, n, dtype=torch.float64)
    moves = (lambda v: v.flip(2), lambda v: v.flip(3), lambda v: torch.rot90(v, 1, (2, 3)))

    model.requires_grad_(False)

    def defect() -> float:
        u = model(x)
        return max(float((model(move(x)) - move(u)).abs().max() / u.abs().max()) for move in moves)

    assert defect() > 1e-3
    symmetrise(model)
    assert defect() < 1e-13


@pytest.mark.parametrize(("layout", "n"), [("node", 33), ("cell", 32)])
def test_neumann_is_the_even_periodic_extension(layout: str, n: int) -> None:
    """Mirrored about its ends and made periodic, a field gives the mirrored answer, for symmetric kernels."""
    options = {"width": 4, "layers": 2, "iterations": ("11", "10", "20"), "layout": layout}
    walls = MgNO(**options, bc="neumann").double()  # type: ignore[arg-type]
    torus = MgNO(**options, bc="periodic").double()  # type: ignore[arg-type]
    symmetrise(walls)
    torus.load_state_dict(walls.state_dict())
    x = torch.randn(1, 1, n, n, dtype=torch.float64)
    mirrored = x
    for axis in (2, 3):
        image = mirrored.flip(axis)
        mirrored = torch.cat([mirrored, image if layout == "cell" else image.narrow(axis, 1, n - 2)], dim=axis)
    torch.testing.assert_close(torus(mirrored)[..., :n, :n], walls(x), rtol=1e-11, atol=1e-12)


def test_node_boundary_is_exact() -> None:
    value = 0.37
    model = MgNO(width=3, layers=1, iterations=("10", "20"), boundary_value=value)
    u = model(torch.randn(2, 1, 17, 20))
    for face in (u[..., 0, :], u[..., -1, :], u[..., 0], u[..., -1]):
        assert torch.equal(face, torch.full_like(face, value))
    free = MgNO(width=3, layers=1, iterations=("10", "20"), enforce_boundary=False)
    free.load_state_dict(model.state_dict())
    assert torch.equal(free(torch.ones(1, 1, 9, 9))[..., 1:-1, 1:-1], model(torch.ones(1, 1, 9, 9))[..., 1:-1, 1:-1])
    assert free(torch.ones(1, 1, 9, 9))[..., 0, :].abs().min() > 0


def test_boundary_acts_on_dirichlet_axes_alone() -> None:
    u = MgNO(width=3, layers=1, iterations=("10", "20"), bc=("periodic", "dirichlet"))(torch.randn(1, 1, 16, 17))
    assert u[..., 0].abs().max() == 0 and u[..., -1].abs().max() == 0
    assert u[..., 0, 1:-1].abs().min() > 0


@pytest.mark.parametrize("layout", ["cell", "interior"])
def test_distance_vanishes_on_the_true_boundary(layout: str) -> None:
    """Extrapolated to the face, the multiplied field reaches the value at second order or better."""
    errors = []
    for n in (64, 128):
        s = (torch.arange(n, dtype=torch.float64) + 0.5) / n if layout == "cell" else torch.arange(1, n + 1) / (n + 1)
        u = enforce_dirichlet((2 + torch.cos(3 * s.double()))[None, None], ("dirichlet",), layout, 0.5)[0, 0]
        face = (3 * u[0] - u[1]) / 2 if layout == "cell" else 2 * u[0] - u[1]
        errors.append(abs(float(face) - 0.5))
    assert errors[1] < 0.3 * errors[0] < 0.01


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"too small for 6 levels.*at most 5 levels"):
        MgNO()(torch.randn(1, 1, 30, 64))
    with pytest.raises(ValueError, match="ndim=2"):
        MgNO()(torch.randn(1, 1, 64))
    with pytest.raises(ValueError, match="published 6-level V-cycle"):
        mgno_darcy(width=2)(torch.randn(1, 1, 85, 85))
    with pytest.raises(ValueError, match="64×64"):
        mgno_navier_stokes(width=2)(torch.randn(1, 1, 128, 128))
    with pytest.raises(ValueError, match="give n"):
        PublishedMgNO("helmholtz")
    with pytest.raises(ValueError, match="variant must be one of"):
        PublishedMgNO("stokes")
    with pytest.raises(ValueError, match="per level; got '123'"):
        parse_iterations(["10", "123"])
    with pytest.raises(ValueError, match="bc takes one of"):
        MgNO(bc="robin")
    with pytest.raises(ValueError, match="layout"):
        MgNO(bc="periodic", layout="interior")
    with pytest.raises(ValueError, match="input_residual"):
        MgNO(2, 1, input_residual=True)


def test_iteration_tokens() -> None:
    assert parse_iterations(["10", 20, "2", 1, (1, 3), [0, 2]]) == [(1, 0), (2, 0), (2, 0), (1, 0), (1, 3), (0, 2)]


def test_checkpointing_changes_no_gradient() -> None:
    x = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    options = {"width": 3, "layers": 2, "iterations": ("10", "20")}
    plain, saving = MgNO(**options).double(), MgNO(**options, checkpoint=True).double()  # type: ignore[arg-type]
    saving.load_state_dict(plain.state_dict())
    a, b = gradients(plain, x), gradients(saving, x)
    assert all(torch.equal(a[name], b[name]) for name in a)  # type: ignore[arg-type]


def test_memory_format_changes_only_rounding() -> None:
    x = torch.randn(2, 1, 33, 33)
    for bc in ("dirichlet", "neumann", "periodic"):
        fast = MgNO(width=6, layers=2, iterations=FIVE, bc=bc)
        slow = MgNO(width=6, layers=2, iterations=FIVE, bc=bc, channels_last=False)
        slow.load_state_dict(fast.state_dict())
        torch.testing.assert_close(fast(x), slow(x), rtol=1e-4, atol=1e-6)


def test_input_residual_adds_the_input() -> None:
    options = {"width": 3, "layers": 1, "iterations": ("10", "20"), "bc": "periodic"}
    still, step = MgNO(**options), MgNO(**options, input_residual=True)  # type: ignore[arg-type]
    step.load_state_dict(still.state_dict())
    x = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(step(x), still(x) + x)


@pytest.mark.parametrize("build", [lambda: MgNO(width=3, iterations=("10", "20")), SMALL["helmholtz"][0]])
def test_state_dict_round_trip(build: Callable[[], nn.Module]) -> None:
    model, fresh = build(), build()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(1, 1, 101, 101)
    assert torch.equal(model(x), fresh(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_float64_stays_float64() -> None:
    assert MgNO(width=3, iterations=("10", "20")).double()(torch.randn(1, 1, 9, 9).double()).dtype == torch.float64


def test_built_from_class_paths() -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_argument("--model", type=nn.Module)
    for path, args, kind in (
        ("sciops.models.mgno.MgNO", {"width": 4, "iterations": ["10", [2, 0]], "bc": "neumann"}, MgNO),
        ("sciops.models.mgno.mgno_darcy", {"width": 4, "iterations": ["10", "20"]}, PublishedMgNO),
        ("sciops.models.unet.UNet", {"width": 8, "levels": 2, "bc": ["periodic", "dirichlet"]}, nn.Module),
        ("sciops.models.fno.FNO", {"width": 8, "n_modes": [4, 3]}, nn.Module),
    ):
        config = parser.parse_object({"model": {"class_path": path, "init_args": args}})
        assert isinstance(parser.instantiate(config).model, kind)


IT = ("11", "10", "20")


@pytest.mark.parametrize(
    ("n", "build"),
    [
        (21, lambda: MgNO(width=3, layers=2, iterations=IT, bc=("dirichlet", "neumann"))),
        (16, lambda: MgNO(width=3, layers=2, iterations=IT, bc="periodic", layout="cell", restrict_residual=False)),
        (16, lambda: mgno_darcy(1, 1, 3, 2, IT)),
        (21, lambda: mgno_darcy_smooth(1, 1, 3, 2, IT, 21)),
        (16, lambda: mgno_navier_stokes(1, 1, 3, 2, IT, 16)),
        (23, lambda: mgno_helmholtz(1, 1, 3, 2, IT, 23)),
        (21, lambda: UNet(width=4, levels=3, bc="neumann")),
    ],
    ids=["own", "periodic", "darcy", "darcy-smooth", "navier-stokes", "helmholtz", "unet"],
)
def test_compiles_to_one_graph(n: int, build: Callable[[], nn.Module]) -> None:
    model, x = build(), torch.randn(1, 1, n, n)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))

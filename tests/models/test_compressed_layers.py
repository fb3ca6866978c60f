"""Factored convolutions: exact at full rank, truncated as Eckart and Young say, counted, drawn, differentiated."""

import io
from itertools import product
from math import prod

import pytest
import torch
from torch import nn

from sciops.core.errors import UsageError
from sciops.models.compressed import SCHEMES, CompressedConv, CompressedConv2d, CompressedConv3d
from sciops.models.vcycle import CONV, CONV_TRANSPOSE

MODES = ("zeros", "reflect", "replicate", "circular")
KERNELS = {1: 3, 2: (3, 5), 3: (3, 2, 3)}
SIZES = {1: (11,), 2: (9, 12), 3: (7, 6, 8)}


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_exact_at_full_rank(scheme: str, ndim: int) -> None:
    x = torch.randn(2, 4, *SIZES[ndim], dtype=torch.float64)
    for mode, (stride, dilation, groups) in product(MODES, [(2, 1, 2), (1, 2, 1)]):
        options = {"stride": stride, "dilation": dilation, "groups": groups, "padding_mode": mode, "padding": 2}
        conv = CONV[ndim](4, 6, KERNELS[ndim], **options).double()  # type: ignore[arg-type]
        layer = CompressedConv.from_dense(conv, scheme, "full")
        assert layer(x).shape == conv(x).shape
        assert relative(layer(x), conv(x)) < 1e-12, options


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_transposed_exact_at_full_rank(scheme: str, ndim: int) -> None:
    x = torch.randn(2, 4, *SIZES[ndim], dtype=torch.float64)
    for stride, dilation, groups in ((1, 1, 2), (1, 2, 1), (2, 1, 1), (2, 2, 2)):
        options = {"stride": stride, "dilation": dilation, "groups": groups, "padding": 1}
        conv = CONV_TRANSPOSE[ndim](4, 6, KERNELS[ndim], output_padding=stride - 1, **options).double()  # type: ignore[arg-type]
        layer = CompressedConv.from_dense(conv, scheme, "full")
        assert relative(layer(x), conv(x)) < 1e-12, options
        assert relative(layer.to_dense()(x), conv(x)) < 1e-12, options
        if stride == 2:  # the smaller of the two sizes that stride 2 allows
            size = [n - 1 for n in conv(x).shape[2:]]
            assert relative(layer(x, size), conv(x, size)) < 1e-12, options


def test_other_strides_and_paddings_along_each_axis() -> None:
    options = {"stride": (2, 1), "dilation": (1, 3), "padding": (2, 0), "padding_mode": "reflect"}
    conv = nn.Conv2d(3, 5, (4, 3), **options).double()  # type: ignore[arg-type]
    x = torch.randn(1, 3, 12, 15, dtype=torch.float64)
    for scheme in SCHEMES:
        assert relative(CompressedConv.from_dense(conv, scheme, "full")(x), conv(x)) < 1e-12
    for mode in MODES:  # an even kernel: torch pads "same" by one more point behind than before
        same = nn.Conv2d(3, 5, (4, 3), padding="same", padding_mode=mode).double()  # type: ignore[arg-type]
        for scheme in SCHEMES:
            assert relative(CompressedConv.from_dense(same, scheme, "full")(x), same(x)) < 1e-12


def test_truncation_is_that_of_eckart_and_young() -> None:
    conv = nn.Conv2d(5, 6, (3, 7)).double()
    W = conv.weight.detach()
    s = torch.linalg.svdvals(W.permute(1, 2, 3, 0).reshape(5 * 3, 7 * 6))  # (i k₁) × (k₂ o)
    for rank in (1, 4, 11):
        layer = CompressedConv.from_dense(conv, "succession", rank)
        assert (layer.weight - W).norm().item() == pytest.approx(s[rank:].norm().item(), rel=1e-9)
        assert torch.allclose(layer.spectrum()[0][:rank], s[:rank])
    s = torch.linalg.svdvals(W)  # of each kernel
    for rank in (1, 2):
        layer = CompressedConv.from_dense(conv, "perkernel", rank)
        error = (layer.weight - W).flatten(2).norm(dim=2)
        assert torch.allclose(error, s[..., rank:].norm(dim=2))


def test_truncation_in_three_dimensions() -> None:
    conv = nn.Conv3d(3, 4, (3, 4, 2)).double()
    W = conv.weight.detach()
    # A train: what the two sequential SVDs leave out, added in squares.
    first = W.permute(1, 2, 3, 4, 0).reshape(9, 4 * 8)
    _, s, v = torch.linalg.svd(first, full_matrices=False)
    t = torch.linalg.svdvals((s[:5, None] * v[:5]).reshape(5 * 4, 8))
    layer = CompressedConv.from_dense(conv, "succession", (5, 6))
    left_out = (s[5:].square().sum() + t[6:].square().sum()).sqrt().item()
    assert (layer.weight - W).norm().item() == pytest.approx(left_out, rel=1e-9)
    # Nested SVDs of each kernel: orthonormal terms, the largest R kept. Here along the axis of 2 points first.
    kernels = W.flatten(0, 1).permute(0, 3, 1, 2)
    _, s, v = torch.linalg.svd(kernels.reshape(12, 2, 12), full_matrices=False)
    weights = (s[..., None] * torch.linalg.svdvals(v.reshape(12, 2, 3, 4))).flatten(1).sort(descending=True)[0]
    layer = CompressedConv.from_dense(conv, "perkernel", 2)
    error = (layer.weight - W).flatten(2).norm(dim=2).flatten()
    assert torch.allclose(error, weights[:, 2:].norm(dim=1))


@pytest.mark.parametrize("scheme", ["tucker", "tt"])
def test_truncation_is_bounded_by_the_spectra(scheme: str) -> None:
    conv = nn.Conv2d(6, 8, 5).double()
    for rank in (2, 4):
        layer = CompressedConv.from_dense(conv, scheme, rank)
        values = SCHEMES[scheme].spectra(layer.shape.from_torch(conv.weight.detach()))
        left_out = [v[:, r:].square().sum().item() for v, r in zip(values, layer.ranks, strict=True)]
        squared = (layer.weight - conv.weight).square().sum().item()
        # The sum bounds it from above, the largest is what no kernel of these ranks can avoid.
        assert max(left_out) <= squared * (1 + 1e-12)
        assert squared <= sum(left_out) * (1 + 1e-12)


def test_alternating_least_squares_finds_a_kernel_of_low_rank() -> None:
    g = torch.Generator().manual_seed(3)
    a, b, c, d = (torch.randn(n, 3, dtype=torch.float64, generator=g) for n in (6, 5, 4, 3))
    conv = nn.Conv2d(5, 6, (4, 3)).double()
    with torch.no_grad():
        conv.weight.copy_(torch.einsum("or,ir,hr,wr->oihw", a, b, c, d))
    found = CompressedConv.from_dense(conv, "cp", 3)
    assert relative(found.weight, conv.weight) < 1e-4
    # Of a random kernel the sweeps end below their start, the largest orthonormal terms.
    random = nn.Conv2d(5, 6, (4, 3)).double()
    layer = CompressedConv.from_dense(random, "cp", 8)
    start = SCHEMES["cp"].spectra(layer.shape.from_torch(random.weight.detach()))[0][0, 8:].norm().item()
    assert (layer.weight - random.weight).norm().item() < 0.95 * start


# The examples of 64 channels, and their formulas.
COUNTS = [
    (2, "perkernel", 1, 24_576),
    (2, "succession", 64, 24_576),
    (2, "succession", 32, 12_288),
    (2, "cp", 64, 64 * (64 + 64 + 6)),
    (3, "perkernel", 1, 36_864),
    (3, "cp", 64, 64 * (64 + 64 + 9)),
    (2, "tucker", 16, 64 * 16 + 16 * 16 * 9 + 16 * 64),
    (2, "tt", 16, 64 * 16 + 2 * 16 * 16 * 3 + 16 * 64),
]


@pytest.mark.parametrize(("ndim", "scheme", "rank", "weights"), COUNTS)
def test_numbers_of_parameters(ndim: int, scheme: str, rank: int, weights: int) -> None:
    layer = CompressedConv(ndim, 64, 64, 3, scheme=scheme, rank=rank)
    assert sum(p.numel() for p in layer.parameters()) == weights + 64
    assert SCHEMES[scheme].weights(layer.shape, layer.ranks) == weights


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_fraction_is_the_largest_rank_within_it(scheme: str) -> None:
    for share in (0.3, 0.45, 1.0):
        layer = CompressedConv2d(8, 12, 7, scheme=scheme, rank=share, bias=False)
        chosen = SCHEMES[scheme]
        assert chosen.weights(layer.shape, layer.ranks) <= share * layer.shape.weights
        more = chosen.uniform(layer.shape, max(layer.ranks) + 1)
        assert more == layer.ranks or chosen.weights(layer.shape, more) > share * layer.shape.weights


@pytest.mark.parametrize("scheme", SCHEMES)
def test_automatic_rank_keeps_the_energy(scheme: str) -> None:
    conv = nn.Conv2d(6, 8, 5, groups=2).double()
    for tolerance in (0.4, 0.02):
        layer = CompressedConv.from_dense(conv, scheme, "auto", tolerance)
        assert relative(layer.weight, conv.weight) ** 2 <= tolerance
    smaller = CompressedConv.from_dense(conv, scheme, "auto", 0.4)
    assert sum(smaller.ranks) < sum(layer.ranks)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("transposed", [False, True])
def test_to_dense_and_state(scheme: str, transposed: bool) -> None:
    options = {"stride": 2, "padding": 1, "groups": 2, "scheme": scheme, "rank": 2, "transposed": transposed}
    layer = CompressedConv2d(4, 6, 3, **options).double()  # type: ignore[arg-type]
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    dense = layer.to_dense()
    assert type(dense) is (nn.ConvTranspose2d if transposed else nn.Conv2d)
    assert relative(dense(x), layer(x)) < 1e-12
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    twin = CompressedConv2d(4, 6, 3, **options).double()  # type: ignore[arg-type]
    assert relative(twin(x), layer(x)) > 0.1
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(twin(x), layer(x))


@pytest.mark.parametrize(
    ("scheme", "rank", "transposed"),
    [(*pair, False) for pair in (("perkernel", 1), ("succession", 4), ("cp", 8), ("tucker", 4), ("tt", 4))]
    + [("perkernel", 1, True), ("succession", 4, True)],
)
def test_fresh_layers_have_the_variance_of_dense_ones(scheme: str, rank: int, transposed: bool) -> None:
    """Root mean square over 100 seeds of the output's standard deviation; white input."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    x = torch.randn(4, 8, 7, 7)
    ours, theirs, least, most = 0.0, 0.0, float("inf"), 0.0
    with torch.no_grad():
        for seed in range(100):
            torch.manual_seed(seed)
            y = CompressedConv2d(8, 12, 3, scheme=scheme, rank=rank, padding=1, transposed=transposed)(x)
            assert y.isfinite().all()
            variance = y.var().item()
            least, most = min(least, variance**0.5), max(most, variance**0.5)
            ours += variance / 100
            theirs += kind(8, 12, 3, padding=1)(x).var().item() / 100
    assert ours**0.5 == pytest.approx(theirs**0.5, rel=0.1)
    # The kernel's norm is set for every seed, so that no seed starts far away.
    assert least > 0.7 * theirs**0.5
    assert most < 1.4 * theirs**0.5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gradients(scheme: str) -> None:
    layer = CompressedConv2d(2, 2, 3, scheme=scheme, rank=2, padding=1, padding_mode="circular").double()
    names, values = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)

    def f(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(f, (x, *values))


@pytest.mark.parametrize("scheme", ["succession", "cp", "tucker", "tt"])
def test_contracted_runs_give_the_same_values_and_gradients(scheme: str) -> None:
    from sciops.models.compressed.merge import partitions

    layer = CompressedConv3d(4, 4, 3, scheme=scheme, rank=2, padding=1, groups=2).double()
    x = torch.randn(1, 4, 5, 4, 3, dtype=torch.float64)
    wanted = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    choices = partitions(len(layer.body.plan))
    assert len(choices) == len(set(choices)) == 2 ** (len(layer.body.plan) - 1)
    for choice in choices:
        layer.body.segments = choice
        found = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
        assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))


def test_every_factor_has_its_own_axis() -> None:
    """The chain costs what its steps cost, no dense kernel is built."""
    layer = CompressedConv3d(8, 8, 5, scheme="succession", rank=6)
    assert [prod(step.kernel_size) for step in layer.body.steps] == [5, 5, 5]
    assert [step.bias is None for step in layer.body.steps] == [True, True, False]


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match="Unknown scheme 'svd'; accepted: perkernel, succession"):
        CompressedConv2d(2, 2, 3, scheme="svd")
    with pytest.raises(UsageError, match="Rank 7 is larger than the full rank 6"):
        CompressedConv2d(2, 2, 3, rank=7)
    with pytest.raises(UsageError, match=r"Rank \(7, 2\) is larger"):
        CompressedConv3d(2, 2, 3, rank=(7, 2))
    with pytest.raises(UsageError, match="has 2 rank"):
        CompressedConv3d(2, 2, 3, rank=(2, 2, 2))
    with pytest.raises(UsageError, match="positive"):
        CompressedConv2d(2, 2, 3, rank=0)
    with pytest.raises(UsageError, match=r"at least 0.667 of the dense weights"):
        CompressedConv2d(4, 4, 3, scheme="perkernel", rank=0.5)
    with pytest.raises(UsageError, match="share of the dense weights"):
        CompressedConv2d(4, 4, 3, rank=1.5)
    with pytest.raises(UsageError, match="a fresh layer has none"):
        CompressedConv2d(4, 4, 3, rank="auto")
    with pytest.raises(UsageError, match="cannot be factored"):
        CompressedConv2d(2, 2, 3, padding_mode="symmetric")
    with pytest.raises(UsageError, match="init must be"):
        CompressedConv.like(nn.Conv2d(2, 2, 3), init="zeros")
    with pytest.raises(UsageError, match="groups must divide"):
        CompressedConv2d(3, 4, 3, groups=2)

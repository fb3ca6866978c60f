"""At which sizes a network is exported: those at which its traced program is the network."""

import pytest
import torch
from torch import nn

from sciops.embed.compile import traced
from sciops.embed.manifest import Manifest
from sciops.embed.shapes import operator_program
from sciops.models.unet import UNet


def manifest(*native: int) -> Manifest:
    ndim = len(native)
    return Manifest(
        "m", "operator", ndim, {"solve": {"inputs": ["input"], "outputs": ["output"]}},
        inputs=[{"name": "a", "unit": "", "lower": 0.0, "upper": 1.0}], outputs=[{"name": "u", "unit": ""}],
        grid={"layout": ["cell"] * ndim, "shape": list(native), "lower": [0.0] * ndim, "upper": [1.0] * ndim},
    )  # fmt: skip


class PadsToFour(nn.Module):
    """A network in small: behind the end to a multiple of four, a difference in blocks of four, cut again."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[-1]
        extra = -n % 4
        y = torch.nn.functional.pad(x, (0, extra), value=1.0) if extra else x
        return (y.unflatten(-1, (-1, 4)) - y.unflatten(-1, (-1, 4)).mean(-1, keepdim=True)).flatten(-2)[..., :n]


class OneSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("where", torch.linspace(0, 1, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.where


def test_a_branch_on_padding_costs_the_sizes_on_its_other_side():
    native, module = 32, PadsToFour()
    facts = manifest(native)
    made = operator_program(module, facts, torch.float32, lambda text: None)
    assert facts.shape["dynamic"] and facts.shape["multiple"] == [4] and facts.shape["remainder"] == [0]
    assert any("steps of 4" in text for text in facts.remarks)
    graph = traced(made).module(check_guards=False)
    for n in (native + 4, native + 12, facts.shape["minimum"][0]):
        assert facts.accepts((n,)) is None
        x = torch.rand((1, 1, n), generator=torch.Generator().manual_seed(n))
        assert torch.allclose(graph(x), module(x), atol=1e-6)
    assert facts.accepts((native + 1,)) is not None and facts.accepts((native + 2,)) is not None


def test_a_network_of_one_size_is_exported_at_that_size():
    facts = manifest(24)
    operator_program(OneSize(), facts, torch.float32, lambda text: None)
    assert not facts.shape["dynamic"] and facts.shape["minimum"] == facts.shape["maximum"] == [24]
    assert any("Only the training grid 24" in text for text in facts.remarks)


@pytest.mark.embed
def test_a_deep_u_net_takes_multiples_of_its_coarsening():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = UNet(1, 1, ndim=2, width=4, levels=3).eval()
    facts = manifest(64, 64)
    made = operator_program(net, facts, torch.float32, lambda text: None)
    assert facts.shape["dynamic"] and facts.shape["multiple"] == [4, 4]
    graph = traced(made).module(check_guards=False)
    for shape in ((64, 64), (32, 68), (76, 84)):
        assert facts.accepts(shape) is None
        x = torch.rand((1, 1, *shape), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = net(x)
            assert float((graph(x) - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())

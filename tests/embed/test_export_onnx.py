"""ONNX as a second format: the numbers of torch at several sizes, and left out with a reason where it is not exact."""

import numpy as np
import pytest
import torch
from test_export_shapes import manifest

import sciops.embed.onnx as exporting
from sciops.embed.shapes import operator_program
from sciops.embed.sources import multigrid_source
from sciops.models.unet import UNet

pytestmark = pytest.mark.embed


@pytest.fixture(scope="module")
def made():
    """Manifest and program of a U-Net on 32² points and others."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = UNet(1, 1, ndim=2, width=8, levels=3).eval()
    facts = manifest(32, 32)
    return facts, operator_program(net, facts, torch.float32, lambda text: None)


def test_a_u_net_in_onnx_gives_the_numbers_of_torch(made, tmp_path):
    import onnxruntime

    facts, program = made
    remark = exporting.write_onnx(facts, {32: [program]}, tmp_path)
    assert remark.startswith("ONNX, float32"), remark
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for shape in ((32, 32), (40, 64)):
        x = torch.randn((1, 1, *shape), generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            wanted = program.module(x).numpy()
        found = session.run(None, {"input": x.numpy()})[0]
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_onnx_is_left_out_where_it_is_not_exact(made, tmp_path, monkeypatch):
    facts, program = made
    monkeypatch.setattr(exporting, "TOLERANCE", 1e-12)
    remark = exporting.write_onnx(facts, {32: [program]}, tmp_path)
    assert "differs from torch by" in remark and remark.startswith("No ONNX") and not list(tmp_path.iterdir())


def test_onnx_is_left_out_of_float64_and_of_multigrid(made, tmp_path):
    facts, program = made
    assert "float64" in exporting.write_onnx(facts, {64: [program]}, tmp_path)
    assert "recursion" in exporting.write_onnx(multigrid_source(None, 2, "m").manifest, {}, tmp_path)
    assert not list(tmp_path.iterdir())

"""ONNX as a second format of float32 networks, where onnxruntime gives the same numbers."""

from pathlib import Path

import numpy as np
import torch

from sciops.core.errors import SciopsError, UsageError
from sciops.embed.compile import Program, quiet
from sciops.embed.manifest import Manifest

FILE = "model.onnx"
TOLERANCE = 1e-4
"""Relative difference to torch, in the maximum norm, up to which the file is kept."""


def write_onnx(manifest: Manifest, programs: dict[int, list[Program]], folder: Path) -> str:
    """Write model.onnx and compare it with torch at two sizes; the remark of the manifest on what came out.

    Left out, with the reason, for multigrid (a recursion of several programs), float64 (onnxruntime has no such
    convolutions on CPUs) and networks with complex numbers (Fourier transforms lose digits and are slow there).
    """
    if manifest.kind == "multigrid":
        return "No ONNX: the multigrid cycle is several programs and a recursion around them."
    if 32 not in programs:
        return "No ONNX: onnxruntime has no float64 convolutions on CPUs; export precision 32 as well."
    program = programs[32][0]
    if any(p.is_complex() for p in program.module.parameters()):
        return "No ONNX: the network computes with complex numbers, which ONNX does not carry."
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--onnx needs {error.name}; install it with pip install 'sciops[onnx]'.") from None
    target = folder / FILE
    try:
        with torch.no_grad(), quiet():
            made = torch.onnx.export(
                program.module.eval(), program.arguments, dynamo=True, verbose=False,
                dynamic_shapes=program.free if any(program.free) else None,
                input_names=program.inputs, output_names=program.outputs,
            )  # fmt: skip
            assert made is not None
            made.save(str(target), external_data=False)
            difference = _difference(onnxruntime.InferenceSession(str(target)), program, manifest)
    except SciopsError:
        raise
    except Exception as error:  # the converter's own
        target.unlink(missing_ok=True)
        text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        return f"No ONNX: the network has operations that the converter does not know ({text[:200]})."
    if not difference <= TOLERANCE:
        target.unlink()
        return f"No ONNX: onnxruntime differs from torch by {difference:.1e}."
    return f"ONNX, float32: differs from torch by {difference:.1e}."


def _difference(session: "object", program: Program, manifest: Manifest) -> float:
    from sciops.embed.check import sizes

    worst = 0.0
    for shape in sizes(manifest)[:2]:
        x = [torch.rand((*a.shape[:2], *shape), generator=torch.Generator().manual_seed(0)) for a in program.arguments]
        with torch.no_grad():
            wanted = program.module(*x).numpy()
        feed = dict(zip(program.inputs, (a.numpy() for a in x), strict=True))
        found = session.run(None, feed)[0]  # type: ignore[attr-defined]
        worst = max(worst, float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30)))
    return worst

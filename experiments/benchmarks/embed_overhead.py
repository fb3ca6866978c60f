"""One call of a network from C beside the same network in Python eager, and seconds to load the library.

    python experiments/benchmarks/embed_overhead.py [--size 128] [--rounds 5] [--calls 20]

A U-Net and a Fourier neural operator in float32, exported, one thread. Rounds in C and in Python alternate; each row is
the least CPU time of a call over all rounds. Exit code 1 if C takes longer than Python, or loading more than 2 s.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from sciops.embed.build import SOURCES, build_capi
from sciops.embed.export import export_source
from sciops.embed.manifest import Manifest
from sciops.embed.programs import in_precision
from sciops.embed.sources import Source
from sciops.models.fno import FNO
from sciops.models.unet import UNet

RATIO, LOAD = 1.0, 2.0


def artefact(net: nn.Module, name: str, n: int, folder: Path) -> Path:
    """The network as an operator of one input and one output field."""
    manifest = Manifest(
        name, "operator", 2, {"solve": {"inputs": ["input"], "outputs": ["output"]}},
        inputs=[{"name": "f", "unit": "", "lower": None, "upper": None}], outputs=[{"name": "u", "unit": ""}],
        grid={"layout": ["node", "node"], "shape": [n, n], "lower": [0.0, 0.0], "upper": [1.0, 1.0]},
        shape={"dynamic": False, "multiple": [1, 1], "remainder": [0, 0], "minimum": [n, n], "maximum": [n, n]},
    )  # fmt: skip
    path = folder / f"{name}.sciops"
    export_source(Source(manifest, module=lambda dtype: in_precision(net, dtype)), path, precisions=[32])
    return path


def in_c(program: Path, path: Path, n: int, calls: int) -> dict[str, float]:
    text = subprocess.run([program, path, str(n), str(calls)], check=True, capture_output=True, text=True).stdout
    return {name: float(value) for name, value in (line.split() for line in text.splitlines())}


def in_python(net: nn.Module, x: torch.Tensor, calls: int) -> float:
    best = float("inf")
    with torch.inference_mode():
        for _ in range(calls):
            start = time.process_time()
            net(x)
            best = min(best, time.process_time() - start)
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    n = options.size
    torch.set_num_threads(1)
    missed = False
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build_capi(folder / "lib")
        program = folder / "latency"
        lib = folder / "lib" / "lib"
        source, flags = str(SOURCES / "examples" / "latency.c"), [f"-I{SOURCES / 'include'}", f"-L{lib}", "-lsciops"]
        subprocess.run(["cc", "-O2", source, *flags, f"-Wl,-rpath,{lib}", "-o", str(program)], check=True)
        for name, net in (("U-Net", UNet(width=24, levels=4)), ("FNO", FNO())):
            net.eval()
            path = artefact(net, name, n, folder)
            x = torch.rand(1, 1, n, n)
            eager, call, load = float("inf"), float("inf"), float("inf")
            for _ in range(options.rounds):
                eager = min(eager, in_python(net, x, options.calls))
                found = in_c(program, path, n, options.calls)
                call, load = min(call, found["call_cpu"]), min(load, found["load_wall"])
            weights = sum(p.numel() for p in net.parameters())
            print(
                f"{name:6} {weights:8d} weights, {n}x{n}: C {1e3 * call:7.2f} ms, Python eager {1e3 * eager:7.2f} ms, "
                f"ratio {call / eager:.2f} (bar {RATIO}); load {load:.2f} s (bar {LOAD} s)"
            )
            missed |= call > RATIO * eager or load > LOAD
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

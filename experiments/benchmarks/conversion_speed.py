"""CPU time of converted networks against their source at the same number of points.

    python experiments/benchmarks/conversion_speed.py [--size 192] [--repeats 5]

A U-Net of two levels (circular 3 × 3 convolutions, batch norm, GELU, max pooling, transposed convolutions) that was
made for 32 × 32 points, four fields at once. The first calls at a size compare the bits of two ways to compute and are
not counted. Least CPU seconds; methods take turns, so that a change of load meets all alike.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from networks import UNet, trained  # the networks of the conformance tests

from sciops.models.conversion.operator import to_neural_operator

WARM = 5
"""Calls that are not counted."""


def least_seconds(size: int, width: int, repeats: int, methods: list[str]) -> dict[str, float]:
    """CPU seconds of the source and of every method on four fields of size² points."""
    torch.manual_seed(0)
    source = trained(UNet("circular", "transposed", "max", width))
    calls = {"source": source} | {m: to_neural_operator(source, (32, 32), method=m) for m in methods}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for turn in range(WARM + repeats):
            x = torch.randn(4, 1, size, size)
            for name, call in calls.items():
                start = time.process_time()
                call(x)
                if turn >= WARM:
                    seconds[name].append(time.process_time() - start)
    return {name: min(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["point", "lattice", "integral", "spectral", "paper_rule"])
    options = parser.parse_args()
    found = least_seconds(options.size, options.width, options.repeats, options.methods)
    print(f"four fields of {options.size} × {options.size} points, {torch.get_num_threads()} thread(s)")
    for name, value in found.items():
        print(f"{name:<12} {value:8.3f} s  {value / found['source']:6.2f} × source")


if __name__ == "__main__":
    main()

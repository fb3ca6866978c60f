"""CPU time of converted networks against their source at the same number of points.

    python experiments/benchmarks/conversion_speed.py [--size 192] [--repeats 5]

A U-Net of two levels (circular 3 × 3 convolutions, batch norm, GELU, max pooling, transposed convolutions) that was
made for 32 × 32 points, four fields at once. The first call at a size compares the bits of two ways to compute and is
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["point", "lattice", "integral", "spectral", "paper_rule"])
    options = parser.parse_args()
    torch.manual_seed(0)
    source = trained(UNet("circular", "transposed", "max", options.width))
    x = torch.randn(4, 1, options.size, options.size)
    calls = {"source": source} | {m: to_neural_operator(source, (32, 32), method=m) for m in options.methods}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for turn in range(options.repeats + 1):
            for name, call in calls.items():
                start = time.process_time()
                call(x)
                if turn:
                    seconds[name].append(time.process_time() - start)
    base = min(seconds["source"])
    print(f"four fields of {options.size} × {options.size} points, {torch.get_num_threads()} thread(s)")
    for name, values in seconds.items():
        print(f"{name:<12} {min(values):8.3f} s  {min(values) / base:6.2f} × source")


if __name__ == "__main__":
    main()

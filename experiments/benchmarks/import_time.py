"""Seconds of `import sciops` beside `import torch`, each in fresh interpreters, interleaved.

    python experiments/benchmarks/import_time.py [--repeats 7]

Exit code 1 if sciops takes more than half a second longer (medians).
"""

import argparse
import statistics
import subprocess
import sys
import time

BAR = 0.5


def seconds(module: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    seconds("sciops")  # byte code is written once
    runs: dict[str, list[float]] = {"torch": [], "sciops": []}
    for _ in range(options.repeats):
        for module, found in runs.items():
            found.append(seconds(module))
    torch_time, own = (statistics.median(found) for found in runs.values())
    print(
        f"import torch {torch_time:.2f} s, import sciops {own:.2f} s, difference {own - torch_time:.2f} s (bar {BAR} s)"
    )
    return int(own - torch_time > BAR)


if __name__ == "__main__":
    sys.exit(main())

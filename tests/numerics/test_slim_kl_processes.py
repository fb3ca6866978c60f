"""The consensus between real processes over gloo: the bits of one process, and no hanging where one is lost."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.slim_kl.components import Components, LowRank, SpectralMixture, frequency_grid
from sciops.numerics.slim_kl.processes import WorkersLost, distributed
from sciops.numerics.slim_kl.protocol import Settings, simulate
from sciops.numerics.slim_kl.support import support

ROOT = Path(__file__).resolve().parents[2]


def blocks(workers: int, count: int = 100) -> tuple[list[Components], list[Tensor], Tensor]:
    grid = frequency_grid(1, count)
    x = torch.arange(120, dtype=torch.float64)
    y = torch.cos(2 * math.pi * grid[20, 0] * x) + 0.5 * torch.sin(2 * math.pi * grid[63, 0] * x)
    random = torch.Generator().manual_seed(0)
    y = y + 0.03 * torch.randn(120, generator=random, dtype=torch.float64)
    deal = torch.randperm(120, generator=random).chunk(workers)
    parts: list[Components] = [SpectralMixture(x[i, None], grid) for i in deal]
    return parts, [y[i, None] for i in deal], torch.full((count,), 1 / count, dtype=torch.float64)


class Deadly(LowRank):
    """Components whose use kills their process."""

    def total(self, theta: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().total(theta)


class Sleepy(LowRank):
    def total(self, theta: Tensor) -> Tensor:
        time.sleep(600)
        return super().total(theta)


def two(second: type[LowRank]) -> tuple[list[Components], list[Tensor], Tensor]:
    columns = torch.randn(10, 4, 2, dtype=torch.float64)
    y = torch.randn(10, 1, dtype=torch.float64)
    return [LowRank(columns), second(columns)], [y, y], torch.full((4,), 0.25, dtype=torch.float64)


def test_three_processes_give_the_bits_of_one() -> None:
    parts, y, theta = blocks(3)
    settings = Settings(rho=1.0)
    alone = simulate(parts, y, 1e-3, theta, settings)
    common = distributed(parts, y, 1e-3, theta, settings, timeout=120.0)
    assert torch.equal(common.theta, alone.theta)
    assert common.rounds == alone.rounds
    assert common.converged
    assert max(r.bytes for r in common.rounds) < 2048
    assert support(common.theta, frequency_grid(1, 100)).tolist() == [20, 63]
    assert not multiprocessing.active_children()


def test_a_killed_worker_ends_the_others_with_a_sentence() -> None:
    parts, y, theta = two(Deadly)
    with pytest.raises(WorkersLost, match=r"Worker 1 of 2 was killed by signal 9.*processes=False\.$"):
        distributed(parts, y, 0.1, theta, Settings())
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_worker_that_does_not_answer_runs_into_the_timeout() -> None:
    parts, y, theta = two(Sleepy)
    begun = time.monotonic()
    with pytest.raises(WorkersLost, match="stopped answering; use a longer timeout"):
        distributed(parts, y, 0.1, theta, Settings(), timeout=5.0)
    assert time.monotonic() - begun < 60
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_bad_data_of_one_worker_are_named() -> None:
    parts, y, theta = two(LowRank)
    with pytest.raises(UsageError, match="data of worker 1 contain values that are not finite"):
        distributed(parts, [y[0], y[1] * torch.nan], 0.1, theta, Settings())


@pytest.mark.slow
def test_interrupt_leaves_no_process_behind(tmp_path: Path) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests' / 'numerics')!r})\n"
        "from test_slim_kl_processes import Sleepy, two\n"
        "from sciops.numerics.slim_kl.processes import distributed\n"
        "from sciops.numerics.slim_kl.protocol import Settings\n"
        "if __name__ == '__main__':\n"
        "    parts, y, theta = two(Sleepy)\n"
        "    print('started', flush=True)\n"
        "    distributed(parts, y, 0.1, theta, Settings())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        env=environment, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    time.sleep(8)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the parent and all its children
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt")
    with pytest.raises(ProcessLookupError):
        for _ in range(50):
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.slow
def test_torchrun_joins_the_same_consensus(tmp_path: Path) -> None:
    """Programs with their own process group call `take_part`; every rank ends with the same weights."""
    script = tmp_path / "worker.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests' / 'numerics')!r})\n"
        "import torch, torch.distributed as dist\n"
        "from test_slim_kl_processes import blocks\n"
        "from sciops.numerics.slim_kl.processes import take_part\n"
        "from sciops.numerics.slim_kl.protocol import Settings\n"
        "torch.set_num_threads(1)\n"
        "dist.init_process_group('gloo')\n"
        "parts, y, theta = blocks(2)\n"
        "j = dist.get_rank()\n"
        "found = take_part(parts[j], y[j], 1e-3, theta, Settings(rho=1.0))\n"
        f"torch.save(found.theta, {str(tmp_path)!r} + f'/{{j}}.pt')\n"
        "dist.destroy_process_group()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script],
        capture_output=True, text=True, timeout=120, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parts, y, theta = blocks(2)
    alone = simulate(parts, y, 1e-3, theta, Settings(rho=1.0)).theta
    for j in range(2):
        assert torch.equal(torch.load(tmp_path / f"{j}.pt", weights_only=True), alone)

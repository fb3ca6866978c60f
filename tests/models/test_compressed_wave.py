"""Compression before training on waves: a third of the parameters, an error of the same order."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks"


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_separable_layers_learn_waves() -> None:
    table = benchmark("compressed_wave").main(["--case", "dense", "succession:24"])
    dense, factored = table["dense"], table["succession:24"]
    assert table["persistence"]["error"] > 1
    assert dense["error"] < 0.15
    assert factored["error"] < 0.15
    assert factored["error"] <= 1.6 * dense["error"]
    assert factored["parameters"] <= 0.45 * dense["parameters"]
    assert factored["step_ms"] < dense["step_ms"]  # 2.1 times fewer operations: CPU time of one thread, side by side


@pytest.mark.slow
def test_a_compressed_network_mends_the_trace_of_a_coarse_model() -> None:
    """On the edge, and inside the submodel that the trace drives."""
    table = benchmark("wave_submodel").main(["--cases", "4", "--networks", "succession:24", "--steps", "100"])
    coarse, mended = table["16×16 cells"], table["16×16 cells and a network, succession:24"]
    assert table["the truth, 64 frames"][1] < 1e-3
    assert mended[0] < 0.5 * coarse[0]
    assert mended[1] < 0.5 * coarse[1]

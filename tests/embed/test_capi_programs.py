"""The C examples with operators whose answers are known, real networks that overflow, and the two ways to build."""

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from capi_support import CAPI, Failed, Library, host, missing, run
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.embed import build as building
from sciops.embed.build import build, build_capi
from sciops.embed.export import export_source
from sciops.embed.manifest import Manifest, read_manifest
from sciops.embed.sources import Source

pytestmark = [
    pytest.mark.embed,
    pytest.mark.skipif(bool(missing("g++", "gcc")), reason="no C and C++ compiler (g++, gcc) here"),
]

N = 33


class SinePoisson(nn.Module):
    """f → u with −Δu = f, u = 0 on the walls, exact for sines: products with the matrix of the sine transform."""

    def __init__(self, n: int) -> None:
        super().__init__()
        k = torch.arange(1, n - 1, dtype=torch.float64)
        sines = torch.sin(math.pi * k[:, None] * k / (n - 1)) * math.sqrt(2 / (n - 1))
        self.register_buffer("sines", sines)
        self.register_buffer("inverse", 1 / (math.pi**2 * (k[:, None] ** 2 + k**2)))

    def forward(self, x: Tensor) -> Tensor:
        modes = self.sines @ x[:, :, 1:-1, 1:-1] @ self.sines * self.inverse
        return nn.functional.pad(self.sines @ modes @ self.sines, [1, 1, 1, 1])


class ExactHeat(nn.Module):
    """(u, a) → u after dt on the periodic square, a one number: exact for the spatial differences of the example."""

    def __init__(self, n: int, dt: float) -> None:
        super().__init__()
        k = torch.arange(n, dtype=torch.float64)
        phase = 2 * math.pi * k[:, None] * k / n
        # Cosines plus sines: a real, symmetric and orthogonal transform.
        self.register_buffer("waves", (torch.cos(phase) + torch.sin(phase)) / math.sqrt(n))
        symbol = (2 * n * torch.sin(math.pi * k / n)) ** 2
        self.register_buffer("rate", dt * (symbol[:, None] + symbol))

    def forward(self, x: Tensor) -> Tensor:
        modes = self.waves @ x[:, :1] @ self.waves * torch.exp(-x[:, 1:, :1, :1] * self.rate)
        return self.waves @ modes @ self.waves


class Overflowing(nn.Module):
    """Infinite and undefined inside, finite outside."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(1e3 + x.abs()).clamp(max=1.0) + torch.log(-1.0 - x.abs()).nan_to_num(0.0)


def exported(net: nn.Module, inputs: str, n: int, path: Path) -> Path:
    manifest = Manifest(
        path.stem, "operator", 2, {"solve": {"inputs": ["input"], "outputs": ["output"]}},
        inputs=[{"name": c, "unit": "", "lower": None, "upper": None} for c in inputs],
        outputs=[{"name": "u", "unit": ""}],
        grid={"layout": ["node", "node"], "shape": [n, n], "lower": [0.0, 0.0], "upper": [1.0, 1.0]},
    )  # fmt: skip
    export_source(Source(manifest, module=lambda dtype: net.to(dtype)), path, precisions=[32])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Path:
    """The examples as programs."""
    folder = tmp_path_factory.mktemp("programs")
    flags = [f"-I{CAPI / 'include'}", f"-L{library}", "-lsciops", "-lm", f"-Wl,-rpath,{library}"]
    for name in ("operator", "time_loop", "latency"):
        source = str(CAPI / "examples" / f"{name}.c")
        run("gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", source, *flags, "-o", str(folder / name))
    return folder


@pytest.fixture(scope="module")
def heat_step(folder: Path) -> Path:
    return exported(ExactHeat(32, 0.1), "ua", 32, folder / "heat.sciops")


def counts(text: str) -> dict[str, list[float]]:
    """The numbers of each line by its first words."""
    found = {}
    for line in text.splitlines():
        head, _, rest = line.partition(":")
        words = rest.replace(",", " ").split() if rest else line.split()[1:]
        found[head if rest else line.split()[0]] = [float(w) for w in words if w[0].isdigit()]
    return found


def test_an_operator_and_its_residual(folder: Path) -> None:
    path = exported(SinePoisson(N), "f", N, folder / "poisson.sciops")
    found = counts(run(str(folder / "operator"), str(path), str(N)))
    residual, error = found["answer"]
    # The differences see −Δ sin kx with a relative error of (kh)²/12; bumps exp(−60 r²) have k up to about 2√60.
    level = 60 * 4 / (N - 1) ** 2 / 12
    assert 0.1 * level < residual < 2 * level
    assert error < level
    warm, cold = found["to 1e-06"]
    assert 0 < warm <= cold
    assert counts(run(str(folder / "operator"), str(path), str(N), "2e-1"))["to 2e-01"][0] == 0


def test_the_time_loop_takes_good_steps(folder: Path, heat_step: Path) -> None:
    found = counts(run(str(folder / "time_loop"), str(heat_step), "32", "0.1", "10", "1e-2"))
    assert found["with operator"] == [10, 0, 0, 0]
    assert 0 < found["difference"][0] < 1e-2  # exact in time against Crank–Nicolson


def test_the_time_loop_falls_back(folder: Path, heat_step: Path) -> None:
    strict = counts(run(str(folder / "time_loop"), str(heat_step), "32", "0.1", "10", "1e-9"))
    accepted, warm, native, iterations = strict["with operator"]
    assert (accepted, warm, native) == (0, 10, 0)
    assert iterations <= strict["host alone"][1]
    assert strict["difference"][0] < 1e-8
    # A step that the operator was not trained for, and a grid that it does not take.
    assert counts(run(str(folder / "time_loop"), str(heat_step), "32", "10", "4", "1e-3"))["with operator"][0] == 0
    other = subprocess.run(
        [str(folder / "time_loop"), str(heat_step), "40", "0.1", "4"], capture_output=True, text=True
    )  # fmt: skip
    assert other.returncode == 0 and other.stderr.count("The host goes on alone.") == 1
    missing_one = subprocess.run(
        [str(folder / "time_loop"), "nowhere.sciops", "32", "0.1", "4"], capture_output=True, text=True
    )  # fmt: skip
    assert missing_one.returncode == 0 and missing_one.stderr.count("The host goes on alone.") == 1


def test_the_time_loop_with_a_trained_step(folder: Path, stepper_2d: Path) -> None:
    facts = read_manifest(stepper_2d)
    if [c["name"] for c in facts.inputs] != ["u", "a"] or facts.step is None:
        pytest.skip(f"the example is about heat with the channels u and a; this step has {facts.inputs}")
    n, dt = facts.grid["shape"][0], str(facts.step["dt"])
    found = counts(run(str(folder / "time_loop"), str(stepper_2d), str(n), dt, "8", "0.5"))
    assert sum(found["with operator"][:3]) == 8


def test_traps_survive_a_network_that_overflows(folder: Path, library: Path) -> None:
    path = exported(Overflowing(), "f", 16, folder / "overflowing.sciops")
    program = host(folder, library)
    assert "calls 10" in run(str(program), str(path), "16", "10", "traps")
    with pytest.raises(AssertionError):  # the traps of this host are real
        run(str(program), str(path), "16", "10", "overflow")
    with Library(library).load(path) as model:
        np.testing.assert_array_equal(model.solve(np.ones((1, 16, 16)))[0], np.ones((1, 16, 16)))
        with pytest.raises(Failed, match="VALUE"):
            model.solve(np.full((1, 16, 16), np.nan))


# ---- building


def test_without_cmake_the_compiler_is_enough(tmp_path: Path, library: Path) -> None:
    made = build_capi(tmp_path, cmake=False)
    assert {"libsciops.so", "libsciops_torch.so"} <= {path.name for path in made}
    assert (tmp_path / "include" / "sciops.h").exists() and (tmp_path / "include" / "sciops.f90").exists()
    symbols = run("nm", "-D", "--defined-only", str(tmp_path / "lib" / "libsciops.so"))
    offered = {line.split()[-1] for line in symbols.splitlines() if " T " in line}
    declared = {f"sciops_{name}" for name in (
        "load", "free", "describe", "channels", "is_linear", "accepts", "solve", "setup", "apply",
        "preconditioner_free", "fcg", "last_error", "version",
    )}  # fmt: skip
    assert offered == declared


def test_no_compiler_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=r"no C\+\+ compiler here; install one"):
        build("capi", tmp_path / "out")
    with pytest.raises(UsageError, match="choose capi, openfoam or petsc"):
        build("cobol", tmp_path / "out")

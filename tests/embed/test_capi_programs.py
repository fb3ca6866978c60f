"""The C examples with operators whose answers are known, real networks that overflow, and the two ways to build."""

import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from capi_support import CAPI, HERE, Failed, Library, host, missing, run, write_artefact
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.embed import build as building
from sciops.embed.build import build, build_capi
from sciops.embed.export import export_source
from sciops.embed.manifest import Manifest, read_manifest
from sciops.embed.shapes import one_size
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


class ExactConduction(nn.Module):
    """(u, f) → (1 + dt (1 − k₀ Δ_h))⁻¹ (u + dt f): the step of the example's plate where k does not depend on u."""

    def __init__(self, n: int, dt: float, k0: float = 0.05) -> None:
        super().__init__()
        k = torch.arange(n, dtype=torch.float64)
        phase = 2 * math.pi * k[:, None] * k / n
        # Cosines plus sines: a real, symmetric and orthogonal transform.
        self.register_buffer("waves", (torch.cos(phase) + torch.sin(phase)) / math.sqrt(n))
        symbol = k0 * (2 * n * torch.sin(math.pi * k / n)) ** 2
        self.register_buffer("inverse", 1 / (1 + dt + dt * (symbol[:, None] + symbol)))
        self.dt = dt

    def forward(self, x: Tensor) -> Tensor:
        return self.waves @ (self.waves @ (x[:, :1] + self.dt * x[:, 1:]) @ self.waves * self.inverse) @ self.waves


class Wrong(nn.Module):
    """A finite answer that has nothing to do with the step, rough and far away; infinite and undefined on the way."""

    def forward(self, x: Tensor) -> Tensor:
        u, f = x[:, :1], x[:, 1:]
        one = torch.exp(1e3 + u.abs()).clamp(max=1.0) + torch.log(-1.0 - f.abs()).nan_to_num(0.0)
        return 100.0 * torch.sin(1e3 * u) - 5.0 * f + one


def exported(net: nn.Module, inputs: str, n: int, path: Path) -> Path:
    manifest = Manifest(
        path.stem, "operator", 2, {"solve": {"inputs": ["input"], "outputs": ["output"]}},
        inputs=[{"name": c, "unit": "", "lower": None, "upper": None} for c in inputs],
        outputs=[{"name": "u", "unit": ""}],
        grid={"layout": ["node", "node"], "shape": [n, n], "lower": [0.0, 0.0], "upper": [1.0, 1.0]},
        shape=one_size((n, n)),
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
    return exported(ExactConduction(32, 1.0), "uf", 32, folder / "heat.sciops")


@pytest.fixture(scope="module")
def wrong(folder: Path) -> Path:
    return exported(Wrong(), "uf", 32, folder / "wrong.sciops")


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


NETWORK = ("network", "network, projected", "network and 8 changes, projected")
OTHERS = ("previous state", "extrapolation", "last 8 changes, projected")


def loops(folder: Path, *arguments: str) -> dict[str, dict[str, float]]:
    """The rows of the time loop's table by kind of start."""
    names = ("accepted", "refused", "iterations", "seconds", "error", "worst", "difference")
    found = {}
    for line in run(str(folder / "time_loop"), *arguments).splitlines()[1:]:
        numbers = line[34:].replace("(", " ").replace(")", " ").split()
        found[line[:34].strip()] = dict(zip(names, map(float, numbers), strict=True))
    return found


def test_the_time_loop_takes_good_steps(folder: Path, heat_step: Path) -> None:
    """With constant conductivity the operator is the step: nothing is left to iterate, and nobody else can do that."""
    found = loops(folder, str(heat_step), "32", "1", "8", "1e-3", "switching", "0")
    assert set(found) == {*NETWORK, *OTHERS}
    for name in NETWORK:
        row = found[name]
        assert (row["accepted"], row["refused"], row["iterations"]) == (8, 0, 0)
        assert row["worst"] < 1e-2 and row["difference"] < 1e-4  # single precision, amplified by |A|
    for name in OTHERS:
        assert found[name]["accepted"] == 0 and found[name]["iterations"] > 8 * 10


@pytest.mark.parametrize("scenario", ["switching", "smooth"])
def test_a_projected_start_is_never_worse_than_the_state(
    folder: Path, heat_step: Path, wrong: Path, scenario: str
) -> None:
    """In the norm of A, at every step: with an operator that is right, roughly right (k does not depend on u for it),
    and wrong."""
    for path, exponent in ((heat_step, "0"), (heat_step, "1.3333"), (wrong, "1.3333")):
        found = loops(folder, str(path), "32", "1", "12", "1e-10", scenario, exponent)
        for name, row in found.items():
            if "projected" in name:
                assert row["worst"] <= 1.0
            assert row["difference"] < 1e-9  # the tolerance decides, not the start
    # The last: the raw answer is never taken, and the loop is that without a network.
    assert found["network"]["refused"] == 12 and found["network"]["worst"] == 1.0
    assert found["network"]["iterations"] == found["previous state"]["iterations"]


def test_a_rough_operator_and_the_last_changes_help_each_other(folder: Path, heat_step: Path) -> None:
    """The larger space has the smaller error; where sources change smoothly the last changes alone know most of it."""
    for scenario in ("switching", "smooth"):
        found = loops(folder, str(heat_step), "32", "1", "20", "1e-6", scenario, "1.3333")
        changes, network, both = (found[name] for name in (OTHERS[2], NETWORK[1], NETWORK[2]))
        assert both["error"] < 0.9 * min(changes["error"], network["error"])
        assert both["iterations"] < found["previous state"]["iterations"]
    assert changes["error"] < 0.2 < network["error"]
    assert changes["iterations"] < 0.6 * found["previous state"]["iterations"]


def test_the_time_loop_falls_back(folder: Path, heat_step: Path) -> None:
    def alone(*arguments: str) -> dict[str, str]:
        made = subprocess.run([str(folder / "time_loop"), *arguments], capture_output=True, text=True)
        assert made.returncode == 0 and made.stderr.count("The host goes on alone.") == 1
        return {line[:34].strip(): line[34:].split()[2] for line in made.stdout.splitlines()[1:]}

    # A grid that the operator does not take: the loops run as if there were none.
    found = alone(str(heat_step), "40", "1", "4")
    assert found["network"] == found["network, projected"] == found["previous state"]
    assert found["network and 8 changes, projected"] == found["last 8 changes, projected"]
    # No artefact: only the loops without one.
    assert set(alone("nowhere.sciops", "32", "1", "4")) == set(OTHERS)


def test_an_operator_of_another_equation(folder: Path, stepper_2d: Path) -> None:
    """Two channels in and one out, but trained for other coefficients and another time step: harmless."""
    n = str(read_manifest(stepper_2d).grid["shape"][0])
    found = loops(folder, str(stepper_2d), n, "1", "6", "1e-6")
    assert found["network, projected"]["worst"] <= 1.0
    assert max(row["difference"] for row in found.values()) < 1e-5
    assert found["network"]["accepted"] == 0


def test_traps_survive_a_network_that_overflows(library: Path, wrong: Path, tmp_path: Path) -> None:
    program = host(tmp_path, library)
    assert "calls 10" in run(str(program), str(wrong), "32", "10", "traps")
    with pytest.raises(AssertionError):  # the traps of this host are real
        run(str(program), str(wrong), "32", "10", "overflow")
    with Library(library).load(wrong) as model:
        expected = 100 * math.sin(1e3) - 5 + 1
        np.testing.assert_allclose(model.solve(np.ones((2, 32, 32)))[0], np.full((1, 32, 32), expected), rtol=1e-5)
        with pytest.raises(Failed, match="VALUE"):
            model.solve(np.full((2, 32, 32), np.nan))


# ---- building


OF_TORCH = """
#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>
bool of_torch() { return at::get_num_threads() > 0 && c10::GetCPUAllocator() != nullptr; }
"""


def test_without_cmake_the_compiler_is_enough(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same interface as by CMake. Without optimisation, and the backend is the stand-in with a little of torch."""
    shutil.copytree(CAPI, tmp_path / "capi")
    stand_in = (HERE / "capi_stand_in.cpp").read_text()
    (tmp_path / "capi" / "src" / "backend_torch.cpp").write_text(stand_in + OF_TORCH)
    monkeypatch.setattr(building, "SOURCES", tmp_path / "capi")
    monkeypatch.setattr(building, "COMMON_FLAGS", [flag.replace("-O3", "-O0") for flag in building.COMMON_FLAGS])
    made = build_capi(tmp_path, cmake=False)
    assert {"libsciops.so", "libsciops_torch.so"} <= {path.name for path in made}
    declared = {f"sciops_{name}" for name in (
        "load", "free", "describe", "channels", "is_linear", "accepts", "solve", "setup", "apply",
        "preconditioner_free", "fcg", "last_error", "version",
    )}  # fmt: skip
    for lib in (tmp_path / "lib", library):
        assert (lib.parent / "include" / "sciops.h").exists() and (lib.parent / "include" / "sciops.f90").exists()
        symbols = run("nm", "-D", "--defined-only", str(lib / "libsciops.so"))
        assert {line.split()[-1] for line in symbols.splitlines() if " T " in line} == declared
    with Library(tmp_path / "lib").load(write_artefact(tmp_path / "a.sciops", "operator")) as model:
        assert model.solve(np.ones((2, 5, 7)))[0].min() == 3.0


def test_no_compiler_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=r"no C\+\+ compiler here; install one"):
        build("capi", tmp_path / "out")
    with pytest.raises(UsageError, match="choose capi, openfoam or petsc"):
        build("cobol", tmp_path / "out")

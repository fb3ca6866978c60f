"""Compilers for the C library and the plugins: what `sciops build` does."""

import shutil
import subprocess
from pathlib import Path

from sciops.core.errors import UsageError

SOURCES = Path(__file__).parent / "capi"
DEFAULT_OUT = Path("sciops_lib")
COMMON_FLAGS = ["-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread", "-Wl,--no-undefined"]


def build(what: str, out: Path = DEFAULT_OUT, sources: Path | None = None) -> list[Path]:
    """Build `what` (capi, openfoam or petsc) under `out` and return the libraries that were made.

    The plugins need the C library: it is built first where `out` has none. `sources`: the folder src of OpenFOAM.
    """
    if what not in ("capi", "openfoam", "petsc"):
        raise UsageError(f"There is nothing called {what!r} to build; choose capi, openfoam or petsc.")
    if sources is not None and what != "openfoam":
        raise UsageError(f"--sources is a source tree of OpenFOAM; {what} is built without one, leave it out.")
    if sources is not None and not (sources / "OpenFOAM").is_dir():
        raise UsageError(
            f"{sources} holds no folder OpenFOAM: give the folder src of an OpenFOAM source tree, of the version that "
            "is installed."
        )
    if what == "capi":
        return build_capi(out)
    made = [] if (out / "lib" / "libsciops.so").exists() else build_capi(out)
    lib = (out / "lib").resolve()
    if what == "openfoam":
        from sciops.embed import openfoam_build

        return [*made, openfoam_build.build(out=lib, library=lib, sources=sources)]
    from sciops.embed import petsc_build

    return [*made, petsc_build.build(out=lib, library=lib)]


def build_capi(out: Path = DEFAULT_OUT, cmake: bool = True) -> list[Path]:
    """Build libsciops.so and libsciops_torch.so into out/lib; header and Fortran module go to out/include.

    By CMake where it is installed and `cmake` is true, else by the C++ compiler alone. Needs a compiler for C++20 and
    the torch that is installed here; about half a minute. The Fortran library is built where gfortran is found.
    """
    out = out.resolve()
    compiler = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if compiler is None:
        raise UsageError("There is no C++ compiler here; install one (Debian: apt-get install g++) and run this again.")
    folder = torch_folder()
    for part in ("include", "lib"):
        (out / part).mkdir(parents=True, exist_ok=True)
    program = shutil.which("cmake") if cmake and (shutil.which("make") or shutil.which("ninja")) else None
    if program is not None:
        _by_cmake(program, compiler, out, folder)
    else:
        _by_compiler(compiler, out, folder)
    made = [out / "lib" / name for name in ("libsciops.so", "libsciops_torch.so", "libsciops_fortran.a")]
    return [path for path in made if path.exists()]


def torch_folder() -> Path:
    """Where the headers and libraries of torch are, found without importing it."""
    from importlib.util import find_spec

    spec = find_spec("torch")
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
    if folder is None or not (folder / "include" / "ATen").is_dir():
        raise UsageError(
            "torch has no headers here and the C library cannot be built; install the torch wheel from pip."
        )
    return folder


def version() -> str:
    from sciops import __version__

    return str(__version__)


def _by_cmake(program: str, compiler: str, out: Path, torch: Path) -> None:
    build = out / "build"
    _run(
        [program, "-S", str(SOURCES), "-B", str(build), f"-DCMAKE_INSTALL_PREFIX={out}", "-DCMAKE_BUILD_TYPE=Release",
         f"-DCMAKE_CXX_COMPILER={compiler}", f"-DTORCH_DIR={torch}", f"-DSCIOPS_VERSION={version()}"]
    )  # fmt: skip
    _run([program, "--build", str(build), "--parallel", "2"])
    _run([program, "--install", str(build)])
    shutil.rmtree(build)


def _by_compiler(compiler: str, out: Path, torch: Path) -> None:
    source, include, lib = SOURCES / "src", SOURCES / "include", out / "lib"
    backend = source / "backend_torch.cpp"
    own = sorted(path for path in source.glob("*.cpp") if path != backend)
    _run(
        [compiler, "-std=c++17", *COMMON_FLAGS, f'-DSCIOPS_VERSION_TEXT="{version()}"', f"-I{include}",
         *map(str, own), "-o", str(lib / "libsciops.so"), "-ldl"]
    )  # fmt: skip
    _run(
        [compiler, "-std=c++20", *COMMON_FLAGS, "-isystem", str(torch / "include"), str(backend),
         "-o", str(lib / "libsciops_torch.so"), f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10",
         f"-Wl,-rpath,{torch / 'lib'}"]
    )  # fmt: skip
    shutil.copy(include / "sciops.h", out / "include")
    shutil.copy(SOURCES / "fortran" / "sciops.f90", out / "include")
    fortran = shutil.which("gfortran")
    if fortran is not None:
        module = lib / "sciops.o"
        _run(
            [fortran, "-O2", "-fPIC", "-c", str(SOURCES / "fortran" / "sciops.f90"), "-J", str(out / "include"),
             "-o", str(module)]
        )  # fmt: skip
        _run([shutil.which("ar") or "ar", "rcs", str(lib / "libsciops_fortran.a"), str(module)])
        module.unlink()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if "rror" in line] or ["no message"]
        raise UsageError(f"The command {' '.join(command)} failed: {lines[0].strip()}; mend that and build again.")

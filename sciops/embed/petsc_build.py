"""Builds the PETSc plugin: `libsciopspetsc.so`, the preconditioner type "sciops" of C, C++ and Fortran programs."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from sciops.core.errors import UsageError

HERE = Path(__file__).resolve().parent
PLUGIN = HERE / "petsc_plugin"
HEADERS = HERE / "capi" / "include"
CFLAGS = ("-O2", "-fPIC", "-fvisibility=hidden")


def build(out: Path, library: Path) -> Path:
    """Compile the plugin against the installed PETSc and `library`/libsciops.so into `out`; its path.

    Compiler: $MPICC, else mpicc. PETSc: pkg-config's PETSc, or $PETSC_DIR/$PETSC_ARCH. Seconds; needs no torch.
    """
    if not (library / "libsciops.so").exists():
        raise UsageError(f"{library} has no libsciops.so; run `sciops build capi` first, or name its folder.")
    out.mkdir(parents=True, exist_ok=True)
    target = out / "libsciopspetsc.so"
    sources = [str(path) for path in sorted(PLUGIN.glob("*.c"))]
    command = [
        *compiler(), *CFLAGS, "-shared", f"-I{HEADERS}", *sources, "-o", str(target),
        f"-L{library}", "-lsciops", f"-Wl,-rpath,{library.resolve()}", *petsc_flags(),
    ]  # fmt: skip
    run(command)
    return target


def program(source: Path, out: Path) -> Path:
    """Compile a C program that uses PETSc alone."""
    target = out / source.stem
    run([*compiler(), "-O2", str(source), "-o", str(target), *petsc_flags(), "-lm"])
    return target


def compiler() -> list[str]:
    words = shlex.split(os.environ.get("MPICC", "mpicc"))
    if not words or shutil.which(words[0]) is None:
        raise UsageError(
            f"The MPI compiler '{' '.join(words)}' is not installed; install one or set MPICC to its name."
        )
    return words


def petsc_flags() -> list[str]:
    """Compiler and linker flags of the installed PETSc."""
    environment = dict(os.environ)
    if "PETSC_DIR" in environment:
        root = Path(environment["PETSC_DIR"], environment.get("PETSC_ARCH", ""), "lib", "pkgconfig")
        environment["PKG_CONFIG_PATH"] = os.pathsep.join([str(root), environment.get("PKG_CONFIG_PATH", "")])
    if shutil.which("pkg-config") is None:
        raise UsageError("pkg-config is not installed; install it, it knows PETSc's compiler flags.")
    for name in ("PETSc", "petsc"):
        found = subprocess.run(
            ["pkg-config", "--cflags", "--libs", name], capture_output=True, text=True, env=environment
        )
        if found.returncode == 0:
            flags = shlex.split(found.stdout)
            folders = [flag[2:] for flag in flags if flag.startswith("-L")]
            return [*flags, *(f"-Wl,-rpath,{folder}" for folder in folders)]
    raise UsageError(
        "pkg-config knows no PETSc; install its development package, or set PETSC_DIR (and PETSC_ARCH) to your build."
    )


def run(command: list[str]) -> None:
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        last = " ".join(found.stderr.split())[-400:]
        raise UsageError(f"The compiler failed ({' '.join(command[:1])}: {last}); mend that and build again.")

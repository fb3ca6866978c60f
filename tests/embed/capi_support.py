"""libsciops through ctypes, artefacts made by hand, and host programs, for the tests of the C interface."""

import ctypes as c
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

import numpy as np

import sciops.embed

CAPI = Path(sciops.embed.__file__).parent / "capi"
HERE = Path(__file__).parent

STATUS = (
    "OK",
    "FILE",
    "CHECKSUM",
    "VERSION",
    "KIND",
    "SHAPE",
    "VALUE",
    "NONFINITE",
    "BACKEND",
    "MEMORY",
    "NOT_CONVERGED",
)


class Failed(Exception):
    """A call that did not return SCIOPS_OK: its status and its sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(f"{STATUS[status]}: {sentence}")
        self.status, self.sentence = STATUS[status], sentence


class Options(c.Structure):
    _fields_ = [("precision", c.c_int), ("threads", c.c_int)]


class Range(c.Structure):
    _fields_ = [("outside", c.c_double), ("channel", c.c_int)]


class Krylov(c.Structure):
    _fields_ = [
        ("tolerance", c.c_double),
        *((name, c.c_int) for name in ("maxiter", "window", "safeguard", "null_space")),
    ]


class Report(c.Structure):
    _fields_ = [("iterations", c.c_int), ("fallbacks", c.c_int), ("residual", c.c_double)]


class Library:
    """One libsciops.so."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.c = folder, c.CDLL(str(folder / "libsciops.so"))
        self.c.sciops_last_error.restype = self.c.sciops_describe.restype = self.c.sciops_version.restype = c.c_char_p
        for name in ("free", "preconditioner_free"):
            getattr(self.c, f"sciops_{name}").argtypes, getattr(self.c, f"sciops_{name}").restype = [c.c_void_p], None

    def check(self, status: int) -> None:
        if status:
            raise Failed(status, self.c.sciops_last_error().decode())

    def load(self, path: Path, precision: int = 0, threads: int = 0) -> "Model":
        handle = c.c_void_p()
        self.check(self.c.sciops_load(str(path).encode(), c.byref(Options(precision, threads)), c.byref(handle)))
        return Model(self, handle)


class Model:
    def __init__(self, library: Library, handle: c.c_void_p) -> None:
        self.library, self.handle = library, handle

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.library.c.sciops_free(self.handle)

    def describe(self) -> dict:
        return json.loads(self.library.c.sciops_describe(self.handle).decode())

    def accepts(self, *shape: int) -> bool:
        return bool(self.library.c.sciops_accepts(self.handle, len(shape), _shape(shape)))

    def channels(self) -> tuple[int, int]:
        given, found = c.c_int(), c.c_int()
        self.library.check(self.library.c.sciops_channels(self.handle, c.byref(given), c.byref(found)))
        return given.value, found.value

    def is_linear(self) -> bool:
        return bool(self.library.c.sciops_is_linear(self.handle))

    def solve(self, x: np.ndarray, outputs: int = 1) -> tuple[np.ndarray, Range]:
        out, found = np.full((outputs, *x.shape[1:]), np.nan), Range()
        x = np.ascontiguousarray(x, dtype=np.float64)
        status = self.library.c.sciops_solve(
            self.handle, x.ndim - 1, _shape(x.shape[1:]), _pointer(x), _pointer(out), c.byref(found)
        )
        self.library.check(status)
        return out, found

    def setup(self, matrix: np.ndarray) -> "Preconditioner":
        matrix, handle = np.ascontiguousarray(matrix, dtype=np.float64), c.c_void_p()
        status = self.library.c.sciops_setup(
            self.handle, matrix.ndim - 1, _shape(matrix.shape[1:]), _pointer(matrix), c.byref(handle)
        )
        self.library.check(status)
        return Preconditioner(self.library, handle, matrix.shape[1:])


class Preconditioner:
    def __init__(self, library: Library, handle: c.c_void_p, shape: tuple[int, ...]) -> None:
        self.library, self.handle, self.shape = library, handle, shape

    def __enter__(self) -> "Preconditioner":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.library.c.sciops_preconditioner_free(self.handle)

    def __call__(self, r: np.ndarray) -> np.ndarray:
        z = np.full(self.shape, np.nan)
        self.library.check(self.library.c.sciops_apply(self.handle, _pointer(np.ascontiguousarray(r)), _pointer(z)))
        return z

    def fcg(self, b: np.ndarray, x: np.ndarray | None = None, **options: float) -> tuple[np.ndarray, Report, str]:
        """x, the report and the name of the status (OK or NOT_CONVERGED)."""
        x = np.zeros(self.shape) if x is None else x.copy()
        settings = {"tolerance": 1e-8, "maxiter": 500, "window": 0, "safeguard": 0, "null_space": 0} | options
        report = Report()
        status = self.library.c.sciops_fcg(
            self.handle, _pointer(np.ascontiguousarray(b)), _pointer(x), c.byref(Krylov(**settings)), c.byref(report)
        )
        if STATUS[status] not in ("OK", "NOT_CONVERGED"):
            self.library.check(status)
        return x, report, STATUS[status]


def _shape(shape: tuple[int, ...]) -> c.Array:
    return (c.c_int64 * len(shape))(*shape)


def _pointer(x: np.ndarray) -> c.c_void_p:
    return x.ctypes.data_as(c.c_void_p)


def laplacian(*shape: int, coefficient: np.ndarray | None = None, walls: bool = True) -> np.ndarray:
    """(1 + ndim, *shape): finite volumes with harmonic means of a coefficient; `walls` holds u = 0 around the box."""
    a = np.ones(shape) if coefficient is None else coefficient
    out = np.zeros((1 + len(shape), *shape))
    for axis in range(len(shape)):
        low = tuple(slice(None, -1) if k == axis else slice(None) for k in range(len(shape)))
        high = tuple(slice(1, None) if k == axis else slice(None) for k in range(len(shape)))
        total = a[low] + a[high]
        face = np.where(total > 0, 2 * a[low] * a[high] / np.where(total > 0, total, 1), 0)
        out[(1 + axis, *low)] = face
        out[(0, *low)] += face
        out[(0, *high)] += face
        if walls:
            first = tuple(0 if k == axis else slice(None) for k in range(len(shape)))
            last = tuple(-1 if k == axis else slice(None) for k in range(len(shape)))
            out[(0, *first)] += 2 * a[first]
            out[(0, *last)] += 2 * a[last]
    return out


def rough(*shape: int) -> np.ndarray:
    """A matrix with coefficients over four decades and a hole."""
    a = 10.0 ** np.random.default_rng(0).uniform(-2, 2, shape)
    a[tuple(slice(m // 3, m // 2) for m in shape)] = 0
    return laplacian(*shape, coefficient=a)


def product(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A x of a matrix in the form of sciops_setup."""
    y = matrix[0] * x
    for axis in range(x.ndim):
        low = tuple(slice(None, -1) if k == axis else slice(None) for k in range(x.ndim))
        high = tuple(slice(1, None) if k == axis else slice(None) for k in range(x.ndim))
        face = matrix[(1 + axis, *low)]
        y[low] -= face * x[high]
        y[high] -= face * x[low]
    return y


def write_artefact(folder: Path, kind: str, behaviour: str = "good", **changes: object) -> Path:
    """An artefact whose packages are texts for the stand-in of the backend; `changes` to the manifest."""
    folder.mkdir(parents=True)
    entries: dict[str, tuple[list[str], list[str]]] = {
        "operator": {"solve": (["input"], ["output"])},
        "direction": {"apply": (["residual", "mask"], ["direction"])},
        "multigrid": {
            "setup": (["stencil"], ["step", "coarse"]),
            "down": (["b", "step"], ["x", "coarse"]),
            "up": (["x", "e"], ["x"]),
        },
    }[kind]
    for bits in (32, 64):
        (folder / f"model.float{bits}.pt2").write_text(behaviour)
    fields = [
        {"name": "a", "unit": "", "lower": 0.0, "upper": 2.0},
        {"name": "f", "unit": "", "lower": None, "upper": None},
    ]
    offsets = [[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    level = {"setup": "setup", "down": "down", "up": "up", "offsets": [o for o in offsets if abs(o[0]) + abs(o[1]) < 2]}
    manifest = {
        "format": "sciops", "schema": 1, "name": f"{kind} “β”", "kind": kind, "ndim": 2, "precisions": [32, 64],
        "entries": {name: {"inputs": given, "outputs": found} for name, (given, found) in entries.items()},
        "inputs": fields if kind == "operator" else [],
        "outputs": [{"name": "u", "unit": ""}] if kind == "operator" else [],
        "grid": {"layout": ["cell", "cell"], "shape": [16, 16], "lower": [0, 0], "upper": [1, 1]},
        "shape": {"dynamic": True, "multiple": [1, 1], "remainder": [0, 0], "minimum": [2, 2], "maximum": [None, 512]},
        "linear": kind == "multigrid", "symmetric": kind == "multigrid", "positive": kind == "multigrid",
        "multigrid": {"coarsest": 100, "shift": 10.0, "levels": [level, level | {"offsets": offsets}]},
        "isa": "", "versions": {"sciops": "0", "torch": "2.13.0", "python": "3"},
    }  # fmt: skip
    manifest |= {"files": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}} | changes
    (folder / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")
    return folder


def stand_in_library(folder: Path, *flags: str, library: Path | None = None) -> Path:
    """libsciops.so, that of the folder `library` or compiled with `flags`, as -fsanitize=address, and the stand-in of
    the backend beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    common = ["g++", "-std=c++17", "-O0", "-g", "-fPIC", "-shared", "-pthread"]
    common += [f"-I{CAPI / 'include'}", f"-I{CAPI / 'src'}", *flags]
    if library is None:
        own = [str(p) for p in sorted((CAPI / "src").glob("*.cpp")) if p.name != "backend_torch.cpp"]
        run(*common, "-fvisibility=hidden", *own, "-ldl", "-o", str(folder / "libsciops.so"))
    else:
        shutil.copy(library / "libsciops.so", folder)
    run(*common, str(HERE / "capi_stand_in.cpp"), "-o", str(folder / "libsciops_torch.so"))
    return folder


def host(folder: Path, library: Path, *flags: str) -> Path:
    """capi_host.c linked with the library in `library`."""
    program = folder / "host"
    run("gcc", "-std=c11", "-Wall", "-Werror", "-O1", "-g", *flags, str(HERE / "capi_host.c"), f"-I{CAPI / 'include'}",
        f"-L{library}", "-lsciops", "-lm", f"-Wl,-rpath,{library}", "-o", str(program))  # fmt: skip
    return program


def run(*command: str, **options: object) -> str:
    """What a command prints; its errors in the failure."""
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


def missing(*programs: str) -> str:
    """The first of these programs that is not installed, "" if all are."""
    return next((name for name in programs if shutil.which(name) is None), "")

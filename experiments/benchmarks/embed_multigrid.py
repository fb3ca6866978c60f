"""One multigrid cycle of an artefact from C, beside the same cycle in Python and the loops of `LearnedMultigrid`.

    sciops export runs/high_contrast/learned_multigrid_3d --precision 32 --out advised.sciops
    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python experiments/benchmarks/embed_multigrid.py advised.sciops \
        --run runs/high_contrast/learned_multigrid_3d --library sciops_lib/lib --size 64

Rows: libsciops.so through ctypes, `Artifact`, the compiled (numba) loops with the advice of RUN, where it is given, and
without advice, all with point relaxation and one sweep. Columns: CPU seconds of a set-up, least CPU milliseconds of an
application over `--calls`, steps of conjugate gradients to 1e-8, and the difference of one application to the first
row, relative to its largest value. Systems: constant coefficients, and couplings over three decades with holes.
"""

import argparse
import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciops.core.stencil_operator import StencilOperator
from sciops.embed.artifact import Artifact
from sciops.embed.check import rough_matrix
from sciops.embed.levels import stencil_from_faces

Apply = Callable[[np.ndarray], np.ndarray]


def constant(shape: tuple[int, ...]) -> np.ndarray:
    """The Laplacian with walls half a cell away, (1 + d, *shape)."""
    out = np.zeros((1 + len(shape), *shape))
    out[0] = 2.0 * len(shape)
    for axis, n in enumerate(shape):
        np.moveaxis(out[1 + axis], axis, 0)[: n - 1] = 1.0
        np.moveaxis(out[0], axis, 0)[[0, -1]] += 1.0
    return out


class CLibrary:
    """Set-up and application of one artefact by libsciops.so, in its lowest precision."""

    def __init__(self, folder: Path, artefact: Path) -> None:
        self.c = ctypes.CDLL(str(folder.resolve() / "libsciops.so"))
        self.c.sciops_last_error.restype = ctypes.c_char_p
        self.model = ctypes.c_void_p()
        self._must(self.c.sciops_load(str(artefact).encode(), None, ctypes.byref(self.model)))

    def setup(self, matrix: np.ndarray) -> Apply:
        shape = (ctypes.c_int64 * (matrix.ndim - 1))(*matrix.shape[1:])
        cycle = ctypes.c_void_p()
        self._must(self.c.sciops_setup(self.model, matrix.ndim - 1, shape, _pointer(matrix), ctypes.byref(cycle)))

        def apply(r: np.ndarray) -> np.ndarray:
            z = np.empty_like(r)
            self._must(self.c.sciops_apply(cycle, _pointer(r), _pointer(z)))
            return z

        return apply

    def _must(self, status: int) -> None:
        if status:
            raise SystemExit(self.c.sciops_last_error().decode())


def _pointer(x: np.ndarray) -> ctypes.c_void_p:
    return x.ctypes.data_as(ctypes.c_void_p)


def compiled(run: Path | None) -> Callable[[StencilOperator], Apply]:
    """The cycle of `LearnedMultigrid` in numba loops, with the advice of a run or without."""
    from sciops.numerics.compiled.boxmg import BoxHierarchy, BoxOptions
    from sciops.numerics.compiled.boxmg_matrix import BoxMatrix
    from sciops.solvers.learned_multigrid import LearnedMultigrid, NetworkAdvice

    advice: Any = None
    if run is not None:
        from sciops.embed.sources import checkpoint_file

        solver = LearnedMultigrid()
        solver.load(checkpoint_file(run))
        advice = NetworkAdvice(solver.module.net)

    def setup(A: StencilOperator) -> Apply:
        cycle = BoxHierarchy(BoxMatrix.from_operator(A, 0), BoxOptions(smoother="point"), advice)

        def apply(r: np.ndarray) -> np.ndarray:
            z = np.empty_like(r)
            cycle(r, z)
            return z

        return apply

    return setup


def steps(A: Any, apply: Apply, b: np.ndarray, tolerance: float = 1e-8, limit: int = 500) -> int:
    """Conjugate gradients to ‖r‖ ≤ tolerance ‖b‖."""
    r, p, rz = b.copy(), np.zeros_like(b), 1.0
    for count in range(limit):
        if np.linalg.norm(r) <= tolerance * np.linalg.norm(b):
            return count
        z = apply(r)
        new = float(np.vdot(r, z))
        p = z + (new / rz if count else 0.0) * p
        q = (A @ p.ravel()).reshape(b.shape)
        r, rz = r - new / float(np.vdot(p, q)) * q, new
    return limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artefact", type=Path, help="a multigrid artefact, NAME.sciops")
    parser.add_argument("--run", type=Path, help="the run that it was exported from")
    parser.add_argument("--library", type=Path, default=Path("sciops_lib/lib"), help="folder of libsciops.so")
    parser.add_argument("--size", type=int, default=64, help="points along every axis")
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    artefact = Artifact.load(options.artefact)
    shape = (options.size,) * artefact.manifest.ndim
    library = CLibrary(options.library, options.artefact)
    rows: dict[str, Callable[[np.ndarray, StencilOperator], Apply]] = {
        "C": lambda matrix, A: library.setup(matrix),
        "Artifact": lambda matrix, A: artefact.preconditioner(matrix),
    }
    if options.run is not None:
        advised = compiled(options.run)
        rows["loops, advised"] = lambda matrix, A: advised(A)
    plain = compiled(None)
    rows["loops, plain"] = lambda matrix, A: plain(A)

    print("| system | cycle | set-up, s | application, ms | steps to 1e-8 | difference |\n|---|---|---|---|---|---|")
    for name, matrix in (("constant", constant(shape)), ("three decades", rough_matrix(shape, seed=1).numpy())):
        tags = frozenset({"symmetric", "positive"})
        A = StencilOperator(stencil_from_faces(torch.from_numpy(matrix)), (False,) * len(shape), tags)
        product = A.to_scipy()
        r = np.where(matrix[0] > 0, np.random.default_rng(0).standard_normal(shape), 0.0)
        first: np.ndarray | None = None
        for row, setup in rows.items():
            setup(matrix, A)(r)  # compilers, pages and threads warm up
            start = time.process_time()
            apply = setup(matrix, A)
            took, best = time.process_time() - start, float("inf")
            for _ in range(options.calls):
                start = time.process_time()
                z = apply(r)
                best = min(best, time.process_time() - start)
            first = z if first is None else first
            apart = float(np.abs(z - first).max() / np.abs(first).max())
            count = steps(product, apply, r)
            print(f"| {name} | {row} | {took:.3f} | {1e3 * best:.2f} | {count} | {apart:.0e} |", flush=True)


if __name__ == "__main__":
    main()

"""A petsc4py program that solves −∇·(a ∇u) = f on a grid as the options say and prints what happened as JSON.

With SCIOPS_CASES = {name: [option, value, …]} it answers for each: one start serves many tests.
-points nx,ny[,nz] -faces dirichlet|neumann -contrast c (blocks of 16 points, a = 1 and c) -sign ±1 -dmda 0|1 -skew 0|1
-solves k (the matrix changes in between) -stand_in linear|nonlinear|broken (no artefact is loaded then)
"""

import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import petsc4py

petsc4py.init(sys.argv)
from petsc4py import PETSc  # noqa: E402


def coefficients(points: tuple[int, ...], contrast: float) -> np.ndarray:
    """One cell value per point, C order."""
    index = np.indices(points) // 16
    return np.where(index.sum(0) % 2 == 1, contrast, 1.0)


def rows_of(box: np.ndarray, a: np.ndarray, neumann: bool) -> list[tuple[list[int], list[float]]]:
    """(natural columns, values) of the points of `box` (k, ndim): harmonic means on faces, half cells at walls."""
    out = []
    for point in map(tuple, box):
        here, total, columns, values = a[point], 0.0, [], []
        for axis in range(a.ndim):
            for side in (-1, 1):
                there = list(point)
                there[axis] += side
                if 0 <= there[axis] < a.shape[axis]:
                    other = a[tuple(there)]
                    face = 2 * here * other / (here + other)
                    columns.append(int(np.ravel_multi_index(there, a.shape)))
                    values.append(-face)
                    total += face
                elif not neumann:
                    total += 2 * here
        columns.append(int(np.ravel_multi_index(point, a.shape)))
        out.append((columns, [*values, total]))
    return out


def main() -> dict[str, list[float]]:
    options = PETSc.Options()
    sizes = tuple(int(m) for m in options.getString("points", "128,128").split(","))  # x first, as PETSc has it
    shape = sizes[::-1]
    neumann = options.getString("faces", "dirichlet") == "neumann"
    contrast, sign = options.getReal("contrast", 1.0), options.getReal("sign", 1.0)
    stand_in = options.getString("stand_in", "")
    if stand_in:
        sys.path.insert(0, str(Path(__file__).parent))
        from stand_in import StandIn

        import sciops.embed.petsc

        found = StandIn(stand_in != "nonlinear", len(shape), stand_in == "broken")
        sciops.embed.petsc.load = lambda *_: found
    elif "sciops.embed.petsc" in sys.modules:
        sys.modules["sciops.embed.petsc"].load = sys.modules["sciops.embed.preconditioning"].load
    ksp = PETSc.KSP().create()
    if options.getBool("dmda", True):
        da = PETSc.DMDA().create(sizes, dof=options.getInt("dof", 1), stencil_width=1, setup=True)
        A, order = da.createMat(), da.getAO()
        low, size = da.getCorners()
        lines = [np.arange(s, s + m) for s, m in zip(low, size, strict=True)][::-1]
        ksp.setDM(da)
        ksp.setDMActive(False)
    else:
        A, order = PETSc.Mat().createAIJ(int(np.prod(sizes))), None
        A.setUp()
        start, end = A.getOwnershipRange()
        plane = int(np.prod(shape[1:]))
        lines = [np.arange(start // plane, end // plane), *(np.arange(m) for m in shape[1:])]
    box = np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, len(shape))
    x, exact, b = A.createVecRight(), A.createVecRight(), A.createVecRight()
    known = np.random.default_rng(0).standard_normal(shape)
    known -= known.mean() if neumann else 0.0
    exact.setArray(np.resize(known[tuple(box.T)], exact.getLocalSize()))
    answers: dict[str, list[float]] = {"iterations": [], "reason": [], "error": []}
    for solve in range(options.getInt("solves", 1)):
        A.zeroEntries()
        rows = box if options.getInt("dof", 1) == 1 else box[:0]
        a = coefficients(shape, contrast * 10.0**solve)
        for own, (columns, values) in zip(rows, rows_of(rows, a, neumann), strict=True):
            row = int(np.ravel_multi_index(tuple(own), shape))
            if options.getBool("skew", False) and len(values) > 1:
                values[0] *= 1.5
            ids = np.array([row, *columns], dtype=PETSc.IntType)
            ids = ids if order is None else order.app2petsc(ids)
            A.setValues(ids[:1], ids[1:], np.array(values) * sign)
        A.assemble()
        if options.getInt("dof", 1) > 1:
            A.shift(1.0)
        if neumann:
            A.setNullSpace(PETSc.NullSpace().create(constant=True))
        A.mult(exact, b)
        ksp.setOperators(A)
        ksp.setTolerances(rtol=1e-8, max_it=1000)
        ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
        ksp.setFromOptions()
        ksp.solve(b, x)
        error = x.copy()
        error.axpy(-1.0, exact)
        answers["iterations"].append(ksp.getIterationNumber())
        answers["reason"].append(int(ksp.getConvergedReason()))
        answers["error"].append(error.norm() / exact.norm())
    return answers


def batch() -> dict[str, dict[str, object]]:
    """Every case under its own options; what it raised and warned of is part of the answer."""
    options, found = PETSc.Options(), {}
    for name, words in json.loads(os.environ["SCIOPS_CASES"]).items():
        pairs = dict(zip(words[::2], words[1::2], strict=True))
        for key, value in pairs.items():
            options[key.lstrip("-")] = value
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always", UserWarning)
            try:
                answer: dict[str, object] = dict(main())
            except Exception as error:
                answer = {"raised": f"{type(error).__name__}: {error}"}
        found[name] = answer | {"warnings": [str(w.message) for w in heard]}
        for key in pairs:
            options.delValue(key.lstrip("-"))
    return found


answer = batch() if "SCIOPS_CASES" in os.environ else main()
if PETSc.COMM_WORLD.rank == 0:
    print(json.dumps(answer))

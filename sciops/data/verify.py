"""Rebuilding stored cases from their seeds and comparing: is the file what its header says it is?"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sciops.core.errors import DataError, UsageError
from sciops.core.problem import Problem
from sciops.data.chunk import Chunk
from sciops.data.generate import make_chunk
from sciops.data.header import Header, versions
from sciops.data.recipe import Recipe, Reference
from sciops.data.stored import StoredDataset
from sciops.numerics.threads import one_thread


@dataclass(frozen=True)
class Verification:
    """Which cases were rebuilt, the largest relative difference of each, and whether all of them passed."""

    path: Path
    ids: tuple[int, ...]
    difference: tuple[float, ...]
    same_machine: bool
    tolerance: float

    @property
    def passed(self) -> bool:
        return all(d <= self.tolerance for d in self.difference)

    def __str__(self) -> str:
        rule = "equal bits (same machine)" if self.tolerance == 0 else f"relative difference ≤ {self.tolerance:.1e}"
        worst = max(self.difference)
        failed = [str(i) for i, d in zip(self.ids, self.difference, strict=True) if d > self.tolerance]
        verdict = "passed" if self.passed else f"FAILED for case(s) {', '.join(failed)}"
        return f"{self.path}: {len(self.ids)} cases rebuilt, {rule}, largest difference {worst:.1e}: {verdict}"


def verify(path: str | Path, k: int = 8, seed: int = 0, problem: Problem | None = None) -> Verification:
    """Rebuild k random cases alone, from their seeds, and compare inputs, answers, parameters and boundary data.

    On the machine and software that made the file every bit must agree. Elsewhere the relative L² difference
    must stay within the reference tolerance plus rounding of the stored type. Also checks that every seed is
    the hash of root seed and case id. Cost: k reference solves.
    """
    if k < 1:
        raise UsageError(f"k must be at least 1; got {k}.")
    dataset = StoredDataset(path, problem)
    header = dataset.header
    recipe = recipe_of(dataset)
    rows = sorted(random.Random(seed).sample(range(len(dataset)), min(k, len(dataset))))
    stored_ids = dataset.cases(slice(None, 1)).ids
    assert stored_ids is not None
    same = versions(str(header.solver.get("device", "cpu"))) == header.versions
    tolerance = 0.0 if same else max(10 * recipe.reference.tol, 4 * float(np.finfo(recipe.dtype).eps))
    ids, difference = [], []
    for row in rows:
        cases = dataset.cases([row])
        case_id = int(cases.ids[0])  # type: ignore[index]
        stored = Chunk.of(cases, dataset.truth([row]))
        if cases.seeds is None or cases.seeds.tolist() != recipe.seeds([case_id]):
            raise DataError(f"{path}: the seed of case {case_id} is not the hash of root seed and case id.")
        with one_thread():
            made = make_chunk(recipe, dataset.problem, [case_id], str(header.solver.get("device", "cpu")))
        ids.append(case_id)
        difference.append(_difference(stored, made))
    return Verification(Path(path), tuple(ids), tuple(difference), same, tolerance)


def recipe_of(dataset: StoredDataset) -> Recipe:
    """The recipe that a native file was made from, read off its header."""
    header: Header = dataset.header
    needed = ("tol", "refine", "batch", "dtype")
    if header.root_seed is None or any(key not in header.solver for key in needed):
        raise UsageError(
            f"{dataset.path} was not made by `sciops generate` (no root seed or solver settings), "
            f"so its cases cannot be rebuilt."
        )
    solver = header.solver
    return Recipe(
        header.name,
        header.problem,
        header.grid,
        {header.split if header.split in ("train", "valid", "test") else "train": len(dataset)},
        header.root_seed,
        Reference(float(solver["tol"]), int(solver["refine"])),
        str(solver["dtype"]),
        int(solver["batch"]),
    )


def _difference(stored: Chunk, made: Chunk) -> float:
    """Largest relative L² difference over all arrays; 0 only if all bits agree."""
    pairs = [(stored.inputs, made.inputs), (stored.outputs, made.outputs)]
    for mine, theirs in ((stored.params, made.params), (stored.boundary, made.boundary)):
        if mine.keys() != theirs.keys():
            return float("inf")
        pairs += [(mine[name], theirs[name]) for name in mine]
    worst = 0.0
    for a, b in pairs:
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        if not np.array_equal(a, b):
            scale = float(np.linalg.norm(b.astype(np.float64))) or 1.0
            worst = max(worst, float(np.linalg.norm((a - b).astype(np.float64))) / scale, 1e-300)
    return worst

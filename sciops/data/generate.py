"""Making a dataset from its recipe: batched, streaming, parallel, and safe against being killed.

Every batch of cases becomes one part file (temporary name, fsync, rename) in `<split>.parts/`; when all parts
of a split exist they are assembled into its HDF5 file and removed. A killed run continues with the missing
parts. Each batch depends on the recipe alone, never on the worker, so any number of workers gives equal bits.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from sciops.core.boundary import face_axis
from sciops.core.cases import Cases
from sciops.core.config import spec
from sciops.core.errors import DataError, UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.core.solver import Solution
from sciops.data.chunk import Chunk
from sciops.data.hdf5 import atomic
from sciops.data.header import Header, numeric_arguments, versions
from sciops.data.progress import progress
from sciops.data.recipe import DTYPES, Recipe
from sciops.data.stats import write_stats
from sciops.data.store import write_native
from sciops.data.stored import StoredDataset
from sciops.data.workers import map_unordered
from sciops.numerics.threads import one_thread


def generate(
    recipe: Recipe,
    out: str | Path,
    workers: int = 1,
    device: str = "cpu",
    resume: bool = True,
    quiet: bool = False,
) -> dict[str, Path]:
    """Make every split of the recipe in the folder `out`: data/<split>/<name>.hdf5 and stats.yaml.

    workers: processes with one torch thread each (CPU only). Complete files of the same recipe are kept;
    resume=False starts over. Cost: one reference solve per case; memory of `batch` cases per worker.
    """
    if workers < 1:
        raise UsageError(f"workers must be at least 1; got {workers}.")
    if workers > 1 and device != "cpu":
        raise UsageError(f"Several workers share no accelerator; use workers=1 with device={device}.")
    recipe.make_problem()
    root = Path(out)
    paths = {split: file_of(root, recipe, split) for split in recipe.splits}
    jobs = []
    for split, path in paths.items():
        parts = _parts_folder(path)
        if not resume:
            shutil.rmtree(parts, ignore_errors=True)
            path.unlink(missing_ok=True)
        if path.exists():
            _require_same(recipe, path)
            shutil.rmtree(parts, ignore_errors=True)
            continue
        _claim(recipe, parts)
        jobs += [(split, k) for k in range(_chunk_count(recipe, split)) if not _part(parts, k).exists()]
    if jobs:
        total = sum(len(_chunk_ids(recipe, *job)) for job in jobs)
        arguments = [(recipe, split, k, str(_part(_parts_folder(paths[split]), k)), device) for split, k in jobs]
        with progress(total, f"generate {recipe.name}", quiet) as advance:
            for made in map_unordered(_make_part, arguments, workers):
                advance(made)
    for split, path in paths.items():
        if not path.exists():
            _assemble(recipe, split, path, device)
    if "train" in paths and (jobs or not (root / "stats.yaml").exists()):
        write_stats(root / "stats.yaml", [paths["train"]])
    return paths


def file_of(root: Path, recipe: Recipe, split: str) -> Path:
    """The Well's place of a split: data/<split>/<name>.hdf5."""
    return root / "data" / split / f"{recipe.name}.hdf5"


def make_chunk(recipe: Recipe, problem: Problem, ids: range | list[int], device: str = "cpu") -> Chunk:
    """Sample and solve the cases with these ids on the solve grid in float64, then keep the shared points."""
    started = time.perf_counter()
    fine = recipe.solve_grid
    cases = problem.sample(recipe.seeds(ids), fine, torch.float64, device)
    solution = problem.reference(cases, recipe.reference.tol)
    _require_solved(recipe, ids, solution)
    if fine != recipe.grid:
        cases = _restrict_cases(cases, recipe.grid, recipe.reference.refine)
        values = _shared(solution.field.values, fine, recipe.reference.refine, 3)
        truth = Field(values, recipe.grid, solution.field.channels, solution.field.times)
    else:
        truth = solution.field
    dtype = DTYPES[recipe.dtype]
    cases = replace(cases, ids=torch.tensor(list(ids))).to(dtype=dtype)
    stored = truth.to(dtype=dtype)
    residual, error = solution.stats.get("residual"), solution.stats.get("label_error")
    if error is not None:
        # What is stored is the rounded truth, so its rounding is part of the label error.
        rounding = _relative(stored.values.double() - truth.values, truth.values)
        error = torch.hypot(error.to(rounding), rounding)
    method = str(solution.stats.get("label_method", "unknown"))
    return Chunk.of(cases, stored, residual, error, time.perf_counter() - started, method)


def _require_solved(recipe: Recipe, ids: range | list[int], solution: Solution) -> None:
    residual = solution.stats.get("residual")
    measured = None if residual is None or solution.stats.get("label_method") == "exact" else residual.tolist()
    for k, (i, status) in enumerate(zip(ids, solution.status, strict=True)):
        if status is not Status.OK:
            advice = solution.stats.get("advice") or [""] * (k + 1)
            remedy = advice[k] or f"loosen reference.tol ({recipe.reference.tol:g}) or refine the grid."
            raise DataError(f"{recipe.name}: the reference of case {i} ended with status {status.value}; {remedy}")
        # Rounding may keep the true residual somewhat above what the recursion of a Krylov method believes.
        if measured is not None and not measured[k] <= 100 * recipe.reference.tol:
            raise DataError(
                f"{recipe.name}: the reference of case {i} has residual {measured[k]:.1e}, far above "
                f"reference.tol {recipe.reference.tol:g}; loosen the tolerance, rounding forbids it."
            )


def _relative(difference: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    # Per case, so that a case rebuilt alone gives the bits of its batch.
    return torch.stack([a.norm() / b.norm().clamp_min(1e-300) for a, b in zip(difference, values, strict=True)])


def _shared(values: torch.Tensor, fine: Grid, k: int, first: int) -> torch.Tensor:
    """Values at the points that the grid shares with the one refined k times (axes from `first` on)."""
    for axis, layout in enumerate(fine.layout):
        start = k // 2 if layout == "cell" else 0
        index = [slice(None)] * values.dim()
        index[first + axis] = slice(start, None, k)
        values = values[tuple(index)]
    return values


def _restrict_cases(cases: Cases, grid: Grid, k: int) -> Cases:
    fine = cases.domain
    boundary = {}
    for face, data in cases.boundary.items():
        axis, _ = face_axis(face)
        keep = [j for j in range(fine.ndim) if j != axis]
        for position, j in enumerate(keep):
            index = [slice(None)] * data.dim()
            index[1 + position] = slice(k // 2 if fine.layout[j] == "cell" else 0, None, k)
            data = data[tuple(index)]
        boundary[face] = data
    values = _shared(cases.inputs.values, fine, k, 3)
    inputs = Field(values, grid, cases.inputs.channels, cases.inputs.times)
    return replace(cases, domain=grid, inputs=inputs, boundary=boundary)


def _make_part(recipe: Recipe, split: str, k: int, path: str, device: str) -> int:
    ids = _chunk_ids(recipe, split, k)
    with one_thread():
        chunk = make_chunk(recipe, recipe.make_problem(), ids, device)
    chunk.require_finite(f"{recipe.name}, {split}")
    chunk.save(Path(path))
    return len(chunk)


def _chunk_count(recipe: Recipe, split: str) -> int:
    return -(-recipe.splits[split] // recipe.batch)


def _chunk_ids(recipe: Recipe, split: str, k: int) -> range:
    return recipe.ids(split)[k * recipe.batch : (k + 1) * recipe.batch]


def _parts_folder(path: Path) -> Path:
    # Beside the data folders, so that The Well's loader never meets it.
    return path.parents[2] / f"{path.parent.name}.parts"


def _part(parts: Path, k: int) -> Path:
    return parts / f"{k:06d}.npz"


def _claim(recipe: Recipe, parts: Path) -> None:
    """Mark the parts folder with the recipe; parts of another recipe are refused, not mixed."""
    mark = parts / "recipe"
    if mark.exists() and mark.read_text() != recipe.digest:
        raise UsageError(
            f"{parts} holds unfinished parts of another recipe named {recipe.name}; "
            f"delete that folder, rename the recipe, or start over with resume=False."
        )
    if not mark.exists():
        with atomic(mark) as temporary:
            temporary.write_text(recipe.digest)


def _require_same(recipe: Recipe, path: Path) -> None:
    found = StoredDataset(path, recipe.make_problem()).header.solver.get("recipe")
    if found != recipe.digest:
        raise UsageError(
            f"{path} was made from another recipe named {recipe.name}; "
            f"choose another folder, rename the recipe, or start over with resume=False."
        )


def _assemble(recipe: Recipe, split: str, path: Path, device: str) -> None:
    parts = _parts_folder(path)
    files = [_part(parts, k) for k in range(_chunk_count(recipe, split))]
    problem = recipe.make_problem()
    first = Chunk.load(files[0])
    seconds = sum(Chunk.load(file).seconds for file in files)

    def stream() -> Iterator[Chunk]:
        yield from (Chunk.load(file) for file in files)

    # All arguments are stored, defaults too: a later change of a default must not change what a file means.
    named = spec(problem)
    header = Header(
        name=recipe.name,
        grid=recipe.grid,
        problem=named,
        inputs=tuple(c.name for c in problem.inputs),
        outputs=tuple(c.name for c in problem.outputs),
        split=split,
        times=first.times,
        parameters=numeric_arguments(named),
        root_seed=recipe.root_seed,
        solver={
            "tol": recipe.reference.tol,
            "refine": recipe.reference.refine,
            "batch": recipe.batch,
            "dtype": recipe.dtype,
            "device": device,
            "recipe": recipe.digest,
        },
        label_method=first.method,
        generation_seconds=seconds,
        versions=versions(device),
    )
    write_native(path, header, stream(), recipe.splits[split], problem)
    shutil.rmtree(parts)

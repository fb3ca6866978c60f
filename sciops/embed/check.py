"""The last step of an export: compiled programs against the model at several sizes, and what the manifest claims."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciops.embed.artifact import Artifact
from sciops.embed.compile import ExportFailed, Program
from sciops.embed.levels import Cycle, stencil_from_faces
from sciops.embed.manifest import Manifest

TOLERANCE = {32: 2e-4, 64: 1e-10}
"""Relative difference, in the maximum norm, that rounding in another order may make in a deep network."""


def check(folder: Path, manifest: Manifest, programs: dict[int, list[Program]]) -> dict[str, Any]:
    """The largest differences found, per precision; ExportFailed where one is too large."""
    found: dict[str, Any] = {}
    for bits, made in programs.items():
        artifact = Artifact.load(folder, bits)
        eager = {program.entry: program.module for program in made}
        if manifest.kind == "multigrid":
            differences, probe = _multigrid(artifact, eager)
            found[f"float{bits}"] = {"difference": differences, **probe}
        else:
            differences = _network(artifact, made[0])
            found[f"float{bits}"] = {"difference": differences}
        if not max(differences.values()) <= TOLERANCE[bits]:
            raise ExportFailed(
                f"The compiled float{bits} programs differ from the model by {max(differences.values()):.1e} "
                f"(allowed: {TOLERANCE[bits]:.0e}); nothing was written."
            )
    return found


def sizes(manifest: Manifest) -> list[tuple[int, ...]]:
    """Grids that the model takes, of odd and even multiples along every axis."""
    if manifest.kind != "operator":
        return [(24, 24, 24)[: manifest.ndim], (17, 30, 12)[: manifest.ndim], (41, 13, 9)[: manifest.ndim]]
    assert manifest.grid is not None
    native = tuple(manifest.grid["shape"])
    if not manifest.shape["dynamic"]:
        return [native]
    low, steps = manifest.shape["minimum"], manifest.shape["multiple"]
    mixed = tuple(n + (2 + a) * m for a, (n, m) in enumerate(zip(native, steps, strict=True)))
    return [native, tuple(low), mixed, tuple(n + m for n, m in zip(native, steps, strict=True))]


def _network(artifact: Artifact, program: Program) -> dict[str, float]:
    found = {}
    for shape in sizes(artifact.manifest):
        generator = torch.Generator().manual_seed(0)
        channels = program.arguments[0].shape[1]
        lower, upper = _box(artifact.manifest, channels)
        x = torch.rand((1, channels, *shape), dtype=artifact.dtype, generator=generator)
        x = lower + (upper - lower) * x.movedim(1, -1)
        arguments = [x.movedim(-1, 1).to(artifact.dtype).contiguous()]
        if len(program.arguments) > 1:
            mask = torch.rand((1, 1, *shape), generator=generator) > 0.2
            arguments = [arguments[0] - 0.5, mask.to(artifact.dtype)]
        with torch.no_grad():
            wanted = program.module(*arguments)
        given = artifact.run(program.entry, arguments)[0]
        found["×".join(map(str, shape))] = difference(given, wanted)
    return found


def _box(manifest: Manifest, channels: int) -> tuple[Tensor, Tensor]:
    """Where inputs lie: in the training range where it is known."""
    known = manifest.inputs or [{}] * channels
    lower = [0.0 if c.get("lower") is None else c["lower"] for c in known]
    upper = [1.0 if c.get("upper") is None else c["upper"] for c in known]
    return torch.tensor(lower), torch.tensor(upper)


def _multigrid(artifact: Artifact, eager: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Cycles with compiled and with eager programs on rough coefficients with holes; symmetry and least Ritz value."""
    facts, names = artifact.manifest.multigrid, artifact.manifest.entries
    assert facts is not None

    def model(entry: str, arguments: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            out = eager[entry](*arguments)
        return list(out) if isinstance(out, tuple) else [out]

    differences, symmetry, least = {}, 0.0, float("inf")
    for shape in sizes(artifact.manifest):
        matrix = rough_matrix(shape, seed=1)
        apply = artifact.preconditioner(matrix)
        reference = Cycle(model, facts, names, stencil_from_faces(matrix), artifact.dtype)
        r = torch.randn((6, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        r = torch.where(matrix[0] > 0, r, 0.0)
        z = torch.stack([apply(x) for x in r])
        wanted = torch.stack([reference(x[None])[0] for x in r])
        differences["×".join(map(str, shape))] = difference(z, wanted)
        gram = r.flatten(1) @ z.flatten(1).T
        symmetry = max(symmetry, float((gram - gram.T).abs().max() / gram.abs().max()))
        least = min(least, float(torch.linalg.eigvalsh(0.5 * (gram + gram.T)).min() / gram.diagonal().max()))
    if symmetry > 1e2 * TOLERANCE[artifact.precision] or not least > 0:
        raise ExportFailed(
            f"The compiled cycle is not symmetric positive definite (asymmetry {symmetry:.1e}, least Ritz value "
            f"{least:.1e}); nothing was written."
        )
    return differences, {"asymmetry": symmetry, "least_ritz_value": least}


def rough_matrix(shape: tuple[int, ...], seed: int, contrast: float = 3.0, sink: float = 1e-3) -> Tensor:
    """Face couplings 10^(±contrast/2) with a tenth of the cells missing and Dirichlet sinks, (1 + d, *shape)."""
    generator = torch.Generator().manual_seed(seed)
    ndim = len(shape)
    active = torch.rand(shape, generator=generator) > 0.1
    matrix = torch.zeros((1 + ndim, *shape), dtype=torch.float64)
    for axis in range(ndim):
        n = shape[axis]
        link = 10.0 ** (contrast * (torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5))
        both = active.narrow(axis, 0, n - 1) & active.narrow(axis, 1, n - 1)
        link = torch.where(both, link.narrow(axis, 0, n - 1), 0.0)
        matrix[1 + axis].narrow(axis, 0, n - 1).copy_(link)
        matrix[0].narrow(axis, 0, n - 1).add_(link)
        matrix[0].narrow(axis, 1, n - 1).add_(link)
    sinks = torch.where(torch.rand(shape, generator=generator) > 0.9, 1.0, sink).double()
    matrix[0] = torch.where(active, matrix[0] + sinks, 0.0)
    return matrix


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))

"""An exported model in Python: the mirror of the C library, with the same checks and the same answers."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import DataError, UsageError
from sciops.core.linear import LinearOperator
from sciops.embed.levels import Cycle, stencil_from_faces
from sciops.embed.manifest import PRECISIONS, Manifest, read_manifest, require_runtime, verify

Array = TypeVar("Array", np.ndarray, Tensor)


@dataclass
class Artifact:
    """A folder NAME.sciops whose checksums were right when it was loaded; only its compiled programs are executed.

    `solve` is for operators, `preconditioner` for multigrid and directions. Arrays are NumPy or torch, of any floating
    type, one case without a batch axis, and come back as they came; the arithmetic is that of `precision` (32 or 64).
    Loading takes milliseconds for an entry, at its first use.
    """

    path: Path
    manifest: Manifest
    precision: int
    _entries: dict[str, Any] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def load(cls, path: str | Path, precision: int = 0) -> "Artifact":
        """`precision` 32 or 64; 0: the lowest there is. DataError or UsageError, in one sentence, for what cannot be
        used: other schema, other torch, missing or changed files."""
        path = Path(path)
        manifest = read_manifest(path)
        precision = precision or min(manifest.precisions, default=0)
        if precision not in manifest.precisions:
            has = " and ".join(map(str, manifest.precisions)) or "none"
            raise UsageError(f"{path} has no precision {precision}, it has {has}; choose one of these or 0.")
        verify(path, manifest)
        require_runtime(path, manifest)
        return cls(path, manifest, precision)

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    def run(self, entry: str, arguments: list[Tensor]) -> list[Tensor]:
        """One compiled program on tensors of `dtype`."""
        with self._lock:
            if entry not in self._entries:
                file = self.path / f"model.float{self.precision}.pt2"
                try:
                    loader = torch._C._aoti.AOTIModelPackageLoader(str(file), entry, False, 1, -1)  # type: ignore[attr-defined]
                except RuntimeError as error:
                    raise DataError(f"{file} cannot be loaded here: {str(error).splitlines()[0]}") from None
                self._entries[entry] = loader
        # Programs are compiled for contiguous arguments and do not check.
        return self._entries[entry].boxed_run([argument.contiguous() for argument in arguments])

    # ---- operators

    def solve(self, x: Array) -> Array:
        """(c_in, *space) → (c_out, *space), physical units on both sides; not finite or unfitting: UsageError."""
        self._require("operator", "solve")
        given = _tensor(x)
        inputs = [channel["name"] for channel in self.manifest.inputs]
        if given.dim() != 1 + self.manifest.ndim or given.shape[0] != len(inputs):
            raise UsageError(
                f"{self.manifest.name} takes {len(inputs)} channel(s) ({', '.join(inputs)}) on {self.manifest.ndim} "
                f"axes; got an array of shape {tuple(given.shape)}."
            )
        self._require_shape(tuple(given.shape[1:]))
        if not bool(torch.isfinite(given).all()):
            raise UsageError(f"The input of {self.manifest.name} has values that are not finite; give finite ones.")
        found = self.run("solve", [given[None].to(self.dtype).contiguous()])[0][0]
        return _like(found, x)

    def outside(self, x: Array) -> tuple[float, str | None]:
        """How far (c_in, *space) leaves the range of training, as a fraction of its width, and the channel that does
        so furthest; 0.0 and None inside, or where no range is known."""
        given, worst, name = _tensor(x), 0.0, None
        for values, channel in zip(given, self.manifest.inputs, strict=True):
            lower, upper = channel.get("lower"), channel.get("upper")
            if lower is None or upper is None:
                continue
            beyond = max(lower - float(values.min()), float(values.max()) - upper)
            # A channel that was constant in training has no width: its own size measures it.
            share = beyond / (upper - lower or abs(upper) or 1.0)
            if share > max(worst, 1e-6):
                worst, name = share, channel["name"]
        return worst, name

    # ---- preconditioners

    def preconditioner(self, matrix: Array | LinearOperator) -> Callable[[Array], Array]:
        """r ↦ z, both (*space), for a matrix (1 + d, *space): the diagonal and per axis the coupling c = −A[i, i + e]
        ≥ 0; or for a bounded LinearOperator with compact stencil. For directions only its unknowns matter."""
        if self.manifest.kind not in ("multigrid", "direction"):
            self._require("multigrid", "preconditioner")
        stencil = self._stencil(matrix)
        self._require_shape(tuple(stencil.shape[2:]))
        apply = self._cycle(stencil) if self.manifest.kind == "multigrid" else self._direction(stencil)
        space = tuple(stencil.shape[2:])

        def call(r: Array) -> Array:
            given = _tensor(r)
            if tuple(given.shape) != space:
                raise UsageError(f"The residual has shape {tuple(given.shape)}, the matrix has {space}; give that one.")
            z = apply(given.double()[None])[0]
            if not bool(torch.isfinite(z).all()):
                raise DataError(
                    f"{self.manifest.name} answered with values that are not finite; was the residual finite?"
                )
            return _like(z, r)

        return call

    def _stencil(self, matrix: Any) -> Float[Tensor, "1 k *s"]:
        if isinstance(matrix, LinearOperator):
            from sciops.numerics.differentiable_multigrid import stencil_of

            stencil = stencil_of(matrix).stencil.double().cpu()
            if len(stencil) != 1:
                raise UsageError(f"An artefact takes one system at a time; this operator holds {len(stencil)}.")
        else:
            stencil = stencil_from_faces(_tensor(matrix).double())
        if stencil.dim() - 2 != self.manifest.ndim:
            raise UsageError(f"{self.manifest.name} is {self.manifest.ndim}-D; the matrix is {stencil.dim() - 2}-D.")
        return stencil

    def _cycle(self, stencil: Tensor) -> Callable[[Tensor], Tensor]:
        facts = self.manifest.multigrid
        assert facts is not None
        if len(facts["levels"]) > 1 and not _compact(stencil, facts["levels"][0]["offsets"]):
            facts = facts | {"levels": facts["levels"][1:]}
        return Cycle(self.run, facts, self.manifest.entries, stencil, self.dtype)

    def _direction(self, stencil: Tensor) -> Callable[[Tensor], Tensor]:
        active = stencil[:, stencil.shape[1] // 2] > 0
        mask = active.to(self.dtype)[:, None].contiguous()

        def apply(r: Tensor) -> Tensor:
            r = torch.where(active, r, 0.0)
            size = r.abs().max()
            if not bool(size > 0):
                return r
            z = self.run("apply", [(r / size).to(self.dtype)[:, None].contiguous(), mask])[0][:, 0]
            return torch.where(active, z.to(r.dtype) * size, 0.0)

        return apply

    def _require(self, kind: str, call: str) -> None:
        if self.manifest.kind != kind:
            offers = "solve" if self.manifest.kind == "operator" else "preconditioner"
            raise UsageError(
                f"{self.manifest.name} is of kind {self.manifest.kind} and has no {call}(); use {offers}()."
            )

    def _require_shape(self, shape: tuple[int, ...]) -> None:
        reason = self.manifest.accepts(shape)
        if reason:
            raise UsageError(reason)


def _compact(stencil: Tensor, kept: list[list[int]]) -> bool:
    """Whether all couplings lie at these offsets."""
    from sciops.core.stencil_operator import offsets

    wanted = {tuple(o) for o in kept}
    return not any(
        bool((stencil[:, i] != 0).any()) for i, o in enumerate(offsets(stencil.dim() - 2)) if o not in wanted
    )


def _tensor(x: Any) -> Tensor:
    return x.detach().cpu() if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x))


def _like(found: Tensor, x: Array) -> Array:
    if isinstance(x, Tensor):
        return found.to(x)  # type: ignore[return-value]
    return found.numpy().astype(x.dtype if np.issubdtype(x.dtype, np.floating) else np.float64)  # type: ignore[return-value]

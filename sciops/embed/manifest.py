"""What an artefact says about itself: manifest.json, its checks, and the checksums of the files beside it."""

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from sciops.core.errors import DataError, UsageError

FORMAT, SCHEMA = "sciops", 1
MANIFEST = "manifest.json"
KINDS = ("operator", "multigrid", "direction")
PRECISIONS = {32: torch.float32, 64: torch.float64}


@dataclass
class Manifest:
    """The content of manifest.json; see `docs/export.md` for the meaning of every key.

    Ranges (`lower`, `upper` of an input) are those of the training split, None where they are not known.
    `shape`: an axis may have any `multiple`·k + `remainder` points from `minimum` to `maximum` (None: no end) if
    `dynamic`, else those of `grid["shape"]`.
    """

    name: str
    kind: str
    ndim: int
    entries: dict[str, dict[str, list[str]]]
    precisions: list[int] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    grid: dict[str, Any] | None = None
    boundary: list[list[str]] | None = None
    shape: dict[str, Any] = field(default_factory=dict)
    linear: bool = False
    symmetric: bool = False
    positive: bool = False
    multigrid: dict[str, Any] | None = None
    step: dict[str, Any] | None = None
    march: str = ""
    isa: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    created: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    format: str = FORMAT
    schema: int = SCHEMA

    def stamp(self) -> None:
        """Versions and date of now."""
        from sciops import __version__

        self.versions = {
            "sciops": __version__, "torch": torch.__version__.partition("+")[0], "python": platform.python_version()
        }  # fmt: skip
        self.created = datetime.now(UTC).isoformat(timespec="seconds")

    def write(self, folder: Path) -> None:
        """manifest.json with the checksums of all files that lie in the folder."""
        found = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
        self.files = {path.name: sha256(path) for path in found}
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    def accepts(self, shape: tuple[int, ...]) -> str | None:
        """Why a grid of this shape does not fit, in one sentence; None if it does."""
        if len(shape) != self.ndim:
            return f"{self.name} is {self.ndim}-D, but the grid is {len(shape)}-D; give {self.ndim} axes."
        native = tuple((self.grid or {}).get("shape") or ())
        if not self.shape.get("dynamic", False):
            given = "×".join(map(str, shape))
            wanted = "×".join(map(str, native))
            return None if shape == native else f"{self.name} takes {wanted} points alone and the grid has {given}."
        for axis, n in enumerate(shape):
            multiple, rest = self.shape["multiple"][axis], self.shape["remainder"][axis]
            low, high = self.shape["minimum"][axis], self.shape["maximum"][axis]
            if n < low or (high is not None and n > high) or n % multiple != rest % multiple:
                law = f"{multiple}·k + {rest}" if rest % multiple else f"multiples of {multiple}"
                law = "" if multiple == 1 else f" that are {law}"
                end = "on" if high is None else f"to {high}"
                return f"{self.name} takes {low} {end} points{law} along axis {axis}; the grid has {n}."
        return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of an artefact; DataError in one sentence for what is none, or of another schema."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.exists():
        raise UsageError(f"There is no artefact {folder}; write one with `sciops export`.")
    if not path.is_file():
        raise DataError(f"{folder} is no artefact of `sciops export`: it has no {MANIFEST}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}); export the model again.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} does not describe an artefact of sciops; export the model again.")
    if content.get("schema") != SCHEMA:
        raise DataError(
            f"{folder} has schema {content.get('schema')}, but this version reads schema {SCHEMA}; export it again or "
            "use the sciops version that wrote it."
        )
    known = {f.name for f in fields(Manifest)}
    missing = {"name", "kind", "ndim", "entries", "precisions", "shape", "versions", "files"} - set(content)
    if missing or content["kind"] not in KINDS:
        what = f"lacks {', '.join(sorted(missing))}" if missing else f"has the unknown kind '{content['kind']}'"
        raise DataError(f"{path} {what}; export the model again.")
    if not isinstance(content["files"], dict) or any(Path(name).name != name for name in content["files"]):
        raise DataError(f"{path} names files outside its folder; export the model again.")
    return Manifest(**{key: value for key, value in content.items() if key in known})


def verify(folder: Path, manifest: Manifest, names: list[str] | None = None) -> None:
    """Compare checksums before anything is opened; `names`: of these files alone. DataError if one differs."""
    for name in manifest.files if names is None else names:
        if name not in manifest.files:
            raise DataError(f"{folder} has no checksum for {name}, so it is not opened; export the model again.")
        if not (folder / name).is_file():
            raise DataError(f"{folder} is incomplete: {name} is missing; copy the whole folder or export it again.")
        if sha256(folder / name) != manifest.files[name]:
            raise DataError(f"{folder / name} is not the file that was exported (its checksum differs); copy it again.")


def require_runtime(folder: Path, manifest: Manifest) -> None:
    """DataError where the compiled programs are not for this torch or this processor."""
    have, made = torch.__version__, str(manifest.versions.get("torch", "?"))
    if have.split(".")[:2] != made.split(".")[:2]:
        raise DataError(
            f"{folder} was compiled for torch {made} and this is {have}; run `sciops recompile {folder}` here."
        )
    able = torch.backends.cpu.get_cpu_capability()
    needs = {"AVX512": ("AVX512",), "AVX2": ("AVX2", "AVX512")}.get(manifest.isa.partition(" ")[0])
    if needs and able not in needs:
        raise DataError(
            f"{folder} was compiled for {manifest.isa} and this processor has {able}; run `sciops recompile {folder}`."
        )

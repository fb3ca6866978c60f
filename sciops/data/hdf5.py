"""HDF5 basics shared by every format: safe opening with clear errors, atomic writing, small readers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sciops.core.errors import DataError


def open_hdf5(path: str | Path) -> h5py.File:
    """Open for reading; a missing, truncated or foreign file raises DataError with one sentence."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist; give an existing file or make it with `sciops generate`.")
    if path.is_dir():
        raise DataError(f"{path} is a folder, not an HDF5 file; name one file in it.")
    if not h5py.is_hdf5(path):
        raise DataError(f"{path} is not an HDF5 file (its signature is missing); generate or fetch it again.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = str(error)
        if "truncated" in reason:
            raise DataError(f"{path} is truncated; delete it and generate or fetch it again.") from None
        raise DataError(f"{path} cannot be opened ({reason}); generate or fetch it again.") from None


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Translate HDF5 read failures (damaged chunks, missing members) into DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} is damaged ({error}); delete it and generate or fetch it again.") from None
    except KeyError as error:
        raise DataError(f"{path} lacks a required member ({error.args[0]}); generate it again.") from None


def sync_folder(folder: Path) -> None:
    """Make a rename durable: flush the folder entry itself."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems refuse fsync on folders; the rename is atomic there all the same.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same folder; on success fsync and rename it, on failure remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove temporary files of the same target whose process was killed."""
    for stale in path.parent.glob(f".{path.name}.tmp-*"):
        number = stale.name.rpartition("-")[2]
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            stale.unlink(missing_ok=True)
        except (PermissionError, ValueError):
            continue  # somebody else's process, or not one of our names


def text_list(values: Any) -> list[str]:
    """An attribute that holds names, as a list of str, whatever HDF5 string type it was written with."""
    return [v.decode() if isinstance(v, bytes) else str(v) for v in np.atleast_1d(np.asarray(values, dtype=object))]


def text(value: Any) -> str:
    """A scalar string attribute."""
    return value.decode() if isinstance(value, bytes) else str(value)


def names(values: list[str] | tuple[str, ...]) -> np.ndarray:
    """Names as a variable-length string array (also when empty)."""
    return np.array(list(values), dtype=h5py.string_dtype())


def uniform_axis(x: np.ndarray, name: str, path: str | Path) -> tuple[float, float, float]:
    """(first, last, spacing) of an equally spaced, increasing coordinate array; DataError otherwise."""
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise DataError(f"{path}: coordinate '{name}' must be a finite 1-D array of at least 2 points.")
    h = (x[-1] - x[0]) / (len(x) - 1)
    # float32 coordinates carry rounding of about 1e-7 of their magnitude.
    slack = 1e-3 * abs(h) + 4e-7 * np.abs(x).max()
    if h <= 0 or np.abs(np.diff(x) - h).max() > slack:
        raise DataError(
            f"{path}: coordinate '{name}' is not equally spaced and increasing, so no Grid describes it; "
            f"interpolate the file to a uniform grid first."
        )
    return float(x[0]), float(x[-1]), float(h)


def file_hash(path: Path) -> str:
    """SHA-256 of the file's bytes, for files that carry no fingerprint of their own."""
    from hashlib import file_digest

    with Path(path).open("rb") as handle:
        return file_digest(handle, "sha256").hexdigest()[:16]

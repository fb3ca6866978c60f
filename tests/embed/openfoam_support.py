"""The plugin, compiled once per C library and state of its sources."""

import functools
import hashlib
import os
from pathlib import Path

import sciops.embed.openfoam_build as building


@functools.cache
def plugin_folder(library: Path) -> Path:
    """Folder of libsciopsFoam.so, beside the folder of libsciops.so."""
    sources = sorted((Path(building.__file__).parent / "openfoam").glob("*.[CH]"))
    state = hashlib.sha256(b"".join(path.read_bytes() for path in [*sources, Path(building.__file__)])).hexdigest()
    folder = library.parent / f"openfoam-{state[:16]}"
    if not (folder / "libsciopsFoam.so").exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        building.build(partial, library)
        folder.mkdir(exist_ok=True)
        (partial / "libsciopsFoam.so").replace(folder / "libsciopsFoam.so")
        partial.rmdir()
    return folder

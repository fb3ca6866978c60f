"""The plugin, compiled once per C library and state of its sources."""

import functools
import hashlib
from pathlib import Path

import artefact_makers

import sciops.embed.openfoam_build as building


@functools.cache
def plugin_folder(library: Path) -> Path:
    """Folder of libsciopsFoam.so, beside the folder of libsciops.so."""
    sources = sorted((Path(building.__file__).parent / "openfoam").glob("*.[CH]"))
    state = hashlib.sha256(b"".join(path.read_bytes() for path in [*sources, Path(building.__file__)])).hexdigest()
    folder = library.parent / f"openfoam-{state[:16]}"
    with artefact_makers.alone(folder):
        if not (folder / "libsciopsFoam.so").exists():
            partial = folder / "partial"
            building.build(partial, library)
            (partial / "libsciopsFoam.so").replace(folder / "libsciopsFoam.so")
            partial.rmdir()
    return folder

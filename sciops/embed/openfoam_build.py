"""Compile the OpenFOAM plugin, libsciopsFoam.so, against the OpenFOAM that is installed.

Headers: a source tree (`sources`, or $WM_PROJECT_DIR/src), else Debian's source package of the installed version, of
which the headers are kept in the user's cache folder (about 20 MB; without administrator's rights). All headers and
templates lie in one flat folder, as OpenFOAM's own build arranges them per library. A few seconds of g++; the first
time about 45 MB of download.
"""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from sciops.core.errors import UsageError

HERE = Path(__file__).parent
LIBRARIES = ("OpenFOAM", "OSspecific/POSIX")
SOURCES_LIST = "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} main\n"


def build(out: Path, library: Path, sources: Path | None = None) -> Path:
    """Write out/libsciopsFoam.so and return its path.

    Args:
        out: folder of the plugin, created where it is missing.
        library: folder that holds libsciops.so; the plugin finds it there, or beside itself.
        sources: folder `src` of an OpenFOAM source tree.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise UsageError("The program g++ is missing, which compiles the OpenFOAM plugin: install it (package g++).")
    if not (library / "libsciops.so").exists():
        raise UsageError(f"There is no libsciops.so in {library}: build it first with `sciops build capi`.")
    version, location = installed()
    include = headers(sources, version)
    out.mkdir(parents=True, exist_ok=True)
    plugin = out / "libsciopsFoam.so"
    command = [compiler, "-std=c++11", "-m64", "-pthread", f"-DOPENFOAM={version}", "-DWM_DP", "-DWM_LABEL_SIZE=32"]
    command += ["-DNoRepository", "-ftemplate-depth-100", "-O2", "-fPIC", "-shared", "-isystem", str(include)]
    command += [f"-I{HERE / 'openfoam'}", f"-I{HERE / 'capi' / 'include'}", str(HERE / "openfoam" / "sciopsFoam.C")]
    command += ["-o", str(plugin), f"-L{library}", "-lsciops", f"-L{location}", "-lOpenFOAM"]
    command += [f"-Wl,-rpath,$ORIGIN:{library.resolve()}"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        reason = next((line for line in result.stderr.splitlines() if "error" in line or "cannot find" in line), "")
        raise UsageError(
            f"g++ could not compile the OpenFOAM plugin against version {version} ({reason.strip()[:300]})."
        )
    return plugin


def installed() -> tuple[int, Path]:
    """The version of OpenFOAM, such as 1912, and the folder of its libraries."""
    folder = os.environ.get("FOAM_LIBBIN")
    named = re.fullmatch(r"v?(\d{4})", os.environ.get("WM_PROJECT_VERSION", ""))
    if folder and named:
        return int(named[1]), Path(folder)
    package = debian_version()
    if package and Path("/usr/lib/libOpenFOAM.so").exists():
        return int(package.split(".")[0]), Path("/usr/lib")
    raise UsageError(
        "OpenFOAM is not installed or its environment is not set: install the package openfoam, or source etc/bashrc "
        "of OpenFOAM v1912 or later (openfoam.com)."
    )


def headers(sources: Path | None, version: int) -> Path:
    """A flat folder with OpenFOAM's headers and templates."""
    tree = sources or source_tree()
    key = f"{version}" if tree is None else f"{version}-{hashlib.sha256(str(tree.resolve()).encode()).hexdigest()[:12]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sciops" / f"openfoam-{key}"
    if tree is None and (cache / "lduMatrix.H").exists():
        return cache
    partial = cache.with_name(f"{cache.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        if tree is None:
            _from_debian(partial)
        else:
            _from_tree(tree, partial)
        if not (partial / "lduMatrix.H").exists():
            raise UsageError(f"There is no lduMatrix.H in {tree}: give the folder src of an OpenFOAM source tree.")
        shutil.rmtree(cache, ignore_errors=True)
        partial.rename(cache)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return cache


def source_tree() -> Path | None:
    """$WM_PROJECT_DIR/src where it holds sources."""
    folder = Path(os.environ.get("WM_PROJECT_DIR", "/nowhere")) / "src"
    return folder if (folder / "OpenFOAM").is_dir() else None


def debian_version() -> str | None:
    """Version of the package libopenfoam, such as 1912.200626, or None."""
    if shutil.which("dpkg-query") is None:
        return None
    query = ["dpkg-query", "-W", "-f", "${source:Version}", "libopenfoam"]
    result = subprocess.run(query, capture_output=True, text=True)
    return result.stdout.strip() or None if result.returncode == 0 else None


def _from_tree(tree: Path, folder: Path) -> None:
    for library in LIBRARIES:
        for path in (tree / library).rglob("*.[HC]"):
            if "lnInclude" not in path.parts and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path.resolve())


def _from_debian(folder: Path) -> None:
    """Download the source package as an ordinary user: apt with lists and cache of its own."""
    version = debian_version()
    if version is None or shutil.which("apt-get") is None:
        raise UsageError("OpenFOAM's headers are missing: set WM_PROJECT_DIR to a tree with its sources, src.")
    work = folder / "download"
    (work / "lists" / "partial").mkdir(parents=True)
    (work / "cache" / "archives" / "partial").mkdir(parents=True)
    mirror = os.environ.get("SCIOPS_DEBIAN_MIRROR", "http://deb.debian.org/debian")
    (work / "sources.list").write_text(SOURCES_LIST.format(mirror=mirror, suite=_suite()))
    options = {
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "",
    }
    apt = ["apt-get", "-qq", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
    steps = [[*apt, "update"], [*apt, "source", "--download-only", f"openfoam={version}"]]
    for step in steps:
        result = subprocess.run(step, cwd=work, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UsageError(f"apt-get could not download the source package openfoam {version} ({reason}).")
    archive = next(work.glob("*.orig.tar.*"))
    patterns = [f"*/src/{library}/*.[HC]" for library in LIBRARIES]
    unpack = ["tar", "-xf", str(archive), "-C", str(folder), "--transform", "s,.*/,,", "--wildcards", *patterns]
    result = subprocess.run(unpack, capture_output=True, text=True)
    if result.returncode:
        raise UsageError(f"tar could not unpack {archive.name} ({result.stderr.strip()[:200]}); install tar and bzip2.")
    shutil.rmtree(work)


def _suite() -> str:
    release = Path("/etc/os-release")
    found = re.search(r"^VERSION_CODENAME=(\w+)", release.read_text(), re.M) if release.exists() else None
    return found[1] if found else "bookworm"

"""What a data file says besides its arrays: the facts that turn rows of numbers back into a PDE."""

import json
import platform
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from sciops.core.config import build, spec
from sciops.core.dataset import Dataset
from sciops.core.errors import DataError, UsageError
from sciops.core.grid import Grid
from sciops.core.problem import Problem

SCHEMA = 1


@dataclass(frozen=True)
class Header:
    """Everything in a file that is not per case.

    `problem`: class path and arguments. `solver`: how the truth was made (tol, refine, batch, device, …).
    `times` has one entry for steady data. `parameters`: The Well's simulation parameters (constants).
    """

    name: str
    grid: Grid
    problem: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    split: str = "train"
    times: tuple[float, ...] = (0.0,)
    parameters: dict[str, float] = field(default_factory=dict)
    root_seed: int | None = None
    solver: dict[str, Any] = field(default_factory=dict)
    label_method: str = "unknown"
    generation_seconds: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""

    def stamped(self) -> "Header":
        """The same facts with the versions and the time of now, where they are not stated yet."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return replace(self, versions=self.versions or versions(), created=self.created or now)

    @property
    def steady(self) -> bool:
        return len(self.times) == 1

    def make_problem(self) -> Problem:
        """Build the problem named by the file; never imports code that is not part of sciops or loaded."""
        return build(self.problem, Problem, trusted=False)


def versions(device: str = "cpu") -> dict[str, str]:
    """Software and machine facts that decide whether equal bits may be expected from a rebuild."""
    from importlib.metadata import PackageNotFoundError, version

    import h5py
    import numpy

    try:
        own = version("sciops")
    except PackageNotFoundError:
        own = "source"
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    return {
        "sciops": own,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "h5py": h5py.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "cpu": f"{_cpu_model()} {torch.backends.cpu.get_cpu_capability()}",
        "device": name,
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def numeric_arguments(problem: dict[str, Any]) -> dict[str, float]:
    """Numbers among the arguments of a problem: they become The Well's simulation parameters."""
    arguments = problem.get("init_args") or {}
    numbers = {k: v for k, v in arguments.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: float(v) for k, v in numbers.items() if k != "ndim"}


def header_of(dataset: Dataset, name: str, split: str) -> Header:
    """The header under which any dataset can be written; stored ones keep their own provenance."""
    own = getattr(dataset, "header", None)
    if isinstance(own, Header):
        return replace(own, name=name or own.name, split=split or own.split)
    problem = spec(dataset.problem)
    return Header(
        name=name or type(dataset.problem).__name__.lower(),
        grid=dataset.grid,
        problem=problem,
        inputs=tuple(c.name for c in dataset.problem.inputs),
        outputs=tuple(c.name for c in dataset.problem.outputs),
        split=split or "train",
        times=dataset.truth(slice(0, 1)).times,
        parameters=numeric_arguments(problem) | getattr(dataset, "parameters", {}),
        generation_seconds=dataset.generation_seconds,
    )


def parse_spec(text: str, path: Any) -> dict[str, Any]:
    """A YAML mapping stored in a file, read without executing anything."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise DataError(f"{path}: its problem or solver description is not plain YAML; generate it again.") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: its problem or solver description is not a mapping; generate it again.")
    return value


def parse_versions(text: str) -> dict[str, str]:
    """The versions JSON, {} when it is unreadable: provenance must not make data unreadable."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def check_schema(found: Any, path: Any) -> None:
    """Raise DataError if a file was written under another schema version."""
    if found != SCHEMA:
        raise DataError(
            f"{path} has sciops schema {found}, but this version reads schema {SCHEMA}; generate the file again "
            f"or use the sciops version that wrote it."
        )


def require_usable(problem: Problem, grid: Grid) -> None:
    """Raise UsageError if the problem cannot live on the grid."""
    if problem.ndim != grid.ndim:
        raise UsageError(f"{type(problem).__name__} is {problem.ndim}-D but the grid is {grid.describe()}.")
    problem.boundary.check(grid)


def to_plain(header: Header) -> dict[str, Any]:
    """The header as JSON values."""
    return asdict(header)


def from_plain(table: dict[str, Any], path: Any) -> Header:
    """The header that `to_plain` wrote."""
    try:
        grid = Grid(**{k: tuple(v) for k, v in table["grid"].items()})
        lists = {k: tuple(table[k]) for k in ("inputs", "outputs", "times")}
        return Header(**(table | lists | {"grid": grid}))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: its sciops header is incomplete ({error}); convert the file again.") from None

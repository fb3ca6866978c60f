"""Finding everything in a native file: The Well's layout plus the /sciops group."""

from pathlib import Path

import h5py
import numpy as np

from sciops.core.boundary import axis_names
from sciops.core.errors import DataError
from sciops.core.grid import Grid
from sciops.data.contents import Contents, Source
from sciops.data.hdf5 import text, text_list
from sciops.data.header import Header, check_schema, parse_spec, parse_versions

PER_CASE = ("case_id", "seed", "residual", "label_error")


def native_contents(file: h5py.File, path: Path) -> Contents:
    """Contents of a native file; DataError if there is no /sciops group or it has another schema."""
    header = read_header(file, path)
    own = file["sciops"]
    if "case_id" not in own:
        raise DataError(f"{path} lacks /sciops/case_id, without which no case can be told; generate it again.")
    return Contents(
        header,
        int(file.attrs["n_trajectories"]),
        channel_sources(file, path),
        {name: f"sciops/{name}" for name in PER_CASE if name in own},
        {name: f"sciops/params/{name}" for name in own.get("params", ())},
        {name: f"sciops/boundary/{name}" for name in own.get("boundary", ())},
        text(own.attrs["fingerprint"]),
    )


def read_header(file: h5py.File, path: str | Path) -> Header:
    """The header of a native file."""
    if "sciops" not in file:
        raise DataError(
            f"{path} has no /sciops group, so it is not a native file; open it with `open_dataset`, which also "
            f"reads The Well and PDEBench, or convert it with `sciops convert`."
        )
    own = file["sciops"].attrs
    check_schema(int(own["schema"]) if "schema" in own else None, path)
    axes = axis_names(int(file.attrs["n_spatial_dims"]))
    grid = Grid(
        tuple(int(file[f"dimensions/{axis}"].shape[0]) for axis in axes),
        tuple(map(float, own["lower"])),
        tuple(map(float, own["upper"])),
        tuple(text_list(own["layout"])),
    )
    return Header(
        name=text(file.attrs["dataset_name"]),
        grid=grid,
        problem=parse_spec(text(own["problem"]), path),
        inputs=tuple(text_list(own["inputs"])),
        outputs=tuple(text_list(own["outputs"])),
        split=text(own["split"]),
        times=tuple(map(float, own["times"])),
        parameters={k: float(file.attrs[k]) for k in text_list(file.attrs["simulation_parameters"])},
        root_seed=int(own["root_seed"]) if "root_seed" in own else None,
        solver=parse_spec(text(own["solver"]), path),
        label_method=text(own["label_method"]),
        generation_seconds=float(own["generation_seconds"]) if "generation_seconds" in own else None,
        versions=parse_versions(text(own["versions"])),
        created=text(own["created"]),
    )


def channel_sources(file: h5py.File, path: str | Path) -> dict[str, Source]:
    """Scalar channels of a file in The Well's layout; vectors become name_x, name_y; tensors name_xy, …"""
    axes = text_list(file["dimensions"].attrs["spatial_dims"])
    table: dict[str, Source] = {}
    for order in range(3):
        group = file[f"t{order}_fields"]
        for name in text_list(group.attrs["field_names"]):
            dataset = group[name]
            sampled, timed = (bool(dataset.attrs[f"{k}_varying"]) for k in ("sample", "time"))
            varying = tuple(bool(v) for v in dataset.attrs["dim_varying"])
            expected = sampled + timed + sum(varying) + order
            if dataset.ndim != expected:
                raise DataError(f"{path}: field '{name}' has {dataset.ndim} axes but its attributes say {expected}.")
            for component in np.ndindex(*(len(axes),) * order):
                suffix = "_" + "".join(axes[k] for k in component) if component else ""
                table[name + suffix] = Source(f"t{order}_fields/{name}", component, sampled, timed, varying)
    return table

"""Names that configurations and tables use for metrics."""

import difflib

from sciops.core.errors import UsageError
from sciops.metrics import (
    boundary,
    calibration,
    conserved,
    conventions,
    pdebench,
    pointwise,
    residual,
    rollout,
    sobolev,
    spectral,
    well,
)
from sciops.metrics.base import Metric

ROOMS = (
    pointwise, sobolev, spectral, rollout, conserved, boundary, residual, calibration, pdebench, well, conventions,
)  # fmt: skip
CATALOGUE: dict[str, Metric] = {metric.name: metric for room in ROOMS for metric in room.METRICS}
# The default table: one metric per column and one per band and level.
DEFAULT = (
    "rel_l2", "rel_l2_p95", "rel_h1", "band_low", "band_mid", "band_high", "max", "residual", "coverage_90",
)  # fmt: skip


def named(name: str) -> Metric:
    """The metric of this name, for example `rel_l2` or `vrmse[6:12]@well`; UsageError with near matches."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = difflib.get_close_matches(name, CATALOGUE, n=5, cutoff=0.5)
    near = near or [known for known in CATALOGUE if "@" not in known]
    raise UsageError(
        f"There is no metric '{name}'; close to it are {', '.join(near)}. A metric of your own is named by its "
        "class path, package.module.Class."
    )

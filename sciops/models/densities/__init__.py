"""Densities on boxes, from which adaptive samplers draw: flows, tables and mixtures."""

from sciops.models.densities.base import Arcsine, Density, Flow, MassLost, Uniform, check_mass
from sciops.models.densities.krnet import KRnet
from sciops.models.densities.mixture import Mixture, Restricted, safeguarded
from sciops.models.densities.spline_flow import SplineFlow
from sciops.models.densities.tabulated import Tabulated

__all__ = [
    "Arcsine",
    "Density",
    "Flow",
    "KRnet",
    "MassLost",
    "Mixture",
    "Restricted",
    "SplineFlow",
    "Tabulated",
    "Uniform",
    "check_mass",
    "safeguarded",
]

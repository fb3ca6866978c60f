"""Densities on boxes, from which adaptive samplers draw: flows, tables and mixtures."""

from sciops.models.densities.base import Density, Flow, MassLost, Uniform, check_mass
from sciops.models.densities.spline_flow import SplineFlow

__all__ = ["Density", "Flow", "MassLost", "SplineFlow", "Uniform", "check_mass"]

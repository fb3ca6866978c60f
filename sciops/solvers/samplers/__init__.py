"""Samplers of collocation points, by class path: uniform, residual-weighted and adversarial ones, one file each."""

from sciops.solvers.samplers.base import Points, Sampler, effective_size
from sciops.solvers.samplers.rad import RAD
from sciops.solvers.samplers.uniform import Uniform, UniformResample

__all__ = ["RAD", "Points", "Sampler", "Uniform", "UniformResample", "effective_size"]

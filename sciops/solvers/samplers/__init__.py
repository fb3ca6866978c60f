"""Samplers of collocation points, by class path: uniform, residual-weighted and adversarial ones, one file each."""

from sciops.solvers.samplers.aas import AAS
from sciops.solvers.samplers.base import Points, Sampler, effective_size
from sciops.solvers.samplers.das import DASG, DASR
from sciops.solvers.samplers.oracle import Oracle
from sciops.solvers.samplers.r3 import R3
from sciops.solvers.samplers.rad import RAD
from sciops.solvers.samplers.rar_d import RARD
from sciops.solvers.samplers.tempered import Tempered
from sciops.solvers.samplers.uniform import Uniform, UniformResample

__all__ = [
    "AAS",
    "DASG",
    "DASR",
    "R3",
    "RAD",
    "RARD",
    "Oracle",
    "Points",
    "Sampler",
    "Tempered",
    "Uniform",
    "UniformResample",
    "effective_size",
]

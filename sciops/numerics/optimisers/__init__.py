"""Optimisers beyond first order, for models of up to some ten thousand parameters in float64; SOAP for larger ones."""

from sciops.numerics.optimisers.gauss_newton import GaussNewton, Step
from sciops.numerics.optimisers.natural_gradient import Energy, EnergyNaturalGradient
from sciops.numerics.optimisers.soap import SOAP
from sciops.numerics.optimisers.ss_broyden import SSBroyden

__all__ = ["SOAP", "Energy", "EnergyNaturalGradient", "GaussNewton", "SSBroyden", "Step"]

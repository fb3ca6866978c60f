"""Optimisers beyond first order, for models of up to some ten thousand parameters in float64; SOAP for larger ones."""

from sciops.numerics.optimisers.gauss_newton import GaussNewton, Step

__all__ = ["GaussNewton", "Step"]

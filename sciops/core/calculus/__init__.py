"""Six meanings of one residual: Autodiff, Forward, Stencil, Spectral, Symbol, Jet."""

from sciops.core.calculus.autodiff import Autodiff
from sciops.core.calculus.base import Calculus
from sciops.core.calculus.forward import LAPLACIAN, Forward, Key, Request, request_of
from sciops.core.calculus.jet import Jet, Order, State
from sciops.core.calculus.spectral import Spectral
from sciops.core.calculus.stencil import Stencil
from sciops.core.calculus.symbol import Differential, Symbol

__all__ = [
    "LAPLACIAN",
    "Autodiff",
    "Calculus",
    "Differential",
    "Forward",
    "Jet",
    "Key",
    "Order",
    "Request",
    "Spectral",
    "State",
    "Stencil",
    "Symbol",
    "request_of",
]

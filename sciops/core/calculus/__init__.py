"""Five meanings of one residual: Autodiff, Stencil, Spectral, Symbol, Jet."""

from sciops.core.calculus.autodiff import Autodiff
from sciops.core.calculus.base import Calculus
from sciops.core.calculus.jet import Jet, Order, State
from sciops.core.calculus.spectral import Spectral
from sciops.core.calculus.stencil import Stencil
from sciops.core.calculus.symbol import Differential, Symbol

__all__ = ["Autodiff", "Calculus", "Differential", "Jet", "Order", "Spectral", "State", "Stencil", "Symbol"]

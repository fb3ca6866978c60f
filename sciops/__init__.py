"""sciops: learned and classical PDE solvers behind one contract, judged by one harness."""

from sciops.core.boundary import Boundary
from sciops.core.calculus import Autodiff, Spectral, Stencil, Symbol
from sciops.core.cases import Cases
from sciops.core.dataset import Dataset, MemoryDataset
from sciops.core.errors import SciopsError
from sciops.core.field import Field
from sciops.core.grid import Grid, PointSet
from sciops.core.problem import Channel, DataOnly, Problem
from sciops.core.solver import Budget, FitReport, Solution, Solver, View

__version__ = "0.1.0"

__all__ = [
    "Autodiff",
    "Boundary",
    "Budget",
    "Cases",
    "Channel",
    "DataOnly",
    "Dataset",
    "Field",
    "FitReport",
    "Grid",
    "MemoryDataset",
    "PointSet",
    "Problem",
    "SciopsError",
    "Solution",
    "Solver",
    "Spectral",
    "Stencil",
    "Symbol",
    "View",
    "__version__",
]

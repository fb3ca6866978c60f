"""Functions of the whole box that take given values on its faces: lifts of Dirichlet data."""

from itertools import combinations, product

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.solvers.collocation import Equation, Face
from sciops.solvers.pinn_initialisation import SourceDraw

SMALL = 1e-4
"""Dirichlet data below this share of the solution's size count as zero where no lift is affordable."""


class Transfinite:
    """g(x) with g = data on every chosen face: the Boolean sum of the linear interpolations along each axis.

    P_j u blends the data of the two faces of axis j linearly, or repeats the one that is there; the sum
    P_1 ⊕ P_2 ⊕ … = Σ_j P_j − Σ_{i<j} P_i P_j + … reproduces all of them where they agree at edges and corners.
    Smooth where the data are; closed forms are used where the problem has them. At most 3^d evaluations.
    Reference: Gordon & Hall, Numer. Math. 21 (1973).
    """

    def __init__(self, equation: Equation, faces: list[Face]) -> None:
        self.case = equation.case
        self.lower, self.upper = equation.lower, equation.upper
        self.sides: dict[int, dict[int, str]] = {}
        for face in faces:
            self.sides.setdefault(face.axis, {})[face.side] = face.name

    def __call__(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N 1"]:
        total = torch.zeros_like(x[:, 0])
        for count in range(1, len(self.sides) + 1):
            for axes in combinations(sorted(self.sides), count):
                total = total + (-1) ** (count + 1) * self._product(x, axes)
        return total[:, None]

    def _product(self, x: Float[Tensor, "N d"], axes: tuple[int, ...]) -> Float[Tensor, " N"]:
        total = torch.zeros_like(x[:, 0])
        for chosen in product(*(sorted(self.sides[j]) for j in axes)):
            weight, point = torch.ones_like(x[:, 0]), list(x.unbind(1))
            for j, side in zip(axes, chosen, strict=True):
                if len(self.sides[j]) == 2:
                    share = (x[:, j] - self.lower[j]) / (self.upper[j] - self.lower[j])
                    weight = weight * (share if side else 1 - share)
                point[j] = torch.zeros_like(point[j]) + (self.lower, self.upper)[side][j]
            weight = weight * face_data(self.case, self.sides[axes[0]][chosen[0]], torch.stack(point, 1))
            total = total + weight
        return total


def face_data(case: Cases, face: str, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
    """Dirichlet data at points of a face, differentiable along it."""
    values = getattr(case.problem, "face_values", None)
    if values is not None:  # cheaper than the solution in the whole box
        return values(face, x)
    exact = case.problem.exact(case, x[None])
    return case.on_face(face, x[None])[0] if exact is None else exact[0, 0]


def vanishes(equation: Equation, faces: list[Face], n: int = 200) -> bool:
    """Are the Dirichlet data zero at random points of every face?"""
    random = torch.Generator().manual_seed(0)
    largest = 0.0
    for face in faces:
        rows = equation.boundary_rows(face, equation.face_points(face, n, random))
        largest = max(largest, float(rows.rhs.abs().max()))
    return largest < 1e-100


def negligible(equation: Equation, faces: list[Face], draw: SourceDraw) -> bool:
    """Are the Dirichlet data below `SMALL` of the size of the solution, so that a zero lift changes it by no more?

    A solution of −Δu = f with wavenumber k per axis has the size max|f|/(d k²); by the maximum principle boundary data
    g change it by at most max|g|. g is looked at where the source projects to, and at random points.
    """
    k = draw.wavenumber
    if not draw.found or k <= 0:
        return False
    size = float(draw.source(draw.x).abs().max()) / (equation.ndim * k**2)
    random, largest = torch.Generator().manual_seed(0), 0.0
    for face in faces:
        x = torch.cat([draw.x[:500], equation.face_points(face, 500, random)])
        x[:, face.axis] = (equation.lower, equation.upper)[face.side][face.axis]
        largest = max(largest, float(equation.boundary_rows(face, x).rhs.abs().max()))
    return largest <= SMALL * size

"""Waves by differences: the five-point scheme with coefficients on cells, all cases at once."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from sciops.numerics.wave_leapfrog import FACES, WaveSystem


def difference_system(
    stiffness: Float[Tensor, "n cx cy"],
    spacing: Sequence[float],
    sides: Mapping[str, str],
    density: float = 1.0,
    damping: float = 0.0,
) -> WaveSystem:
    """ρ u_tt − ∇·(μ ∇u) + η u_t = f at the nodes of a rectangle, μ constant on each of cx × cy cells.

    Flux through a face between two nodes: the mean μ of the two cells beside the edge that joins them, times the
    difference; so layers that end on grid lines are seen without smearing (along them μ is the arithmetic mean, across
    them each edge lies in one layer). Nodes on sides own half a control volume, corners a quarter. This is the Q1
    element with the trapezoidal rule: M and K are symmetric, the scheme is of second order.
    Sides: `WaveSystem`'s; absorbing ones add √(ρμ) times half of each adjoining boundary edge to the damping.
    λ_max ≤ max μ/ρ · 4(1/hx² + 1/hy²), hence the largest step. n may be 1: one medium for all cases.
    Cost a step: 10 N operations; memory: five coefficients a node, once for all cases or once a case.
    """
    hx, hy = spacing
    nx, ny = stiffness.shape[1] + 1, stiffness.shape[2] + 1
    # Edges along x at row j see the cells below and above it; at the sides only one, of half the height.
    along_x = _halves(stiffness, 2) * (hy / hx)  # (n, nx−1, ny)
    along_y = _halves(stiffness, 1) * (hx / hy)  # (n, nx, ny−1)
    mass, free = node_mass(nx, ny, hx, hy, density, stiffness), held(nx, ny, sides, stiffness)
    # Coefficients of the four neighbours, and minus their sum: five products a node, the least memory traffic.
    inverse = free / mass
    east, west = along_x * inverse[:-1], along_x * inverse[1:]
    north, south = along_y * inverse[:, :-1], along_y * inverse[:, 1:]
    centre = east.new_zeros(len(stiffness), nx, ny)
    for part, coefficient in ((centre[:, :-1], east), (centre[:, 1:], west)):
        part.sub_(coefficient)
    for part, coefficient in ((centre[:, :, :-1], north), (centre[:, :, 1:], south)):
        part.sub_(coefficient)

    def restore(u: Tensor) -> Tensor:
        out = centre * u
        out[:, :-1].addcmul_(east, u[:, 1:])
        out[:, 1:].addcmul_(west, u[:, :-1])
        out[:, :, :-1].addcmul_(north, u[:, :, 1:])
        out[:, :, 1:].addcmul_(south, u[:, :, :-1])
        return out

    largest = difference_limit(float(stiffness.amax()) / density, spacing)
    edges = {face: (density * cells).sqrt() for face, cells in side_cells(stiffness).items()}
    rate = damping / density + side_damping(edges, spacing, sides, mass)
    return WaveSystem(restore, rate * free, mass, free, density, largest)


def difference_limit(top: float, spacing: Sequence[float]) -> float:
    """The largest stable step of the five-point scheme where μ/ρ ≤ top."""
    return (top * sum(h**-2 for h in spacing)) ** -0.5


def _halves(stiffness: Tensor, axis: int) -> Tensor:
    """Half the sum of the two cells on either side of every grid line along the axis; at the ends there is one."""
    shape = list(stiffness.shape)
    shape[axis] += 1
    out = stiffness.new_zeros(shape)
    n = stiffness.shape[axis]
    out.narrow(axis, 0, n).add_(stiffness, alpha=0.5)
    out.narrow(axis, 1, n).add_(stiffness, alpha=0.5)
    return out


def node_mass(nx: int, ny: int, hx: float, hy: float, density: float, like: Tensor) -> Tensor:
    """ρ times the trapezoidal weights of the nodes."""
    weights = [like.new_full((n,), h) for n, h in ((nx, hx), (ny, hy))]
    for w in weights:
        w[0] = w[-1] = w[0] / 2
    return density * weights[0][:, None] * weights[1]


def held(nx: int, ny: int, sides: Mapping[str, str], like: Tensor) -> Tensor:
    """1 at nodes that move, 0 on sides with u = 0."""
    free = like.new_ones(nx, ny)
    for index, face in enumerate(FACES):
        if sides.get(face, "dirichlet") == "dirichlet":
            free.select(index // 2, -1 if index % 2 else 0).zero_()
    return free


def side_cells(stiffness: Float[Tensor, "n cx cy"]) -> dict[str, Tensor]:
    """μ of the cells along each side."""
    return {face: stiffness.select(1 + k // 2, -1 if k % 2 else 0) for k, face in enumerate(FACES)}


def side_damping(
    impedance: Mapping[str, Tensor], spacing: Sequence[float], sides: Mapping[str, str], mass: Tensor
) -> Tensor:
    """Diagonal of M⁻¹ ∮ √(ρμ) φ_i φ_j by the trapezoidal rule over absorbing sides, (n, nx, ny)."""
    n = next(iter(impedance.values())).shape[0]
    total = mass.new_zeros(n, *mass.shape)
    for k, face in enumerate(FACES):
        if sides.get(face, "dirichlet") == "absorbing":
            axis = k // 2
            half = impedance[face] * spacing[1 - axis] / 2
            line = total.select(1 + axis, -1 if k % 2 else 0)
            line[:, :-1] += half
            line[:, 1:] += half
    return total / mass

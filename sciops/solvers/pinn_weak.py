"""Weak rows: the low modes of the error, which the strong residual hardly sees."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.models.per_sample import per_sample_blocks
from sciops.models.trial import Trial
from sciops.numerics.block_jacobian import Blocks
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn_rows import ParameterRows, Sites, State

MODES = {1: 32, 2: 8, 3: 4}
"""Default modes per axis."""
RESOLUTION: dict[int, Callable[[int], int]] = {1: lambda m: 16 * m, 2: lambda m: 8 * m, 3: lambda m: max(16, 4 * m)}
"""Points per axis for a number of modes."""
BLOCK = 4096
"""Points whose Jacobian exists at a time."""


class WeakRows(ParameterRows):
    """w (λ_max/λ_k) ∫ r φ_k dx / √|Ω| for the lowest modes φ_k of the box, r the scaled residual.

    φ_k are products of L²-normalised sines on axes with Dirichlet data, of cosines on the others. Where L φ_k = λ_k φ_k
    a row is λ_max times the k-th coefficient of the error u_θ − u itself: a second-order residual weighs that by
    λ_k, so that smooth errors hide in it. In general λ_k = ‖L φ_k‖₂, L the tangent of the equation at the start.
    Rows with λ_k = λ_max have the weight that they have in the mean square residual; w multiplies all.

    The integrals are midpoint sums on a tensor grid of `resolution` points per axis: exact for products with fewer
    waves, wrong where r is finer than the grid. Cost: a Jacobian at all its points, in blocks; memory modes × P.
    """

    def __init__(
        self,
        trial: Trial,
        equation: Equation,
        modes: Sequence[int],
        resolution: Sequence[int],
        scale: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        self.equation, self.modes, self.shape = equation, tuple(modes), tuple(resolution)
        kinds = _families(equation)
        nodes, self.tables = [], []
        for j, (m, n) in enumerate(zip(self.modes, self.shape, strict=True)):
            lo, hi = float(equation.lower[j]), float(equation.upper[j])
            t = (torch.arange(n, dtype=torch.float64).to(equation.lower) + 0.5) / n
            nodes.append(lo + (hi - lo) * t)
            # Quadrature weight L/n times φ = √(2/L) sin kπt over √L: the lengths cancel.
            self.tables.append(_family(kinds[j], m, t, 0) / n)
        x = torch.stack(torch.meshgrid(*nodes, indexing="ij"), -1).reshape(-1, equation.ndim)
        inner = math.prod(self.shape[1:])
        lines = max(1, BLOCK // inner)
        self.blocks = [Sites(equation.case, part) for part in x.split(lines * inner)]
        self.lines = lines
        self._bases: dict[int, Tensor] = {}
        super().__init__(trial)
        lam = self._eigenvalues(kinds, nodes)
        self.factors = (weight / scale) * lam.max() / lam

    def _eigenvalues(self, kinds: list[str], nodes: list[Tensor]) -> Float[Tensor, " K"]:
        """‖L φ_k‖₂ on the grid, from the symbol or the tangent at the present trial function."""
        equation = self.equation
        total: Tensor | None = None
        for number, sites in enumerate(self.blocks):
            rows = equation.rows(sites.x, None if equation.linear else State(self.trial, sites.x))
            image = torch.zeros(1)
            for order, c in rows.terms.items():
                parts = []
                for j, m in enumerate(self.modes):
                    lo, hi = float(equation.lower[j]), float(equation.upper[j])
                    t = (nodes[j] - lo) / (hi - lo)
                    parts.append(_family(kinds[j], m, t, order[j]) * (hi - lo) ** -order[j])
                first = slice(number * self.lines, number * self.lines + len(sites) // math.prod(self.shape[1:]))
                parts[0] = parts[0][:, first]
                whole = parts[0]
                for part in parts[1:]:
                    whole = torch.einsum("ka,lb->klab", whole, part).flatten(0, 1).flatten(1)
                image = image + c * whole
            squared = image.square().sum(1)
            total = squared if total is None else total + squared
        assert total is not None
        return (total / math.prod(self.shape)).sqrt().clamp(min=1e-12)

    def _project(self, block: Float[Tensor, "n *p"], number: int) -> Float[Tensor, "K *p"]:
        """Σ over the points of one block: values (points, …) ↦ (modes, …)."""
        count = len(block) // math.prod(self.shape[1:])
        tail = block.shape[1:]
        first = slice(number * self.lines, number * self.lines + count)
        tables = [self.tables[0][:, first], *self.tables[1:]]
        whole = block.reshape(count, *self.shape[1:], -1)
        for axis in range(len(tables) - 1, -1, -1):
            whole = torch.tensordot(tables[axis], whole, dims=([1], [axis])).movedim(0, axis)
        return whole.reshape(-1, *tail)

    def _moved(self, slopes: Blocks, number: int) -> Float[Tensor, "K P"]:
        """The projection of a Jacobian, axis by axis, or at the points of each block alone."""
        if not self.local:
            return self._project(slopes.dense(), number)
        if number not in self._bases:
            lines = slopes.shape[0] // math.prod(self.shape[1:])
            basis = self.tables[0][:, number * self.lines : number * self.lines + lines]
            for table in self.tables[1:]:
                basis = torch.einsum("ka,lb->klab", basis, table).flatten(0, 1).flatten(1)
            self._bases[number] = basis
        return slopes.projected(self._bases[number])

    def pieces(self) -> Iterator[list[Tensor]]:
        """Residuals at the points of every block, with gradients."""
        for sites in self.blocks:
            yield sites.residuals(self.trial.derivatives(sites.x, sites.request))

    def _sum(self) -> Float[Tensor, " M"]:
        total: list[Tensor] = []
        for number, residuals in enumerate(self.pieces()):
            found = [self._project(r, number) for r in residuals]
            total = found if not total else [a + b for a, b in zip(total, found, strict=True)]
        return torch.cat([self.factors * part for part in total])

    def residual(self, theta: Float[Tensor, " P"]) -> Float[Tensor, " M"]:
        self._move(theta)
        with torch.no_grad():
            return self._sum().detach()

    def jacobian(self, theta: Float[Tensor, " P"]) -> tuple[Float[Tensor, " M"], Float[Tensor, "M P"]]:
        self._move(theta)
        r: list[Tensor] = []
        J: list[Tensor] = []
        for number, sites in enumerate(self.blocks):
            values, slopes = per_sample_blocks(self.trial, sites.x, sites.request, sites.residuals)
            found = [self._project(v, number) for v in values]
            moved = [self._moved(s, number) for s in slopes]
            r = found if not r else [a + b for a, b in zip(r, found, strict=True)]
            J = moved if not J else [a + b for a, b in zip(J, moved, strict=True)]
        return torch.cat([self.factors * part for part in r]), torch.cat([self.factors[:, None] * part for part in J])

    def loss(self) -> Float[Tensor, ""]:
        return 0.5 * self._sum().square().sum()


def _families(equation: Equation) -> list[str]:
    """sine, or cosine where an axis has no Dirichlet data on both faces."""
    kinds = []
    for axis in range(equation.ndim):
        both = [face for face in equation.faces if face.axis == axis and face.kind == "dirichlet"]
        kinds.append("sine" if len(both) == 2 else "cosine")
    return kinds


def _family(kind: str, m: int, t: Float[Tensor, " n"], order: int) -> Float[Tensor, "m n"]:
    """d^order/dt^order of √2 sin kπt (k = 1…m) or √2 cos kπt (k = 0…m−1; 1 for k = 0): normalised on [0, 1]."""
    k = torch.arange(1, m + 1, dtype=t.dtype, device=t.device) - (1 if kind == "cosine" else 0)
    omega = (math.pi * k)[:, None]
    phase = omega * t + math.pi / 2 * (order + (1 if kind == "cosine" else 0))
    found = math.sqrt(2) * omega**order * torch.sin(phase)
    if kind == "cosine":
        found[0] = 1.0 if order == 0 else 0.0
    return found

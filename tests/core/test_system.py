"""The linear system read off the residual: symmetric, positive, its null space known, equal to hand assembly."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciops.core.boundary import Boundary
from sciops.core.cases import Cases
from sciops.core.errors import NotSPD, UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import FunctionOperator, require_tags
from sciops.core.problem import Channel, Problem
from sciops.core.stencil_operator import StencilOperator, offsets, probe_stencil
from sciops.problems.darcy import Darcy
from sciops.problems.poisson import Poisson

SPD = frozenset({"symmetric", "positive"})


def hand_darcy_1d(a: torch.Tensor, n: int, h: float, kind: str, layout: str) -> torch.Tensor:
    """−(a u′)′ in one dimension written entry by entry, rows as `Problem.system` documents them."""
    A = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in (i - 1, i + 1):
            if kind == "periodic":
                j %= n
            elif not 0 <= j < n:
                if kind == "dirichlet" and layout == "cell":
                    A[i, i] += 2 * a[i] / h**2
                continue
            face = (a[i] + a[j]) / 2 / h**2
            A[i, i] += face
            A[i, j] -= face
    if layout == "node" and kind == "dirichlet":
        A = A[1:-1, 1:-1]
    return A


@dataclass(frozen=True)
class Diffusion(Problem):
    """−∇·(a∇u) + r u = f."""

    ndim: int = 1
    kind: str = "dirichlet"
    reaction: float = 0.0
    inputs = (Channel("a"), Channel("f"))

    def __post_init__(self) -> None:
        object.__setattr__(self, "boundary", Boundary.of(self.kind, self.ndim))

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        return -d.div_flux(c.a, u) + self.reaction * u - c.f


def random_cases(problem: Problem, grid: Grid, n: int = 2, dtype: torch.dtype = torch.float64) -> Cases:
    a = torch.exp(2 * torch.randn(n, *grid.shape, dtype=torch.float64))
    values = torch.stack([a, torch.randn_like(a)], 1).to(dtype)
    return Cases(problem, grid, Field.steady(values, grid, ("a", "f")))


EVERY = [("dirichlet", "node"), ("dirichlet", "cell"), ("neumann", "node"), ("neumann", "cell")]
EVERY.append(("periodic", "periodic"))


@pytest.mark.parametrize(("kind", "layout"), EVERY)
@pytest.mark.parametrize("n", [4, 5, 9])
def test_equal_to_a_matrix_assembled_by_hand(kind: str, layout: str, n: int) -> None:
    grid = Grid.box(n, upper=1.7, layout=layout)
    cases = random_cases(Diffusion(kind=kind), grid)
    A, b = cases.problem.system(cases)
    for i in range(2):
        expected = hand_darcy_1d(cases.input("a")[i], n, grid.spacing[0], kind, layout)
        torch.testing.assert_close(torch.as_tensor(A.to_scipy(i).toarray()), expected, rtol=1e-12, atol=1e-10)
    f = cases.problem.unknowns(grid, cases.input("f"))
    if kind == "neumann" and layout == "node":
        f = f.clone()
        f[:, [0, -1]] /= 2
    torch.testing.assert_close(b, f)


@pytest.mark.parametrize(("kind", "layout"), EVERY)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_symmetric_positive_with_the_right_null_space(kind: str, layout: str, ndim: int) -> None:
    grid = Grid.box([4, 5, 6][:ndim], layout=layout)
    A, b = Diffusion(ndim=ndim, kind=kind).system(random_cases(Diffusion(ndim=ndim, kind=kind), grid))
    assert A.tags == SPD
    assert A.nullspace == (None if kind == "dirichlet" else "constant")
    assert b.shape == (2, *A.space)
    for i in range(2):
        matrix = torch.as_tensor(A.to_scipy(i).toarray())
        torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-14 * float(matrix.abs().max()))
        values = torch.linalg.eigvalsh(matrix)
        zeros = int((values.abs() < 1e-10 * values[-1]).sum())
        assert zeros == (0 if kind == "dirichlet" else 1)
        assert float(values[0]) > -1e-10 * float(values[-1])
    one = torch.ones(2, *A.space, dtype=torch.float64)
    assert (float(A.matvec(one).abs().max()) < 1e-10) == (kind != "dirichlet")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["neumann", "periodic"])
def test_a_small_reaction_is_no_null_space(kind: str, dtype: torch.dtype) -> None:
    """−Δu + u at h = 1/512: A·1 = 1 beside entries of 10⁶ is an equation, not rounding, even in float32."""
    layout = "cell" if kind == "neumann" else kind
    grid = Grid.box([512, 4], layout=layout)
    for reaction, nullspace in ((1.0, None), (0.0, "constant")):
        problem = Diffusion(ndim=2, kind=kind, reaction=reaction)
        cases = random_cases(problem, grid, 1, dtype)
        cases.inputs.values[:, :, 0] = 1.0
        assert problem.system(cases)[0].nullspace == nullspace


def test_a_huge_forcing_does_not_spoil_the_matrix() -> None:
    """A v = R(v) − R(0) cancels f: with f ≈ 10⁹ in float32 the entries must survive and stay symmetric."""
    grid, problem = Grid.box(16, ndim=2), Diffusion(ndim=2)
    cases = random_cases(problem, grid, 2, torch.float32)
    A, _ = problem.system(cases)
    cases.inputs.values[:, :, 1] *= 1e9
    B, _ = problem.system(cases)
    assert B.tags == SPD
    torch.testing.assert_close(B.stencil, A.stencil, rtol=1e-4, atol=1e-5 * float(A.stencil.abs().max()))


def test_boundary_data_reach_the_right_hand_side() -> None:
    """u = 2x + 3 solves −u″ = 0 exactly, from Dirichlet values and from fluxes."""
    for kind, layout, data in (
        ("dirichlet", "node", (3.0, 5.0)),
        ("dirichlet", "cell", (3.0, 5.0)),
        ("neumann", "node", (-2.0, 2.0)),
        ("neumann", "cell", (-2.0, 2.0)),
    ):
        grid, problem = Grid.box(8, layout=layout), Diffusion(kind=kind)
        values = torch.stack([torch.ones(8), torch.zeros(8)])[None].double()
        walls = {f"x{side}": torch.tensor([g], dtype=torch.float64) for side, g in enumerate(data)}
        cases = Cases(problem, grid, Field.steady(values, grid, ("a", "f")), {}, walls)
        u = (2 * grid.axis(0) + 3)[None]
        A, b = problem.system(cases)
        torch.testing.assert_close(A.matvec(problem.unknowns(grid, u)), b, rtol=0, atol=1e-11)
        torch.testing.assert_close(problem.embed(cases, problem.unknowns(grid, u)), u, rtol=0, atol=1e-14)
        assert float(problem.residual_on_grid(cases, u).abs().max()) < 1e-11


@pytest.mark.parametrize("problem", [Darcy(law="lognormal"), Poisson(), Poisson(condition="neumann")], ids=str)
def test_residual_is_a_v_minus_b_for_any_v(problem: Problem) -> None:
    grid = Grid.box(9, ndim=2, layout="cell")
    cases = problem.sample([1, 2, 3], grid)
    A, b = problem.system(cases)
    v = torch.randn(3, *A.space, dtype=torch.float64)
    torch.testing.assert_close(
        A.matvec(v) - b, problem.residual_on_grid(cases, problem.embed(cases, v)), rtol=1e-11, atol=1e-9
    )


def test_shared_matrix_of_a_constant_coefficient_is_stored_once() -> None:
    problem = Poisson()
    A, _ = problem.system(problem.sample(list(range(50)), Grid.box(17, ndim=2)))
    assert A.n == 50
    assert A.stencil.untyped_storage().nbytes() == 9 * 15 * 15 * 8


# ---- tags


@dataclass(frozen=True)
class Advection(Problem):
    """−Δu + β u_x = f: not symmetric."""

    beta: float = 5.0
    shift: float = 0.0
    ndim: int = 2
    inputs = (Channel("f"),)
    boundary = Boundary.of("dirichlet", 2)

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        return -d.laplacian(u) + self.beta * d.partial(u, (1, 0)) - self.shift * u - c.f


def system_of(problem: Problem, n: int = 9, layout: str = "node") -> StencilOperator:
    grid = Grid.box(n, ndim=2, layout=layout)
    cases = Cases(problem, grid, Field.steady(torch.randn(1, 1, n, n, dtype=torch.float64), grid, ("f",)))
    return problem.system(cases)[0]


@pytest.mark.parametrize("layout", ["node", "cell"])
def test_advection_is_measured_to_be_unsymmetric_and_refused_by_cg(layout: str) -> None:
    A = system_of(Advection(), layout=layout)
    assert A.tags == frozenset()
    with pytest.raises(NotSPD, match="symmetric and positive; use Minres") as caught:
        require_tags(A, SPD, "CG")
    assert "\n" not in str(caught.value)
    require_tags(A, frozenset(), "GMRES")


def test_indefinite_systems_are_symmetric_but_not_positive() -> None:
    A = system_of(Advection(beta=0.0, shift=40.0))  # above the first eigenvalue 2π² ≈ 19.7
    assert A.tags == {"symmetric"}
    with pytest.raises(NotSPD, match="known to be positive"):
        require_tags(A, SPD, "CG")
    assert system_of(Advection(beta=0.0)).tags == SPD


def test_symmetry_is_measured_on_every_case_of_the_batch() -> None:
    grid = Grid.box(6)
    problem = Diffusion()
    A, _ = problem.system(random_cases(problem, grid, 3))
    spoiled = A.stencil.clone()
    spoiled[2, 0, 2] *= 1.001
    assert StencilOperator(A.stencil, (False,)).tags == SPD
    assert StencilOperator(spoiled, (False,)).tags == frozenset()


def test_conjugate_gradients_of_the_package_refuse_the_unsymmetric_system() -> None:
    from sciops.numerics.krylov import ConjugateGradients

    solver = ConjugateGradients()
    A = system_of(Advection())
    with pytest.raises(NotSPD):
        solver.solve(solver.setup(A), torch.ones(1, *A.space, dtype=torch.float64))


# ---- stencil operators and probing


def dense(apply, n: int, space: tuple[int, ...]) -> torch.Tensor:
    """Columns A e_j, one impulse at a time: independent of colouring."""
    size = int(torch.tensor(space).prod())
    eye = torch.eye(size, dtype=torch.float64).reshape(size, *space)
    return torch.stack([apply(e.expand(n, *space)).reshape(n, size) for e in eye], dim=-1)


@given(
    st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=1, max_size=3),
    st.integers(1, 2),
    st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_probing_and_scipy_agree_with_the_dense_matrix(axes: list, n: int, seed: int) -> None:
    space = tuple(max(size, 3) if wrap else size for size, wrap in axes)
    periodic = tuple(wrap for _, wrap in axes)
    torch.manual_seed(seed)
    stencil = torch.randn(n, 3 ** len(space), *space, dtype=torch.float64)
    A = StencilOperator(stencil, periodic, tags=frozenset())
    matrix = dense(A.matvec, n, space)
    probed = StencilOperator(probe_stencil(A.matvec, n, space, periodic), periodic)
    torch.testing.assert_close(dense(probed.matvec, n, space), matrix, rtol=1e-12, atol=1e-12)
    for i in range(n):
        torch.testing.assert_close(torch.as_tensor(A.to_scipy(i).toarray()), matrix[i], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(A.diagonal()[i].flatten(), matrix[i].diagonal(), rtol=1e-12, atol=1e-12)
    measured = torch.equal(matrix, matrix.mT)
    assert ("symmetric" in probed.tags) == measured or matrix.shape[-1] == 1


@pytest.mark.parametrize("size", [3, 4, 5, 7, 8, 10, 11])
@pytest.mark.parametrize("radius", [1, 2])
def test_probing_on_periodic_axes_of_any_length(size: int, radius: int) -> None:
    if size < 2 * radius + 1:
        with pytest.raises(UsageError, match=f"at least {2 * radius + 1} points"):
            probe_stencil(lambda x: x, 1, (size,), (True,), radius)
        return
    torch.manual_seed(size)
    stencil = torch.randn(1, 2 * radius + 1, size, dtype=torch.float64)
    A = StencilOperator(stencil, (True,), tags=frozenset())
    torch.testing.assert_close(probe_stencil(A.matvec, 1, (size,), (True,), radius), stencil)


def test_a_periodic_axis_of_two_points_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 3 points"):
        probe_stencil(lambda x: x, 1, (2,), (True,))


def test_select_and_dtype_keep_what_was_measured() -> None:
    grid = Grid.box(6, layout="cell")
    problem = Diffusion(kind="neumann")
    A, _ = problem.system(random_cases(problem, grid, 3))
    part = A.select(torch.tensor([2, 0]))
    v = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(part.matvec(v[[2, 0]]), A.matvec(v)[[2, 0]])
    assert (part.tags, part.nullspace, part.n) == (A.tags, A.nullspace, 2)
    half = A.to(torch.float32)
    assert half.matvec(v.float()).dtype is torch.float32
    assert half.tags == A.tags
    assert offsets(2)[4] == (0, 0)
    assert len(offsets(3, 2)) == 125


def test_matrix_free_operators_say_what_they_lack() -> None:
    A = FunctionOperator(lambda x: 2 * x, 1, (4,), torch.float64)
    torch.testing.assert_close(A.matvec(torch.ones(1, 4)), 2 * torch.ones(1, 4))
    for ask in (A.diagonal, A.to_scipy, lambda: A.select(torch.tensor([0]))):
        with pytest.raises(UsageError):
            ask()


@pytest.mark.parametrize("condition", ["dirichlet", "neumann", "periodic"])
@pytest.mark.parametrize("layout", ["node", "cell"])
def test_spectral_system_is_solved_by_the_spectral_truth(condition: str, layout: str) -> None:
    grid = Grid.box(20, ndim=2, layout="periodic" if condition == "periodic" else layout)
    problem = Poisson(condition=condition, modes=8)
    cases = problem.sample([4, 5], grid)
    A, b = problem.spectral_system(cases)
    u = problem.reference(cases).field.values[:, 0, 0]
    residual = A.matvec(problem.unknowns(grid, u)) - b
    assert float(residual.abs().max()) < 1e-10 * float(b.abs().max())

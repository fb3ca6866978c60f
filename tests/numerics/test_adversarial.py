"""A thousand networks that are wrong in every way we could think of, and input that cannot be solved."""

import pytest
import torch
import torch.nn.functional as F
from stencils import graph_laplacian
from torch import Tensor

from sciops.core.linear import FunctionOperator, LinearSolution, Status
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.flexible_cg import Apply, FlexibleCG
from sciops.numerics.krylov import Jacobi
from sciops.numerics.reductions import inner

SIDE, TOL = 6, 1e-8
SPD = frozenset({"symmetric", "positive"})
HARMLESS = ("nan", "one nan", "zero", "inf", "orthogonal to r", "repeats", "constant inf and nan", "huge", "tiny")
"""Outputs that hold no information: the fallback alone must converge."""
KINDS = (*HARMLESS, "cnn", "biased cnn", "mlp", "orthogonal to e", "nearly orthogonal", "noise", "flips", "constant",
         "sometimes nan", "half precision", "negative inverse")  # fmt: skip


def matrices(A: StencilOperator) -> Tensor:
    """All systems of A as dense matrices."""
    return torch.stack([torch.from_numpy(A.to_scipy(i).toarray()) for i in range(A.n)])


class Adversaries:
    """One hostile map per system of the batch, each with random weights of its own."""

    def __init__(self, dense: Tensor, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.inverse, n = torch.linalg.inv(dense), len(dense)
        self.kinds = [KINDS[i % len(KINDS)] for i in range(n)]
        self.step = 0
        size = 10.0 ** torch.randint(-3, 4, (n, 1, 1), generator=self.random)
        self.kernels = [
            self._normal(4 * n, 1, 3, 3), self._normal(4 * n, 4, 3, 3), self._normal(n, 4, 3, 3)
        ]  # fmt: skip
        self.kernels[0] = self.kernels[0] * size.repeat_interleave(4, 0)[..., None]
        self.biases = [self._normal(4 * n), self._normal(4 * n), self._normal(n)]
        self.dense_layer = self._normal(n, SIDE**2, SIDE**2).double()
        self.last = torch.zeros(n, SIDE, SIDE, dtype=torch.float64)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random)

    def _cnn(self, r: Tensor, biased: bool) -> Tensor:
        n, u = len(r), r.float()[None]
        for weight, bias in zip(self.kernels, self.biases, strict=True):
            u = F.conv2d(u, weight, bias if biased else None, padding=1, groups=n)
            u = u if len(weight) == n else torch.relu(u)
        return u[0].double()

    def __call__(self, r: Tensor) -> Tensor:
        self.step += 1
        noise = torch.randn(r.shape, generator=self.random, dtype=r.dtype)
        flat = r.flatten(1)
        error = torch.bmm(self.inverse, flat[..., None])[..., 0]
        wide = (-1, 1, 1)

        def without(direction: Tensor) -> Tensor:
            share = inner(noise, direction) / inner(direction, direction).clamp(min=1e-300)
            return noise - share.reshape(wide) * direction

        dense = torch.relu(torch.bmm(self.dense_layer, flat[..., None]))[..., 0]
        tangent = without(r)
        answers = {
            "nan": r * torch.nan,
            "one nan": torch.where(torch.rand(r.shape, generator=self.random) < 0.02, torch.nan, r),
            "zero": torch.zeros_like(r),
            "inf": torch.where(noise > 0, torch.inf, r),
            "constant inf and nan": torch.where(noise > 0, torch.inf, torch.nan),
            "orthogonal to r": tangent,
            "repeats": self.last,
            "huge": 1e300 * tangent,
            "tiny": 1e-310 * tangent,
            "cnn": self._cnn(r, biased=False),
            "biased cnn": self._cnn(r, biased=True),
            "mlp": torch.bmm(self.dense_layer.transpose(1, 2), dense[..., None]).reshape(r.shape),
            "orthogonal to e": without(error.reshape(r.shape)),
            "nearly orthogonal": tangent + 3e-3 * r,
            "noise": noise,
            "flips": r * (1 if self.step % 2 else -1) * torch.sign(noise),
            "constant": torch.ones_like(r),
            "sometimes nan": noise if self.step % 3 else noise * torch.nan,
            "half precision": (1e5 * r).half().double(),
            "negative inverse": -1e9 * error.reshape(r.shape),
        }
        z = torch.empty_like(r)
        for kind in KINDS:
            rows = torch.arange(KINDS.index(kind), len(r), len(KINDS))
            z[rows] = answers[kind][rows].to(z.dtype)
        self.last = torch.nan_to_num(z)
        return z


@pytest.mark.parametrize(("window", "count"), [(2, 1000), (0, 100)])
def test_a_thousand_hostile_networks_never_pass_for_success(window: int, count: int) -> None:
    A = graph_laplacian((SIDE, SIDE), "dirichlet", 1.0, seed=window, n=count)
    dense = matrices(A)
    b = torch.randn((count, SIDE, SIDE), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    solver = FlexibleCG(Apply(Adversaries(dense, seed=window)), window=window)
    found = solver.solve(solver.setup(A), b, tol=TOL, maxiter=100)
    expected = torch.linalg.solve(dense, b.flatten(1)).reshape(b.shape)
    # Judged from outside: dense products and a dense solve.
    residual = (b.flatten(1) - torch.bmm(dense, found.x.flatten(1)[..., None])[..., 0]).norm(dim=1)
    true = residual / b.flatten(1).norm(dim=1)
    assert bool(torch.isfinite(found.x).all())
    assert torch.allclose(true, found.residual, rtol=1e-3, atol=1e-14)
    condition = torch.linalg.cond(dense)
    wrong = (found.x - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    outcomes: dict[str, list[Status]] = {}
    for i, status in enumerate(found.status):
        outcomes.setdefault(KINDS[i % len(KINDS)], []).append(status)
        if status is Status.OK:
            assert float(true[i]) <= TOL * (1 + 1e-6)
            assert float(wrong[i]) <= float(condition[i]) * TOL
        else:
            assert status is Status.MAX_ITER
            assert "maxiter" in found.stats["advice"][i]
    energy = 0.5 * inner(found.x, A.matvec(found.x)) - inner(b, found.x)
    assert bool((energy < 0).all())
    assert set(outcomes["negative inverse"]) == {Status.OK}
    if window:
        for kind in HARMLESS:
            assert set(outcomes[kind]) == {Status.OK}, kind
        assert sum(status is Status.OK for status in found.status) > 0.6 * count


def test_one_bad_network_leaves_its_neighbours_alone() -> None:
    A = graph_laplacian((SIDE, SIDE), "dirichlet", 0.5, seed=5, n=6)
    b = torch.randn((6, SIDE, SIDE), generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def solve(poison: float) -> LinearSolution:
        def f(r: Tensor) -> Tensor:
            z = r / A.diagonal()
            z[4] *= poison
            return z

        solver = FlexibleCG(Apply(f))
        return solver.solve(solver.setup(A), b, tol=TOL)

    clean = solve(1.0)
    for poison in (torch.nan, torch.inf, 0.0, -1e200):
        dirty = solve(poison)
        assert dirty.status == [Status.OK] * 6
        rows = torch.tensor([0, 1, 2, 3, 5])
        assert torch.equal(dirty.x[rows], clean.x[rows])


# ---- input that cannot be solved, or not as asked


def run(A: StencilOperator | FunctionOperator, b: Tensor, **options: float) -> LinearSolution:
    solver = FlexibleCG(Jacobi())
    return solver.solve(solver.setup(A), b, **options)  # type: ignore[arg-type]


def test_an_indefinite_matrix_that_claims_to_be_positive() -> None:
    laplacian = graph_laplacian((12, 12), "dirichlet", 0.3, seed=0, n=2)
    stencil = laplacian.stencil.clone()
    stencil[1, 4] -= 0.8  # the second system alone
    A = StencilOperator(stencil, (False, False), SPD)
    found = run(A, torch.randn((2, 12, 12), generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    assert found.status == [Status.OK, Status.DIVERGED]
    assert "not positive definite" in found.stats["advice"][1]
    assert "Minres" in found.stats["advice"][1]
    assert found.stats["advice"][0] == ""


def test_an_unsymmetric_matrix_that_claims_to_be_symmetric() -> None:
    stencil = graph_laplacian((12, 12), "dirichlet", 0.3, seed=0, n=2).stencil.clone()
    stencil[0, 5] *= 1.3
    A = StencilOperator(stencil, (False, False), SPD)
    found = run(A, torch.randn((2, 12, 12), generator=torch.Generator().manual_seed(4), dtype=torch.float64))
    assert found.status == [Status.DIVERGED, Status.OK]
    assert "not symmetric" in found.stats["advice"][0]
    assert "FGMRES" in found.stats["advice"][0]


def test_an_undeclared_null_space() -> None:
    stencil = graph_laplacian((10, 10), "neumann", 0.3, seed=0, n=1).stencil
    b = torch.randn((1, 10, 10), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    silent = StencilOperator(stencil, (False, False), SPD)
    found = run(silent, b)
    assert found.status in ([Status.DIVERGED], [Status.MAX_ITER])
    assert float(found.residual) > 1e-3
    declared = StencilOperator(stencil, (False, False), SPD, nullspace="constant")
    found = run(declared, b)
    assert found.status == [Status.OK]
    assert float(found.stats["projected"]) > 1e-3


def test_an_empty_row_is_left_out_and_noted() -> None:
    stencil = graph_laplacian((10, 10), "dirichlet", 0.3, seed=0, n=1).stencil.clone()
    for k, (i, j) in enumerate((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
        stencil[0, k, 4, 4] = 0.0
        if (i, j) != (0, 0):
            stencil[0, 8 - k, 4 + i, 4 + j] = 0.0  # the other half of the same link
    b = torch.ones((1, 10, 10), dtype=torch.float64)
    found = run(StencilOperator(stencil, (False, False), SPD), b)
    assert found.status == [Status.OK]
    assert float(found.x[0, 4, 4]) == 0.0
    assert float(found.stats["projected"]) == pytest.approx(0.1)  # one of a hundred equal entries of b


def test_nan_in_one_right_hand_side() -> None:
    A = graph_laplacian((10, 10), "dirichlet", 0.3, seed=0, n=3)
    b = torch.ones((3, 10, 10), dtype=torch.float64)
    b[1, 2, 2] = torch.nan
    found = run(A, b)
    assert found.status == [Status.OK, Status.NONFINITE, Status.OK]
    assert bool(torch.isnan(found.x[1]).all())
    assert bool(torch.isfinite(found.x[[0, 2]]).all())
    assert "right-hand side" in found.stats["advice"][1]
    clean = run(A, torch.ones((3, 10, 10), dtype=torch.float64))
    assert torch.equal(found.x[0], clean.x[0])


def test_nan_in_the_matrix() -> None:
    stencil = graph_laplacian((10, 10), "dirichlet", 0.3, seed=0, n=2).stencil.clone()
    stencil[0, 4, 3, 3] = torch.nan
    found = run(StencilOperator(stencil, (False, False), SPD), torch.ones((2, 10, 10), dtype=torch.float64))
    assert found.status == [Status.NONFINITE, Status.OK]
    assert "operator itself" in found.stats["advice"][0]


@pytest.mark.parametrize("tol", [1e-17, 0.0])
def test_a_tolerance_below_rounding_ends_early_and_says_why(tol: float) -> None:
    A = graph_laplacian((16, 16), "dirichlet", 0.5, seed=0, n=2)
    b = torch.randn((2, 16, 16), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    found = run(A, b, tol=tol, maxiter=5000)
    assert found.status == [Status.MAX_ITER] * 2
    assert int(found.iterations.max()) < 500
    assert float(found.residual.max()) < 1e-13
    assert all("rounding" in advice for advice in found.stats["advice"])
    single = run(StencilOperator(A.stencil.float(), A.periodic, SPD), b.float(), tol=1e-9, maxiter=5000)
    assert single.status == [Status.MAX_ITER] * 2
    assert float(single.residual.max()) < 1e-4
    assert all("rounding" in advice for advice in single.stats["advice"])

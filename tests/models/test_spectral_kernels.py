"""Spectral kernels: closed-form derivatives, covariances of derivatives, limits, and use in GPyTorch."""

import math
import warnings

import gpytorch
import pytest
import torch

from sciops.core.errors import UsageError
from sciops.models.spectral_kernels import SpectralKernel, WithDerivative, product_kernel
from sciops.numerics.spectral_covariance import FAMILIES, covariance, grid_lags, smooth_covariance, toeplitz

F64 = torch.float64


def random_kernel(family: str, components: int = 4, seed: int = 0) -> SpectralKernel:
    kernel = SpectralKernel(family, components).double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        kernel.log_weight.copy_(torch.randn(components, generator=random, dtype=F64))
        kernel.s.copy_(0.3 * torch.randn(components, generator=random, dtype=F64))
        kernel.mu.copy_(3 * torch.rand(components, generator=random, dtype=F64))
    return kernel


def written_out(family: str, d: torch.Tensor, kernel: SpectralKernel) -> torch.Tensor:
    """k(d) for d > 0 as in a textbook, without |·|."""
    s, d = kernel.s[:, None], d[None]
    if family in ("student_t", "matern"):
        z = math.sqrt(5) * s.exp() * d
        envelope = (1 + z + z**2 / 3) * (-z).exp()
    else:
        envelope = (-s.exp() * d**2).exp()
    wave = torch.cos(2 * math.pi * kernel.mu[:, None] * d) if family in ("student_t", "gaussian") else 1.0
    return (kernel.log_weight.exp()[:, None] * envelope * wave).sum(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_closed_forms_are_the_derivatives_of_the_kernel(family: str) -> None:
    kernel = random_kernel(family)
    d = torch.linspace(0.05, 2.0, 40, dtype=F64, requires_grad=True)
    value = written_out(family, d, kernel)
    for order in range(5):
        closed = kernel.derivative(d.detach(), order).detach()
        assert torch.allclose(value, closed, rtol=1e-10, atol=1e-12 * float(closed.abs().max()))
        mirrored = kernel.derivative(-d.detach(), order)
        assert torch.equal(mirrored, -closed if order % 2 else closed)
        (value,) = torch.autograd.grad(value.sum(), d, create_graph=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_diagonal_is_right(family: str) -> None:
    """At d = 0 central differences of one order less; k‴ of Matérn-5/2 has a kink there, of size h."""
    kernel, zero, h = random_kernel(family), torch.zeros(1, dtype=F64), 1e-5
    top = float(kernel.derivative(zero, 4).abs())
    for order in range(1, 5):
        differences = (kernel.derivative(zero + h, order - 1) - kernel.derivative(zero - h, order - 1)) / (2 * h)
        closed = kernel.derivative(zero, order)
        assert float((differences - closed).abs()) < 10 * h * max(top, 1.0) * (20 if order == 4 else 1)
    if family == "student_t":
        w, rho, mu = kernel.log_weight.exp(), kernel.s.exp(), kernel.mu
        expected = -(w * (5 * rho**2 / 3 + 4 * math.pi**2 * mu**2)).sum()
        assert torch.allclose(kernel.derivative(zero, 2)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_autograd_of_the_kernel_matrix_agrees_with_the_closed_forms(family: str) -> None:
    """Twice in x through `forward`, diagonal included: where |x − x′| under autograd would give zero."""
    kernel = random_kernel(family)
    x = torch.linspace(0, 1, 6, dtype=F64)[:, None].requires_grad_(True)
    other = x.detach().clone()
    rows = []
    for j in range(6):
        (slope,) = torch.autograd.grad(kernel(x, other).to_dense()[:, j].sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x)
        rows.append(bend[:, 0])
    lag = other[:, 0][:, None] - other[:, 0]
    assert torch.allclose(torch.stack(rows, 1), kernel.derivative(lag, 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("order", [1, 2])
def test_covariances_are_positive_semidefinite(family: str, order: int) -> None:
    kernel = random_kernel(family, seed=3)
    x = torch.linspace(0, 2, 25, dtype=F64)[:, None]
    for matrix in (kernel(x).to_dense(), WithDerivative(kernel, order)(x).to_dense()):
        scale = matrix.diagonal().sqrt()
        correlation = matrix / scale / scale[:, None]
        assert torch.allclose(correlation, correlation.T, atol=1e-12)
        assert float(torch.linalg.eigvalsh(correlation)[0]) > -1e-12


def test_joint_covariance_has_the_right_blocks() -> None:
    """cov(u, u″) = k″ with a plus, cov(u′, u′) = −k″, cov(u, u′) = −k′ in the second argument."""
    kernel, x = random_kernel("student_t"), torch.tensor([[0.0], [0.3], [0.7]], dtype=F64)
    lag = x - x.T
    for order, sign in ((1, -1.0), (2, 1.0)):
        joint = WithDerivative(kernel, order)(x).to_dense()
        assert torch.allclose(joint[0::2, 0::2], kernel.derivative(lag, 0))
        assert torch.allclose(joint[1::2, 0::2], kernel.derivative(lag, order))
        assert torch.allclose(joint[0::2, 1::2], sign * kernel.derivative(lag, order))
        assert torch.allclose(joint[1::2, 1::2], sign * kernel.derivative(lag, 2 * order))
        diagonal = WithDerivative(kernel, order)(x, diag=True)
        assert torch.allclose(diagonal, joint.diagonal())


def test_limits() -> None:
    lag = torch.linspace(-1, 1, 31, dtype=F64)
    one, zero = torch.zeros(1, dtype=F64), torch.zeros(1, dtype=F64)
    x = lag[:, None]
    plain = gpytorch.kernels.MaternKernel(nu=2.5).double()
    plain.lengthscale = 1.0
    expected = plain(x, x[:1]).to_dense()[:, 0].detach()
    assert torch.allclose(covariance("student_t", lag - lag[0], (0,), one, one, zero)[0], expected, atol=1e-12)
    square = gpytorch.kernels.RBFKernel().double()
    square.lengthscale = 1.0
    expected = square(x, x[:1]).to_dense()[:, 0].detach()
    half = torch.full((1,), math.log(0.5), dtype=F64)
    assert torch.allclose(covariance("se", lag - lag[0], (0,), one, half, zero)[0], expected, atol=1e-12)
    # Infinitely long envelopes: two features per component.
    mu = torch.tensor([1.0, 2.5, 4.0], dtype=F64)
    for family in ("student_t", "gaussian"):
        (k,) = covariance(family, grid_lags(40, 0.03, lag), (0,), torch.zeros(3, dtype=F64), mu * 0 - 25.0, mu)
        values = torch.linalg.eigvalsh(toeplitz(k))
        assert int((values > 1e-8 * values[-1]).sum()) == 6


def test_taylor_series_at_small_lags() -> None:
    """k(d) = k(0) + k″(0) d²/2 + k⁗(0) d⁴/24 + O(|d|⁵), the sixth order large beside it for waves."""
    kernel, zero = random_kernel("student_t"), torch.zeros(1, dtype=F64)
    k0, k2, k4 = (float(kernel.derivative(zero, m)) for m in (0, 2, 4))
    gaps = []
    for d in (1e-2, 2e-2):
        series = k0 + k2 * d**2 / 2 + k4 * d**4 / 24
        gaps.append(abs(float(kernel.derivative(zero + d, 0)) - series))
    assert 4.5 < math.log2(gaps[1] / gaps[0]) < 6.5


def test_gaussian_family_is_gpytorchs_spectral_mixture() -> None:
    """exp(−2π²τ²σ²)cos 2πτμ with p = 2π²σ²."""
    theirs = gpytorch.kernels.SpectralMixtureKernel(num_mixtures=2).double()
    ours = SpectralKernel("gaussian", 2).double()
    weights, means, scales = (torch.tensor(v, dtype=F64) for v in ([0.7, 1.3], [0.8, 2.0], [0.3, 0.1]))
    theirs.mixture_weights, theirs.mixture_means = weights, means[:, None, None]
    theirs.mixture_scales = scales[:, None, None]
    with torch.no_grad():
        ours.log_weight.copy_(weights.log())
        ours.mu.copy_(means)
        ours.s.copy_((2 * math.pi**2 * scales**2).log())
    x = torch.linspace(0, 3, 17, dtype=F64)[:, None]
    assert torch.allclose(ours(x).to_dense(), theirs(x).to_dense(), atol=1e-12)


def test_an_exact_gp_learns_a_frequency() -> None:
    class Model(gpytorch.models.ExactGP):
        def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
            super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood().double())
            self.mean_module = gpytorch.means.ZeroMean()
            self.covar_module = SpectralKernel("student_t", 6, max_frequency=5.0).double()

        def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    x = torch.linspace(0, 2, 60, dtype=F64)[:, None]
    y = torch.sin(2 * math.pi * 3.0 * x[:, 0])
    model = Model(x, y)
    model.likelihood.noise = 1e-4
    evidence = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = float(evidence(model(x), y).detach())
        for _ in range(60):
            adam.zero_grad()
            loss = -evidence(model(x), y)
            loss.backward()
            adam.step()
        model.eval()
        fresh = torch.linspace(0.05, 2.5, 50, dtype=F64)[:, None]
        answer = model(fresh)
        mean, variance = answer.mean.detach(), answer.variance.detach()
    assert -float(loss.detach()) > first + 0.5
    inside = fresh[:, 0] < 2
    truth = torch.sin(2 * math.pi * 3.0 * fresh[:, 0])
    assert float((mean - truth)[inside].abs().max()) < 0.05
    assert bool((variance >= 0).all()) and float(variance[-1]) > 4 * float(variance[inside].max())


def test_products_over_axes_are_kronecker_products() -> None:
    a, b = random_kernel("student_t", 3, 1), random_kernel("gaussian", 2, 2)
    x, y = torch.linspace(0, 1, 4, dtype=F64), torch.linspace(0, 2, 5, dtype=F64)
    points = torch.cartesian_prod(x, y)
    whole = product_kernel(a, b)(points).to_dense()
    parts = torch.kron(a.derivative(x[:, None] - x, 0), b.derivative(y[:, None] - y, 0))
    assert torch.allclose(whole, parts, atol=1e-12)


def test_batches_of_parameters_and_toeplitz() -> None:
    kernel = SpectralKernel("student_t", 3, 2.0, batch_shape=torch.Size([2])).double()
    with torch.no_grad():
        kernel.s[1] += 0.5
    x = torch.linspace(0, 1, 7, dtype=F64)[:, None]
    both = kernel(x.expand(2, 7, 1)).to_dense()
    lag = x - x.T
    assert torch.allclose(both, kernel.derivative(lag, 0), atol=1e-13)
    parameters = (kernel.log_weight, kernel.s, kernel.mu)
    for order in range(5):
        (k,) = covariance("student_t", grid_lags(7, 1 / 6, x), (order,), *parameters)
        exact = kernel.derivative(lag, order)
        assert torch.allclose(toeplitz(k, order), exact, atol=1e-12 * float(exact.detach().abs().max()))


def test_parameters_have_gradients_through_the_smooth_form() -> None:
    parameters = [torch.tensor([0.1, -0.2], dtype=F64, requires_grad=True) for _ in range(3)]
    lag = torch.tensor([0.0, 0.2], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *p: covariance("student_t", lag.detach(), (0, 1, 2, 3, 4), *p), tuple(parameters)
    )
    smooth = smooth_covariance("student_t", lag, 2, *parameters)
    (slope,) = torch.autograd.grad(smooth.sum(), lag)
    (closed,) = covariance("student_t", lag.detach(), (3,), *parameters)
    assert torch.allclose(slope, closed)


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="family must be one of"):
        SpectralKernel("matern52")
    with pytest.raises(UsageError, match="order 0 to 4"):
        SpectralKernel().derivative(torch.zeros(1), 5)
    with pytest.raises(UsageError, match="kernel of one axis"):
        SpectralKernel()(torch.zeros(3, 2)).to_dense()
    with pytest.raises(UsageError, match="orders 1 and 2"):
        WithDerivative(SpectralKernel(), 3)

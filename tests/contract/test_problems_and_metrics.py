"""Every problem and every metric keeps the contract: a new one gets it by being listed (metrics: in the catalogue)."""

import pytest
import torch

from sciops.compare.check import check_metric, check_problem
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.problem import DataOnly, Problem
from sciops.metrics.base import evaluate
from sciops.metrics.catalogue import CATALOGUE
from sciops.problems.advection import Advection
from sciops.problems.allen_cahn import AllenCahn
from sciops.problems.boundary_layer import BoundaryLayer
from sciops.problems.cubic import Cubic
from sciops.problems.darcy import Darcy
from sciops.problems.heat_conduction import HeatConduction
from sciops.problems.helmholtz import Helmholtz
from sciops.problems.helmholtz_absorbing import MEDIA, HelmholtzAbsorbing
from sciops.problems.helmholtz_neumann import HelmholtzNeumann
from sciops.problems.high_contrast import FAMILIES, HighContrast
from sciops.problems.homogenisation import Homogenisation
from sciops.problems.minimal_surface import MinimalSurface
from sciops.problems.navier_stokes import NavierStokes
from sciops.problems.p_laplace import PLaplace
from sciops.problems.poisson import Poisson
from sciops.problems.poisson_boltzmann import PoissonBoltzmann
from sciops.problems.pressure import Pressure
from sciops.problems.scenes import PARAMETERS
from sciops.problems.wave import Wave

PROBLEMS = [
    *(Poisson(ndim=d, condition=c, modes=8) for d in (1, 2, 3) for c in ("dirichlet", "neumann", "periodic")),
    Poisson(exact_solution="sin(a*x)*exp(b*y)", parameters={"a": [1, 3], "b": [0, 1]}),
    Poisson(ndim=1, condition="neumann", exact_solution="cos(a*x)", parameters={"a": [1, 3]}),
    Darcy(),
    Darcy(low=2.0, tau=5.0),
    Darcy(law="lognormal"),
    Darcy(law="lognormal", ndim=1),
    Darcy(law="trigonometric"),
    DataOnly(),
    *(Pressure(ndim=d, scene=s) for d in (2, 3) for s in PARAMETERS if s != "voxels"),
    Pressure(scene="box", parameters={"walls": "solid"}),
    Pressure(scene="free_surface", fractional=True, ghost_fluid=True, contrast=100.0),
    *(AllenCahn(ndim=d, exact_solution="sin(a*x)*exp(x)", parameters={"a": [1, 3]}) for d in (1, 2, 3)),
    AllenCahn(ndim=3, exact_solution="sin(a*x)*exp(y*z)", parameters={"a": [1, 3]}),
    Advection(exact_solution="sin(a*x - beta*y)", parameters={"a": [1, 3]}, beta=2.0),
    Advection(exact_solution="sin(x - beta*y) + exp(x)", parameters={"beta": [1, 3]}),
    *(Helmholtz(ndim=d, parameters={"wavenumber": [1, 4]}) for d in (1, 2, 3)),
    Helmholtz(ndim=2, exact_solution="cos(a*x + wavenumber*y)", wavenumber=2.0, parameters={"a": [1, 3]}),
    HelmholtzNeumann(),
    HelmholtzNeumann(omega=100.0, truth="resolved"),
    *(HelmholtzAbsorbing(wavenumber=5.0, medium=medium) for medium in MEDIA),
    Homogenisation(contrast=0.5, parameters={"eps": [0.4, 0.6]}),
    Homogenisation(eps=0.5, parameters={"contrast": [-0.5, 0.5]}),
    BoundaryLayer(parameters={"eps": [0.01, 0.02]}),
    *(HighContrast(family=f) for f in FAMILIES),
    # In 3-D one family by default: the others differ in the coefficient alone and cost seconds each.
    HighContrast(ndim=3, family="inclusions"),
    *(pytest.param(HighContrast(ndim=3, family=f), marks=pytest.mark.slow) for f in FAMILIES if f != "inclusions"),
    Cubic(exact_solution="a*sin(pi*x)*y", parameters={"a": [1, 2]}),
    PoissonBoltzmann(ndim=1, exact_solution="a*sin(pi*x)", parameters={"a": [1, 2]}),
    MinimalSurface(exact_solution="a*x**2*y + x", parameters={"a": [1, 2]}),
    PLaplace(eps=0.1, parameters={"eps": [0.2, 0.3]}),
    NavierStokes(viscosity=1e-3, frames=2, every=0.25),
    NavierStokes(viscosity=0.01, forcing=0.0, frames=2, every=0.25, scheme="crank_nicolson"),
    HeatConduction(warmup=1),
    Wave(source="pulse", sides={"x1": "absorbing"}, damping=0.5),
    Wave(layers=3, scheme="fem", density=2.0, frames=8),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_problems(problem: Problem) -> None:
    assert not [f"{r.name}: {r.message}" for r in check_problem(problem) if not r.passed]


@pytest.mark.parametrize("name", CATALOGUE)
def test_metrics(name: str) -> None:
    results = check_metric(CATALOGUE[name])
    assert not [f"{r.name}: {r.message}" for r in results if not r.passed]


def zero_at_the_truth() -> list[str]:
    """Metrics that compare two fields and nothing else, smaller being better."""
    other = ("residual", "boundary", "drift", "band_share", "corr_time")
    return [
        name
        for name, metric in CATALOGUE.items()
        if metric.lower_is_better and not metric.needs_std and not name.startswith(other)
    ]


@pytest.mark.parametrize("name", zero_at_the_truth())
def test_equal_fields_have_no_error(name: str) -> None:
    grid, times = Grid.box(32, ndim=2, layout="periodic"), tuple(0.1 * k for k in range(32))
    truth = Field(torch.randn(4, 32, 1, 32, 32, dtype=torch.float64), grid, ("u",), times)
    metric = CATALOGUE[name]
    if metric.applies(truth):  # steady metrics
        truth = Field(truth.values[:, :1], grid, ("u",))
    assert metric.applies(truth) is None
    assert evaluate(metric, truth, truth) == pytest.approx(0.0, abs=1e-12)


def test_most_metrics_compare_fields() -> None:
    assert len(zero_at_the_truth()) > 0.6 * len(CATALOGUE)

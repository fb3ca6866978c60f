"""Compiled artefacts against the Python models that they were made of."""

import shutil
import threading
from pathlib import Path

import artefact_makers
import numpy as np
import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.stencil_operator import StencilOperator
from sciops.embed.artifact import Artifact
from sciops.embed.check import rough_matrix
from sciops.embed.levels import stencil_from_faces
from sciops.embed.manifest import read_manifest
from sciops.embed.programs import in_precision
from sciops.numerics.differentiable_multigrid import DifferentiableMultigrid

pytestmark = pytest.mark.embed


@pytest.mark.parametrize("precision", [32, 64])
@pytest.mark.parametrize("shape", [(33, 33), (17, 41), (65, 33)], ids=str)
def test_operators_answer_as_the_python_model_at_several_sizes(operator_2d, shape, precision):
    artifact = Artifact.load(operator_2d, precision)
    module = in_precision(artefact_makers.poisson_solver().module, artifact.dtype)
    x = torch.randn((1, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = module(x[None].to(artifact.dtype))[0].double()
    found = artifact.solve(x.numpy())
    assert found.dtype == np.float64 and found.shape == (1, *shape)
    tolerance = 1e-4 if precision == 32 else 1e-12
    assert float((torch.from_numpy(found) - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


def test_the_manifest_of_an_operator_holds_its_training_range(operator_2d):
    channel = read_manifest(operator_2d).inputs[0]
    assert channel["name"] == "f" and channel["lower"] < 0 < channel["upper"]
    artifact = Artifact.load(operator_2d)
    assert artifact.outside(np.full((1, 33, 33), 2 * channel["upper"]))[1] == "f"
    with pytest.raises(UsageError):
        artifact.solve(np.zeros((1, 34, 33)))


def test_steps_feed_themselves_as_the_rollout_does(stepper_2d):
    artifact, solver = Artifact.load(stepper_2d), artefact_makers.stepper()
    assert artifact.manifest.step == {"dt": 0.5, "history": 1, "block": 1}
    assert [c["name"] for c in artifact.manifest.inputs] == ["u", "a"]
    module = solver.module
    generator = torch.Generator().manual_seed(1)
    u, a = torch.rand((1, 32, 32), generator=generator), torch.full((1, 32, 32), 0.004)
    with torch.no_grad():
        wanted = module.roll(u[None, None], a[None], torch.zeros(1), 3)[0, :, 0]
    now, found = u, []
    for _ in range(3):
        now = artifact.solve(torch.cat([now, a]))
        found.append(now[0])
    assert float((torch.stack(found) - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())


@pytest.mark.parametrize("shape", [(33, 40), (23, 17), (130, 1)], ids=str)
def test_the_compiled_cycle_is_the_one_of_python(multigrid_2d, shape):
    matrix = rough_matrix(shape, seed=3)
    A = StencilOperator(stencil_from_faces(matrix), (False, False), frozenset({"symmetric", "positive"}))
    r = torch.where(matrix[0] > 0, torch.randn(shape, generator=torch.Generator().manual_seed(0)).double(), 0.0)
    wanted = DifferentiableMultigrid(artefact_makers.adviser(2), 1).setup(A)(r[None])[0]
    found = Artifact.load(multigrid_2d).preconditioner(matrix)(r)
    # float32 cycle against float64, on a matrix of condition 1e5
    assert float((found - wanted).norm() / wanted.norm()) < 2e-2


def test_a_float32_cycle_carries_a_float64_iteration_to_the_end(multigrid_2d):
    matrix = rough_matrix((90, 70), seed=4)
    A = StencilOperator(stencil_from_faces(matrix), (False, False), frozenset({"symmetric", "positive"}))
    active = matrix[0] > 0
    b = torch.where(active, torch.ones_like(matrix[0]), 0.0)

    def steps(apply) -> int:
        """Conjugate gradients to 1e-10."""
        x, r = torch.zeros_like(b), b.clone()
        p, rz, count = None, None, 0
        while float(r.norm() / b.norm()) > 1e-10 and count < 150:
            z = apply(r)
            new = float((r * z).sum())
            p = z if p is None else z + new / rz * p
            q = A.matvec(p[None])[0]
            alpha = new / float((p * q).sum())
            x, r, rz, count = x + alpha * p, r - alpha * q, new, count + 1
        assert float((b - A.matvec(x[None])[0]).norm() / b.norm()) < 1e-9
        return count

    double = DifferentiableMultigrid(artefact_makers.adviser(2), 1).setup(A)
    # Coefficients with large jumps, and holes: many steps for either, and rounding of the cycle adds hardly any.
    assert steps(Artifact.load(multigrid_2d).preconditioner(A)) <= 1.1 * steps(lambda r: double(r[None])[0])


def test_multigrid_in_three_dimensions_is_symmetric_and_positive(multigrid_3d):
    apply = Artifact.load(multigrid_3d).preconditioner(rough_matrix((12, 9, 15), seed=0))
    r = torch.randn((5, 12, 9, 15), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = torch.stack([apply(x) for x in r]).flatten(1)
    gram = r.flatten(1) @ z.T
    assert float((gram - gram.T).abs().max() / gram.abs().max()) < 1e-4
    assert float(torch.linalg.eigvalsh(0.5 * (gram + gram.T)).min()) > 0


def test_directions_are_those_of_the_network(direction_2d):
    artifact = Artifact.load(direction_2d)
    net = artefact_makers.direction().programs(torch.float32)[0].module.net
    matrix = rough_matrix((25, 18), seed=1)
    active = matrix[0] > 0
    r = torch.where(active, torch.randn((25, 18), generator=torch.Generator().manual_seed(2)).double(), 0.0)
    with torch.no_grad():
        wanted = net(r.float()[None, None], active[None])[0, 0].double()
    found = artifact.preconditioner(matrix)(r)
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    assert bool((found[~active] == 0).all()) and not artifact.manifest.linear


def test_threads_may_share_an_artefact(operator_2d):
    artifact, x = Artifact.load(operator_2d), np.ones((1, 33, 33))
    wanted, found = artifact.solve(x), []
    threads = [threading.Thread(target=lambda: found.append(artifact.solve(x))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(np.array_equal(y, wanted) for y in found)


def test_recompiling_gives_the_same_answers_in_place(direction_2d, tmp_path):
    from sciops.cli import main

    copy = tmp_path / "copy.sciops"
    shutil.copytree(direction_2d, copy)
    (copy / "model.float32.pt2").write_bytes(b"for another torch")
    assert main(["recompile", str(copy)]) == 0
    matrix, r = rough_matrix((20, 21), seed=0), np.random.default_rng(0).standard_normal((20, 21))
    first, second = (Artifact.load(path).preconditioner(matrix)(r) for path in (direction_2d, copy))
    assert np.allclose(first, second, rtol=1e-5, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [Path(copy).name]


def test_fourier_layers_compile_at_the_training_size(tmp_path):
    from sciops.embed.export import export
    from sciops.embed.sources import find_source

    net = {"class_path": "sciops.models.fno.FNO", "init_args": {"width": 8, "layers": 1, "n_modes": 4, "padding": 2}}
    solver = artefact_makers.poisson_solver(net, cases=8)
    solver.save(tmp_path / "run")
    manifest = export(tmp_path / "run", tmp_path / "fno.sciops", (32, 64))
    assert manifest.precisions == [32] and any("float64" in text for text in manifest.remarks)
    assert find_source(tmp_path / "run").manifest.kind == "operator"
    x = torch.randn((1, 33, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = solver.module(x[None])[0]
    found = Artifact.load(tmp_path / "fno.sciops").solve(x)
    assert float((found - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())


def test_converted_networks_compile_for_one_grid_finer_than_that_of_training(tmp_path):
    from sciops.embed.export import export
    from sciops.solvers.converted import Converted

    solver = Converted(artefact_makers.poisson_solver(cases=8), "point")
    solver.save(tmp_path / "run")
    export(tmp_path / "run", tmp_path / "fine.sciops", (32,), convert="point", shape=(65, 65))
    artifact = Artifact.load(tmp_path / "fine.sciops")
    assert artifact.manifest.grid["shape"] == [65, 65] and "33×33" in artifact.manifest.remarks[0]
    x = torch.randn((1, 65, 65), generator=torch.Generator().manual_seed(0))
    module = solver.source.module
    with torch.no_grad():
        wanted = module.decoder.decode(solver.operator(module.encoder.encode(x[None])))[0]
    inside = (slice(None), slice(1, -1), slice(1, -1))
    found = artifact.solve(x)
    assert float((found - wanted)[inside].abs().max()) < 1e-4 * float(wanted.abs().max())
    with pytest.raises(UsageError):
        artifact.solve(np.zeros((1, 33, 33)))

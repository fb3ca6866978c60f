"""The exported models that tests of the embeddings share: small, made in one call, the same on every machine."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sciops.core.grid import Grid
from sciops.embed.export import export_source
from sciops.embed.sources import Source, direction_source, multigrid_source, solver_source

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = ["sciops/embed/*.py", "tests/embed/artefact_makers.py"]
HOST = {"artifact", "build", "check", "levels", "onnx", "openfoam_build", "openfoam_cases", "petsc", "petsc_build",
        "preconditioning", "recompile", "scipy", "grid_matrix", "verbs"}  # fmt: skip
"""Files of sciops/embed that change nothing in an artefact."""
CYCLE = ["multigrid_programs", "table_programs", "interpolation_program", "coarse_program"]
SOLVERS = [f"sciops/solvers/{name}*.py" for name in ("operator", "rollout", "training", "checkpoint")]
SOLVERS += ["sciops/data/normalise.py", "sciops/models/unet.py", "sciops/models/boundary.py", "sciops/models/vcycle.py"]
METHOD = [f"sciops/numerics/{name}.py" for name in ("differentiable_*", "galerkin", "parity_layout")]
DEPENDS: dict[str, tuple[list[str], list[str]]] = {
    "multigrid": (["programs", "shapes"], [*METHOD, "sciops/models/learned_multigrid.py"]),
    "direction": ([*CYCLE, "shapes"], ["sciops/models/dcdm.py", "sciops/models/vcycle.py"]),
    "operator": (CYCLE, [*SOLVERS, "sciops/problems/poisson.py", "sciops/numerics/random_fields.py"]),
    "stepper": (CYCLE, [*SOLVERS, "sciops/data/trajectories.py", "tests/heat_problem.py"]),
}
"""Kind → files of sciops/embed that it does not use, and files elsewhere that it does."""


def key(name: str) -> str:
    """Names the state of everything that an artefact is made of."""
    unused, elsewhere = DEPENDS[name.partition("_")[0]]
    digest = hashlib.sha256(torch.__version__.encode())
    for pattern in (*PIPELINE, *elsewhere):
        for path in sorted(ROOT.glob(pattern)):
            if path.parent.name != "embed" or path.stem not in {*HOST, *unused}:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def alone(folder: Path, wait: bool = True) -> Iterator[bool]:
    """One process at a time makes what goes into `folder`; whether it is this one, as it always is after a `wait`."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        mine = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            mine = False
        yield mine


def poisson_solver(net: dict | None = None, cases: int = 12):
    """An operator network after one epoch on a few Poisson problems on 33² nodes."""
    from sciops.core.dataset import MemoryDataset
    from sciops.core.field import Field
    from sciops.problems.poisson import Poisson
    from sciops.solvers.operator import OperatorSolver

    problem = Poisson(ndim=2, condition="dirichlet", modes=8)
    grid = Grid((33, 33), (0.0, 0.0), (1.0, 1.0), ("node", "node"))

    def data(start: int, stop: int) -> MemoryDataset:
        made = problem.sample(list(range(start, stop)), grid, dtype=torch.float32)
        f = made.inputs.values[:, 0]
        # A stand-in for the solution that vanishes on the boundary: what is learnt does not matter here.
        x, y = grid.mesh()
        u = f[:, :1] * (torch.sin(torch.pi * x) * torch.sin(torch.pi * y)).float() * 0.05
        return MemoryDataset(made, Field.steady(u, grid, ("u",)))

    net = net or {"class_path": "sciops.models.unet.UNet", "init_args": {"width": 4, "levels": 2}}
    solver = OperatorSolver(net, epochs=1, batch_size=4, device="cpu", normalise_input="channel")
    solver.fit(data(0, cases), data(cases, cases + 4))
    return solver


def stepper():
    """A one-step operator of the heat equation on the torus: inputs u and a, output u half a unit of time later."""
    sys.path.insert(0, str(ROOT / "tests"))
    from heat_problem import Heat

    from sciops.core.dataset import MemoryDataset
    from sciops.solvers.rollout import Rollout

    problem, grid = Heat(dim=2, frames=5), Grid((32, 32), (0.0, 0.0), (1.0, 1.0), ("periodic", "periodic"))

    def data(start: int, stop: int) -> MemoryDataset:
        cases = problem.sample(range(start, stop), grid, dtype=torch.float32)
        return MemoryDataset(cases, problem.reference(cases).field)

    net = {"class_path": "sciops.models.unet.UNet", "init_args": {"width": 4, "levels": 2, "groups": 2}}
    solver = Rollout(net, epochs=4, lr=5e-3, batch_size=8, residual=True, device="cpu")
    solver.fit(data(0, 8), data(8, 10))
    return solver


def adviser(ndim: int):
    """A network that says something of everything."""
    from sciops.models.learned_multigrid import StencilAdviser

    with torch.random.fork_rng():
        torch.manual_seed(ndim)
        net = StencilAdviser(ndim, width=8).eval()
        torch.nn.init.normal_(net.say.weight, std=0.05)
    return net


def direction() -> Source:
    from sciops.models.dcdm import DCDM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = DCDM(2, size=(1, 1, 1), width=8).eval()
    return direction_source(net, "direction 2-D", {})


MAKERS: dict[str, tuple[Callable[[], Source], tuple[int, ...]]] = {
    "multigrid_2d": (lambda: multigrid_source(adviser(2), 2, "multigrid 2-D"), (32,)),
    "multigrid_double": (lambda: multigrid_source(adviser(2), 2, "multigrid 2-D", finest=False), (64,)),
    "multigrid_3d": (lambda: multigrid_source(None, 3, "multigrid 3-D", finest=False), (32,)),
    "multigrid_3d_finest": (lambda: multigrid_source(None, 3, "multigrid 3-D"), (32,)),
    "operator_2d": (lambda: solver_source(poisson_solver(), "operator 2-D"), (32, 64)),
    "stepper_2d": (lambda: solver_source(stepper(), "stepper 2-D"), (32,)),
    "direction_2d": (direction, (32,)),
}
"""The longest first; multigrid with three programs for all levels takes half as long as with three for the finest."""


def make(name: str, folder: Path, say: Callable[..., None] = lambda text, share=None: None) -> Path:
    """The artefact of this name in `folder`, compiled if it is not there yet."""
    target = folder / f"{name}.sciops"
    if not target.is_dir():
        source, precisions = MAKERS[name]
        folder.mkdir(parents=True, exist_ok=True)
        export_source(source(), target, precisions, say=say)
    return target


if __name__ == "__main__":
    torch.set_num_threads(1)  # as in the tests, which train the same networks to the same bits
    print(make(sys.argv[1], Path(sys.argv[2]), lambda text, share=None: print(text)))

"""What can be exported: operators, one-step operators, multigrid and directions, as programs and facts."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from sciops.core.config import build, resolve_class
from sciops.core.errors import UsageError
from sciops.core.stencil_operator import offsets
from sciops.embed.compile import Free, Program
from sciops.embed.manifest import Manifest
from sciops.embed.multigrid_programs import Down, Setup, Up, face_offsets
from sciops.embed.programs import Apply, Solve, Step, in_precision
from sciops.embed.shapes import one_size
from sciops.embed.table_programs import TableDown, TableUp
from sciops.numerics.differentiable_multigrid import COARSEST, SHIFT

Programs = Callable[[torch.dtype], list[Program]]
AXES = "xyz"


@dataclass
class Source:
    """A model that is ready to be compiled: what is known of it, and its programs in a precision. `solve` of an
    operator: the module to call, for which `export` finds out at which sizes it can be compiled."""

    manifest: Manifest
    programs: Programs | None = None
    module: Callable[[torch.dtype], nn.Module] | None = None
    threads: int = 0
    remarks: list[str] = field(default_factory=list)


def find_source(
    run: str | Path,
    ndim: int | None = None,
    name: str | None = None,
    convert: str | None = None,
    shape: Sequence[int] | None = None,
) -> Source:
    """What `run` names: a checkpoint, a folder of one (`Solver.save`, `sciops fit`), or the word multigrid.

    `convert`: a method of `Converted`; the operator that the network becomes, on a grid of `shape` points.
    """
    if (convert is None) != (shape is None):
        given, wanted = ("a shape", "convert: point, lattice, …") if convert is None else (convert, "shape: 96 96")
        raise UsageError(f"A network is converted to one grid by a method; got {given} alone, give {wanted} as well.")
    if str(run) == "multigrid" and not Path(run).exists():
        if convert is not None:
            raise UsageError("Multigrid takes every grid and needs no conversion; leave convert and shape out.")
        if ndim not in (2, 3):
            raise UsageError(f"`sciops export multigrid` needs --ndim 2 or --ndim 3; got {ndim}.")
        return multigrid_source(None, ndim, name or f"multigrid {ndim}-D")
    file = checkpoint_file(run)
    from sciops.solvers.checkpoint import KEY, read_model

    content = read_model(file)
    facts = content[KEY]
    name = name or str(Path(run).resolve().name if Path(run).is_dir() else Path(run).stem)
    kind = facts.get("kind", facts.get("task", "map"))
    if convert is not None and kind not in ("map", "step"):
        raise UsageError(f"Operators are converted; {run} holds a model of kind {kind}: leave convert and shape out.")
    if kind == "learned_multigrid":
        net = _network(facts, content["state_dict"], str(run))
        return multigrid_source(net, int(net.ndim), name, content["hyper_parameters"])  # type: ignore[arg-type]
    if kind == "conjugate_directions":
        return direction_source(_network(facts, content["state_dict"], str(run)), name, facts)
    if kind in ("map", "step"):
        solver = operator_solver(file, content)
        if convert is None or shape is None:
            return solver_source(solver, name)
        from sciops.solvers.converted import Converted

        return converted_source(Converted(solver, convert), shape, name)
    raise UsageError(
        f"{run} holds a model of kind {kind}, which is no function of its inputs alone; operators, one-step operators, "
        "learned multigrid and conjugate directions can be exported."
    )


def checkpoint_file(run: str | Path) -> Path:
    """The checkpoint that a path stands for."""
    run = Path(run)
    if run.is_dir():
        for inside in ("model.ckpt", "best.ckpt", "checkpoints/best.ckpt"):
            if (run / inside).is_file():
                return run / inside
        raise UsageError(f"{run} has no checkpoint (model.ckpt or checkpoints/best.ckpt); name a run of `sciops fit`.")
    return run


def _network(facts: dict[str, Any], state: dict[str, Tensor], where: str) -> nn.Module:
    spec = facts.get("net")
    if spec is None:
        raise UsageError(
            f"{where} was trained from a module object and does not name its class; train it by class path."
        )
    resolve_class(spec["class_path"], trusted=False)
    net: nn.Module = build(dict(spec), nn.Module)
    net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
    return net.eval()


def multigrid_source(
    net: Any, ndim: int, name: str, settings: dict[str, Any] | None = None, finest: bool = True
) -> Source:
    """Black-box multigrid with the advice of `net`, or plain without one. Without programs of its own for the `finest`
    level, that one takes those of all levels: more memory traffic, half the compilation."""
    from sciops.models.learned_multigrid import StencilAdviser

    if net is not None and not isinstance(net, StencilAdviser):
        raise UsageError(f"Multigrid is exported with a StencilAdviser; this run has a {type(net).__name__}.")
    settings = settings or {}
    sweeps = int(settings.get("sweeps", 1))
    tables = ({"finest": face_offsets(ndim)} if finest else {}) | {"level": offsets(ndim)}
    entries: dict[str, dict[str, list[str]]] = {}
    states = ["stencil", "weights", "step", "keep", "scale"]
    for level in tables:
        entries[f"{level}_setup"] = {"inputs": ["stencil"], "outputs": ["weights", "step", "keep", "scale", "coarse"]}
        entries[f"{level}_down"] = {"inputs": ["b", *states], "outputs": ["x", "coarse"]}
        entries[f"{level}_up"] = {"inputs": ["x", "b", "e", *states], "outputs": ["x"]}
    manifest = Manifest(
        name, "multigrid", ndim, entries,
        shape={"dynamic": True, "multiple": [1] * ndim, "remainder": [0] * ndim, "minimum": [1] * ndim,
               "maximum": [None] * ndim},
        linear=True, symmetric=True, positive=True,
        multigrid={
            "coarsest": COARSEST, "shift": SHIFT, "sweeps": sweeps, "smoother": "point", "states": states,
            "levels": [
                {part: f"{level}_{part}" for part in ("setup", "down", "up")} | {"offsets": [list(o) for o in table]}
                for level, table in tables.items()
            ],
        },
        training={"network": "none" if net is None else f"StencilAdviser(width={net.width})", **settings},
    )  # fmt: skip
    if settings.get("smoother", "point") != "point":
        manifest.remarks.append(
            f"The network was trained for the smoother '{settings['smoother']}' and is exported with point relaxation, "
            "which its training did not touch."
        )

    def programs(dtype: torch.dtype) -> list[Program]:
        # The network too: the condition of a matrix magnifies what float32 arithmetic rounds away.
        adviser = None if net is None else in_precision(net, dtype)
        return [
            p for level, table in tables.items() for p in level_programs(level, table, adviser, ndim, sweeps, dtype)
        ]

    return Source(manifest, programs, threads=1)


def level_programs(
    level: str, table: list[tuple[int, ...]], net: Any, ndim: int, sweeps: int, dtype: torch.dtype
) -> list[Program]:
    """The three programs for stencils with these offsets; blocks of any size."""
    blocks = (6, 7, 5)[:ndim]
    dims = [Dim(letter, min=1) for letter in "hwd"[:ndim]]

    def free(lead: int) -> Free:
        return {lead + axis: dim for axis, dim in enumerate(dims)}

    def make(*lead: int) -> Tensor:
        return torch.rand((1, *lead, *blocks), dtype=dtype, generator=torch.Generator().manual_seed(len(lead)))

    points, weights = 2**ndim, 3**ndim - 1
    b, e = make(points), make()
    states = (make(len(table), points), make(weights), make(points), make(points), torch.ones(1, dtype=dtype))
    axes: tuple[Free, ...] = (free(3), free(2), free(2), free(2), {})
    names = ["stencil", "weights", "step", "keep", "scale"]
    down, up = (TableDown, TableUp) if ndim == 3 else (Down, Up)
    # Convolutions over three axes ask whether an axis has length one; their answer is the same either way.
    asked = ndim == 3 and net is not None
    first = ({3 + axis: Dim.AUTO for axis in range(ndim)} if asked else axes[0],)
    return [
        Program(f"{level}_setup", Setup(ndim, table, net), states[:1], first, names[:1], [*names[1:], "coarse"]),
        Program(
            f"{level}_down", down(ndim, table, sweeps), (b, *states), (free(2), *axes), ["b", *names], ["x", "coarse"]
        ),
        Program(
            f"{level}_up", up(ndim, table, sweeps), (b.clone(), b, e, *states), (free(2), free(2), free(1), *axes),
            ["x", "b", "e", *names], ["x"],
        ),
    ]  # fmt: skip


def direction_source(net: Any, name: str, facts: dict[str, Any]) -> Source:
    """A network of conjugate directions."""
    ndim = int(net.ndim)
    names = {"inputs": ["residual", "mask"], "outputs": ["direction"]}
    manifest = Manifest(
        name, "direction", ndim, {"apply": names},
        shape={"dynamic": True, "multiple": [1] * ndim, "remainder": [0] * ndim, "minimum": [3] * ndim,
               "maximum": [None] * ndim},
        training={"network": facts.get("net") or type(net).__name__},
    )  # fmt: skip

    def programs(dtype: torch.dtype) -> list[Program]:
        space = (18, 21, 15)[:ndim]
        dims = {2 + a: Dim(letter, min=3) for a, letter in enumerate("hwd"[:ndim])}
        r = torch.rand((1, 1, *space), dtype=dtype)
        module = Apply(in_precision(net, dtype))
        return [Program("apply", module, (r, torch.ones_like(r)), (dims, dims), names["inputs"], names["outputs"])]

    return Source(manifest, programs)


def operator_solver(file: Path, content: dict[str, Any]) -> Any:
    """The OperatorSolver or Rollout of a checkpoint, with its weights."""
    from sciops.solvers.checkpoint import KEY
    from sciops.solvers.operator import OperatorSolver
    from sciops.solvers.rollout import Rollout

    facts = content[KEY]
    if facts.get("task", "map") != "step":
        return OperatorSolver.from_checkpoint(file)
    known = {k: v for k, v in content["hyper_parameters"].items() if k not in ("net", "init_from")}
    _network_named(facts, str(file))
    solver = Rollout(facts["net"], **known)
    solver.load(file)
    return solver


def _network_named(facts: dict[str, Any], where: str) -> None:
    if facts.get("net") is None:
        raise UsageError(
            f"{where} was trained from a module object and does not name its class; train it by class path."
        )
    resolve_class(facts["net"]["class_path"], trusted=False)


def solver_source(solver: Any, name: str) -> Source:
    """An OperatorSolver or Rollout in memory, trained."""
    module = solver.module
    facts, problem = module.facts, solver_problem(module.facts)
    units = {c["name"]: c.get("unit", "") for c in problem}
    step = facts.get("task", "map") == "step"
    inputs, outputs = list(facts["kept"]), list(facts["outputs"])
    if step:
        inputs = step_inputs(facts)
        outputs = (
            outputs if facts["block"] == 1 else [f"{c}+{k}" for k in range(1, facts["block"] + 1) for c in outputs]
        )
    known = facts.get("ranges") or {}
    ranges = {
        n: next((known[k] for k in (n, f"{n}@0", n.partition("@")[0]) if k in known), [None, None]) for n in inputs
    }
    ndim = len(facts["grid"]["shape"])
    manifest = Manifest(
        name, "operator", ndim, {"solve": {"inputs": ["input"], "outputs": ["output"]}},
        inputs=[
            {"name": n, "unit": units.get(n.partition("@")[0], ""), "lower": ranges[n][0],
             "upper": ranges[n][1]}
            for n in inputs
        ],
        outputs=[{"name": n, "unit": units.get(n.partition("+")[0], "")} for n in outputs],
        grid={k: list(facts["grid"][k]) for k in ("layout", "shape", "lower", "upper")},
        boundary=[list(pair) for pair in facts["boundary"]],
        step={"dt": facts["every"], "history": facts["history"], "block": facts["block"]} if step else None,
        training={"problem": facts["problem"], "network": facts.get("net"), "constants": facts["constants"],
                  "fingerprint": facts.get("fingerprint")},
    )  # fmt: skip

    def make(dtype: torch.dtype) -> nn.Module:
        return in_precision(Step(module) if step else Solve(module), dtype)

    return Source(manifest, module=make)


def converted_source(solver: Any, shape: Sequence[int], name: str) -> Source:
    """A trained `Converted`: the operator that its network becomes, on one grid of `shape` points. Its rules look at
    the grid, so that every size is an export of its own."""
    source, shape = solver_source(solver.source, name), list(shape)
    manifest, plain = source.manifest, solver.source.module
    assert manifest.grid is not None
    n, native = manifest.ndim, list(solver.native.shape)
    trained = "×".join(map(str, native))
    if len(shape) != n or min(shape) < 2:
        got = "×".join(map(str, shape))
        raise UsageError(f"{name} is {n}-D; got the shape {got}, give {n} numbers of points, 2 or more.")
    problem = problem_of(plain.facts)
    reason = None if problem is None else solver.refuses(problem, solver.native)
    if reason:
        raise UsageError(f"{name} cannot be converted: {reason.rstrip('.')}.")
    manifest.grid["shape"] = shape
    manifest.shape = one_size(shape)
    manifest.remarks.append(f"Trained on {trained} points and converted by the method '{solver.method}' to this grid.")

    def make(dtype: torch.dtype) -> nn.Module:
        module = Step(plain) if manifest.step else Solve(plain)
        module.net = copy.deepcopy(solver.operator)
        module.net.bits = False  # compiled kernels round in an order of their own anyway
        return in_precision(module, dtype)

    return Source(manifest, module=make)


def problem_of(facts: dict[str, Any]) -> Any:
    """The problem of a training, where its class is known here."""
    from sciops.core.errors import SciopsError

    try:
        resolve_class(facts["problem"]["class_path"], trusted=False)
        return build(dict(facts["problem"]), object)
    except SciopsError:
        return None


def solver_problem(facts: dict[str, Any]) -> list[dict[str, str]]:
    """Names and units of its channels."""
    problem = problem_of(facts)
    channels = () if problem is None else (*problem.inputs, *problem.outputs)
    return [{"name": c.name, "unit": str(getattr(c, "unit", "") or "")} for c in channels]


def step_inputs(facts: dict[str, Any]) -> list[str]:
    """Channels of one call, oldest frame first: u@-1, u@0, coefficients, parameters, time."""
    frames = [f"{c}@{k}" for k in range(1 - facts["history"], 1) for c in facts["outputs"]]
    if facts["history"] == 1:
        frames = list(facts["outputs"])
    return [*frames, *facts["coefficients"], *facts["parameters"], *(["time"] if facts["time"] else [])]

"""What `sciops export` and `sciops build` say, interruptions, and converted networks; nothing is compiled here."""

from pathlib import Path

import artefact_makers
import pytest
import torch

from sciops.cli import main
from sciops.core.errors import UsageError
from sciops.embed import export as exporting
from sciops.embed.export import export_source
from sciops.embed.sources import find_source, multigrid_source
from sciops.embed.verbs import progress


@pytest.fixture
def compiler(monkeypatch) -> list[str]:
    """A compiler that takes no time and makes nothing; what was compiled, in order."""
    made: list[str] = []

    def compiled(program, march, threads):
        made.append(program.entry)
        return []

    monkeypatch.setattr(exporting, "traced", lambda program: program)
    monkeypatch.setattr(exporting, "save_source", lambda program, path: None)
    monkeypatch.setattr(exporting, "compiled", compiled)
    monkeypatch.setattr(exporting, "packaged", lambda path, files: "")
    monkeypatch.setattr(exporting, "check", lambda folder, manifest, programs: {})
    return made


def test_what_is_compiled_and_how_long_it_takes_is_said_before(tmp_path, compiler):
    said: list[tuple[str, float | None, int]] = []
    source = multigrid_source(None, 3, "m")
    export_source(
        source, tmp_path / "m.sciops", (32, 64), say=lambda text, share=None: said.append((text, share, len(compiler)))
    )
    first, share, compiled_before = said[0]
    assert share == 0 and compiled_before == 0
    assert "6 programs" in first and "float32 and float64" in first and all(e in first for e in source.manifest.entries)
    assert "minutes of one core" in first
    shares = [share for _, share, _ in said[1:]]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 and len(shares) == 13
    assert len(compiler) == 12 and said[1][0] == "compiling finest_setup in float32"


def test_an_interruption_leaves_what_was_there(tmp_path, compiler, monkeypatch, capsys):
    def interrupted(program, march, threads):
        if program.entry == "finest_up":
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(exporting, "compiled", interrupted)
    out = tmp_path / "m.sciops"
    for before in ([], ["precious"]):
        for name in before:
            out.mkdir()
            (out / name).touch()
        words = ["export", "multigrid", "--ndim", "2", "--precision", "32", "--out", str(out), "--overwrite"]
        assert main(words) == 130
        assert [p.name for p in tmp_path.iterdir()] == ["m.sciops"] * len(before)
        assert not before or [p.name for p in out.iterdir()] == before
        assert "is as it was before" in capsys.readouterr().err
    monkeypatch.setattr(exporting, "compiled", lambda program, march, threads: [])
    assert main(words) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["m.sciops"] and not (out / "precious").exists()


def test_terminals_get_a_bar_below_what_is_to_come(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress() as say:
        say("[two] programs to compile", 0.0)
        say("compiling the second", 0.5)
    written = capsys.readouterr().err
    assert "[two] programs to compile\n" in written and "compiling the second" in written


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("operator") / "run"
    artefact_makers.poisson_solver(cases=4).save(folder)
    return folder


def test_one_grid_needs_no_search(run, tmp_path, monkeypatch, capsys):
    """The program is traced for the training grid at once; a multigrid, which takes any size, refuses the word."""
    refused(["export", "multigrid", "--ndim", "2", "--one-grid"], "takes any size", tmp_path, capsys)
    heard = []
    monkeypatch.setattr(exporting, "write_package", lambda programs, *rest: heard.extend(programs) or "isa")
    monkeypatch.setattr(exporting, "check", lambda *given: {})
    words = ["export", str(run), "--precision", "32", "--one-grid", "--out", str(tmp_path / "step.sciops")]
    assert main(words) == 0
    assert len(heard) == 1 and not any(axes for axes in heard[0].free)
    assert "tracing with" not in capsys.readouterr().err


@pytest.mark.embed
def test_a_run_is_converted_to_a_grid_by_name(run):
    from sciops.solvers.converted import Converted
    from sciops.solvers.operator import OperatorSolver

    source = find_source(run, convert="point", shape=(65, 49))
    assert source.manifest.shape["minimum"] == source.manifest.shape["maximum"] == [65, 49]
    solver = Converted(OperatorSolver.from_checkpoint(run), "point")
    module = solver.source.module
    x = torch.randn((1, 1, 65, 49), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = module.decoder.decode(solver.operator(module.encoder.encode(x)))
        found = source.module(torch.float32)(x)
        plain = find_source(run).module(torch.float32)(x)
    inside = (..., slice(1, -1), slice(1, -1))
    # compiled conversions leave out the exact copy of the source's bits at shared points: equal to rounding, no closer
    torch.testing.assert_close(found[inside], wanted[inside], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(plain[inside], wanted[inside], rtol=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shape", "65"], "give 2 numbers"),
        (["--shape", "65", "65", "--convert", "magic"], "method must be one of point"),
        (["--shape", "65", "65", "--convert", "lattice"], "no meaning on node grids"),
    ],
    ids=["one axis", "unknown", "nodes"],
)
@pytest.mark.embed
def test_conversions_that_do_not_fit_are_one_sentence(run, tmp_path, capsys, words, said):
    refused(["export", str(run), "--convert", "point", *words], said, tmp_path, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--convert", "point"], "give shape: 96 96 as well"),
        (["run", "--shape", "65", "65"], "give convert: point"),
        (["multigrid", "--ndim", "2", "--convert", "point", "--shape", "65", "65"], "takes every grid"),
    ],
    ids=["no shape", "no method", "multigrid"],
)
def test_half_a_conversion_is_one_sentence(tmp_path, capsys, words, said):
    refused(["export", *words], said, tmp_path, capsys)


def refused(words: list[str], said: str, tmp_path: Path, capsys) -> None:
    assert main([*words, "--out", str(tmp_path / "x.sciops")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("sciops: ") and said in error and error.endswith(".")
    assert not list(tmp_path.iterdir())


def test_method_and_shape_of_a_conversion_reach_the_export(monkeypatch, tmp_path, capsys):
    def found(run, ndim, name, convert, shape):
        raise UsageError(f"{run} by {convert} to {shape}.")

    monkeypatch.setattr(exporting, "find_source", found)
    refused(
        ["export", "run", "--convert", "point", "--shape", "96", "64"], "run by point to [96, 64].", tmp_path, capsys
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["capi"], "capi is built without one"),
        (["openfoam"], "give the folder src of an OpenFOAM source tree"),
    ],
    ids=["capi", "empty"],
)
def test_sources_that_do_not_fit_are_one_sentence(words, said, tmp_path, capsys):
    (tmp_path / "src").mkdir()
    assert main(["build", *words, "--out", str(tmp_path / "lib"), "--sources", str(tmp_path / "src")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("sciops: ") and said in error and error.endswith(".") and "\n" not in error
    assert not (tmp_path / "lib").exists()


def test_sources_reach_the_plugin(tmp_path, monkeypatch):
    from sciops.embed import openfoam_build

    (tmp_path / "src" / "OpenFOAM").mkdir(parents=True)
    (tmp_path / "lib" / "lib").mkdir(parents=True)
    (tmp_path / "lib" / "lib" / "libsciops.so").touch()
    given = []
    monkeypatch.setattr(openfoam_build, "build", lambda out, library, sources: given.append(sources) or out)
    assert main(["build", "openfoam", "--out", str(tmp_path / "lib"), "--sources", str(tmp_path / "src")]) == 0
    assert given == [tmp_path / "src"]

"""The one entry point `sciops`."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from sciops.compare.plan import Plan

TRAINER_VERBS = {
    "fit": "train a model from a YAML (Lightning CLI)",
    "validate": "score a checkpoint on the validation split",
    "test": "score a checkpoint on the test split",
    "predict": "write predictions of a checkpoint",
}
DESCRIPTION = """Dataset generators, learned and classical PDE solvers, and one harness that compares them.

Start here:
  sciops compare poisson                          generate data, train, solve, time: table, plots, HTML report
  sciops generate datasets/darcy_rough.yaml       make a dataset from its recipe
  sciops fit --config experiments/darcy_smooth_small/mgno.yaml
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Exit codes: 0 fine, 1 failed check or missed bar, 2 usage, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    try:
        if given and given[0] in TRAINER_VERBS:
            from sciops.train.cli import main as train

            return int(train(given) or 0)
        options = _parser().parse_args(given)
        return int(options.run(options) or 0)
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept; the same command resumes.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        from sciops.core.errors import SciopsError

        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, SciopsError):
            print(f"sciops: {text}", file=sys.stderr)
            return error.exit_code
        print(
            f"sciops: unexpected {type(error).__name__}: {text} (run again with --debug for the traceback)",
            file=sys.stderr,
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sciops", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    from sciops import __version__

    parser.add_argument("--version", action="version", version=f"sciops {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, text in TRAINER_VERBS.items():
        verbs.add_parser(name, help=text, add_help=False)

    verb = verbs.add_parser(
        "compare", help="compare solvers on one problem or a suite of them", description=_compare.__doc__
    )
    verb.add_argument("name", help="a name under experiments/compare/ (for example poisson) or a YAML file")
    verb.add_argument("--out", type=Path, help="results folder (default: results/NAME)")
    verb.add_argument("--data", type=Path, default=Path("data"), help="folder for generated data (default: data)")
    verb.add_argument("--only", metavar="A,B", help="of a suite, these problems alone")
    verb.add_argument("--dry-run", action="store_true", help="print which solver can run, then stop")
    verb.add_argument("--fresh", action="store_true", help="do not resume: compute every row again")
    verb.set_defaults(run=_compare)

    verb = verbs.add_parser("generate", help="make a dataset from a recipe", description=_generate.__doc__)
    verb.add_argument("recipe", type=Path, help="datasets/NAME.yaml")
    verb.add_argument("--out", type=Path, help="target folder (default: data/NAME)")
    verb.add_argument("--workers", type=int, default=1, help="worker processes (default: 1)")
    verb.add_argument("--device", default="cpu", help="cpu, cuda, … (default: cpu)")
    verb.add_argument("--fresh", action="store_true", help="start over instead of resuming")
    verb.set_defaults(run=_generate)

    verb = verbs.add_parser("verify", help="rebuild random cases of a file and compare", description=_verify.__doc__)
    verb.add_argument("file", type=Path)
    verb.add_argument("--cases", type=int, default=8, help="how many cases to rebuild (default: 8)")
    verb.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    verb.add_argument("--recipe", type=Path, help="recipe of the file, needed when the problem is a class of your own")
    verb.set_defaults(run=_verify)

    verb = verbs.add_parser("info", help="describe a data file or an exported model", description=_info.__doc__)
    verb.add_argument("file", type=Path)
    verb.set_defaults(run=_info)

    verb = verbs.add_parser(
        "convert", help="between our format, The Well's and PDEBench's", description=_convert.__doc__
    )
    verb.add_argument("source", type=Path)
    verb.add_argument("target", type=Path)
    verb.add_argument("--to", choices=("native", "well", "pdebench"), required=True, help="format of the target")
    verb.set_defaults(run=_convert)

    verb = verbs.add_parser(
        "build", help="compile the C library or a plugin for exported models", description=_build.__doc__
    )
    verb.add_argument("what", choices=("capi", "openfoam", "petsc"), help="the C library, or a plugin that uses it")
    verb.add_argument("--out", type=Path, default=Path("sciops_lib"), help="target folder (default: sciops_lib)")
    verb.add_argument(
        "--sources", type=Path, metavar="DIR", help="of openfoam: folder src of its source tree (default: found)"
    )
    verb.set_defaults(run=_build)

    from sciops.embed.verbs import add_verbs

    add_verbs(verbs)
    verb = verbs.add_parser("check", help="run the contract on your own class", description=_check.__doc__)
    verb.add_argument("class_path", help="package.module.Class or file.py:Class")
    verb.set_defaults(run=_check)
    return parser


def _say(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[dim]•[/dim] {text}", markup=True)


def _compare(options: argparse.Namespace) -> int:
    """Generate the data, fit and solve with every contestant, time them, write tables, plots and a report."""
    import shutil

    from rich.console import Console

    from sciops.compare.plan import find, read
    from sciops.compare.report import sections, summary, write
    from sciops.compare.run import Comparison, compare
    from sciops.compare.sources import load_splits
    from sciops.compare.table import Line, rich_table
    from sciops.core.errors import UsageError

    console = Console(width=None if sys.stdout.isatty() else 200)
    sys.path.insert(0, str(Path.cwd()))  # solvers of the user's own, named by class path
    plan = read(find(options.name))
    out = options.out or Path("results") / plan.name
    if options.only and not plan.datasets:
        raise UsageError(f"--only chooses among the datasets of a suite; {plan.name} has one dataset.")
    if plan.datasets:
        return _compare_suite(plan, options, out, console)
    if options.fresh:
        shutil.rmtree(out, ignore_errors=True)
    splits = load_splits(plan, options.data, _say)
    matrix: list[Line] = [
        {"solver": name, "can run": "no" if reason else "yes", "why not": reason}
        for name, reason in Comparison(plan, splits, out, _say).matrix()
    ]
    console.print(f"[bold]{plan.title}[/bold]: who can run on {splits.name}")
    console.print(rich_table(matrix))
    if options.dry_run:
        return 0
    results = compare(plan, splits, out, _say)
    files = write(results, splits.test, out)
    for line in summary(results):
        console.print(line, style="dim", markup=False)
    for title, lines in sections(results).items():
        if title != "Compatibility":
            console.print(f"\n[bold]{title}[/bold]")
            console.print(rich_table(lines))
    console.print(f"Results in {out}: " + ", ".join(path.name for path in files), markup=False)
    return 0 if any(row.status in ("ok", "partial") for row in results.rows) else 1


def _compare_suite(plan: "Plan", options: argparse.Namespace, out: Path, console: "Console") -> int:
    """The same on every dataset of a suite, and the tables over all of them."""
    import shutil

    from sciops.compare.suite import chosen, compatibility, run_suite, sections, summary, write_suite
    from sciops.compare.table import rich_table

    names = chosen(plan, options.only.split(",") if options.only else None)
    console.print(f"[bold]{plan.title}[/bold]: {len(names)} problems, {len(plan.solvers)} solvers")
    if options.dry_run:
        console.print(rich_table(compatibility(plan, names, options.data, _say)))
        return 0
    if options.fresh:
        for name in names:
            shutil.rmtree(out / name, ignore_errors=True)
    suite = run_suite(plan, names, out, options.data, _say)
    files = write_suite(suite, out)
    for line in summary(suite):
        console.print(line, style="dim", markup=False)
    for title, lines in sections(suite).items():
        console.print(f"\n[bold]{title}[/bold]")
        console.print(rich_table(lines))
    console.print(f"Results in {out}: " + ", ".join(path.name for path in files), markup=False)
    rows = [row for results in suite.found.values() for row in results.rows]
    return 0 if any(row.status in ("ok", "partial") for row in rows) else 1


def _generate(options: argparse.Namespace) -> int:
    """Make every split of a recipe; after an interruption the same command goes on where it stopped."""
    from sciops.data.generate import generate
    from sciops.data.recipe import load_recipe

    sys.path.insert(0, str(Path.cwd()))
    recipe = load_recipe(options.recipe)
    target = options.out or Path("data") / recipe.name
    paths = generate(recipe, target, options.workers, options.device, resume=not options.fresh)
    for split, path in paths.items():
        print(f"{split}: {path}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    """Rebuild random cases from their seeds and compare with what is stored (exit code 1 if they differ)."""
    from sciops.data.recipe import load_recipe
    from sciops.data.verify import verify

    problem = None if options.recipe is None else load_recipe(options.recipe).make_problem()
    result = verify(options.file, options.cases, options.seed, problem)
    print(result)
    return 0 if result.passed else 1


def _info(options: argparse.Namespace) -> int:
    """Describe a data file (problem, shapes, splits, label error, fingerprint) or an exported model."""
    from rich.console import Console

    from sciops.embed import verbs

    console = Console(width=None if sys.stdout.isatty() else 160)
    if verbs.is_artefact(options.file):
        console.print(verbs.table(options.file))
        return 0
    from sciops.data.info import describe, table

    console.print(table(describe(options.file)))
    return 0


def _convert(options: argparse.Namespace) -> int:
    """Rewrite a data file in another format."""
    from sciops.data.convert import convert

    convert(options.source, options.target, options.to)
    print(options.target)
    return 0


def _build(options: argparse.Namespace) -> int:
    """Compile against the installed torch: headers into DIR/include, libraries into DIR/lib."""
    from sciops.embed.build import build

    for path in build(options.what, options.out, options.sources):
        print(path)
    return 0


def _check(options: argparse.Namespace) -> int:
    """Run the contract of solvers, problems or metrics on a class of your own (exit code 1 if it breaks one)."""
    from sciops.compare.check import check

    sys.path.insert(0, str(Path.cwd()))
    results = check(options.class_path)
    for result in results:
        print(
            f"{'ok  ' if result.passed else 'FAIL'} {result.name}" + (f": {result.message}" if result.message else "")
        )
    failed = sum(not result.passed for result in results)
    print(f"{len(results) - failed} of {len(results)} checks passed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

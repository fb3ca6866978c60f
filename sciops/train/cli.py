"""`sciops fit | validate | test | predict`: LightningCLI with run folders, announced differences and short errors.

    sciops fit --config experiments/darcy_rough/mgno.yaml
    sciops fit --config experiments/darcy_rough/mgno.yaml --ckpt_path last            resume, bit for bit on the CPU
    sciops fit --config … --model.init_args.lr 1e-3 --name darcy_rough/mgno_fast      override, other run folder
    sciops test --ckpt_path runs/darcy_rough/mgno/checkpoints/best.ckpt               the run's own configuration

A run lives in runs/<name>/: config.yaml, metrics.csv (one row per epoch), checkpoints/best.ckpt and last.ckpt.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse import ArgumentError, Namespace, set_parsing_settings
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

from sciops.core.config import chosen, resolve_class
from sciops.core.errors import UsageError
from sciops.solvers.checkpoint import read_checkpoint
from sciops.solvers.training import SafeCheckpointIO, quiet
from sciops.train.arguments import NOISE, deep_set, default_name, expand, one_sentence, split_overrides
from sciops.train.callbacks import MONITOR, default_callbacks
from sciops.train.predictions import PredictionFiles


class RunCLI(LightningCLI):
    """LightningCLI that knows run folders and says what a checkpoint changes."""

    def __init__(self, args: ArgsType, overrides: list[tuple[str, str]], default: str) -> None:
        self.overrides, self.default_run = overrides, default
        super().__init__(
            model_class=pl.LightningModule,
            datamodule_class=pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=args,
            save_config_callback=SaveConfigCallback,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            trainer_defaults={"num_sanity_val_steps": 0, "enable_model_summary": False},
            parser_kwargs={"exit_on_error": False, "description": __doc__},
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str, default=self.default_run, help="run folder below --runs")
        parser.add_argument("--runs", type=str, default="runs", help="folder of all runs")
        parser.add_argument("--patience", type=int | None, default=None, help="stop after so many epochs without gain")
        parser.add_argument("--overwrite", type=bool, default=False, help="start over in a folder that holds a run")
        parser.add_argument("--strict", type=bool, default=False, help="refuse settings that a checkpoint overrides")

    def _parse_ckpt_path(self) -> None:
        """The settings of a checkpoint replace the given ones, as in Lightning, but every difference is printed, and
        refused with --strict."""
        table = self.config[self.config.subcommand]
        for key, value in self.overrides:
            deep_set(table.model.init_args, key, value)
        for key, value in vars(table.model.init_args).items():
            if isinstance(value, dict):
                table.model.init_args[key] = _as_written(value)
        for part in (table.model.init_args, table.data.init_args):
            if part.get("seed") == 0:  # one seed for weights and order, unless they have their own
                part["seed"] = int(table.seed_everything or 0)
        verb, run = self.config.subcommand, Path(table.runs) / table.name
        if not table.ckpt_path:
            if verb == "fit":
                self._require_free(run, table.overwrite)
            else:
                raise UsageError(
                    f"{verb} needs --ckpt_path: best, last, or a file such as {run}/checkpoints/best.ckpt."
                )
            return
        if table.ckpt_path in ("best", "last"):
            file = run / "checkpoints" / f"{table.ckpt_path}.ckpt"
            if not file.is_file():
                raise UsageError(f"There is no {file} to go on from; run without --ckpt_path first, or give --name.")
            table.ckpt_path = str(file)
        content = read_checkpoint(table.ckpt_path)
        differences = _differences(table.model.get("init_args") or {}, content.get("hyper_parameters") or {})
        for key, (given, stored) in differences.items():
            print(f"{key}: given {given}, in {table.ckpt_path} {stored}; this run uses {stored}.", file=sys.stderr)
            path = stored.get("class_path") if isinstance(stored, dict) else stored
            if key in ("net", "loss") and path:
                resolve_class(path, trusted=False)
            table.model.init_args[key] = stored
        if differences and table.strict:
            raise UsageError(
                f"--strict: {', '.join(differences)} differ from {table.ckpt_path}; use its settings, or start a new "
                "run from its weights with --model.init_args.init_from."
            )

    @staticmethod
    def _require_free(run: Path, overwrite: bool) -> None:
        if not overwrite and (run / "checkpoints" / "last.ckpt").is_file():
            raise UsageError(
                f"{run} already holds a run: resume it with --ckpt_path last, start over with --overwrite true, or "
                "give another --name."
            )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        table = self.config[self.subcommand]
        self.run_folder, terminal = Path(table.runs) / table.name, sys.stderr.isatty()
        given = self._get(self.config_init, "trainer")
        plugins = given.plugins if isinstance(given.plugins, list) else [given.plugins] if given.plugins else []
        kwargs |= {
            "logger": given.logger or False,  # the epoch log is ours; Lightning's None would mean TensorBoard
            "plugins": [*plugins, SafeCheckpointIO()],
            "default_root_dir": str(self.run_folder),
            "enable_progress_bar": terminal,
        }
        own: list[pl.Callback] = [RichProgressBar(leave=False)] if terminal else []
        if self.subcommand == "fit":
            monitor = getattr(self.model, "monitor", MONITOR)  # a model may choose its own measure of the best
            own += default_callbacks(self.run_folder, table.patience, not terminal, monitor)
        elif self.subcommand == "predict":
            own.append(PredictionFiles(self.run_folder / "predictions"))
        self.trainer_defaults["callbacks"] = own
        if self.subcommand != "fit":
            self.save_config_callback = None  # config.yaml belongs to the fit
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        keeper = self.trainer.checkpoint_callback
        score = getattr(keeper, "best_model_score", None)
        best = "" if score is None else f"; best {getattr(keeper, 'monitor', MONITOR)} {float(score):.6g}"
        if self.trainer.is_global_zero:
            print(f"Done after {self.trainer.current_epoch} epochs{best}. Results in {self.run_folder}: "
                  "config.yaml, metrics.csv, checkpoints/best.ckpt, checkpoints/last.ckpt")  # fmt: skip

    def after_predict(self) -> None:
        print(f"Predictions in {self.run_folder / 'predictions'}")


def main(args: Sequence[str]) -> int:
    """Run one verb with LightningCLI; exit code 0, or 2 and one sentence for a mistake in the configuration."""
    sys.path.insert(0, str(Path.cwd()))  # classes of the user's own, named by class path
    # A class path inside the arguments of another is for the class that gets it: `Compressed` adds what it knows first.
    set_parsing_settings(validate_subclass_spec_in_any=False, instantiate_subclass_spec_in_any=False)
    given, overrides = split_overrides(expand(list(args)))
    try:
        with quiet():
            RunCLI(given, overrides, default_name(given))
    except (ArgumentError, ValueError, TypeError) as error:
        # jsonargparse wraps an error raised in a constructor into its own list of types, as a ValueError.
        if not isinstance(error, ArgumentError) and NOISE[0] not in str(error):
            raise
        raise UsageError(one_sentence(str(error))) from error
    except SystemExit as leaving:  # --help and --print_config
        return int(leaving.code or 0)
    return 0


def _differences(given: Any, stored: Any) -> dict[str, tuple[Any, Any]]:
    """Settings of both that are not equal."""
    given, stored = _plain(given), _plain(stored)
    return {k: (given[k], stored[k]) for k in given if k in stored and given[k] != stored[k]}


def _as_written(value: Any) -> Any:
    """Mappings without the parser's namespaces, which checkpoints cannot hold, and without their defaults."""
    if isinstance(value, Namespace):
        value = chosen(value)
    if isinstance(value, dict):
        return {key: _as_written(item) for key, item in value.items()}
    return [_as_written(item) for item in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    value = value.as_dict() if hasattr(value, "as_dict") else value
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value

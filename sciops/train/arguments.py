"""Command-line words before and after LightningCLI sees them: run names, nested overrides, errors in one sentence."""

import difflib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sciops.core.config import resolve_class
from sciops.core.errors import UsageError

# `net`, `loss`, `sampler` and the like are mappings, in which the parser itself cannot reach deeper than one level.
_NESTED = re.compile(
    r"--model\.(?:init_args\.)?((?!init_args\.)\w+\.(?:class_path|init_args\.[\w.]+))(?:=(.*))?$", re.DOTALL
)
NOISE = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    "- Expected a <class 'NoneType'>",
)

SECTIONS = (
    *("trainer", "model", "data", "seed_everything", "ckpt_path", "name", "runs", "patience", "overwrite", "strict"),
    *("optimizer", "lr_scheduler"),
)


def option(args: Sequence[str], *names: str) -> str | None:
    """The last value given to an option, as `--name value` or `--name=value`."""
    found = None
    for i, word in enumerate(args):
        for name in names:
            if word == name and i + 1 < len(args):
                found = args[i + 1]
            elif word.startswith(f"{name}="):
                found = word.partition("=")[2]
    return found


def expand(args: list[str]) -> list[str]:
    """Without --config, a checkpoint in a run folder brings the configuration of its run."""
    checkpoint = option(args, "--ckpt_path")
    if checkpoint and option(args, "-c", "--config") is None:
        own = Path(checkpoint).parent.parent / "config.yaml"
        if Path(checkpoint).is_file() and own.is_file():
            return [args[0], "--config", str(own), *args[1:]]
    return args


def default_name(args: Sequence[str]) -> str:
    """experiments/darcy_rough/mgno.yaml → darcy_rough/mgno."""
    config = option(args, "-c", "--config")
    if config is None:
        return "unnamed"
    path = Path(config)
    return f"{path.resolve().parent.name}/{path.stem}"


def split_overrides(args: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Words for the parser, and (`net.init_args.width`, value) for the mappings inside the model's arguments."""
    rest, overrides, words = [], [], list(args)
    while words:
        word = words.pop(0)
        match = _NESTED.match(word)
        if match is None:
            rest.append(word)
        elif match.group(2) is not None:
            overrides.append((match.group(1), match.group(2)))
        elif words:
            overrides.append((match.group(1), words.pop(0)))
        else:
            raise UsageError(f"{word} needs a value.")
    return rest, overrides


def deep_set(arguments: Any, key: str, text: str) -> None:
    """Set `net.init_args.width` in the model's arguments, the value read as YAML."""
    import yaml

    first, *path, last = key.split(".")
    table = arguments.get(first)
    table = {"class_path": table} if isinstance(table, str) else dict(table or {})
    arguments[first] = table
    for part in path:
        table[part] = dict(table.get(part) or {})
        table = table[part]
    table[last] = yaml.safe_load(text)


def one_sentence(message: str) -> str:
    """The parser's many lines without its lists of types: what was wrong, where, and what is accepted instead."""
    lines = [line.strip() for line in message.splitlines()]
    kept = [line.removeprefix("- ") for line in lines if line and not line.startswith(NOISE)]
    text = re.sub(r"<class '([\w.]+)'>", r"\1", " ".join(dict.fromkeys(kept)))
    text = re.sub(r"^Parser key \"(model|data)\": (Problem with given class_path )?", r"\1: ", text)
    if "are required: " in text:
        missing = re.sub(r"\b\w+\.", "", text.partition("are required: ")[2])
        return f"The run lacks its {missing}; give --config experiments/PROBLEM/MODEL.yaml, which names them."
    return _remedy(text) or (text if len(text) < 500 else text[:480].rsplit(" ", 1)[0] + " …")


def _remedy(text: str) -> str | None:
    """A better sentence for the mistakes that happen most: a misspelt key, a misspelt class."""
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'|No module named '([\w.]+)'", text):
        named = re.findall(r"'([\w.]+\.\w+)'", text)
        for path in [f"{found[1]}.{found[2]}"] if found[1] else named:
            try:
                resolve_class(path)
            except UsageError as error:
                return str(error)
    if found := re.search(r"'([\w.]+)': Option '([\w.]+)' is not accepted", text):
        accepted = [name for name in inspect.signature(resolve_class(found[1])).parameters if name != "self"]
        return _unknown(found[1].rpartition(".")[2], found[2], accepted)
    if found := re.search(r"does not accept option '([\w.]+)'", text):
        root, _, rest = found[1].partition(".")
        if root == "trainer":
            import lightning.pytorch as pl

            return _unknown("trainer", rest, list(inspect.signature(pl.Trainer).parameters))
        return _unknown("The configuration", root, SECTIONS)
    return None


def _unknown(where: str, key: str, accepted: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, accepted, n=1)
    hint = f"did you mean '{close[0]}'? It" if close else "it"
    return f"{where} has no key '{key}'; {hint} accepts {', '.join(accepted)}."

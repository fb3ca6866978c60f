"""Class paths: how configuration and data files name classes, without letting a file execute code."""

import dataclasses
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sciops.core.errors import UsageError

T = TypeVar("T")
USER_MODULE = "sciops_user_"


def resolve_class(path: str, trusted: bool = True) -> type:
    """The class named by `package.module.Class`, or by `file.py:Class` / `module.Class` of the user's own.

    With `trusted=False` (paths found inside data files and checkpoints) only `sciops` classes and classes of
    modules that the program has already imported are resolved: reading a file never imports new code.
    """
    if not isinstance(path, str):
        raise UsageError(f"class_path must be text like package.module.Class; got {path!r}.")
    if ":" in path:
        file, _, name = path.rpartition(":")
        if not trusted:
            raise UsageError(f"class_path '{path}' comes from a file and would execute {file}; import it first.")
        return _attribute(_load_file(Path(file)), name, path)
    module_name, _, name = path.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in path.split(".")):
        raise UsageError(f"class_path must look like package.module.Class or file.py:Class; got '{path}'.")
    if module_name not in sys.modules and not trusted and not module_name.startswith("sciops."):
        file = module_name.removeprefix(USER_MODULE)
        how = f"import {module_name} in your program" if file == module_name else f"name it {file}.py:{name}"
        raise UsageError(
            f"class_path '{path}' is named by a data file but its module is not imported; "
            f"{how}, or name the problem in your own configuration."
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"class_path '{path}': importing {module_name} failed: {error}.") from error
    return _attribute(module, name, path)


def _attribute(module: Any, name: str, path: str) -> type:
    found = getattr(module, name, None)
    if not isinstance(found, type):
        classes = sorted(n for n, v in vars(module).items() if isinstance(v, type) and not n.startswith("_"))
        close = difflib.get_close_matches(name, classes, n=1)
        hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(classes) or 'no class'}."
        raise UsageError(f"class_path '{path}': module '{module.__name__}' has no class '{name}'; {hint}")
    return found


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"class_path file {path} does not exist.")
    name = USER_MODULE + path.stem
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path.resolve()):
        return sys.modules[name]
    specification = importlib.util.spec_from_file_location(name, path.resolve())
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]  # half a module must not be found by the next caller
        if isinstance(error, ImportError | SyntaxError):
            raise UsageError(f"class_path file {path} cannot be imported: {error}.") from error
        raise
    return module


def build(config: dict[str, Any] | str, base: type[T], trusted: bool = True) -> T:
    """Instantiate `{class_path: …, init_args: {…}}`, checking the class and every argument name."""
    import inspect

    if isinstance(config, str):
        config = {"class_path": config}
    if not isinstance(config, dict) or "class_path" not in config:
        raise UsageError(f"Expected a mapping with class_path and init_args; got {config!r}.")
    extra = set(config) - {"class_path", "init_args"}
    if extra:
        raise UsageError(
            f"Unknown key(s) {', '.join(sorted(map(str, extra)))} beside class_path; accepted: class_path, init_args."
        )
    cls = resolve_class(config["class_path"], trusted)
    if not issubclass(cls, base):
        raise UsageError(f"class_path '{config['class_path']}' is not a {base.__name__}.")
    arguments = config.get("init_args") or {}
    if not isinstance(arguments, dict):
        raise UsageError(f"init_args of {cls.__name__} must be a mapping of argument names; got {arguments!r}.")
    parameters = inspect.signature(cls).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        unknown = sorted(set(arguments) - set(parameters))
        if unknown:
            raise UsageError(
                f"{cls.__name__} has no argument '{unknown[0]}'; it accepts {', '.join(parameters) or 'none'}."
            )
    try:
        return cls(**arguments)
    except TypeError as error:
        raise UsageError(f"{cls.__name__}: {error}.") from error


def chosen(config: Any) -> dict[str, Any]:
    """`{class_path, init_args}` as it was written: command lines hand it over as a namespace with every default filled
    in, which would look like the user's own choice and keep the owner from giving what it knows."""
    import inspect

    table = {"class_path": config} if isinstance(config, str) else getattr(config, "__dict__", config)
    if not isinstance(table, dict) or "class_path" not in table:
        raise UsageError(f"Expected a mapping with class_path and init_args; got {config!r}.")
    arguments = table.get("init_args") or {}
    if not isinstance(arguments, dict):
        parameters = inspect.signature(resolve_class(table["class_path"])).parameters
        arguments = {
            name: value
            for name, value in vars(arguments).items()
            if name not in parameters or value != parameters[name].default
        }
    return table | {"init_args": dict(arguments)}


def check_keys(given: dict[str, Any], accepted: Iterable[str], where: str) -> None:
    """Raise UsageError for the first key that is not accepted, with the closest accepted one."""
    accepted = list(accepted)
    for key in given:
        if key not in accepted:
            close = difflib.get_close_matches(str(key), accepted, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise UsageError(f"{where} has no key '{key}'; accepted: {', '.join(accepted)}.{hint}")


def spec(instance: Any) -> dict[str, Any]:
    """The `{class_path, init_args}` that `build` turns back into an equal frozen dataclass."""
    cls = type(instance)
    if not dataclasses.is_dataclass(instance):
        raise UsageError(f"{cls.__name__} must be a frozen dataclass, so that files can name its arguments.")
    arguments = {f.name: _plain(getattr(instance, f.name)) for f in dataclasses.fields(instance) if f.init}
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value

"""The run-time type checker of the tests: beartype, with an int accepted where a float is asked (PEP 484).

In every test each function of the package has its arguments and its answer checked at its first `FIRST` calls and at
one in `EACH` of those that follow: loops of solvers and trainings call it with the same shapes ten thousand times. Its
checker is made at its first call, because a run of the tests calls far fewer functions than it imports.
"""

import ast
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import _import_hook

FIRST, EACH = 50, 32

enforce = beartype(conf=BeartypeConf(is_pep484_tower=True))
_always = jaxtyping.jaxtyped
_test = 0


def install() -> None:
    """Check the package from here on; to be called before its first import."""
    leave_closures_alone()
    jaxtyping.jaxtyped = at_first_calls  # the name that the hook writes above every function and class
    jaxtyping.install_import_hook("sciops", "typechecking.enforce")


def next_test() -> None:
    """The calls of every function are counted anew."""
    global _test
    _test += 1


def at_first_calls(fn: Any = None, *, typechecker: Callable) -> Any:
    """`jaxtyping.jaxtyped` for functions and dataclasses: at all first calls in a test, at some of the others."""
    if fn is None:
        return functools.partial(at_first_calls, typechecker=typechecker)
    if inspect.isclass(fn):
        if dataclasses.is_dataclass(fn) and not hasattr(fn.__init__, "_counted"):
            fn.__init__ = at_first_calls(fn.__init__, typechecker=typechecker)
        return fn
    checked, test, calls = None, -1, 0

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal checked, test, calls
        if torch.compiler.is_dynamo_compiling():
            return fn(*args, **kwargs)
        if test != _test:
            test, calls = _test, 0
        calls += 1
        if calls > FIRST and calls % EACH:
            return fn(*args, **kwargs)
        if checked is None:
            checked = _always(fn, typechecker=typechecker)
        return checked(*args, **kwargs)

    call._counted = True  # type: ignore[attr-defined]
    return call


def leave_closures_alone() -> None:
    """Check functions of modules and classes alone: a function inside of one would be compiled anew at every call."""
    outermost = _import_hook.JaxtypingTransformer.visit_FunctionDef

    def visit(self: _import_hook.JaxtypingTransformer, node: ast.FunctionDef) -> ast.FunctionDef:
        inside = any(isinstance(parent, ast.FunctionDef) for parent in self._parents)
        return node if inside else outermost(self, node)

    _import_hook.JaxtypingTransformer.visit_FunctionDef = visit

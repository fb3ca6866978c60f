"""The run-time type checker of the tests: beartype, with an int accepted where a float is asked (PEP 484)."""

import ast

from beartype import BeartypeConf, beartype
from jaxtyping import _import_hook

enforce = beartype(conf=BeartypeConf(is_pep484_tower=True))


def leave_closures_alone() -> None:
    """Check functions of modules and classes alone: a function inside of one would be compiled anew at every call."""
    outermost = _import_hook.JaxtypingTransformer.visit_FunctionDef

    def visit(self: _import_hook.JaxtypingTransformer, node: ast.FunctionDef) -> ast.FunctionDef:
        inside = any(isinstance(parent, ast.FunctionDef) for parent in self._parents)
        return node if inside else outermost(self, node)

    _import_hook.JaxtypingTransformer.visit_FunctionDef = visit

"""Formulas as text ("sin(pi*x)*exp(y)") turned into differentiable torch functions, without eval."""

import ast
import math
import operator
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sciops.core.errors import UsageError

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    name: getattr(torch, name)
    for name in ("sin", "cos", "tan", "exp", "log", "sqrt", "tanh", "sinh", "cosh", "abs", "atan")
}
CONSTANTS = {"pi": math.pi, "e": math.e}
_BINARY: dict[type[ast.operator], Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def evaluate(expression: str, variables: Mapping[str, Tensor]) -> Tensor:
    """Value of the expression at the variables; broadcasting like torch. Raises UsageError for anything
    but + − * / **, numbers, parentheses, the variables, pi, e and the functions in FUNCTIONS."""
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise UsageError(f"expression {expression!r} is not a formula: {error}.") from None

    def visit(node: ast.expr) -> Tensor | float:
        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return float(value)
            case ast.Name(id=name) if name in variables:
                return variables[name]
            case ast.Name(id=name) if name in CONSTANTS:
                return CONSTANTS[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -visit(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return visit(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                base, other = visit(left), visit(right)
                if isinstance(op, ast.Pow) and isinstance(other, float) and other.is_integer():
                    other = int(other)  # keeps 0**n differentiable
                result = _BINARY[type(op)](base, other)
                if isinstance(result, complex):
                    raise ArithmeticError("the power is not real")
                return result
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
                return FUNCTIONS[name](torch.as_tensor(visit(argument), dtype=dtype, device=device))
        raise UsageError(
            f"expression '{expression}': '{ast.unparse(node)}' is not allowed; use numbers, + - * / **, "
            f"{', '.join(variables)}, {', '.join(CONSTANTS)} and {', '.join(FUNCTIONS)}."
        )

    sample = next(iter(variables.values()))
    dtype, device = sample.dtype, sample.device
    try:
        value = visit(tree.body)
    except (ArithmeticError, RecursionError) as error:
        raise UsageError(f"expression '{expression}' has no value: {error}.") from None
    value = torch.as_tensor(value, dtype=dtype, device=device)
    return value if value.dim() else value.expand_as(sample)

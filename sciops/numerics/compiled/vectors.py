"""Vector registers inside compiled loops: numbers, loads and stores, written for LLVM with operators of Python.

LLVM vectorises simple loops by itself, but neither blocks of outputs that stay in registers nor loops over a handful of
arrays that might overlap. Bodies of `intrinsic` functions say with these classes what happens to one vector of points;
a machine with narrower registers splits it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils


def _wide() -> bool:
    try:
        return bool(llvm.get_host_cpu_features().get("avx512f"))
    except RuntimeError:  # processors that LLVM cannot ask
        return False


WIDE = _wide()

VECTOR = 64 if WIDE else 32
"""Bytes of one vector."""

INTEGER = ir.IntType(64)
FUSED = ("contract",)
"""A product and a sum may be rounded once."""


class Value:
    """A number or a vector of them, floating or integer, with + − × and, for floats, ÷."""

    def __init__(self, builder: Any, raw: Any) -> None:
        self.builder, self.raw = builder, raw

    def _apply(self, floating: str, integer: str, a: Any, b: Any) -> "Value":
        kind = getattr(self.raw.type, "element", self.raw.type)
        a, b = self.like(a).raw, self.like(b).raw
        if isinstance(kind, ir.IntType):
            return Value(self.builder, getattr(self.builder, integer)(a, b))
        return Value(self.builder, getattr(self.builder, floating)(a, b, flags=FUSED))

    def like(self, other: Any) -> "Value":
        """A number of Python as a constant of this kind."""
        if isinstance(other, Value):
            return other
        kind = self.raw.type
        constant = (
            ir.Constant(kind, [other] * kind.count) if isinstance(kind, ir.VectorType) else ir.Constant(kind, other)
        )
        return Value(self.builder, constant)

    def __add__(self, other: Any) -> "Value":
        return self._apply("fadd", "add", self, other)

    def __sub__(self, other: Any) -> "Value":
        return self._apply("fsub", "sub", self, other)

    def __rsub__(self, other: Any) -> "Value":
        return self._apply("fsub", "sub", other, self)

    def __mul__(self, other: Any) -> "Value":
        return self._apply("fmul", "mul", self, other)

    def __truediv__(self, other: Any) -> "Value":
        return self._apply("fdiv", "sdiv", self, other)

    __radd__, __rmul__ = __add__, __mul__

    def chosen(self, sign: str, bound: Any, yes: Any, no: Any) -> "Value":
        """`yes` where this compares so with the bound, `no` elsewhere and where it is NaN."""
        test = self.builder.fcmp_ordered(sign, self.raw, self.like(bound).raw)
        return Value(self.builder, self.builder.select(test, self.like(yes).raw, self.like(no).raw))


class Variable:
    """A vector that changes in loops; stays in a register."""

    def __init__(self, start: Value) -> None:
        self.builder = start.builder
        self.place = cgutils.alloca_once(self.builder, start.raw.type)
        self.set(start)

    def get(self) -> Value:
        return Value(self.builder, self.builder.load(self.place))

    def set(self, value: Value) -> None:
        self.builder.store(value.raw, self.place)

    def add(self, value: Value) -> None:
        self.set(self.get() + value)


class Lanes:
    """Vectors of the entries of flat arrays of one floating-point type."""

    def __init__(self, context: Any, builder: Any, kind: Any) -> None:
        self.context, self.builder = context, builder
        self.scalar = context.get_value_type(kind.dtype)
        self.bits = kind.dtype.bitwidth
        self.size = self.bits // 8
        self.count = VECTOR // self.size
        self.vector = ir.VectorType(self.scalar, self.count)

    def constant(self, number: float) -> Value:
        return Value(self.builder, ir.Constant(self.vector, [number] * self.count))

    def load(self, data: Any, index: Value) -> Value:
        return Value(self.builder, self.builder.load(self._at(data, index), align=self.size))

    def store(self, value: Value, data: Any, index: Value) -> None:
        self.builder.store(value.raw, self._at(data, index), align=self.size)

    def _at(self, data: Any, index: Value) -> Any:
        return self.builder.bitcast(self.builder.gep(data, [index.raw]), self.vector.as_pointer())

    def same(self, data: Any, index: Value) -> Value:
        """One number in all entries."""
        nothing, number = ir.Constant(self.vector, ir.Undefined), self.builder.load(self.builder.gep(data, [index.raw]))
        first = self.builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.count), [0] * self.count)
        return Value(self.builder, self.builder.shuffle_vector(first, nothing, zeros))

    def total(self, value: Value) -> Value:
        """The sum of all entries, by halves."""
        n = self.count
        while n > 1:
            n //= 2
            halves = [ir.Constant(ir.VectorType(ir.IntType(32), n), [*range(a, a + n)]) for a in (0, n)]
            low, high = (Value(self.builder, self.builder.shuffle_vector(value.raw, value.raw, h)) for h in halves)
            value = low + high
        return Value(self.builder, self.builder.extract_element(value.raw, ir.Constant(ir.IntType(32), 0)))


def pointer(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Where the entries of an array begin."""
    return context.make_array(kind)(context, builder, array).data


@contextlib.contextmanager
def counted(count: Value, step: int = 1) -> Iterator[Value]:
    """A loop over 0, step, … below the count."""
    builder = count.builder
    start, stop, by = (ir.Constant(INTEGER, 0), count.raw, ir.Constant(INTEGER, step))
    with cgutils.for_range_slice(builder, start, stop, by, INTEGER) as (index, _):
        yield Value(builder, index)

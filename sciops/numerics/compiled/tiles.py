"""Products of small matrices with panels of points.

A panel holds rows of BYTES bytes, one entry per point. Blocks of its products with a few weights, given as scalars,
stay in registers: no padding, no transposed copies, and no calls that cost more than the arithmetic.
"""

from typing import Any, no_type_check

from numba import njit, types
from numba.extending import intrinsic

from sciops.numerics.compiled.vectors import VECTOR, WIDE, Lanes, Value, Variable, counted, pointer

BYTES = 256
"""Of one row of a panel."""

ROWS = 4
SPAN = 4 if WIDE else 2
"""Rows of a block; vectors of a row, or columns of an outer product: as many sums as there are registers for."""


def whole(count: int, itemsize: int) -> int:
    """Points of as many whole panels as `count` points need."""
    points = BYTES // itemsize
    return -(-count // points) * points


def _sum_of(rows: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def block(typing: Any, bias: Any, bo: Any, w: Any, wo: Any, wr: Any, wc: Any, x: Any, xo: Any, y: Any, yo: Any,
              inner: Any) -> Any:  # fmt: skip
        """y[r] = bias[r] + Σ_q w[r, q] x[q] for a few rows and a part of them."""
        kinds = (bias, bo, w, wo, wr, wc, x, xo, y, yo, inner)

        def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            lanes = Lanes(context, builder, x)
            start, weights, inputs, outputs = (pointer(context, builder, kinds[k], given[k]) for k in (0, 2, 6, 8))
            bo, wo, wr, wc, xo, yo, inner = (Value(builder, given[k]) for k in (1, 3, 4, 5, 7, 9, 10))
            row = BYTES // lanes.size
            sums = []
            for r in range(rows):
                number = lanes.same(start, bo + r)
                sums.append([Variable(number) for _ in range(SPAN)])
            with counted(inner) as q:
                parts = [lanes.load(inputs, xo + q * row + v * lanes.count) for v in range(SPAN)]
                for r, own in enumerate(sums):
                    number = lanes.same(weights, wo + q * wc + wr * r)
                    for into, part in zip(own, parts, strict=True):
                        into.add(number * part)
            for r, own in enumerate(sums):
                for v, into in enumerate(own):
                    lanes.store(into.get(), outputs, yo + (r * row + v * lanes.count))
            return context.get_dummy_value()

        return types.void(*kinds), emit

    return block


def _outer_of(rows: int, columns: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def block(typing: Any, g: Any, go: Any, gs: Any, x: Any, xo: Any, xs: Any, d: Any, do: Any, ds: Any, panels: Any
              ) -> Any:  # fmt: skip
        """d[r, q] += Σ g[r] · x[q] for a few rows of each, over panels that are gs and xs apart."""
        kinds = (g, go, gs, x, xo, xs, d, do, ds, panels)

        def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            lanes = Lanes(context, builder, x)
            lefts, rights, into = (pointer(context, builder, kinds[k], given[k]) for k in (0, 3, 6))
            go, gs, xo, xs, do, ds, panels = (Value(builder, given[k]) for k in (1, 2, 4, 5, 7, 8, 9))
            row = BYTES // lanes.size
            sums = [[Variable(lanes.constant(0.0)) for _ in range(columns)] for _ in range(rows)]
            with counted(panels) as c:
                left, right = go + c * gs, xo + c * xs
                for v in range(0, row, lanes.count):
                    ours = [lanes.load(lefts, left + (r * row + v)) for r in range(rows)]
                    others = [lanes.load(rights, right + (q * row + v)) for q in range(columns)]
                    for own, a in zip(sums, ours, strict=True):
                        for total, b in zip(own, others, strict=True):
                            total.add(a * b)
            for r, own in enumerate(sums):
                for q, total in enumerate(own):
                    place = builder.gep(into, [(do + ds * r + q).raw])
                    builder.store((Value(builder, builder.load(place)) + lanes.total(total.get())).raw, place)
            return context.get_dummy_value()

        return types.void(*kinds), emit

    return block


_sums, _sum = _sum_of(ROWS), _sum_of(1)
_outers, _outer_rows, _outer_columns, _outer = (_outer_of(r, q) for r in (ROWS, 1) for q in (SPAN, 1))


@njit(cache=True, error_model="numpy")
@no_type_check
def combine(w, wo, wr, wc, rows, inner, bias, bo, x, y):
    """y[r] = bias[r] + Σ_q w[r, q] x[q], one panel of each; w[r, q] is at wo + r wr + q wc, bias[r] at bo + r."""
    row = BYTES // x.itemsize
    for i in range(0, row, SPAN * VECTOR // x.itemsize):
        whole = rows // ROWS * ROWS
        for r in range(0, whole, ROWS):
            _sums(bias, bo + r, w, wo + r * wr, wr, wc, x, i, y, r * row + i, inner)
        for r in range(whole, rows):
            _sum(bias, bo + r, w, wo + r * wr, wr, wc, x, i, y, r * row + i, inner)


@njit(cache=True, error_model="numpy")
@no_type_check
def correlate(g, rows, x, inner, panels, d, do):
    """d[r, q] += Σ g[c, r] · x[c, q] over panels c; d[r, q] is at do + r inner + q."""
    row = BYTES // x.itemsize
    gs, xs = rows * row, inner * row
    tall, broad = rows // ROWS * ROWS, inner // SPAN * SPAN
    for r in range(0, tall, ROWS):
        for q in range(0, broad, SPAN):
            _outers(g, r * row, gs, x, q * row, xs, d, do + r * inner + q, inner, panels)
        for q in range(broad, inner):
            _outer_rows(g, r * row, gs, x, q * row, xs, d, do + r * inner + q, inner, panels)
    for r in range(tall, rows):
        for q in range(0, broad, SPAN):
            _outer_columns(g, r * row, gs, x, q * row, xs, d, do + r * inner + q, inner, panels)
        for q in range(broad, inner):
            _outer(g, r * row, gs, x, q * row, xs, d, do + r * inner + q, inner, panels)

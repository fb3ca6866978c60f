import time

from sciops.compare.meter import Protocol, Timing, measure


def test_repeats_are_interleaved_and_counted():
    order = []
    timings = measure({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, Protocol(repeats=6, warmup=1))
    assert timings["a"].repeats == timings["b"].repeats == 6
    assert order[2:] == ["a", "b"] * 6


def test_budget_ends_slow_calls_but_not_before_three_runs():
    timings = measure({"slow": lambda: time.sleep(0.02)}, Protocol(repeats=50, seconds=0.05, warmup=1))
    assert 3 <= timings["slow"].repeats < 50
    assert timings["slow"].low >= 0.02


def test_spread_is_the_interquartile_range_over_the_median():
    assert abs(Timing(median=2.0, low=1.8, high=2.4, first=3.0, repeats=9).spread - 0.3) < 1e-12

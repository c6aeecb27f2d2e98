"""The timer: functions in alternation, so that whatever disturbs the machine disturbs all of them."""

import math
import statistics
import time
from collections.abc import Callable

import jax

Function = Callable[[], object]


def seconds(function: Function) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def alternate(functions: dict[str, Function], rounds: int, at_least: float = 0.02) -> dict[str, list[float]]:
    """Return the seconds of one call of each function in each round.

    All functions are warmed up, and called as often in a round as the fastest needs for `at_least` seconds. The order
    within a round turns, so that none always runs behind the same other one.
    """
    for function in functions.values():
        seconds(function)
    calls = max(1, math.ceil(at_least / min(map(seconds, functions.values()))))
    names, times = list(functions), {name: [] for name in functions}
    for turn in range(rounds):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            times[name].append(_repeated(functions[name], calls) / calls)
    return times


def _repeated(function: Function, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        result = function()
    jax.block_until_ready(result)
    return time.perf_counter() - start


def median(values: list[float]) -> float:
    return statistics.median(values)

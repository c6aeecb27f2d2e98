"""How time grows with the number of parameters, of leaves, of distinct shapes, and with the length of a chain."""

import time
from typing import Any

import jax
import jax.numpy as jnp

import jaxreg
from tests.benchmarks import programs, settings
from tests.benchmarks.measurement import Limit, Measurement, exact, ratios
from tests.benchmarks.timing import alternate

FAMILY = "growth"
TREE = jaxreg.TreeRegularizer({"**": jaxreg.L1L2(1e-4, 1e-3)})


def measure(config: settings.Settings) -> list[Measurement]:
    return [*_parameters(config), *_leaves(config), *_compilation(config), *_chains(config)]


def _parameters(config: settings.Settings) -> list[Measurement]:
    """Time for each parameter, from a thousand on; beyond the cache it must not grow."""
    sizes = [10**3, 10**4, 10**5] if config.quick else [10**3, 10**4, 10**5, 10**6, 10**7, 10**8]
    functions = {
        f"{size:.0e} parameters": _value_of({str(i): jnp.ones(size // 10) for i in range(10)}) for size in sizes
    }
    times = alternate(functions, config.rounds, config.at_least)
    each = {name: [t / size for t in times[name]] for name, size in zip(times, sizes, strict=True)}
    largest, before = list(each)[-1], list(each)[-2]
    limit = None if config.quick else Limit("≤", 1.2)
    found = ratios(FAMILY, f"penalty, time for each of {largest}", each, {before: limit}, ours=largest)
    return found + ratios(FAMILY, f"penalty, time for {largest}", times, dict.fromkeys(list(times)[:-2]), ours=largest)


def _leaves(config: settings.Settings) -> list[Measurement]:
    """The same number of parameters in more leaves."""
    total = config.scaled(10**7, 10**4)
    counts = [10, 40] if config.quick else [10, 100, 1000]
    functions = {f"{n} leaves": _value_of({str(i): jnp.ones(total // n) for i in range(n)}) for n in counts}
    times = alternate(functions, config.rounds, config.at_least)
    first, *more = list(times)
    return [row for name in more for row in ratios(FAMILY, f"penalty, {name}", times, {first: None}, ours=name)]


def _chains(config: settings.Settings) -> list[Measurement]:
    """Total variation and monotone entries of noise: the time for each entry of chains of a thousand to a million."""
    sizes = [10**2, 10**3] if config.quick else [10**3, 10**4, 10**5, 10**6]
    found = []
    for reg in (jaxreg.Difference(jaxreg.L1(0.01)), jaxreg.Monotone()):
        functions = {}
        for size in sizes:
            z = settings.normal((size,))
            program = programs.compile_(reg.prox, z)
            functions[f"{size:.0e} entries"] = lambda program=program, z=z: program(z)
        times = alternate(functions, config.slow_rounds, config.at_least)
        each = {name: [t / size for t in times[name]] for name, size in zip(times, sizes, strict=True)}
        first, *more = each
        for name in more:
            work = f"prox of {type(reg).__name__}, time for each of {name}"
            found += ratios(FAMILY, work, each, {first: None}, ours=name, stated=True)
            seconds = min(times[name])
            found.append(exact(FAMILY, f"prox of {type(reg).__name__}, {name}", "-", 1e3 * seconds, "ms", None))
    return found


def _compilation(config: settings.Settings) -> list[Measurement]:
    few, many = config.scaled(30, 4), config.scaled(300, 12)
    trees = {
        f"{few} leaves": {str(i): jnp.ones((8, 8)) for i in range(few)},
        f"{many} leaves of one shape": {str(i): jnp.ones((8, 8)) for i in range(many)},
        f"{many} leaves of as many shapes": {str(i): jnp.ones((8, i + 1)) for i in range(many)},
    }
    times: dict[str, list[float]] = {name: [] for name in trees}
    for _ in range(config.slow_rounds):
        for name, params in trees.items():
            times[name].append(_compile_seconds(params))
    first, same, different = trees
    each = {first: [t / few for t in times[first]], same: [t / many for t in times[same]]}
    limit = None if config.quick else Limit("≤", 1.2)
    found = ratios(FAMILY, f"compile, time for each of {same}", each, {first: limit}, ours=same)
    return found + ratios(FAMILY, f"compile {same}", times, {different: None}, ours=same)


def _compile_seconds(params: Any) -> float:
    jax.clear_caches()
    start = time.perf_counter()
    programs.compile_(jax.value_and_grad(TREE), params)
    return time.perf_counter() - start


def _value_of(params: Any) -> Any:
    program = programs.compile_(TREE, params)
    return lambda: program(params)

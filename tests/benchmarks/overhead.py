"""What does not depend on the size of the arrays: a call, tracing, compiling, importing."""

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxreg
from tests.benchmarks import peers, settings
from tests.benchmarks.measurement import Limit, Measurement, ratios
from tests.benchmarks.timing import alternate

FAMILY = "overhead"


def measure(config: settings.Settings) -> list[Measurement]:
    return [*_eager(config), *_programs(config), *_import(config)]


def _eager(config: settings.Settings) -> list[Measurement]:
    x, reg = jnp.ones((8, 8)), jaxreg.L2(0.01)
    by_hand = jax.jit(lambda c, x: c * jnp.sum(jnp.square(x)))
    functions = {"jaxreg": lambda: reg(x), "the same function in jax.jit": lambda: by_hand(0.01, x)}
    if peers.keras is not None:
        keras_reg = peers.keras.regularizers.L2(0.01)
        functions["Keras"] = lambda: keras_reg(x)
    times = alternate(functions, config.rounds, config.at_least)
    limits = {"the same function in jax.jit": Limit("≤", 1.2), "Keras": None}
    return ratios(FAMILY, "eager call of L2 on an 8×8 array", times, limits)


def many_leaves(leaves: int) -> tuple[dict[str, Any], jaxreg.TreeRegularizer, list[Callable[[Any], Any]]]:
    """A tree of small leaves, 20 rules for it, and the same penalties written by hand in the order of the leaves."""
    shapes = [(8, 8), (16, 8), (64,), (4, 4, 4), (12, 12)]
    params = {f"block_{i % 20}/layer_{i}": jnp.ones(shapes[i % len(shapes)]) for i in range(leaves)}
    rules = {f"block_{k}/**": jaxreg.L1L2(0.01 * k, 0.02) if k % 2 else jaxreg.L2(0.01 * k) for k in range(20)}
    by_hand = [_by_hand(0.01 * (i % 20), i % 2 == 1) for i in range(leaves)]
    return params, jaxreg.TreeRegularizer(rules), by_hand


def _by_hand(strength: float, both: bool) -> Callable[[Any], Any]:
    if both:
        return lambda x: strength * jnp.sum(jnp.abs(x)) + 0.02 * jnp.sum(jnp.square(x))
    return lambda x: strength * jnp.sum(jnp.square(x))


def _programs(config: settings.Settings) -> list[Measurement]:
    leaves = config.scaled(1000, 20)
    params, reg, by_hand = many_leaves(leaves)

    def handwritten(params: Any) -> Any:
        return sum(penalty(x) for penalty, x in zip(by_hand, params.values(), strict=True))

    phases = {"jaxreg": [], "written by hand": []}
    for _ in range(config.slow_rounds):
        for name, loss in {"jaxreg": reg, "written by hand": handwritten}.items():
            phases[name].append(_trace_and_compile(loss, params))
    found = []
    for i, phase in enumerate(("trace", "compile")):
        times = {name: [seconds[i] for seconds in rows] for name, rows in phases.items()}
        work = f"{phase} value and gradient, {leaves} leaves, 20 rules"
        found += ratios(FAMILY, work, times, {"written by hand": Limit("≤", 1.2)})
    return found


def _trace_and_compile(loss: Callable[[Any], Any], params: Any) -> tuple[float, float]:
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(jax.value_and_grad(lambda params: loss(params))).lower(params)
    traced = time.perf_counter()
    lowered.compile()
    return traced - start, time.perf_counter() - traced


def _import(config: settings.Settings) -> list[Measurement]:
    """CPU time of whole processes in alternation, after one of each that writes the bytecode; not so if quick."""
    times: dict[str, list[float]] = {"jaxreg": [], "import optax": []}
    for i in range(config.scaled(config.slow_rounds + 1, 1)):
        for name, code in {"jaxreg": "import jaxreg", "import optax": "import optax"}.items():
            seconds = _cpu_seconds(code)
            if i or config.quick:
                times[name].append(seconds)
    return ratios(FAMILY, "import jaxreg", times, {"import optax": Limit("≤", 1.05)})


def _cpu_seconds(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

"""Many strengths trained at once by `vmap` over a stacked regularizer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxreg
from tests.benchmarks import peers, settings
from tests.benchmarks.measurement import Measurement, ratios
from tests.benchmarks.timing import alternate

STRENGTHS, KERAS_FITS = 32, 4
WIDTH, CLASSES, RATE, BATCH = 32, 10, 1e-2, 64
FAMILY = "sweep"


def measure(config: settings.Settings) -> list[Measurement]:
    strengths, steps = config.scaled(STRENGTHS, 2), config.scaled(300, 5)
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal((steps, BATCH, 64), np.float32))
    labels = jnp.asarray(rng.integers(0, CLASSES, (steps, BATCH)))
    shapes = {
        "hidden": {"kernel": (64, WIDTH), "bias": (WIDTH,)},
        "out": {"kernel": (WIDTH, CLASSES), "bias": (CLASSES,)},
    }
    params = settings.normal(shapes)
    optimizer = optax.adam(RATE)

    def loss(params: Any, reg: jaxreg.L1, x: jax.Array, y: jax.Array) -> jax.Array:
        hidden = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
        logits = hidden @ params["out"]["kernel"] + params["out"]["bias"]
        task = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return task + jaxreg.TreeRegularizer({"**/kernel": reg})(params)

    def step(params: Any, state: Any, reg: jaxreg.L1, x: jax.Array, y: jax.Array) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(params, reg, x, y), state, params)
        return optax.apply_updates(params, updates), state

    values = jnp.logspace(-5, -1, strengths)
    one_by_one, at_once = jax.jit(step), jax.jit(jax.vmap(step, in_axes=(0, 0, 0, None, None)))

    def loop() -> Any:
        for value in values:
            p, state, reg = params, optimizer.init(params), jaxreg.L1(value)
            for i in range(steps):
                p, state = one_by_one(p, state, reg, inputs[i], labels[i])
        return p

    def stacked() -> Any:
        p = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (strengths, *leaf.shape)), params)
        state, regs = jax.vmap(optimizer.init)(p), jax.vmap(jaxreg.L1)(values)
        for i in range(steps):
            p, state = at_once(p, state, regs, inputs[i], labels[i])
        return p

    functions = {"jaxreg": stacked, "a loop of the same compiled step": loop}
    times = alternate(functions, config.slow_rounds, 0)
    work = f"{strengths} strengths of L1 by vmap, {steps} steps"
    found = ratios(FAMILY, work, times, {"a loop of the same compiled step": None}, stated=True)
    if peers.keras is not None:
        fits = config.scaled(KERAS_FITS, 1)
        name = f"{strengths} Keras fits ({fits} measured)"
        data = np.asarray(inputs).reshape(-1, 64), np.asarray(labels).ravel()
        times = alternate({"jaxreg": stacked, name: lambda: _keras_fits(values[:fits], *data)}, config.scaled(2, 1), 0)
        times[name] = [seconds * strengths / fits for seconds in times[name]]
        found += ratios(FAMILY, work, times, {name: None}, stated=True)
    return found


def _keras_fits(strengths: Any, x: np.ndarray, y: np.ndarray) -> None:
    keras = peers.keras
    for strength in strengths:
        reg = keras.regularizers.L1(float(strength))
        layers = [
            keras.layers.Dense(WIDTH, "relu", kernel_regularizer=reg),
            keras.layers.Dense(CLASSES, kernel_regularizer=reg),
        ]
        model = keras.Sequential([keras.Input((64,)), *layers])
        model.compile(keras.optimizers.Adam(RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(x, y, batch_size=BATCH, epochs=1, shuffle=False, verbose=0)

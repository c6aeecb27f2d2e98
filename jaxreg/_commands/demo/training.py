"""Training: one jitted step, run to the end, measured a number of times on the way."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from jaxreg._commands.demo.network import LAYERS, array
from jaxreg._commands.demo.runs import Run, cross_entropy
from jaxreg._commands.digits import Digits, Part, batches

BATCH_SIZE = 100
MEASUREMENTS = 60  # of a run; often enough for a smooth curve, rare enough to cost next to nothing


class Result(NamedTuple):
    label: str
    steps: list[int]  # at which the curves were measured
    train_loss: list[float]  # without penalty, on the whole training part
    test_accuracy: list[float]
    kernels: dict[str, NDArray[np.float32]]  # by layer, as the other two
    penalty: dict[str, float] | None  # None where there is none
    zeros: dict[str, float]  # share of the entries that are exactly 0
    activity: float  # output of the first layer, mean over its units and the test images
    compilations: int  # of the training step
    seconds: float


def train(run: Run, digits: Digits, steps: int, seed: int, report: Callable[[int, float], None]) -> Result:
    """Train a run from the weights and with the batches that its seed gives.

    Args:
        run: what to train.
        digits: the data.
        steps: number of batches.
        seed: of the initial weights and of the order of the batches; the same for every run.
        report: called with (steps done, test accuracy) at each measurement.
    """
    start = time.perf_counter()
    compilations = 0

    @jax.jit
    def step(params: Any, state: Any, batch: Part) -> tuple[Any, Any]:
        nonlocal compilations
        compilations += 1  # Python runs this line when JAX traces the step, and at no other time
        grads = jax.grad(run.loss)(params, batch.images, batch.labels)
        updates, state = run.optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def measure(params: Any) -> tuple[jax.Array, jax.Array]:
        loss = cross_entropy(run.network.apply(params, digits.train.images), digits.train.labels)
        guesses = run.network.apply(params, digits.test.images).argmax(axis=-1)
        return loss, jnp.mean(guesses == digits.test.labels)

    params = run.network.init(seed)
    state = run.optimizer.init(params)
    every = max(1, steps // MEASUREMENTS)
    curves: list[tuple[int, float, float]] = []
    for done, batch in zip(range(steps + 1), batches(digits.train, BATCH_SIZE, seed), strict=False):
        if done % every == 0 or done == steps:
            loss, accuracy = map(float, measure(params))
            curves.append((done, loss, accuracy))
            report(done, accuracy)
        if done < steps:
            params, state = step(params, state, batch)

    at, losses, accuracies = map(list, zip(*curves, strict=True))
    kernels = {layer: array(params, layer, "kernel") for layer in LAYERS}
    return Result(
        label=run.label,
        steps=at,
        train_loss=losses,
        test_accuracy=accuracies,
        kernels=kernels,
        penalty=_by_layer(run.penalties(params, digits.train.images)),
        zeros={layer: float(np.mean(kernel == 0)) for layer, kernel in kernels.items()},
        activity=float(np.mean(np.maximum(digits.test.images @ kernels["first"] + array(params, "first", "bias"), 0))),
        compilations=compilations,
        seconds=time.perf_counter() - start,
    )


def _by_layer(penalties: dict[str, jax.Array]) -> dict[str, float] | None:
    """Add up what belongs to a layer: `first/kernel`, `first/activity`."""
    if not penalties:
        return None
    total = dict.fromkeys(LAYERS, 0.0)
    for path, penalty in penalties.items():
        total[path.split("/")[0]] += float(penalty)
    return total

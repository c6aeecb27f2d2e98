"""Training: one jitted step, repeated, with measurements on the way."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from jaxreg._commands.demo.network import LAYERS, array
from jaxreg._commands.demo.runs import Run, all_runs, cross_entropy
from jaxreg._commands.digits import Digits, Part, batches, load_digits

BATCH_SIZE = 100
MEASUREMENTS = 60  # of each run: enough for a smooth curve, and they cost little beside the training


class Result(NamedTuple):
    label: str
    steps: list[int]  # of the measurements
    train_loss: list[float]  # without penalty, on the whole training part
    test_accuracy: list[float]
    kernels: dict[str, NDArray[np.float32]]  # by layer; so are penalty and zeros
    penalty: dict[str, float] | None  # None for the run without penalty
    zeros: dict[str, float]  # share of the entries that are exactly 0
    activity: float  # output of the first layer, mean over its units and the test images
    compilations: int  # of the training step
    seconds: float


def train_all(model: str, steps: int, seed: int) -> list[Result]:
    """Train the four runs one after the other and return their results; a progress bar goes to standard error."""
    digits = load_digits()
    runs = all_runs(model, steps)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    results = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = [progress.add_task(run.label, total=steps, start=False, note="") for run in runs]
        for run, task in zip(runs, tasks, strict=True):
            progress.start_task(task)

            def advance(done: int, accuracy: float, task: TaskID = task) -> None:
                progress.update(task, completed=done, note=f"test {accuracy:6.1%}")

            results.append(train(run, digits, steps, seed, advance))
    return results


def train(run: Run, digits: Digits, steps: int, seed: int, on_measured: Callable[[int, float], None]) -> Result:
    """Train one run.

    Args:
        run: what to train.
        digits: the data.
        steps: number of batches.
        seed: of the initial weights and of the order of the batches; runs with the same seed share both.
        on_measured: called with (steps done, test accuracy) at each measurement.
    """
    start = time.perf_counter()
    compilations = 0

    @jax.jit
    def step(params: Any, state: Any, batch: Part) -> tuple[Any, Any]:
        nonlocal compilations
        compilations += 1  # runs only when JAX traces the step
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
            on_measured(done, accuracy)
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
    """Add up the penalties of each layer, such as `first/kernel` and `first/activity`."""
    if not penalties:
        return None
    total = dict.fromkeys(LAYERS, 0.0)
    for path, penalty in penalties.items():
        total[path.split("/")[0]] += float(penalty)
    return total

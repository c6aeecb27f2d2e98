"""Exact sparsity on real data: a network 64-40-20-10 on scikit-learn's digits, three seeds."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxreg
from tests.training import SOME_OPTIMIZATIONS

SIZES = (64, 40, 20, 10)
SEEDS = jnp.arange(3)
STEPS, BATCH = 3000, 128
RATE = optax.cosine_decay_schedule(5e-3, STEPS)
ENTRIES = jaxreg.TreeRegularizer({"*/kernel": jaxreg.L1(1e-3), "**": None})
# one group per input of a layer: a row that is zero cuts an input, or a hidden unit of the layer before
UNITS = jaxreg.TreeRegularizer({"[01]/kernel": jaxreg.Group(jaxreg.L1(5e-3), axis=1), "**": None})


class Digits(NamedTuple):
    train_x: jax.Array
    test_x: jax.Array
    train_y: jax.Array
    test_y: jax.Array


def digits() -> Digits:
    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x.astype(np.float32) / 16, y, test_size=0.33, random_state=0, stratify=y)
    return Digits(*map(jnp.asarray, parts))


def network(params: Any, x: jax.Array) -> jax.Array:
    for i in range(3):
        x = x @ params[f"{i}"]["kernel"] + params[f"{i}"]["bias"]
        x = jax.nn.relu(x) if i < 2 else x
    return x


def data_loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(network(params, x), y).mean()


def init(key: jax.Array) -> Any:
    keys, shapes = jax.random.split(key, 3), itertools.pairwise(SIZES)
    return {
        f"{i}": {"kernel": jax.random.normal(keys[i], shape) * np.sqrt(2 / shape[0]), "bias": jnp.zeros(shape[1])}
        for i, shape in enumerate(shapes)
    }


def train(tx: Any, in_the_loss: Callable[[Any], Any] = lambda params: 0.0) -> list[Any]:
    """The parameters for each seed."""
    data = digits()

    def run(seed: jax.Array) -> Any:
        first, rest = jax.random.split(jax.random.key(seed))

        def step(carry: Any, key: jax.Array) -> Any:
            params, state = carry
            batch = jax.random.randint(key, (BATCH,), 0, len(data.train_x))
            x, y = data.train_x[batch], data.train_y[batch]
            grads = jax.grad(lambda params: data_loss(params, x, y) + in_the_loss(params))(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = init(first)
        return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(rest, STEPS))[0][0]

    stacked = jax.jit(jax.vmap(run), compiler_options=SOME_OPTIMIZATIONS)(SEEDS)
    return [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), stacked) for i in range(len(SEEDS))]


def accuracy(runs: list[Any]) -> np.ndarray:
    data = digits()
    return np.array([np.mean(np.argmax(network(params, data.test_x), -1) == data.test_y) for params in runs])


def objective(runs: list[Any], reg: Any) -> np.ndarray:
    data = digits()
    return np.array([float(data_loss(params, data.train_x, data.train_y) + reg(params)) for params in runs])


def zeros(params: Any) -> float:
    entries = np.concatenate([params[f"{i}"]["kernel"].ravel() for i in range(3)])
    return float(np.mean(entries == 0))


def dead_rows(params: Any, layer: int) -> int:
    return int((params[f"{layer}"]["kernel"] == 0).all(axis=1).sum())


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    return accuracy(train(optax.adam(RATE)))


@pytest.mark.slow
def test_l1_gives_many_zeros_at_the_accuracy_of_the_plain_network(plain: np.ndarray) -> None:
    runs, control = train(jaxreg.proximal_adam(RATE, ENTRIES)), train(optax.adam(RATE), ENTRIES)
    assert all(zeros(params) >= 0.45 for params in runs)
    assert all(zeros(params) == 0 for params in control)
    assert (accuracy(runs) >= plain - 0.01).all()
    assert (objective(runs, ENTRIES) <= 1.03 * objective(control, ENTRIES)).all()


@pytest.mark.slow
def test_groups_remove_inputs_and_hidden_units(plain: np.ndarray) -> None:
    runs, control = train(jaxreg.proximal_adam(RATE, UNITS)), train(optax.adam(RATE), UNITS)
    assert all(dead_rows(params, 0) >= 15 for params in runs)
    assert all(dead_rows(params, 1) >= 10 for params in runs)
    assert all(dead_rows(params, layer) == 0 for params in control for layer in (0, 1))
    assert (accuracy(runs) >= plain - 0.01).all()
    assert (objective(runs, UNITS) <= 1.03 * objective(control, UNITS)).all()

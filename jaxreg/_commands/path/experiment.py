"""Softmax regression with L1 at every strength: once for each fold, and once on the images of all folds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.model_selection import StratifiedKFold

import jaxreg
from jaxreg._commands.digits import load_digits
from jaxreg._strength.path import RegularizationPath

STEPS = 2000  # 2000 more change loss + penalty by less than 0.1 % at the weakest strength
RANGE = 1000  # the ratio of the strongest strength, at which every weight is 0, to the weakest


class Result(NamedTuple):
    folds: RegularizationPath  # the cross-validation; a score is minus the cross-entropy of the images left out
    whole: RegularizationPath  # trained on the images of all folds; a score is the accuracy on the test images


class Weights(NamedTuple):
    kernel: jax.Array  # (64, 10)
    bias: jax.Array  # (10,)


def run(strengths: int, folds: int, seed: int) -> Result:
    """Train at all strengths and return both paths; progress goes to the standard error stream."""
    digits = load_digits()
    mean = digits.train.images.mean(axis=0)  # subtracting it changes only the bias; steps may be 11 times longer
    images, labels = digits.train.images - mean, digits.train.labels
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(images, labels)
    in_fold = np.zeros((folds, len(labels)), np.float32)
    for row, (_, held_out) in zip(in_fold, splits, strict=True):
        row[held_out] = 1.0

    def train_on_fold(reg: Any, held_out: jax.Array) -> tuple[Weights, jax.Array, jax.Array]:
        weights, loss = fit(reg, images, labels, 1.0 - held_out)
        return weights, loss, -cross_entropy(weights, images, labels, held_out)

    def train_on_all(reg: Any, _: Any) -> tuple[Weights, jax.Array, jax.Array]:
        weights, loss = fit(reg, images, labels, jnp.ones(len(labels)))
        right = jnp.argmax(logits(weights, digits.test.images - mean), axis=-1) == digits.test.labels
        return weights, loss, jnp.mean(right, dtype=float)

    reg = jaxreg.TreeRegularizer({"kernel": jaxreg.L1(1.0), "bias": None})
    top = strongest(reg, images, labels)
    grid = np.geomspace(top, top / RANGE, strengths)
    return Result(jaxreg.path(train_on_fold, reg, grid, keys=in_fold), jaxreg.path(train_on_all, reg, grid))


def strongest(reg: Any, images: Any, labels: Any) -> float:
    """Return the least strength at which every weight is 0, from the gradient at weights 0 and the fitted bias."""
    bias = jnp.log(jnp.bincount(labels, length=10) / len(labels))
    start = Weights(jnp.zeros((images.shape[1], 10)), bias)
    return float(jaxreg.coefficient_max(reg, jax.grad(cross_entropy)(start, images, labels, jnp.ones(len(labels)))))


def fit(reg: Any, images: Any, labels: Any, counted: jax.Array) -> tuple[Weights, jax.Array]:
    """Return the weights that minimize cross-entropy + reg, and their cross-entropy, on the images that count."""

    def loss(weights: Weights) -> jax.Array:
        return cross_entropy(weights, images, labels, counted)

    # The Hessian of the cross-entropy is at most ½ · inputsᵀ inputs / n, and this step is 1 over its norm.
    inputs = np.column_stack([images, np.ones(len(images))])  # the ones are for the bias
    step = 2 / (np.linalg.eigvalsh(inputs.T @ inputs)[-1] / counted.sum())

    def accelerated(state: tuple[Weights, Weights, jax.Array], _: None) -> tuple[Any, None]:
        old, ahead, t = state
        new = reg.prox(jax.tree.map(lambda w, g: w - step * g, ahead, jax.grad(loss)(ahead)), step)
        following = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        ahead = jax.tree.map(lambda n, o: n + (t - 1) / following * (n - o), new, old)
        return (new, ahead, following), None

    zero = Weights(jnp.zeros((images.shape[1], 10)), jnp.zeros(10))
    (weights, _, _), _ = jax.lax.scan(accelerated, (zero, zero, jnp.ones(())), length=STEPS)
    return weights, loss(weights)


def cross_entropy(weights: Weights, images: Any, labels: Any, counted: jax.Array) -> jax.Array:
    """Return the mean cross-entropy of the images that count."""
    each = optax.softmax_cross_entropy_with_integer_labels(logits(weights, images), labels)
    return jnp.vdot(counted, each) / counted.sum()


def logits(weights: Weights, images: Any) -> jax.Array:
    """Return the logits of the ten classes."""
    return images @ weights.kernel + weights.bias

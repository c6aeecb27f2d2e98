"""The four runs: what differs between them is the loss, the optimizer and what their penalty is, and nothing else."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import jaxreg
from jaxreg._commands.demo.network import Network, build

# Chosen once by hand on the validation part: means of three seeds of the Linen network after 6000 steps, against 96.4 %
# without penalty. L2 and the activity penalty (on top of that L2): the best.
L2 = 2e-3  # 3e-4, 1e-3, 2e-3, 3e-3: 96.6, 96.6, 96.7, 96.4 %
ACTIVITY = 2e-2  # 3e-3, 1e-2, 2e-2, 4e-2: 96.8, 97.3, 97.4, 94.8 %
L1 = 1e-3  # the strongest that costs less than a point; 3e-4, 6e-4, 1e-3, 2e-3: 95.9, 95.7, 95.4, 95.0 %

LEARNING_RATE = 0.2

Params = Any
Loss = Callable[[Params, Any, Any], jax.Array]


class Run(NamedTuple):
    label: str
    network: Network
    loss: Loss  # params, images, labels -> scalar
    optimizer: optax.GradientTransformation
    penalties: Callable[[Params, Any], dict[str, jax.Array]]  # params, images -> {path: penalty}


def cross_entropy(logits: jax.Array, labels: Any) -> jax.Array:
    """Return the mean cross-entropy of a batch, the loss without any penalty."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def all_runs(model: str, steps: int) -> tuple[Run, ...]:
    """Return the four runs in the order of the table."""
    learning_rate = optax.cosine_decay_schedule(LEARNING_RATE, steps)
    return (
        no_penalty(model, learning_rate),
        l2_in_the_loss(model, learning_rate),
        module_attributes(model, learning_rate),
        l1_by_proximal(model, learning_rate),
    )


def no_penalty(model: str, learning_rate: optax.Schedule) -> Run:
    network = build(model)

    def loss(params: Params, images: Any, labels: Any) -> jax.Array:
        return cross_entropy(network.apply(params, images), labels)

    return Run("no penalty", network, loss, optax.sgd(learning_rate), lambda params, images: {})


def l2_in_the_loss(model: str, learning_rate: optax.Schedule) -> Run:
    network = build(model)
    reg = jaxreg.TreeRegularizer([("**/kernel", jaxreg.L2(L2))])

    def loss(params: Params, images: Any, labels: Any) -> jax.Array:
        return cross_entropy(network.apply(params, images), labels) + reg(params)

    return Run("L2 in the loss", network, loss, optax.sgd(learning_rate), lambda params, _: reg.breakdown(params))


def module_attributes(model: str, learning_rate: optax.Schedule) -> Run:
    network = build(model, kernel_regularizer=jaxreg.L2(L2), activity_regularizer=jaxreg.L1(ACTIVITY))

    def loss(params: Params, images: Any, labels: Any) -> jax.Array:
        logits, losses = network.apply_with_losses(params, images)
        return cross_entropy(logits, labels) + sum(losses.values())

    def penalties(params: Params, images: Any) -> dict[str, jax.Array]:
        return network.apply_with_losses(params, images)[1]

    return Run("module attributes", network, loss, optax.sgd(learning_rate), penalties)


def l1_by_proximal(model: str, learning_rate: optax.Schedule) -> Run:
    network = build(model)
    reg = jaxreg.TreeRegularizer([("**/kernel", jaxreg.L1(L1))])

    def loss(params: Params, images: Any, labels: Any) -> jax.Array:
        return cross_entropy(network.apply(params, images), labels)

    # SGD without momentum: there the proximal step is the exact one for loss + L1 with one step size for all weights.
    optimizer = jaxreg.proximal(optax.chain(optax.sgd(learning_rate)), reg, learning_rate)
    return Run("L1 by proximal", network, loss, optimizer, lambda params, _: reg.breakdown(params))

"""The network of the demo in Flax Linen."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import jaxreg.linen
from jaxreg._commands.demo.network import Network


class Hidden(jaxreg.linen.Dense):
    """A dense layer with its ReLU, so that the activity penalty sees the output of the ReLU."""

    @nn.compact
    def __call__(self, inputs: Any) -> jax.Array:
        return nn.relu(super().__call__(inputs))


class MLP(nn.Module):
    kernel_regularizer: Any = None
    activity_regularizer: Any = None

    @nn.compact
    def __call__(self, x: Any) -> jax.Array:
        kernel, activity = self.kernel_regularizer, self.activity_regularizer
        x = Hidden(64, kernel_regularizer=kernel, activity_regularizer=activity, name="first")(x)
        x = Hidden(32, kernel_regularizer=kernel, activity_regularizer=activity, name="second")(x)
        return jaxreg.linen.Dense(10, kernel_regularizer=kernel, name="output")(x)


def build(kernel_regularizer: Any, activity_regularizer: Any) -> Network:
    """Return the network with these regularizers on its modules."""
    model = MLP(kernel_regularizer, activity_regularizer)

    def init(seed: int) -> Any:
        return model.init(jax.random.key(seed), jnp.zeros((1, 64)))["params"]

    def apply(params: Any, images: Any) -> Any:
        return model.apply({"params": params}, images)

    def apply_with_losses(params: Any, images: Any) -> Any:
        return jaxreg.linen.with_losses(model)({"params": params}, images)

    return Network(init, apply, apply_with_losses)

"""The network of the demo in Flax NNX."""

from typing import Any

import jax
from flax import nnx

import jaxreg.nnx
from jaxreg._commands.demo.network import Network


class Hidden(jaxreg.nnx.Linear):
    """A linear layer with its ReLU, so that the activity penalty sees the output of the ReLU."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        return nnx.relu(super().__call__(inputs, out_sharding))


class MLP(nnx.Module):
    def __init__(self, kernel: Any, activity: Any, rngs: nnx.Rngs) -> None:
        self.first = Hidden(64, 64, kernel_regularizer=kernel, activity_regularizer=activity, rngs=rngs)
        self.second = Hidden(64, 32, kernel_regularizer=kernel, activity_regularizer=activity, rngs=rngs)
        self.output = jaxreg.nnx.Linear(32, 10, kernel_regularizer=kernel, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.output(self.second(self.first(x)))


def build(kernel_regularizer: Any, activity_regularizer: Any) -> Network:
    """Return the network with these regularizers on its modules."""
    graph = nnx.graphdef(MLP(kernel_regularizer, activity_regularizer, nnx.Rngs(0)))

    def init(seed: int) -> Any:
        return nnx.state(MLP(kernel_regularizer, activity_regularizer, nnx.Rngs(seed)), nnx.Param)

    def apply(params: Any, images: Any) -> Any:
        return nnx.merge(graph, params)(images)

    def apply_with_losses(params: Any, images: Any) -> Any:
        return jaxreg.nnx.with_losses(nnx.merge(graph, params))(images)

    return Network(init, apply, apply_with_losses)

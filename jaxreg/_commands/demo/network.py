"""The network of the demo, 64-64-32-10, as pure functions of its parameters: the same shape for Linen and NNX."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

LAYERS = ("first", "second", "output")


class Network(NamedTuple):
    init: Callable[[int], Any]  # seed -> params
    apply: Callable[[Any, Any], jax.Array]  # params, images -> logits
    apply_with_losses: Callable[[Any, Any], tuple[jax.Array, dict[str, jax.Array]]]  # and {path: penalty}


def build(model: str, kernel_regularizer: Any = None, activity_regularizer: Any = None) -> Network:
    """Return the network; its regularizers are attributes of its modules.

    Args:
        model: "linen" or "nnx".
        kernel_regularizer: of the kernels of all layers.
        activity_regularizer: of the outputs of the hidden layers.
    """
    if model == "linen":
        from jaxreg._commands.demo import linen_network

        return linen_network.build(kernel_regularizer, activity_regularizer)
    from jaxreg._commands.demo import nnx_network

    return nnx_network.build(kernel_regularizer, activity_regularizer)


def array(params: Any, layer: str, name: str) -> NDArray[np.float32]:
    """Return one parameter; NNX keeps it in a Variable, and `[...]` reads both."""
    return np.asarray(params[layer][name][...])

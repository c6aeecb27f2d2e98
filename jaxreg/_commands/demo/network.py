"""The network of the demo, 64-64-32-10, as pure functions of its parameters, the same for Linen and NNX."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

LAYERS = ("first", "second", "output")


class Network(NamedTuple):
    init: Callable[[int], Any]  # seed -> params
    apply: Callable[[Any, Any], jax.Array]  # params, images -> logits
    apply_with_losses: Callable[[Any, Any], tuple[jax.Array, dict[str, jax.Array]]]  # -> logits, {path: penalty}


def array(params: Any, layer: str, name: str) -> NDArray[np.float32]:
    """Return one parameter as an array; `[...]` also reads the Variable in which NNX keeps it."""
    return np.asarray(params[layer][name][...])

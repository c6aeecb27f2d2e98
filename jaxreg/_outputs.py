"""The penalty of what a module returns: an activity regularizer, divided by the batch."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._regularizer import Regularizer


def output_penalty(regularizer: Regularizer, output: Any) -> jax.Array:
    """Σ over the floating leaves of R(leaf)/leaf.shape[0]; a scalar is not divided, an empty leaf gives 0."""
    total = jnp.zeros((), jnp.float32)
    for leaf in jax.tree.leaves(output):
        if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.inexact) or 0 in leaf.shape:
            continue
        total = total + regularizer(leaf) / (leaf.shape[0] if leaf.ndim else 1)
    return total

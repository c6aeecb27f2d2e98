"""The penalty of what a module returns."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxreg import activity
from jaxreg._core.regularizer import Regularizer


def output_penalty(regularizer: Regularizer, output: Any) -> jax.Array:
    """Return Σ over the floating leaves of the output of the leaf's penalty, divided by its leading dimension."""
    leaves = [leaf for leaf in jax.tree.leaves(output) if hasattr(leaf, "dtype")]
    floating = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return sum((activity.penalty(regularizer, leaf) for leaf in floating), start=jnp.zeros((), jnp.float32))

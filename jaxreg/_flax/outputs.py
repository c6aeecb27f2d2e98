"""The penalty of what a module returns: an activity regularizer, leaf by leaf."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxreg import activity
from jaxreg._core.regularizer import Regularizer


def output_penalty(regularizer: Regularizer, output: Any) -> jax.Array:
    """Σ over the floating leaves of `activity.penalty`: each divided by its own leading dimension."""
    leaves = [leaf for leaf in jax.tree.leaves(output) if hasattr(leaf, "dtype")]
    floating = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return sum((activity.penalty(regularizer, leaf) for leaf in floating), start=jnp.zeros((), jnp.float32))

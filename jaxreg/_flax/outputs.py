"""The penalty of what a module returns."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxreg import activity
from jaxreg._core import checks
from jaxreg._core.regularizer import Regularizer
from jaxreg._flax.declared import named


def output_penalty(regularizer: Regularizer, output: Any, batch_axis: int | None, module: str) -> jax.Array:
    """Return Σ over the floating leaves of the output of the leaf's penalty, divided by the length of its batch axis.

    `batch_axis=None` divides by nothing: the module has seen one example. `module` is its path, for messages.
    """
    leaves = [leaf for leaf in jax.tree.leaves(output) if hasattr(leaf, "dtype")]
    floating = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return sum((_of_leaf(regularizer, leaf, batch_axis, module) for leaf in floating), start=jnp.zeros((), jnp.float32))


def _of_leaf(regularizer: Regularizer, leaf: Any, batch_axis: int | None, module: str) -> jax.Array:
    if batch_axis is None:
        return regularizer(leaf) if leaf.size else jnp.zeros((), jnp.float32)
    if leaf.ndim and not -leaf.ndim <= batch_axis < leaf.ndim:
        raise ValueError(
            f"`with_losses(batch_axis={batch_axis})`: the module {named(module)} returns an array of shape "
            f"{leaf.shape}, which has no axis {batch_axis} to divide its activity penalty by. Name an axis that every "
            "penalized output has, or give `batch_axis=None` and divide by the batch yourself."
        )
    return activity.penalty(regularizer, leaf, batch_axis=batch_axis)


def check_batch_axis(value: Any) -> int | None:
    """Return what `with_losses` was given as `batch_axis`."""
    if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__")):
        raise TypeError(
            f"`with_losses(batch_axis=...)` must be the number of an axis, or None where the modules see one example, "
            f"got {checks.short(value)}."
        )
    return None if value is None else value.__index__()

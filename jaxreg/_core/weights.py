"""Weights: numbers ≥ 0 that multiply the penalties of entries or groups; 0 leaves free, ∞ excludes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def broadcast(weights: Any, shape: tuple[Any, ...], of: str = "entries of the array") -> Any:
    """Return `weights` in the shape of what they are the weights of; a number stays a number."""
    given = np.shape(weights)
    if not given:
        return weights
    tail = shape[max(len(shape) - len(given), 0) :]
    if len(given) > len(shape) or not all(n in (1, m) for n, m in zip(given, tail, strict=True)):
        raise ValueError(
            f"`Weighted(weights=...)` must broadcast against the {of}, here of shape {tuple(shape)}, got the shape "
            f"{given}."
        )
    return jnp.broadcast_to(weights, shape)


def split(weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(weights, excluded): the finite weights, 0 in place of ∞, and 1 where that was, 0 elsewhere."""
    infinite = jnp.isinf(weights)
    return jnp.where(infinite, 0, weights), infinite.astype(weights.dtype)


def without_excluded(excluded: Any, z: jax.Array) -> jax.Array:
    """z with 0 where it is excluded; nan stays nan."""
    return jnp.where((jnp.asarray(excluded) > 0) & ~jnp.isnan(z), 0, z)

"""Weights: numbers ≥ 0 that multiply the penalties of entries or groups; 0 leaves free, ∞ excludes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_shape(weights: Any, shape: tuple[Any, ...], of: str = "entries of the array") -> None:
    """Raise unless `weights` broadcast against what they are the weights of, without making it larger."""
    given = np.shape(weights)
    tail = shape[len(shape) - len(given) :]
    if len(given) > len(shape) or not all(n in (1, m) for n, m in zip(given, tail, strict=True)):
        raise ValueError(
            f"`Weighted(weights=...)` must broadcast against the {of}, here of shape {tuple(shape)}, got the shape "
            f"{given}."
        )


def split(weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(weights, excluded): the finite weights, 0 in place of ∞, and where that was."""
    excluded = jnp.isinf(weights)
    return jnp.where(excluded, 0, weights), excluded


def without_excluded(excluded: Any, z: jax.Array) -> jax.Array:
    """z with 0 where it is excluded; nan stays nan."""
    return jnp.where((jnp.asarray(excluded) > 0) & ~jnp.isnan(z), 0, z)

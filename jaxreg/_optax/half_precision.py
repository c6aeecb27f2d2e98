"""Parameters in half precision: what a step adds below half an ulp is kept in a float32 residual, not lost."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import numerics
from jaxreg._core.compiler import rounded
from jaxreg._optax.leaves import Rows


def is_half(param: Any) -> bool:
    """Whether `param` is a floating array of fewer than 32 bits."""
    dtype = getattr(param, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def residuals(rows: Rows) -> Any:
    """Return float32 zeros for every penalized leaf in half precision, None for the others."""
    return rows.treedef.unflatten(
        [
            jnp.zeros_like(param, dtype=jnp.float32) if regularizer is not None and is_half(param) else None
            for _, param, regularizer in rows.leaves
        ]
    )


def as_update(w: jax.Array, update: Any, param: Any, residual: Any) -> tuple[jax.Array, jax.Array | None]:
    """Return the update that leads from `param` to `w`, and what `param` will not be able to hold of `w`.

    Where w is 0 the update is −param, and param + (−param) is exactly 0.
    """
    old = numerics.promote(param)
    new = jnp.asarray(w - old, jnp.promote_types(jnp.asarray(update).dtype, jnp.asarray(param).dtype))
    if residual is None:
        return new, None
    applied = old + rounded(w - old, new.dtype)
    return new, w - rounded(applied, param.dtype)  # applied as `optax.apply_updates` does

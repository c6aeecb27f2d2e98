"""Parameters in half precision: what a step adds below half an ulp is kept in a float32 residual, not lost."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import numerics
from jaxreg._core.compiler import rounded
from jaxreg._core.entry import nudged
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.structure import Reach
from jaxreg._optax.leaves import side_by_side
from jaxreg._rules.tree_penalty import TreePenalty


def is_half(param: Any) -> bool:
    """Whether `param` is a floating array of fewer than 32 bits."""
    dtype = getattr(param, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def residuals(params: Any, reg: TreePenalty) -> Any:
    """Return float32 zeros for every penalized leaf in half precision, None for the others and where there is none.

    For a tree without leaves, as `optax.tree.map_params` has, one array: it stands for whatever the residual is.
    """
    leaves = jax.tree.leaves(params)
    if not leaves:
        return jnp.zeros((), jnp.float32)
    if not any(map(is_half, leaves)):
        return None
    rows = side_by_side("proximal", params, params, reg)
    return rows.treedef.unflatten(
        [
            jnp.zeros_like(param, dtype=jnp.float32) if regularizer is not None and is_half(param) else None
            for _, param, regularizer in rows.penalized()
        ]
    )


def dtype_of_update(update: Any, param: Any) -> Any:
    return jnp.promote_types(jnp.asarray(update).dtype, jnp.asarray(param).dtype)


def as_update(
    regularizer: Regularizer | None, w: jax.Array, update: Any, param: Any, residual: Any
) -> tuple[jax.Array, jax.Array | None]:
    """Return the update that leads from `param` to `w`, and what `param` will not be able to hold of `w`.

    Where w is 0 the update is −param, and param + (−param) is exactly 0. Where rounding would lead out of a set of
    entries (`Box`), the update is the next number towards it; without a regularizer nothing is asked of w.
    """
    old = numerics.promote(param)
    new = jnp.asarray(w - old, dtype_of_update(update, param))
    if residual is None:
        return new, None

    def applied(new: jax.Array) -> jax.Array:  # as `optax.apply_updates` does
        return rounded(old + rounded(new, new.dtype).astype(old.dtype), param.dtype)

    if regularizer is not None and regularizer.reach is Reach.ENTRY and regularizer.scalar() is None:
        x = applied(new)
        new = nudged(new, regularizer.prox(x, 0.0) - x)
    return new, w - applied(new)

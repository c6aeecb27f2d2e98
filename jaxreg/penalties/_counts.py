"""Numbers of entries: whole, and checked where their values are there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import checks, numerics

_MOST = 2**31 - 1  # what an int32 holds


def is_known(value: Any) -> bool:
    """Whether it has a value: no tracer, no placeholder, no array of which a part is elsewhere."""
    if isinstance(value, jax.Array):
        return not isinstance(value, jax.core.Tracer) and value.is_fully_addressable
    return isinstance(value, (float, np.ndarray))


def check_whole(call: str, value: Any) -> None:
    """Raise for a number that is not whole."""
    if is_known(value) and np.any(np.asarray(value, np.float64) % 1):
        raise ValueError(f"`{call}` must be a whole number, got {checks.short(value)}.")


def checked_share(owner: str, value: Any) -> Any:
    """Return a share, between 0 and 1, or a count, which is an int; of an array the dtype decides."""
    call = f"{owner}(share=...)"
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        checks.number(call, value, above=None)
        if value > _MOST:
            raise ValueError(
                f"`{call}` must be a count of at most 2³¹ − 1, got {checks.short(value)}. Give a share between 0 and 1."
            )
        return int(value)
    value = checks.number(call, value, above=None)
    is_share = is_known(value) and not jnp.issubdtype(jnp.result_type(value), jnp.integer)
    if is_share and np.any(np.asarray(value, np.float64) > 1):
        raise ValueError(
            f"`{call}` must be a share between 0 and 1, or a count, which is an int, got {checks.short(value)}. "
            f"Write a count without a point, `{owner}(3)`; of an array, `.astype(int)`."
        )
    return value


def is_count(share: Any) -> bool:
    return jnp.issubdtype(getattr(share, "dtype", type(share)), jnp.integer)


def allowed(share: Any, size: Any) -> jax.Array:
    """The count, or ⌈share·size⌉, allowing for the rounding of the product; uint32."""
    share = jax.lax.stop_gradient(jnp.asarray(share))
    if is_count(share):
        return jnp.maximum(share, 0).astype(jnp.uint32)
    share = numerics.promote(share)
    product = share * jnp.asarray(numerics.number_of(size), share.dtype)
    rounding = 2 * float(jnp.finfo(share.dtype).eps) * product
    return jnp.ceil(jnp.clip(product - rounding, 0, float(2**32 - 256))).astype(jnp.uint32)

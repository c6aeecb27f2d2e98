"""Numbers of entries: whole, and checked where their values are there."""

from typing import Any, NamedTuple

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
    return jnp.clip(_product(share, size), 0, float(2**32 - 256)).astype(jnp.uint32)


def allowed_of_all(share: Any, size: int) -> "Count":
    """The same of so many that a uint32 may not count them."""
    share = jax.lax.stop_gradient(jnp.asarray(share))
    if is_count(share):
        return total(jnp.maximum(share, 0).astype(jnp.uint32)[None])
    product = _product(share, size)
    high = jnp.floor(product / 65536)
    return Count(high.astype(jnp.uint32), (product - high * 65536).astype(jnp.uint32))


def _product(share: jax.Array, size: Any) -> jax.Array:
    share = numerics.promote(share)
    product = share * jnp.asarray(numerics.number_of(size), share.dtype)
    return jnp.ceil(jnp.maximum(product - 2 * float(jnp.finfo(share.dtype).eps) * product, 0))


class Count(NamedTuple):
    """high·2¹⁶ + low, low < 2¹⁶: there may be more entries than a uint32 counts."""

    high: jax.Array
    low: jax.Array

    def reaches(self, other: "Count") -> jax.Array:
        return (self.high > other.high) | ((self.high == other.high) & (self.low >= other.low))

    def minus(self, other: "Count") -> "Count":
        """Of one that reaches the other."""
        borrow = (self.low < other.low).astype(jnp.uint32)
        return Count(self.high - other.high - borrow, self.low + (borrow << 16) - other.low)

    def number(self) -> jax.Array:
        return self.high.astype(jnp.float32) * 65536 + self.low.astype(jnp.float32)

    def clipped(self) -> jax.Array:
        """As uint32."""
        return jnp.where(self.high < 1 << 16, (self.high << 16) + self.low, jnp.uint32(2**32 - 1))


def total(counts: jax.Array) -> Count:
    """The sum of at most 2¹⁶ counts in uint32, along the last axis."""
    low = jnp.sum(counts & 0xFFFF, axis=-1, dtype=jnp.uint32)
    return Count(jnp.sum(counts >> 16, axis=-1, dtype=jnp.uint32) + (low >> 16), low & 0xFFFF)

"""Masked sums, counts and means over a batch that may be split over devices; the checks of arrays, masks and axes."""

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import checks, numerics

F = TypeVar("F", bound=Callable[..., Any])


class _Local(threading.local):
    refuse: Callable[[str], Exception] | None = None


_local = _Local()
_of_batch: set[Any] = set()

_TREES = " For a tree of arrays add up the penalties of its leaves."


def of_batch(function: F) -> F:
    """Mark a function that divides by the batch, so that code which would divide once more can raise instead."""

    @functools.wraps(function)
    def marked(*args: Any, **kwargs: Any) -> Any:
        if _local.refuse is not None:
            raise _local.refuse(function.__name__)
        return function(*args, **kwargs)

    _of_batch.add(marked)
    return marked  # type: ignore[return-value]


def is_of_batch(function: Any) -> bool:
    return any(function is one for one in _of_batch)


@contextlib.contextmanager
def refusing(refuse: Callable[[str], Exception]) -> Iterator[None]:
    """Let marked functions raise `refuse(their name)` in this thread."""
    outer, _local.refuse = _local.refuse, refuse
    try:
        yield
    finally:
        _local.refuse = outer


def array(call: str, x: Any) -> jax.Array:
    """Return `x` in the dtype of accumulation."""
    return numerics.promote(checks.array(call, x, _TREES))


def features(call: str, h: Any, mask: Any, axis_name: Any) -> tuple[jax.Array, jax.Array | None]:
    """Return `h` of shape (batch, ..., features), promoted, and the mask of its leading axes, with a last axis of 1."""
    h = _real(call, h)
    if h.ndim < (2 if axis_name is None else 1):
        raise ValueError(
            f"`{call}` takes an array of shape (batch, ..., features), got shape {h.shape}. It is a statistic of the "
            "batch: pass all of it, or name the mapped axis that one example comes from with `axis_name=...`."
        )
    return h, _leading(call, "h", mask, h)


def logits(call: str, x: Any, mask: Any) -> tuple[jax.Array, jax.Array | None]:
    """Return logits of shape (..., classes), promoted, and the mask of their leading axes, with a last axis of 1."""
    x = _real(call, x)
    if x.ndim < 1:
        raise ValueError(f"`{call}` takes logits of shape (..., classes), got shape {x.shape}. Pass both logits.")
    return x, _leading(call, "logits", mask, x)


def _real(call: str, x: Any) -> jax.Array:
    x = array(call, x)
    if jnp.iscomplexobj(x):
        raise TypeError(f"`{call}` takes a real array, got dtype {x.dtype}. Pass `jnp.abs(x)`, or the parts of x.")
    return x


def _leading(call: str, name: str, value: Any, x: jax.Array) -> jax.Array | None:
    kept = mask(call, name, value, x.shape[:-1])
    return None if kept is None else kept[..., None]


def mask(call: str, name: str, value: Any, shape: tuple[int, ...]) -> jax.Array | None:
    """Return a mask as an array of bool with as many axes as `shape`, each of the same length or of length 1."""
    if value is None:
        return None
    value = checks.array(f"{call}(mask=...)", value)
    got = jnp.shape(value)
    if len(got) > len(shape) or any(n not in (1, length) for n, length in zip(got, shape, strict=False)):
        raise ValueError(
            f"`{call}(mask=...)` must have the leading axes of `{name}`, at most {shape}, each of the same length or "
            f"of length 1, got shape {got}. Where it does not vary give it an axis of length 1, "
            "as in `mask[:, None]`."
        )
    _check_zeros_and_ones(call, value)
    return (jnp.asarray(value) != 0).reshape(got + (1,) * (len(shape) - len(got)))


def _check_zeros_and_ones(call: str, value: Any) -> None:
    if isinstance(value, jax.core.Tracer) or jnp.result_type(value) == jnp.bool_:
        return
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return
    numbers_ = np.asarray(value)
    wrong = numbers_[(numbers_ != 0) & (numbers_ != 1)]
    if wrong.size:
        raise ValueError(
            f"`{call}(mask=...)` must be bool, or 0 and 1, got {wrong.flat[0]}. A mask that is added to logits (0 and "
            "-inf) becomes one by `mask == 0`; weights are no mask."
        )


def axis(call: str, value: Any, ndim: int) -> int:
    """Return a non-negative axis of an array of `ndim` axes."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"`{call}` must be an integer, got {checks.short(value)} of type {type(value).__name__}.")
    if not -ndim <= value < ndim:
        raise ValueError(f"`{call}` must be an axis of `h`, which has {ndim}, got {value}.")
    return int(value) % ndim


def number(call: str, value: Any, *, above: float | None) -> Any:
    """Return one finite number greater than `above` (None: non-negative), or a traced scalar."""
    value = checks.number(call, value, above=above)
    if jnp.shape(value):
        raise ValueError(f"`{call}` must be one number, got shape {jnp.shape(value)}. Map over it with `jax.vmap`.")
    return value


def keep(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """x, and 0 where it is masked out; there the derivative is 0 too, also at nan."""
    return x if mask is None else jnp.where(mask, x, jnp.zeros_like(x))


def total(x: jax.Array, axis_name: Any) -> jax.Array:
    """The sum over the devices."""
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def count(shape: tuple[int, ...], mask: jax.Array | None, axis_name: Any, dtype: Any) -> jax.Array:
    """The number of entries of an array of that shape, on all devices, that are not masked out."""
    if mask is None:
        return total(jnp.asarray(math.prod(shape), dtype), axis_name)
    repeats = math.prod(length for length, n in zip(shape, mask.shape, strict=True) if n == 1)
    return total(jnp.sum(mask, dtype=jnp.int32).astype(dtype) * repeats, axis_name)


def mean(x: jax.Array, mask: jax.Array | None, axis_name: Any) -> jax.Array:
    """The mean of the entries that are not masked out; 0 if there are none."""
    n = count(x.shape, mask, axis_name, x.dtype)
    return total(jnp.sum(keep(x, mask)), axis_name) / jnp.maximum(n, 1)


def feature_means(h: jax.Array, mask: jax.Array | None, axis_name: Any) -> tuple[jax.Array, jax.Array]:
    """The mean of each feature over all other axes, 0 if nothing is left; and of how many members it is the mean."""
    n = count((*h.shape[:-1], 1), mask, axis_name, h.dtype)
    sums = jnp.sum(keep(h, mask), axis=tuple(range(h.ndim - 1)))
    return total(sums, axis_name) / jnp.maximum(n, 1), n

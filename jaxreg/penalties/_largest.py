"""Which entries are the largest: of equal ones the one with the lowest index, and never more than there is room for."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import compiler

Axes = tuple[int, ...]


def order(z: jax.Array, step: jax.Array) -> jax.Array:
    """Unsigned integers that are ordered as `size`; nan is the largest."""
    return keys_of(size(z, step))


def size(z: jax.Array, step: jax.Array) -> jax.Array:
    """|z|, or for a step of the shape of z what is ordered as |z|²/τ.

    The bits of floating numbers that are not negative, read as an integer, are ordered as the numbers. In a metric they
    are those of √|z|/τ^¼, which stays in range at both ends.
    """
    modulus = jnp.abs(jax.lax.stop_gradient(z))
    if not step.ndim:
        return modulus
    info = jnp.finfo(step.dtype)
    weight = jnp.clip(jax.lax.stop_gradient(step), float(info.tiny), float(info.max))
    return jnp.sqrt(modulus) / jnp.sqrt(jnp.sqrt(weight))


def are_largest(keys: jax.Array, k: jax.Array, axes: Axes) -> jax.Array:
    """Whether a key is among the k largest of its group along `axes`; where fewer are not 0, all are.

    Only numbers of groups are reduced, so that groups may be divided among devices.
    """
    least = _kth_largest(keys, k, axes)
    stay = keys >= least

    def first_of_equals(keys: jax.Array, least: jax.Array) -> jax.Array:
        larger, equal = keys > least, keys == least
        places = jnp.where(equal, ~index(keys, axes), 0)  # the lowest index is the largest, and none is 0
        return larger | (equal & (places >= _kth_largest(places, k - _count(larger, axes), axes)))

    crowded = jnp.any((_count(stay, axes) > k) & (least > 0))
    return jax.lax.cond(crowded, first_of_equals, lambda keys, least: stay, keys, least)


def keys_of(size: jax.Array) -> jax.Array:
    """Unsigned integers that are ordered as numbers that are not negative."""
    return jax.lax.bitcast_convert_type(size, {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[size.dtype.itemsize])


def only(stay: jax.Array, z: jax.Array, number: jax.Array) -> jax.Array:
    """z where it stays and 0 elsewhere; what is nan stays nan, and all is where the number that decides is."""
    w = jnp.where(stay | jnp.isnan(z), z, 0)
    return jnp.where(jnp.isnan(number), jnp.nan, w) if jnp.issubdtype(number.dtype, jnp.floating) else w


def _count(inside: jax.Array, axes: Axes) -> jax.Array:
    return jnp.sum(inside, axis=axes, keepdims=True, dtype=jnp.uint32)


def _kth_largest(keys: jax.Array, k: jax.Array, axes: Axes) -> jax.Array:
    """The k-th largest key of every group, from its first bit to its last: the largest t that k keys reach.

    Two bits a read where one read serves several sums: 16 reads of float32 on a TPU and a GPU, 32 on a CPU. For k = 0
    it is above all keys of numbers, and where there are fewer than k keys, 0.
    """

    def search(width: int, keys: jax.Array, k: jax.Array) -> jax.Array:
        dtype = keys.dtype
        reads = jnp.iinfo(dtype).bits // width

        def digit(i: Any, t: jax.Array) -> jax.Array:
            shift = jnp.asarray(width * (reads - 1 - i), dtype)
            tried = [t + (jnp.asarray(j, dtype) << shift) for j in range(1, 1 << width)]
            return t + (sum((_count(keys >= c, axes) >= k).astype(dtype) for c in tried) << shift)

        shape = [1 if axis in axes else n for axis, n in enumerate(keys.shape)]
        return jax.lax.fori_loop(1, reads, digit, digit(0, jnp.zeros(shape, dtype)))

    return compiler.by_device(functools.partial(search, 1), functools.partial(search, 2), keys, k)


def index(keys: jax.Array, axes: Axes) -> jax.Array:
    """The place in its group, in the order of the array."""
    index: Any = jnp.zeros((), jnp.uint32)
    for axis in sorted(axes):
        length = jnp.asarray(keys.shape[axis]).astype(jnp.uint32)
        index = index * length + jax.lax.broadcasted_iota(jnp.uint32, keys.shape, axis)
    return index

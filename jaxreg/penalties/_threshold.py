"""The largest entries of many arrays together, by counting: how many entries reach a pivot, several pivots a read.

    t = a key with  #{i : key_i ≥ t} ≥ k > #{i : key_i ≥ t + 1},  or one with  #{i : key_i ≥ t} = k

A key is the bits of a modulus, ordered as the numbers are. The first pivots are quantiles of a sample of one entry in
about 256; the next ones lie where a line through the two nearest counts has the rank k, as far apart as ranks scatter
about it, √(count between them); from the sixth read on they divide what is left into equal parts, so that no numbers
take long. Two pivots that are equal become a key and the next one, which ends the search where many entries are equal.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import compiler, numerics
from jaxreg.penalties._counts import Count, total
from jaxreg.penalties._largest import index, keys_of

_STRIDES = 13, 19  # of the sample of a large tree
_LEAST = 1 << 16  # entries of a sample, where there are as many
_RANKS = np.array([32, 6, 1.2, 0, -1.2, -6, -32], np.float32)  # of the first pivots, in standard deviations
_RANKS_AFTER = np.array([-4, -1, -0.35, 0, 0.35, 1, 4], np.float32)
_INTERPOLATED = 5  # reads before the pivots divide what is left equally
_MOST = 1 << 31  # entries that one sum counts

Keys = Callable[[jax.Array], jax.Array]


def stay(arrays: Sequence[jax.Array], dtype: Any, k: Count) -> tuple[list[jax.Array], jax.Array]:
    """Whether an entry is among the k of largest modulus, and the number of reads that the search took.

    Of equal ones those stay that come first. The moduli are compared in `dtype`; what is 0 stays where there is room.
    """

    def keys(x: jax.Array) -> jax.Array:
        return keys_of(jnp.abs(x if x.dtype == dtype else numerics.promote(x)).astype(dtype))

    arrays = list(arrays)
    if not any(x.size for x in arrays):
        return [jnp.ones(x.shape, bool) for x in arrays], jnp.zeros((), jnp.int32)
    least, crowded, reads = _threshold(keys, arrays, k)

    def first_of_equals(least: jax.Array, k: Count, arrays: list[jax.Array]) -> list[jax.Array]:
        larger = total(jnp.concatenate([_count(keys(x) > least).ravel() for x in arrays]))
        equal = [_count(keys(x) == least) for x in arrays]
        return _last_places(keys, least, arrays, _rooms(equal, k.minus(larger)))

    def all_equals(least: jax.Array, k: Count, arrays: list[jax.Array]) -> list[jax.Array]:
        return [_count(keys(x) == least) & 0 for x in arrays]

    last = jax.lax.cond(crowded, first_of_equals, all_equals, least, k, arrays)

    def inside(x: jax.Array, last: jax.Array) -> jax.Array:
        key = keys(x)
        return (key > least) | ((key == least) & (_place(x) >= _beside(last, x)))

    return [inside(x, place) for x, place in zip(arrays, last, strict=True)], reads


def _threshold(keys: Keys, arrays: list[jax.Array], k: Count) -> tuple[jax.Array, jax.Array, jax.Array]:
    """t as above, whether more than k entries that are not 0 reach it, and the reads."""

    def search(pivots: int, arrays: list[jax.Array], k: Count) -> Any:
        middle = slice(3 - pivots // 2, 4 + pivots // 2)
        first = _sampled(keys, arrays, k, _RANKS[middle])
        dtype = first.dtype

        def go_on(state: Any) -> Any:
            least, above, at_least, *_ = state
            return ~k.reaches(at_least) & (above - least > 1)

        def narrow(state: Any) -> Any:
            least, above, at_least, at_above, reads = state
            width = above - least
            count = at_least.minus(at_above).number()
            share = at_least.minus(k).number() / count
            scatter = jnp.sqrt(count * share * (1 - share) + 1) / count
            on_the_line = least + _part(jnp.clip(share + scatter * _RANKS_AFTER[middle], 0, 1), width)
            equally = least + jnp.maximum(width // (pivots + 1), 1) * jnp.arange(1, pivots + 1, dtype=dtype)
            tried = jnp.where(reads == 0, first, jnp.where(reads < _INTERPOLATED, on_the_line, equally))
            tried = jnp.clip(tried, least + 1, above - 1)
            is_the_same = jnp.concatenate([jnp.zeros(1, bool), tried[1:] == tried[:-1]])
            tried = jnp.minimum(tried + is_the_same.astype(dtype), above - 1)
            again = compiler.read_again(reads.astype(jnp.float32), arrays)
            counts = total(jnp.concatenate([_count_of_each(keys(x), tried) for x in again], axis=-1))
            reached = jnp.sum(counts.reaches(k), dtype=jnp.int32)

            def around(below: jax.Array, between: jax.Array, above: jax.Array) -> tuple[jax.Array, jax.Array]:
                line = jnp.concatenate([below[None], between, above[None]])
                return line[reached], line[reached + 1]

            high = around(at_least.high, counts.high, at_above.high)
            low = around(at_least.low, counts.low, at_above.low)
            return *around(least, tried, above), Count(high[0], low[0]), Count(high[1], low[1]), reads + 1

        zero = first[0] & 0
        nothing = zero.astype(jnp.uint32)
        everything = total(jnp.concatenate([_count(keys(x) >= 0).ravel() for x in arrays]))
        start = zero, ~zero, everything, Count(nothing, nothing), zero.astype(jnp.int32)
        least, _, at_least, _, reads = jax.lax.while_loop(go_on, narrow, start)
        none = (k.high | k.low) == 0
        return jnp.where(none, ~zero, least), ~k.reaches(at_least) & (least > 0) & ~none, reads

    return compiler.by_device(functools.partial(search, 3), functools.partial(search, 7), arrays, k)


def _sampled(keys: Keys, arrays: list[jax.Array], k: Count, ranks: Any) -> jax.Array:
    """Keys whose ranks are about k + ranks·(the standard deviation of a rank in the sample), upwards."""
    sizes = [numerics.number_of(x.size) for x in arrays]
    size = 1.0 * sum(sizes)
    sample = [_strided(x, sum(sizes)) for x in arrays]
    taken = sum(numerics.number_of(y.size) for y in sample)
    share = jnp.clip(k.number() / size, 0, 1)
    wanted = k.number() + ranks * size * (jnp.sqrt(share * (1 - share) / taken) + 0.5 / taken)
    dtype = keys(sample[0]).dtype
    bits = jnp.iinfo(dtype).bits

    def bit(i: Any, t: jax.Array) -> jax.Array:
        tried = t + (jnp.ones((), dtype) << jnp.asarray(bits - 1 - i, dtype))
        counts = [
            jnp.sum(_count_of_each(keys(y), tried), axis=-1).astype(jnp.float32) * (n / max(y.size, 1))
            for n, y in zip(sizes, sample, strict=True)
        ]
        return jnp.where(sum(counts) >= wanted, tried, t)

    zero = (
        functools.reduce(jnp.add, [jnp.sum(_count(keys(y) == 0)) for y in sample]) & 0
    )  # varies where they do inside of `shard_map`
    return jax.lax.fori_loop(0, bits, bit, jnp.zeros(ranks.shape, dtype) + zero.astype(dtype))


def _strided(x: jax.Array, size: Any) -> jax.Array:
    """About one in 256 entries of an array of a tree of that size, along its last axes that no mesh divides."""
    divided = jax.typeof(x).sharding.spec
    along = [a for a in range(max(0, x.ndim - 2), x.ndim) if divided[a] is None and isinstance(x.shape[a], int)]
    if not isinstance(size, int) or not along:
        return x
    wanted = min(math.prod(_STRIDES), max(size // _LEAST, 1))
    each = [math.sqrt(wanted / math.prod(_STRIDES)) * n for n in _STRIDES] if len(along) == 2 else [wanted]
    strides = [1] * x.ndim
    for a, n in zip(reversed(along), each, strict=False):
        strides[a] = max(1, min(round(n) | 1, x.shape[a]))  # odd, for what is alike lies at powers of 2
    return jax.lax.slice(x, [0] * x.ndim, x.shape, strides)


def _rooms(equal: list[jax.Array], room: Count) -> list[jax.Array]:
    """How many of the equal entries of each part of each array stay: those of the first."""

    def take(room: Count, equal: jax.Array) -> tuple[Count, jax.Array]:
        taken = jnp.minimum(room.clipped(), equal)
        return room.minus(total(taken[None])), taken

    _, taken = jax.lax.scan(take, room, jnp.concatenate([x.ravel() for x in equal]))
    ends = np.cumsum([x.size for x in equal])[:-1]
    return [part.reshape(x.shape) for part, x in zip(jnp.split(taken, ends), equal, strict=True)]


def _last_places(keys: Keys, least: jax.Array, arrays: list[jax.Array], rooms: list[jax.Array]) -> list[jax.Array]:
    """For each part of each array the place of the last equal entry that stays, two bits a read."""

    def digit(i: Any, last: list[jax.Array]) -> list[jax.Array]:
        shift = jnp.asarray(30 - 2 * i, jnp.uint32)
        again = compiler.read_again(jnp.asarray(i, jnp.float32), arrays)
        found = []
        for x, room, t in zip(again, rooms, last, strict=True):
            place = jnp.where(keys(x) == least, _place(x), 0)
            tried = [t + (jnp.uint32(j) << shift) for j in (1, 2, 3)]
            reached = sum((_count(place >= _beside(c, x)) >= room).astype(jnp.uint32) for c in tried)
            found.append(t + (reached << shift))
        return found

    return jax.lax.fori_loop(0, 16, digit, [room & 0 for room in rooms])


def _place(x: jax.Array) -> jax.Array:
    """In its part, the first entry greatest; at least 1, and below the greatest uint32."""
    return jnp.uint32(2**32 - 2) - index(x, _counted(x))


def _counted(x: jax.Array) -> tuple[int, ...]:
    """The axes over which one sum counts: all, or the last ones of an array with too many entries for it."""
    first = 0
    while isinstance(x.size, int) and math.prod(x.shape[first:]) > _MOST:
        first += 1
    return tuple(range(first, x.ndim))


def _beside(numbers: jax.Array, x: jax.Array) -> jax.Array:
    """One number for each part of x, in its shape."""
    return jax.lax.expand_dims(numbers, _counted(x))


def _count(inside: jax.Array) -> jax.Array:
    """Of each part of an array."""
    return jnp.sum(inside, axis=_counted(inside), dtype=jnp.uint32)


def _count_of_each(keys: jax.Array, pivots: jax.Array) -> jax.Array:
    """How many keys reach each pivot, by part; several sums, of which the compilers of TPUs and GPUs make one read."""
    return jnp.stack([_count(keys >= pivot).ravel() for pivot in pivots])


def _part(share: jax.Array, width: jax.Array) -> jax.Array:
    """⌊share·width⌋ for a share from 0 to 1, in the integers of the width."""
    most = float(np.nextafter(np.float32(jnp.iinfo(width.dtype).max), np.float32(0)))
    return jnp.minimum(share * width.astype(jnp.float32), most).astype(width.dtype)

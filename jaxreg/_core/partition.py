"""Groups of the entries of an array: those along some axes, or those with one label.

A group may also lie in several arrays of any shapes, a tuple: one index of an axis of each, a unit.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import numerics


@dataclasses.dataclass(frozen=True)
class Labels:
    """Groups by number. The labels broadcast against the array; an entry with the label −1 is in no group."""

    numbers: Any  # nested tuples of ints, which hash
    ndim: int  # of the array

    @functools.cached_property
    def array(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """The labels in the rank of the array, if that is not smaller."""
        array = np.asarray(self.numbers, np.int32)
        return array.reshape((1,) * (self.ndim - array.ndim) + array.shape)

    @functools.cached_property
    def count(self) -> int:
        return max(self.array.ravel().tolist(), default=-1) + 1

    @functools.cached_property
    def filled(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """The labels, with one group more, `count`, of the entries that are in none."""
        return np.where(self.array < 0, np.int32(self.count), self.array)

    def inner(self, x: jax.Array) -> tuple[int, ...]:
        """The axes along which the labels of an array like x do not change."""
        array = self.array
        if array.ndim > x.ndim or any(n not in (1, m) for n, m in zip(array.shape[::-1], x.shape[::-1], strict=False)):
            raise ValueError(
                f"`Group(groups=labels)` takes an array of the shape of its labels, {array.shape}, or one against "
                f"which they broadcast, got the shape {x.shape}."
            )
        return tuple(i for i, n in enumerate(array.shape) if n != x.shape[i])

    def collected(self, x: jax.Array, along_axes: Any, along_labels: Any) -> jax.Array:
        """One number a group by an associative operation, of entries along axes first."""
        flat = along_axes(x, axis=self.inner(x)).reshape(self.array.size)
        labels = self.filled.reshape(-1)
        ordered = bool((np.diff(labels) >= 0).all())
        return along_labels(flat, labels, self.count + 1, indices_are_sorted=ordered)[: self.count]


@dataclasses.dataclass(frozen=True)
class Unit:
    """Groups by the indices of one axis. Their numbers are an array (groups,), whatever the rank of the array."""

    ndim: int  # of the array
    axis: int

    @property
    def others(self) -> tuple[int, ...]:
        """The axes along which a group lies."""
        return tuple(axis for axis in range(self.ndim) if axis != self.axis)


@dataclasses.dataclass(frozen=True)
class Units:
    """Groups in several arrays, in each the indices of one axis, of which all have as many."""

    places: tuple[Unit, ...]


Partition = tuple[int, ...] | Labels  # of the entries of one array, as penalties have them
Grouping = Partition | Unit | Units
Arrays = Any  # an array, or for `Units` a tuple of arrays


def each(function: Callable[..., Any], groups: Grouping, *arrays: Arrays) -> Any:
    """function(groups, *arrays); for several arrays a tuple, of each with the groups in it."""
    if isinstance(groups, Units):
        return tuple(itertools.starmap(function, zip(groups.places, *arrays, strict=True)))
    return function(groups, *arrays)


def results(function: Callable[..., tuple[Any, ...]], groups: Grouping, *arrays: Arrays) -> tuple[Any, ...]:
    """The same for a function with several results: each for all of several arrays."""
    found = each(function, groups, *arrays)
    return tuple(zip(*found, strict=True)) if isinstance(groups, Units) else found


def total(x: Arrays, groups: Grouping) -> jax.Array:
    """Σ x over each group: along axes in the rank of x, of labels and units an array (groups,)."""
    if isinstance(groups, Units):
        return functools.reduce(jnp.add, map(total, x, groups.places))
    if isinstance(groups, Unit):
        return jnp.sum(x, axis=groups.others)
    if isinstance(groups, Labels):
        return groups.collected(x, jnp.sum, jax.ops.segment_sum)
    return jnp.sum(x, axis=groups, keepdims=True)


def largest(x: Arrays, groups: Grouping) -> jax.Array:
    """The maximum of x over each group, at least 0."""
    if isinstance(groups, Units):
        return functools.reduce(jnp.maximum, map(largest, x, groups.places))
    if isinstance(groups, Unit):
        return jnp.max(x, axis=groups.others, initial=0)
    if isinstance(groups, Labels):
        most = groups.collected(x, functools.partial(jnp.max, initial=0), jax.ops.segment_max)
        return jnp.maximum(most, 0)
    return jnp.max(x, axis=groups, keepdims=True, initial=0)


def spread(numbers: Any, groups: Grouping, beside: float = 0) -> Any:
    """What broadcasts against the array and has the number of its group for each entry, `beside` in no group.

    Of several arrays: a tuple, and one number of all groups as it is in each.
    """
    if isinstance(groups, Units):
        return tuple(spread(numbers, unit) for unit in groups.places)
    if isinstance(groups, tuple) or (isinstance(groups, Unit) and jnp.ndim(numbers) == 0):
        return numbers
    if isinstance(groups, Unit):
        return jnp.expand_dims(numbers, groups.others)
    if jnp.ndim(numbers) == 0:
        return jnp.where(groups.array < 0, beside, numbers)
    padded = jnp.concatenate([numbers, jnp.full((1,), beside, numbers.dtype)])
    return padded[groups.filled]


def numbers(x: Arrays, groups: Grouping) -> Any:
    """The numbers that `spread` put beside each entry of its group, or beside one."""
    if isinstance(groups, Units):
        return numbers(x[0], groups.places[0])
    if isinstance(groups, Unit):
        return x[tuple(slice(None) if axis == groups.axis else 0 for axis in range(groups.ndim))]
    return x


def shape(of: tuple[Any, ...], groups: Grouping) -> tuple[Any, ...]:
    """The shape of the numbers of the groups of an array of the shape `of`, or of several of which it is the first."""
    if isinstance(groups, Labels):
        return (groups.count,)
    if isinstance(groups, Units):
        groups = groups.places[0]
    if isinstance(groups, Unit):
        return (of[groups.axis],)
    return tuple(1 if axis in groups else n for axis, n in enumerate(of))


def roots_of_sizes(x: Arrays, groups: Grouping) -> jax.Array:
    """√(entries in a group): a number, or by labels an array (groups,)."""
    dtype = numerics.real_dtype(first(x))
    if isinstance(groups, Labels):
        each = math.prod(x.shape[axis] for axis in groups.inner(x))
        of_labels = np.bincount(groups.array[groups.array >= 0], minlength=groups.count)
        return jnp.asarray(np.sqrt(each * of_labels), dtype)
    return numerics.root_of(size(x, groups), dtype)


def most(x: Arrays, groups: Grouping) -> Any:
    """A number of entries, at least 1, that no group exceeds."""
    return (x.size if isinstance(groups, Labels) else size(x, groups)) or 1


def size(x: Arrays, groups: tuple[int, ...] | Unit | Units) -> Any:
    """The number of entries in a group along axes, or in a unit."""
    if isinstance(groups, Units):
        return sum(map(size, x, groups.places))
    return math.prod(x.shape[axis] for axis in axes_of(groups))


def axes_of(groups: tuple[int, ...] | Unit) -> tuple[int, ...]:
    """The axes along which a group lies."""
    return groups.others if isinstance(groups, Unit) else groups


def first(x: Arrays) -> Any:
    """The array, or the first one."""
    return x[0] if isinstance(x, tuple) else x


def refines(fine: Partition, coarse: Partition, of: tuple[int, ...]) -> bool:
    """Whether each group of `fine` lies in one group of `coarse`, or outside all of them; arrays of the shape `of`."""
    if not isinstance(fine, Labels) and not isinstance(coarse, Labels):
        return {*fine} <= {*coarse}
    inside, around = (np.broadcast_to(_numbers(groups, of), of).reshape(-1) for groups in (fine, coarse))
    pairs = np.unique(np.stack([inside, around])[:, inside >= 0], axis=1)
    return len(np.unique(pairs[0])) == pairs.shape[1]


def _numbers(groups: Partition, of: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if isinstance(groups, Labels):
        return groups.array
    outer = shape(of, groups)
    return np.arange(math.prod(outer)).reshape(outer)

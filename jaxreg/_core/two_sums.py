"""Two sums over the groups of a large array in one pass over the memory, as the compiler for CPUs makes one loop.

It makes a loop of its own of each sum. What does not end in a sum is one loop of vector instructions, however long its
formula is. So 16 slices of the terms are added entry by entry, the two terms side by side as a complex number: one loop
that writes a sixteenth of the entries, which a window then shortens before the sums. No slice and no window lies on two
devices of the mesh of an array.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxreg._core import compiler, partition
from jaxreg._core.partition import Arrays, Unit, Units, axes_of, spread

_LANES = 16  # float32 numbers that lie together: a line of a cache, and the registers of a loop


class Plan(NamedTuple):
    """How an array is cut."""

    axis: int  # the one that is cut: a slice has one of so many neighbours, or of so many blocks of lanes
    is_last: bool
    slices: int
    window: int  # along what is left of the axis, of the last one along the lanes


def plan(x: jax.Array, axes: tuple[int, ...], numbers_of_slices: tuple[int, ...] = (16, 8)) -> Plan | None:
    """How to cut an array that is large, real and not on the Explicit axes of a mesh; None if it cannot be cut.

    Held by `test_two_sums.py::test_small_and_odd_arrays_are_not_cut`.
    """
    whole = all(isinstance(n, int) for n in x.shape) and compiler.is_large(x) and not jnp.iscomplexobj(x)
    if not whole or compiler.is_explicit(x):
        return None
    last, devices = x.ndim - 1, compiler.devices(x)
    for slices in numbers_of_slices:
        for axis in sorted({*axes} - {last}, key=lambda axis: -x.shape[axis]):
            if x.shape[last] >= _LANES and (window := _window(x.shape[axis], slices * devices)):
                return Plan(axis, False, slices, window)
        if last in axes and x.shape[last] % (slices * devices * _LANES) == 0:
            return Plan(last, True, slices, _LANES // 2)
    return None


Plans = Plan | tuple[Plan | None, ...]  # of an array, or of several


def plans(x: Arrays, groups: tuple[int, ...] | Units) -> Plans | None:
    """How to cut an array, or each of several, None for those that stay whole; None if nothing is cut.

    Held by `test_two_sums.py::test_the_largest_leaves_of_a_unit_are_cut`.
    """
    found: Any = partition.each(lambda groups, x: plan(x, axes_of(groups)), groups, x)
    return found if jax.tree.leaves(found) else None


def two_sums(
    terms: Callable[..., tuple[jax.Array, jax.Array]],
    arrays: Sequence[jax.Array],
    numbers: Sequence[jax.Array],
    groups: tuple[int, ...] | Unit,
    how: Plan | None,
) -> tuple[jax.Array, jax.Array]:
    """Σ of both of `terms(*arrays, *numbers)`, entry by entry; `numbers` have the shape of the sums.

    Needed by `test_two_sums.py::test_the_sums_are_those_of_float64_and_nothing_is_kept` and by
    `test_two_sums.py::test_a_step_keeps_two_arrays_of_a_leaf_at_most_and_no_copy`.
    """
    shape, axes = numbers[0].shape, axes_of(groups)
    numbers = [spread(x, groups) for x in numbers]
    if how is None:
        s, f = (partition.total(term, groups) for term in terms(*arrays, *numbers))
        return s, f
    if how.is_last:
        numbers = [x[..., None] for x in numbers]
    cut = [_slices(x, how) for x in arrays]
    both = functools.reduce(jnp.add, [jax.lax.complex(*terms(*slices, *numbers)) for slices in zip(*cut, strict=True)])
    window = tuple(how.window if axis == how.axis + how.is_last else 1 for axis in range(both.ndim))
    both = jax.lax.reduce_window(both, jnp.zeros((), both.dtype), jax.lax.add, window, window, "VALID")
    axes = (*axes, both.ndim - 1) if how.is_last else axes
    return jnp.sum(both.real, axes).reshape(shape), jnp.sum(both.imag, axes).reshape(shape)


def total(x: Arrays, groups: tuple[int, ...] | Unit | Units) -> jax.Array:
    """Σ x of what is not negative, as `partition.total`; on a CPU in one loop with what x is made of.

    Needed by `test_group_moments.py::test_a_step_keeps_nothing_of_the_size_of_a_leaf`.
    """
    if isinstance(groups, Units):
        return functools.reduce(jnp.add, map(total, x, groups.places))
    axes, shape = axes_of(groups), partition.shape(x.shape, groups)
    how = plan(x, axes, (8,))  # the compiler writes what x is made of for each slice, and not more than 15 times

    def plain(x: jax.Array) -> jax.Array:
        return partition.total(x, groups)

    if how is None:
        return plain(x)

    def sliced(x: jax.Array) -> jax.Array:
        part = functools.reduce(jnp.add, _slices(x, how))
        part = jnp.where(part < 0, 0, part)  # the compiler gives sums to a library, with all but a comparison
        return jnp.sum(part, (*axes, part.ndim - 1) if how.is_last else axes).reshape(shape)

    return compiler.by_device(sliced, plain, x)


def _slices(x: jax.Array, how: Plan) -> list[jax.Array]:
    before, n, after = x.shape[: how.axis], x.shape[how.axis], x.shape[how.axis + 1 :]
    ends = (_LANES,) if how.is_last else after
    y = x.reshape(*before, n // (how.slices * (_LANES if how.is_last else 1)), how.slices, *ends)
    return [jax.lax.index_in_dim(y, i, how.axis + 1, keepdims=False) for i in range(how.slices)]


def _window(n: int, parts: int) -> int:
    """The length of a window, one that divides n/parts and is shorter; 0 if there is none."""
    rest = n // parts
    return 0 if n % parts else max((w for w in (8, 7, 5, 4, 3, 2) if rest % w == 0 and w < rest), default=0)
